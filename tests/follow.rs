//! The spec's example as a script: `clone --follow` while the application works on the source, later `stream sentinel set
//! endpos --current`, exit 0, equal databases, `stream cleanup`. With every plugin and between versions.

use std::time::Duration;

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::following::{Following, SOON, shared, start};
use crate::support::version::Version;
use crate::support::wait_until;
use crate::support::workload::{self, Workload};

/// Traps 1, 5, 8, 10, 14 to 32 and 58, at random: see tests/support/workload.rs.
#[track_caller]
fn follows_under_load(pair: (&Cluster, &Cluster), plugin: &'static str) {
    let following = Following::new(pair, plugin, |source, db| {
        workload::create(source, db, plugin == "test_decoding");
    });
    let load = Workload::start(following.source, &following.db);
    let mut run = following.clone_and_apply(&[]);
    load.allow_truncate();
    following.wait_for_mark(&mut run);
    load.wait_for(300);
    following.wait_for_mark(&mut run);
    load.wait_for(100);
    load.finish();
    // Only Debian's 15 knows that option (trap 55).
    following.cut_over(run, &["pg_attver"]);
}

#[test]
fn test_decoding_from_15_to_15() {
    follows_under_load(shared(Version::Debian15), "test_decoding");
}

/// Trap 56 and 57: the shared servers allow wal2json, whose numerics must keep their digits.
#[test]
fn wal2json_from_15_to_15() {
    let following = Following::of(
        shared(Version::Debian15),
        "wal2json",
        "create table public.marks (mark int primary key);
         create table t (id int primary key, v text, j jsonb, at timestamptz, b bytea, flag boolean);
         insert into t select g, 'v' || g, '{}', now(), '\\x00ff', true from generate_series(1, 100) g",
    );
    let mut run = following.clone_and_apply(&[]);
    for round in 0..20 {
        let sql = format!(
            "update t set v = 'it''s {round}\\', flag = not flag where id % 20 = {round}; delete from t where id = {round};
             insert into t values (1000 + {round}, null, '[\"\\\\\"]', '-infinity', '', null)"
        );
        following.source.psql(&following.db, &sql);
        if round % 5 == 0 {
            following.wait_for_mark(&mut run);
        }
    }
    following.cut_over(run, &[]);
}

/// Trap 57: this release sends NaN as null, which no number may become in silence.
#[test]
fn a_wal2json_that_is_too_old_is_refused_for_numbers() {
    let following = Following::of(
        shared(Version::Debian15),
        "wal2json",
        "create table t (id int primary key, n numeric)",
    );
    let outcome = following.clone_follow(&[]).wait_deadline(SOON);
    outcome.assert_failure(6, &["wal2json", "public.t", "--plugin test_decoding"]);
    following.clean_up();
}

#[test]
fn pgoutput_from_15_to_15() {
    follows_under_load(shared(Version::Debian15), "pgoutput");
}

#[test]
fn test_decoding_from_17_to_17() {
    follows_under_load(shared(Version::Pg17), "test_decoding");
}

#[test]
fn pgoutput_from_17_to_17() {
    follows_under_load(shared(Version::Pg17), "pgoutput");
}

#[test]
fn test_decoding_and_pgoutput_from_15_to_18() {
    let target = start(Version::Pg18);
    for plugin in ["test_decoding", "pgoutput"] {
        follows_under_load((shared(Version::Debian15).0, &target), plugin);
    }
}

/// Trap 56: nothing is made before that is known, and the setting is named.
#[test]
fn a_plugin_that_the_server_does_not_allow_is_refused_before_anything_is_made() {
    let source = Cluster::start(Version::Debian15, &[]);
    let target = shared(Version::Debian15).1;
    let following = Following::of(
        (&source, target),
        "wal2json",
        "create table t (id int primary key)",
    );
    let run = following.clone_follow(&[]);
    let outcome = run.wait_deadline(SOON);
    assert!(!outcome.status.success());
    assert!(
        outcome.stderr.contains("output_plugin_libraries"),
        "{}",
        outcome.stderr
    );
    following.scene.assert_nothing_left(&outcome);
    following.assert_nothing_left();
}

/// A table whose COPY on the target waits as long as somebody holds this lock there: a constraint asks for it.
const GATED: &str = "
    create function public.gate(int) returns bool immutable language plpgsql as
      $$ begin perform pg_advisory_xact_lock_shared(42); return true; end $$;
    create table public.gated (id int primary key, check (public.gate(id)));
    insert into public.gated select generate_series(1, 10);";

fn close_gate(following: &Following) -> Client {
    let mut gate = following.target.client(&following.copy);
    gate.batch_execute("select pg_advisory_lock(42)").unwrap();
    gate
}

