//! Killed while slot, origin and sentinel are made: it goes on with --resume, and takes nothing from anybody who has begun
//! since.

use crate::support::cmd::{RUN_DEADLINE, Scene};
use crate::support::following::{Following, SOON, shared};
use crate::support::leftovers;
use crate::support::version::Version;
use crate::support::wait_until;

const TABLE: &str = "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 100) i";

/// Run until this fault point, which kills all of it.
#[track_caller]
fn run_until(following: &Following, command: &[&str], more: &[&str], point: &str) {
    let run = following
        .command(command, more)
        .env("PGCOPYDB_FAILPOINT", point)
        .spawn();
    let outcome = run.wait_deadline(SOON);
    assert!(
        !outcome.status.success(),
        "{point} was not reached:\n{}",
        outcome.stderr
    );
    leftovers::assert_no_process(|| following.scene.processes());
}

#[test]
fn killed_at_each_step_of_the_setup_it_goes_on() {
    for plugin in ["test_decoding", "pgoutput"] {
        let following = Following::of(shared(Version::Debian15), plugin, TABLE);
        let points = [
            "sentinel.before_create",
            "sentinel.after_create",
            "sentinel.after_mark",
            "slot.before_create",
            "slot.after_create",
            "origin.before_create",
            "origin.after_create",
            // Of the slot that the attempt before it has made.
            "slot.before_drop",
            "slot.after_drop",
            "file.before_rename/cdc/slot",
            "slot.before_create",
        ];
        let mut more: &[&str] = &[];
        for (round, point) in points.iter().enumerate() {
            run_until(
                &following,
                &["clone", "--follow"],
                more,
                &format!("{point}=kill"),
            );
            let change = format!("insert into t values ({}, 'later')", 1_000 + round);
            following.source.psql(&following.db, &change);
            more = &["--resume"];
        }
        let mut run = following.resume(&[]);
        following.wait_for_apply(&mut run);
        following
            .source
            .psql(&following.db, "delete from t where id % 7 = 0");
        following.cut_over(run, &[]);
    }
}

/// Killed while it waits for the slot. What is set in the sentinel meanwhile holds.
#[test]
fn an_end_position_outlives_a_setup_that_was_killed() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", TABLE);
    let point = "slot.before_create=kill";
    following.sentinel_command(&["setup"]);
    let end = following.on_source("select pg_current_wal_lsn() + 100000000");
    following.set_endpos(&end);
    run_until(&following, &["clone", "--follow"], &[], point);
    assert_eq!(following.sentinel().endpos, end);
    let end = following.on_source("select pg_current_wal_lsn() + 200000000");
    following.set_endpos(&end);
    run_until(&following, &["clone", "--follow"], &["--resume"], point);
    let mut run = following.resume(&[]);
    following.wait_for_apply(&mut run);
    assert_eq!(following.sentinel().endpos, end);
    following.cut_over(run, &[]);
}

/// A slot of the same name that holds a snapshot by now, in the same directory: it is what the copy begins with.
#[test]
fn a_slot_that_a_later_command_has_made_is_not_made_again() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", TABLE);
    run_until(
        &following,
        &["stream", "setup"],
        &["--plugin", "test_decoding"],
        "slot.before_create=kill",
    );
    let dir = following.scene.work_dir();
    let (dir, name) = (dir.to_str().unwrap(), following.name.as_str());
    let mut args = vec!["snapshot", "--follow", "--source", &following.source_uri];
    args.extend(["--dir", dir, "--slot-name", name]);
    let mut holder = following.scene.command(args).spawn();
    wait_until(SOON, "the snapshot to be held", || {
        assert!(holder.is_running(), "{}", holder.stderr());
        holder.stderr().contains("holding it until a signal")
    });
    let begun = following.slot("confirmed_flush_lsn");
    following
        .source
        .psql(&following.db, "insert into t values (1000, 'later')");
    let setup = following
        .command(&["stream", "setup"], &["--plugin", "test_decoding"])
        .run();
    setup.assert_success(&[]);
    assert_eq!(following.slot("confirmed_flush_lsn"), begun);
    let mut run = following.clone_and_apply(&[]);
    following.wait_on_target(&mut run, "select count(*) from t where id = 1000", "1");
    holder.term();
    holder.wait_deadline(SOON).assert_success(&[]);
    following.cut_over(run, &["pg_attver"]);
}

/// Two at once in one directory: the second one does not take what the first is making for left behind.
#[test]
fn one_setup_at_a_time() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", TABLE);
    let first = following
        .command(&["clone", "--follow"], &[])
        .env("PGCOPYDB_FAILPOINT", "slot.after_create=sleep:6000")
        .spawn();
    wait_until(SOON, "the slot", || !following.slot("slot_name").is_empty());
    let second = following
        .command(&["stream", "setup"], &["--plugin", "test_decoding"])
        .run();
    second.assert_last_error(3, &["another pgcopydb with pid"]);
    let mut run = first;
    following.wait_for_apply(&mut run);
    following.cut_over(run, &[]);
}

#[test]
fn a_slot_that_somebody_has_made_since_stays_theirs() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", TABLE);
    let name = following.name.as_str();
    run_until(
        &following,
        &["clone", "--follow"],
        &[],
        "slot.before_create=kill",
    );
    let scene = Scene::new();
    let dir = scene.work_dir();
    let theirs = |words: &[&str]| {
        let mut args = words.to_vec();
        args.extend([
            "--source",
            &following.source_uri,
            "--target",
            &following.target_uri,
        ]);
        args.extend([
            "--slot-name",
            name,
            "--origin",
            name,
            "--dir",
            dir.to_str().unwrap(),
        ]);
        scene.command(args).run()
    };
    theirs(&["stream", "setup"]).assert_success(&[]);
    let began = following.slot("confirmed_flush_lsn");
    let outcome = following.resume(&[]).wait_deadline(RUN_DEADLINE);
    outcome.assert_last_error(6, &["is on the source already", name]);
    assert_eq!(following.slot("confirmed_flush_lsn"), began);
    theirs(&["stream", "cleanup"]).assert_success(&[]);
    // With nobody there it goes on.
    let mut run = following.resume(&[]);
    following.wait_for_apply(&mut run);
    following.cut_over(run, &[]);
}
