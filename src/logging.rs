//! The log: "HH:MM:SS.mmm pid LEVEL message", one write(2) a line, so that the lines of many processes never mix. Set up
//! in the parent, inherited by every worker. stdout is for results and never written here. A log that cannot be
//! written is no reason to stop the work.
//!
//! Environment, as the original reads it: PGCOPYDB_LOG_TIME_FORMAT (strftime), PGCOPYDB_LOG_JSON (JSON lines on stderr),
//! PGCOPYDB_LOG_FILENAME (a file to append to as well), PGCOPYDB_LOG_JSON_FILE (JSON lines in that file; the name of a
//! second file is understood, too).

use std::borrow::Cow;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::{Context, Error, Result};
use crate::sys::clock;

/// How much a line matters; the more talkative, the greater. The `log` crate lacks NOTICE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warn,
    Info,
    Notice,
    Debug,
    Trace,
}

/// A line of severity NOTICE: `log::info!(target: logging::NOTICE, ..)`.
pub const NOTICE: &str = "notice";

impl Severity {
    fn of(metadata: &Metadata<'_>) -> Severity {
        match metadata.level() {
            Level::Error => Severity::Error,
            Level::Warn => Severity::Warn,
            Level::Info if metadata.target() == NOTICE => Severity::Notice,
            Level::Info => Severity::Info,
            Level::Debug => Severity::Debug,
            Level::Trace => Severity::Trace,
        }
    }

    /// What the macros must let through.
    fn filter(self) -> LevelFilter {
        match self {
            Severity::Error => LevelFilter::Error,
            Severity::Warn => LevelFilter::Warn,
            Severity::Info | Severity::Notice => LevelFilter::Info,
            Severity::Debug => LevelFilter::Debug,
            Severity::Trace => LevelFilter::Trace,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Warn => "WARN",
            Severity::Info => "INFO",
            Severity::Notice => "NOTICE",
            Severity::Debug => "DEBUG",
            Severity::Trace => "TRACE",
        }
    }

    /// The original's numbers in JSON; its 2 is SQL, its 7 FATAL.
    fn number(self) -> u8 {
        match self {
            Severity::Trace => 0,
            Severity::Debug => 1,
            Severity::Notice => 3,
            Severity::Info => 4,
            Severity::Warn => 5,
            Severity::Error => 6,
        }
    }
}

/// To the start of the line, and clear the screen from there on.
pub const CLEAR_BELOW: &str = "\r\x1b[J";

/// Whether progress bars may stand below the cursor; inherited across fork.
static SHARES_TERMINAL: AtomicBool = AtomicBool::new(false);

/// From now on this process and its children share the terminal with progress bars, if stderr is one that can show them
/// and the log is for people to read.
pub fn share_terminal() {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let is_json = boolean(&std::env::var("PGCOPYDB_LOG_JSON").unwrap_or_default()) == Some(true);
    let is_quiet = log::max_level() < LevelFilter::Info;
    let is_shared = std::io::stderr().is_terminal() && !is_dumb && !is_json && !is_quiet;
    SHARES_TERMINAL.store(is_shared, Ordering::Relaxed);
}

pub fn shares_terminal() -> bool {
    SHARES_TERMINAL.load(Ordering::Relaxed)
}

/// Columns and rows of the terminal that stderr is.
pub fn terminal_size() -> (u16, u16) {
    terminal_size::terminal_size_of(std::io::stderr())
        .map_or((80, 24), |(width, height)| (width.0, height.0))
}

/// What this process and its children are busy with, where several things are done in one run.
static ABOUT: RwLock<String> = RwLock::new(String::new());

/// From now on every line of this process begins with what it is about; an empty text ends that. Inherited across fork.
pub fn about(what: &str) {
    let mut about = ABOUT.write().unwrap_or_else(PoisonError::into_inner);
    what.clone_into(&mut about);
}

/// Where lines go and how they look.
struct Logger {
    threshold: Severity,
    /// The user's, used as it is; ours has milliseconds, and in JSON the date.
    time_format: Option<CString>,
    is_stderr_json: bool,
    text_file: Option<File>,
    json_file: Option<File>,
}

/// Begin to log. A second call changes nothing. Should the environment ask for what cannot be, the error is for the
/// caller to log like any other: stderr works by then.
pub fn init(threshold: Severity) -> Result<()> {
    let (logger, result) = match Logger::new(threshold, |name| std::env::var(name).ok()) {
        Ok(logger) => (logger, Ok(())),
        Err(error) => (Logger::plain(threshold), Err(error)),
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(threshold.filter());
    }
    result
}

