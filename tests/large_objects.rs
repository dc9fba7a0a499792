//! Large objects: every byte, owner, privilege and comment, between versions that dump them in different ways, and in
//! the snapshot like everything else.

use std::time::Duration;

use crate::support::cluster::{Cluster, rows, shared_source, shared_target};
use crate::support::cmd::{RUN_DEADLINE, Scene};
use crate::support::compare::assert_same;
use crate::support::fixtures;
use crate::support::reference::assert_same_across_versions;
use crate::support::version::Version;
use crate::support::wait_until;

/// Sizes around what is read at once, holes, and every kind of property.
const OBJECTS: &str = r#"
    select lo_from_bytea(1001, '');
    select lo_from_bytea(1002, 'x');
    select lo_from_bytea(1003, convert_to(repeat('a', 65536), 'UTF8'));
    select lo_from_bytea(1004, convert_to(repeat('b', 65537), 'UTF8'));
    select lo_from_bytea(1005, convert_to(repeat('c', 65535), 'UTF8'));
    select lo_from_bytea(1006, convert_to(repeat('d', 65536 + 1048576), 'UTF8'));
    select lo_from_bytea(1007, decode(repeat('00ff275c0a', 20000), 'hex'));
    -- 3 MB with holes at its beginning, in its middle, and up to its last byte
    select lo_create(1008);
    select lo_put(1008, 100000, 'island'), lo_put(1008, 3145727, 'x');
    select lo_create(1009);
    select lo_put(1009, 65535, 'ab');
    select lo_create(4294967295);
    comment on large object 1002 is 'it''s a "comment" \ with ü';
    alter large object 1003 owner to "fixture owner";
    grant select on large object 1003 to fixture_reader with grant option;
    set role fixture_reader; grant select on large object 1003 to fixture_group; reset role;
    grant select, update on large object 1004 to public;
    revoke all on large object 1005 from postgres;
    alter large object 1006 owner to "fixture owner";
    revoke update on large object 1006 from "fixture owner";
    comment on large object 1006 is 'mine';
    grant update on large object 1007 to fixture_group;
    create table picture (id int primary key, content oid);
    insert into picture values (1, 1002)"#;

fn fill(source: &Cluster) -> String {
    fixtures::create_roles(source);
    let db = source.new_db("blobs");
    source.psql(&db, OBJECTS);
    db
}

/// Which there are, with their properties.
fn facts(cluster: &Cluster, db: &str) -> Vec<String> {
    let sql = "select concat_ws(' ', oid, pg_get_userbyid(lomowner), lomacl, obj_description(oid, 'pg_largeobject'))
               from pg_largeobject_metadata order by oid";
    let found = cluster.rows(db, sql);
    found.into_iter().flatten().flatten().collect()
}

#[test]
fn contents_and_properties_are_the_same() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    fixtures::create_roles(target);
    let (db, copy) = (fill(source), target.new_db("blobs"));
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &[])
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    let summary = std::fs::read_to_string(scene.work_dir().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["large_objects"], 10);
    let bytes = source.value(
        &db,
        "select sum(length(lo_get(oid))) from pg_largeobject_metadata",
    );
    assert_eq!(summary["large_objects_bytes"].to_string(), bytes);
}

#[test]
fn versions_that_dump_them_differently_make_no_difference() {
    let source = shared_source();
    let (newer, newest) = (
        Cluster::start(Version::Pg17, &[]),
        Cluster::start(Version::Pg18, &[]),
    );
    let db = fill(source);
    for cluster in [&newer, &newest] {
        fixtures::create_roles(cluster);
        cluster.create_db("copy");
    }
    let pairs = [
        (source, db.as_str(), &newer, Version::Pg17),
        (&newer, "copy", &newest, Version::Pg18),
    ];
    for (from, db, to, tools) in pairs {
        let scene = Scene::new();
        let outcome = scene
            .clone_db(&from.uri(db), &to.uri("copy"), &[])
            .tools(tools)
            .run();
        outcome.assert_success(&["pg_attver"]);
        scene.assert_nothing_left(&outcome);
        assert_same_across_versions(from, db, to, "copy");
        assert_eq!(facts(from, db), facts(to, "copy"));
    }
}

#[test]
fn what_the_user_does_not_want_is_left_out() {
    let (source, target) = (shared_source(), shared_target());
    fixtures::create_roles(target);
    let db = fill(source);
    let run = |more: &[&str]| {
        let (scene, copy) = (Scene::new(), target.new_db("blobs"));
        let (from, to) = (source.uri(&db), target.uri(&copy));
        scene.clone_db(&from, &to, more).run().assert_success(&[]);
        facts(target, &copy)
    };
    assert_eq!(run(&["--skip-large-objects"]), Vec::<String>::new());
    let bare = run(&["--no-owner", "--no-acl", "--no-comments"]);
    assert_eq!(bare.len(), 10);
    assert!(
        bare.iter().all(|fact| fact.ends_with(" postgres")),
        "{bare:?}"
    );
    let without_acl = run(&["--no-acl"]);
    assert_eq!(without_acl[2], "1003 fixture owner");
    assert_eq!(without_acl[5], "1006 fixture owner mine");
    let without_comments = run(&["--no-comments"]);
    assert_eq!(without_comments[1], "1002 postgres");
    assert!(
        without_comments[3].contains("=rw/postgres"),
        "{without_comments:?}"
    );
    let without_owner = run(&["--no-owner"]);
    assert!(
        without_owner[5].starts_with("1006 postgres"),
        "{without_owner:?}"
    );
    assert!(without_owner[5].ends_with("mine"), "{without_owner:?}");
}

