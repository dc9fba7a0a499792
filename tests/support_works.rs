//! The test support itself: a comparison that misses a difference, or a server that is not thrown away, would make
//! every other test worthless.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Scene, unexpected_lines};
use crate::support::compare::{assert_same, differences};
use crate::support::proxy::Proxy;
use crate::support::reference::{
    assert_same_across_versions, copy_with_pg_dump, differences_across_versions,
};
use crate::support::version::Version;
use crate::support::workload::{self, Workload};
use crate::support::{fixtures, leftovers, wait_until};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn every_version_starts_and_loads_everything() {
    for version in Version::ALL {
        let cluster = Cluster::start(version, &[("work_mem", "5MB")]);
        assert_eq!(cluster.value("postgres", "show work_mem"), "5MB");
        let db = cluster.new_db("everything");
        fixtures::load_everything(&cluster, &db);
        let found = differences((&cluster, &db), (&cluster, &db), &[]);
        assert_eq!(found, Vec::<String>::new(), "{version:?}");
    }
}

/// Without what pg_dump copies only together with the database itself: settings, privileges, comment.
fn assert_only_properties(found: &[String]) {
    let is_property = |line: &&String| {
        line.starts_with("differs: database\n") || line.contains(": settings of role ")
    };
    let (properties, rest): (Vec<&String>, Vec<&String>) = found.iter().partition(is_property);
    assert_eq!(properties.len(), 3, "{properties:?}");
    assert!(rest.is_empty(), "{rest:#?}");
}

#[test]
fn a_copy_by_pg_dump_differs_in_nothing() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("whole"), target.new_db("whole"));
    fixtures::load_everything(source, &db);
    fixtures::load_icu(source, &db);
    fixtures::create_roles(target);
    copy_with_pg_dump((source, &db), (target, &copy));
    assert_only_properties(&differences((source, &db), (target, &copy), &[]));
}

#[test]
fn a_copy_to_a_newer_version_differs_in_nothing() {
    let pairs = [
        (Version::Pg10, Version::Pg15),
        (Version::Debian15, Version::Pg17),
        (Version::Pg13, Version::Pg18),
    ];
    for (from, to) in pairs {
        let (source, target) = (Cluster::start(from, &[]), Cluster::start(to, &[]));
        source.create_db("whole");
        target.create_db("whole");
        fixtures::load_everything(&source, "whole");
        fixtures::create_roles(&target);
        copy_with_pg_dump((&source, "whole"), (&target, "whole"));
        let both = ((&source, "whole"), (&target, "whole"));
        assert_only_properties(&differences_across_versions(both.0, both.1));
        target.psql("whole", "update app.numbers set f8 = 1e-307 where id = 2");
        let found = differences_across_versions(both.0, both.1);
        assert_eq!(found.len(), 4, "{found:#?}");
    }
}

#[test]
fn pagila_loads_and_equals_its_copy() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("pagila"), target.new_db("pagila"));
    if !fixtures::load_pagila(source, &db) {
        return;
    }
    assert_eq!(source.value(&db, "select count(*) from film"), "1000");
    copy_with_pg_dump((source, &db), (target, &copy));
    assert_same(source, &db, target, &copy);
    assert_same_across_versions(source, &db, target, &copy);
}

