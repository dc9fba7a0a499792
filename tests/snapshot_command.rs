//! The small commands (snapshot, ping, version), what the log can be told by environment and options, and whether the
//! summary says the truth.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Running, Scene};
use crate::support::compare::assert_same;
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

const SECONDS: Duration = Duration::from_secs(15);

fn hold(scene: &Scene, uri: &str) -> Running {
    let dir = scene.work_dir();
    let args = ["snapshot", "--source", uri, "--dir", dir.to_str().unwrap()];
    let mut run = scene.command(args).spawn();
    wait_until(SECONDS, "the snapshot to be held", || {
        assert!(run.is_running(), "{}", run.stderr());
        run.stderr().contains("holding it until a signal")
    });
    run
}

#[test]
fn a_snapshot_is_printed_held_and_let_go() {
    let (source, target) = (shared_source(), shared_target());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (scene, db) = (Scene::new(), source.new_db("snapshot"));
        source.psql(&db, "create table t as select generate_series(1, 10) a");
        let (from, note) = (source.uri(&db), scene.work_dir().join("snapshot"));
        let holder = hold(&scene, &from);
        let noted = fs::read_to_string(&note).unwrap();
        source.psql(&db, "insert into t values (11)");
        // Found by its note, and by its name.
        let copy = target.new_db("snapshot");
        let outcome = scene.clone_db(&from, &target.uri(&copy), &[]).run();
        outcome.assert_success(&[]);
        assert_eq!(target.value(&copy, "select count(*) from t"), "10");
        let (other, copy) = (Scene::new(), target.new_db("snapshot"));
        let outcome = other
            .clone_db(&from, &target.uri(&copy), &[])
            .env("PGCOPYDB_SNAPSHOT", noted.trim())
            .run();
        outcome.assert_success(&[]);
        assert_eq!(target.value(&copy, "select count(*) from t"), "10");
        // One holder for each directory.
        let dir = scene.work_dir();
        let second = [
            "snapshot",
            "--source",
            &from,
            "--dir",
            dir.to_str().unwrap(),
        ];
        let outcome = scene.command(second).run();
        outcome.assert_last_error(3, &["another pgcopydb", &holder.pid().to_string()]);

        holder.signal(signal);
        let outcome = holder.wait_deadline(Duration::from_secs(5));
        outcome.assert_success(&[]);
        assert_eq!(outcome.stdout, noted, "stdout has the id and nothing else");
        assert!(!note.exists(), "the note is still there");
        leftovers::assert_no_backend(source, &db);
        let copy = target.new_db("snapshot");
        let more = ["--snapshot", noted.trim()];
        let outcome = Scene::new()
            .clone_db(&from, &target.uri(&copy), &more)
            .run();
        outcome.assert_last_error(6, &["cannot use snapshot", "does not exist any more"]);
    }
}

#[test]
fn a_holder_whose_server_goes_away_says_so() {
    let source = Cluster::start(Version::Debian15, &[]);
    for mode in [StopMode::Fast, StopMode::Immediate] {
        let scene = Scene::new();
        let holder = hold(&scene, &source.uri("postgres"));
        source.stop(mode);
        let outcome = holder.wait_deadline(SECONDS);
        outcome.assert_last_error(6, &["lost the snapshot"]);
        assert!(!scene.work_dir().join("snapshot").exists());
        source.start_again();
    }
    // A holder that was killed leaves its note; a clone that finds it does not rely on it.
    let scene = Scene::new();
    let holder = hold(&scene, &source.uri("postgres"));
    holder.kill9();
    holder
        .wait_deadline(SECONDS)
        .assert_signalled(Signal::SIGKILL);
    assert!(scene.work_dir().join("snapshot").exists());
    leftovers::assert_no_backend(&source, "postgres");
    source.create_db("copy");
    let (from, to) = (source.uri("postgres"), source.uri("copy"));
    scene.clone_db(&from, &to, &[]).run().assert_success(&[]);
}

