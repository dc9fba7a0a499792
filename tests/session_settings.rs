//! Values, names and rights do not depend on what servers, databases and roles have set as their defaults, and no timeout
//! of theirs cuts a run short. Traps 30, 35, 48 and 50.

use std::sync::OnceLock;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::Scene;
use crate::support::compare::assert_same;
use crate::support::leftovers;
use crate::support::version::Version;

/// Both sides: 17 has every timeout.
fn server() -> &'static Cluster {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    SERVER.get_or_init(|| Cluster::start(Version::Pg17, &[]))
}

/// What is written and read in many ways.
const VALUES: &str = r#"
    create type mood as enum ('it''s ok', 'bad');
    create schema other;
    create table other.looked_up (id int primary key);
    create function in_search_path() returns bigint language sql as 'select count(*) from other.looked_up';
    create table v (
        id int primary key, f4 real, f8 double precision, d date, ts timestamp, tz timestamptz, i interval,
        b bytea, m money, x xml, a timestamptz[], r tstzrange, fa float8[], c other.looked_up, t text);
    insert into v values
        (1, 1.1, 0.1::float8 + 0.2, '2024-02-03', '2024-02-03 04:05:06.789', '2024-02-03 04:05:06.789+05',
         '1 year -2 days +03:04:05.6', '\x005c27ff', '1234.56', xmlparse(content 'a<b/>c'),
         '{2024-02-03 04:05:06+05, infinity}', '[2024-02-03 00:00+00, 2024-03-04 00:00+00)',
         '{1e-300, 0.30000000000000004}', row(7), E'tab\tnew\nline\\ \\. ä€'),
        (2, 3.4028235e38, -0.0, '0044-03-15 BC', 'infinity', '-infinity', '-1 mon +1 day -00:00:00.000001',
         '', '-0.01', xmlparse(document '<?xml version="1.0"?><!DOCTYPE a><a/>'), '{}', 'empty', '{NaN,Infinity}',
         null, ''),
        (3, 'NaN', 123456789.123456789, '12345-06-07', '2024-12-31 23:59:60', '1900-01-01 00:00+00:30', '0',
         'a\\b', '0', null, null, '(,)', null, null, null);
    create table dated (at date default '2024-02-03', tz timestamptz default '2024-02-03 04:05+05',
        f float8 default 0.1, check (at > '2001-02-03'), i interval default '1 day 02:03');
    create index on dated (at) where at > '2024-02-03';
    insert into dated default values;
"#;

/// The same in ways of writing that cannot be mistaken for each other.
fn set_formats(server: &Cluster, db: &str, date_style: &str, interval_style: &str, digits: i32) {
    for setting in [
        &format!("DateStyle = '{date_style}'"),
        &format!("IntervalStyle = '{interval_style}'"),
        &format!("extra_float_digits = {digits}"),
        "TimeZone = 'Asia/Kathmandu'",
        "bytea_output = 'escape'",
        "xmloption = 'document'",
        "search_path = 'other, pg_catalog'",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "row_security = off",
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "backslash_quote = off",
        "check_function_bodies = on",
        "default_toast_compression = 'pglz'",
        "array_nulls = off",
    ] {
        server.psql("postgres", &format!("alter database {db} set {setting}"));
    }
}

#[test]
fn values_travel_exactly_whatever_the_defaults() {
    let server = server();
    let (db, copy) = (server.new_db("formats"), server.new_db("formats"));
    server.psql(&db, VALUES);
    set_formats(server, &db, "German", "sql_standard", -15);
    set_formats(server, &copy, "SQL, DMY", "iso_8601", 0);
    for (jobs, more) in [("2", None), ("1", Some("--use-copy-binary"))] {
        let scene = Scene::new();
        let mut options = vec!["--table-jobs", jobs, "--drop-if-exists"];
        options.extend(more);
        let outcome = scene
            .clone_db(&server.uri(&db), &server.uri(&copy), &options)
            .tools(Version::Pg17)
            .run();
        outcome.assert_success(&[]);
        assert_same(server, &db, server, &copy);
        scene.assert_nothing_left(&outcome);
    }
}

/// Trap 48. Each of these ends a session that does not switch it off: statements take longer, the snapshot is held
/// idle for the whole run, the workers wait for each other.
#[test]
fn no_timeout_cuts_a_run_short() {
    let server = server();
    let (db, copy) = (server.new_db("timeouts"), server.new_db("timeouts"));
    let slow = "create function slow(n int) returns int immutable language plpgsql as
                    'begin perform pg_sleep(0.01); return n; end';
         create table t (id int primary key, n int); insert into t select g, g from generate_series(1, 60) g;
         create index on t (slow(n));
         create materialized view w as select public.slow(n) from t;
         create table big as select g, repeat('x', 200) from generate_series(1, 100000) g;
         select lo_from_bytea(0, 'large')";
    server.psql(&db, slow);
    server.psql("postgres", "create role hurried superuser login");
    for setting in [
        "statement_timeout = '150ms'",
        "lock_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '200ms'",
        "idle_session_timeout = '200ms'",
        "transaction_timeout = '300ms'",
        "session_replication_role = 'replica'",
        "deadlock_timeout = '100ms'",
    ] {
        server.psql("postgres", &format!("alter role hurried set {setting}"));
    }
    let uri = |db: &str| server.uri(db).replace("user=postgres", "user=hurried");
    let scene = Scene::new();
    let clone = scene.clone_db(&uri(&db), &uri(&copy), &[]);
    let outcome = clone.tools(Version::Pg17).run();
    outcome.assert_success(&[]);
    assert_same(server, &db, server, &copy);
    scene.assert_nothing_left(&outcome);
    leftovers::assert_no_backend(server, &db);
    leftovers::assert_no_backend(server, &copy);
}

