//! A run that is killed at any of its durable steps, or at any moment, is resumed to the same end: every row once.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

/// One of each kind of work: parts, plain and partitioned tables, constraints, large objects, sequences, a view.
const WORK: &str = "
    create table big (id bigserial primary key, v text, n int);
    insert into big (v, n) select repeat('x', 300), g % 97 from generate_series(1, 30000) g;
    create index big_n on big (n);
    create index big_v on big (v, n);
    alter table big add constraint big_n_id unique (n, id);
    create table small (id int primary key, big_id bigint references big);
    insert into small select g, g from generate_series(1, 50) g;
    create table parent (k int, d text) partition by range (k);
    create table parent_a partition of parent for values from (0) to (100);
    create table parent_b partition of parent for values from (100) to (200);
    alter table parent add primary key (k);
    insert into parent select g, 'd' || g from generate_series(0, 199) g;
    create materialized view summed as select n, count(*) from big group by n;
    create unique index on summed (n);
    select lo_from_bytea(700000 + g, decode(repeat('ab', 10 * g), 'hex')) from generate_series(1, 50) g;";

/// Tables above this are cut into parts.
const SPLIT: [&str; 2] = ["--split-tables-larger-than", "1MB"];

fn database(source: &Cluster) -> String {
    let db = source.new_db("work");
    source.psql(&db, WORK);
    db
}

/// Warnings that tell of the kill, not of a defect.
const TOLD: &[&str] = &["is copied again", "was terminated", "is not whole"];

/// Resume as the tool asks for it: consistently if that is possible, else with what it names.
#[track_caller]
fn resume(scene: &Scene, from: &str, to: &str) -> Outcome {
    let args = [&SPLIT[..], &["--resume"]].concat();
    let outcome = scene.clone_db(from, to, &args).run();
    if outcome.status.success() {
        return outcome;
    }
    outcome.assert_last_error(3, &["cannot resume consistently"]);
    let args = [&SPLIT[..], &["--resume", "--not-consistent"]].concat();
    scene.clone_db(from, to, &args).run()
}

#[track_caller]
fn assert_whole(
    scene: &Scene,
    outcome: &Outcome,
    source: (&Cluster, &str),
    target: (&Cluster, &str),
) {
    outcome.assert_success(TOLD);
    scene.assert_nothing_left(outcome);
    leftovers::assert_no_backend(source.0, source.1);
    leftovers::assert_no_backend(target.0, target.1);
    assert_same(source.0, source.1, target.0, target.1);
}

/// Walks the list of all fault points, so that a new one cannot be forgotten.
#[test]
fn killed_at_each_fault_point_it_resumes() {
    let (source, target) = (shared_source(), shared_target());
    let db = database(source);
    let from = source.uri(&db);
    for point in pgcopydb::sys::failpoint::ALL {
        let scene = Scene::new();
        let copy = target.new_db("killed");
        let to = target.uri(&copy);
        let killed = scene
            .clone_db(&from, &to, &SPLIT)
            .env("PGCOPYDB_FAILPOINT", format!("{point}=kill"))
            .run();
        assert!(
            !killed.status.success(),
            "{point} was not reached:\n{}",
            killed.stderr
        );
        leftovers::assert_no_process(|| scene.processes());
        let resumed = resume(&scene, &from, &to);
        assert_whole(&scene, &resumed, (source, &db), (target, &copy));
        // What is complete is not done again.
        let again = scene
            .clone_db(&from, &to, &[&SPLIT[..], &["--resume"]].concat())
            .run();
        assert!(
            again.stderr.contains("nothing to do"),
            "{point}: {}",
            again.stderr
        );
    }
}

/// SIGTERM, SIGINT, SIGQUIT and SIGKILL of the parent, at moments spread over the run.
#[test]
fn signals_at_any_moment_end_everything_within_ten_seconds() {
    let (source, target) = (shared_source(), shared_target());
    let db = database(source);
    let from = source.uri(&db);
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGKILL,
        Signal::SIGQUIT,
    ];
    for (number, moment) in MOMENTS.iter().enumerate() {
        let signal = signals[number % signals.len()];
        let scene = Scene::new();
        let copy = target.new_db("signalled");
        let to = target.uri(&copy);
        let mut running = scene.clone_db(&from, &to, &SPLIT).spawn();
        wait_until(Duration::from_secs(30), moment, || {
            running.stderr().contains(moment) || !running.is_running()
        });
        if !running.is_running() {
            // The run was faster than we: then it must be whole.
            let outcome = running.wait_deadline(Duration::from_secs(10));
            assert_whole(&scene, &outcome, (source, &db), (target, &copy));
            continue;
        }
        running.signal(signal);
        let outcome = running.wait_deadline(Duration::from_secs(10));
        if outcome.status.success() {
            // The signal came after the last thing to do.
            assert_whole(&scene, &outcome, (source, &db), (target, &copy));
            continue;
        }
        outcome.assert_signalled(signal);
        leftovers::assert_no_process(|| scene.processes());
        leftovers::assert_no_backend(source, &db);
        leftovers::assert_no_backend(target, &copy);
        let resumed = resume(&scene, &from, &to);
        assert_whole(&scene, &resumed, (source, &db), (target, &copy));
    }
}

