//! Servers, connections and workers that die in the middle of a COPY. The run carries on where that is right, and else
//! ends with the cause in its last line; no half table is ever taken for a whole one.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Running, Scene};
use crate::support::compare::assert_same;
use crate::support::proxy::Proxy;
use crate::support::version::Version;
use crate::support::wait_until;

const SECONDS: Duration = Duration::from_secs(20);

/// A few megabytes: more than what sockets buffer, so that a COPY that is held back on the target stays under way on
/// the source.
const ROWS: &str = "
    create table big (id int primary key, a text);
    insert into big select g, repeat(md5(g::text), 40) from generate_series(1, 8000) g;
    create table small (id int primary key);
    insert into small select generate_series(1, 10)";

fn fill(source: &Cluster) -> String {
    let db = source.new_db("server");
    source.psql(&db, ROWS);
    db
}

/// A run that waits in the COPY of table "big": a lock on the target lets everything pass but TRUNCATE.
struct Held {
    run: Running,
    lock: Client,
}

impl Held {
    /// Stops a run when the tables are there, and starts it again with the lock in its way.
    fn start(scene: &Scene, from: &str, to: &str, target: &Cluster, copy: &str) -> Held {
        Held::start_with_patience("20000", scene, from, to, target, copy)
    }

    fn start_with_patience(
        patience_ms: &str,
        scene: &Scene,
        from: &str,
        to: &str,
        target: &Cluster,
        copy: &str,
    ) -> Held {
        scene
            .clone_db(from, to, &[])
            .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
            .run()
            .assert_last_error(12, &["fault point"]);
        let mut lock = target.client(copy);
        lock.batch_execute("begin; lock table big in access share mode")
            .unwrap();
        let more = ["--resume", "--not-consistent", "--table-jobs", "1"];
        let mut run = scene
            .clone_db(from, to, &more)
            .env("PGCOPYDB_TEST_PATIENCE_MS", patience_ms)
            .spawn();
        wait_until(SECONDS, "the COPY to wait for the lock", || {
            assert!(run.is_running(), "{}", run.stderr());
            target.value("postgres", &waiting(copy)) == "1"
        });
        Held { run, lock }
    }

    fn worker(&self) -> Pid {
        let processes = self.run.processes();
        let worker = processes
            .iter()
            .find(|process| process.title.contains("copy worker 1"));
        Pid::from_raw(worker.expect("a copy worker").pid)
    }
}

fn waiting(db: &str) -> String {
    format!(
        "select count(*) from pg_stat_activity where datname = '{db}' and wait_event_type = 'Lock'
           and application_name like '%copy worker 1'"
    )
}

/// End the copy worker's session on this server.
fn terminate(cluster: &Cluster, db: &str) {
    let sql = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = '{db}' and application_name like '%copy worker 1'"
    );
    assert_eq!(cluster.value("postgres", &sql), "1");
}

#[test]
fn a_worker_that_is_killed_ends_the_run_with_its_name() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("server"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let held = Held::start(&scene, &from, &to, target, &copy);
    let worker = held.worker();
    kill(worker, Signal::SIGKILL).unwrap();
    let outcome = held.run.wait_deadline(Duration::from_secs(10));
    let text = format!("copy worker 1 (pid {worker}) was terminated by SIGKILL");
    outcome.assert_last_error(12, &[&text]);
    scene.assert_nothing_left(&outcome);
    drop(held.lock);
    let outcome = scene
        .clone_db(&from, &to, &["--resume", "--not-consistent"])
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

#[test]
fn a_session_that_is_terminated_is_opened_again() {
    let (source, target) = (shared_source(), shared_target());
    let db = fill(source);
    for side in ["source", "target"] {
        let (scene, copy) = (Scene::new(), target.new_db("server"));
        let (from, to) = (source.uri(&db), target.uri(&copy));
        let held = Held::start(&scene, &from, &to, target, &copy);
        match side {
            "source" => terminate(source, &db),
            _ => terminate(target, &copy),
        }
        drop(held.lock);
        let outcome = held.run.wait_deadline(SECONDS);
        outcome.assert_success(&["trying again (table \"public\".\"big\""]);
        // A server that waits to send rows cannot always say why it ends.
        let said = format!("({side}, SQLSTATE 57P01)");
        let lost = format!("connection to the {side} was lost");
        let log = &outcome.stderr;
        assert!(log.contains(&said) || log.contains(&lost), "{log}");
        scene.assert_nothing_left(&outcome);
        assert_same(source, &db, target, &copy);
    }
}

#[test]
fn a_cut_connection_to_the_target_is_opened_again() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("server"));
    let proxy = Proxy::start(target.port());
    let to = target.tcp_uri(&copy, proxy.port());
    let held = Held::start(&scene, &source.uri(&db), &to, target, &copy);
    proxy.cut();
    drop(held.lock);
    let outcome = held.run.wait_deadline(SECONDS);
    outcome.assert_success(&["trying again (table \"public\".\"big\""]);
    assert_same(source, &db, target, &copy);
}

