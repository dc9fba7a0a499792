//! The command line of the built program: exit codes, what goes to stdout and to stderr, and which of option,
//! environment and default counts. No server is needed: each line ends before a connection is made.

use std::process::{Command, Output, Stdio};

/// Run without any variable of the caller's that could change the answer.
fn pgcopydb(variables: &[(&str, &str)], words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgcopydb"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
        .args(words)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// The cause is the last line that holds ERROR.
fn cause(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .rfind(|line| line.contains("ERROR"))
        .unwrap_or_default()
        .to_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn help_and_version_go_to_stdout() {
    for words in [
        &["help"][..],
        &["--help"],
        &["-h"],
        &["help", "clone"],
        &["clone", "--help"],
        &["fork", "--help"],
        &["copy-db", "--help"],
        &["copy", "db", "--help"],
    ] {
        let output = pgcopydb(&[], words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(stdout(&output).contains("Usage: pgcopydb"), "{words:?}");
        assert!(output.stderr.is_empty(), "{words:?}");
    }
    for words in [&["version"][..], &["--version"], &["-V"], &["clone", "-V"]] {
        let output = pgcopydb(&[], words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")));
    }
    let json = pgcopydb(&[], &["version", "--json"]);
    let parsed: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(parsed["pgcopydb"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn help_lists_the_commands() {
    let help = stdout(&pgcopydb(&[], &["help"]));
    for name in [
        "clone", "copy", "dump", "restore", "follow", "list", "compare", "check", "stream",
        "snapshot", "ping", "version", "help",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{name}");
    }
}

#[test]
fn help_shows_no_value_of_the_environment() {
    let variables = [("PGCOPYDB_SOURCE_PGURI", "postgres://joe:sesame@old/db")];
    let help = stdout(&pgcopydb(&variables, &["clone", "--help"]));
    assert!(help.contains("PGCOPYDB_SOURCE_PGURI"));
    assert!(!help.contains("sesame"));
}

#[test]
fn a_closed_stdout_is_no_crash() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pgcopydb"))
        .args(["clone", "--help"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn mistakes_end_with_code_1_and_one_cause() {
    for (words, reason) in [
        (&[][..], "no command given"),
        (&["copy"], "no command given"),
        (&["clone"], "no source database given"),
        (&["clone", "-S", "dbname=a"], "no target database given"),
        (&["snapshot"], "no source database given"),
        (&["ping"], "no database given"),
        (&["klone"], "unknown command \"klone\""),
        (&["follow"], "no source database given"),
        (&["stream", "sentinel", "get"], "no source database given"),
        (&["stream", "prune"], "no target database given"),
        (
            &["clone", "-S", "dbname=a", "--follow"],
            "no target database given",
        ),
        (
            &["clone", "--plugin", "pgoutput"],
            "option --plugin needs --follow",
        ),
        (
            &["clone", "--follow", "--plugin", "decoderbufs"],
            "--plugin",
        ),
        (
            &["clone", "--follow", "--slot-name", "My Slot"],
            "--slot-name",
        ),
        (&["clone", "--follow", "--endpos", "soon"], "--endpos"),
        (&["clone", "--sideways"], "unknown option --sideways"),
        (&["clone", "--table-jobs", "0"], "--table-jobs"),
        (&["clone", "--table-jobs", "-3"], "--table-jobs"),
        (&["clone", "--split-max-parts", "-1"], "--split-max-parts"),
        (
            &["clone", "--split-at", "many"],
            "--split-tables-larger-than",
        ),
        (&["clone", "--restart", "--resume"], "--resume"),
        (&["clone", "-q", "-v"], "--quiet"),
    ] {
        let output = pgcopydb(&[], words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(
            cause(&output).contains(reason),
            "{words:?}: {}",
            cause(&output)
        );
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn an_option_counts_before_its_variable() {
    // Each line gets past the jobs exactly when the value that counts is a good one.
    let bad = [("PGCOPYDB_TABLE_JOBS", "none")];
    let output = pgcopydb(&bad, &["clone"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(cause(&output).contains("environment variable PGCOPYDB_TABLE_JOBS"));
    let output = pgcopydb(&bad, &["clone", "--table-jobs", "2"]);
    assert!(cause(&output).contains("no source database given"));
    let output = pgcopydb(&[("PGCOPYDB_TABLE_JOBS", "")], &["clone"]);
    assert!(cause(&output).contains("no source database given"));
}

#[test]
fn booleans_of_the_environment() {
    for value in ["1", "true", "yes", "on", "TRUE", "0", "off", ""] {
        let output = pgcopydb(&[("PGCOPYDB_FAIL_FAST", value)], &["clone"]);
        assert!(
            cause(&output).contains("no source database given"),
            "{value}"
        );
    }
    let output = pgcopydb(&[("PGCOPYDB_FAIL_FAST", "maybe")], &["clone"]);
    assert!(cause(&output).contains("environment variable PGCOPYDB_FAIL_FAST"));
}

#[test]
fn connections_may_come_from_the_environment() {
    let output = pgcopydb(&[("PGCOPYDB_SOURCE_PGURI", "dbname=a")], &["clone"]);
    assert!(cause(&output).contains("no target database given"));
}

#[test]
fn no_password_is_repeated() {
    let uri = "postgres://joe:sesame@example.org/db";
    for words in [&["clone", uri][..], &["clone", "--sauce", uri], &[uri]] {
        let output = pgcopydb(&[], words);
        assert_eq!(output.status.code(), Some(1));
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!log.contains("sesame"), "{log}");
    }
}
