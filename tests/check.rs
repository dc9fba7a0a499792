//! `pgcopydb check`: what it finds on real servers, and that a clone between roles that own their databases and nothing
//! else works without further options.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Outcome, RUN_DEADLINE, Scene};
use crate::support::compare::{assert_same, differences};
use crate::support::reference::differences_across_versions;
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}_{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn as_role(uri: &str, role: &str) -> String {
    uri.replace("user=postgres", &format!("user={role}"))
}

/// One check with --json: its outcome, and the findings that are no PASS by id and side.
fn check(
    scene: &Scene,
    (from, to): (&str, &str),
    version: Version,
    more: &[&str],
) -> (Outcome, Value, BTreeMap<String, Value>) {
    let dir = scene.work_dir();
    let mut words = vec!["check", "--json", "--source", from, "--target", to];
    words.extend(["--dir", dir.to_str().unwrap()]);
    words.extend(more);
    let outcome = scene.command(words).tools(version).run();
    let report: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", outcome.stdout, outcome.stderr));
    assert!(!dir.exists(), "a check makes nothing");
    scene.assert_nothing_left(&outcome);
    let findings = report["findings"].as_array().unwrap();
    let bad = findings
        .iter()
        .filter(|finding| finding["verdict"] != "pass")
        .map(|finding| {
            let id = finding["id"].as_str().unwrap();
            let side = finding["side"].as_str().unwrap_or("none");
            (format!("{id} {side}"), finding.clone())
        })
        .collect();
    (outcome, report.clone(), bad)
}

fn verdicts(bad: &BTreeMap<String, Value>) -> Vec<String> {
    bad.iter()
        .map(|(id, finding)| format!("{} {id}", finding["verdict"].as_str().unwrap()))
        .collect()
}

#[track_caller]
fn assert_fix(bad: &BTreeMap<String, Value>, id: &str, text: &str) {
    let fix = bad[id]["fix"].as_str().unwrap_or_default();
    assert!(fix.contains(text), "no \"{text}\" in {fix}");
}

/// What an application has that owns its database: nothing here needs a superuser.
const OWNED: &str = "
    create schema app; create schema \"Odd Schema\";
    create extension hstore; create extension citext schema app;
    comment on extension hstore is 'data type for storing sets of (key, value) pairs';
    create domain app.positive as int check (value > 0);
    create type app.mood as enum ('sad', 'ok');
    create table app.customer (id int generated always as identity primary key, name text unique, m app.mood,
        h public.hstore, e app.citext);
    insert into app.customer (name, m, h, e) select 'c' || g, 'ok', 'a=>1', 'E' || g from generate_series(1, 300) g;
    create table app.invoice (id serial primary key, customer int references app.customer, n app.positive);
    insert into app.invoice (customer, n) select 1 + g % 300, g from generate_series(1, 500) g;
    create index on app.invoice (customer);
    create table \"Odd Schema\".events (id int, d date) partition by range (d);
    create table \"Odd Schema\".y2020 partition of \"Odd Schema\".events for values from ('2020-01-01') to ('2021-01-01');
    insert into \"Odd Schema\".events select g, '2020-05-05' from generate_series(1, 50) g;
    create table app.secret (id int primary key, owner text);
    alter table app.secret enable row level security;
    create policy mine on app.secret using (owner = current_user);
    insert into app.secret values (1, 'nobody');
    create function app.f() returns int language sql as 'select 1';
    create function app.t() returns trigger language plpgsql as 'begin return new; end';
    create trigger t before insert on app.invoice for each row execute function app.t();
    create view app.v as select count(*) from app.invoice;
    create materialized view app.mv as select count(*) from app.customer;
    create publication pub for table app.customer;
    create unlogged table app.cache (id int);
    grant usage on schema app to public; grant select on app.v to public;
    alter default privileges in schema app grant select on tables to public;
    comment on table app.invoice is 'invoices';
    select lo_from_bytea(0, 'large'); select setval('app.invoice_id_seq', 4711);";

/// A role of that name that owns a database on each server, and the two connection strings for it.
fn owned(source: &Cluster, target: &Cluster, role: &str) -> (String, String, String, String) {
    let (db, copy) = (source.new_db("owned"), target.new_db("owned"));
    for (cluster, db) in [(source, &db), (target, &copy)] {
        cluster.psql("postgres", &format!("create role {role} login"));
        cluster.psql("postgres", &format!("alter database {db} owner to {role}"));
    }
    let (from, to) = (
        as_role(&source.uri(&db), role),
        as_role(&target.uri(&copy), role),
    );
    (db, copy, from, to)
}

fn load_as(cluster: &Cluster, db: &str, role: &str, sql: &str) {
    let sql = format!("set session authorization {role}; {sql}");
    cluster.psql(db, &sql);
}

#[test]
fn owners_of_their_databases_can_clone_them() {
    let (source, role) = (shared_source(), unique("owner"));
    let newer = Cluster::start(Version::Pg18, &[]);
    for target in [shared_target(), &newer] {
        let role = format!("{role}_{}", target.version().major());
        let (db, copy, from, to) = owned(source, target, &role);
        load_as(source, &db, &role, OWNED);
        source.psql(
            "postgres",
            &format!("alter database {db} set work_mem = '8MB'"),
        );
        // It is there already, and belongs to the superuser.
        target.psql(&copy, "create extension hstore");
        let scene = Scene::new();
        let both = (from.as_str(), to.as_str());
        let (outcome, report, bad) = check(&scene, both, target.version(), &[]);
        outcome.assert_success(&[]);
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(report["verdict"], "pass");
        let outcome = scene
            .clone_db(&from, &to, &[])
            .tools(target.version())
            .run();
        outcome.assert_success(&["pg_attver"]);
        let told =
            "extensions of another role are on the target already, and keep their comments: hstore";
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
        scene.assert_nothing_left(&outcome);
        let sides = ((source, &*db), (target, &*copy));
        let found = match target.version() == source.version() {
            true => differences(sides.0, sides.1, &[]),
            false => differences_across_versions(sides.0, sides.1),
        };
        assert!(found.is_empty(), "{}", found.join("\n"));
        leftovers::assert_no_backend(source, &db);
        leftovers::assert_no_backend(target, &copy);
    }
    standby_is_seen(newer);
}

/// The same roles with every command that does a part of it, and with those that look.
#[test]
fn owners_of_their_databases_can_use_every_section() {
    let (source, target, role) = (shared_source(), shared_target(), unique("sections"));
    let (db, copy, from, to) = owned(source, target, &role);
    load_as(source, &db, &role, OWNED);
    target.psql(&copy, "create extension hstore");
    let scene = Scene::new();
    let dir = scene.work_dir();
    let filters = "[exclude-schema]\napp\n";
    std::fs::write(scene.path("tmp").join("filters.ini"), filters).unwrap();
    let invocation = |words: &str| {
        let script = format!(
            "export PGCOPYDB_SOURCE_PGURI='{from}' PGCOPYDB_TARGET_PGURI='{to}'
             pgcopydb {words} {}",
            match words.starts_with("list") && !words.contains("progress") || words == "ping" {
                true => String::new(),
                false => format!("--dir '{}'", dir.display()),
            }
        );
        scene.bash(&script)
    };
    let run = |words: &str| -> Outcome {
        let outcome = invocation(words).run();
        let log = &outcome.stderr;
        assert!(outcome.status.success(), "{words}\n{}{log}", outcome.stdout);
        outcome.assert_no_unexpected(&["passwords are left out"]);
        outcome
    };
    run("ping");
    for what in [
        "databases",
        "extensions",
        "collations",
        "tables",
        "table-parts --table-name customer --split-tables-larger-than 1kB",
        "sequences",
        "indexes",
        "depends --filters filters.ini",
        "schema",
    ] {
        run(&format!("list {what}"));
    }
    run("check");
    let mut holder = invocation("snapshot").spawn();
    wait_until(RUN_DEADLINE, "the snapshot to be held", || {
        assert!(holder.is_running(), "{}", holder.stderr());
        holder.stderr().contains("holding it until a signal")
    });
    for section in [
        "dump schema",
        "dump pre-data",
        "dump post-data",
        "restore pre-data",
        "copy table-data",
        "copy blobs",
        "copy sequences",
        "copy indexes",
        "copy constraints",
        "restore post-data",
        "copy data",
        "restore schema",
    ] {
        run(&format!("{section} --resume"));
    }
    for more in [
        "restore parse-list",
        "list progress --summary",
        "copy extensions",
        "dump roles",
    ] {
        run(more);
    }
    for process in holder.processes() {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGTERM);
    }
    let outcome = holder.wait_deadline(RUN_DEADLINE);
    scene.assert_nothing_left(&outcome);
    // The comment of the extension that is somebody else's is not ours to set.
    target.psql(
        &copy,
        "comment on extension hstore is 'data type for storing sets of (key, value) pairs'",
    );
    for what in ["schema", "data"] {
        run(&format!("compare {what}"));
    }
    assert_same(source, &db, target, &copy);
    leftovers::assert_no_backend(source, &db);
    leftovers::assert_no_backend(target, &copy);
}

