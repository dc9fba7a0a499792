//! A clone, killed: in a snapshot of its own, which ends with it, and in one that `pgcopydb snapshot` holds, in which the
//! rest must be consistent although the source has changed.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::points::{Action, Fault};
use crate::support::cluster::{shared_source, shared_target};
use crate::support::cmd::{Outcome, RUN_DEADLINE, Running, Scene};
use crate::support::compare::assert_same;
use crate::support::interrupted::{Pair, SPLIT, TOLD, WORK, complete_tables};
use crate::support::{leftovers, wait_until};

/// What the run's objects need besides the rows: a setting of the database, and what an interrupted run may not lose.
const MORE: &str = "
    do $$ begin execute format('alter database %I set work_mem = ''5MB''', current_database()); end $$;
    create function touched() returns trigger language plpgsql as 'begin return new; end';
    create trigger touch before insert on small for each row execute function touched();
    alter table small enable always trigger touch;";

/// The source of all runs that leave it alone.
fn quiet_source() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(new_source)
}

fn new_source() -> String {
    let db = shared_source().new_db("swept");
    shared_source().psql(&db, WORK);
    shared_source().psql(&db, MORE);
    db
}

pub fn trace(file: &Path) {
    let pair = Pair::to_new_copy(shared_source(), shared_target(), quiet_source());
    let scene = Scene::new();
    let outcome = pair
        .clone(&scene, &SPLIT)
        .env("PGCOPYDB_FAILPOINT_TRACE", file)
        .run();
    pair.assert_whole(&scene, &outcome);
}

pub fn survives(fault: &Fault) {
    match fault.is_odd() {
        true => survives_alone(fault),
        false => survives_with_a_snapshot(fault),
    }
}

/// Its snapshot ends with it: what is left is copied from a new one, of a source that nobody has written to.
fn survives_alone(fault: &Fault) {
    let pair = Pair::to_new_copy(shared_source(), shared_target(), quiet_source());
    let scene = Scene::new();
    let failed = fail(&pair, &scene, fault);
    let complete = complete_tables(&pair, &scene);
    let resumed = pair.resume(&scene, &SPLIT);
    pair.assert_whole(&scene, &resumed);
    leftovers::assert_no_queue(&failed.pids);
    let now = complete_tables(&pair, &scene);
    for table in complete {
        assert!(now.contains(&table), "{table:?} was copied again");
    }
    let again = pair
        .clone(&scene, &[&SPLIT[..], &["--resume"]].concat())
        .run();
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
}

/// The snapshot outlives it: the copy is what the source was, whatever was written since.
fn survives_with_a_snapshot(fault: &Fault) {
    let db = new_source();
    let pair = Pair::to_new_copy(shared_source(), shared_target(), &db);
    let scene = Scene::new();
    let dir = scene.work_dir();
    let hold = [
        "snapshot",
        "--source",
        &pair.from(),
        "--dir",
        dir.to_str().unwrap(),
    ];
    let mut holder = scene.command(hold).spawn();
    wait_until(RUN_DEADLINE, "the snapshot to be held", || {
        assert!(holder.is_running(), "it ended:\n{}", holder.stderr());
        holder.stderr().contains("holding it until a signal")
    });
    pair.source.psql(
        &db,
        "insert into big (v, n) select 'late', 1 from generate_series(1, 100); delete from small;
         select lo_unlink(700001)",
    );
    let failed = fail_beside(&pair, &scene, fault, &holder);
    let resumed = pair
        .clone(&scene, &[&SPLIT[..], &["--resume"]].concat())
        .run();
    resumed.assert_success(TOLD);
    holder.term();
    holder.wait_deadline(RUN_DEADLINE).assert_success(&[]);
    scene.assert_nothing_left(&resumed);
    leftovers::assert_no_queue(&failed.pids);
    pair.assert_no_backend();
    // The sequence is the only thing that no snapshot covers.
    pair.target
        .psql(&pair.copy, "select setval('big_id_seq', 30100)");
    assert_same(
        pair.source,
        quiet_source_with_sequence(),
        pair.target,
        &pair.copy,
    );
}

/// What the source was when the snapshot was taken, with the sequence as it is now.
fn quiet_source_with_sequence() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let db = new_source();
        shared_source().psql(&db, "select setval('big_id_seq', 30100)");
        db
    })
}

fn fail(pair: &Pair<'_>, scene: &Scene, fault: &Fault) -> Outcome {
    let run = pair
        .clone(scene, &SPLIT)
        .env("PGCOPYDB_FAILPOINT", fault.to_string())
        .spawn();
    let outcome = end(run, fault, &[]);
    leftovers::assert_no_process(|| scene.processes());
    pair.assert_no_backend();
    assert!(
        outcome.elapsed < Duration::from_secs(60),
        "{}",
        outcome.stderr
    );
    outcome
}

/// The same with a process of the scene that is not to be killed.
fn fail_beside(pair: &Pair<'_>, scene: &Scene, fault: &Fault, holder: &Running) -> Outcome {
    let run = pair
        .clone(scene, &SPLIT)
        .env("PGCOPYDB_FAILPOINT", fault.to_string())
        .spawn();
    let outcome = end(run, fault, &[holder.pid()]);
    leftovers::assert_no_process(|| {
        let mut processes = scene.processes();
        processes.retain(|process| process.pid != holder.pid());
        processes
    });
    outcome
}

/// Wait for the end of a run with a fault in it, and end its tree where the fault is that.
pub fn end(mut run: Running, fault: &Fault, spared: &[i32]) -> Outcome {
    if fault.action == Action::KillTree {
        wait_until(RUN_DEADLINE, "a process to stop, or the end", || {
            !run.is_running() || kill_all_if_one_is_stopped(&run, spared)
        });
    }
    let outcome = run.wait_deadline(RUN_DEADLINE);
    let log = &outcome.stderr;
    assert!(!log.contains("panicked at"), "{log}");
    // A step that only some runs come by twice.
    assert!(
        fault.nth > 1 || !outcome.status.success(),
        "it was not reached:\n{log}"
    );
    outcome
}

/// Whether the tree was killed, as one process had come to its fault point: again and again until nobody is left, as one
/// that was forked meanwhile may stop there too, deaf to any other signal.
pub fn kill_all_if_one_is_stopped(run: &Running, spared: &[i32]) -> bool {
    let others = || {
        let mut processes = run.processes();
        processes.retain(|process| !spared.contains(&process.pid));
        processes
    };
    let is_stopped = others().iter().any(|process| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid));
        stat.is_ok_and(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    });
    if is_stopped {
        wait_until(RUN_DEADLINE, "all of the tree to be killed", || {
            let left = others();
            for process in &left {
                let pid = nix::unistd::Pid::from_raw(process.pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            left.is_empty()
        });
    }
    is_stopped
}