#[test]
fn ping_tells_which_server_does_not_answer() {
    let (source, scene) = (shared_source(), Scene::new());
    let uri = source.uri("postgres");
    let outcome = scene.command(["ping", "-S", &uri, "-T", &uri]).run();
    outcome.assert_success(&[]);
    for text in [
        "source database",
        "target database",
        "answers, PostgreSQL 15",
    ] {
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    }
    let missing = source.uri("no such db");
    let outcome = scene.command(["ping", "-S", &uri, "-T", &missing]).run();
    outcome.assert_last_error(7, &["could not connect to target", "3D000"]);
    let outcome = scene
        .command(["ping", "-S", &missing, "-T", &missing])
        .run();
    outcome.assert_last_error(6, &["could not connect to source", "3D000"]);
    assert!(
        outcome.stderr.contains("could not connect to target"),
        "{}",
        outcome.stderr
    );
    let outcome = scene.command(["ping"]).run();
    outcome.assert_last_error(1, &["no database given"]);
    // A server that comes back within the time is waited for.
    let late = Cluster::start(Version::Debian15, &[]);
    late.stop(StopMode::Fast);
    let uri = late.uri("postgres");
    let mut waiting = scene.command(["ping", "-S", &uri]).spawn();
    wait_until(SECONDS, "ping to wait", || {
        assert!(waiting.is_running(), "{}", waiting.stderr());
        waiting.stderr().contains("trying again")
    });
    late.start_again();
    waiting
        .wait_deadline(SECONDS)
        .assert_success(&["trying again"]);
    // And a signal ends the wait.
    late.stop(StopMode::Fast);
    let mut waiting = scene.command(["ping", "-S", &uri]).spawn();
    wait_until(SECONDS, "ping to wait", || {
        assert!(waiting.is_running(), "{}", waiting.stderr());
        waiting.stderr().contains("trying again")
    });
    waiting.term();
    let outcome = waiting.wait_deadline(Duration::from_secs(3));
    outcome.assert_signalled(Signal::SIGTERM);
}

