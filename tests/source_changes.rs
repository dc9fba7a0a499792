//! What happens on the source between the snapshot and the COPY of a table. TRUNCATE and rewrites are not MVCC-safe: an
//! older snapshot then sees no row and gets no error, so the guard of the copy worker has to. Trap 28.

use std::time::Duration;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Running, Scene};
use crate::support::compare::assert_same;
use crate::support::{leftovers, wait_until};

const TABLES: &str = "
    create table first (id int primary key, v text);
    insert into first select g, repeat('f', 100) from generate_series(1, 5000) g;
    create table second (id int primary key, v text);
    insert into second select g, 's' from generate_series(1, 100) g;";

/// A run whose only copy worker sleeps in its first table, so that the second one is still to come.
fn start_slowly(
    scene: &Scene,
    source: &Cluster,
    db: &str,
    target: &Cluster,
    copy: &str,
) -> Running {
    let mut running = scene
        .clone_db(&source.uri(db), &target.uri(copy), &["--table-jobs", "1"])
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:1500")
        .spawn();
    wait_until(Duration::from_secs(30), "the first COPY", || {
        assert!(running.is_running(), "{}", running.stderr());
        let busy = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'pgcopydb%copy worker%'";
        source.value(db, busy) != "0"
    });
    running
}

#[test]
fn a_table_that_lost_its_rows_to_a_rewrite_is_an_error_with_its_name() {
    let (source, target) = (shared_source(), shared_target());
    for change in [
        "alter table second alter id type bigint",
        "truncate second",
        "vacuum full second",
        "drop table second; create table second (id int primary key, v text)",
        "alter table second rename to other",
        "drop table second",
    ] {
        let (db, copy) = (source.new_db("rewritten"), target.new_db("rewritten"));
        source.psql(&db, TABLES);
        let scene = Scene::new();
        let running = start_slowly(&scene, source, &db, target, &copy);
        source.psql(&db, change);
        let outcome = running.wait_deadline(Duration::from_secs(60));
        outcome.assert_last_error(outcome.status.code().unwrap(), &["\"second\""]);
        assert!(!outcome.status.success(), "{change}: {}", outcome.stderr);
        // The other table is there all the same, and not a row of the changed one.
        assert_eq!(
            target.value(&copy, "select count(*) from first"),
            "5000",
            "{change}"
        );
        assert_eq!(
            target.value(&copy, "select count(*) from second"),
            "0",
            "{change}"
        );
        scene.assert_nothing_left(&outcome);
        leftovers::assert_no_backend(source, &db);
    }
}

/// Changes that an older snapshot does see through: rows, new columns without a rewrite, new tables.
#[test]
fn what_the_snapshot_sees_is_copied_whatever_happens_next() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy, before) = (
        source.new_db("busy"),
        target.new_db("busy"),
        source.new_db("before"),
    );
    source.psql(&db, TABLES);
    source.psql(&before, TABLES);
    let scene = Scene::new();
    let running = start_slowly(&scene, source, &db, target, &copy);
    source.psql(
        &db,
        "insert into second values (1000, 'late'); delete from second where id < 50; update second set v = 'late';
         create table third (id int); insert into third values (1)",
    );
    let outcome = running.wait_deadline(Duration::from_secs(60));
    outcome.assert_success(&[]);
    assert_same(source, &before, target, &copy);
}
