//! The power fails on the target right after each kind of done-file: what a done-file speaks of must have survived.
//! wal_writer_delay keeps asynchronous commits in memory for long, so that a done-file written too early is found out.
//! Trap 7, as far as it concerns clone.

use std::path::Path;
use std::time::Duration;

use pgcopydb::ident::quote_literal;
use pgcopydb::workdir::done::{
    BlobsDone, ConstraintDone, IndexDone, TableDone, VacuumDone, read_directory,
};

use crate::support::cluster::{Cluster, StopMode, shared_source};
use crate::support::cmd::Scene;
use crate::support::compare::assert_same;
use crate::support::interrupted::{Pair, SPLIT, new_work};
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

/// A server that writes nothing to its disk that it need not.
fn forgetful_target() -> Cluster {
    Cluster::start(
        Version::Debian15,
        &[
            ("fsync", "on"),
            ("wal_writer_delay", "10s"),
            ("wal_writer_flush_after", "0"),
        ],
    )
}

/// Directory below `run` and ending of a done-file, and where the parent waits so that nothing else flushes meanwhile.
const KINDS: &[(&str, &str, &str)] = &[
    ("", "restore-pre.done", "clone.after_restore_pre=sleep:2000"),
    ("tables", ".done", ""),
    ("indexes", ".done", ""),
    ("indexes", ".constraint", ""),
    ("vacuum", ".done", ""),
    ("blobs", ".done", ""),
    ("", "tables.done", ""),
    ("", "indexes.done", "clone.before_sequences=sleep:2000"),
    ("", "sequences.done", "clone.after_sequences=sleep:2000"),
    (
        "",
        "restore-post.done",
        "clone.after_restore_post=sleep:2000",
    ),
    ("", "properties.done", ""),
    ("", "clone.done", ""),
];

#[test]
fn what_a_done_file_speaks_of_survives_a_crash_of_the_target() {
    let target = forgetful_target();
    let db = new_work(shared_source());
    let set = format!("alter database {db} set work_mem = '5MB'");
    shared_source().psql(&db, &set);
    for (folder, ending, wait) in KINDS {
        let pair = Pair::to_new_copy(shared_source(), &target, &db);
        let scene = Scene::new();
        let mut running = pair
            .clone(&scene, &SPLIT)
            .env("PGCOPYDB_TEST_PATIENCE_MS", "1000")
            .env("PGCOPYDB_FAILPOINT", wait)
            .spawn();
        let run = scene.work_dir().join("run");
        wait_until(Duration::from_secs(30), ending, || {
            let is_running = running.is_running();
            // Looked for after that: the last file and the end of the run are one moment.
            let is_there = has_file(&run.join(folder), ending);
            is_there || !is_running && panic!("no {ending}: {}", running.stderr())
        });
        target.stop(StopMode::Immediate);
        let outcome = running.wait_deadline(Duration::from_secs(60));
        target.start_again();
        leftovers::assert_no_process(|| scene.processes());
        assert_kept(&pair, &run);
        if outcome.status.success() {
            assert_same(pair.source, &pair.db, pair.target, &pair.copy);
            continue;
        }
        let resumed = pair.resume(&scene, &SPLIT);
        pair.assert_whole(&scene, &resumed);
    }
}

#[test]
fn a_run_that_ended_well_survives_a_crash_of_the_target() {
    let target = forgetful_target();
    let pair = Pair::to_new_copy(shared_source(), &target, &new_work(shared_source()));
    let scene = Scene::new();
    let outcome = pair.clone(&scene, &SPLIT).run();
    target.restart_immediate();
    pair.assert_whole(&scene, &outcome);
}

/// The sessions of pg_restore have ended well, and what they made was still in memory: no session of ours was cut by it.
#[test]
fn post_data_that_a_crash_took_is_restored_again() {
    let target = forgetful_target();
    let pair = Pair::to_new_copy(shared_source(), &target, &new_work(shared_source()));
    let scene = Scene::new();
    let trace = scene.path("trace");
    let mut running = pair
        .clone(&scene, &SPLIT)
        .env("PGCOPYDB_FAILPOINT", "clone.before_post_flush=sleep:3000")
        .env("PGCOPYDB_FAILPOINT_TRACE", &trace)
        .spawn();
    wait_until(Duration::from_secs(60), "post-data to be restored", || {
        assert!(running.is_running(), "it ended:\n{}", running.stderr());
        let passed = std::fs::read_to_string(&trace).unwrap_or_default();
        passed.contains("clone.before_post_flush")
    });
    target.restart_immediate();
    let outcome = running.wait_deadline(Duration::from_secs(60));
    assert!(
        outcome.stderr.contains("was started anew"),
        "{}",
        outcome.stderr
    );
    outcome.assert_success(&["was started anew"]);
    scene.assert_nothing_left(&outcome);
    assert_same(pair.source, &pair.db, pair.target, &pair.copy);
}