#[test]
fn a_target_that_restarts_is_waited_for() {
    let source = shared_source();
    let db = fill(source);
    let target = Cluster::start(Version::Debian15, &[]);
    for (mode, copy) in [(StopMode::Fast, "fast"), (StopMode::Immediate, "immediate")] {
        target.create_db(copy);
        let scene = Scene::new();
        let (from, to) = (source.uri(&db), target.uri(copy));
        let held = Held::start(&scene, &from, &to, &target, copy);
        target.stop(mode);
        target.start_again();
        let outcome = held.run.wait_deadline(SECONDS);
        outcome.assert_success(&["trying again", "terminating"]);
        scene.assert_nothing_left(&outcome);
        assert_same(source, &db, &target, copy);
    }
}

#[test]
fn a_target_that_stays_away_ends_the_run() {
    let source = shared_source();
    let db = fill(source);
    let target = Cluster::start(Version::Debian15, &[]);
    target.create_db("copy");
    let scene = Scene::new();
    let (from, to) = (source.uri(&db), target.uri("copy"));
    let held = Held::start_with_patience("3000", &scene, &from, &to, &target, "copy");
    target.stop(StopMode::Fast);
    // Waited for as long as the run was told, once.
    let outcome = held.run.wait_deadline(Duration::from_secs(9));
    let texts = [
        "could not copy table \"public\".\"big\"",
        "could not connect to target",
    ];
    outcome.assert_last_error(7, &texts);
    scene.assert_nothing_left(&outcome);
    target.start_again();
    let outcome = scene
        .clone_db(&from, &to, &["--resume", "--not-consistent"])
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, &target, "copy");
}

#[test]
fn a_source_that_restarts_takes_the_snapshot_with_it() {
    let target = shared_target();
    let source = Cluster::start(Version::Debian15, &[]);
    let (db, copy) = (fill(&source), target.new_db("server"));
    let scene = Scene::new();
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let held = Held::start(&scene, &from, &to, target, &copy);
    source.stop(StopMode::Fast);
    source.start_again();
    drop(held.lock);
    let outcome = held.run.wait_deadline(SECONDS);
    outcome.assert_last_error(6, &["could not copy table", "does not exist any more"]);
    assert!(
        outcome.stderr.contains("--resume --not-consistent"),
        "{}",
        outcome.stderr
    );
    scene.assert_nothing_left(&outcome);
    assert_eq!(target.value(&copy, "select count(*) from big"), "0");
    let resume = scene.clone_db(&from, &to, &["--resume"]).run();
    resume.assert_last_error(3, &["cannot resume consistently"]);
    let outcome = scene
        .clone_db(&from, &to, &["--resume", "--not-consistent"])
        .run();
    outcome.assert_success(&[]);
    assert_same(&source, &db, target, &copy);
}

