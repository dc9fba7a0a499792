# shellcheck shell=bash
# `scripts/bench cdc live`: from commit on the source to visible on the target, under a steady load; sourced, not run.
#
# The source notes the time of each commit (track_commit_timestamp). On the target one session waits for every
# BENCH_LIVE_SAMPLEth row in turn, by key, and notes when it sees it. The target's own commit timestamps would not do:
# under a replication origin they are the source's.

LIVE_SECONDS=${BENCH_LIVE_SECONDS:-20}
LIVE_SAMPLE=${BENCH_LIVE_SAMPLE:-20}

init_live() { # DATABASE
    source_sql -d "$1" <<'SQL'
CREATE TABLE live (id bigserial PRIMARY KEY, n int NOT NULL, v text NOT NULL);
CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counters SELECT g, 0 FROM generate_series(1, 10000) g;
SQL
}

# A new database and new slots for each run: there is no backlog to copy.
fresh_live() {
    forget_subscription live
    drop_slot live_native
    drop_slot live_pgoutput
    drop_origin live_pgoutput
    rm -rf "$ROOT/work"
    mkdir -p "$ROOT/work"
    local side
    for side in source_sql target_sql; do
        "$side" -d postgres -c "DROP DATABASE IF EXISTS cdc_live WITH (FORCE)" -c "CREATE DATABASE cdc_live"
    done
    init_live cdc_live
    "$PGBIN/pg_dump" -d "$(conninfo $SOURCE_PORT cdc_live)" | target_sql -d cdc_live -o /dev/null
    target_sql -d cdc_live -c "CREATE SCHEMA bench_keep" \
        -c "CREATE UNLOGGED TABLE bench_keep.seen (id bigint, at timestamptz)"
    checkpoint_both
}

live_load() { # RATE SECONDS
    cat >"$ROOT/work/live.pgbench" <<'SQL'
\set id random(1, 10000)
BEGIN;
INSERT INTO live (n, v) VALUES (:id, 'some text of a usual length');
UPDATE counters SET n = n + 1 WHERE id = :id;
END;
SQL
    "$(client pgbench)" -n -c 4 -j 1 -R "$1" -T "$2" -f "$ROOT/work/live.pgbench" -h "$SOCKETS" -p $SOURCE_PORT -U postgres \
        cdc_live >"$ROOT/work/pgbench.log" 2>&1
}

# Ends when no row has come for three seconds. The first second, which catches up, is not counted.
watch_target() {
    target_sql -d cdc_live -c "DO \$\$
        DECLARE ids bigint[] := '{}'; times timestamptz[] := '{}'; next bigint := $LIVE_SAMPLE; last timestamptz := NULL;
        BEGIN
            LOOP
                PERFORM FROM live WHERE id = next;
                IF FOUND THEN
                    last := clock_timestamp();
                    ids := ids || next; times := times || last; next := next + $LIVE_SAMPLE;
                ELSE
                    EXIT WHEN clock_timestamp() > last + interval '3 seconds';
                    -- Gives back the snapshot, which would keep dead rows.
                    COMMIT;
                    PERFORM pg_sleep(0.0003);
                END IF;
            END LOOP;
            INSERT INTO bench_keep.seen SELECT * FROM unnest(ids, times);
        END \$\$"
}

# Prints median, 99th percentile and maximum in ms.
live_result() {
    target_sql -d cdc_live -F ' ' -c "SELECT id, extract(epoch FROM at) FROM bench_keep.seen" >"$ROOT/work/seen"
    source_sql -d cdc_live -F ' ' -c "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM live
        WHERE id % $LIVE_SAMPLE = 0" >"$ROOT/work/committed"
    python3 - "$ROOT/work/committed" "$ROOT/work/seen" <<'PY'
import statistics
import sys

committed, seen = ({int(i): float(t) for i, t in map(str.split, open(path))} for path in sys.argv[1:])
began = min(committed.values()) + 1
ms = sorted((seen[i] - t) * 1000 for i, t in committed.items() if t > began)
print(f"{statistics.median(ms):.2f} {ms[int(len(ms) * 0.99)]:.2f} {ms[-1]:.2f} {len(ms)}")
PY
}

live_ours() { # RATE
    fresh_live
    setup_ours cdc_live pgoutput live_pgoutput "$ROOT/work/cdc"
    local sides=(--source "$(conninfo $SOURCE_PORT cdc_live)" --target "$(conninfo $TARGET_PORT cdc_live)") status=0
    "$PGCOPYDB" follow "${sides[@]}" --dir "$ROOT/work/cdc" --resume --plugin pgoutput --slot-name live_pgoutput \
        --origin live_pgoutput "${BENCH_OPTIONS[@]}" >"$ROOT/work.log" 2>&1 &
    running=$!
    wait_for_slot live_pgoutput
    live_under_load "$1"
    "$PGCOPYDB" stream sentinel set endpos --current "${sides[@]::2}" --dir "$ROOT/work/cdc" >/dev/null 2>&1
    wait "$running" || status=$?
    running=
    ((status == 0)) || { tail -n 20 "$ROOT/work.log" >&2; return 1; }
    verify_changes live
}

live_native() { # RATE
    fresh_live
    source_sql -d cdc_live -o /dev/null -c "CREATE PUBLICATION bench FOR TABLES IN SCHEMA public" \
        -c "SELECT pg_create_logical_replication_slot('live_native', 'pgoutput')"
    subscribe "$ROOT/result.json" live ""
    wait_for_slot live_native
    live_under_load "$1"
    unsubscribe live
    verify_changes live
}

wait_for_slot() { # NAME
    source_sql -d postgres -c "DO \$\$ BEGIN
        FOR try IN 1 .. 3000 LOOP
            IF EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$1' AND active) THEN RETURN; END IF;
            PERFORM pg_sleep(0.01);
        END LOOP;
        RAISE 'nobody reads slot $1'; END \$\$"
}

live_under_load() { # RATE
    local watcher
    watch_target &
    watcher=$!
    live_load "$1" "$LIVE_SECONDS" || { cat "$ROOT/work/pgbench.log" >&2; return 1; }
    wait "$watcher"
}

cdc_live() {
    local rate side median p99 worst samples
    echo
    echo "live: commit on source to visible on target, $LIVE_SECONDS s each"
    for rate in 500 2000; do
        for side in ours native; do
            wants "$([[ $side == ours ]] && echo A || echo B)" || continue
            "live_$side" "$rate"
            read -r median p99 worst samples < <(live_result)
            printf '  %5d/s  %-6s  median %8.2f ms   99%% %8.2f ms   worst %8.2f ms   of %d; %s\n' "$rate" "$side" "$median" \
                "$p99" "$worst" "$samples" "$(grep -o 'tps = .*' "$ROOT/work/pgbench.log" | head -n 1)"
        done
    done
    fresh_live
}
