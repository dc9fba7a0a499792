//! Names and values that would break out of a quote, a line, a format string or a path: of every kind of object, through
//! each way that they take. Nothing may be lost, and nothing that a name says may be done.

use std::collections::BTreeSet;

use pgcopydb::ident::{quote_ident, quote_literal};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::cmd::Scene;
use crate::support::compare::assert_same;
use crate::support::following::{Following, shared};
use crate::support::migration::Migration;
use crate::support::version::Version;

/// What people, and people who want to break in, have called things.
const HOSTILE: &[&str] = &[
    "a\"b",
    "a'b",
    "a;b",
    "a\nb",
    "a\r\nb",
    "a\tb",
    "a--b",
    "--",
    "a/*b",
    "*/",
    "%s%n%d",
    "%",
    "%41",
    "a\\b",
    "\\",
    "\\.",
    "\\'",
    "\\n",
    "$1",
    "$$",
    "$body$",
    ":name",
    ":'name'",
    "?",
    " ",
    " lead",
    "trail ",
    "../../etc/passwd",
    ".",
    "..",
    "a.b",
    "~/x/",
    "[table]",
    "#c",
    "=x",
    "{}",
    "{\"a\":1}",
    "null",
    "NULL",
    "public",
    "select",
    "user",
    "ONLY",
    "x,y",
    "x=y",
    "\"",
    "'",
    "''",
    "\"\"",
    "a\\'b",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{202e}",
    "\u{2028}",
    "e\u{301}",
    "; drop schema public cascade; --",
    "'; drop schema public cascade; --",
    "\"; drop schema public cascade; --",
    // 63 bytes of multibyte characters, and one that a cut at 63 would split.
    "表表表表表表表表表表表表表表表表表表表表表",
    "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀ab",
];

/// One schema of each name, with all kinds of objects of that name in it, and each name as a value.
fn objects() -> String {
    let mut sql =
        "create schema guarded; create table guarded.t (id int primary key, v text);".to_owned();
    for (number, name) in HOSTILE.iter().enumerate() {
        let (id, text) = (quote_ident(name), quote_literal(name));
        // The index of a table takes a name of its own; names are cut by the server where two would be too long.
        let other = quote_ident(&format!(
            "{number}{}",
            &name.chars().take(10).collect::<String>()
        ));
        let schema = match *name {
            "public" => id.clone(),
            _ => {
                sql.push_str(&format!("create schema {id};"));
                id.clone()
            }
        };
        sql.push_str(&format!(
            "create type {schema}.{other} as enum ({text}, {other_text});
             create domain {schema}.{other_domain} as text constraint {id} check (value <> 'x' || {text}) default {text};
             create function {schema}.{id}(v text) returns text immutable language sql as {body};
             create table {schema}.{id} ({id} text constraint {key} primary key, {other} text default {text}, e {schema}.{other},
                 d {schema}.{other_domain}, n serial, constraint {id} check ({other} <> 'never' || {text}));
             create index {index} on {schema}.{id} ({schema}.{id}({other})) where {other} <> {text} || 'x';
             alter table {schema}.{id} add constraint {unique} unique ({other}, {id}) include (n);
             create table {schema}.{child} (id int primary key, {id} text constraint {id} references {schema}.{id});
             create view {schema}.{view} as select {id} as {other}, {other} as {id} from {schema}.{id} where {id} <> {text} || 'y';
             create function {schema}.{trigger}() returns trigger language plpgsql as {trigger_body};
             create trigger {id} after insert on {schema}.{child} for each row execute function {schema}.{trigger}();
             create sequence {schema}.{sequence}; select setval('{number_of}', {number} + 5);
             comment on table {schema}.{id} is {text}; comment on column {schema}.{id}.{id} is {text};
             comment on index {schema}.{index} is {text}; comment on constraint {id} on {schema}.{id} is {text};
             insert into {schema}.{id} values ({text}, {text}, {text}, {text});
             insert into {schema}.{id} select 'row ' || g, {text} || g from generate_series(1, 5) g;
             insert into {schema}.{child} values (1, {text});
             insert into guarded.t values ({number}, {text});",
            other_text = quote_literal(&format!("other {name}").chars().take(15).collect::<String>()),
            other_domain = quote_ident(&format!("dom {number}")),
            body = quote_literal(&format!("select $1 || {text}")),
            key = quote_ident(&format!("key {}", name.chars().take(8).collect::<String>())),
            index = quote_ident(&format!("ix {}", name.chars().take(8).collect::<String>())),
            unique = quote_ident(&format!("un {}", name.chars().take(8).collect::<String>())),
            child = quote_ident(&format!("child {}", name.chars().take(8).collect::<String>())),
            view = quote_ident(&format!("view {}", name.chars().take(8).collect::<String>())),
            trigger = quote_ident(&format!("trg {}", name.chars().take(8).collect::<String>())),
            trigger_body = quote_literal("begin return new; end"),
            sequence = quote_ident(&format!("seq {}", name.chars().take(8).collect::<String>())),
            number_of = format!(
                "{schema}.{}",
                quote_ident(&format!("seq {}", name.chars().take(8).collect::<String>()))
            )
            .replace('\'', "''"),
        ));
    }
    sql
}