/// A standby as both sides: nothing can be written there, and unlogged tables have no rows.
fn standby_is_seen(cluster: Cluster) {
    cluster.create_db("a");
    cluster.psql("a", "create unlogged table u (id int)");
    cluster.create_db("b");
    cluster.stop(StopMode::Fast);
    std::fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
    cluster.start_again();
    let (from, to) = (cluster.uri("a"), cluster.uri("b"));
    let (outcome, report, bad) = check(&Scene::new(), (&from, &to), Version::Pg18, &[]);
    outcome.assert_last_error(7, &["1 of the checks failed"]);
    assert_eq!(
        verdicts(&bad),
        [
            "warn standby-feedback source",
            "fail target-standby target",
            "warn unlogged-tables source"
        ]
    );
    assert_eq!(
        bad["unlogged-tables source"]["objects"][0],
        "\"public\".\"u\""
    );
    assert_eq!(
        (&report["exit_code"], &report["failures"]),
        (&7.into(), &1.into())
    );
}

/// Before 15 the role that made the cluster owns schema "public": its owner there is the target's business.
#[test]
fn a_schema_public_of_old_is_left_to_the_target() {
    let source = Cluster::start(Version::Pg14, &[]);
    let (target, role) = (shared_target(), unique("owner"));
    let (db, copy, from, to) = owned(&source, target, &role);
    load_as(
        &source,
        &db,
        &role,
        "create table t (id int primary key); insert into t values (1)",
    );
    let scene = Scene::new();
    let outcome = scene.clone_db(&from, &to, &[]).run();
    outcome.assert_success(&[]);
    assert_eq!(target.value(&copy, "select count(*) from t"), "1");
    let owner = "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'public'";
    assert_eq!(target.value(&copy, owner), "pg_database_owner");
}

