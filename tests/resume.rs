//! What a run needs to be resumed, and what it makes of files that are torn: every row once, and what is complete is not
//! touched again. That it may end at any of its durable steps is the sweep's.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::{shared_source, shared_target};
use crate::support::cmd::Scene;
use crate::support::compare::assert_same;
use crate::support::interrupted::{Pair, SPLIT, complete_tables, new_work};
use crate::support::wait_until;

/// A power cut tears what was not synced yet: of every kind one file, each for itself. Its work is done again, beside
/// files of its kind that are whole.
#[test]
fn a_torn_file_costs_its_own_work_only() {
    let pair = Pair::to_new_copy(shared_source(), shared_target(), &new_work(shared_source()));
    let scene = Scene::new();
    let killed = pair
        .clone(&scene, &SPLIT)
        .env("PGCOPYDB_FAILPOINT", "clone.before_sequences=kill")
        .run();
    killed.assert_signalled(Signal::SIGKILL);
    let run = scene.work_dir().join("run");
    let oid = |name: &str| {
        pair.source
            .value(&pair.db, &format!("select '{name}'::regclass::oid"))
    };
    let (big, small) = (oid("big"), oid("small"));
    let torn: &[&[&str]] = &[
        &[&format!("tables/{small}.done")],
        &[&format!("tables/{big}.done")],
        &[&format!("tables/{big}.2.done")],
        &[
            &format!("tables/{big}.done"),
            &format!("tables/{big}.3.done"),
        ],
        &[&format!("indexes/{}.done", oid("big_n"))],
        &[
            &format!("indexes/{}.done", oid("big_pkey")),
            &format!("indexes/{}.constraint", oid("big_pkey")),
        ],
        &[&format!("indexes/{}.constraint", oid("small_pkey"))],
        &["blobs/0.done"],
        &[&format!("vacuum/{small}.done")],
        // Everything, and the parts of a table too.
        &["tables/", "indexes/", "blobs/", "vacuum/"],
    ];
    for (number, files) in torn.iter().enumerate() {
        // Steps are synced: without them, the files before them need not have been.
        for step in ["tables", "indexes", "blobs"] {
            let _ = std::fs::remove_file(run.join(format!("{step}.done")));
        }
        for file in *files {
            tear(&run.join(file), number);
        }
        let complete = complete_tables(&pair, &scene);
        let failed = pair
            .clone(
                &scene,
                &[&SPLIT[..], &["--resume", "--not-consistent"]].concat(),
            )
            .env("PGCOPYDB_FAILPOINT", "clone.before_sequences=kill")
            .run();
        assert!(
            failed.stderr.contains("is not whole"),
            "{files:?}: {}",
            failed.stderr
        );
        failed.assert_signalled(Signal::SIGKILL);
        let now = complete_tables(&pair, &scene);
        assert!(
            complete.iter().all(|table| now.contains(table)),
            "{files:?}"
        );
    }
    // What is whole again is believed again.
    let resumed = pair.resume(&scene, &SPLIT);
    resumed.assert_no_unexpected(&[]);
    pair.assert_whole(&scene, &resumed);
}

/// Cut a file short or fill it with rubbish; of a directory, all files.
fn tear(path: &Path, number: usize) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            tear(&entry.path(), number);
        }
        return;
    }
    let bytes = std::fs::read(path).unwrap();
    let torn = match number % 3 {
        0 => Vec::new(),
        1 => bytes[..bytes.len() / 2].to_vec(),
        _ => bytes.iter().map(|byte| byte ^ 1).collect(),
    };
    std::fs::write(path, torn).unwrap();
}