fn gated(plugin: &'static str) -> Following<'static> {
    Following::new(shared(Version::Debian15), plugin, |source, db| {
        workload::create(source, db, false);
        source.psql(db, GATED);
    })
}

/// Prefetching: WAL can be recycled on the source while the base copy still runs (spec: Logical Decoding Pre-Fetching).
#[test]
fn the_slot_moves_on_during_the_base_copy() {
    let following = gated("test_decoding");
    let gate = close_gate(&following);
    let load = Workload::start(following.source, &following.db);
    let mut run = following.clone_follow(&[]);
    let mut positions = Vec::new();
    wait_until(
        Duration::from_secs(120),
        "three positions of the slot",
        || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            let position = following.slot("confirmed_flush_lsn");
            if !position.is_empty() && !positions.contains(&position) {
                positions.push(position);
            }
            positions.len() > 3
        },
    );
    assert!(
        !following.is_apply_enabled(),
        "the base copy waits at the gate"
    );
    assert!(
        !following.cdc_files("json").is_empty(),
        "the changes wait on disk"
    );
    drop(gate);
    following.wait_for_apply(&mut run);
    load.allow_truncate();
    load.finish();
    following.cut_over(run, &[]);
}

/// Disk use returns to about nothing when apply has caught up.
#[test]
fn files_that_the_target_has_passed_are_removed() {
    let following = Following::of(
        shared(Version::Debian15),
        "test_decoding",
        "create table public.marks (mark int primary key); create table t (id int primary key, v text)",
    );
    let mut run = following.clone_and_apply(&[]);
    for number in 0..4 {
        let sql = format!("insert into t select g, repeat('x', 200) from generate_series({number}0001, {number}9999) g;
            select pg_switch_wal()");
        following.source.psql(&following.db, &sql);
        following.wait_for_mark(&mut run);
    }
    wait_until(SOON, "the old files to be removed", || {
        // A transaction is the newest activity that a file's removal may wait for.
        following.wait_for_mark(&mut run);
        following.cdc_files("json").len() <= 2 && following.cdc_files("sql").len() <= 2
    });
    following.cut_over(run, &[]);
}

#[test]
fn files_are_kept_on_demand() {
    let following = Following::of(
        shared(Version::Debian15),
        "test_decoding",
        "create table public.marks (mark int primary key)",
    );
    let mut run = following.clone_and_apply(&["--keep-cdc-files"]);
    for _ in 0..3 {
        following.wait_for_mark(&mut run);
        following
            .source
            .psql(&following.db, "select pg_switch_wal()");
    }
    following.wait_for_mark(&mut run);
    let kept = following.cdc_files("json").len();
    assert!(kept >= 3, "{:?}", following.cdc_files("json"));
    // Beside the run, and after it.
    let removed = prune(&following);
    assert!(removed >= kept - 2, "{removed} of {kept}");
    following.wait_for_mark(&mut run);
    following.set_endpos_current();
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(&[]);
    prune(&following);
    // The origin stands at a commit: a file that ends with what came after the last one stays, and so does the newest.
    assert!(following.cdc_files("json").len() <= 2);
    following.clean_up();
    following.assert_same();
}

/// `stream prune`; how many segments it says to have removed.
#[track_caller]
fn prune(following: &Following) -> usize {
    let before = following.cdc_files("json").len();
    let dir = following.scene.work_dir();
    let args = [
        "stream",
        "prune",
        "--json",
        "--target",
        &following.target_uri,
        "--dir",
    ];
    let outcome = following
        .scene
        .command(args.into_iter().chain([dir.to_str().unwrap()]))
        .run();
    outcome.assert_success(&[]);
    let json: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(json["left"], following.cdc_files("json").len());
    let removed = json["removed"].as_u64().unwrap() as usize;
    assert_eq!(removed, before - following.cdc_files("json").len());
    removed
}

/// Sequence data is not decoded: it is read once more at the end.
#[test]
fn sequences_are_synchronised_at_the_end() {
    let following = Following::of(
        shared(Version::Debian15),
        "pgoutput",
        "create table public.marks (mark int primary key); create sequence used; create sequence descending increment -3;
         create table numbered (id bigserial primary key)",
    );
    let mut run = following.clone_and_apply(&[]);
    let use_them =
        "select nextval('used') from generate_series(1, 77); select nextval('descending');
        insert into numbered default values; select nextval('numbered_id_seq')";
    following.source.psql(&following.db, use_them);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &[]);
    assert_eq!(following.on_target("select last_value from used"), "77");
    assert_eq!(
        following.on_target("select last_value from numbered_id_seq"),
        "2"
    );
}

/// Large objects are not decoded; who has some is told how to copy them.
#[test]
fn large_objects_are_warned_about() {
    let following = Following::of(
        shared(Version::Debian15),
        "test_decoding",
        "create table public.marks (mark int primary key); select lo_from_bytea(4711, 'abc')",
    );
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    following.set_endpos_current();
    let outcome = run.wait_deadline(SOON);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    let is_warned = |line: &str| line.contains(" WARN ") && line.contains("large object");
    assert!(outcome.stderr.lines().any(is_warned), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("copy blobs"), "{}", outcome.stderr);
    following.clean_up();
}
