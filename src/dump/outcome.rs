//! What a run of pg_dump or pg_restore came to. Plain data and one judgement; no I/O.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::process::ExitReason;

/// An object that pg_restore could not restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreFailure {
    /// `None` when pg_restore did not say.
    pub dump_id: Option<i32>,
    /// As pg_restore names it, `TABLE film postgres`; `name_failures` makes it `TABLE "public"."film"`.
    pub object: String,
    /// Without the severity.
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where in the statement or in which function, as the server tells it.
    pub context: Option<String>,
    /// The statement, cut by pg_restore if long. Statements that may hold a password are not kept.
    pub command: String,
    /// The server refused the statement; otherwise the connection broke.
    pub is_refusal: bool,
}

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
    /// Whether the server went away under the program, or never was there.
    pub fn lost_server(&self) -> bool {
        // libpq's and the server's own words; programs run with untranslated messages.
        let is_loss = |error: &String| {
            [
                "connection to server",
                "server closed the connection",
                "terminating connection",
                "no connection to the server",
            ]
            .iter()
            .any(|words| error.contains(words))
        };
        self.failures.iter().any(|failure| !failure.is_refusal)
            || self.other_errors.iter().any(is_loss)
    }

    /// Whether more failed than was told.
    pub fn has_unseen_failures(&self) -> bool {
        self.errors_ignored
            .is_some_and(|count| count > self.failures.len() as u64)
    }

    /// `Ok` when the program did all it could: it ended well, or the server refused single objects (`failures`).
    pub fn check(&self, program: &Path) -> Result<()> {
        let only_objects_failed = self.exit == ExitReason::Code(1)
            && self.errors_ignored.is_some()
            && self.other_errors.is_empty()
            && !self.failures.is_empty()
            && !self.has_unseen_failures()
            && self.failures.iter().all(|failure| failure.is_refusal);
        if self.exit.is_success() || only_objects_failed {
            return Ok(());
        }
        let name = program.file_name().unwrap_or(program.as_os_str());
        let mut message = format!("{} {}", name.to_string_lossy(), self.exit);
        let failed = self.failures.iter().map(|failure| &failure.message);
        // The last one is what ended it.
        if let Some(error) = self.other_errors.iter().chain(failed).next_back() {
            // libpq explains a lost connection in three lines, of which the last alone would say nothing.
            let words: Vec<&str> = error.split_whitespace().collect();
            message = format!("{message}: {}", words.join(" "));
        }
        Err(Error::new(ErrorKind::Child, message))
    }
}

#[cfg(test)]
mod tests {
    use super::{ProgramOutcome, RestoreFailure};
    use crate::sys::process::ExitReason;

    /// What ends a run is told in one line, the last one.
    #[test]
    fn a_lost_connection_is_told_in_one_line() {
        let outcome = ProgramOutcome {
            exit: ExitReason::Code(1),
            failures: Vec::new(),
            other_errors: vec![
                "query failed: server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.".to_owned(),
            ],
            errors_ignored: None,
        };
        assert!(outcome.lost_server());
        assert_eq!(
            outcome
                .check("/bin/pg_dump".as_ref())
                .unwrap_err()
                .message(),
            "pg_dump exited with code 1: query failed: server closed the connection unexpectedly This probably means \
             the server terminated abnormally before or while processing the request."
        );
    }

    /// The lines about one of two failures were lost among those of the other.
    #[test]
    fn a_failure_that_nobody_saw_is_no_success() {
        let seen = RestoreFailure {
            is_refusal: true,
            ..RestoreFailure::default()
        };
        let mut outcome = ProgramOutcome {
            exit: ExitReason::Code(1),
            failures: vec![seen],
            other_errors: Vec::new(),
            errors_ignored: Some(1),
        };
        assert!(outcome.check("pg_restore".as_ref()).is_ok());
        outcome.errors_ignored = Some(2);
        assert!(outcome.check("pg_restore".as_ref()).is_err());
    }
}
