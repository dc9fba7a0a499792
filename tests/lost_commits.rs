//! A connection that breaks around a commit: the run finds out what became of it, and neither loses nor doubles a row.

use std::time::Duration;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Running, Scene};
use crate::support::compare::assert_same;
use crate::support::proxy::Proxy;
use crate::support::version::Version;
use crate::support::wait_until;

const SECONDS: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_for(target: &Cluster, db: &str, run: &mut Running, what: &str, sql: &str) {
    wait_until(SECONDS, what, || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        target.value(db, sql) == "t"
    });
}

/// Committed, its index built, and neither flushed: a crash takes both away.
#[test]
fn what_a_crash_of_the_target_took_is_done_again() {
    let source = shared_source();
    let settings = [("wal_writer_delay", "10s"), ("autovacuum", "off")];
    let target = Cluster::start(Version::Debian15, &settings);
    let scene = Scene::new();
    let (db, copy) = (source.new_db("lost"), target.new_db("lost"));
    source.psql(
        &db,
        "create table a (id int primary key, v text); insert into a select g, 'v' from generate_series(1, 500) g;
         create index on a (v); create table b (id int unique); insert into b select generate_series(1, 9)",
    );
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let mut run = scene
        .clone_db(&from, &to, &["--table-jobs", "1", "--index-jobs", "1"])
        .env("PGCOPYDB_FAILPOINT", "copy.before_flush=sleep:4000")
        .spawn();
    let is_built = "select count(*) = 3 from pg_index where indrelid in \
                    (select oid from pg_class where relname in ('a', 'b'))";
    wait_for(&target, &copy, &mut run, "the indexes", is_built);
    target.restart_immediate();
    let outcome = run.wait_deadline(SECONDS);
    outcome.assert_success(&[
        "trying again",
        "may have lost the last commits",
        "terminating",
    ]);
    assert!(
        outcome
            .stderr
            .contains("may have lost the last commits of copy worker 1"),
        "{}",
        outcome.stderr
    );
    scene.assert_nothing_left(&outcome);
    assert_same(source, &db, &target, &copy);
}

/// As long as it is done again there is something to read: the snapshot stays, and the run does not look for a done-file.
#[test]
fn what_is_done_again_is_waited_for() {
    let source = shared_source();
    let settings = [("wal_writer_delay", "10s"), ("autovacuum", "off")];
    let target = Cluster::start(Version::Debian15, &settings);
    let scene = Scene::new();
    let (db, copy) = (source.new_db("lost"), target.new_db("lost"));
    source.psql(
        &db,
        "create table first as select generate_series(1, 5000) a; create table last as select generate_series(1, 9) a",
    );
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let mut run = scene
        .clone_db(&from, &to, &["--table-jobs", "1"])
        .env("PGCOPYDB_FAILPOINT", "copy.started=sleep:2000")
        .spawn();
    let is_copied =
        "select count(*) > 0 from pg_class where relname = 'first' and pg_relation_size(oid) > 0";
    wait_for(&target, &copy, &mut run, "the first table", is_copied);
    // While the last one waits for its turn.
    target.restart_immediate();
    let outcome = run.wait_deadline(SECONDS);
    outcome.assert_success(&[
        "trying again",
        "may have lost the last commits",
        "terminating",
    ]);
    scene.assert_nothing_left(&outcome);
    assert_same(source, &db, &target, &copy);
}

/// The server has committed a part of a table, and its answer is lost: a second COPY would double the rows.
#[test]
fn a_commit_whose_answer_is_lost_is_found_out() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (source.new_db("lost"), target.new_db("lost"));
    source.psql(
        &db,
        "create table parted (id int primary key, v text);
         insert into parted select g, repeat('v', 100) from generate_series(1, 3000) g",
    );
    let proxy = Proxy::start(target.port());
    let (from, to) = (source.uri(&db), target.tcp_uri(&copy, proxy.port()));
    let more = ["--table-jobs", "1", "--split-tables-larger-than", "100kB"];
    let mut run = scene
        .clone_db(&from, &to, &more)
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:1500")
        .spawn();
    let is_before_commit = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
                            and application_name like '%copy worker%' and state = 'idle in transaction'";
    wait_for(
        target,
        &copy,
        &mut run,
        "the end of a COPY",
        is_before_commit,
    );
    // The first byte of the answer is the last one to pass.
    proxy.cut_after(1);
    let outcome = run.wait_deadline(SECONDS);
    outcome.assert_success(&["the rows were committed all the same", "trying again"]);
    assert!(
        outcome
            .stderr
            .contains("the rows were committed all the same"),
        "{}",
        outcome.stderr
    );
    assert_same(source, &db, target, &copy);
}

/// The same, and nobody can be asked: the rows may be there, so that they are not copied a second time.
#[test]
fn a_commit_that_cannot_be_asked_for_is_not_repeated() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (source.new_db("lost"), target.new_db("lost"));
    source.psql(
        &db,
        "create table parted (id int, v text); insert into parted select g, repeat('v', 100) from generate_series(1, 3000) g",
    );
    let proxy = Proxy::start(target.port());
    let (from, to) = (source.uri(&db), target.tcp_uri(&copy, proxy.port()));
    let more = ["--table-jobs", "1", "--split-tables-larger-than", "100kB"];
    let mut run = scene
        .clone_db(&from, &to, &more)
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:1500")
        .spawn();
    let is_before_commit = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
                            and application_name like '%copy worker%' and state = 'idle in transaction'";
    wait_for(
        target,
        &copy,
        &mut run,
        "the end of a COPY",
        is_before_commit,
    );
    proxy.cut_after(1);
    let allow = |is_allowed: bool| {
        let sql = format!("alter database {copy} allow_connections {is_allowed}");
        target.psql("postgres", &sql);
    };
    allow(false);
    let unknown = "it is not known whether the rows were committed";
    wait_until(SECONDS, "the end of the questions", || {
        let log = run.stderr();
        log.contains(unknown) || log.contains("trying again (table")
    });
    allow(true);
    let outcome = run.wait_deadline(SECONDS);
    outcome.assert_last_error(4, &["\"parted\"", unknown]);
    let resumed = scene
        .clone_db(
            &from,
            &to,
            &[&more[..], &["--resume", "--not-consistent"]].concat(),
        )
        .run();
    resumed.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

/// What stands before a server that is down takes connections, and breaks them without a word.
#[test]
fn a_login_that_breaks_is_tried_again() {
    let server = Cluster::start(Version::Debian15, &[]);
    let proxy = Proxy::start(server.port());
    server.stop(StopMode::Fast);
    let scene = Scene::new();
    for mode in ["disable", "prefer"] {
        let uri = format!(
            "{}?sslmode={mode}",
            server.tcp_uri("postgres", proxy.port())
        );
        let run = scene.command(["ping", "--source", &uri]).spawn();
        wait_until(SECONDS, "a line about it", || {
            run.stderr().contains("trying again")
        });
        server.start_again();
        let outcome = run.wait_deadline(SECONDS);
        outcome.assert_success(&["trying again"]);
        server.stop(StopMode::Fast);
    }
}