fn has_file(folder: &Path, ending: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(ending))
}

/// Everything that a done-file speaks of is on the target.
#[track_caller]
fn assert_kept(pair: &Pair<'_>, run: &Path) {
    let is_true = |sql: &str| {
        let value = pair.copied(sql);
        assert_eq!(value, "t", "{sql}");
    };
    for table in read_directory::<TableDone>(&run.join("tables"), ".done")
        .unwrap()
        .values()
    {
        // Other parts may be there too.
        let relation = if table.part.is_some() { ">=" } else { "=" };
        let (name, rows) = (&table.name, table.rows);
        is_true(&format!(
            "select count(*) {relation} {rows} from only {name}"
        ));
    }
    for index in read_directory::<IndexDone>(&run.join("indexes"), ".done")
        .unwrap()
        .values()
    {
        is_true(&format!(
            "select count(*) = 1 from pg_index where indisvalid and indexrelid = to_regclass({})",
            quote_literal(&index.name)
        ));
    }
    let constraints = read_directory::<ConstraintDone>(&run.join("indexes"), ".constraint");
    for constraint in constraints.unwrap().values() {
        is_true(&format!(
            "select count(*) = 1 from pg_constraint where conindid = to_regclass({}) and contype <> 'f'",
            quote_literal(&constraint.name)
        ));
    }
    for vacuum in read_directory::<VacuumDone>(&run.join("vacuum"), ".done")
        .unwrap()
        .values()
    {
        let name = pair
            .source
            .value(&pair.db, &format!("select {}::regclass", vacuum.oid));
        is_true(&format!(
            "select exists (select from pg_statistic where starelid = {}::regclass)",
            quote_literal(&name)
        ));
    }
    for batch in read_directory::<BlobsDone>(&run.join("blobs"), ".done")
        .unwrap()
        .values()
    {
        is_true(&format!(
            "select count(*) = {} from pg_largeobject_metadata where oid between {} and {}",
            batch.count, batch.first, batch.last
        ));
    }
    for (step, proof) in STEPS {
        if run.join(format!("{step}.done")).exists() {
            is_true(proof);
        }
    }
}

