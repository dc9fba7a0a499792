# shellcheck shell=bash
# `scripts/bench cdc`: follow (A) against native logical replication (B) on the same backlog; sourced, not run.
#
# A data set is a database on the source whose changes wait in slots: keep_SET_native for B, keep_SET_PLUGIN for A. The
# slots were made before the load and are never read: each run reads a copy of one, which costs nothing and starts at the
# same place. The target database is made anew for each run from a template that was cloned before the load.

CDC_PLUGINS=(pgoutput test_decoding)
CDC_READY="pgcopydb bench changes, version 3"

wants() { # A|B
    [[ " $BENCH_SIDES " == *" $1 "* ]]
}

# --- data sets -------------------------------------------------------------------------------------------------------

ensure_changes() { # SET
    local set=$1 database=cdc_$1 state="$CDC_READY, sides $BENCH_SIDES" found slot
    found=$(source_sql -d postgres -c "SELECT shobj_description(oid, 'pg_database') FROM pg_database
        WHERE datname = '$database'")
    # What was made for both sides serves one of them too.
    if [[ $found == "$CDC_READY, sides A B" || $found == "$state" ]]; then
        return
    fi
    echo "generating changes: $set .." >&2
    for slot in $(source_sql -d postgres -c "SELECT slot_name FROM pg_replication_slots WHERE database = '$database'"); do
        source_sql -d postgres -o /dev/null -c "SELECT pg_drop_replication_slot('$slot')"
    done
    source_sql -d postgres -c "DROP DATABASE IF EXISTS $database" -c "CREATE DATABASE $database"
    target_sql -d postgres -c "DROP DATABASE IF EXISTS $database" -c "DROP DATABASE IF EXISTS ${database}_base" \
        -c "CREATE DATABASE $database"
    "init_$set" "$database"
    source_sql -d "$database" -c "CREATE TABLE last_change (id int PRIMARY KEY)"
    "$PGBIN/pg_dump" -d "$(conninfo $SOURCE_PORT "$database")" | target_sql -d "$database" -o /dev/null
    # pgoutput needs its publication to be older than the slot.
    source_sql -d "$database" -o /dev/null -c "CREATE PUBLICATION bench FOR TABLES IN SCHEMA public" \
        -c "SELECT pg_create_logical_replication_slot('keep_${set}_native', 'pgoutput')"
    if wants A; then
        prepare_ours "$set"
    fi
    target_sql -d "$database" -c "VACUUM ANALYZE"
    target_sql -d postgres -c "ALTER DATABASE $database RENAME TO ${database}_base"
    "load_$set" "$database"
    # A synchronous commit flushes what asynchronous ones have left.
    source_sql -d "$database" -c "INSERT INTO last_change VALUES (1)"
    source_sql -d "$database" -c "SELECT pg_current_wal_flush_lsn()" >"$ROOT/$set.endpos"
    source_sql -d postgres -c "COMMENT ON DATABASE $database IS '$state'" -c CHECKPOINT
}

init_backlog() { # DATABASE
    "$(client pgbench)" -i -q -s 10 -h "$SOCKETS" -p $SOURCE_PORT -U postgres "$1" 2>/dev/null
    # Only inserted into; without an identity pgoutput and wal2json are refused.
    source_sql -d "$1" -c "ALTER TABLE pgbench_history REPLICA IDENTITY FULL"
}

load_backlog() {
    PGOPTIONS="-c synchronous_commit=off" "$(client pgbench)" -n -c 4 -t 25000 -h "$SOCKETS" -p $SOURCE_PORT \
        -U postgres "$1" >/dev/null 2>&1
}

init_insert() {
    source_sql -d "$1" -c "CREATE TABLE events (id bigint PRIMARY KEY, name text NOT NULL, amount numeric(14, 3) NOT NULL,
        at timestamptz NOT NULL, doc jsonb NOT NULL)"
}