#[test]
fn each_kind_of_difference_is_found() {
    let (source, target) = (shared_source(), Cluster::start(Version::Pg17, &[]));
    let base = "create table t (id int primary key, v text); insert into t values (1, 'a'), (2, ''), (3, null);
                create index by_v on t (v); create sequence s; create table empty ();
                select lo_from_bytea(42, 'abc'); create materialized view m as select 1 as one;";
    let db = source.new_db("base");
    source.psql(&db, base);
    let changes = [
        ("", ""),
        (
            "update t set v = null where id = 2",
            r#"rows of "public"."t""#,
        ),
        ("delete from t where id = 3", r#"rows of "public"."t""#),
        (
            "insert into empty default values",
            r#"rows of "public"."empty""#,
        ),
        ("drop index by_v", "schema: by_v; Type: INDEX"),
        (
            "alter table t rename constraint t_pkey to other",
            "schema: t t_pkey; Type: CONSTRAINT",
        ),
        ("select setval('s', 7)", r#"sequence "public"."s""#),
        ("select setval('s', 1, true)", r#"sequence "public"."s""#),
        ("select lo_put(42, 0, 'x')", "large object 42"),
        ("comment on large object 42 is 'no'", "large object 42"),
        (
            "refresh materialized view m with no data",
            r#"rows of "public"."m""#,
        ),
        (
            "alter table t alter v set default ''",
            "schema: t; Type: TABLE",
        ),
        ("create view extra as select 1", "schema: extra; Type: VIEW"),
    ];
    for (change, name) in changes {
        let copy = target.new_db("changed");
        target.psql(&copy, base);
        target.psql(&copy, change);
        let found = differences((source, &db), (&target, &copy), &[]);
        if change.is_empty() {
            assert_eq!(found, Vec::<String>::new());
        } else {
            let is_found = found.iter().any(|line| line.contains(name));
            assert!(is_found, "{change}: {found:?}");
        }
    }
}

#[test]
fn an_immediate_restart_loses_what_was_not_flushed() {
    let cluster = Cluster::start(
        Version::Debian15,
        &[("fsync", "on"), ("wal_writer_delay", "10s")],
    );
    cluster.psql("postgres", "create table t (i int)");
    cluster.psql(
        "postgres",
        "set synchronous_commit = on; insert into t values (1)",
    );
    cluster.restart_immediate();
    assert_eq!(cluster.value("postgres", "select count(*) from t"), "1");
    assert!(cluster.log().contains("automatic recovery in progress"));
    cluster.stop(StopMode::Smart);
    cluster.configure(&[("max_connections", "30")]);
    cluster.start_again();
    assert_eq!(cluster.value("postgres", "show max_connections"), "30");
    assert!(cluster.stop(StopMode::Fast).success());
    let dir = cluster.socket_dir().to_owned();
    drop(cluster);
    assert!(!dir.exists());
}

#[test]
fn runs_are_captured_and_their_remains_found() {
    let scene = Scene::new();
    let outcome = scene.command(["--no-such-option"]).run();
    outcome.assert_failure(1, &["--no-such-option"]);
    scene.assert_nothing_left(&outcome);
    let outcome = scene.clone_db("no_such_word=1", "dbname=x", &[]).run();
    outcome.assert_failure(1, &["no_such_word"]);
    let outcome = scene.command(["version"]).tools(Version::Pg17).run();
    outcome.assert_success(&[]);
    assert!(outcome.stdout.contains("pgcopydb"), "{outcome:?}");
    // A process that shows the work directory in its arguments, as pg_dump does, is found without the variable.
    let script = ["-c", "read -r line"];
    let mut child = Command::new("sh")
        .args(script)
        .arg(scene.work_dir())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Between fork and exec it still looks like us.
    wait_until(MINUTE, "the child to be found", || {
        !scene.processes().is_empty()
    });
    assert_eq!(scene.processes()[0].pid, child.id() as i32);
    assert_eq!(scene.processes()[0].parent, std::process::id() as i32);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(scene.processes(), []);
}

#[test]
fn unlisted_warnings_are_found_in_a_log() {
    let log = "12:00:00.123 77 INFO could not care less about ERROR\n\
               12:00:00.124 77 WARN table \"t\" has no key\n\
               12:00:00.125 78 ERROR could not copy\n\
               DETAIL: a detail\n\
               thread 'main' panicked at src/lib.rs:1:1\n";
    assert_eq!(unexpected_lines(log, &[]).len(), 3);
    assert_eq!(
        unexpected_lines(log, &["has no key", "panicked"]),
        ["12:00:00.125 78 ERROR could not copy"]
    );
}

#[test]
fn the_proxy_forwards_cuts_and_refuses() {
    let source = shared_source();
    let proxy = Proxy::start(source.port());
    let uri = source.tcp_uri("postgres", proxy.port());
    let connect = || postgres::Client::connect(&uri, postgres::NoTls);
    let mut client = connect().unwrap();
    let big = "select repeat('x', 1000000)";
    client.simple_query(big).unwrap();
    let (sent, received) = proxy.bytes();
    assert!(sent > 50 && received > 1_000_000, "{sent} {received}");
    proxy.cut_after(500_000);
    client.simple_query(big).unwrap_err();
    assert_eq!(proxy.bytes().1, received + 500_000);
    proxy.refuse(true);
    let error = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.refuse(false);
    proxy.delay(Duration::from_millis(1));
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    // An SSLRequest, which this server answers with one byte.
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    proxy.cut();
    assert_eq!(stream.read(&mut answer).unwrap_or(0), 0);
}

#[test]
fn foreign_backends_are_found() {
    let source = shared_source();
    let db = source.new_db("backends");
    leftovers::assert_no_backend(source, &db);
    let mut other = postgres::Client::connect(&source.uri(&db), postgres::NoTls).unwrap();
    other
        .batch_execute("set application_name = 'pgcopydb[1]'")
        .unwrap();
    let found = leftovers::backends(source, &db);
    assert_eq!(found, ["pgcopydb[1]: set application_name = 'pgcopydb[1]'"]);
    drop(other);
    leftovers::assert_no_backend(source, &db);
}

#[test]
fn a_run_in_the_background_is_signalled() {
    let scene = Scene::new();
    let source = shared_source();
    let proxy = Proxy::start(source.port());
    proxy.refuse(true);
    // It waits up to a minute for a server that refuses connections.
    let uri = source.tcp_uri("postgres", proxy.port());
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut run = scene
            .command(["ping", "--source", &uri, "--target", &uri])
            .spawn();
        wait_until(MINUTE, "the first attempt", || {
            assert!(run.is_running(), "{}", run.stderr());
            run.stderr().contains("refused")
        });
        assert!(
            run.processes()
                .iter()
                .any(|process| process.pid == run.pid())
        );
        match signal {
            Signal::SIGTERM => run.term(),
            _ => run.kill9(),
        }
        let outcome = run.wait_deadline(MINUTE);
        outcome.assert_signalled(signal);
        assert!(outcome.elapsed < MINUTE, "{outcome:?}");
        scene.assert_nothing_left(&outcome);
    }
}

/// Each kind of statement is one that the server takes, on the oldest and the newest that tests follow.
#[test]
fn the_workload_runs() {
    for version in [Version::Debian15, Version::Pg18] {
        let cluster = Cluster::start(version, &[("max_prepared_transactions", "10")]);
        let db = cluster.new_db("workload");
        workload::create(&cluster, &db, true);
        let load = Workload::start(&cluster, &db);
        load.allow_truncate();
        load.wait_for(300);
        cluster.restart_immediate();
        load.wait_for(300);
        assert!(load.finish() >= 600);
        let prepared = "select count(*) from pg_prepared_xacts";
        assert_eq!(cluster.value(&db, prepared), "0");
    }
}
