//! Understands what pg_dump and pg_restore print, line by line, as their logging writes it (PostgreSQL's
//! src/common/logging.c, and `warn_or_exit_horribly` of pg_backup_archiver.c). Runs in the clone parent while the
//! program runs. Errors about single objects are collected, everything else goes to the log at its level.

use std::collections::HashMap;

use log::Level;

use crate::dump::archive::{Archive, Entry};
use crate::dump::outcome::{ProgramOutcome, RestoreFailure};
use crate::dump::pieces::{self, Said};
use crate::sys::process::ExitReason;

/// What a line without a prefix continues.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Continues {
    #[default]
    Nothing,
    /// The object of the next failures, whose name has a line break.
    Object,
    Failure,
    Detail,
    Hint,
    Context,
    Command,
    OtherError,
    Relayed(Level),
}

impl Continues {
    /// Before the statement.
    fn is_in_failure(self) -> bool {
        matches!(
            self,
            Continues::Failure | Continues::Detail | Continues::Hint | Continues::Context
        )
    }
}

#[derive(Debug, Default)]
pub struct MessageReader {
    continues: Continues,
    /// pg_restore names an entry once, before its first failure.
    dump_id: Option<i32>,
    object: String,
    failures: Vec<RestoreFailure>,
    other_errors: Vec<String>,
    errors_ignored: Option<u64>,
}

const PROGRAMS: [&str; 3] = ["pg_restore", "pg_dump", "pg_dumpall"];

impl MessageReader {
    /// Take in one line.
    pub fn line(&mut self, line: &str) {
        match pieces::recognise(line) {
            Some(Said::Refused(answer)) => return self.failure(answer),
            Some(Said::Entry(entry)) => return self.entry(entry),
            Some(Said::Progress(text)) => return self.relay(Level::Debug, text),
            None => {}
        }
        let said = PROGRAMS
            .iter()
            .find_map(|program| Some((*program, line.strip_prefix(program)?.strip_prefix(": ")?)));
        match said {
            Some((program, text)) => self.message(program, text),
            None => self.continuation(line),
        }
    }

    pub fn into_outcome(self, exit: ExitReason) -> ProgramOutcome {
        let mut failures = self.failures;
        for failure in &mut failures {
            let command = failure.command.trim_end().to_owned();
            if may_hold_secret(&command) {
                let words: Vec<&str> = command.split_whitespace().take(3).collect();
                failure.command = format!("{} ...", words.join(" "));
                // It quotes a line of the statement.
                failure.context = None;
            } else {
                failure.command = command;
            }
        }
        ProgramOutcome {
            exit,
            failures,
            other_errors: self.other_errors,
            errors_ignored: self.errors_ignored,
        }
    }

    fn message(&mut self, program: &str, text: &str) {
        if let Some(error) = text.strip_prefix("error: ") {
            log::error!("{program}: {error}");
            self.other_errors.push(error.to_owned());
            self.continues = Continues::OtherError;
        } else if let Some(count) = text.strip_prefix("warning: errors ignored on restore: ") {
            self.errors_ignored = count.trim().parse().ok();
            self.continues = Continues::Nothing;
        } else if let Some(more) = text
            .strip_prefix("detail: ")
            .or_else(|| text.strip_prefix("hint: "))
        {
            self.more(program, text, more);
        } else if let Some(warning) = text.strip_prefix("warning: ") {
            self.relay(Level::Warn, &format!("{program}: {warning}"));
        } else {
            self.relay(Level::Debug, &format!("{program}: {text}"));
        }
    }

    /// `215; 1259 16389 TABLE film postgres`.
    fn entry(&mut self, text: &str) {
        let (dump_id, rest) = text.split_once("; ").unwrap_or((text, ""));
        self.dump_id = dump_id.trim().parse().ok();
        self.object = rest.splitn(3, ' ').nth(2).unwrap_or(rest).to_owned();
        self.continues = Continues::Object;
    }