/// Everything is handed to the kernel line by line; this is for the last words before a signal.
pub fn flush() {
    log::logger().flush();
}

impl Logger {
    fn plain(threshold: Severity) -> Logger {
        Logger {
            threshold,
            time_format: None,
            is_stderr_json: false,
            text_file: None,
            json_file: None,
        }
    }

    fn new(threshold: Severity, environment: impl Fn(&str) -> Option<String>) -> Result<Logger> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let file = variable("PGCOPYDB_LOG_FILENAME");
        let json = variable("PGCOPYDB_LOG_JSON_FILE").unwrap_or_default();
        let (text_file, json_file) = match boolean(&json) {
            Some(true) => (None, file),
            Some(false) => (file, None),
            None => (file, Some(json)),
        };
        let json_stderr = variable("PGCOPYDB_LOG_JSON").unwrap_or_default();
        Ok(Logger {
            threshold,
            time_format: variable("PGCOPYDB_LOG_TIME_FORMAT")
                .and_then(|format| clock::time_format(&format)),
            is_stderr_json: boolean(&json_stderr).ok_or_else(|| {
                Error::config(format!(
                    "invalid value for PGCOPYDB_LOG_JSON: \"{json_stderr}\" is not a boolean"
                ))
            })?,
            text_file: text_file.map(|path| open(&path)).transpose()?,
            json_file: json_file.map(|path| open(&path)).transpose()?,
        })
    }

    fn time(&self, is_json: bool) -> String {
        let now: Duration = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let format = |format| clock::format_local(now.as_secs() as i64, format).unwrap_or_default();
        let milliseconds = now.subsec_millis();
        match &self.time_format {
            Some(own) => format(own),
            None if is_json => format!("{}.{milliseconds:03}", format(c"%Y-%m-%d %H:%M:%S")),
            None => format!("{}.{milliseconds:03}", format(c"%H:%M:%S")),
        }
    }
}

impl Log for Logger {
    /// Only our own lines: libraries have nothing to tell an operator.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours = target == NOTICE || target.split("::").next() == Some("pgcopydb");
        is_ours && Severity::of(metadata) <= self.threshold
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let severity = Severity::of(record.metadata());
        let about = ABOUT.read().unwrap_or_else(PoisonError::into_inner);
        let message = match about.as_str() {
            "" => record.args().to_string(),
            about => format!("{about}: {}", record.args()),
        };
        drop(about);
        let place = (record.file().unwrap_or_default(), record.line());
        // Most runs want one of the two forms only.
        let text = || text_lines(&self.time(false), severity, &message);
        let json = || json_line(&self.time(true), severity, place, &message);
        // A sink that fails, a full disk or a closed terminal, must not keep the line from the others.
        if let Some(mut file) = self.text_file.as_ref() {
            text().for_each(|line| drop(file.write_all(line.as_bytes())));
        }
        if let Some(mut file) = self.json_file.as_ref() {
            let _ = file.write_all(json().as_bytes());
        }
        // The standard library does not buffer stderr: each call is one write(2), unless the kernel takes less.
        let mut stderr = std::io::stderr().lock();
        if self.is_stderr_json {
            let _ = stderr.write_all(json().as_bytes());
        } else {
            let clear = if shares_terminal() { CLEAR_BELOW } else { "" };
            // Still one write(2) a line.
            text().for_each(|line| drop(stderr.write_all(format!("{clear}{line}").as_bytes())));
        }
    }

    fn flush(&self) {
        let _ = std::io::stderr().flush();
    }
}

/// A boolean as PostgreSQL reads them, in full words; nothing means no.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "" | "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("could not open log file \"{path}\""))
}

/// Each line of a message on its own, so that every line of a log file can be filtered by pid and level. Names and server
/// messages are foreign text: what would drive a terminal is shown instead.
fn text_lines<'a>(
    time: &str,
    severity: Severity,
    message: &'a str,
) -> impl Iterator<Item = String> + use<'a> {
    let head = format!("{time} {} {:<6}", std::process::id(), severity.name());
    message
        .trim_end_matches('\n')
        .split('\n')
        .map(move |line| format!("{head} {}\n", tame(line)))
}

