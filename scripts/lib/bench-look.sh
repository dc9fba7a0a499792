# shellcheck shell=bash
# The measurements of what only looks: the catalog of a database with many tables, and the comparison of rows. Sourced by
# scripts/bench, not run. Nothing here writes to a database once it is made.

# once_on_target DATABASE COMMAND ..: make a database on the target, unless a comment on it says that it is complete.
once_on_target() {
    local database=$1 found
    shift
    found=$(target_sql -d postgres -c "SELECT shobj_description(oid, 'pg_database') FROM pg_database
        WHERE datname = '$database'")
    if [[ $found == "$READY" ]]; then
        return
    fi
    echo "making $database on the target .." >&2
    target_sql -d postgres -c "DROP DATABASE IF EXISTS $database" -c "CREATE DATABASE $database"
    "$@"
    target_sql -d postgres -c "COMMENT ON DATABASE $database IS '$READY'" -c CHECKPOINT
}

schema_to_target() { # DATABASE
    "$PGBIN/pg_dump" -s -d "$(conninfo $SOURCE_PORT "$1")" | target_sql -d "$1" -o /dev/null
}

rows_to_target() { # DATABASE
    rm -rf "$ROOT/work"
    mkdir -p "$ROOT/work"
    PATH="$PGBIN:$PATH" "$PGCOPYDB" clone --quiet --dir "$ROOT/work/clone" \
        --source "$(conninfo $SOURCE_PORT "$1")" --target "$(conninfo $TARGET_PORT "$1")"
}

# alternate LABEL A-COMMAND .. -- B-COMMAND ..: medians and their ratio.
alternate() {
    local label=$1 ours=() run a=() b=() out=$ROOT/result.json median_a median_b
    shift
    while [[ $1 != -- ]]; do
        ours+=("$1")
        shift
    done
    shift
    for ((run = 1; run <= BENCH_RUNS; run++)); do
        rm -rf "$ROOT/work"
        mkdir -p "$ROOT/work"
        measure "$out" -- "${ours[@]}"
        a+=("$(field "$out" seconds)")
        measure "$out" -- "$@"
        b+=("$(field "$out" seconds)")
        printf '  run %d   A %8.2f s   B %8.2f s\n' "$run" "${a[-1]}" "${b[-1]}"
    done
    median_a=$(median "${a[@]}")
    median_b=$(median "${b[@]}")
    printf '  %s: median  A %8.2f s   B %8.2f s   ratio %s\n' "$label" "$median_a" "$median_b" \
        "$(ratio "$median_a" "$median_b")"
}

# `list tables` reads what a clone needs of tables, `list indexes` all that a clone's catalog phase reads.
look_catalog() {
    local database what source target
    ensure_data catalog "$BENCH_TABLES"
    database=$(database_of catalog "$BENCH_TABLES")
    once_on_target "$database" schema_to_target "$database"
    source=$(conninfo $SOURCE_PORT "$database")
    target=$(conninfo $TARGET_PORT "$database")
    echo
    echo "catalog: $BENCH_TABLES tables; B is pg_dump -s"
    for what in tables indexes; do
        alternate "list $what" "$PGCOPYDB" list "$what" --source "$source" --json -- \
            "$PGBIN/pg_dump" -s -f /dev/null -d "$source"
        measure "$ROOT/result.json" --pss "$PGCOPYDB" -- "$PGCOPYDB" list "$what" --source "$source" --json
        report_memory "list $what"
    done
    echo "  compare schema of two such databases; B is pg_dump -s of both, one after the other"
    # shellcheck disable=SC2016
    alternate "compare schema" "$PGCOPYDB" compare schema --quiet --dir "$ROOT/work/compare" \
        --source "$source" --target "$target" -- \
        bash -c 'set -e; for info in "$2" "$3"; do "$1" -s -f /dev/null -d "$info"; done' both "$PGBIN/pg_dump" \
        "$source" "$target"
    rm -rf "$ROOT/work"
    mkdir -p "$ROOT/work"
    measure "$ROOT/result.json" --pss "$PGCOPYDB" -- "$PGCOPYDB" compare schema --quiet --dir "$ROOT/work/compare" \
        --source "$source" --target "$target"
    report_memory "compare schema"
}

# write_sums DATABASE: one script for each connection of each side, the largest tables first, in turn.
write_sums() {
    local database=$1 job
    mkdir -p "$ROOT/sums"
    rm -f "$ROOT"/sums/*
    source_sql -d "$database" -c "SELECT format('SELECT count(*), sum(hashtext(t::text)) FROM %s t;', oid::regclass)
        FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        ORDER BY pg_table_size(oid) DESC" >"$ROOT/sums/all"
    for ((job = 0; job < BENCH_JOBS; job++)); do
        awk -v job="$job" -v jobs="$BENCH_JOBS" 'NR % jobs == job' "$ROOT/sums/all" >"$ROOT/sums/$job.sql"
    done
}

look_compare() {
    local database source target
    ensure_data compare "$BENCH_MB"
    database=$(database_of compare "$BENCH_MB")
    once_on_target "$database" rows_to_target "$database"
    source=$(conninfo $SOURCE_PORT "$database")
    target=$(conninfo $TARGET_PORT "$database")
    write_sums "$database"
    echo
    echo "compare: $(source_sql -d "$database" -c 'SELECT pg_size_pretty(pg_database_size(current_database()))') on each side;" \
        "B is count(*), sum(hashtext(t::text)) of each table on both, $BENCH_JOBS connections a side"
    # shellcheck disable=SC2016
    alternate "compare data" "$PGCOPYDB" compare data --quiet --dir "$ROOT/work/compare" --table-jobs "$BENCH_JOBS" \
        --source "$source" --target "$target" -- \
        bash -c 'psql=$1 dir=$2; shift 2; pids=()
            for info in "$@"; do
                for script in "$dir"/*.sql; do
                    "$psql" -Xq -v ON_ERROR_STOP=1 -o /dev/null -d "$info" -f "$script" & pids+=($!)
                done
            done
            for pid in "${pids[@]}"; do wait "$pid" || exit; done' sums "$PSQL" "$ROOT/sums" "$source" "$target"
}