/// Cut in the middle of a frame, wherever that is; the snapshot lives elsewhere, so the table is copied again in it.
#[test]
fn a_copy_whose_source_is_cut_off_starts_again_in_its_snapshot() {
    let (source, target) = (shared_source(), shared_target());
    let db = fill(source);
    let proxy = Proxy::start(source.port());
    let mut snapshot = source.client(&db);
    let id = "begin isolation level repeatable read; select pg_export_snapshot()";
    let id = crate::support::cluster::rows(&mut snapshot, id)[0][0]
        .clone()
        .unwrap();
    for after in [1, 1_000, 100_001, 700_001] {
        let (scene, copy) = (Scene::new(), target.new_db("server"));
        let (from, to) = (source.tcp_uri(&db, proxy.port()), target.uri(&copy));
        let more = ["--snapshot", &id, "--table-jobs", "1"];
        scene
            .clone_db(&from, &to, &more)
            .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
            .run()
            .assert_last_error(12, &["fault point"]);
        let mut lock = target.client(&copy);
        lock.batch_execute("begin; lock table big in access share mode")
            .unwrap();
        let more = ["--snapshot", &id, "--table-jobs", "1", "--resume"];
        let mut run = scene.clone_db(&from, &to, &more).spawn();
        wait_until(SECONDS, "the COPY to wait for the lock", || {
            assert!(run.is_running(), "{}", run.stderr());
            target.value("postgres", &waiting(&copy)) == "1"
        });
        proxy.cut_after(after);
        drop(lock);
        let outcome = run.wait_deadline(SECONDS);
        outcome.assert_success(&["trying again (table \"public\".\"big\""]);
        assert!(
            outcome.stderr.contains("trying again"),
            "after {after}: {}",
            outcome.stderr
        );
        assert_same(source, &db, target, &copy);
    }
}

/// The same, when the snapshot is ours and lost with its connection.
#[test]
fn a_copy_cut_off_from_its_snapshot_leaves_no_half_table() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("server"));
    let proxy = Proxy::start(source.port());
    let (from, to) = (source.tcp_uri(&db, proxy.port()), target.uri(&copy));
    let held = Held::start(&scene, &from, &to, target, &copy);
    proxy.cut_after(1_000_003);
    drop(held.lock);
    let outcome = held.run.wait_deadline(SECONDS);
    outcome.assert_last_error(6, &["table \"public\".\"big\"", "does not exist any more"]);
    assert_eq!(target.value(&copy, "select count(*) from big"), "0");
    let outcome = scene
        .clone_db(&from, &to, &["--resume", "--not-consistent"])
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

/// pg_restore is run again, a few times; what it says of a lost server then reaches the last line, with the exit code of that
/// side.
#[test]
fn a_program_whose_session_is_terminated_is_run_again() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("server"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let end = |cluster: &Cluster, db: &str, program: &str, run: &mut Running| {
        let sql = format!(
            "select coalesce(max(pid), 0) from pg_stat_activity where datname = '{db}'
               and wait_event_type in ('Lock', 'Timeout') and application_name like '%{program}'"
        );
        let mut pid = String::new();
        wait_until(SECONDS, "the program to wait", || {
            assert!(run.is_running(), "{}", run.stderr());
            pid = cluster.value("postgres", &sql);
            pid != "0"
        });
        cluster.value("postgres", &format!("select pg_terminate_backend({pid})"));
        // One that is about to end would be taken for the next.
        let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
        wait_until(SECONDS, "the session to be gone", || {
            cluster.value("postgres", &gone) == "0"
        });
    };
    target.psql(
        &copy,
        "create function slow() returns event_trigger language plpgsql as
           $$ begin perform pg_sleep(8); end $$;
         create event trigger slow on ddl_command_start when tag in ('CREATE TABLE')
           execute function slow(); alter event trigger slow enable always",
    );
    let mut run = scene.clone_db(&from, &to, &[]).spawn();
    for _ in 0..5 {
        end(target, &copy, "pg_restore", &mut run);
    }
    let outcome = run.wait_deadline(SECONDS);
    let texts = ["could not restore the schema on the target: pg_restore exited"];
    outcome.assert_last_error(7, &texts);
    scene.assert_nothing_left(&outcome);
    let more = ["--resume", "--not-consistent"];
    let mut run = scene.clone_db(&from, &to, &more).spawn();
    end(target, &copy, "pg_restore", &mut run);
    target.psql(&copy, "drop event trigger slow; drop function slow");
    let outcome = run.wait_deadline(SECONDS);
    let told = [
        "trying again (pre-data, attempt 2 of 5",
        "event triggers of the target",
    ];
    outcome.assert_success(&told);
    assert_same(source, &db, target, &copy);
}
