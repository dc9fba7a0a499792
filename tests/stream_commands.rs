//! Follow taken apart: each part as a command of its own, the pipeline of three, and a snapshot that is held for a follow.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::cmd::program;
use crate::support::following::{Following, SOON, shared};
use crate::support::version::Version;
use crate::support::wait_until;

const TABLES: &str = "create table public.marks (mark int primary key);
    create table t (id int primary key, v text); insert into t select g, 'old' from generate_series(1, 100) g";
const CHANGES: &str = "update t set v = 'it''s new' where id < 50; delete from t where id = 7; insert into t values (1000, null);
    insert into marks values (1000001)";

/// Both databases hold the same rows, and slot, origin and sentinel are there.
fn set_up(plugin: &'static str) -> Following<'static> {
    let following = Following::of(shared(Version::Pg17), plugin, TABLES);
    following.target.psql(&following.copy, TABLES);
    let outcome = following
        .command(&["stream", "setup"], &["--plugin", plugin])
        .run();
    outcome.assert_success(&[]);
    following
}

#[track_caller]
fn runs(following: &Following<'_>, words: &[&str], more: &[&str]) {
    let command: Vec<&str> = [&["stream"], words].concat();
    let plugin = ["--plugin", following.plugin];
    let outcome = following.command(&command, &[&plugin, more].concat()).run();
    outcome.assert_success(&[]);
    following.scene.assert_nothing_left(&outcome);
}

/// Prefetch collects until the end position; catchup applies what it finds, and only that.
#[test]
fn prefetch_then_catchup() {
    let following = set_up("pgoutput");
    following.source.psql(&following.db, CHANGES);
    let lsn = following.current_lsn();
    runs(&following, &["prefetch"], &["--endpos", &lsn]);
    assert_eq!(following.on_target("select count(*) from marks"), "0");
    assert!(!following.cdc_files("sql").is_empty());
    runs(&following, &["catchup"], &[]);
    following.clean_up();
    following.assert_same();
}

#[test]
fn replay_until_the_end_position() {
    let following = set_up("test_decoding");
    following.source.psql(&following.db, CHANGES);
    let lsn = following.current_lsn();
    runs(&following, &["replay"], &["--endpos", &lsn]);
    following.clean_up();
    following.assert_same();
}

/// The pipe of live replay begins where the files end: what an earlier command has collected in them goes first.
#[test]
fn replay_applies_what_is_in_files_first() {
    let following = set_up("pgoutput");
    following.source.psql(&following.db, CHANGES);
    let lsn = following.current_lsn();
    runs(&following, &["prefetch"], &["--endpos", &lsn]);
    following
        .source
        .psql(&following.db, "insert into t values (2000, 'later')");
    let lsn = following.current_lsn();
    runs(&following, &["replay"], &["--endpos", &lsn]);
    following.clean_up();
    following.assert_same();
}

/// What a power cut of our own machine may leave: the first file without its end, the second in full, scripts full of zeros.
/// Neither was confirmed to the slot, as neither was flushed; everything from the gap on comes again.
#[test]
fn what_a_power_cut_leaves_is_received_again() {
    let following = set_up("pgoutput");
    let insert = |from: u32| {
        following.source.psql(
            &following.db,
            &format!("insert into t select g, 'new' from generate_series({from}, {from} + 9) g"),
        );
    };
    let run = following
        .command(&["stream", "prefetch"], &["--plugin", "pgoutput"])
        .env("PGCOPYDB_FAILPOINT", "receive.after_flush=sleep:600000")
        .spawn();
    for from in [1000, 2000, 3000, 4000] {
        if from > 2000 {
            following
                .source
                .psql(&following.db, "select pg_switch_wal()");
        }
        insert(from);
    }
    let files = || {
        let mut files = following.cdc_files("json");
        files.sort();
        files
    };
    let has = |text: &str| {
        let has = |file| std::fs::read_to_string(file).is_ok_and(|lines| lines.contains(text));
        files().iter().any(has)
    };
    wait_until(SOON, "files of changes", || {
        files().len() > 2 && has("\"4009\"") && following.cdc_files("sql").len() > 1
    });
    for process in run.processes() {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    run.wait_deadline(SOON);
    wait_until(SOON, "its processes to be gone", || {
        following.scene.processes().is_empty()
    });
    // The last transaction of the first file never came to the disk.
    let first = &files()[0];
    let lines = std::fs::read_to_string(first).unwrap();
    let end = lines.rfind("{\"action\":\"B\"").unwrap();
    assert!(lines[end..].contains("\"C\""), "{lines}");
    std::fs::write(first, &lines[..end]).unwrap();
    for script in following.cdc_files("sql") {
        let text = std::fs::read_to_string(&script).unwrap();
        let middle = text.len() / 2;
        let zeros = "\0".repeat(text.rfind("SWITCH").unwrap() - 1 - middle);
        let text = format!(
            "{}{zeros}{}",
            &text[..middle],
            &text[middle + zeros.len()..]
        );
        std::fs::write(&script, text).unwrap();
    }
    let boot = following.scene.work_dir().join("cdc/boot.json");
    let _ = std::fs::remove_file(boot);
    insert(5000);
    let lsn = following.current_lsn();
    let outcome = following
        .command(
            &["stream", "replay"],
            &["--plugin", "pgoutput", "--endpos", &lsn],
        )
        .run();
    outcome.assert_success(&["have a gap"]);
    following.clean_up();
    following.assert_same();
}

/// Receive, then transform and apply by file names.
#[test]
fn one_file_at_a_time() {
    let following = set_up("test_decoding");
    following.source.psql(&following.db, CHANGES);
    let lsn = following.current_lsn();
    runs(&following, &["receive"], &["--endpos", &lsn]);
    for json in following.cdc_files("json") {
        let sql = json.with_extension("sql");
        let words = [
            "stream",
            "transform",
            json.to_str().unwrap(),
            sql.to_str().unwrap(),
        ];
        following.scene.command(words).run().assert_success(&[]);
        runs(&following, &["apply"], &[sql.to_str().unwrap()]);
    }
    following.clean_up();
    following.assert_same();
}

/// The pipeline of three is what replay does, in one work directory.
#[test]
fn the_pipeline_of_three() {
    let following = set_up("pgoutput");
    following.source.psql(&following.db, CHANGES);
    let lsn = following.current_lsn();
    let work_dir = following.scene.work_dir();
    let script = format!(
        "set -o pipefail; export PGCOPYDB_SOURCE_PGURI='{}' PGCOPYDB_TARGET_PGURI='{}'
         names='--slot-name {} --origin {} --plugin pgoutput'; p='{}'
         env -u PGCOPYDB_TARGET_PGURI $p stream receive --to-stdout --endpos {lsn} --dir '{dir}' $names | $p stream transform - - | \
             $p stream apply - --dir '{dir}' $names",
        following.source_uri,
        following.target_uri,
        following.name,
        following.name,
        program().display(),
        dir = work_dir.display(),
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    following.clean_up();
    following.assert_same();
}

/// The slot's snapshot, held by another process, is what is copied; changes since it was made come after it.
#[test]
fn a_snapshot_that_is_held_for_a_follow() {
    let following = Following::of(shared(Version::Pg17), "pgoutput", TABLES);
    let work_dir = following.scene.work_dir();
    let held = following.scene.command([
        "snapshot",
        "--follow",
        "--plugin",
        "pgoutput",
        "--source",
        &following.source_uri,
        "--slot-name",
        &following.name,
        "--dir",
        work_dir.to_str().unwrap(),
    ]);
    let mut held = held.spawn();
    wait_until(SOON, "the snapshot to be held", || {
        assert!(held.is_running(), "it ended:\n{}", held.stderr());
        held.stderr().contains("holding snapshot")
    });
    following.source.psql(&following.db, CHANGES);
    let mut run = following.clone_and_apply(&[]);
    held.term();
    let outcome = held.wait_deadline(SOON);
    outcome.assert_success(&[]);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &[]);
}
