//! When a run may begin, go on, or is refused, and what a resume does with what it finds. Traps 47, 49.

use std::time::Duration;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::Scene;
use crate::support::compare::assert_same;
use crate::support::{leftovers, wait_until};

const DATA: &str = "
    create table t (id int primary key, v text);
    insert into t select g, repeat('x', 100) from generate_series(1, 20000) g;
    create index on t (v);
    create table u (id int primary key);
    insert into u select g from generate_series(1, 100) g;";

const SPLIT: [&str; 2] = ["--split-tables-larger-than", "500kB"];

struct Databases {
    source: &'static Cluster,
    target: &'static Cluster,
    db: String,
    copy: String,
}

impl Databases {
    fn new() -> Databases {
        let (source, target) = (shared_source(), shared_target());
        let databases = Databases {
            source,
            target,
            db: source.new_db("rules"),
            copy: target.new_db("rules"),
        };
        source.psql(&databases.db, DATA);
        databases
    }

    fn from(&self) -> String {
        self.source.uri(&self.db)
    }

    fn to(&self) -> String {
        self.target.uri(&self.copy)
    }

    #[track_caller]
    fn assert_same(&self) {
        assert_same(self.source, &self.db, self.target, &self.copy);
        leftovers::assert_no_backend(self.source, &self.db);
        leftovers::assert_no_backend(self.target, &self.copy);
    }

    /// Run until this fault point and die there.
    #[track_caller]
    fn killed_at(&self, scene: &Scene, point: &str, more: &[&str]) {
        let outcome = scene
            .clone_db(&self.from(), &self.to(), more)
            .env("PGCOPYDB_FAILPOINT", format!("{point}=kill"))
            .run();
        assert!(!outcome.status.success(), "{}", outcome.stderr);
        // The holder of a snapshot for this directory is no part of the run.
        leftovers::assert_no_process(|| {
            let mut processes = scene.processes();
            processes.retain(|process| !process.title.contains(" snapshot "));
            processes
        });
    }
}

#[test]
fn a_second_run_needs_a_word_about_the_first() {
    let (databases, scene) = (Databases::new(), Scene::new());
    let (from, to) = (databases.from(), databases.to());
    databases.killed_at(&scene, "clone.before_restore_post", &[]);
    let plain = scene.clone_db(&from, &to, &[]).run();
    plain.assert_failure(3, &["holds an earlier run", "--resume", "--restart"]);
    let changed = scene
        .clone_db(&from, &to, &["--resume", "--no-owner", "--split-at", "1GB"])
        .run();
    changed.assert_last_error(
        3,
        &[
            "--no-owner was \"no\" and is now \"yes\"",
            "--split-tables-larger-than was \"off\" and is now",
        ],
    );
    // Jobs and the log level may differ; nothing is left to read, so no new snapshot is asked for.
    let resumed = scene
        .clone_db(&from, &to, &["--resume", "--jobs", "2", "--debug"])
        .run();
    resumed.assert_success(&[]);
    assert!(
        !resumed.stderr.contains("exported snapshot"),
        "{}",
        resumed.stderr
    );
    databases.assert_same();
    let restarted = scene.clone_db(&from, &to, &["--restart"]).run();
    restarted.assert_last_error(7, &["target not empty"]);
    let restarted = scene
        .clone_db(&from, &to, &["--restart", "--drop-if-exists"])
        .run();
    restarted.assert_success(&[]);
    databases.assert_same();
}

#[test]
fn one_directory_one_run_at_a_time() {
    let (databases, scene) = (Databases::new(), Scene::new());
    let (from, to) = (databases.from(), databases.to());
    let mut first = scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_dump=sleep:3000")
        .spawn();
    wait_until(Duration::from_secs(20), "the first run", || {
        assert!(first.is_running());
        first.stderr().contains("dumping")
    });
    let second = scene.clone_db(&from, &to, &["--resume"]).run();
    second.assert_last_error(3, &["another pgcopydb", &first.pid().to_string()]);
    first
        .wait_deadline(Duration::from_secs(60))
        .assert_success(&[]);
    databases.assert_same();
}