insert_events() { # DATABASE ROWS
    source_sql -d "$1" -c "INSERT INTO events SELECT i, 'name ' || md5(i::text), i / 7.0,
        timestamptz '2024-01-01' + i * interval '1 second',
        jsonb_build_object('user', i % 5000, 'path', md5((i % 977)::text), 'ms', i % 7919)
        FROM generate_series(1, $2) i"
}

load_insert() { insert_events "$1" 1000000; }

init_huge() { init_insert "$1"; }
load_huge() { insert_events "$1" 5000000; }

# --- A ---------------------------------------------------------------------------------------------------------------

# stream setup before the load, as a user would; what it made is kept for every run.
prepare_ours() { # SET
    local set=$1 database=cdc_$1 plugin name
    source_sql -d "$database" -c "CREATE SCHEMA bench_keep"
    for plugin in "${CDC_PLUGINS[@]}"; do
        name=${set}_$plugin
        rm -rf "$ROOT/keep/$name"
        mkdir -p "$ROOT/keep"
        drop_origin "$name"
        setup_ours "$database" "$plugin" "$name" "$ROOT/keep/$name"
        target_sql -d postgres -c "SELECT pg_replication_origin_progress(roname, true) FROM pg_replication_origin
            WHERE roname = '$name'" >"$ROOT/keep/$name.progress"
        source_sql -d "$database" -o /dev/null \
            -c "CREATE UNLOGGED TABLE bench_keep.$name AS TABLE pgcopydb.sentinel" \
            -c "SELECT pg_copy_logical_replication_slot('$name', 'keep_$name')" \
            -c "SELECT pg_drop_replication_slot('$name')"
    done
}

setup_ours() { # DATABASE PLUGIN NAME DIR
    local sides=(--source "$(conninfo $SOURCE_PORT "$1")" --target "$(conninfo $TARGET_PORT "$1")" --dir "$4")
    {
        "$PGCOPYDB" stream setup "${sides[@]}" --plugin "$2" --slot-name "$3" --origin "$3" &&
            "$PGCOPYDB" stream sentinel set apply "${sides[@]::2}" --dir "$4"
    } >"$ROOT/work.log" 2>&1 || { tail -n 20 "$ROOT/work.log" >&2; return 1; }
}

# As prepare_ours left it: slot, sentinel, origin, work directory, target.
restore_ours() { # SET PLUGIN
    local database=cdc_$1 name=$1_$2
    fresh_cdc_target "$1"
    drop_slot "$name"
    cp -a "$ROOT/keep/$name" "$ROOT/work/cdc"
    source_sql -d "$database" -o /dev/null -c "SELECT pg_copy_logical_replication_slot('keep_$name', '$name')" \
        -c "TRUNCATE pgcopydb.sentinel" -c "INSERT INTO pgcopydb.sentinel SELECT * FROM bench_keep.$name"
    drop_origin "$name"
    target_sql -d postgres -o /dev/null -c "SELECT pg_replication_origin_create('$name')" \
        -c "SELECT pg_replication_origin_advance('$name', nullif('$(cat "$ROOT/keep/$name.progress")', '')::pg_lsn)
            WHERE '$(cat "$ROOT/keep/$name.progress")' <> ''"
    checkpoint_both
}

follow_ours() { # OUT SET PLUGIN [--pss]
    local out=$1 set=$2 plugin=$3 pss=()
    [[ ${4:-} != --pss ]] || pss=(--pss "$PGCOPYDB")
    restore_ours "$set" "$plugin"
    measure "$out" "${pss[@]}" -- "$PGCOPYDB" follow --source "$(conninfo $SOURCE_PORT "cdc_$set")" \
        --target "$(conninfo $TARGET_PORT "cdc_$set")" --dir "$ROOT/work/cdc" --resume --plugin "$plugin" --slot-name "${set}_$plugin" --origin "${set}_$plugin" \
        --endpos "$(cat "$ROOT/$set.endpos")" "${BENCH_OPTIONS[@]}"
    verify_changes "$set"
    drop_slot "${set}_$plugin"
}

# --- B ---------------------------------------------------------------------------------------------------------------