/// A flush does nothing for unlogged tables. With a view of their rows, and a sequence that is lost with them.
#[test]
fn unlogged_tables_that_a_crash_has_emptied_are_copied_again() {
    let (source, target) = (shared_source(), forgetful_target());
    let db = source.new_db("unlogged");
    source.psql(
        &db,
        "create unlogged sequence counted; select setval('counted', 4711);
         create table kept as select generate_series(1, 20) a;
         create unlogged table whole (id int primary key, a int); insert into whole select g, g from generate_series(1, 500) g;
         create unlogged table parted (id int primary key, v text);
         insert into parted select g, repeat('v', 100) from generate_series(1, 3000) g;
         create unlogged table empty (id int);
         create materialized view summed as select sum(a) from whole",
    );
    let lost = "unlogged table \"public\".\"whole\" has lost its rows";
    for moment in ["clone.before_summary", "clone.after_restore_post", ""] {
        let copy = target.new_db("unlogged");
        let scene = Scene::new();
        let (from, to) = (source.uri(&db), target.uri(&copy));
        let more =
            |more: &[&'static str]| [&["--split-tables-larger-than", "100kB"], more].concat();
        let run = scene.clone_db(&from, &to, &more(&[]));
        if moment == "clone.before_summary" {
            // Between two runs, after all that is looked at.
            run.env("PGCOPYDB_FAILPOINT", "clone.before_summary=error")
                .run()
                .assert_last_error(12, &["fault point"]);
            target.restart_immediate();
        } else {
            // In the middle of one, before post-data or after it.
            let (name, sleep) = match moment {
                "" => ("tables.done", "clone.before_sequences=sleep:3000"),
                _ => ("restore-post.done", "clone.after_restore_post=sleep:3000"),
            };
            let mut run = run.env("PGCOPYDB_FAILPOINT", sleep).spawn();
            wait_until(Duration::from_secs(60), name, || {
                assert!(run.is_running(), "{}", run.stderr());
                scene.work_dir().join("run").join(name).exists()
            });
            target.restart_immediate();
            let outcome = run.wait_deadline(Duration::from_secs(60));
            outcome.assert_last_error(4, &["2 objects could not be copied", "has lost its rows"]);
            assert!(outcome.stderr.contains(lost), "{}", outcome.stderr);
        }
        let resume = |options: &[&'static str]| scene.clone_db(&from, &to, &more(options)).run();
        resume(&["--resume"]).assert_last_error(3, &["cannot resume consistently"]);
        let outcome = resume(&["--resume", "--not-consistent"]);
        outcome.assert_success(&["has lost its rows"]);
        scene.assert_nothing_left(&outcome);
        assert_same(source, &db, &target, &copy);
    }
}

/// The note of triggers that were switched off goes when they are on again for good.
#[test]
fn triggers_are_on_again_after_a_crash_of_the_target() {
    let (source, target) = (shared_source(), forgetful_target());
    let (db, copy) = (source.new_db("triggers"), target.new_db("triggers"));
    source.psql(
        &db,
        "create table t as select generate_series(1, 20) a;
         create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger always before insert on t for each row execute function f();
         alter table t enable always trigger always",
    );
    let scene = Scene::new();
    let (from, to) = (source.uri(&db), target.uri(&copy));
    scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_FAILPOINT", "copy.started=error")
        .run()
        .assert_last_error(4, &["1 objects could not be copied"]);
    let dir = scene.work_dir();
    let despite = ["restore", "post-data", "--resume", "--despite-failures"];
    let common = ["--target", &to, "--dir", dir.to_str().unwrap()];
    scene
        .command(despite.iter().chain(&common))
        .run()
        .assert_last_error(4, &["was not copied"]);
    let mut run = scene
        .clone_db(&from, &to, &["--resume", "--not-consistent"])
        .env(
            "PGCOPYDB_FAILPOINT",
            "file.after_remove/run/triggers.json=sleep:3000",
        )
        .spawn();
    let note = dir.join("run/triggers.json");
    for is_there in [true, false] {
        wait_until(Duration::from_secs(60), "the note of triggers", || {
            assert!(run.is_running(), "{}", run.stderr());
            note.exists() == is_there
        });
    }
    target.restart_immediate();
    let outcome = run.wait_deadline(Duration::from_secs(60));
    outcome.assert_success(&["trying again", "connecting again"]);
    let state = "select tgenabled from pg_trigger where tgname = 'always'";
    assert_eq!(target.value(&copy, state), "A");
    assert_same(source, &db, &target, &copy);
}

/// In the same snapshot, where parts count.
#[test]
fn parts_of_an_unlogged_table_are_not_believed_after_a_crash() {
    let (source, target) = (shared_source(), forgetful_target());
    let (db, copy) = (source.new_db("unlogged"), target.new_db("unlogged"));
    source.psql(
        &db,
        "create unlogged table parted (id int, v text);
         insert into parted select g, repeat('v', 100) from generate_series(1, 3000) g",
    );
    let mut snapshot = source.client(&db);
    let id = "begin isolation level repeatable read; select pg_export_snapshot()";
    let id = crate::support::cluster::rows(&mut snapshot, id)[0][0]
        .clone()
        .unwrap();
    let scene = Scene::new();
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let more = [
        "--snapshot",
        &id,
        "--table-jobs",
        "1",
        "--split-tables-larger-than",
        "100kB",
    ];
    let killed = scene
        .clone_db(&from, &to, &more)
        .env("PGCOPYDB_FAILPOINT", "copy.after_done_file=kill")
        .run();
    killed.assert_last_error(12, &["was terminated by SIGKILL"]);
    let parts = || {
        let done = read_directory::<TableDone>(&scene.work_dir().join("run/tables"), ".done");
        done.unwrap().len()
    };
    assert_eq!(parts(), 1);
    target.restart_immediate();
    let outcome = scene
        .clone_db(&from, &to, &[&more[..], &["--resume"]].concat())
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, &target, &copy);
}

/// What is there after a step.
const STEPS: &[(&str, &str)] = &[
    (
        "restore-pre",
        "select to_regclass('big') is not null and to_regclass('summed') is not null",
    ),
    (
        "tables",
        "select (select count(*) from big) = 30000 and (select count(*) from parent) = 200",
    ),
    (
        "indexes",
        "select count(*) = 4 from pg_index where indrelid = 'big'::regclass",
    ),
    ("sequences", "select last_value = 30000 from big_id_seq"),
    ("restore-post", "select count(*) = 97 from summed"),
    ("properties", "select current_setting('work_mem') = '5MB'"),
];