    /// `ERROR:  relation "film" does not exist`, in the server's language; libpq's own errors have no severity.
    fn failure(&mut self, text: &str) {
        let refusal = text
            .split_once(":  ")
            .filter(|(severity, _)| !severity.contains(char::is_whitespace));
        let is_end = matches!(refusal, Some(("FATAL" | "PANIC", _)));
        self.failures.push(RestoreFailure {
            dump_id: self.dump_id,
            object: self.object.clone(),
            message: refusal.map_or(text, |(_, message)| message).to_owned(),
            is_refusal: refusal.is_some() && !is_end,
            ..RestoreFailure::default()
        });
        self.continues = Continues::Failure;
    }

    /// The program's own detail or hint: it belongs to the message before it.
    fn more(&mut self, program: &str, text: &str, more: &str) {
        match (self.continues, self.failures.last_mut()) {
            (continues, Some(failure)) if continues.is_in_failure() => {
                let field = if text.starts_with("hint") {
                    &mut failure.hint
                } else {
                    &mut failure.detail
                };
                append_line(field.get_or_insert_default(), more);
            }
            (Continues::OtherError, _) => log::error!("{program}: {text}"),
            (Continues::Relayed(level), _) => log::log!(level, "{program}: {text}"),
            _ => self.relay(Level::Debug, &format!("{program}: {text}")),
        }
    }

    fn continuation(&mut self, line: &str) {
        match (self.continues, self.failures.last_mut()) {
            (Continues::Object, _) => append_line(&mut self.object, line),
            (continues, Some(failure)) if continues.is_in_failure() => {
                self.continues = failure.continuation(line, continues);
            }
            (Continues::Command, Some(failure)) => append_line(&mut failure.command, line),
            (Continues::OtherError, _) => {
                log::error!("{}", line.trim());
                if let Some(error) = self.other_errors.last_mut() {
                    append_line(error, line.trim());
                }
            }
            (Continues::Relayed(level), _) => log::log!(level, "{}", line.trim()),
            // The empty lines behind a command.
            _ if line.trim().is_empty() => {}
            _ => self.relay(Level::Warn, line.trim()),
        }
    }

    fn relay(&mut self, level: Level, text: &str) {
        log::log!(level, "{text}");
        self.continues = Continues::Relayed(level);
    }
}

impl RestoreFailure {
    /// The server's further lines, then the statement; what the next line continues.
    fn continuation(&mut self, line: &str, continues: Continues) -> Continues {
        let labelled = |label: &str| {
            let text = line.trim_start().strip_prefix(label)?;
            Some(text.trim_start().to_owned())
        };
        if let Some(command) = labelled("Command was: ") {
            self.command = command;
            Continues::Command
        } else if let Some(detail) = labelled("DETAIL:  ") {
            self.detail = Some(detail);
            Continues::Detail
        } else if let Some(hint) = labelled("HINT:  ") {
            self.hint = Some(hint);
            Continues::Hint
        } else if let Some(context) = labelled("CONTEXT:  ") {
            append_line(self.context.get_or_insert_default(), &context);
            Continues::Context
        } else if continues != Continues::Context && line.starts_with("LINE ") {
            self.context = Some(line.to_owned());
            Continues::Context
        } else {
            let field = match continues {
                Continues::Detail => self.detail.get_or_insert_default(),
                Continues::Hint => self.hint.get_or_insert_default(),
                Continues::Context => self.context.get_or_insert_default(),
                _ => &mut self.message,
            };
            append_line(field, line);
            continues
        }
    }
}

fn append_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

/// These statements may hold the password of another server or of a role.
fn may_hold_secret(command: &str) -> bool {
    let kind = command.split_whitespace().nth(1);
    matches!(
        kind,
        Some("USER" | "SUBSCRIPTION" | "SERVER" | "ROLE" | "DATABASE" | "FOREIGN")
    )
}