/// Rows of each table are inserted, changed, their keys too, and deleted, with the names as values.
fn changes(round: usize) -> String {
    let mut sql = String::new();
    for name in HOSTILE {
        let (id, text) = (quote_ident(name), quote_literal(name));
        let other = quote_ident(&format!(
            "{}{}",
            HOSTILE.iter().position(|it| it == name).unwrap(),
            &name.chars().take(10).collect::<String>()
        ));
        sql.push_str(&format!(
            "insert into {id}.{id} values ({text} || 'new {round}', {text} || {text}, {text}, null);
             update {id}.{id} set {other} = {text} || {other} || {text} where {id} = 'row {round}';
             update {id}.{id} set {id} = {text} || '{round}' || {text} where {id} = 'row 4' and {round} = 1;
             delete from {id}.{id} where {id} = 'row 5';
             update guarded.t set v = v || {text} where v like {text} || '%' escape '';",
        ));
    }
    sql.push_str(
        "insert into public.marks select coalesce(max(mark), 0) + 1000 from public.marks;",
    );
    sql
}

#[test]
fn a_database_of_hostile_names_is_copied_listed_and_compared() {
    let migration = Migration::shared(&objects());
    migration.clone_with(&["--split-tables-larger-than", "1MB"], &[]);
    migration.assert_same();
    let (from, to) = (
        migration.source.uri(&migration.db),
        migration.target.uri(&migration.copy),
    );
    let scene = &migration.scene;
    for what in ["schema", "data"] {
        let outcome = scene
            .command(["compare", what, "--source", &from, "--target", &to])
            .run();
        outcome.assert_success(&[]);
    }
    let json = |words: &[&str]| -> Value {
        let outcome = scene.command(words).run();
        outcome.assert_success(&[]);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let listed = json(&["list", "tables", "--json", "--source", &from]);
    let text = listed.to_string();
    for name in HOSTILE {
        let name = serde_json::to_string(name).unwrap();
        assert!(text.contains(&name), "{name} is not in {text}");
    }
    let dir = scene.work_dir();
    let progress = json(&["list", "progress", "--json", "--dir", dir.to_str().unwrap()]);
    assert!(progress.to_string().contains("public"), "{progress}");
    let filters = scene.path("filters.ini");
    std::fs::write(&filters, "[exclude-table]\n\"\u{1b}[31m\".~/./\n").unwrap();
    let filters = filters.to_str().unwrap().to_owned();
    // No terminal is driven by a name.
    for words in [
        &["list", "tables", "--source", &from][..],
        &["list", "sequences", "--source", &from],
        &["list", "indexes", "--source", &from],
        &["list", "depends", "--source", &from, "--filters", &filters],
        &["list", "progress", "--dir", dir.to_str().unwrap()],
        &[
            "list",
            "progress",
            "--summary",
            "--dir",
            dir.to_str().unwrap(),
        ],
    ] {
        let outcome = scene.command(words).run();
        outcome.assert_success(&[]);
        assert_tame(&outcome.stdout);
        assert_tame(&outcome.stderr);
    }
}

/// Line breaks are the output's own, and nothing else controls the terminal.
#[track_caller]
fn assert_tame(text: &str) {
    let wild = text
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert!(wild.is_none(), "{wild:?} in {text:?}");
}

#[test]
fn changes_under_hostile_names_arrive_with_each_plugin() {
    for plugin in ["test_decoding", "wal2json", "pgoutput"] {
        // Only Debian has wal2json.
        let version = match plugin {
            "wal2json" => Version::Debian15,
            _ => Version::Pg17,
        };
        let following = Following::new(shared(version), plugin, |source, db| {
            source.psql(db, &objects());
            source.psql(db, "create table public.marks (mark int primary key)");
        });
        // The server allows no such name for a slot; an origin may be called anything.
        let origin = "o'r\"i;g%s\\--$1 表";
        let run = following
            .command(&["clone", "--follow"], &["--origin", origin])
            .spawn();
        let mut run = run;
        following.wait_for_apply(&mut run);
        following.source.psql(&following.db, &changes(1));
        following.wait_for_mark(&mut run);
        following.source.psql(&following.db, &changes(2));
        following.wait_for_mark(&mut run);
        following.set_endpos_current();
        let outcome = run.wait_deadline(crate::support::cmd::RUN_DEADLINE);
        outcome.assert_success(&[]);
        following.scene.assert_nothing_left(&outcome);
        assert_tame(&outcome.stderr);
        let outcome = following
            .command(&["stream", "cleanup"], &["--origin", origin])
            .run();
        outcome.assert_success(&[]);
        let origins = format!(
            "select count(*) from pg_replication_origin where roname = {}",
            quote_literal(origin)
        );
        assert_eq!(following.on_target(&origins), "0");
        following.assert_nothing_left();
        following.assert_same();
    }
}

/// Half of the schemas are left out, each by its name in quotes, or by an expression where a line cannot hold the name.
#[test]
fn hostile_names_are_filtered_by_their_names() {
    let migration = Migration::shared(&objects());
    let (mut file, mut left_out) = ("[exclude-schema]\n".to_owned(), BTreeSet::new());
    for name in HOSTILE.iter().step_by(2).filter(|name| **name != "public") {
        left_out.insert(*name);
        match name.contains(['\n', '\r']) {
            true => file.push_str(&format!(
                "~/^{}$/\n",
                name.replace('\r', "\\r").replace('\n', "\\n")
            )),
            false => file.push_str(&format!("\"{}\"\n", name.replace('"', "\"\""))),
        }
    }
    let path = migration.scene.path("filters.ini");
    std::fs::write(&path, &file).unwrap();
    migration.clone_with(&["--filters", path.to_str().unwrap()], &[]);
    let schemas = migration.target.rows(
        &migration.copy,
        "select nspname from pg_namespace where nspname !~ '^pg_' and nspname not in ('information_schema', 'guarded')",
    );
    let found: BTreeSet<String> = schemas.into_iter().flatten().flatten().collect();
    let wanted: BTreeSet<String> = HOSTILE
        .iter()
        .filter(|name| !left_out.contains(*name))
        .map(|name| (*name).to_owned())
        .collect();
    assert_eq!(found, wanted);
}

/// The database, roles and the schema of an extension; the roles on servers of their own.
#[test]
fn databases_roles_and_extension_schemas_of_hostile_names() {
    let source = Cluster::start(Version::Pg17, &[]);
    let target = Cluster::start(Version::Pg17, &[]);
    let names: Vec<&&str> = HOSTILE
        .iter()
        .filter(|name| !matches!(**name, "public"))
        .collect();
    let mut sql = String::new();
    for name in &names {
        let (id, text) = (quote_ident(name), quote_literal(name));
        sql.push_str(&format!(
            "create role {id} login password {text}; comment on role {id} is {text};
             alter role {id} set \"my.setting\" to {text}; grant pg_monitor to {id};"
        ));
    }
    source.psql("postgres", &sql);
    for name in [
        "d'b\"; drop -- %s\\ :x $1 表=&?#/",
        " ",
        "postgres://x@y/z",
        "host=nowhere dbname=x",
    ] {
        for cluster in [&source, &target] {
            cluster.create_db(name);
        }
        let owners: String = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                format!(
                    "create table t{number} (); alter table t{number} owner to {0}; grant select on t{number} to {0} with grant option;",
                    quote_ident(name)
                )
            })
            .collect();
        source.psql(name, &owners);
        source.psql(
            name,
            &format!(
                "create schema {0}; create extension hstore schema {0}; create table h (v {0}.hstore); insert into h values ('a=>\"\\\"b\"');
                 do $$ begin execute format('alter database %I set \"my.setting\" = %L', current_database(), 'a''b\\\"'); end $$",
                quote_ident("ext'\"; --%s")
            ),
        );
        let scene = Scene::new();
        let outcome = scene
            .clone_db(&source.uri(name), &target.uri(name), &["--roles"])
            .tools(Version::Pg17)
            .run();
        outcome.assert_success(&[]);
        assert_tame(&outcome.stderr);
        scene.assert_nothing_left(&outcome);
        assert_same(&source, name, &target, name);
    }
    let roles = "select rolname, rolcanlogin, rolpassword is null, shobj_description(oid, 'pg_authid'), rolconfig::text \
                 from pg_authid join (select oid as o, rolconfig from pg_roles) r on r.o = oid where rolname !~ '^pg_' order by 1";
    assert_eq!(
        source.rows("postgres", roles),
        target.rows("postgres", roles)
    );
}