/// A finished step was synced with all of its files, so a file that is not whole is no reason to empty a table.
#[test]
fn a_torn_file_of_a_finished_step_does_no_harm() {
    for folder in ["tables", "indexes", "blobs"] {
        let pair = Pair::to_new_copy(shared_source(), shared_target(), &new_work(shared_source()));
        let scene = Scene::new();
        let killed = pair
            .clone(&scene, &SPLIT)
            .env("PGCOPYDB_FAILPOINT", "clone.before_summary=kill")
            .run();
        killed.assert_signalled(Signal::SIGKILL);
        tear(&scene.work_dir().join("run").join(folder), 1);
        let resumed = pair.resume(&scene, &SPLIT);
        pair.assert_whole(&scene, &resumed);
    }
}

const INDEXED: &str = "
    create table t (id int primary key, v text);
    insert into t select g, g % 7 from generate_series(1, 1000) g;
    create index by_v on t (v);";

/// The table is there, and no index: the worker that would build one while the run ends is killed as well.
const UNBUILT: &str = "copy.after_done_file@copy worker=kill,index.before_build=kill";

/// CREATE INDEX CONCURRENTLY or a REINDEX of somebody else leaves such indexes.
#[test]
fn an_invalid_index_is_built_again_and_another_one_is_refused() {
    let (pair, scene) = (Pair::new(INDEXED), Scene::new());
    let killed = pair
        .clone(&scene, &[])
        .env("PGCOPYDB_FAILPOINT", UNBUILT)
        .run();
    assert!(!killed.status.success());
    pair.target.psql(
        &pair.copy,
        "drop index if exists by_v; create index by_v on t (v);
         update pg_index set indisvalid = false where indexrelid = 'by_v'::regclass",
    );
    let resumed = pair.resume(&scene, &[]);
    pair.assert_whole(&scene, &resumed);
    let (pair, scene) = (Pair::new(INDEXED), Scene::new());
    let killed = pair
        .clone(&scene, &[])
        .env("PGCOPYDB_FAILPOINT", UNBUILT)
        .run();
    assert!(!killed.status.success());
    pair.target.psql(
        &pair.copy,
        "drop index if exists by_v; create index by_v on t (v, id)",
    );
    let resumed = pair.resume(&scene, &[]);
    resumed.assert_failure(4, &["\"by_v\"", "42P07"]);
    pair.target.psql(&pair.copy, "drop index by_v");
    let resumed = pair.resume(&scene, &[]);
    pair.assert_whole(&scene, &resumed);
}

/// From --snapshot and from PGCOPYDB_SNAPSHOT, the same on the resume; gone, its name is told. Trap 47.
#[test]
fn a_snapshot_of_somebody_else_serves_run_and_resume() {
    let data = "
        create table t (id int primary key, v text);
        insert into t select g, repeat('x', 300) from generate_series(1, 20000) g;
        create table u (id int primary key);
        insert into u select g from generate_series(1, 100) g;";
    for is_option in [true, false] {
        let pair = Pair::new(data);
        let before = pair.source.new_db("before");
        pair.source.psql(&before, data);
        let mut holder = pair.source.client(&pair.db);
        holder
            .batch_execute("begin isolation level repeatable read")
            .unwrap();
        let row = holder
            .query_one("select pg_export_snapshot()", &[])
            .unwrap();
        let id: String = row.get(0);
        pair.source.psql(
            &pair.db,
            "delete from t where id % 2 = 0; insert into u values (0)",
        );
        let clone = |scene: &Scene, more: &[&str]| {
            let option: &[&str] = &["--snapshot", &id];
            let more = [&SPLIT[..], more, if is_option { option } else { &[] }].concat();
            let clone = pair.clone(scene, &more);
            if is_option {
                clone
            } else {
                clone.env("PGCOPYDB_SNAPSHOT", &id)
            }
        };
        let scene = Scene::new();
        for (point, more) in [
            ("copy.after_commit", &[][..]),
            ("copy.after_done_file", &["--resume"]),
        ] {
            let killed = clone(&scene, more)
                .env("PGCOPYDB_FAILPOINT", format!("{point}=kill"))
                .run();
            assert!(!killed.status.success(), "{}", killed.stderr);
            assert!(
                !killed.stderr.contains("exported snapshot"),
                "{}",
                killed.stderr
            );
        }
        let resumed = clone(&scene, &["--resume"]).run();
        resumed.assert_success(&[]);
        assert_same(pair.source, &before, pair.target, &pair.copy);
        // Nothing is read any more, so nobody asks for the snapshot.
        drop(holder);
        clone(&scene, &["--resume"]).run().assert_success(&[]);
        let gone = clone(&Scene::new(), &[]).run();
        gone.assert_last_error(6, &[&id, "does not exist any more"]);
    }
}

