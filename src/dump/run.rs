//! Runs pg_dump and pg_restore: environment, log, stop, outcome. Runs in the clone parent, which waits here. What the
//! programs say goes to our log at its level, except the failures of single objects that pg_restore goes on after:
//! those are collected, for the caller to decide on and to list at the end. It starts no thread and knows no arguments.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::dump::messages::{MessageReader, RestoreFailure};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::conninfo::ChildConnection;
use crate::sys::child_program::{self, Output};
use crate::sys::process::ExitReason;
use crate::sys::signal::Shutdown;

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramOutcome {
    pub exit: ExitReason,
    /// Objects that pg_restore could not restore, and went on.
    pub failures: Vec<RestoreFailure>,
    /// Errors about anything else, already logged.
    pub other_errors: Vec<String>,
    /// pg_restore came to its end, and counted so many errors.
    pub errors_ignored: Option<u64>,
}

impl ProgramOutcome {
    /// `Ok` when the program did all it could: it ended well, or the server refused single objects (`failures`).
    pub fn check(&self, program: &Path) -> Result<()> {
        let only_objects_failed = self.exit == ExitReason::Code(1)
            && self.errors_ignored.is_some()
            && self.other_errors.is_empty()
            && self.failures.iter().all(|failure| failure.is_refusal);
        if self.exit.is_success() || only_objects_failed {
            return Ok(());
        }
        let name = program.file_name().unwrap_or(program.as_os_str());
        let mut message = format!("{} {}", name.to_string_lossy(), self.exit);
        let failed = self.failures.iter().map(|failure| &failure.message);
        // The last one is what ended it.
        if let Some(error) = self.other_errors.iter().chain(failed).next_back() {
            message = format!("{message}: {error}");
        }
        Err(Error::new(ErrorKind::Child, message))
    }
}

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
    // The archive is in the encoding of the source database, whatever our user's terminal has.
    command.env_remove("PGCLIENTENCODING");
    use_plain_messages(&mut command);
    // Arguments hold a conninfo without its password.
    log::debug!("running {} {arguments:?}", program.display());
    let mut messages = MessageReader::default();
    let exit = child_program::run(command, Output::Stderr, shutdown, None, &mut |line| {
        messages.line(&String::from_utf8_lossy(line));
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
