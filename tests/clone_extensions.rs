//! Extensions with tables of their own, some of whose rows are the user's (trap 45). PostgreSQL 18 can be told where
//! extensions are, so that a test may bring its own.

use std::fs;
use std::path::Path;

use crate::support::cluster::Cluster;
use crate::support::migration::Migration;
use crate::support::version::Version;

/// Configuration tables that refer to each other against the order of their names and creation, with a condition and
/// without, and a sequence; another extension needs this one, and a third makes a schema by itself.
const EXTENSIONS: [(&str, &str, &str); 3] = [
    (
        "shop_base",
        "relocatable = false\nschema = 'shop'",
        "create table @extschema@.a_child (id int primary key, parent int, own bool default true);
         create table @extschema@.z_parent (id int primary key, v text, own bool default true);
         alter table @extschema@.a_child add foreign key (parent) references @extschema@.z_parent;
         create index a_child_parent on @extschema@.a_child (parent);
         create sequence @extschema@.numbers;
         create table @extschema@.all_rows (id int, v text);
         create table @extschema@.no_config (id int);
         insert into @extschema@.z_parent values (1, 'by the extension', false);
         insert into @extschema@.a_child values (1, 1, false);
         insert into @extschema@.no_config values (1), (2);
         select pg_catalog.pg_extension_config_dump('@extschema@.a_child', 'WHERE own');
         select pg_catalog.pg_extension_config_dump('@extschema@.z_parent', 'where own and v <> ''WHERE''');
         select pg_catalog.pg_extension_config_dump('@extschema@.all_rows', '');
         select pg_catalog.pg_extension_config_dump('@extschema@.numbers', '');",
    ),
    (
        "shop_more",
        "relocatable = true\nrequires = 'shop_base'",
        "create table more (id int primary key, child int references shop.a_child);
         select pg_catalog.pg_extension_config_dump('more', '');",
    ),
    (
        "own_schema",
        "relocatable = false",
        "create schema made_by_extension;
         create table made_by_extension.jobs (id serial primary key, command text);
         select pg_catalog.pg_extension_config_dump('made_by_extension.jobs', '');
         select pg_catalog.pg_extension_config_dump('made_by_extension.jobs_id_seq', '');",
    ),
];

pub fn write_extensions(dir: &Path) {
    let dir = dir.join("extension");
    fs::create_dir_all(&dir).unwrap();
    for (name, control, script) in EXTENSIONS {
        let control = format!("default_version = '1'\ntrusted = true\n{control}\n");
        fs::write(dir.join(format!("{name}.control")), control).unwrap();
        fs::write(dir.join(format!("{name}--1.sql")), script).unwrap();
    }
}

pub fn cluster(extensions: &Path) -> Cluster {
    let path = format!("{}:$system", extensions.display());
    Cluster::start(Version::Pg18, &[("extension_control_path", &path)])
}

#[test]
fn configuration_tables_keep_the_users_rows() {
    let dir = tempfile::tempdir().unwrap();
    // The server's user reads there.
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    write_extensions(dir.path());
    let (source, target) = (cluster(dir.path()), cluster(dir.path()));
    let migration = Migration::new(
        &source,
        &target,
        "create schema shop; create schema elsewhere;
         create extension shop_base; create extension shop_more schema elsewhere; create extension own_schema;
         insert into shop.z_parent values (10, 'mine'), (11, 'WHERE');
         insert into shop.a_child values (10, 10), (11, 1), (12, null);
         insert into elsewhere.more values (1, 10), (2, 12);
         insert into shop.all_rows select i, 'row ' || i from generate_series(1, 3000) i;
         select setval('shop.numbers', 77);
         insert into made_by_extension.jobs (command) values ('vacuum'), ('analyze');
         create table of_the_user (id int primary key, job int references made_by_extension.jobs);
         insert into of_the_user values (1, 2)",
    );
    // Larger than the limit: those of extensions are never split.
    migration.clone_with(&["--split-at", "8kB"], &[]);
    // What is neither made by the extension nor the user's by its condition is nobody's, as with pg_dump.
    source.psql(&migration.db, "delete from shop.z_parent where v = 'WHERE'");
    migration.assert_same();
    let rows = "select string_agg(id || v, ',' order by id) from shop.z_parent";
    assert_eq!(migration.on_target(rows), "1by the extension,10mine");
    let next = "select nextval('made_by_extension.jobs_id_seq') || ' ' || nextval('shop.numbers')";
    assert_eq!(migration.on_target(next), "3 78");
}

/// With --skip-extensions nothing of them is touched, and the tables of the user still come.
#[test]
fn skipped_extensions_keep_their_rows_to_themselves() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    write_extensions(dir.path());
    let (source, target) = (cluster(dir.path()), Cluster::start(Version::Pg18, &[]));
    let migration = Migration::new(
        &source,
        &target,
        "create schema shop; create extension shop_base; create extension own_schema;
         insert into shop.z_parent values (10, 'mine');
         insert into made_by_extension.jobs (command) values ('vacuum');
         create table of_the_user (id int primary key); insert into of_the_user values (1)",
    );
    migration.clone_with(&["--skip-extensions"], &[]);
    assert_eq!(migration.on_target("select count(*) from of_the_user"), "1");
    assert_eq!(
        migration.on_target("select count(*) from pg_extension"),
        "1"
    );
    let tables = "select count(*) from pg_class where relkind in ('r', 'S') and oid >= 16384";
    assert_eq!(migration.on_target(tables), "1");
}

/// The extension makes its tables whatever the filters say; the rows of the user stay away.
#[test]
fn rows_of_configuration_tables_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    write_extensions(dir.path());
    let cluster = cluster(dir.path());
    let migration = Migration::new(
        &cluster,
        &cluster,
        "create schema shop; create extension shop_base; create extension own_schema;
         insert into shop.z_parent values (10, 'mine'); insert into shop.a_child values (10, 10);
         insert into shop.all_rows values (1, 'row'); select setval('shop.numbers', 77);
         insert into made_by_extension.jobs (command) values ('vacuum');
         create table of_the_user (id int primary key, job int references made_by_extension.jobs);
         insert into of_the_user values (1, 1)",
    );
    let path = migration.scene.path("filters.ini");
    fs::write(
        &path,
        "[exclude-table]\nmade_by_extension.jobs\n[exclude-table-data]\n~/^shop$/.~/^all_/\n",
    )
    .unwrap();
    let filters = ["--filters", path.to_str().unwrap()];
    migration.clone_with(&filters, &[]);
    let left_out = "select (select count(*) from shop.all_rows), (select count(*) from made_by_extension.jobs)";
    let rows = cluster.rows(&migration.copy, left_out);
    assert_eq!(rows, cluster.rows("postgres", "select 0, 0"));
    let kept = "select (select count(*) from shop.z_parent) || ' ' || (select count(*) from of_the_user) || ' '
        || (select count(*) from pg_constraint where conrelid = 'of_the_user'::regclass and contype = 'f')";
    assert_eq!(migration.on_target(kept), "2 1 0");
}
