//! `clone --all-databases`: every database with its properties, one that fails beside others that do not, a resume, and
//! each followed by itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::cmd::{RUN_DEADLINE, Scene};
use crate::support::version::Version;
use crate::support::{compare, leftovers, wait_until};

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
    let dir = scene.work_dir();
    let dir = dir.to_str().unwrap();
    let uri = source.uri("postgres");
    let sentinel = |words: &[&str]| {
        let common = ["--source", &uri, "--dir", dir];
        let words = [&["stream", "sentinel"], words, &common].concat();
        scene.command(words).run()
    };
    let refused = sentinel(&["set", "endpos", "--current"]);
    refused.assert_failure(
        3,
        &[
            "is the work directory of a clone of all databases",
            "--all-databases",
        ],
    );
    let got = sentinel(&["get", "--json", "--all-databases"]);
    got.assert_success(&[]);
    let got: Value = serde_json::from_str(&got.stdout).unwrap();
    let names: Vec<&str> = got
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["database"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["one", "postgres", "two"]);
    assert!(
        got.as_array()
            .unwrap()
            .iter()
            .all(|row| row["apply"] == true)
    );
    // Between two modes nobody receives.
    wait_until(SOON, "every slot to be active in list progress", || {
        let followed = progress(&scene, &["--source", &uri]);
        assert_eq!(followed["state"], "running");
        followed["databases"]
            .as_array()
            .unwrap()
            .iter()
            .all(|database| {
                assert_eq!(database["state"], "complete", "{followed:#}");
                database["replication"]["source"]["is-active"] == true
            })
    });
    let set = sentinel(&["set", "endpos", "--current", "--all-databases"]);
    set.assert_success(&[]);
    let positions: Vec<&str> = set
        .stdout
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(positions, [positions[0]; 3], "{}", set.stdout);
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(&[]);
    for db in ["one", "two"] {
        assert_eq!(target.value(db, rows), "2");
        assert_eq!(target.value(db, "select count(*) from t"), "101");
    }
    scene.assert_nothing_left(&outcome);

    let target_uri = target.uri("postgres");
    for removed in ["3", "0"] {
        assert_eq!(
            source.value("postgres", "select count(*) from pg_replication_slots"),
            removed
        );
        let words = [
            "stream",
            "cleanup",
            "--all-databases",
            "--source",
            &uri,
            "--target",
            &target_uri,
            "--dir",
            dir,
        ];
        scene.command(words).run().assert_success(&[]);
    }
    assert_eq!(
        target.value("postgres", "select count(*) from pg_replication_origin"),
        "0"
    );
    for db in ["one", "two", "postgres"] {
        let schema = "select count(*) from pg_namespace where nspname = 'pgcopydb'";
        assert_eq!(source.value(db, schema), "0");
    }
}