follow_native() { # OUT SET
    local out=$1 set=$2 database=cdc_$2 endpos
    endpos=$(cat "$ROOT/$set.endpos")
    fresh_cdc_target "$set"
    drop_slot "${set}_native"
    source_sql -d "$database" -o /dev/null -c "SELECT pg_copy_logical_replication_slot('keep_${set}_native', '${set}_native')"
    checkpoint_both
    # Statements of their own: a loop on the server would hold a snapshot, which keeps dead rows, and take six times as long.
    # The last change counts, not latest_end_lsn, which is only told when the walsender has read what comes after it too,
    # other data sets among it.
    subscribe "$out" "$set" "SELECT WHERE NOT EXISTS (SELECT FROM last_change) \\watch i=0.005 min_rows=1"
    unsubscribe "$set"
    verify_changes "$set"
}

# The subscription's own default, synchronous_commit = off, is that of pgcopydb too.
subscribe() { # OUT SET WAIT_STATEMENT
    echo "CREATE SUBSCRIPTION bench_$2 CONNECTION '$(conninfo $SOURCE_PORT "cdc_$2")' PUBLICATION bench
            WITH (copy_data = false, create_slot = false, slot_name = '$2_native'); $3" >"$ROOT/work/subscribe.sql"
    measure "$1" -- "$PSQL" -Xq -v ON_ERROR_STOP=1 -d "$(conninfo $TARGET_PORT "cdc_$2")" -f "$ROOT/work/subscribe.sql"
}

unsubscribe() { # SET
    target_sql -d "cdc_$1" -c "ALTER SUBSCRIPTION bench_$1 DISABLE" -c "ALTER SUBSCRIPTION bench_$1 SET (slot_name = NONE)" \
        -c "DROP SUBSCRIPTION bench_$1"
    drop_slot "$1_native"
}

# --- both ------------------------------------------------------------------------------------------------------------

fresh_cdc_target() { # SET
    rm -rf "$ROOT/work"
    mkdir -p "$ROOT/work"
    forget_subscription "$1"
    target_sql -d postgres -c "DROP DATABASE IF EXISTS cdc_$1 WITH (FORCE)" \
        -c "CREATE DATABASE cdc_$1 TEMPLATE cdc_$1_base STRATEGY FILE_COPY"
}

# What an aborted run has left: it would go on replicating, and take its share of the machine.
forget_subscriptions() {
    local name
    for name in $(target_sql -d postgres -c "SELECT substr(subname, 7) FROM pg_subscription WHERE subname LIKE 'bench!_%' ESCAPE '!'"); do
        unsubscribe "$name"
    done
}

forget_subscription() { # SET
    if [[ -n $(target_sql -d postgres -c "SELECT 1 FROM pg_subscription WHERE subname = 'bench_$1'") ]]; then
        unsubscribe "$1"
    fi
}

# A walsender needs a moment to see that its client has gone.
drop_slot() { # NAME
    source_sql -d postgres -o /dev/null -v ON_ERROR_STOP=1 -c "DO \$\$ BEGIN
        FOR try IN 1 .. 500 LOOP
            EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$1' AND active);
            PERFORM pg_sleep(0.01);
        END LOOP;
        PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '$1';
        END \$\$"
}

drop_origin() { # NAME
    target_sql -d postgres -o /dev/null -c "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin
        WHERE roname = '$1'"
}

checkpoint_both() {
    source_sql -d postgres -c CHECKPOINT
    target_sql -d postgres -c CHECKPOINT
}

# The fastest run counts for nothing if a row is missing.
verify_changes() { # SET
    local query
    case $1 in
    backlog) query="SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
            (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT count(*) FROM pgbench_history)" ;;
    live) query="SELECT count(*), sum(id) FROM live" ;;
    *) query="SELECT count(*), sum(id), sum(amount), sum(hashtext(name || at || doc)::bigint) FROM events" ;;
    esac
    local ours theirs
    ours=$(source_sql -d "cdc_$1" -c "$query")
    theirs=$(target_sql -d "cdc_$1" -c "$query")
    [[ $ours == "$theirs" ]] || { echo "the target differs: $theirs, not $ours" >&2; return 1; }
}

