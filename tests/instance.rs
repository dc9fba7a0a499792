//! `clone --all-databases`: every database with its properties, one that fails beside others that do not, a resume, and
//! each followed by itself.

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::cmd::Scene;
use crate::support::version::Version;
use crate::support::{compare, wait_until};

const SOON: Duration = Duration::from_secs(90);

fn start(settings: &[(&str, &str)]) -> (Cluster, Cluster) {
    let all: Vec<(&str, &str)> = [("wal_level", "logical")]
        .iter()
        .chain(settings)
        .copied()
        .collect();
    (
        Cluster::start(Version::Debian15, &all),
        Cluster::start(Version::Debian15, &[]),
    )
}

fn arguments(scene: &Scene, source: &Cluster, target: &Cluster) -> Vec<String> {
    [
        "clone",
        "--all-databases",
        "--source",
        &source.uri("postgres"),
        "--target",
        &target.uri("postgres"),
        "--dir",
        scene.work_dir().to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn every_database_with_its_properties_and_one_that_fails() {
    let (source, target) = start(&[]);
    source.psql("postgres", "create role owner_of_shop login; create role reader; create table in_postgres (id int primary key)");
    source.psql(
        "postgres",
        "create database shop owner owner_of_shop connection limit 7",
    );
    source.psql("postgres", "create database \"Odd ../Db\" encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0");
    source.psql("postgres", "create database broken");
    source.psql(
        "postgres",
        "create database no_entry allow_connections false",
    );
    source.psql(
        "postgres",
        "comment on database shop is 'it''s the shop'; revoke connect on database shop from public;
         grant connect on database shop to reader; alter database shop set work_mem = '9MB';
         alter role reader in database shop set work_mem = '8MB'",
    );
    for db in ["shop", "Odd ../Db", "broken"] {
        source.psql(db, "create table t (id serial primary key, v text); insert into t (v) select repeat('x', i) from generate_series(1, 300) i");
    }
    source.psql(
        "Odd ../Db",
        "insert into t (v) values (convert_from('\\xe9', 'LATIN1'))",
    );
    // Somebody's table of the same name.
    target.psql("postgres", "create database broken");
    target.psql("broken", "create table t (id int)");
    let scene = Scene::new();
    let failed = scene.command(arguments(&scene, &source, &target)).run();
    failed.assert_last_error(
        7,
        &[
            "1 of 4 databases could not be cloned, 3 are done; the first: database \"broken\"",
            "exist there already",
        ],
    );
    for db in ["postgres", "shop", "Odd ../Db"] {
        compare::assert_same(&source, db, &target, db);
    }
    let properties = "select pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datconnlimit, datacl::text, shobj_description(oid, 'pg_database'),
        (select string_agg(setconfig::text, ' ' order by setrole) from pg_db_role_setting where setdatabase = d.oid)
        from pg_database d where datname in ('shop', 'Odd ../Db') order by datname";
    assert_eq!(
        source.rows("postgres", properties),
        target.rows("postgres", properties)
    );
    assert_eq!(
        target.value(
            "postgres",
            "select count(*) from pg_database where datname = 'no_entry'"
        ),
        "0"
    );
    assert!(
        scene
            .work_dir()
            .join("databases/Odd%20%2E%2E%2FDb")
            .is_dir()
    );

    target.psql("broken", "drop table t");
    let mut again = arguments(&scene, &source, &target);
    again.push("--resume".to_owned());
    let resumed = scene.command(again).run();
    resumed.assert_success(&[]);
    compare::assert_same(&source, "broken", &target, "broken");
    scene.assert_nothing_left(&resumed);
}

#[test]
fn each_database_is_followed_by_itself() {
    let (source, target) = start(&[("max_replication_slots", "4"), ("max_wal_senders", "6")]);
    for db in ["one", "two"] {
        source.psql("postgres", &format!("create database {db}"));
        source.psql(db, "create table t (id int primary key, v text); insert into t select i, 'copied' from generate_series(1, 100) i");
    }
    let scene = Scene::new();
    let mut command = arguments(&scene, &source, &target);
    command.push("--follow".to_owned());
    let run = scene.command(command).spawn();
    let slots = "select count(*) from pg_replication_slots where active";
    wait_until(SOON, "three followed databases", || {
        source.value("postgres", slots) == "3"
    });
    for db in ["one", "two"] {
        source.psql(
            db,
            "insert into t values (101, 'followed'); update t set v = 'changed' where id = 1",
        );
    }
    let rows = "select count(*) from t where v <> 'copied'";
    for db in ["one", "two"] {
        wait_until(SOON, "changes on the target", || {
            target.value(
                "postgres",
                &format!("select count(*) from pg_database where datname = '{db}'"),
            ) == "1"
        });
        wait_until(SOON, "changes on the target", || {
            target.value(db, "select coalesce(to_regclass('t')::text, '')") == "t"
                && target.value(db, rows) == "2"
        });
    }
    for db in ["one", "two", "postgres"] {
        let dir = scene.work_dir().join("databases").join(db);
        let uri = source.uri(db);
        let set = scene
            .command([
                "stream",
                "sentinel",
                "set",
                "endpos",
                "--current",
                "--source",
                &uri,
                "--dir",
                dir.to_str().unwrap(),
            ])
            .run();
        set.assert_success(&[]);
    }
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(&[]);
    for db in ["one", "two"] {
        assert_eq!(target.value(db, rows), "2");
        assert_eq!(target.value(db, "select count(*) from t"), "101");
    }
    scene.assert_nothing_left(&outcome);
}

#[test]
fn too_few_slots_are_said_before_anything_is_made() {
    let (source, target) = start(&[("max_replication_slots", "1")]);
    source.psql("postgres", "create database one");
    let scene = Scene::new();
    let mut command = arguments(&scene, &source, &target);
    command.push("--follow".to_owned());
    let refused = scene.command(command).run();
    refused.assert_last_error(
        6,
        &[
            "2 databases need 2 replication slots",
            "max_replication_slots leaves 1",
        ],
    );
    assert_eq!(
        target.value(
            "postgres",
            "select count(*) from pg_database where datname = 'one'"
        ),
        "0"
    );
}