/// As a provider makes it: the right to create on the database, and none on the schema that is there.
#[test]
fn a_schema_that_is_closed_is_told_before_the_copy() {
    let (source, target, role) = (shared_source(), shared_target(), unique("closed"));
    let db = source.new_db("closed");
    source.psql(
        &db,
        "create table t (id int primary key); insert into t values (1)",
    );
    let copy = target.new_db("closed");
    target.psql(
        &copy,
        &format!("create role {role} login; grant create on database {copy} to {role}"),
    );
    let (from, to) = (source.uri(&db), as_role(&target.uri(&copy), &role));
    let scene = Scene::new();
    let (outcome, _, bad) = check(&scene, (&from, &to), Version::Debian15, &["--no-owner"]);
    assert!(!outcome.status.success(), "{}", outcome.stdout);
    assert_eq!(bad["schema-right target"]["objects"][0], "public");
    assert_fix(
        &bad,
        "schema-right target",
        "GRANT CREATE ON SCHEMA \"public\" TO",
    );
    target.psql(&copy, &format!("grant create on schema public to {role}"));
    let (outcome, _, bad) = check(&scene, (&from, &to), Version::Debian15, &["--no-owner"]);
    assert!(outcome.status.success(), "{:?}", verdicts(&bad));
    let outcome = scene.clone_db(&from, &to, &["--no-owner"]).run();
    outcome.assert_success(&[]);
}

