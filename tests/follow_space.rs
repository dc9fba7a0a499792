//! Where the changes wait: files up to a limit, then the source; a work directory that is full; a slot whose WAL the
//! source is about to remove. Nothing is lost, and each is told with what to do.

use std::fs;

use crate::support::cluster::Cluster;
use crate::support::cmd::Running;
use crate::support::following::{Following, SETTINGS, SOON, shared, start};
use crate::support::small_disk::SmallDisk;
use crate::support::version::Version;
use crate::support::wait_until;

const FILL: &str = "create table public.marks (mark int primary key);
    create table t (id int primary key, v text);
    insert into t select g, 'at first' from generate_series(1, 100) g";

fn source_with(settings: &[(&str, &str)]) -> Cluster {
    Cluster::start(Version::Pg17, &[SETTINGS, settings].concat())
}

/// Some hundred kB of changes in a WAL segment of their own, so that their files are complete. Switching does nothing by
/// itself: what comes next begins the next segment.
fn fill_segments(following: &Following, from: u32, count: u32) {
    for first in from..from + count {
        let sql = format!(
            "insert into t select {first}0000 + g, repeat(md5(g::text), 8) from generate_series(1, 1500) g;
             select pg_switch_wal()"
        );
        following.source.psql(&following.db, &sql);
    }
}

/// Until receiving holds; the number of the last segment.
fn fill_until_held(following: &Following, run: &mut Running) -> u32 {
    let mut filled = 0;
    wait_until(SOON, "receiving to hold", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        filled += 1;
        fill_segments(following, filled, 1);
        run.stderr().contains("receiving holds")
    });
    filled
}

fn bytes_of_files(following: &Following) -> u64 {
    let files = ["json", "sql"].map(|ending| following.cdc_files(ending));
    let sizes = files.iter().flatten();
    sizes
        .map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
        .sum()
}

/// A limit holds receiving, not the connection; what was held comes once there is room.
#[test]
fn changes_wait_in_files_up_to_a_limit() {
    let source = source_with(&[("wal_sender_timeout", "4s")]);
    let target = start(Version::Pg17);
    let following = Following::of((&source, &target), "pgoutput", FILL);
    let mut run = following.clone_and_apply(&["--cdc-max-size", "2MB"]);
    following.wait_for_mark(&mut run);
    following.sentinel_command(&["set", "prefetch"]);
    wait_until(SOON, "prefetching", || {
        run.stderr().contains("applying changes is disabled")
    });
    let filled = fill_until_held(&following, &mut run);
    fill_segments(&following, filled + 1, 5);
    let held = bytes_of_files(&following);
    let since = std::time::Instant::now();
    wait_until(SOON, "more than the sender's timeout", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        since.elapsed().as_secs() >= 6
    });
    // A server whose sender cannot send could not shut down.
    assert_eq!(following.slot("active_pid"), "");
    let is_behind = "pg_current_wal_lsn() - confirmed_flush_lsn > 50000000";
    assert_eq!(following.slot(is_behind), "true");
    let bytes = bytes_of_files(&following);
    // It is looked at once a second: what came before that look is there too, and nothing since.
    assert_eq!(bytes, held, "{}", run.stderr());
    following.sentinel_command(&["set", "apply"]);
    following.wait_for_mark(&mut run);
    let log = run.stderr();
    assert!(log.contains("receiving goes on"), "{log}");
    following.cut_over(run, &["receiving holds"]);
}

/// One transaction alone may be larger than the limit.
#[test]
fn a_transaction_above_the_limit_comes_whole() {
    let following = Following::of(shared(Version::Pg17), "test_decoding", FILL);
    let mut run = following.clone_and_apply(&["--cdc-max-size", "1MB"]);
    following.wait_for_mark(&mut run);
    following.source.psql(
        &following.db,
        "insert into t select 1000 + g, repeat('x', 200) from generate_series(1, 40000) g",
    );
    following
        .source
        .psql(&following.db, "select pg_switch_wal()");
    following.wait_for_mark(&mut run);
    following.cut_over(run, &["receiving holds"]);
}

/// What was written in part is cut off and comes again.
#[test]
fn a_full_work_directory_is_told_with_what_it_would_need() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", FILL);
    let Some(disk) = SmallDisk::mount(&following.scene.work_dir(), "size=3m,mode=700") else {
        return;
    };
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    following.sentinel_command(&["set", "prefetch"]);
    fill_segments(&following, 1, 8);
    let outcome = run.wait_deadline(SOON);
    outcome.assert_last_error(12, &["No space left on device"]);
    for word in ["of changes wait in", "the source keeps", "Make room"] {
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    following.scene.assert_nothing_left(&outcome);
    disk.change("size=100m");
    following.sentinel_command(&["set", "apply"]);
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &["are free for", "is not whole"]);
}

/// The server's own limit is told before it is reached, and the loss when it has happened.
#[test]
fn a_slot_that_the_source_gives_up_is_told_before_and_after() {
    let source = source_with(&[
        ("max_slot_wal_keep_size", "64MB"),
        // Only a checkpoint that we ask for removes anything.
        ("min_wal_size", "32MB"),
        ("max_wal_size", "4GB"),
    ]);
    let target = start(Version::Pg17);
    let following = Following::of((&source, &target), "pgoutput", FILL);
    let mut run = following.clone_and_apply(&["--cdc-max-size", "1MB"]);
    following.wait_for_mark(&mut run);
    following.sentinel_command(&["set", "prefetch"]);
    let filled = fill_until_held(&following, &mut run);
    fill_segments(&following, filled + 1, 3);
    wait_until(SOON, "a warning", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        let log = run.stderr();
        log.contains("WAL for replication slot") && log.contains("stream cleanup")
    });
    fill_segments(&following, filled + 4, 8);
    following.source.psql(&following.db, "checkpoint");
    let outcome = run.wait_deadline(SOON);
    assert!(!outcome.status.success(), "{}", outcome.stderr);
    let said = &outcome.stderr;
    assert!(said.contains("--restart"), "{said}");
    following.scene.assert_nothing_left(&outcome);
    following.clean_up();
    following.assert_nothing_left();
}
