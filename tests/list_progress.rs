//! How far a run is, seen from another process while it runs and after it; and on the terminal that it runs on.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use serde_json::Value;

use crate::support::cmd::{RUN_DEADLINE, Running, Scene};
use crate::support::following::{self, Following};
use crate::support::migration::Migration;
use crate::support::version::Version;
use crate::support::wait_until;

const SOON: Duration = Duration::from_secs(30);

/// One table with rows enough to be worth a line, and an index that takes its time on the target, whose name tells.
const SLOW: &str = r#"
    create schema "Odd ""S";
    create table "Odd ""S"."big
one" (id int primary key, v text);
    insert into "Odd ""S"."big
one" select i, repeat('v', 100) from generate_series(1, 20000) i;
    create table slow_index (id int);
    insert into slow_index select generate_series(1, 150);
    create function public.dawdle(id int) returns int immutable language plpgsql as
        'begin if pg_catalog.current_database() like ''to%'' then perform pg_catalog.pg_sleep(0.01); end if; return id; end';
    create index slow_one on slow_index (public.dawdle(id));
    create table empty (id int primary key);
    analyze;
"#;

/// `list progress --json` of a scene's directory.
#[track_caller]
fn progress(scene: &Scene, more: &[&str]) -> Value {
    let dir = scene.work_dir();
    let words = ["list", "progress", "--json", "--dir", dir.to_str().unwrap()];
    let outcome = scene.command(words.iter().chain(more)).run();
    outcome.assert_success(&[]);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[track_caller]
fn text(scene: &Scene, more: &[&str]) -> String {
    let dir = scene.work_dir();
    let words = ["list", "progress", "--dir", dir.to_str().unwrap()];
    let outcome = scene.command(words.iter().chain(more)).run();
    outcome.assert_success(&[]);
    outcome.stdout
}

/// Poll until one answer has what is looked for; every answer must be a sound one.
#[track_caller]
fn poll<T>(
    scene: &Scene,
    run: &mut Running,
    more: &[&str],
    what: &str,
    mut look: impl FnMut(&Value) -> Option<T>,
) -> T {
    let mut found = None;
    wait_until(SOON, what, || {
        assert!(
            run.is_running(),
            "it ended before this: {what}\n{}",
            run.stderr()
        );
        let now = progress(scene, more);
        let tables = &now["tables"];
        assert!(
            tables["done"].as_u64() <= tables["total"].as_u64(),
            "{now:#}"
        );
        assert!(
            tables["bytes-done"].as_u64() <= tables["bytes"].as_u64(),
            "{now:#}"
        );
        found = look(&now);
        found.is_some()
    });
    found.expect("waited for")
}

#[test]
fn a_run_is_seen_from_its_begin_to_its_end() {
    let migration = Migration::shared(SLOW);
    let scene = &migration.scene;
    assert_eq!(progress(scene, &[])["state"], "not-started");
    assert!(text(scene, &[]).contains("There is no run"));
    assert!(!scene.work_dir().exists());

    let mut run = migration
        .invocation(&["--table-jobs", "1", "--index-jobs", "1", "--skip-analyze"])
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:500")
        .spawn();
    let target = migration.target.uri(&migration.copy);
    let table = poll(scene, &mut run, &[], "a table under way", |now| {
        let table = &now["tables"]["in-progress"][0];
        (table["copied-rows"] == 20000).then(|| (table.clone(), now.clone()))
    });
    let (table, now) = table;
    assert_eq!(
        (&table["schema"], &table["name"]),
        (&"Odd \"S".into(), &"big\none".into())
    );
    assert_eq!(table["reltuples"], 20000);
    assert!(
        table["copied-bytes"].as_u64() > Some(2_000_000),
        "{table:#}"
    );
    assert!(table["bytes-per-second"].as_u64() > Some(0), "{table:#}");
    assert!(table["seconds-left"].is_u64(), "{table:#}");
    assert_eq!(table["process"]["worker"], "copy worker 1");
    assert_eq!(now["state"], "running");
    assert_eq!(now["pid"], run.pid());
    assert_eq!(
        (&now["table-jobs"], &now["tables"]["total"]),
        (&1.into(), &3.into())
    );
    assert_eq!(now["servers"]["target"], "not-asked");

    let index = poll(
        scene,
        &mut run,
        &["--target", &target],
        "an index under way",
        |now| {
            let index = &now["indexes"]["in-progress"][0];
            (index["build"]["blocks-total"].as_u64() > Some(0)).then(|| index.clone())
        },
    );
    assert_eq!(
        (&index["name"], &index["table"]),
        (&"slow_one".into(), &"slow_index".into())
    );
    let phase = index["build"]["phase"].as_str().unwrap();
    assert!(phase.contains("scanning table"), "{index:#}");
    let during = text(scene, &["--target", &target]);
    assert!(during.contains("The run is under way (pid "), "{during}");

    let outcome = run.wait_deadline(RUN_DEADLINE);
    outcome.assert_success(&[]);
    migration.assert_nothing_left(&outcome);
    let after = progress(scene, &[]);
    assert_eq!(
        (&after["state"], &after["pid"]),
        (&"complete".into(), &Value::Null)
    );
    let tables = &after["tables"];
    assert_eq!(
        (&tables["done"], &tables["copied-rows"]),
        (&3.into(), &20150.into())
    );
    assert_eq!(tables["bytes-done"], tables["bytes"]);
    assert_eq!(after["indexes"]["done"], after["indexes"]["total"]);
    assert_eq!(after["constraints"]["done"], after["constraints"]["total"]);
    assert_eq!(after["vacuum"]["done"], 3);
    assert!(text(scene, &[]).contains("The run is complete."));

    let summary = progress(scene, &["--summary"]);
    assert_eq!(summary["is_complete"], true);
    assert_eq!(summary["tables"].as_array().unwrap().len(), 3);
    let written: Value =
        serde_json::from_slice(&std::fs::read(scene.work_dir().join("summary.json")).unwrap())
            .unwrap();
    assert_eq!(summary, written);
    let summary = text(scene, &["--summary"]);
    assert!(summary.contains("\"Odd \"\"S\".\"big\\none\""), "{summary}");
    assert!(summary.contains("Everything is copied."), "{summary}");
}

/// A run that was killed is not taken for one that runs, and what it had done is still told.
#[test]
fn a_run_that_was_killed_is_incomplete() {
    let migration = Migration::shared(
        "create table a (id int primary key); insert into a select generate_series(1, 1000);
         create table b (id int primary key); insert into b select generate_series(1, 10)",
    );
    let scene = &migration.scene;
    let mut run = migration
        .invocation(&["--table-jobs", "1"])
        .env("PGCOPYDB_FAILPOINT", "clone.before_sequences=sleep:20000")
        .spawn();
    // Past its data section, where it would leave queues to the next run.
    poll(scene, &mut run, &[], "the indexes to be built", |now| {
        let steps = now["steps"].as_array().unwrap();
        let is_built = steps.iter().any(|step| step["step"] == "indexes");
        (is_built && now["tables"]["done"] == 2).then_some(())
    });
    let unreachable = [
        "--source",
        "host=127.0.0.1 port=1 dbname=x",
        "--target",
        "host=127.0.0.1 port=1 dbname=x",
    ];
    assert_eq!(progress(scene, &unreachable)["state"], "running");
    run.kill9();
    let outcome = run.wait_deadline(RUN_DEADLINE);
    scene.assert_nothing_left(&outcome);
    let after = progress(scene, &[]);
    assert_eq!(after["state"], "incomplete");
    assert_eq!(after["tables"]["copied-rows"], 1010);
    assert_eq!(after["tables"]["in-progress"].as_array().unwrap().len(), 0);
    let summary = text(scene, &["--summary"]);
    assert!(
        summary.contains("Not everything is copied yet."),
        "{summary}"
    );
}

/// While apply is kept from going on, the age of what waits grows; it comes back to zero by itself.
#[test]
fn the_lag_of_a_follow_is_seen() {
    for plugin in ["test_decoding", "pgoutput", "wal2json"] {
        see_the_lag(plugin);
    }
}

fn see_the_lag(plugin: &'static str) {
    let following = Following::of(
        following::shared(Version::Debian15),
        plugin,
        "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 100) i",
    );
    let source = following.source_uri.clone();
    let scene = &following.scene;
    let ask = ["--source", source.as_str()];
    // While it still copies, what is received waits in files.
    let mut run = following
        .command(&["clone", "--follow"], &[])
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:4000")
        .spawn();
    poll(scene, &mut run, &ask, "a slot that is read", |now| {
        (now["replication"]["source"]["is-active"] == true).then_some(())
    });
    following.source.psql(
        &following.db,
        "insert into t values (1000, 'during the copy')",
    );
    poll(scene, &mut run, &ask, "a lag during the copy", |now| {
        let seconds = now["replication"]["source"]["lag-seconds"].as_f64();
        assert_ne!(now["replication"]["sentinel"]["apply"], true);
        (seconds > Some(0.5)).then_some(())
    });
    following.wait_on_target(&mut run, "select count(*) from t where id = 1000", "1");
    poll(scene, &mut run, &ask, "that it is known", |now| {
        let replication = &now["replication"];
        (replication["source"]["lag-seconds"] == 0.0).then_some(())
    });
    let mut blocker = following.target.client(&following.copy);
    blocker.batch_execute("begin; lock table t").unwrap();
    let insert = "insert into t select i, 'w' from generate_series(101, 200) i";
    following.source.psql(&following.db, insert);
    let started = Instant::now();
    let replication = poll(scene, &mut run, &ask, "a lag that grows", |now| {
        let replication = &now["replication"];
        let seconds = replication["source"]["lag-seconds"].as_f64();
        // Between two modes nobody reads the slot for a moment.
        let is_read = replication["source"]["is-active"] == true;
        (is_read && seconds > Some(1.5)).then(|| replication.clone())
    });
    let seconds = replication["source"]["lag-seconds"].as_f64().unwrap();
    assert!(
        seconds <= started.elapsed().as_secs_f64() + 0.5,
        "{replication:#}"
    );
    assert_eq!(replication["slot-name"], following.name);
    assert!(replication["pid"].is_u64(), "{replication:#}");
    assert_eq!(replication["sentinel"]["apply"], true);
    let at_source = &replication["source"];
    assert!(at_source["lag-bytes"].as_u64() > Some(0), "{at_source:#}");
    let shown = text(scene, &ask);
    let lag = shown.split("; lag: ").nth(1).unwrap_or_default();
    assert!(
        shown.contains("is running (pid ") && lag.split(';').next().unwrap().ends_with(" s"),
        "{shown}"
    );
    // Without the source: what the files say.
    let alone = progress(scene, &[]);
    assert_eq!(alone["replication"]["sentinel"], Value::Null);
    assert_eq!(alone["servers"]["source"], "not-asked");

    blocker.batch_execute("commit").unwrap();
    poll(scene, &mut run, &ask, "no lag", |now| {
        (now["replication"]["source"]["lag-seconds"] == 0.0).then_some(())
    });
    following.cut_over(run, &[]);
}

/// A terminal as far as our frames need one: carriage return, newline, cursor up, clear below.
#[derive(Default)]
struct Screen {
    lines: Vec<String>,
    row: usize,
    column: usize,
}

impl Screen {
    fn feed(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            if self.lines.len() <= self.row {
                self.lines.resize(self.row + 1, String::new());
            }
            match letter {
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                '\x1b' => {
                    assert_eq!(rest.next(), Some('['));
                    let mut count = String::new();
                    let command = loop {
                        match rest.next() {
                            Some(digit) if digit.is_ascii_digit() => count.push(digit),
                            other => break other,
                        }
                    };
                    match command {
                        Some('A') => self.row -= count.parse::<usize>().unwrap(),
                        Some('J') => {
                            let kept: String =
                                self.lines[self.row].chars().take(self.column).collect();
                            self.lines.truncate(self.row);
                            self.lines.push(kept);
                        }
                        other => panic!("unknown escape {other:?}"),
                    }
                }
                letter => {
                    let line = &mut self.lines[self.row];
                    let mut letters: Vec<char> = line.chars().collect();
                    letters.resize(letters.len().max(self.column + 1), ' ');
                    letters[self.column] = letter;
                    *line = letters.into_iter().collect();
                    self.column += 1;
                }
            }
        }
    }
}