#[test]
fn a_lost_snapshot_is_said_and_a_new_one_taken_on_request() {
    let (databases, scene) = (Databases::new(), Scene::new());
    let (from, to) = (databases.from(), databases.to());
    // Parts of a split table are on the target, some announced and some not.
    databases.killed_at(&scene, "copy.after_commit", &SPLIT);
    let resumed = scene
        .clone_db(&from, &to, &[&SPLIT[..], &["--resume"]].concat())
        .run();
    resumed.assert_failure(3, &["cannot resume consistently", "--not-consistent"]);
    databases.source.psql(
        &databases.db,
        "insert into t values (0, 'new'); insert into u values (0)",
    );
    let args = [&SPLIT[..], &["--resume", "--not-consistent"]].concat();
    let resumed = scene.clone_db(&from, &to, &args).run();
    resumed.assert_success(&[]);
    databases.assert_same();
}

#[test]
fn a_snapshot_that_is_held_makes_the_resume_consistent() {
    let (databases, scene) = (Databases::new(), Scene::new());
    let (from, to) = (databases.from(), databases.to());
    let work_dir = scene.work_dir();
    let args = [
        "snapshot",
        "--source",
        &from,
        "--dir",
        work_dir.to_str().unwrap(),
    ];
    // In a scene of its own: it outlives the runs that are killed.
    let holders = Scene::new();
    let mut holder = holders.command(args).spawn();
    wait_until(Duration::from_secs(20), "the snapshot", || {
        assert!(holder.is_running());
        work_dir.join("snapshot").exists()
    });
    databases.source.psql(
        &databases.db,
        "delete from t where id % 2 = 0; insert into u values (0)",
    );
    // Committed and not announced: the parts must not be copied twice under the snapshot that lives on.
    databases.killed_at(&scene, "copy.after_commit", &SPLIT);
    databases.killed_at(
        &scene,
        "copy.after_done_file",
        &[&SPLIT[..], &["--resume"]].concat(),
    );
    let resumed = scene
        .clone_db(&from, &to, &[&SPLIT[..], &["--resume"]].concat())
        .run();
    resumed.assert_success(&[]);
    // As the snapshot saw it, before the changes.
    assert_eq!(
        databases
            .target
            .value(&databases.copy, "select count(*) from t"),
        "20000"
    );
    assert_eq!(
        databases
            .target
            .value(&databases.copy, "select count(distinct id) from t"),
        "20000"
    );
    assert_eq!(
        databases
            .target
            .value(&databases.copy, "select count(*) from u"),
        "100"
    );
    holder.term();
    let held = holder.wait_deadline(Duration::from_secs(10));
    assert_eq!(held.status.code(), Some(0), "{}", held.stderr);
    assert!(!work_dir.join("snapshot").exists());
    scene.assert_nothing_left(&resumed);
}

#[test]
fn a_snapshot_that_is_gone_is_refused_by_its_name() {
    let (databases, scene) = (Databases::new(), Scene::new());
    let outcome = scene
        .clone_db(
            &databases.from(),
            &databases.to(),
            &["--snapshot", "00000003-0000001B-1"],
        )
        .run();
    outcome.assert_last_error(
        6,
        &[
            "snapshot \"00000003-0000001B-1\"",
            "does not exist any more",
        ],
    );
    let outcome = scene
        .clone_db(
            &databases.from(),
            &databases.to(),
            &["--snapshot", "it's; nonsense"],
        )
        .run();
    assert!(!outcome.status.success());
    assert_eq!(
        databases
            .target
            .value(&databases.copy, "select to_regclass('t') is null"),
        "t"
    );
}

/// Done-files that a power cut tore are as if they were not there.
#[test]
fn torn_done_files_are_done_again() {
    let (databases, scene) = (Databases::new(), Scene::new());
    let (from, to) = (databases.from(), databases.to());
    databases.killed_at(&scene, "clone.before_sequences", &[]);
    let run = scene.work_dir().join("run");
    for (number, folder) in ["tables", "indexes", "vacuum"].iter().enumerate() {
        for entry in std::fs::read_dir(run.join(folder)).unwrap().flatten() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let torn = bytes
                .get(..bytes.len() / (number + 1) / 2)
                .unwrap_or_default();
            std::fs::write(entry.path(), torn).unwrap();
        }
    }
    std::fs::write(run.join("tables.done"), "garbage").unwrap();
    let resumed = scene
        .clone_db(&from, &to, &["--resume", "--not-consistent"])
        .run();
    resumed.assert_success(&["is not whole"]);
    databases.assert_same();
}
