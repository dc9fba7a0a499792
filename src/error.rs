//! The one error type: what went wrong, on which side, with every field a server gave, and which exit code follows.
//! Pure; it never logs. An error is logged once, where it stops: in a child's last frame or in `cli::main`.

use std::fmt;

use postgres::error::SqlState;
use serde::{Deserialize, Serialize};

pub type Result<T> = std::result::Result<T, Error>;

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Source,
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// What kind of failure, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Bad arguments.
    Usage,
    /// Bad configuration, such as a filter file.
    Config,
    /// The work directory does not allow it.
    State,
    /// A server refused a statement.
    Sql,
    /// The source could not be reached or used.
    Source,
    /// The target could not be reached or used.
    Target,
    /// A server said something outside the protocol.
    Protocol,
    /// A child process failed.
    Child,
    /// The operating system refused.
    Io,
    /// A signal ended the work.
    Interrupted,
    /// Our own mistake.
    Internal,
}

impl ErrorKind {
    /// The exit codes of the original tool.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 1,
            ErrorKind::Config => 2,
            ErrorKind::State => 3,
            ErrorKind::Sql => 4,
            ErrorKind::Source => 6,
            ErrorKind::Target => 7,
            ErrorKind::Protocol
            | ErrorKind::Child
            | ErrorKind::Io
            | ErrorKind::Interrupted
            | ErrorKind::Internal => 12,
        }
    }
}

/// The fields of an ErrorResponse (or NoticeResponse), as the server sent them. Source: the protocol's "Error and
/// Notice Message Fields".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerError {
    /// Not localised: ERROR, FATAL, PANIC, WARNING, NOTICE, DEBUG, INFO, LOG.
    pub severity: String,
    /// Five characters.
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub context: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

#[cfg(test)]
impl ServerError {
    /// What a server says, without words of interest.
    pub fn of(severity: &str, sqlstate: &str) -> ServerError {
        ServerError {
            severity: severity.to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: "no".to_owned(),
            ..ServerError::default()
        }
    }
}

/// An error with its context. `Display` is one line: context, then the cause, then the SQLSTATE. A worker hands its last
/// one to its parent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Error {
    kind: ErrorKind,
    side: Option<Side>,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    server: Option<Box<ServerError>>,
    is_connection_lost: bool,
    is_disk_full: bool,
    #[serde(default)]
    was_waited_for: bool,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            side: None,
            message: message.into(),
            detail: None,
            hint: None,
            server: None,
            is_connection_lost: false,
            is_disk_full: false,
            was_waited_for: false,
        }
    }

    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }

    pub fn config(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, message)
    }

    pub fn state(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::State, message)
    }

    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, message)
    }

    pub fn interrupted() -> Error {
        Error::new(ErrorKind::Interrupted, "interrupted by a signal")
    }

    pub fn io(what: impl fmt::Display, cause: std::io::Error) -> Error {
        let error = Error::new(ErrorKind::Io, format!("{what}: {cause}"));
        match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error {
                is_disk_full: true,
                ..error.with_hint(
                    "Make room in its file system; what is done stays done, and --resume goes on from there.",
                )
            },
            _ => error,
        }
    }

    /// The kind that means "this side could not be used".
    pub fn on(side: Side, message: impl Into<String>) -> Error {
        let kind = match side {
            Side::Source => ErrorKind::Source,
            Side::Target => ErrorKind::Target,
        };
        Error {
            side: Some(side),
            ..Error::new(kind, message)
        }
    }

    /// The connection broke, as opposed to a statement that was refused.
    pub fn connection_lost(side: Side, message: impl Into<String>) -> Error {
        Error {
            is_connection_lost: true,
            ..Error::on(side, message)
        }
    }

    /// A statement that the server refused.
    pub fn server(side: Side, server: ServerError) -> Error {
        // FATAL and PANIC end the connection, whatever the SQLSTATE: it is not the statement that was refused.
        let is_connection_lost = server.severity == "FATAL" || server.severity == "PANIC";
        let error = match is_connection_lost {
            true => Error::connection_lost(side, server.message.clone()),
            false => Error::new(ErrorKind::Sql, server.message.clone()).with_side(side),
        };
        Error {
            detail: server.detail.clone(),
            hint: server.hint.clone(),
            server: Some(Box::new(server)),
            ..error
        }
    }

    /// Put what was being done in front: `could not copy table "public"."film": connection closed`.
    pub fn context(mut self, what: impl fmt::Display) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }

    pub fn with_side(mut self, side: Side) -> Error {
        self.side = Some(side);
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The server was waited for as long as one is waited for: who tries again would wait as long once more.
    pub fn after_waiting(mut self) -> Error {
        self.was_waited_for = true;
        self
    }

    /// Take over what the server said about another error of the same cause: its SQLSTATE and its other fields.
    pub fn with_server_of(mut self, other: &Error) -> Error {
        self.kind = other.kind;
        self.server = other.server.clone();
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn side(&self) -> Option<Side> {
        self.side
    }

    /// The primary line without SQLSTATE.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub fn server_error(&self) -> Option<&ServerError> {
        self.server.as_deref()
    }

    /// The SQLSTATE, when a server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server
            .as_deref()
            .map(|server| server.sqlstate.as_str())
    }

    /// Whether the server gave one of these codes.
    pub fn is_any_of(&self, states: &[SqlState]) -> bool {
        self.sqlstate()
            .is_some_and(|sqlstate| states.iter().any(|state| state.code() == sqlstate))
    }

    pub fn is_interrupted(&self) -> bool {
        self.kind == ErrorKind::Interrupted
    }

    pub fn is_connection_lost(&self) -> bool {
        self.is_connection_lost
    }

    pub fn was_waited_for(&self) -> bool {
        self.was_waited_for
    }

    /// A file of ours could not be written for want of room.
    pub fn is_disk_full(&self) -> bool {
        self.is_disk_full
    }

    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match (self.side, self.sqlstate()) {
            (Some(side), Some(sqlstate)) => write!(f, " ({side}, SQLSTATE {sqlstate})"),
            (None, Some(sqlstate)) => write!(f, " (SQLSTATE {sqlstate})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Add what was being done to an error on its way up.
pub trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;
    /// Like `context`, for a text that is costly to make.
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.context(what))
    }

    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::io(what, error))
    }

    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::io(what(), error))
    }
}

impl Error {
    /// Log this error, DETAIL and HINT first, each of their lines as one: the last error line is the cause.
    pub fn log(&self, prefix: &str) {
        for (label, text) in [("DETAIL", self.detail()), ("HINT", self.hint())] {
            for line in text.unwrap_or_default().lines() {
                log::error!("{prefix}{label}: {line}");
            }
        }
        log::error!("{prefix}{self}");
    }
}
