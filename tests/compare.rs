//! `compare schema` and `compare data`: equal databases are found equal, also across versions and while a follow runs; one
//! byte, one row, one index, one default and one owner are found and named.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Running};
use crate::support::fixtures;
use crate::support::following::{Following, shared};
use crate::support::migration::Migration;
use crate::support::version::Version;
use crate::support::workload::{self, Workload};

/// One database of odd names on both sides.
const TABLES: &str = r#"
    create schema "Odd ""s"".%s";
    set search_path = "Odd ""s"".%s";
    create table "T ""1"" é" (id int primary key, "v x" text default 'a', f float8);
    insert into "T ""1"" é" select i, 'value ' || i, i / 3.0 from generate_series(1, 3000) i;
    create index "i ""1""" on "T ""1"" é" ("v x");
    create table keyless (a int, b text);
    insert into keyless select i % 7, 'b' from generate_series(1, 100) i;
    create table pairs (a int, b text, c bytea, primary key (b, a));
    insert into pairs select i, 'b' || i % 10, decode(md5(i::text), 'hex') from generate_series(1, 50000) i;
    create table untouched (id uuid primary key, n numeric);
    insert into untouched select md5(i::text)::uuid, i from generate_series(1, 100) i;
    create view shown as select id, "v x" from "T ""1"" é" where id > 10;
    create materialized view kept as select count(*) as n from keyless;
    create sequence counted start 10;
    create function twice(i int) returns int language sql as 'select i * 2';
"#;

const SCHEMA: &str = r#""Odd ""s"".%s""#;

fn compare(migration: &Migration<'_>, what: &str, more: &[&str]) -> Outcome {
    let (from, to) = (
        migration.source.uri(&migration.db),
        migration.target.uri(&migration.copy),
    );
    let dir = migration.scene.work_dir();
    let mut args = vec!["compare", what, "--source", &from, "--target", &to];
    args.extend(["--dir", dir.to_str().unwrap()]);
    args.extend(more);
    let outcome = migration.scene.command(args).run();
    migration.assert_nothing_left(&outcome);
    outcome
}

#[track_caller]
fn assert_equal(migration: &Migration<'_>) {
    for (what, listed) in [("schema", "kinds"), ("data", "tables")] {
        let outcome = compare(migration, what, &["--json"]);
        assert!(
            outcome.status.success(),
            "{}{}",
            outcome.stdout,
            outcome.stderr
        );
        outcome.assert_no_unexpected(&[]);
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(report["equal"], true);
        let listed = &report[listed];
        let count = listed.as_array().map_or(0, Vec::len)
            + listed.as_object().map_or(0, |kinds| kinds.len());
        assert!(count > 3, "{report:#}");
    }
}

/// "kind name: what" of each difference.
fn differences(outcome: &Outcome) -> Vec<String> {
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["equal"], false);
    let differences = report["differences"].as_array().unwrap().iter();
    differences
        .map(|difference| {
            let text = |key: &str| difference[key].as_str().unwrap_or("-").to_owned();
            match difference["what"].as_str().unwrap() {
                "differs" => format!(
                    "{} {}: {} {} / {}",
                    text("kind"),
                    text("name"),
                    text("property"),
                    text("source"),
                    text("target")
                ),
                what => format!("{} {}: {what}", text("kind"), text("name")),
            }
        })
        .collect()
}