/// The source's xmin is held no longer than rows are read: not while indexes are built. What is written there meanwhile
/// is not asked for by a resume.
#[test]
fn the_snapshot_is_let_go_before_the_last_indexes_are_built() {
    let sql = format!(
        "create function slow(text) returns text immutable language plpgsql as
             'begin if pg_catalog.current_setting(''test.slow'', true) = ''yes'' then perform pg_catalog.pg_sleep(60);
              end if; return $1; end';
         {INDEXED}
         create index by_slow on t (public.slow(v));"
    );
    let (pair, scene) = (Pair::new(&sql), Scene::new());
    let before = pair.source.new_db("before");
    pair.source.psql(&before, &sql);
    let copy = &pair.copy;
    pair.target.psql(
        copy,
        &format!("alter database {copy} set test.slow = 'yes'"),
    );
    let mut running = pair.clone(&scene, &[]).spawn();
    wait_until(Duration::from_secs(30), "the slow index", || {
        assert!(running.is_running(), "{}", running.stderr());
        running.stderr().contains("releasing snapshot")
    });
    let held = "select count(*) from pg_stat_activity where datname = current_database() \
                and application_name like 'pgcopydb%' and backend_xmin is not null";
    wait_until(Duration::from_secs(5), "the snapshot to be gone", || {
        pair.source.value(&pair.db, held) == "0"
    });
    assert_eq!(pair.copied("select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"), "1");
    pair.source
        .psql(&pair.db, "insert into t values (0, 'late')");
    running.term();
    running
        .wait_deadline(Duration::from_secs(10))
        .assert_signalled(Signal::SIGTERM);
    pair.target
        .psql(copy, &format!("alter database {copy} reset test.slow"));
    let resumed = pair.clone(&scene, &["--resume"]).run();
    resumed.assert_success(&[]);
    assert_same(pair.source, &before, pair.target, copy);
}

/// The workers of pg_restore --jobs share one stderr, where their messages run into each other: none may be lost.
#[test]
fn every_constraint_that_parallel_workers_could_not_make_is_told_and_made_later() {
    let (pair, scene) = (Pair::new(""), Scene::new());
    let each = |sql: &str| {
        format!("do $$ begin for i in 1..80 loop execute format('{sql}', i); end loop; end $$")
    };
    pair.source.psql(
        &pair.db,
        &each(
            "create table p%1$s (id int primary key); create table c%1$s (id int references p%1$s);
             alter table c%1$s disable trigger all; insert into c%1$s values (1);
             alter table c%1$s enable trigger all",
        ),
    );
    let failed = pair.clone(&scene, &["--restore-jobs", "8"]).run();
    failed.assert_last_error(failed.status.code().unwrap(), &["80 objects", "23503"]);
    for table in 1..=80 {
        let name = format!("\"c{table}_id_fkey\"");
        assert!(failed.stderr.contains(&name), "{name}");
    }
    for (server, db) in [(pair.source, &pair.db), (pair.target, &pair.copy)] {
        server.psql(db, &each("insert into p%1$s values (1)"));
    }
    let resumed = pair
        .clone(&scene, &["--resume", "--restore-jobs", "8"])
        .run();
    pair.assert_whole(&scene, &resumed);
}
