//! What the options that leave something out leave out, and that they leave out nothing else. Each is tried on a
//! database that has everything.

use std::sync::OnceLock;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::fixtures;
use crate::support::migration::Migration;

/// The lines in which the target's database itself differs: who may connect to it, and its comment, are not copied.
const DATABASE: &str = "differs: database\n";

/// One source for all tests, which only read it.
fn everything() -> &'static str {
    static DB: OnceLock<String> = OnceLock::new();
    DB.get_or_init(|| {
        let (source, target) = (shared_source(), shared_target());
        let db = source.new_db("everything");
        fixtures::load_everything(source, &db);
        fixtures::create_roles(target);
        for cluster in [source, target] {
            create_tablespace(cluster);
        }
        let sql = "create table app.elsewhere (id int, constraint elsewhere_pk primary key (id) using index tablespace \"other space\")
                     tablespace \"other space\";
                   insert into app.elsewhere values (1);
                   create index elsewhere_here on app.elsewhere (id) tablespace pg_default;
                   create index holes_elsewhere on app.holes (v) tablespace \"other space\";
                   create materialized view app.matview_elsewhere tablespace \"other space\" as select 1 as one;
                   comment on extension citext is 'not the one of its control file'";
        source.psql(&db, sql);
        db
    })
}

/// Inside the data directory.
fn create_tablespace(cluster: &Cluster) {
    let mut client = cluster.client("postgres");
    client
        .batch_execute("set allow_in_place_tablespaces = on")
        .unwrap();
    client
        .batch_execute("create tablespace \"other space\" location ''")
        .unwrap();
}

fn migration() -> Migration<'static> {
    let (source, target) = (shared_source(), shared_target());
    let db = everything().to_owned();
    Migration::of(source, target, db)
}

/// Clone with these options, and what differs then, when what `ignoring` says of pg_dump does not count.
#[track_caller]
fn clone_and_compare(options: &[&str], ignoring: &[&str]) -> (Migration<'static>, Vec<String>) {
    let migration = migration();
    migration.clone_with(options, &[]);
    let mut found = migration.differences(ignoring);
    found.retain(|line| !line.starts_with(DATABASE));
    (migration, found)
}