/// A table that failed is copied by the resume as of a later position: what it holds by then is not applied again.
#[test]
fn a_table_that_is_copied_later_gets_each_change_once() {
    let (source, target) = start(&[("max_replication_slots", "5"), ("max_wal_senders", "8")]);
    source.psql("postgres", "create database one");
    source.psql(
        "one",
        "create table large (v text); insert into large select repeat('x', 900) from generate_series(1, 100);
         create table small (id int primary key)",
    );
    let scene = Scene::new();
    let mut command = arguments(&scene, &source, &target);
    command.extend(["--follow", "--table-jobs", "1"].map(str::to_owned));
    let mut run = scene
        .command(&command)
        .env("PGCOPYDB_FAILPOINT", "copy.started@copy worker 1=error")
        .spawn();
    wait_until(SOON, "the failure of the largest table", || {
        assert!(run.is_running(), "{}", run.stderr());
        run.stderr().contains("objects could not be copied")
    });
    run.term();
    run.wait_deadline(SOON);
    assert_eq!(target.value("one", "select count(*) from large"), "0");

    source.psql(
        "one",
        "insert into large select 'later' from generate_series(1, 50)",
    );
    command.push("--resume".to_owned());
    let mut run = scene.command(&command).spawn();
    source.psql("one", "insert into small values (1)");
    wait_until(SOON, "what came last", || {
        assert!(run.is_running(), "{}", run.stderr());
        target.value("one", "select count(*) from small") == "1"
    });
    let dir = scene.work_dir();
    let uri = source.uri("postgres");
    let end = [
        "stream",
        "sentinel",
        "set",
        "endpos",
        "--current",
        "--all-databases",
    ];
    let common = ["--source", &uri, "--dir", dir.to_str().unwrap()];
    scene
        .command(end.iter().chain(&common))
        .run()
        .assert_success(&[]);
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(&[]);
    assert_eq!(target.value("one", "select count(*) from large"), "150");
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

/// A table of so many rows, each of about 1 kB.
fn make_table(cluster: &Cluster, db: &str, table: &str, rows: u32) {
    cluster.psql(
        db,
        &format!(
            "create table {table} (id int primary key, v text); alter table {table} alter v set storage external;
             insert into {table} select i, repeat('v', 1000) from generate_series(1, {rows}) i; create index on {table} (left(v, 10))"
        ),
    );
}

fn progress(scene: &Scene, more: &[&str]) -> Value {
    let dir = scene.work_dir();
    let words = ["list", "progress", "--json", "--dir", dir.to_str().unwrap()];
    let outcome = scene.command(words.iter().chain(more)).run();
    outcome.assert_success(&[]);
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// The done-files of all tables, in the order in which they were begun: database, table, when that was, by which worker.
fn copied(scene: &Scene) -> Vec<(String, String, u64, u32)> {
    let entries = |dir: &Path| {
        // Not there before the run has made it.
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap()).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for folder in entries(&scene.work_dir().join("databases")) {
        for file in entries(&folder.path().join("run/tables")) {
            let path = file.path();
            if path.extension().is_none_or(|ending| ending != "done") {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let done: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
            found.push((
                folder.file_name().to_str().unwrap().to_owned(),
                done["name"].as_str().unwrap().to_owned(),
                done["finished_at_ms"].as_u64().unwrap() - done["duration_ms"].as_u64().unwrap(),
                done["worker_pid"].as_u64().unwrap() as u32,
            ));
        }
    }
    found.sort_by_key(|(.., at, _)| *at);
    found
}

/// One pool: the largest tables come first, whichever database they are in; a worker goes from one database to another;
/// there are no more processes than jobs, and no more connections.
#[test]
fn one_pool_copies_the_largest_tables_of_all_databases_first() {
    let (source, target) = start(&[]);
    for db in ["one", "two", "three"] {
        source.psql("postgres", &format!("create database {db}"));
        for number in 1..=4 {
            make_table(&source, db, &format!("small{number}"), 10);
        }
    }
    for (db, rows) in [("one", 20_000), ("two", 30_000), ("three", 25_000)] {
        make_table(&source, db, "large", rows);
        source.psql(db, "select lo_from_bytea(4711, 'large')");
    }
    let scene = Scene::new();
    let mut command = arguments(&scene, &source, &target);
    command.extend(["--table-jobs", "2", "--index-jobs", "2"].map(str::to_owned));
    let mut run = scene
        .command(command)
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:150")
        .spawn();
    let (mut most_workers, mut most_connections) = (0, 0);
    let ours = "select count(*) from pg_stat_activity where application_name like 'pgcopydb%'";
    let mut seen = Vec::new();
    wait_until(SOON, "the tables of several databases under way", || {
        assert!(run.is_running(), "{}", run.stderr());
        let held: u64 = source.value("postgres", ours).parse().unwrap();
        most_connections = most_connections.max(held);
        let workers = run
            .processes()
            .iter()
            .filter(|process| process.title.contains(" worker "))
            .count();
        most_workers = most_workers.max(workers);
        if !scene.work_dir().join("databases").exists() {
            return false;
        }
        let now = progress(&scene, &[]);
        let databases = now["databases"].as_array().unwrap();
        for database in databases {
            let name = database["database"].as_str().unwrap();
            for table in database["tables"]["in-progress"].as_array().unwrap() {
                let worker = table["process"]["worker"].as_str().unwrap();
                let place = (worker.to_owned(), name.to_owned());
                if !seen.contains(&place) {
                    seen.push(place);
                }
            }
        }
        let is_sound = now["tables"]["done"].as_u64() <= now["tables"]["total"].as_u64();
        assert!(is_sound, "{now:#}");
        now["state"] == "running" && now["pid"] == run.pid() && seen.len() >= 3
    });
    let outcome = run.wait_deadline(RUN_DEADLINE);
    outcome.assert_success(&[]);
    // 2 for tables, 2 for indexes, 4 for vacuum, 3 for the large objects of three databases.
    assert!((1..=11).contains(&most_workers), "{most_workers}");
    // The workers', or those of databases being prepared, and a snapshot of each database.
    assert!(most_connections <= 14, "{most_connections}");
    for db in ["one", "two", "three", "postgres"] {
        compare::assert_same(&source, db, &target, db);
    }
    let copied = copied(&scene);
    let large: Vec<&str> = copied[..3].iter().map(|(_, table, ..)| &**table).collect();
    assert_eq!(large, ["\"public\".\"large\""; 3], "{copied:#?}");
    let mut workers: Vec<u32> = copied.iter().map(|(.., pid)| *pid).collect();
    workers.sort_unstable();
    workers.dedup();
    assert_eq!(workers.len(), 2, "{copied:#?}");
    let of_first = copied.iter().filter(|(.., pid)| *pid == workers[0]);
    let mut databases: Vec<&str> = of_first.map(|(database, ..)| &**database).collect();
    // A worker stays with a database while there are small tables of it.
    let changes = databases
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    databases.sort_unstable();
    databases.dedup();
    assert!(databases.len() >= 2 && changes <= 4, "{copied:#?}");

    let after = progress(&scene, &[]);
    assert_eq!(after["state"], "complete");
    assert_eq!(after["tables"]["done"], 15);
    assert_eq!(after["indexes"]["done"], after["indexes"]["total"]);
    assert_eq!(after["large-objects"]["done"], 3);
    let summary = progress(&scene, &["--summary"]);
    assert_eq!(summary["is_complete"], true);
    assert_eq!(summary["databases"].as_array().unwrap().len(), 4);
    let written = fs::read(scene.work_dir().join("summary.json")).unwrap();
    assert_eq!(summary, serde_json::from_slice::<Value>(&written).unwrap());
    let dir = scene.work_dir();
    for more in [&[][..], &["--summary"]] {
        let words = ["list", "progress", "--dir", dir.to_str().unwrap()];
        let shown = scene.command(words.iter().chain(more)).run().stdout;
        assert!(
            shown.contains("three") && shown.contains("omplete"),
            "{shown}"
        );
    }
    scene.assert_nothing_left(&outcome);
}

/// What one database lacks, or loses while its tables are copied, is no matter of the others.
#[test]
fn a_database_that_is_lost_does_not_stop_the_others() {
    let (source, target) = start(&[]);
    for db in ["orphans", "lost", "whole"] {
        source.psql("postgres", &format!("create database {db}"));
        make_table(&source, db, "t", 300);
        make_table(&source, db, "u", 200);
    }
    source.psql(
        "orphans",
        "create table child (t_id int references t); insert into child values (7);
         set session_replication_role = replica; delete from t where id = 7",
    );
    let scene = Scene::new();
    let mut run = scene
        .command(arguments(&scene, &source, &target))
        .env("PGCOPYDB_FAILPOINT", "copy.started=sleep:700")
        .spawn();
    let lost = "select count(*) from pg_stat_activity where datname = 'lost' and application_name like '%copy worker%'";
    wait_until(SOON, "a worker in the database to be lost", || {
        assert!(run.is_running(), "{}", run.stderr());
        source.value("postgres", lost) != "0"
    });
    source.psql(
        "postgres",
        "alter database lost allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = 'lost'",
    );
    let failed = run.wait_deadline(RUN_DEADLINE);
    assert!(!failed.status.success(), "{}", failed.stderr);
    for text in [
        "2 of 4 databases could not be cloned, 2 are done",
        "database \"lost\": ",
        "database \"orphans\": 1 objects could not be copied",
    ] {
        assert!(failed.stderr.contains(text), "{text}\n{}", failed.stderr);
    }
    compare::assert_same(&source, "whole", &target, "whole");
    let state = progress(&scene, &[]);
    let state_of = |name: &str| {
        let databases = state["databases"].as_array().unwrap();
        let found = databases.iter().find(|it| it["database"] == name);
        found.unwrap()["state"].clone()
    };
    assert_eq!(state["state"], "incomplete");
    let states = ["whole", "lost", "orphans"].map(state_of);
    assert_eq!(states, ["complete", "incomplete", "incomplete"]);
    scene.assert_nothing_left(&failed);

    source.psql("postgres", "alter database lost allow_connections true");
    target.psql("orphans", "delete from child");
    let mut again = arguments(&scene, &source, &target);
    again.extend(["--resume", "--not-consistent"].map(str::to_owned));
    let resumed = scene.command(again).run();
    resumed.assert_success(&[]);
    compare::assert_same(&source, "lost", &target, "lost");
    let keys = "select count(*) from pg_constraint where contype = 'f'";
    assert_eq!(target.value("orphans", keys), "1");
    scene.assert_nothing_left(&resumed);
}

/// kill -9 with several databases half done: what is complete stays, and nothing of ours is left behind.
#[test]
fn a_killed_run_goes_on_where_each_database_was() {
    let (source, target) = start(&[]);
    for db in ["one", "two", "three"] {
        source.psql("postgres", &format!("create database {db}"));
        for number in 1..=6 {
            make_table(&source, db, &format!("t{number}"), 50);
        }
    }
    let scene = Scene::new();
    let mut command = arguments(&scene, &source, &target);
    command.extend(["--table-jobs", "2"].map(str::to_owned));
    let mut run = scene
        .command(command)
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:600")
        .spawn();
    // Looked for in the files, and fewer workers than databases: a slow machine must not miss the moment.
    wait_until(SOON, "two databases half done", || {
        assert!(run.is_running(), "{}", run.stderr());
        let done = copied(&scene);
        let of = |db: &str| done.iter().filter(|(database, ..)| database == db).count();
        let is_half = |db: &&str| (1..6).contains(&of(db));
        ["one", "two", "three"].into_iter().filter(is_half).count() >= 2
    });
    run.kill9();
    let killed = run.wait_deadline(RUN_DEADLINE);
    leftovers::assert_no_process(|| scene.processes());
    let before = copied(&scene);
    assert!((2..18).contains(&before.len()), "{before:#?}");
    let mut again = arguments(&scene, &source, &target);
    again.push("--resume".to_owned());
    let refused = scene.command(&again).run();
    refused.assert_failure(3, &["cannot resume consistently"]);
    again.push("--not-consistent".to_owned());
    let resumed = scene.command(&again).run();
    resumed.assert_success(&[]);
    for db in ["one", "two", "three"] {
        compare::assert_same(&source, db, &target, db);
    }
    let after = copied(&scene);
    assert_eq!(after.len(), 18);
    assert!(before.iter().all(|table| after.contains(table)));
    leftovers::assert_no_queue(&killed.pids);
    scene.assert_nothing_left(&resumed);
}

/// What all databases take together is added up, before anything is made.
#[test]
fn the_checks_add_up_all_databases() {
    let (source, target) = start(&[("max_connections", "30"), ("max_replication_slots", "2")]);
    for number in 1..=9 {
        source.psql("postgres", &format!("create database d{number}"));
    }
    target.psql("postgres", "create database d1");
    target.psql("d1", "create table t (id int)");
    source.psql("d1", "create table t (id int)");
    let scene = Scene::new();
    let (from, to) = (source.uri("postgres"), target.uri("postgres"));
    let check = |more: &[&str]| {
        let words = [
            "check",
            "--all-databases",
            "--source",
            &from,
            "--target",
            &to,
        ];
        scene.command(words.iter().chain(more)).run()
    };
    let checked = check(&["--follow"]);
    assert!(!checked.status.success());
    for text in [
        "up to 40 connections to the source are needed",
        "10 databases need 10 replication slots, and max_replication_slots leaves 2",
        "database \"d2\" is to be made on the target",
        "database \"d1\": ",
        "exist there already",
    ] {
        assert!(checked.stdout.contains(text), "{text}\n{}", checked.stdout);
    }
    target.psql("d1", "drop table t");
    let checked = check(&[
        "--jobs",
        "1",
        "--large-objects-jobs",
        "1",
        "--vacuum-jobs",
        "1",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(report["failures"], 0, "{report:#}");
    let mut command = arguments(&scene, &source, &target);
    command.push("--follow".to_owned());
    let refused = scene.command(command).run();
    refused.assert_last_error(6, &["up to 40 connections to the source are needed"]);
    assert!(!scene.work_dir().join("databases").exists());
}