fn tame(line: &str) -> Cow<'_, str> {
    let is_wild = |c: char| c.is_control() && c != '\t';
    if !line.contains(is_wild) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + 8);
    for c in line.chars() {
        match is_wild(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

fn json_line(
    time: &str,
    severity: Severity,
    (file, line): (&str, Option<u32>),
    message: &str,
) -> String {
    let object = serde_json::json!({
        "timestamp": time,
        "pid": std::process::id(),
        "error_level": severity.number(),
        "error_severity": severity.name(),
        "file_name": file,
        "file_line_num": line,
        "message": message,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use log::{Level, Log, Metadata, Record};

    use super::{Logger, NOTICE, Severity, json_line, text_lines};

    fn logger(threshold: Severity, environment: &[(&str, &str)]) -> Logger {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        Logger::new(threshold, variable).unwrap()
    }

    #[test]
    fn every_line_has_its_head() {
        let pid = std::process::id();
        let lines: Vec<String> = text_lines("01:02:03.004", Severity::Warn, "one\ntwo\n").collect();
        assert_eq!(
            lines,
            [
                format!("01:02:03.004 {pid} WARN   one\n"),
                format!("01:02:03.004 {pid} WARN   two\n")
            ]
        );
    }

    #[test]
    fn json_is_one_line_with_the_keys_of_the_original() {
        let place = ("src/a.rs", Some(7));
        let line = json_line("t", Severity::Error, place, "a \"b\"\nc");
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a \"b\"\nc");
        assert_eq!(value["error_severity"], "ERROR");
        assert_eq!(value["error_level"], 6);
        assert_eq!(value["file_line_num"], 7);
    }

    #[test]
    fn notice_lies_between_info_and_debug() {
        let is_shown = |threshold, level, target| {
            let metadata = Metadata::builder().level(level).target(target).build();
            threshold_shows(threshold, &metadata)
        };
        fn threshold_shows(threshold: Severity, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= threshold.filter() && logger(threshold, &[]).enabled(metadata)
        }
        assert!(!is_shown(Severity::Info, Level::Info, NOTICE));
        assert!(is_shown(Severity::Notice, Level::Info, NOTICE));
        assert!(is_shown(Severity::Debug, Level::Info, NOTICE));
        assert!(!is_shown(Severity::Notice, Level::Debug, "pgcopydb::pg"));
        assert!(is_shown(Severity::Info, Level::Info, "pgcopydb"));
        assert!(!is_shown(Severity::Trace, Level::Error, "pgcopydb_like"));
    }

    fn write(logger: &Logger, message: &str) {
        let mut record = Record::builder();
        record.level(Level::Info).target("pgcopydb");
        logger.log(&record.args(format_args!("{message}")).build());
    }

    #[test]
    fn the_file_is_text_or_json_as_the_original_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let name = path.to_str().unwrap();
        for (json, start) in [("", "2"), ("off", "2"), ("yes", "{")] {
            std::fs::write(&path, "").unwrap();
            let environment = [
                ("PGCOPYDB_LOG_FILENAME", name),
                ("PGCOPYDB_LOG_JSON_FILE", json),
                ("PGCOPYDB_LOG_TIME_FORMAT", "%Y"),
            ];
            write(&logger(Severity::Info, &environment), "hello");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(start) && text.contains("hello"), "{text}");
        }
    }

    #[test]
    fn a_name_does_not_drive_the_terminal() {
        let lines = text_lines(
            "now",
            Severity::Info,
            "a \u{1b}[31m\r\tb\nc\u{7f}\u{9b}\u{e4}",
        );
        let lines: Vec<String> = lines.collect();
        assert!(lines[0].ends_with("a \\u{1b}[31m\\r\tb\n"), "{lines:?}");
        assert!(lines[1].ends_with("c\\u{7f}\\u{9b}\u{e4}\n"), "{lines:?}");
    }

    #[test]
    fn a_full_log_file_does_not_silence_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let environment = [
            ("PGCOPYDB_LOG_FILENAME", "/dev/full"),
            ("PGCOPYDB_LOG_JSON_FILE", path.to_str().unwrap()),
        ];
        write(&logger(Severity::Info, &environment), "hello");
        assert!(std::fs::read_to_string(&path).unwrap().contains("hello"));
    }

    #[test]
    fn a_wrong_boolean_is_named() {
        let wrong = |name: &str| (name == "PGCOPYDB_LOG_JSON").then(|| "maybe".to_string());
        let error = Logger::new(Severity::Info, wrong).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("\"maybe\""));
    }
}
