//! Runs pg_dump and pg_restore: environment, log, stop, outcome. Runs in the clone parent, which waits here. What the
//! programs say goes to our log at its level, except the failures of single objects that pg_restore goes on after:
//! those are collected, for the caller to decide on and to list at the end. It starts no thread and knows no arguments.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::dump::messages::MessageReader;
use crate::dump::outcome::ProgramOutcome;
use crate::error::{ErrorKind, Result};
use crate::pg::conninfo::ChildConnection;
use crate::sys::child_program::{self, Output};
use crate::sys::signal::Shutdown;

/// Run to the end, with the connection's variables; its `dbname_argument` must be among the arguments. An error only
/// when the program could not be run, or was stopped because `shutdown` says so.
pub fn run(
    program: &Path,
    arguments: &[OsString],
    connection: &ChildConnection,
    shutdown: &Shutdown,
) -> Result<ProgramOutcome> {
    let mut command = Command::new(program);
    command.args(arguments);
    for name in &connection.env_remove {
        command.env_remove(name);
    }
    for (name, value) in &connection.env_set {
        command.env(name, value);
    }
    // Whoever gave the arguments has chosen the encoding; our user's terminal has no say.
    command.env_remove("PGCLIENTENCODING");
    use_plain_messages(&mut command);
    // Arguments hold a conninfo without its password.
    log::debug!("running {} {arguments:?}", program.display());
    let mut messages = MessageReader::default();
    let exit = child_program::run(command, Output::Stderr, shutdown, None, &mut |line| {
        messages.line(&String::from_utf8_lossy(line));
    })
    .map_err(|error| match error.kind() {
        // Up to 16 there is no other way to tell pg_dump of them.
        ErrorKind::Config => error.with_hint(
            "Each relation that the filters leave out and this role may not read is an argument: let the role read them, or \
             allow longer arguments with \"ulimit -s unlimited\".",
        ),
        _ => error,
    })?;
    Ok(messages.into_outcome(exit))
}

/// Untranslated messages, so that they can be told apart.
pub fn use_plain_messages(command: &mut Command) {
    command
        .env("LC_ALL", "C")
        .env("LC_MESSAGES", "C")
        .env_remove("LANGUAGE")
        .env_remove("PG_COLOR");
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::run;
    use crate::error::{ErrorKind, Side};
    use crate::pg::conninfo::ConnInfo;
    use crate::sys::signal::Shutdown;

    #[test]
    fn more_arguments_than_the_system_takes_are_refused_with_advice() {
        let connection = ConnInfo::parse(Side::Source, "host=h dbname=d")
            .unwrap()
            .child()
            .unwrap();
        // Linux takes 6 MB at most, whatever the limits.
        let arguments = vec![OsString::from("x".repeat(100)); 80_000];
        let error = run(
            Path::new("/bin/true"),
            &arguments,
            &connection,
            &Shutdown::deaf(),
        )
        .expect_err("that is too much");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().is_some_and(|hint| hint.contains("ulimit")));
    }
}