# A and B alternating; then one run of each other plugin.
cdc_seconds() { # SET
    local set=$1 out=$ROOT/result.json a=() b=() run plugin
    forget_subscriptions
    ensure_changes "$set"
    for ((run = 1; run <= BENCH_RUNS; run++)); do
        printf '  run %d' "$run"
        if wants A; then
            follow_ours "$out" "$set" pgoutput
            a+=("$(field "$out" seconds)")
            printf '   A %8.2f s, CPU %.2f s' "${a[-1]}" "$(field "$out" cpu_seconds)"
        fi
        if wants B; then
            follow_native "$out" "$set"
            b+=("$(field "$out" seconds)")
            printf '   B %8.2f s' "${b[-1]}"
        fi
        echo
    done
    printf '  median'
    ! wants A || printf '   A %8.2f s' "$(median "${a[@]}")"
    ! wants B || printf '   B %8.2f s' "$(median "${b[@]}")"
    if wants A && wants B; then
        printf '   ratio %s' "$(ratio "$(median "${a[@]}")" "$(median "${b[@]}")")"
    fi
    echo
    if wants A; then
        for plugin in "${CDC_PLUGINS[@]:1}"; do
            follow_ours "$out" "$set" "$plugin"
            printf '  %-13s A %8.2f s, CPU %.2f s' "$plugin" "$(field "$out" seconds)" "$(field "$out" cpu_seconds)"
            ! wants B || printf '   ratio to B %s' "$(ratio "$(field "$out" seconds)" "$(median "${b[@]}")")"
            echo
        done
    fi
}

cdc_backlog() {
    echo
    echo "backlog: 100,000 pgbench transactions, 400,000 changes; A with pgoutput"
    cdc_seconds backlog
}

cdc_insert() {
    echo
    echo "insert: one transaction of 1,000,000 rows (bigint, text, numeric, timestamptz, jsonb); A with pgoutput"
    cdc_seconds insert
}

# 10 ms on each round trip to the target, half of them each way.
cdc_latency() {
    local out=$ROOT/result.json socket=.s.PGSQL.$TARGET_PORT near far proxy status=0 tries
    echo
    echo "latency: the backlog with 10 ms added to each round trip to the target"
    if ! wants A; then
        echo "  (of A only)"
        return
    fi
    forget_subscriptions
    ensure_changes backlog
    follow_ours "$out" backlog pgoutput
    near=$(field "$out" seconds)
    # The work directory knows its target by the name of the socket: so the proxy takes that name, and the server's socket
    # another one. All that talks to the target goes through the proxy then, the client programs of this script too.
    mkdir -p "$ROOT/slow"
    mv "$SOCKETS/$socket" "$ROOT/slow/$socket"
    python3 "$here/scripts/lib/slow-proxy.py" 0.005 "$SOCKETS/$socket" "$ROOT/slow/$socket" &
    proxy=$!
    for ((tries = 0; tries < 500; tries++)); do
        [[ ! -S $SOCKETS/$socket ]] && kill -0 "$proxy" 2>/dev/null || break
        sleep 0.02
    done
    follow_ours "$out" backlog pgoutput || status=$?
    kill "$proxy" 2>/dev/null || true
    mv -f "$ROOT/slow/$socket" "$SOCKETS/$socket"
    ((status == 0)) || return 1
    far=$(field "$out" seconds)
    printf '  near %.2f s   far %.2f s   ratio %s\n' "$near" "$far" "$(ratio "$far" "$near")"
}

cdc_memory() {
    local set
    echo
    echo "memory: peak Pss of each process"
    if ! wants A; then
        echo "  (of A only)"
        return
    fi
    for set in backlog insert huge; do
        ensure_changes "$set"
        follow_ours "$ROOT/result.json" "$set" pgoutput --pss
        echo "  $set:"
        python3 -c 'import json, sys
for title, mb in sorted(json.load(open(sys.argv[1]))["peak_pss_mb_each"].items()):
    print(f"    {mb:7.1f} MB  {title}")' "$ROOT/result.json"
    done
}