#[track_caller]
fn assert_only(found: &[String], what: impl Fn(&str) -> bool) {
    let others: Vec<&String> = found.iter().filter(|line| !what(line)).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// How many there are on both sides: source, target.
fn counts(migration: &Migration, sql: &str) -> (String, String) {
    (migration.on_source(sql), migration.on_target(sql))
}

fn pair(source: &str, target: &str) -> (String, String) {
    (source.to_owned(), target.to_owned())
}

#[test]
fn without_options_everything_is_the_same() {
    let (_, found) = clone_and_compare(&[], &[]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_owner() {
    let (migration, found) = clone_and_compare(&["--no-owner"], &["--no-owner"]);
    assert_only(&found, |line| line.contains("large object 90002"));
    let owned = "select count(*) from pg_class where relowner <> 10 and oid >= 16384";
    let (source, target) = counts(&migration, owned);
    assert!(source != "0" && target == "0", "{source} {target}");
}

#[test]
fn no_acl() {
    // With owners but without rights, the owner of a materialized view could not refresh it.
    let options = ["--no-acl", "--no-owner"];
    let (migration, found) = clone_and_compare(&options, &options);
    assert_only(&found, |line| line.contains("large object 900"));
    let granted = "select count(*) from pg_class where relacl is not null and oid >= 16384";
    let (source, target) = counts(&migration, granted);
    assert!(source != "0" && target == "0", "{source} {target}");
    let defaults = "select count(*) from pg_default_acl";
    assert_eq!(migration.on_target(defaults), "0");
}

#[test]
fn no_acl_alone_keeps_owners() {
    for cluster in [shared_source(), shared_target()] {
        fixtures::create_roles(cluster);
    }
    let migration = Migration::shared(
        "create table t (id int primary key);
         create role owner_of_t; grant create on schema public to owner_of_t; alter table t owner to owner_of_t;
         grant select on t to fixture_reader; select lo_create(7); alter large object 7 owner to owner_of_t",
    );
    migration.target.psql("postgres", "create role owner_of_t");
    migration.clone_with(&["--no-acl"], &[]);
    let found = migration.differences(&["--no-acl"]);
    assert_eq!(found, Vec::<String>::new());
    let owner = "select pg_get_userbyid(relowner) || ' ' || (relacl is null) from pg_class where relname = 't'";
    assert_eq!(
        counts(&migration, owner),
        pair("owner_of_t false", "owner_of_t true")
    );
}

#[test]
fn no_comments() {
    let (migration, found) = clone_and_compare(&["--no-comments"], &["--no-comments"]);
    assert_only(&found, |line| line.contains("large object 90003"));
    // Those of extensions are made by CREATE EXTENSION.
    let comments = "select count(*) from pg_description where classoid <> 'pg_extension'::regclass
                      and (objoid >= 16384 and objoid < 90001 or classoid = 'pg_largeobject'::regclass)
                      and not exists (select from pg_depend d where d.objid = objoid and d.deptype = 'e')";
    let (source, target) = counts(&migration, comments);
    assert!(source != "0" && target == "0", "{source} {target}");
    let comment = "select obj_description(oid, 'pg_extension') like '%of our own' from pg_extension where extname = 'hstore'";
    assert_eq!(counts(&migration, comment), pair("t", "f"));
}

#[test]
fn no_tablespaces() {
    let (migration, found) = clone_and_compare(&["--no-tablespaces"], &["--no-tablespaces"]);
    assert_eq!(found, Vec::<String>::new());
    let placed = "select count(*) from pg_class where reltablespace <> 0 and oid >= 16384 and relkind <> 't'";
    assert_eq!(counts(&migration, placed), pair("4", "0"));
}

#[test]
fn skip_large_objects() {
    let (migration, found) = clone_and_compare(&["--skip-large-objects"], &[]);
    assert_only(&found, |line| {
        line.starts_with("missing on target: large object ")
    });
    assert_eq!(
        migration.on_target("select count(*) from pg_largeobject_metadata"),
        "0"
    );
}

/// Who skips extensions has made them himself, or has no use for them.
#[test]
fn skip_extensions() {
    let migration = migration();
    migration.target.psql(
        &migration.copy,
        "create schema ext; create extension hstore schema ext; create extension citext schema ext;
         create extension pg_trgm schema ext; create extension btree_gist schema ext;
         comment on extension hstore is 'the target''s own'",
    );
    let outcome = migration.invocation(&["--skip-extensions"]).run();
    outcome.assert_success(&[]);
    migration.assert_nothing_left(&outcome);
    let mut found = migration.differences(&[]);
    found.retain(|line| !line.starts_with(DATABASE));
    assert_only(&found, |line| {
        line.contains("EXTENSION hstore") || line.contains("EXTENSION citext")
    });
    assert_eq!(found.len(), 2, "{found:#?}");
    let comment =
        "select obj_description(oid, 'pg_extension') from pg_extension where extname = 'hstore'";
    assert_eq!(migration.on_target(comment), "the target's own");
}

#[test]
fn skip_ext_comments() {
    let (_, found) = clone_and_compare(&["--skip-ext-comments"], &[]);
    assert_only(&found, |line| {
        line.contains("COMMENT") && line.contains("EXTENSION ")
    });
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn skip_db_properties() {
    let (migration, found) = clone_and_compare(&["--skip-db-properties"], &[]);
    assert_only(&found, |line| {
        line.starts_with("missing on target: settings of role ")
    });
    assert_eq!(found.len(), 2, "{found:#?}");
    let settings = "select count(*) from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = current_database())";
    assert_eq!(counts(&migration, settings), pair("2", "0"));
}

/// How often tables were vacuumed, and how many have statistics about their columns.
fn care(migration: &Migration) -> (bool, bool) {
    let vacuumed =
        "select count(*) > 0 from pg_stat_all_tables where vacuum_count > 0 and schemaname = 'app'";
    // Not what is in pg_stats: autovacuum may have come by.
    let analyzed = "select count(*) > 0 from pg_stat_all_tables where analyze_count > 0 and schemaname = 'app' and relname in ('parent', 'holes')";
    let is_true = |sql| migration.on_target(sql) == "t";
    (is_true(vacuumed), is_true(analyzed))
}

#[test]
fn skip_vacuum_and_skip_analyze() {
    for (options, expected) in [
        (&[][..], (true, true)),
        (&["--skip-vacuum"][..], (false, false)),
        (&["--skip-analyze"], (true, false)),
    ] {
        let (migration, found) = clone_and_compare(options, &[]);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(care(&migration), expected, "{options:?}");
    }
}

/// The second clone replaces what the first one made, foreign keys, views and all; what else is on the target stays.
#[test]
fn drop_if_exists_replaces_a_full_target() {
    let migration = migration();
    migration.clone_with(&[], &[]);
    migration.target.psql(
        &migration.copy,
        "create table app.of_the_user (id int); insert into app.of_the_user values (1);
         insert into app.holes (id) select i from generate_series(1000, 2000) i;
         delete from app.numbers; alter table app.hen add column more int;
         create table app.refers (id int references app.hen)",
    );
    let second = migration.over();
    // Columns, views and foreign keys of others that stand on a dropped table go with it.
    second.clone_with(&["--drop-if-exists"], &[]);
    let mut found = second.differences(&[]);
    found.retain(|line| !line.starts_with(DATABASE));
    let is_users = |line: &str| {
        line.starts_with("only on target: ")
            && (line.contains("of_the_user") || line.contains("refers"))
    };
    assert_only(&found, is_users);
    assert_eq!(
        second.on_target("select count(*) from app.of_the_user"),
        "1"
    );
    // What the user made does not refer to what we drop any more.
    let keys = "select count(*) from pg_constraint where conrelid = 'app.refers'::regclass and contype = 'f'";
    assert_eq!(second.on_target(keys), "0");
}