#[test]
fn bars_and_log_share_a_terminal() {
    let migration = Migration::shared(SLOW);
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = migration
        .invocation(&["--table-jobs", "2", "--skip-analyze"])
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:1200")
        .env("TERM", "xterm")
        .into_command();
    command.stdout(Stdio::null()).stderr(File::from(pty.slave));
    let mut child = command.spawn().unwrap();
    // Our copy of the terminal's other side, which would keep it open.
    drop(command);
    let mut master = File::from(pty.master);
    let mut written = Vec::new();
    let mut buffer = [0; 4096];
    // The end of the last process that has it open is an error of its own here.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        written.extend_from_slice(&buffer[..count]);
    }
    assert!(child.wait().unwrap().success());
    let written = String::from_utf8(written).unwrap();
    let mut screen = Screen::default();
    let (mut has_table, mut has_whole) = (false, false);
    // Each frame and each line of the log begins by clearing what is below.
    for piece in written.split_inclusive("\x1b[J") {
        screen.feed(piece);
        let is_bar = |line: &&String| line.contains("\x1b") || line.contains(" left");
        for line in screen.lines.iter().filter(is_bar) {
            assert!(line.chars().count() < 100, "{line:?}");
        }
        has_whole |=
            piece.contains("/3 tables") && piece.contains("MiB/s") || piece.contains("KiB/s");
        has_table |= piece.contains("\"Odd \"\"S\".\"big?one\"");
    }
    assert!(has_whole && has_table, "{written:?}");
    // In the end nothing but the log is there, each of its lines whole.
    let lines: Vec<&String> = screen
        .lines
        .iter()
        .filter(|line| !line.is_empty())
        .collect();
    assert!(lines.len() > 8, "{lines:#?}");
    for line in &lines {
        let time = line.split(' ').next().unwrap();
        assert!(
            time.len() == 12 && time.matches(':').count() == 2,
            "{lines:#?}"
        );
    }
    assert!(
        lines.iter().any(|line| line.contains("all is copied")),
        "{lines:#?}"
    );
    migration.assert_same();
}

/// Where nobody watches, the log is what it always was.
#[test]
fn without_a_terminal_there_are_no_bars() {
    let migration = Migration::shared("create table t (id int primary key)");
    let outcome = migration.clone_with(&[], &[]);
    assert!(!outcome.stderr.contains('\x1b') && !outcome.stderr.contains('\r'));
}
