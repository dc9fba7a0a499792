//! Killed while slot, origin and sentinel are made: it goes on with --resume, and takes nothing from anybody who has begun
//! since.

use crate::support::cmd::{RUN_DEADLINE, Scene};
use crate::support::following::{Following, SOON, shared};
use crate::support::leftovers;
use crate::support::version::Version;

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