#[test]
fn the_version_is_for_programs_too() {
    let scene = Scene::new();
    let outcome = scene.command(["version", "--json"]).run();
    outcome.assert_success(&[]);
    let version: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(version["pgcopydb"], env!("CARGO_PKG_VERSION"));
    for args in [&["version"][..], &["--version"], &["-V"]] {
        let outcome = scene.command(args).run();
        outcome.assert_success(&[]);
        assert!(outcome.stdout.contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn the_log_goes_where_the_environment_says() {
    let (source, scene) = (shared_source(), Scene::new());
    let uri = source.uri("postgres");
    let (text, json) = (scene.path("run.log"), scene.path("run.json"));
    let outcome = scene
        .command(["ping", "-S", &uri])
        .env("PGCOPYDB_LOG_FILENAME", &text)
        .env("PGCOPYDB_LOG_JSON_FILE", &json)
        .env("PGCOPYDB_LOG_JSON", "on")
        .env("PGCOPYDB_LOG_TIME_FORMAT", "%Y at %H")
        .run();
    assert!(outcome.status.success(), "{}", outcome.stderr);
    assert_eq!(outcome.stderr, fs::read_to_string(&json).unwrap());
    let line: serde_json::Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
    assert_eq!(line["error_level"], 4);
    assert!(line["timestamp"].as_str().unwrap().contains(" at "));
    let text = fs::read_to_string(&text).unwrap();
    assert!(text.contains(line["message"].as_str().unwrap()), "{text}");

    let outcome = scene.command(["ping", "-S", &uri, "--quiet"]).run();
    assert_eq!(
        (outcome.status.success(), outcome.stderr.as_str()),
        (true, "")
    );
    let outcome = scene.command(["--debug", "ping", "-S", &uri]).run();
    outcome.assert_success(&[]);
    let outcome = scene
        .command(["ping", "-S", &uri, "--quiet", "--debug"])
        .run();
    outcome.assert_last_error(1, &["--quiet"]);
    let outcome = scene
        .command(["ping", "-S", &uri])
        .env("PGCOPYDB_LOG_FILENAME", "/nonexistent/run.log")
        .run();
    assert!(!outcome.status.success());
    assert!(
        outcome.stderr.contains("/nonexistent/run.log"),
        "{}",
        outcome.stderr
    );
}

/// Errors of a quiet run are still told, and workers log to the same places.
#[test]
fn workers_log_where_their_parent_does() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (source.new_db("log"), target.new_db("log"));
    source.psql(
        &db,
        "create table t (id int primary key); insert into t values (1)",
    );
    let (from, to, log) = (source.uri(&db), target.uri(&copy), scene.path("run.log"));
    let outcome = scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_LOG_FILENAME", &log)
        .run();
    outcome.assert_success(&[]);
    let text = fs::read_to_string(&log).unwrap();
    // Each place has its own look at the clock.
    let messages = |log: &str| -> Vec<String> {
        let messages = log.lines().filter_map(|line| line.split_once(' '));
        messages.map(|(_, message)| message.to_owned()).collect()
    };
    assert_eq!(messages(&text), messages(&outcome.stderr));
    assert!(text.contains("copied table \"public\".\"t\""), "{text}");
    let outcome = scene.clone_db(&from, &to, &["--quiet"]).run();
    outcome.assert_last_error(3, &["holds an earlier run"]);
}

#[test]
fn the_summary_says_the_truth() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (source.new_db("summary"), target.new_db("summary"));
    source.psql(
        &db,
        "create table empty (id int primary key);
         create table a_few (id int primary key, a text unique);
         insert into a_few select g, 'x' from generate_series(1, 1) g;
         create table parts (id int primary key, a text);
         insert into parts select g, repeat('x', 500) from generate_series(1, 5000) g;
         create table parent (id int) partition by range (id);
         create table child partition of parent for values from (0) to (10);
         insert into parent values (1), (2);
         create unlogged table hot as select generate_series(1, 7) a;
         create sequence s",
    );
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let split = ["--split-tables-larger-than", "512kB"];
    let outcome = scene.clone_db(&from, &to, &split).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    let summary = fs::read_to_string(scene.work_dir().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["is_complete"], true);
    assert_eq!(summary["sequences"], 1);
    assert_eq!(summary["failures"].as_array().unwrap().len(), 0);
    let tables = summary["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 5, "{tables:#?}");
    for (name, rows, indexes) in [
        ("empty", 0, 1),
        ("a_few", 1, 2),
        ("parts", 5000, 1),
        ("child", 2, 0),
        ("hot", 7, 0),
    ] {
        let full = format!("\"public\".\"{name}\"");
        let table = tables.iter().find(|table| table["name"] == full.as_str());
        let table = table.unwrap_or_else(|| panic!("no {name} in {tables:#?}"));
        assert_eq!(table["rows"], rows, "{name}");
        assert_eq!(table["indexes"], indexes, "{name}");
        // What COPY sends, with five bytes of header for each row.
        let sql = format!("select coalesce(sum(length(t::text)), 0) from only {name} t");
        let least: u64 = source.value(&db, &sql).parse().unwrap();
        let bytes = table["bytes"].as_u64().unwrap();
        assert!(
            bytes >= least && bytes <= least + 200 + 10 * rows,
            "{name}: {bytes} for {least}"
        );
    }
    let duration = summary["duration_ms"].as_u64().unwrap();
    assert!(u128::from(duration) <= outcome.elapsed.as_millis());
    let phases = summary["phases"].as_array().unwrap();
    let sum: u64 = phases
        .iter()
        .map(|phase| phase["duration_ms"].as_u64().unwrap())
        .sum();
    assert!(
        sum <= duration && sum + 20 >= duration,
        "{sum} of {duration}"
    );
    // A second run has nothing to do and leaves the summary as it was.
    let before = fs::read(scene.work_dir().join("summary.json")).unwrap();
    let more = ["--resume", "--split-tables-larger-than", "512kB"];
    let outcome = scene.clone_db(&from, &to, &more).run();
    outcome.assert_success(&[]);
    assert!(
        outcome.stderr.contains("nothing to do"),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        fs::read(scene.work_dir().join("summary.json")).unwrap(),
        before
    );
}