/// Log lines after which a signal is sent.
const MOMENTS: &[&str] = &[
    "exported snapshot",
    "dumping the schema",
    "restoring pre",
    "copied table",
    "part 2 of",
    "built index",
    "everything is read",
    "restoring post",
    "copied large objects",
    "tables to copy",
    "set ",
    "copied table \"public\".\"small\"",
];

/// A worker that is killed ends the run within seconds, with the worker named.
#[test]
fn a_killed_worker_ends_the_run() {
    let (source, target) = (shared_source(), shared_target());
    let db = database(source);
    for (role, sleeps) in [
        ("copy worker", "copy.before_commit=sleep:20000"),
        ("index worker", "index.before_build=sleep:20000"),
        ("large-object worker", "blobs.before_commit=sleep:20000"),
    ] {
        let scene = Scene::new();
        let copy = target.new_db("worker");
        let (from, to) = (source.uri(&db), target.uri(&copy));
        let mut running = scene
            .clone_db(&from, &to, &SPLIT)
            .env("PGCOPYDB_FAILPOINT", sleeps)
            .spawn();
        let find = |running: &crate::support::cmd::Running| {
            running
                .processes()
                .into_iter()
                .find(|process| process.title.contains(role))
                .map(|process| process.pid)
        };
        let mut victim = None;
        wait_until(Duration::from_secs(30), role, || {
            victim = find(&running);
            victim.is_some() || !running.is_running()
        });
        let pid = victim.expect("the worker sleeps, so it is there");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let outcome = running.wait_deadline(Duration::from_secs(15));
        outcome.assert_last_error(12, &[role, "SIGKILL"]);
        leftovers::assert_no_process(|| scene.processes());
        let resumed = resume(&scene, &from, &to);
        assert_whole(&scene, &resumed, (source, &db), (target, &copy));
    }
}

/// The power fails on the target right after each kind of done-file: what a done-file speaks of must have survived.
/// wal_writer_delay keeps asynchronous commits in memory for long, so that a done-file written too early is found out.
#[test]
fn what_a_done_file_speaks_of_survives_a_crash_of_the_target() {
    let source = shared_source();
    let target = Cluster::start(
        Version::Debian15,
        &[
            ("wal_writer_delay", "10s"),
            ("wal_writer_flush_after", "0"),
            ("fsync", "on"),
        ],
    );
    let db = database(source);
    let from = source.uri(&db);
    for kind in [
        "run/tables/",
        "run/indexes/",
        ".constraint",
        "run/vacuum/",
        "run/blobs/",
        "restore-pre.done",
        "tables.done",
        "indexes.done",
        "sequences.done",
        "restore-post.done",
    ] {
        let scene = Scene::new();
        let copy = target.new_db("crash");
        let to = target.uri(&copy);
        let mut running = scene
            .clone_db(&from, &to, &SPLIT)
            .env("PGCOPYDB_TEST_PATIENCE_MS", "1000")
            .spawn();
        let dir = scene.work_dir();
        wait_until(Duration::from_secs(30), kind, || {
            !running.is_running() || has_done_file(&dir, kind)
        });
        target.stop(StopMode::Immediate);
        let outcome = running.wait_deadline(Duration::from_secs(90));
        target.start_again();
        if outcome.status.success() {
            // It had ended before the crash, so all of it was flushed.
            assert_same(source, &db, &target, &copy);
            continue;
        }
        leftovers::assert_no_process(|| scene.processes());
        let resumed = resume(&scene, &from, &to);
        assert_whole(&scene, &resumed, (source, &db), (&target, &copy));
    }
}

fn has_done_file(dir: &std::path::Path, kind: &str) -> bool {
    let run = dir.join("run");
    ["", "tables", "indexes", "vacuum", "blobs"]
        .iter()
        .any(|folder| {
            let Ok(entries) = std::fs::read_dir(run.join(folder)) else {
                return false;
            };
            entries.flatten().any(|entry| {
                let path = entry.path().display().to_string();
                let is_done = path.ends_with(".done") || path.ends_with(".constraint");
                is_done && path.contains(kind)
            })
        })
}
