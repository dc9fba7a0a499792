//! The log: "HH:MM:SS.mmm pid LEVEL message", one write(2) a line, so that the lines of many processes never mix. Set up
//! in the parent, inherited by every worker. stdout is for results and never written here.
//!
//! Environment: PGCOPYDB_LOG_TIME_FORMAT (strftime), PGCOPYDB_LOG_JSON (stderr as JSON lines), PGCOPYDB_LOG_FILENAME and
//! PGCOPYDB_LOG_JSON_FILE (files to append to as well).

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Record};

use crate::error::{Context, Result};
use crate::sys::clock;

/// Where lines go and how they look.
struct Sinks {
    time_format: CString,
    is_stderr_json: bool,
    text_file: Option<File>,
    json_file: Option<File>,
}

/// Begin to log. A second call changes nothing. When a log file cannot be opened there is stderr, to say so.
pub fn init(level: LevelFilter) -> Result<()> {
    let mut sinks = Sinks::from_environment();
    let opened = sinks.open_files();
    let mut builder = env_logger::Builder::new();
    builder
        // Only our own lines: libraries have nothing to tell an operator.
        .filter_module("pgcopydb", level)
        .write_style(env_logger::WriteStyle::Never)
        .target(env_logger::Target::Pipe(Box::new(std::io::stderr())))
        .format(move |line, record| sinks.write(line, record));
    let _ = builder.try_init();
    opened
}

/// Everything is handed to the kernel line by line; this is for the last words before a signal.
pub fn flush() {
    log::logger().flush();
}

impl Sinks {
    fn from_environment() -> Sinks {
        let is_on = |value: String| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "1" | "true" | "yes" | "on"
            )
        };
        Sinks {
            time_format: variable("PGCOPYDB_LOG_TIME_FORMAT")
                .and_then(|format| clock::time_format(&format))
                .unwrap_or_else(|| c"%H:%M:%S".to_owned()),
            is_stderr_json: variable("PGCOPYDB_LOG_JSON").is_some_and(is_on),
            text_file: None,
            json_file: None,
        }
    }

    fn open_files(&mut self) -> Result<()> {
        let file = |name: &str| variable(name).map(|path| open(&path)).transpose();
        self.text_file = file("PGCOPYDB_LOG_FILENAME")?;
        self.json_file = file("PGCOPYDB_LOG_JSON_FILE")?;
        Ok(())
    }

    fn write(
        &self,
        stderr: &mut env_logger::fmt::Formatter,
        record: &Record<'_>,
    ) -> std::io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let time = clock::format_local(now.as_secs() as i64, &self.time_format).unwrap_or_default();
        let time = format!("{time}.{:03}", now.subsec_millis());
        let message = record.args().to_string();
        // Most runs want one of the two forms only.
        let text = || text_lines(&time, record.level(), &message);
        let json = || json_line(&time, record.level(), &message);
        if let Some(mut file) = self.text_file.as_ref() {
            file.write_all(text().as_bytes())?;
        }
        if let Some(mut file) = self.json_file.as_ref() {
            file.write_all(json().as_bytes())?;
        }
        stderr.write_all(if self.is_stderr_json { json() } else { text() }.as_bytes())
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("could not open log file \"{path}\""))
}

/// Each line of a message on its own, so that every line of a log file can be filtered by pid and level.
fn text_lines(time: &str, level: Level, message: &str) -> String {
    let pid = std::process::id();
    message
        .split('\n')
        .map(|line| format!("{time} {pid} {:<6} {line}\n", level.as_str()))
        .collect()
}

fn json_line(time: &str, level: Level, message: &str) -> String {
    let line = serde_json::json!({
        "timestamp": time,
        "pid": std::process::id(),
        "error_level": level.as_str(),
        "message": message,
    });
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::{json_line, text_lines};
    use log::Level;

    #[test]
    fn every_line_has_its_head() {
        let pid = std::process::id();
        assert_eq!(
            text_lines("01:02:03.004", Level::Warn, "one\ntwo"),
            format!("01:02:03.004 {pid} WARN   one\n01:02:03.004 {pid} WARN   two\n")
        );
    }

    #[test]
    fn json_is_one_line() {
        let line = json_line("t", Level::Error, "a \"b\"\nc");
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a \"b\"\nc");
        assert_eq!(value["error_level"], "ERROR");
    }
}