#[test]
fn each_difference_in_the_schema_is_named() {
    let migration = Migration::shared(TABLES);
    migration.clone_with(&[], &[]);
    assert_equal(&migration);
    fixtures::create_roles(migration.target);
    migration.target.psql(
        &migration.copy,
        &format!(
            r#"set search_path = {SCHEMA};
               drop index "i ""1""";
               alter table "T ""1"" é" alter "v x" set default 'b';
               alter table keyless owner to "fixture owner";
               create table more (id int primary key);
               create or replace function twice(i int) returns int language sql as 'select i + i';
               drop view shown;
               grant select on pairs to public;
               comment on table pairs is 'c';
               select setval('counted', 99)"#
        ),
    );
    let t = format!(r#"{SCHEMA}."T ""1"" é""#);
    let mut expected = vec![
        format!("table {SCHEMA}.\"keyless\": owner postgres / fixture owner"),
        format!("table {SCHEMA}.\"more\": extra"),
        format!(
            "table {SCHEMA}.\"pairs\": privileges the owner: DELETE, INSERT, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE / \
             PUBLIC: SELECT; the owner: DELETE, INSERT, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE"
        ),
        format!("table {SCHEMA}.\"pairs\": comment - / c"),
        format!("view {SCHEMA}.\"shown\": missing"),
        format!("column {t}.\"v x\": default 'a'::text / 'b'::text"),
        format!(r#"index {SCHEMA}."i ""1""": missing"#),
        format!("function {SCHEMA}.\"twice\"(integer): source select i * 2 / select i + i"),
        format!("sequence value {SCHEMA}.\"counted\": last value 10 / 99"),
        format!("sequence value {SCHEMA}.\"counted\": called f / t"),
    ];
    let outcome = compare(&migration, "schema", &["--json"]);
    outcome.assert_last_error(7, &["differs from that of the source in 8 objects"]);
    assert_eq!(differences(&outcome), expected);
    let outcome = compare(
        &migration,
        "schema",
        &["--json", "--no-owner", "--no-acl", "--no-comments"],
    );
    expected.retain(|line| {
        ![": owner ", ": privileges ", ": comment "]
            .iter()
            .any(|word| line.contains(word))
    });
    assert_eq!(differences(&outcome), expected);
    let text = compare(&migration, "schema", &[]).stdout;
    for words in [
        format!("index {SCHEMA}.\"i \"\"1\"\"\": missing on the target\n"),
        format!("column {t}.\"v x\": default\n  source: 'a'::text\n  target: 'b'::text\n"),
    ] {
        assert!(text.contains(&words), "{text}");
    }
}

/// The databases have different names, and are compared all the same: by what was decided when they were made, and by what
/// was set for them.
#[test]
fn the_databases_themselves_are_compared() {
    let migration = Migration::shared("create table t (id int primary key)");
    migration.clone_with(&[], &[]);
    fixtures::create_roles(migration.source);
    fixtures::create_roles(migration.target);
    let copy = &migration.copy;
    for sql in [
        format!("drop database {copy}"),
        format!(
            "create database {copy} template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' connection limit 9"
        ),
    ] {
        migration.target.psql("postgres", &sql);
    }
    let again = Migration::over(&migration);
    again.clone_with(&[], &["LATIN1"]);
    migration.target.psql(
        "postgres",
        &format!(
            r#"alter database {copy} owner to "fixture owner"; comment on database {copy} is 'mine';
               revoke connect on database {copy} from public; alter database {copy} set work_mem = '5MB';
               alter role "fixture owner" in database {copy} set lock_timeout = '1s'"#
        ),
    );
    let outcome = compare(&again, "schema", &["--json"]);
    let privileges = "the owner: CONNECT, CREATE, TEMPORARY";
    let expected = [
        "database itself: owner postgres / fixture owner".to_owned(),
        format!(
            "database itself: privileges PUBLIC: CONNECT, TEMPORARY; {privileges} / PUBLIC: TEMPORARY; {privileges}"
        ),
        "database itself: comment - / mine".to_owned(),
        "database itself: encoding UTF8 / LATIN1".to_owned(),
        "database itself: collation C.UTF-8 / C".to_owned(),
        "database itself: character type C.UTF-8 / C".to_owned(),
        "database itself: connection limit -1 / 9".to_owned(),
        "database setting of role \"fixture owner\": lock_timeout: extra".to_owned(),
        "database setting work_mem: extra".to_owned(),
    ];
    assert_eq!(differences(&outcome), expected);
    let outcome = compare(&again, "schema", &["--skip-db-properties"]);
    outcome.assert_success(&[]);
}

/// What the filters leave out, and what falls with it, is not missed; without them it is.
#[test]
fn what_is_filtered_is_not_compared() {
    let migration = Migration::shared(TABLES);
    let file = migration.scene.path("filters.ini");
    std::fs::write(
        &file,
        format!(
            "[exclude-table]\n{SCHEMA}.keyless\n[exclude-table-data]\n{SCHEMA}.untouched\n[exclude-index]\n{SCHEMA}.\"i \"\"1\"\"\"\n"
        ),
    )
    .unwrap();
    let filters = ["--filters", file.to_str().unwrap()];
    migration.clone_with(&filters, &[]);
    for what in ["schema", "data"] {
        let outcome = compare(&migration, what, &filters);
        assert!(
            outcome.status.success(),
            "{}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
    let outcome = compare(&migration, "data", &["--json"]);
    let missing = ["keyless: missing-on-target", "untouched: differs"];
    let found = tables(&outcome);
    assert_eq!(found[..2], missing);
    let found = differences(&compare(&migration, "schema", &["--json"]));
    let expected = [
        format!("table {SCHEMA}.\"keyless\": missing"),
        format!("materialized view {SCHEMA}.\"kept\": missing"),
        format!("index {SCHEMA}.\"i \"\"1\"\"\": missing"),
    ];
    assert_eq!(found, expected);
}

/// The index of a primary key is no object of its own in a dump, and what may not be read is not in it at all.
#[test]
fn what_is_filtered_is_not_compared_by_whoever_may_not_read_it() {
    let migration = Migration::shared(
        "create schema app; create schema secret; create table secret.t (id serial primary key, v text);
         create view secret.shown as select id from secret.t;
         create table app.hidden (id serial primary key, v text); create table app.kept (id serial primary key, v text unique);
         create table app.points (id int primary key, hidden int references app.hidden);
         create sequence secret.alone; insert into app.kept (v) values ('a')",
    );
    let role = format!("filtered_{}", std::process::id());
    migration.source.psql(
        &migration.db,
        &format!(
            "create role {role} login; grant usage on schema app to {role};
             grant select on app.kept, app.points, app.kept_id_seq to {role}"
        ),
    );
    let file = migration.scene.path("filters.ini");
    std::fs::write(
        &file,
        "[exclude-schema]\nsecret\n[exclude-table]\napp.hidden\n[exclude-index]\napp.kept_pkey\napp.kept_v_key\n",
    )
    .unwrap();
    let from = migration.source.uri(&migration.db);
    let from = from.replace("user=postgres", &format!("user={role}"));
    let to = migration.target.uri(&migration.copy);
    let filters = [
        "--filters",
        file.to_str().unwrap(),
        "--no-owner",
        "--no-acl",
    ];
    let clone = migration.scene.clone_db(&from, &to, &filters).run();
    clone.assert_success(&[]);
    let compare = || {
        let args = [
            "compare", "schema", "--json", "--source", &from, "--target", &to,
        ];
        migration.scene.command(args.iter().chain(&filters)).run()
    };
    compare().assert_success(&[]);
    migration.target.psql(
        &migration.copy,
        "drop table app.points; select setval('app.kept_id_seq', 9)",
    );
    let expected = [
        r#"table "app"."points": missing"#,
        r#"sequence value "app"."kept_id_seq": last value 1 / 9"#,
    ];
    assert_eq!(differences(&compare()), expected);
    migration.source.psql(
        &migration.db,
        &format!("drop owned by {role}; drop role {role}"),
    );
}

/// "table: status" of all that are not equal, and the rows that are named.
fn tables(outcome: &Outcome) -> Vec<String> {
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let mut found = Vec::new();
    for table in report["tables"].as_array().unwrap() {
        let status = table["status"].as_str().unwrap();
        if status == "equal" {
            assert_eq!(table["source"], table["target"]);
            continue;
        }
        found.push(format!("{}: {status}", table["table"].as_str().unwrap()));
        let differing = &table["differing"];
        if !differing.is_null() {
            let (first, last) = (&differing["first_key"], &differing["last_key"]);
            found.push(format!("{} from {first} to {last}", differing["count"]));
        }
        for row in differing["rows"].as_array().into_iter().flatten() {
            found.push(format!("{} {}", row["what"].as_str().unwrap(), row["key"]));
        }
    }
    found
}

/// The README's own recipe: tables that become partitioned on the way, or plain. Their partitions are none of their own.
#[test]
fn a_partitioned_table_is_compared_with_a_plain_one() {
    let migration = Migration::shared(
        "create table plain (id int primary key, v text); insert into plain select i, 'v' || i from generate_series(0, 19) i;
         create table split (id int primary key, v text) partition by range (id);
         create table split_low partition of split for values from (0) to (10) partition by range (id);
         create table split_0 partition of split_low for values from (0) to (10);
         create table split_10 partition of split for values from (10) to (20);
         insert into split select i, 'v' || i from generate_series(0, 19) i; create table other (id int primary key)",
    );
    migration.clone_with(&[], &[]);
    migration.target.psql(
        &migration.copy,
        "create table whole as select * from split; drop table split; alter table whole rename to split;
         alter table plain rename to old; create table plain (id int primary key, v text) partition by range (id);
         create table plain_0 partition of plain for values from (0) to (10);
         create table plain_10 partition of plain for values from (10) to (20);
         insert into plain select * from old; drop table old",
    );
    let outcome = compare(&migration, "data", &["--json"]);
    outcome.assert_success(&[]);
    let file = migration.scene.path("filters.ini");
    std::fs::write(&file, "[exclude-table-data]\npublic.plain\n").unwrap();
    let filters = ["--filters", file.to_str().unwrap()];
    compare(&migration, "data", &filters).assert_success(&[]);
    migration.target.psql(
        &migration.copy,
        "delete from split where id = 3; update plain set v = 'w' where id = 12; create table more (id int)",
    );
    let outcome = compare(&migration, "data", &["--json", "--rows"]);
    let expected = [
        "more: only-on-target",
        "plain: differs",
        r#"1 from ["12"] to ["12"]"#,
        r#"different ["12"]"#,
        "split: differs",
    ];
    assert_eq!(tables(&outcome)[..5], expected);
}

#[test]
fn each_row_that_differs_is_named() {
    let migration = Migration::shared(TABLES);
    migration.clone_with(&[], &[]);
    let change = |sql: &str| {
        let sql = format!("set search_path = {SCHEMA}; {sql}");
        migration.target.psql(&migration.copy, &sql);
    };
    // One byte, in a table large enough to be searched by buckets.
    change("update pairs set c = set_byte(c, 7, get_byte(c, 7) # 1) where a = 777");
    let outcome = compare(&migration, "data", &["--json", "--rows"]);
    outcome.assert_last_error(7, &["the rows of 1 tables differ"]);
    let flipped = [
        "pairs: differs",
        r#"1 from ["b7","777"] to ["b7","777"]"#,
        r#"different ["b7","777"]"#,
    ];
    assert_eq!(tables(&outcome), flipped);
    change(
        r#"delete from "T ""1"" é" where id = 9;
           insert into "T ""1"" é" values (3001, 'more', 0);
           update "T ""1"" é" set f = -f where id = 10;
           insert into keyless values (1, null);
           create table extra (a int); drop table untouched"#,
    );
    let outcome = compare(
        &migration,
        "data",
        &["--rows", "--json", "--table-jobs", "1"],
    );
    outcome.assert_last_error(7, &["the rows of 5 tables differ"]);
    let mut expected = vec![
        "T \"1\" é: differs",
        r#"3 from ["9"] to ["3001"]"#,
        r#"missing ["9"]"#,
        r#"different ["10"]"#,
        r#"extra ["3001"]"#,
        "extra: only-on-target",
        "keyless: differs",
    ];
    expected.extend(flipped);
    expected.push("untouched: missing-on-target");
    assert_eq!(tables(&outcome), expected);
    let text = compare(&migration, "data", &[]).stdout;
    for words in [
        "  100  ",
        "  101  ",
        "missing on the target",
        "3 rows differ, from (\"id\")=(9) to (\"id\")=(3001)\n",
        "1 row differs: (\"b\", \"a\")=(b7, 777)\n",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains("(\"id\")=(10)"), "{text}");
}

/// Every kind of object and value that we know of; nothing of it may look different on the other side.
fn everything(source: &Cluster, target: &Cluster) {
    let db = source.new_db("everything");
    fixtures::load_everything(source, &db);
    fixtures::create_roles(target);
    let migration = Migration::of(source, target, db);
    migration.invocation(&[]).run();
    // As pg_dump, which leaves these to who makes the database.
    target.psql(
        "postgres",
        &format!(
            "comment on database {copy} is 'a database''s comment'; grant temporary on database {copy} to fixture_reader",
            copy = migration.copy
        ),
    );
    assert_equal(&migration);
    migration.target.psql(
        &migration.copy,
        "update app.numbers set f8 = 0.1 where id = 6; alter view app.v2 rename column x to y",
    );
    let outcome = compare(&migration, "data", &["--json"]);
    assert_eq!(
        tables(&outcome),
        ["numbers: differs", r#"1 from ["6"] to ["6"]"#]
    );
    let outcome = compare(&migration, "schema", &["--json"]);
    let found = differences(&outcome);
    assert!(
        found
            .iter()
            .any(|line| line == r#"column "app"."v2"."x": missing"#),
        "{found:#?}"
    );
}

#[test]
fn everything_is_equal_within_a_major() {
    everything(shared_source(), shared_target());
}

#[test]
fn everything_is_equal_across_majors() {
    let newest = Cluster::start(Version::Pg18, &[]);
    everything(shared_source(), &newest);
}

/// Before 11 there is no hash of 64 bits, before 12 another way to write numbers, before 14 no range of CTIDs.
#[test]
fn everything_is_equal_across_the_most_majors() {
    let (oldest, newest) = (
        Cluster::start(Version::Pg10, &[]),
        Cluster::start(Version::Pg18, &[]),
    );
    everything(&oldest, &newest);
}

#[test]
fn a_table_that_may_not_be_read_is_named_and_the_others_are_compared() {
    let migration = Migration::shared(
        "create table a (id int primary key); create table b (id int primary key)",
    );
    migration.clone_with(&[], &[]);
    let role = format!("comparer_{}", std::process::id());
    migration.source.psql(
        &migration.db,
        &format!("create role {role} login; grant select on b to {role}"),
    );
    let from = migration.source.uri(&migration.db);
    let from = from.replace("user=postgres", &format!("user={role}"));
    let to = migration.target.uri(&migration.copy);
    let run = |what: &str, more: &[&str]| {
        let args = ["compare", what, "--source", &from, "--target", &to];
        let args = args.iter().chain(more);
        let run = migration
            .scene
            .command(args)
            .env("PGCOPYDB_TABLE_JOBS", "2");
        run.run()
    };
    // The catalogs are everybody's to read.
    run("schema", &["--no-acl"]).assert_success(&[]);
    let outcome = run("data", &[]);
    outcome.assert_last_error(4, &["1 tables could not be compared"]);
    assert!(
        outcome.stdout.contains("permission denied for table a"),
        "{}",
        outcome.stdout
    );
    migration.source.psql(
        &migration.db,
        &format!("drop owned by {role}; drop role {role}"),
    );
}

fn compare_following(following: &Following<'_>, more: &[&str]) -> Outcome {
    let dir = following.scene.work_dir();
    let mut args = vec!["compare", "data", "--follow", "--json", "--rows"];
    args.extend([
        "--source",
        &following.source_uri,
        "--target",
        &following.target_uri,
    ]);
    args.extend(["--dir", dir.to_str().unwrap()]);
    args.extend(more);
    following.scene.command(args).run()
}

fn loaded(plugin: &'static str) -> (Following<'static>, Running) {
    let following = Following::new(shared(Version::Debian15), plugin, |source, db| {
        workload::create(source, db, false);
        source.psql(
            db,
            "create table public.steady (id int primary key, v text)",
        );
        source.psql(
            db,
            "insert into public.steady select i, 'v' || i from generate_series(1, 100) i",
        );
    });
    let run = following.clone_and_apply(&[]);
    (following, run)
}

/// The source is written to all the time, apply is behind it all the time, and not one row differs; nor is one byte missed.
#[test]
fn an_exact_comparison_under_load() {
    let (following, run) = loaded("pgoutput");
    let load = Workload::start(following.source, &following.db);
    for _ in 0..3 {
        load.wait_for(100);
        let outcome = compare_following(&following, &[]);
        outcome.assert_success(&[]);
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(report["equal"], true);
    }
    following.target.psql(
        &following.copy,
        "update public.steady set v = 'w7' where id = 7",
    );
    let outcome = compare_following(&following, &[]);
    outcome.assert_last_error(7, &["the rows of 1 tables differ"]);
    let steady = [
        "steady: differs",
        r#"1 from ["7"] to ["7"]"#,
        r#"different ["7"]"#,
    ];
    assert_eq!(tables(&outcome), steady);
    following.target.psql(
        &following.copy,
        "update public.steady set v = 'v7' where id = 7",
    );
    load.finish();
    following.cut_over(run, &[]);
}

/// The source is idle: nothing but our own positions moves.
#[test]
fn an_exact_comparison_of_an_idle_source_and_of_one_who_dies() {
    let (following, mut run) = loaded("test_decoding");
    compare_following(&following, &[]).assert_success(&[]);
    // Killed while apply stands still: apply goes on.
    let dir = following.scene.work_dir();
    let killed = following
        .scene
        .command([
            "compare",
            "data",
            "--follow",
            "--dir",
            dir.to_str().unwrap(),
        ])
        .env("PGCOPYDB_SOURCE_PGURI", &following.source_uri)
        .env("PGCOPYDB_TARGET_PGURI", &following.target_uri)
        .env("PGCOPYDB_FAILPOINT", "compare.paused=kill")
        .run();
    killed.assert_signalled(Signal::SIGKILL);
    following.wait_for_mark(&mut run);
    compare_following(&following, &[]).assert_success(&[]);
    following.cut_over(run, &[]);
    // Nobody follows any more.
    compare_following(&following, &[]).assert_last_error(3, &["cannot compare exactly"]);
}