/// What a session of each kind runs with, told by a function that the target calls for each row and index entry.
#[test]
fn sessions_on_the_target_have_what_they_need() {
    let server = server();
    let (db, copy) = (server.new_db("sessions"), server.new_db("sessions"));
    server.psql(
        &db,
        "create function told(n int) returns int immutable language plpgsql as $$
         begin
           raise log 'session of %: check %, srr %, sync %, mem %, timeout %', current_setting('application_name'),
             current_setting('client_connection_check_interval'), current_setting('session_replication_role'),
             current_setting('synchronous_commit'), current_setting('maintenance_work_mem'),
             current_setting('statement_timeout');
           return n;
         end $$;
         create table t (id int, n int generated always as (told(id)) stored);
         insert into t values (1); create index on t (told(id))",
    );
    server.psql(
        "postgres",
        &format!("alter database {copy} set maintenance_work_mem = '3MB'"),
    );
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&server.uri(&db), &server.uri(&copy), &["--skip-vacuum"])
        .tools(Version::Pg17)
        .env("PGOPTIONS", "-c log_statement=all")
        .run();
    outcome.assert_success(&[]);
    let log = server.log();
    let sessions: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(&copy) && line.contains("session of pgcopydb["))
        .collect();
    for worker in ["copy worker", "index worker"] {
        let of_worker = sessions.iter().find(|line| line.contains(worker));
        let session = of_worker.unwrap_or_else(|| panic!("no {worker} in {sessions:#?}"));
        for text in ["check 2s", "srr replica", "sync off", "timeout 0"] {
            assert!(session.contains(text), "no {text} in {session}");
        }
        assert!(!session.contains("mem 3MB"), "{session}");
    }
    // PGOPTIONS reached the workers and the programs, on both sides.
    for (db, who) in [
        (&db, "copy worker"),
        (&db, "pg_dump"),
        (&copy, "copy worker"),
        (&copy, "pg_restore"),
    ] {
        let is_logged = |line: &&str| {
            line.contains(&format!(" {db} pgcopydb["))
                && line.contains(who)
                && line.contains("statement:")
        };
        assert!(log.lines().any(|line| is_logged(&line)), "{db} {who}");
    }
}

/// Trap 35: never zero rows.
#[test]
fn a_role_under_row_level_security_gets_an_error() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("rls"), target.new_db("rls"));
    source.psql(
        &db,
        "create role rls_reader login; create role rls_owner;
         create table free (id int); insert into free values (1), (2);
         create table secret (id int); insert into secret values (1), (2);
         alter table secret enable row level security;
         create policy mine on secret to rls_reader using (id = 1);
         grant select on all tables in schema public to rls_reader",
    );
    target.psql(
        &copy,
        "create role rls_reader login; create role rls_owner; drop table if exists secret",
    );
    let reader = source.uri(&db).replace("user=postgres", "user=rls_reader");
    let scene = Scene::new();
    let outcome = scene.clone_db(&reader, &target.uri(&copy), &[]).run();
    // Before anything is made: half of the rows would be no copy.
    outcome.assert_failure(
        6,
        &[
            "row security would hide rows of the source from role \"rls_reader\": \"public\".\"secret\"",
            "ALTER ROLE \"rls_reader\" BYPASSRLS",
        ],
    );
    assert_eq!(
        target.value(
            &copy,
            "select count(*) from pg_tables where tablename = 'free'"
        ),
        "0"
    );
    scene.assert_nothing_left(&outcome);
    // With the right, the same run ends well.
    source.psql(&db, "alter role rls_reader bypassrls");
    let more = ["--resume", "--not-consistent"];
    let outcome = scene.clone_db(&reader, &target.uri(&copy), &more).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

/// Trap 50: an owner who is nobody special, with a table whose rights he took from himself.
#[test]
fn an_owner_without_any_other_right_clones_his_database() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("owned"), target.new_db("owned"));
    for (server, db) in [(source, &db), (target, &copy)] {
        server.psql(
            db,
            &format!(
                "create role plain_owner login; create role plain_reader; alter database {db} owner to plain_owner"
            ),
        );
    }
    let as_owner = |uri: String| uri.replace("user=postgres", "user=plain_owner");
    source.psql(
        &db,
        "set role plain_owner;
         create extension citext;
         create schema app;
         create type app.state as enum ('new', 'old');
         create table app.parent (id bigserial primary key, name citext unique, state app.state default 'new');
         create table app.child (id int primary key, parent bigint references app.parent);
         create function app.note() returns trigger language plpgsql as 'begin new.state = ''old''; return new; end';
         create trigger note before update on app.parent for each row execute function app.note();
         create view app.children as select * from app.child;
         insert into app.parent (name) select 'name ' || g from generate_series(1, 100) g;
         insert into app.child select g, g from generate_series(1, 100) g;
         create materialized view app.names as select name from app.parent;
         create table app.frozen (id int primary key); insert into app.frozen values (1), (2);
         revoke insert, update, delete, truncate on app.frozen from plain_owner;
         grant select on app.parent to plain_reader;
         alter default privileges in schema app grant select on tables to plain_reader;
         create publication p for table app.parent;
         select lo_from_bytea(0, 'mine')",
    );
    let scene = Scene::new();
    let (from, to) = (as_owner(source.uri(&db)), as_owner(target.uri(&copy)));
    let outcome = scene.clone_db(&from, &to, &["--table-jobs", "2"]).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    scene.assert_nothing_left(&outcome);
}
