//! The apply process on a target that is not what it was: tables that changed, backends that die, commits that a crash took
//! back, keys and rows of unusual kinds.

use std::time::Duration;

use pgcopydb::stream::apply::{Applier, PositionKeeper};
use pgcopydb::sys::signal::Shutdown;

use crate::support::applying::{Place, id, insert_u, some, target};
use crate::support::cluster::Cluster;
use crate::support::script::{Script, lsn_of};
use crate::support::version::Version;
use crate::support::wait_until;

/// Trap 28: DDL is not replicated. What was applied already asks for nothing; what is missing stops, and goes on later.
#[test]
fn a_missing_column_or_table_stops_with_its_name() {
    let place = Place::new(target());
    let make = || {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        script.transaction(|changes| {
            changes.insert("u", &[("id", some("50")), ("added", some("x"))]);
        });
        script.transaction(|changes| changes.insert("new", &[("id", some("1"))]));
        script.transaction(|changes| changes.truncate(&["newer"], false));
        script
    };
    for (missing, fix, applied) in [
        (
            "column \"added\" of table \"public\".\"u\"",
            "alter table u add added text",
            1,
        ),
        (
            "table \"public\".\"new\"",
            "create table new (id int primary key)",
            2,
        ),
        (
            "table \"public\".\"newer\"",
            "create table newer (id int)",
            3,
        ),
    ] {
        let error = place.apply(make()).unwrap_err();
        assert!(error.to_string().contains(missing), "{missing}: {error}");
        assert!(error.hint().unwrap().contains("--resume"));
        assert!(place.progress() <= lsn_of(applied));
        place.cluster.psql(&place.db, fix);
    }
    place.apply(make()).unwrap();
    assert_eq!(place.progress(), lsn_of(4));
    // Dropped since: nobody asks for it.
    place
        .cluster
        .psql(&place.db, "drop table new; alter table u drop added");
    place.apply(make()).unwrap();
}

/// Columns move when one before them is dropped; values must not.
#[test]
fn a_column_dropped_under_way_shifts_no_value() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create table d (gone text, id int primary key, v text, w text)",
    );
    let mut applier = place.applier();
    let row = |number: &str, changes: &mut crate::support::script::Changes<'_>| {
        changes.insert(
            "d",
            &[("id", Some(number)), ("v", some("v")), ("w", some("w"))],
        );
    };
    let mut script = Script::new();
    script.transaction(|changes| (1..20).for_each(|number: u32| row(&number.to_string(), changes)));
    applier.run_file(&place.save(script, "1.sql")).unwrap();
    place
        .cluster
        .psql(&place.db, "alter table d drop gone, add x text");
    let mut script = Script::from(2);
    script
        .transaction(|changes| (20..40).for_each(|number: u32| row(&number.to_string(), changes)));
    script.transaction(|changes| {
        changes.insert(
            "d",
            &[
                ("id", some("99")),
                ("v", some("v")),
                ("w", some("w")),
                ("x", None),
            ],
        );
        (40..60).for_each(|number: u32| row(&number.to_string(), changes));
    });
    applier.run_file(&place.save(script, "2.sql")).unwrap();
    let sql = "select count(*) from d where v = 'v' and w = 'w'";
    assert_eq!(place.cluster.value(&place.db, sql), "60");
}

/// Trap 11: the backend is ended in the middle of a large transaction; the next connection begins it again.
#[test]
fn a_killed_backend_loses_and_doubles_nothing() {
    let place = Place::new(target());
    let make = || {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        insert_u(&mut script, 10..300_000);
        script
    };
    let path = place.save(make(), "large.sql");
    let (spec, positions) = (place.spec.clone(), place.positions);
    let applier = std::thread::spawn(move || {
        Applier::connect(&spec, &positions, &Shutdown::deaf())?.run_file(&path)
    });
    wait_until(Duration::from_secs(30), "the large transaction", || {
        // Rows under way are seen by their space only.
        place
            .cluster
            .value(&place.db, "select pg_relation_size('u') > 2000000")
            == "t"
    });
    place.cluster.psql(
        &place.db,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '% apply' and datname = current_database()",
    );
    let error = applier.join().unwrap().unwrap_err();
    assert!(error.is_connection_lost(), "{error}");
    place.apply(make()).unwrap();
    assert_eq!(
        place.cluster.value(&place.db, "select count(*) from u"),
        "299999"
    );
    assert_eq!(place.progress(), lsn_of(2));
}