/// One source and one target with everything wrong that can be: all of it is told at once.
#[test]
fn all_that_is_wrong_is_told_at_once() {
    let (source, target) = (shared_source(), shared_target());
    let (reader, writer) = (unique("reader"), unique("writer"));
    let (db, copy) = (unique("wrong"), unique("wrong"));
    source.psql(
        "postgres",
        &format!(
            "create database {db} template template0 locale_provider icu icu_locale 'en' locale 'C.UTF-8'"
        ),
    );
    target.psql(
        "postgres",
        &format!("create database {copy} template template0 encoding 'LATIN1' locale 'C'"),
    );
    let space = unique("space");
    for (cluster, db) in [(source, &db), (target, &copy)] {
        let mut client = cluster.client(db);
        client
            .batch_execute("set allow_in_place_tablespaces = on")
            .unwrap();
        let sql = format!("create tablespace {space} location ''");
        client.batch_execute(&sql).unwrap();
    }
    source.psql(
        &db,
        &format!(
            "create role {reader} login connection limit 4; create role {reader}_gone;
             create table closed (id int); create table hidden (id int) tablespace {space};
             alter table hidden enable row level security; create policy p on hidden to {reader} using (id > 0);
             grant select on hidden to {reader};
             create table mine (id int); alter table mine owner to {reader}; alter table mine enable row level security;
             alter table mine force row level security;
             create table gone (id int); alter table gone owner to {reader}_gone; grant select on gone to {reader};
             create extension dblink; create extension citext;
             create publication \"All\" for all tables;
             create server s foreign data wrapper dblink_fdw; create user mapping for postgres server s options (user 'x');
             create function ev() returns event_trigger language plpgsql as 'begin end';
             create event trigger ev on ddl_command_start execute function ev();
             select lo_from_bytea(0, 'closed');
             create collation stale (provider = icu, locale = 'de'); create table sorted (t text collate stale);
             grant select on sorted to {reader};
             update pg_extension set extversion = '99.1' where extname = 'citext';
             update pg_collation set collversion = '0.1' where collname = 'stale';
             update pg_database set datcollversion = '0.1' where datname = current_database()"
        ),
    );
    target.psql(
        &copy,
        &format!(
            "create role {writer} login; create role {reader}; create table mine (id int);
             create function ev() returns event_trigger language plpgsql as 'begin end';
             create event trigger \"Watch\" on ddl_command_start execute function ev()"
        ),
    );
    let from = as_role(&source.uri(&db), &reader);
    let to = as_role(&target.uri(&copy), &writer);
    let scene = Scene::new();
    let (outcome, report, bad) = check(&scene, (&from, &to), Version::Debian15, &[]);
    assert_eq!(
        verdicts(&bad),
        [
            "warn collation-version source",
            "warn collations source",
            "fail connections source",
            "fail create-right target",
            "warn encoding target",
            "warn event-triggers target",
            "fail extension-right target",
            "warn extension-versions target",
            "fail large-object-right source",
            "warn locale target",
            "fail owners target",
            "fail read-right source",
            "fail roles target",
            "fail row-security source",
            "fail schema-right target",
            "warn superuser-objects target",
            "fail tablespace-right target",
            "fail target-empty target",
            "warn user-mappings source",
        ]
    );
    outcome.assert_last_error(7, &["11 of the checks failed"]);
    assert_eq!(report["exit_code"], 7);
    let objects = |id: &str| bad[id]["objects"].to_string();
    assert_eq!(objects("read-right source"), r#"["\"public\".\"closed\""]"#);
    assert_eq!(
        objects("row-security source"),
        r#"["\"public\".\"hidden\"","\"public\".\"mine\""]"#
    );
    assert_eq!(objects("roles target"), format!("[\"{reader}_gone\"]"));
    assert!(objects("owners target").contains("postgres"));
    assert_eq!(objects("target-empty target"), r#"["\"public\".\"mine\""]"#);
    for (id, text) in [
        (
            "connections source",
            format!("ALTER ROLE \"{reader}\" CONNECTION LIMIT -1"),
        ),
        (
            "create-right target",
            format!("GRANT CREATE ON DATABASE \"{copy}\" TO \"{writer}\""),
        ),
        (
            "extension-right target",
            "CREATE EXTENSION \"dblink\" SCHEMA \"public\"".to_owned(),
        ),
        (
            "row-security source",
            format!("ALTER ROLE \"{reader}\" BYPASSRLS"),
        ),
        (
            "read-right source",
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA \"public\" TO \"{reader}\""),
        ),
        (
            "tablespace-right target",
            format!("GRANT CREATE ON TABLESPACE \"{space}\""),
        ),
        (
            "event-triggers target",
            "ALTER EVENT TRIGGER \"Watch\" DISABLE".to_owned(),
        ),
        (
            "encoding target",
            "TEMPLATE template0 ENCODING 'UTF8'".to_owned(),
        ),
    ] {
        assert_fix(&bad, id, &text);
    }
    // A clone refuses, with the same code, and makes nothing. What it is told to leave out need not be possible.
    let outcome = scene.clone_db(&from, &to, &[]).run();
    outcome.assert_last_error(7, &["has no right to create objects"]);
    scene.assert_nothing_left(&outcome);
    let more = [
        "-cOx",
        "--no-tablespaces",
        "--skip-extensions",
        "--skip-large-objects",
        "--table-jobs",
        "1",
    ];
    let (_, _, bad) = check(&Scene::new(), (&from, &to), Version::Debian15, &more);
    for id in [
        "roles target",
        "owners target",
        "tablespace-right target",
        "extension-right target",
    ] {
        assert!(!bad.contains_key(id), "{id}");
    }
    assert!(
        !bad.contains_key("target-empty target") && !bad.contains_key("large-object-right source")
    );
    // Nor need what the filters leave out.
    let filters = scene.path("filters.ini");
    let text = "[exclude-table]\npublic.closed\npublic.gone\npublic.hidden\npublic.mine\n";
    std::fs::write(&filters, text).unwrap();
    let more = ["--filters", filters.to_str().unwrap()];
    let (_, _, bad) = check(&Scene::new(), (&from, &to), Version::Debian15, &more);
    for id in [
        "read-right source",
        "row-security source",
        "roles target",
        "target-empty target",
        "tablespace-right target",
    ] {
        assert!(!bad.contains_key(id), "{id}: {bad:#?}");
    }
    assert!(
        bad.contains_key("owners target") && !bad.contains_key("filters source"),
        "{bad:#?}"
    );
    for (cluster, db) in [(source, &db), (target, &copy)] {
        cluster.psql("postgres", &format!("drop database {db}"));
        cluster.psql("postgres", &format!("drop tablespace {space}"));
    }
}

#[test]
fn a_database_is_not_checked_against_itself() {
    let source = shared_source();
    let db = source.new_db("same");
    let (from, to) = (source.uri(&db), source.tcp_uri(&db, source.port()));
    let (outcome, report, bad) = check(&Scene::new(), (&from, &to), Version::Debian15, &[]);
    outcome.assert_last_error(1, &["1 of the checks failed"]);
    assert_eq!(verdicts(&bad), ["fail same-database none"]);
    assert_eq!(report["exit_code"], 1);
    // Without --json, for people.
    let words = ["check", "--source", &from, "--target", &to];
    let outcome = Scene::new().command(words).run();
    let text = outcome.stdout;
    assert!(
        text.starts_with("Servers and programs\n  PASS  source-version"),
        "{text}"
    );
    assert!(
        text.contains("  FAIL  same-database") && text.contains("1 failures\n"),
        "{text}"
    );
}

/// What following needs, all of it missing; and too many tables for the lock table.
#[test]
fn what_following_needs_is_checked() {
    let source = Cluster::start(
        Version::Debian15,
        &[
            ("wal_level", "replica"),
            ("max_prepared_transactions", "2"),
            ("max_replication_slots", "1"),
            ("max_wal_senders", "1"),
            ("max_locks_per_transaction", "10"),
            ("max_connections", "20"),
        ],
    );
    let target = shared_target();
    let (db, copy) = (source.new_db("follow"), target.new_db("follow"));
    source.psql(
        &db,
        "select pg_create_physical_replication_slot('taken'); create table keyless (id int); select lo_from_bytea(0, 'x')",
    );
    // In several transactions, for want of locks.
    for batch in 0..5 {
        let tables: Vec<String> = (0..100)
            .map(|number| format!("create table t{batch}_{number} ()"))
            .collect();
        source.psql(&db, &tables.join(";"));
    }
    source.psql(
        &db,
        "begin; insert into keyless values (1); prepare transaction 'it''s'",
    );
    let weak = unique("weak");
    target.psql("postgres", &format!("create role {weak} login"));
    let from = format!(
        "{}&options=-c%20dynamic_library_path%3D/nowhere",
        source.uri(&db)
    );
    let to = as_role(&target.uri(&copy), &weak);
    let more = [
        "--follow", "--plugin", "wal2json", "-O", "-x", "--jobs", "20",
    ];
    let (outcome, _, bad) = check(&Scene::new(), (&from, &to), Version::Debian15, &more);
    let expected = [
        "fail connections source",
        "fail create-right target",
        "warn large-objects source",
        "warn locks source",
        "fail output-plugin source",
        "fail plugin-library source",
        "warn prepared-transactions source",
        "fail replica-identity source",
        "fail replication-origin target",
        "fail replication-role target",
        "fail replication-slots source",
        "fail schema-right target",
        "fail wal-level source",
        "warn wal-senders source",
    ];
    assert_eq!(verdicts(&bad), expected);
    outcome.assert_last_error(7, &["of the checks failed"]);
    assert_fix(
        &bad,
        "prepared-transactions source",
        "ROLLBACK PREPARED 'it''s'",
    );
    assert_fix(
        &bad,
        "replica-identity source",
        "ALTER TABLE \"public\".\"keyless\" REPLICA IDENTITY FULL;",
    );
    assert_fix(
        &bad,
        "wal-level source",
        "ALTER SYSTEM SET wal_level = logical",
    );
    assert_eq!(
        target.value(
            &copy,
            "select count(*) from pg_namespace where nspname = 'pgcopydb'"
        ),
        "0"
    );
}

/// A slot that somebody made is said; and a clone that is to follow makes none before it knows that it can copy.
#[test]
fn no_slot_is_made_for_a_copy_that_cannot_work() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy, slot) = (
        source.new_db("slot"),
        target.new_db("slot"),
        unique("check_slot"),
    );
    source.psql(&db, "create table t (id int primary key)");
    target.psql(&copy, "create table t (id int primary key)");
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let follow = ["--follow", "--slot-name", &slot, "--origin", &slot];
    let scene = Scene::new();
    let (_, _, bad) = check(&scene, (&from, &to), Version::Debian15, &follow);
    assert_eq!(verdicts(&bad), ["fail target-empty target"]);
    let outcome = scene.clone_db(&from, &to, &follow).run();
    assert!(
        outcome.stderr.contains("target not empty"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.status.success());
    scene.assert_nothing_left(&outcome);
    let slots = format!("select count(*) from pg_replication_slots where slot_name = '{slot}'");
    assert_eq!(source.value(&db, &slots), "0");
    target.psql(&copy, "drop table t");
    let make = format!("select pg_create_logical_replication_slot('{slot}', 'test_decoding')");
    source.psql(&db, &make);
    let (outcome, _, bad) = check(&Scene::new(), (&from, &to), Version::Debian15, &follow);
    assert_eq!(verdicts(&bad), ["warn slot source"]);
    outcome.assert_success(&[]);
    source.psql(&db, &format!("select pg_drop_replication_slot('{slot}')"));
    assert_same(source, &db, source, &db);
}

#[test]
fn shells_understand_their_completions() {
    let scene = Scene::new();
    let outcome = scene.command(["completion", "bash"]).run();
    outcome.assert_success(&[]);
    let file = scene.path("completion.bash");
    // Ask it as bash does: the second word begins with "fo".
    let script = format!(
        "{}\nCOMP_WORDS=(pgcopydb fo); COMP_CWORD=1; _pgcopydb pgcopydb fo pgcopydb; echo \"${{COMPREPLY[@]}}\"\n",
        outcome.stdout
    );
    std::fs::write(&file, script).unwrap();
    let output = Command::new("bash").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["fork", "follow"], "{output:?}");
    for (shell, text) in [
        ("zsh", "#compdef pgcopydb"),
        ("fish", "complete -c pgcopydb"),
    ] {
        let outcome = scene.command(["completion", shell]).run();
        outcome.assert_success(&[]);
        assert!(outcome.stdout.contains(text));
    }
    scene
        .command(["completion", "tcsh"])
        .run()
        .assert_last_error(1, &["tcsh"]);
}