/// Say which entry each failure is about, by its statement where that is the definition of one entry only: the
/// messages of parallel workers may be mixed up. And name the object as we name objects.
pub fn name_failures(failures: &mut [RestoreFailure], archive: &Archive) {
    let by_dump_id: HashMap<i32, &Entry> = archive
        .entries
        .iter()
        .map(|entry| (entry.dump_id, entry))
        .collect();
    // `None` when several entries have the same definition.
    let mut by_definition: HashMap<&[u8], Option<i32>> = HashMap::new();
    for entry in &archive.entries {
        let definition = entry.defn.as_bytes().trim_ascii();
        if definition.is_empty() {
            continue;
        }
        by_definition
            .entry(definition)
            .and_modify(|known| *known = None)
            .or_insert(Some(entry.dump_id));
    }
    for failure in failures {
        // A statement that pg_restore has cut matches nothing; then what it said before counts.
        let command = failure.command.trim().as_bytes();
        if let Some(Some(dump_id)) = by_definition.get(command) {
            failure.dump_id = Some(*dump_id);
        }
        let entry = failure.dump_id.and_then(|id| by_dump_id.get(&id));
        if let Some(entry) = entry {
            failure.object = entry.describe();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MessageReader, name_failures};
    use crate::dump::archive::tests::golden;
    use crate::dump::outcome::ProgramOutcome;
    use crate::sys::process::ExitReason;

    fn read(text: &str, code: i32) -> ProgramOutcome {
        let mut reader = MessageReader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.into_outcome(ExitReason::Code(code))
    }

    /// As pg_restore 17.11 --verbose printed it.
    const RESTORE: &str = "\
pg_restore: connecting to database for restore
pg_restore: creating TABLE \"public.parent\"
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 223; 1259 16417 TABLE parent postgres
pg_restore: error: could not execute query: ERROR:  unrecognized parameter \"pg_attver\"
Command was: CREATE TABLE public.parent (
    a integer
);
ALTER TABLE ONLY public.parent ALTER COLUMN a SET (pg_attver=26558648);


pg_restore: error: could not execute query: FEHLER:  relation \"public.parent\" does not exist
LINE 1: ALTER TABLE
        ^
DETAIL:  some
more
HINT:  try
CONTEXT:  function f()
Command was: ALTER TABLE public.parent OWNER TO postgres;

pg_restore: from TOC entry 222; 1259 16399 TABLE ta
ble; SET (x=1) postgres
pg_restore: error: could not execute query: ERROR:  no
Command was: CREATE USER MAPPING FOR a SERVER b OPTIONS (password 'x');

pg_restore: warning: errors ignored on restore: 3
";

    #[test]
    fn collects_the_failures_of_pg_restore() {
        let mut outcome = read(RESTORE, 1);
        assert_eq!(outcome.errors_ignored, Some(3));
        assert_eq!(outcome.other_errors, [""; 0]);
        assert!(outcome.check("/bin/pg_restore".as_ref()).is_ok());
        let [create, owner, mapping] = &outcome.failures[..] else {
            panic!("{:?}", outcome.failures);
        };
        assert_eq!(create.dump_id, Some(223));
        assert_eq!(create.object, "TABLE parent postgres");
        assert_eq!(create.message, "unrecognized parameter \"pg_attver\"");
        assert!(create.command.ends_with("(pg_attver=26558648);"));
        assert!(create.is_refusal);
        assert_eq!(owner.dump_id, Some(223));
        assert_eq!(owner.message, "relation \"public.parent\" does not exist");
        let context = "LINE 1: ALTER TABLE\n        ^\nfunction f()";
        assert_eq!(owner.context.as_deref(), Some(context));
        assert_eq!(owner.detail.as_deref(), Some("some\nmore"));
        assert_eq!(owner.hint.as_deref(), Some("try"));
        assert_eq!(mapping.object, "TABLE ta\nble; SET (x=1) postgres");
        assert_eq!(mapping.command, "CREATE USER MAPPING ...");
        name_failures(&mut outcome.failures, &golden("15-by-17"));
        let names: Vec<&str> = outcome.failures.iter().map(|f| f.object.as_str()).collect();
        assert_eq!(names[0], "TABLE \"public\".\"parent\"");
        assert_eq!(names[1], "TABLE \"public\".\"parent\"");
    }

    /// The statement tells more than the entry named last, which may be another worker's.
    #[test]
    fn a_failure_is_named_by_its_statement() {
        let archive = golden("17");
        let view = archive.entries.iter().find(|e| e.tag == "v1").unwrap();
        let text = format!(
            "pg_restore: from TOC entry 1; 0 0 TABLE other postgres\n\
             pg_restore: error: could not execute query: ERROR:  no\n\
             Command was: {}\n",
            view.defn.lossy()
        );
        let mut outcome = read(&text, 1);
        name_failures(&mut outcome.failures, &archive);
        assert_eq!(outcome.failures[0].dump_id, Some(view.dump_id));
        assert_eq!(outcome.failures[0].object, "VIEW \"public\".\"v1\"");
    }

    /// Every failure counts, also when the messages of parallel workers ran into each other.
    #[test]
    fn no_failure_of_parallel_workers_is_lost() {
        let text = "pg_restore:pg_restore:  error: could not execute query: ERROR:  one\n\
                    Command was: ALTER TABLE a;\n\n\n\
                    pg_restore:  error: finished item 7 FK CONSTRAINT\n\
                    could not execute query: ERROR:  two\n\
                    Command was: ALTER TABLE b;\n\n\n\
                     launching item 8 FK CONSTRAINT\n\
                    pg_restore: warning: errors ignored on restore: 2\n";
        let outcome = read(text, 1);
        outcome.check("pg_restore".as_ref()).unwrap();
        let failures: Vec<_> = outcome
            .failures
            .iter()
            .map(|failure| (failure.message.as_str(), failure.command.as_str()))
            .collect();
        assert_eq!(
            failures,
            [("one", "ALTER TABLE a;"), ("two", "ALTER TABLE b;")]
        );
        // Errors were counted and none is known: nothing may be claimed.
        let lost = read("pg_restore: warning: errors ignored on restore: 1\n", 1);
        assert!(lost.check("pg_restore".as_ref()).is_err());
    }

    #[test]
    fn other_errors_fail_the_program() {
        let text = "pg_dump: error: connection to server failed: No such file or directory\n\
                    \tIs the server running?\n\
                    pg_dump: detail: more\n";
        let outcome = read(text, 1);
        let error = outcome.check("/usr/bin/pg_dump".as_ref()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pg_dump exited with code 1: connection to server failed: No such file or directory Is the server running?"
        );
        assert!(read("", 0).check("pg_dump".as_ref()).is_ok());
    }

    #[test]
    fn a_lost_connection_is_not_a_refusal() {
        let text = "pg_restore: error: could not execute query: server closed the connection unexpectedly\n\
                    \tThis probably means the server terminated abnormally\n\
                    Command was: CREATE TABLE x ();\n\
                    pg_restore: warning: errors ignored on restore: 1\n";
        let outcome = read(text, 1);
        assert!(!outcome.failures[0].is_refusal);
        assert!(outcome.check("pg_restore".as_ref()).is_err());
        let fatal = "pg_restore: error: could not execute query: FATAL:  terminating connection\n\
                     pg_restore: warning: errors ignored on restore: 1\n";
        assert!(read(fatal, 1).check("pg_restore".as_ref()).is_err());
    }

    /// Killed in the middle: there is no last line, so its failures do not count as "all the rest is there".
    #[test]
    fn an_unfinished_restore_is_an_error() {
        let cut = RESTORE.replace("pg_restore: warning: errors ignored on restore: 3\n", "");
        let error = read(&cut, 1).check("pg_restore".as_ref()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("pg_restore exited with code 1: ")
        );
    }
}