/// #558: the snapshot decides which there are.
#[test]
fn the_snapshot_decides_which_are_copied() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    fixtures::create_roles(target);
    let (db, copy) = (fill(source), target.new_db("blobs"));
    let mut holder = source.client(&db);
    let sql = "begin isolation level repeatable read; select pg_export_snapshot()";
    let id = rows(&mut holder, sql)[0][0].clone().unwrap();
    let before = facts(source, &db);
    source.psql(
        &db,
        "select lo_unlink(1006), lo_unlink(1002), lo_unlink(1008);
         select lo_from_bytea(7777, 'too late'); select lo_put(1003, 0, 'changed')",
    );
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &["--snapshot", &id])
        .run();
    outcome.assert_success(&[]);
    assert_eq!(facts(target, &copy), before);
    let md5 = "select string_agg(md5(lo_get(oid)), ' ' order by oid) from pg_largeobject_metadata";
    let seen = rows(&mut holder, md5);
    assert_eq!(rows(&mut target.client(&copy), md5), seen);
}

#[test]
fn many_are_copied_in_batches_and_after_a_kill_once() {
    let (source, target) = (shared_source(), shared_target());
    let db = source.new_db("blobs");
    source.psql(
        &db,
        "select count(lo_from_bytea(g, convert_to(repeat('x', g % 300) || g, 'UTF8')))
           from generate_series(20000, 24999) g",
    );
    let (scene, copy) = (Scene::new(), target.new_db("blobs"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let jobs = ["--large-objects-jobs", "2"];
    let killed = scene
        .clone_db(&from, &to, &jobs)
        .env("PGCOPYDB_FAILPOINT", "blobs.before_commit=kill:2")
        .run();
    killed.assert_last_error(12, &["large-object worker", "SIGKILL"]);
    let outcome = scene
        .clone_db(
            &from,
            &to,
            &["--resume", "--not-consistent", "--large-objects-jobs", "4"],
        )
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    let batches = std::fs::read_dir(scene.work_dir().join("run/blobs")).unwrap();
    assert_eq!(batches.count(), 5);
    scene.assert_nothing_left(&outcome);
}

#[test]
fn large_objects_of_the_user_are_left_alone() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    fixtures::create_roles(target);
    let (db, copy) = (fill(source), target.new_db("blobs"));
    target.psql(&copy, "select lo_from_bytea(1005, 'mine')");
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let outcome = scene.clone_db(&from, &to, &[]).run();
    let texts = ["target not empty", "large objects", "1005"];
    outcome.assert_last_error(7, &texts);
    let content = "select convert_from(lo_get(1005), 'UTF8')";
    assert_eq!(target.value(&copy, content), "mine");
    let outcome = scene.clone_db(&from, &to, &["--drop-if-exists"]).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

#[test]
fn a_session_that_is_terminated_copies_its_batch_again() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    fixtures::create_roles(target);
    let (db, copy) = (fill(source), target.new_db("blobs"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
        .run()
        .assert_last_error(12, &["fault point"]);
    // Not yet committed, in the way of the same oid.
    let mut lock = target.client(&copy);
    lock.batch_execute("begin; select lo_create(1009)").unwrap();
    let more = ["--resume", "--not-consistent"];
    let mut run = scene.clone_db(&from, &to, &more).spawn();
    let worker = format!(
        "from pg_stat_activity where datname = '{copy}' and wait_event_type = 'Lock'
           and application_name like '%large-object worker 1'"
    );
    wait_until(Duration::from_secs(20), "the worker to wait", || {
        assert!(run.is_running(), "{}", run.stderr());
        target.value("postgres", &format!("select count(*) {worker}")) == "1"
    });
    let end = format!("select count(pg_terminate_backend(pid)) {worker}");
    assert_eq!(target.value("postgres", &end), "1");
    lock.batch_execute("rollback").unwrap();
    let outcome = run.wait_deadline(Duration::from_secs(30));
    outcome.assert_success(&["trying again (large objects 1001 to"]);
    assert_same(source, &db, target, &copy);
}

/// A role that is missing on the target costs what it was granted, nothing else.
#[test]
fn a_privilege_that_the_target_refuses_is_named_and_granted_by_a_resume() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    fixtures::create_roles(target);
    let (db, copy) = (fill(source), target.new_db("blobs"));
    source.psql(
        &db,
        "create role \"only here\"; grant select on large object 1002 to \"only here\"",
    );
    let (from, to) = (source.uri(&db), target.uri(&copy));
    // The roles are looked at before anything is done: this one is dropped after that.
    let outcome = scene.clone_db(&from, &to, &["--no-owner"]).run();
    outcome.assert_last_error(7, &["do not exist on the target: only here"]);
    target.psql("postgres", "create role \"only here\"");
    let run = scene
        .clone_db(&from, &to, &["--no-owner"])
        .env("PGCOPYDB_FAILPOINT", "clone.after_dump=sleep:5000")
        .spawn();
    let dumped = scene.work_dir().join("run/dump-pre.done");
    wait_until(RUN_DEADLINE, "the dump", || dumped.exists());
    target.psql("postgres", "drop role \"only here\"");
    let outcome = run.wait_deadline(RUN_DEADLINE);
    let texts = [
        "large object 1002",
        "\"only here\" does not exist",
        "(target, SQLSTATE 42704)",
    ];
    outcome.assert_last_error(4, &texts);
    let there = target.value(&copy, "select count(*) from pg_largeobject_metadata");
    assert_eq!(there, "10");
    target.psql("postgres", "create role \"only here\"");
    let outcome = scene
        .clone_db(&from, &to, &["--no-owner", "--resume", "--not-consistent"])
        .run();
    outcome.assert_success(&[]);
    let granted = "select lomacl::text from pg_largeobject_metadata where oid = 1002";
    assert_eq!(target.value(&copy, granted), source.value(&db, granted));
}
