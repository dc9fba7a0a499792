//! Somebody else's session is in the way: the run says which statement on which server waits, and for whom, and goes on as
//! soon as it may; or gives up, if it was told to.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use postgres::Client;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Running, Scene};
use crate::support::compare::assert_same;
use crate::support::following::{Following, shared};
use crate::support::version::Version;
use crate::support::wait_until;

const SECONDS: Duration = Duration::from_secs(30);

/// As soon as a table is there, which the program fills or indexes a moment later.
fn fill(source: &Cluster) -> String {
    let db = source.new_db("hang");
    source.psql(
        &db,
        "create table held (id int primary key, v text); insert into held select g, 'v' from generate_series(1, 50) g;
         create index held_v on held (v)",
    );
    db
}

fn lock(target: &Cluster, copy: &str, table: &str, mode: &str) -> (Client, String) {
    let mut client = target.client(copy);
    let row = client.query_one("select pg_backend_pid()", &[]).unwrap();
    let pid: i32 = row.get(0);
    client
        .batch_execute(&format!("begin; lock table {table} in {mode} mode"))
        .unwrap();
    (client, pid.to_string())
}

/// That this was said: the process that waits, its statement, and the pid and the last statement of who is in its way.
#[track_caller]
fn wait_until_told(run: &mut Running, process: &str, statement: &str, blocker: &str) {
    wait_until(SECONDS, "a word about the lock", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr()
            .contains(" waits for a lock on the target for ")
    });
    let log = run.stderr();
    let told = log.lines().find(|line| line.contains("waits for a lock"));
    let told = told.unwrap_or_default();
    let texts = [" WARN ", process, statement, "in its way: pid "];
    for text in texts
        .iter()
        .chain(&[blocker, "lock table", "\"test client\""])
    {
        assert!(told.contains(text), "no \"{text}\" in {told}");
    }
}

#[test]
fn a_lock_in_the_way_of_copy_is_told() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("hang"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
        .run()
        .assert_last_error(12, &["fault point"]);
    let (lock, pid) = lock(target, &copy, "held", "access share");
    let more = ["--resume", "--not-consistent", "--stall-timeout", "1"];
    let mut run = scene.clone_db(&from, &to, &more).spawn();
    let statement = "TRUNCATE ONLY \"public\".\"held\"";
    wait_until_told(&mut run, "copy worker 1", statement, &format!("pid {pid},"));
    drop(lock);
    let outcome = run.wait_deadline(SECONDS);
    outcome.assert_success(&["waits for a lock"]);
    scene.assert_nothing_left(&outcome);
    assert_same(source, &db, target, &copy);
}

/// Rows may be read and written, and nothing be built.
#[test]
fn a_lock_in_the_way_of_create_index_is_told() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("hang"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let mut run = scene
        .clone_db(&from, &to, &["--stall-timeout", "1"])
        .env("PGCOPYDB_FAILPOINT", "copy.after_commit=sleep:3000")
        .spawn();
    wait_until(SECONDS, "the rows", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        let size = "select coalesce(max(pg_relation_size(oid)), 0) > 0 from pg_class where relname = 'held'";
        target.value(&copy, size) == "t"
    });
    let (lock, pid) = lock(target, &copy, "held", "row exclusive");
    wait_until_told(&mut run, "index worker", "CREATE ", &format!("pid {pid},"));
    drop(lock);
    let outcome = run.wait_deadline(SECONDS);
    outcome.assert_success(&["waits for a lock", "has made no progress"]);
    scene.assert_nothing_left(&outcome);
    assert_same(source, &db, target, &copy);
}

#[test]
fn a_lock_in_the_way_of_apply_is_told() {
    let following = Following::of(
        shared(Version::Pg17),
        "pgoutput",
        "create table public.marks (mark int primary key); create table held (id int primary key)",
    );
    let mut run = following.clone_and_apply(&["--stall-timeout", "1"]);
    following.wait_for_mark(&mut run);
    let (lock, pid) = lock(following.target, &following.copy, "held", "share");
    following
        .source
        .psql(&following.db, "insert into held values (1)");
    wait_until_told(&mut run, "apply", "held", &format!("pid {pid},"));
    drop(lock);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &["waits for a lock"]);
}

/// It has no session on any server, and all others wait for it.
#[test]
fn a_process_that_is_stopped_is_told() {
    let following = Following::of(
        shared(Version::Pg17),
        "pgoutput",
        "create table public.marks (mark int primary key)",
    );
    let mut run = following.clone_and_apply(&["--stall-timeout", "1"]);
    following.wait_for_mark(&mut run);
    let pid = following.wait_for_process(&mut run, "transform");
    kill(pid, Signal::SIGSTOP).unwrap();
    let told = format!("transform (pid {pid}) was stopped by a signal");
    wait_until(SECONDS, "a word about transform", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr().contains(&told)
    });
    kill(pid, Signal::SIGCONT).unwrap();
    following.wait_for_mark(&mut run);
    following.cut_over(run, &["was stopped by a signal"]);
}

#[test]
fn a_lock_may_be_given_up_and_is_resumed() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (fill(source), target.new_db("hang"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
        .run()
        .assert_last_error(12, &["fault point"]);
    let (lock, _) = lock(target, &copy, "held", "access share");
    let more = ["--resume", "--not-consistent", "--lock-timeout", "1"];
    let outcome = scene.clone_db(&from, &to, &more).run();
    outcome.assert_last_error(4, &["\"public\".\"held\"", "lock timeout"]);
    scene.assert_nothing_left(&outcome);
    drop(lock);
    let more = ["--resume", "--not-consistent"];
    scene.clone_db(&from, &to, &more).run().assert_success(&[]);
    assert_same(source, &db, target, &copy);
}
