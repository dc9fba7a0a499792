# shellcheck shell=bash
# The data sets of scripts/bench; sourced, not run. Each is a database on the source cluster, generated once: a comment
# on the database says that it is complete.

READY="pgcopydb bench data, version 1"

# A data set of another size than the usual one is another database.
database_of() { # NAME [SIZE]
    case $1-${2:-} in
    *- | catalog-50000) echo "bench_$1" ;;
    *) echo "bench_$1_$2" ;;
    esac
}

ensure_data() { # NAME [SIZE]
    local database found
    database=$(database_of "$@")
    found=$(source_sql -d postgres -c "SELECT shobj_description(oid, 'pg_database') FROM pg_database
        WHERE datname = '$database'")
    if [[ $found == "$READY" ]]; then
        return
    fi
    echo "generating data set $1 .." >&2
    source_sql -d postgres -c "DROP DATABASE IF EXISTS $database" -c "CREATE DATABASE $database"
    "generate_$1" "$database" "${@:2}"
    # Hint bits and statistics are set now, so that the first run does not pay for them. Not for the data set that only
    # counts in memory: each VACUUM reads all of pg_class, which takes an hour for 50,000 tables.
    if [[ $1 != catalog ]]; then
        "$PGBIN/vacuumdb" -q -z -j2 -d "$(conninfo $SOURCE_PORT "$database")"
    fi
    source_sql -d postgres -c "COMMENT ON DATABASE $database IS '$READY'" -c CHECKPOINT
}

generate_mixed() { # about 2 GB
    "$(client pgbench)" -i -q -s 60 -h "$SOCKETS" -p $SOURCE_PORT -U postgres "$1" 2>/dev/null
    source_sql -d "$1" <<'SQL'
CREATE TABLE docs (id bigint PRIMARY KEY, doc jsonb NOT NULL, tags text[] NOT NULL, created timestamptz NOT NULL);
INSERT INTO docs
SELECT i, jsonb_build_object('user', i % 50000, 'kind', (ARRAY['view', 'click', 'buy'])[1 + i % 3], 'path', md5(i::text),
           'agent', 'Mozilla/5.0 (X11; Linux x86_64) ' || md5((i % 300)::text) || ' like Gecko', 'ms', i % 7919),
       ARRAY['t' || i % 97, 't' || i % 89, 't' || i % 83], timestamptz '2024-01-01' + i * interval '7 seconds'
FROM generate_series(1, 2000000) i;
CREATE INDEX docs_tags ON docs USING gin (tags);
CREATE INDEX docs_created ON docs (created);

CREATE TABLE wide (id int PRIMARY KEY, a int, b bigint, c numeric(12, 2), d double precision, e date, f timestamptz,
    g uuid, h boolean, i text, j text, k varchar(60), l inet, m int[], n text);
INSERT INTO wide
SELECT i, i % 1000, i * 1000003::bigint, i / 7.0, sqrt(i), date '2000-01-01' + i % 9000, timestamptz '2020-01-01' + i * interval '1 minute',
       md5(i::text)::uuid, i % 2 = 0, md5(i::text) || repeat(md5((i + 1)::text), 6), repeat(chr(97 + i % 26), i % 60), 'name ' || i,
       ('10.' || i % 256 || '.' || i / 256 % 256 || '.1')::inet, ARRAY[i, i + 1, i + 2], nullif(i % 5, 0)::text
FROM generate_series(1, 800000) i;
CREATE INDEX wide_a ON wide (a);
CREATE INDEX wide_g ON wide (g);

SELECT format('CREATE TABLE small_%s (id int PRIMARY KEY, parent int %s, label text NOT NULL)', i,
              CASE WHEN i > 1 THEN format('REFERENCES small_%s (id)', 1 + i / 2 - CASE WHEN i = 2 THEN 1 ELSE 0 END) END)
FROM generate_series(1, 300) i ORDER BY i
\gexec
SELECT format('INSERT INTO small_%s SELECT i, i, md5(i::text) FROM generate_series(1, 100) i', i)
FROM generate_series(1, 300) i ORDER BY i
\gexec
SQL
}

generate_many() { # DATABASE TABLES INDEXES: 10 rows a table
    source_sql -d "$1" -v tables="$2" -v second="$3" <<'SQL'
SET synchronous_commit = off;
SELECT format('CREATE TABLE t%s (id int PRIMARY KEY, label text NOT NULL)', i),
       CASE WHEN :second THEN format('CREATE INDEX ON t%s (label)', i) END,
       format('INSERT INTO t%s SELECT i, md5(i::text) FROM generate_series(1, 10) i', i)
FROM generate_series(1, :tables) i
\gexec
SQL
}

generate_tables() { generate_many "$1" 10000 true; }
generate_catalog() { generate_many "$1" "${2:-50000}" false; }

generate_compare() { # DATABASE MB: short rows, documents, wide rows and small tables
    source_sql -d "$1" -v mb="$2" <<'SQL'
CREATE TABLE short (id bigint PRIMARY KEY, a int NOT NULL, b text NOT NULL, c timestamptz NOT NULL);
INSERT INTO short
SELECT i, i % 100000, md5(i::text) || md5((i + 1)::text), timestamptz '2024-01-01' + i * interval '1 second'
FROM generate_series(1, :mb * 2500) i;

CREATE TABLE docs (id bigint PRIMARY KEY, doc jsonb NOT NULL, tags text[] NOT NULL, created timestamptz NOT NULL);
INSERT INTO docs
SELECT i, jsonb_build_object('user', i % 50000, 'kind', (ARRAY['view', 'click', 'buy'])[1 + i % 3], 'path', md5(i::text),
           'agent', 'Mozilla/5.0 (X11; Linux x86_64) ' || md5((i % 300)::text) || ' like Gecko', 'ms', i % 7919),
       ARRAY['t' || i % 97, 't' || i % 89, 't' || i % 83], timestamptz '2024-01-01' + i * interval '7 seconds'
FROM generate_series(1, :mb * 700) i;

CREATE TABLE wide (id int PRIMARY KEY, a int, b bigint, c numeric(12, 2), d double precision, e date, f timestamptz,
    g uuid, h boolean, i text, j text, k varchar(60), m int[]);
INSERT INTO wide
SELECT i, i % 1000, i * 1000003::bigint, i / 7.0, sqrt(i), date '2000-01-01' + i % 9000, timestamptz '2020-01-01' + i * interval '1 minute',
       md5(i::text)::uuid, i % 2 = 0, md5(i::text) || repeat(md5((i + 1)::text), 6), repeat(chr(97 + i % 26), i % 60), 'name ' || i,
       ARRAY[i, i + 1, i + 2]
FROM generate_series(1, :mb * 700) i;

SELECT format('CREATE TABLE small_%s AS SELECT i, md5(i::text) AS label FROM generate_series(1, 100) i', i)
FROM generate_series(1, 50) i
\gexec
SQL
}

generate_blobs() {
    source_sql -d "$1" -o /dev/null -c "SELECT count(lo_from_bytea(0, decode(repeat(md5(i::text), 16), 'hex')))
        FROM generate_series(1, 100000) i"
}

generate_split() { # 1 GB in the heap
    source_sql -d "$1" <<'SQL'
CREATE TABLE big (id bigint PRIMARY KEY, a int NOT NULL, b text NOT NULL, c timestamptz NOT NULL);
INSERT INTO big
SELECT i, i % 100000, md5(i::text) || md5((i + 1)::text), timestamptz '2024-01-01' + i * interval '1 second'
FROM generate_series(1, 9000000) i;
SQL
}

generate_value() {
    source_sql -d "$1" <<'SQL'
CREATE TABLE one_value (id int PRIMARY KEY, content text NOT NULL);
INSERT INTO one_value SELECT 1, repeat('0123456789abcdef', 500 * 1024 * 1024 / 16);
SQL
}