/// Trap 7: commits that the target had not flushed are gone, its origin says so, and they come again.
#[test]
fn commits_that_a_crash_took_back_come_again() {
    let cluster = Cluster::start(
        Version::Pg17,
        &[("wal_writer_delay", "10s"), ("autovacuum", "off")],
    );
    let place = Place::new(&cluster);
    cluster.psql(&place.db, "checkpoint");
    let mut applier = place.applier();
    let make = |last: u32| {
        let mut script = Script::new();
        for first in 1..last {
            insert_u(&mut script, first * 10..first * 10 + 9);
        }
        script
    };
    applier.run_file(&place.save(make(3), "1.sql")).unwrap();
    applier.finish().unwrap();
    applier.run_file(&place.save(make(30), "2.sql")).unwrap();
    assert_eq!(place.positions.committed(), lsn_of(29));
    let flushed = place.positions.replayed_flushed();
    cluster.restart_immediate();
    assert!(place.progress() >= flushed);
    place.apply(make(30)).unwrap();
    assert_eq!(cluster.value(&place.db, "select count(*) from u"), "261");
    assert_eq!(place.progress(), lsn_of(29));
}

/// Somebody else's apply process, for another source, is left alone; a dead one of ours is ended.
#[test]
fn the_origin_of_a_dead_run_is_taken_over() {
    let place = Place::new(target());
    let mut other = Place::new(target());
    other.spec.target = place.spec.target.clone();
    place.cluster.psql(
        &place.db,
        &format!(
            "select pg_replication_origin_create('{}_too')",
            other.spec.origin
        ),
    );
    other.spec.origin += "_too";
    let mut bystander = other.applier();
    let hanging = place.applier();
    let mut script = Script::new();
    insert_u(&mut script, 1..10);
    place.apply(script).unwrap();
    assert_eq!(place.progress(), lsn_of(1));
    bystander.finish().unwrap();
    drop(hanging);
}

#[test]
fn the_position_may_be_a_row_of_a_table() {
    let mut place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create schema pgcopydb;
         create table pgcopydb.progress (origin text primary key, lsn pg_lsn not null, committed_at timestamptz);
         insert into pgcopydb.progress values ('mine', '0/0')",
    );
    place.spec.keeper = PositionKeeper::Table;
    place.spec.origin = "mine".to_owned();
    for _ in 0..2 {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        insert_u(&mut script, 10..20);
        place.apply(script).unwrap();
    }
    assert_eq!(
        place
            .cluster
            .value(&place.db, "select lsn from pgcopydb.progress"),
        "0/200"
    );
    assert_eq!(place.positions.replayed_flushed(), lsn_of(2));
    // The first one still holds it.
    let first = place.applier();
    let (spec, positions) = (place.spec.clone(), place.positions);
    let second = std::thread::spawn(move || {
        Applier::connect(&spec, &positions, &Shutdown::deaf()).map(drop)
    });
    let waiting = "select count(*) from pg_stat_activity where application_name like '% apply' and state = 'idle'
        and datname = current_database() and query like '%pg_try_advisory_lock%' and xact_start is null
        and query_start > backend_start + interval '250 ms'";
    wait_until(Duration::from_secs(10), "the second to ask again", || {
        place.cluster.value(&place.db, waiting) == "1"
    });
    assert!(!second.is_finished(), "two must not apply at a time");
    drop(first);
    second.join().unwrap().unwrap();
}

/// Extensions' operators are found: a key of citext is met by its index, and in any case.
#[test]
fn keys_of_extension_types_use_their_operators() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create extension citext; create table c (id citext primary key, v int)",
    );
    let mut script = Script::new();
    script.transaction(|changes| changes.insert("c", &[("id", some("Key")), ("v", some("1"))]));
    script.transaction(|changes| changes.update("c", &[("v", some("2"))], &id("KEY")));
    place.apply(script).unwrap();
    assert_eq!(place.rows("c"), "(Key,2)");
}

/// Trap 13: a row far larger than any buffer.
#[test]
fn a_row_of_many_megabytes_passes() {
    let place = Place::new(target());
    let value = "0123456789\\\"é".repeat(3 << 20);
    let mut script = Script::new();
    insert_u(&mut script, 1..10);
    script.transaction(|changes| {
        changes.insert("t", &[("id", some("1")), ("v", some(&value))]);
        changes.update("t", &[("w", some(&value))], &id("1"));
    });
    place.apply(script).unwrap();
    let sql = "select length(v) || ' ' || (v = w) || ' ' || right(v, 3) from t";
    assert_eq!(
        place.cluster.value(&place.db, sql),
        format!("{} true \\\"é", 13 * (3 << 20))
    );
}
