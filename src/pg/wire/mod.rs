//! One connection to a server, spoken by this crate itself on top of postgres-protocol's message writers: blocking
//! to its callers, but every wait is a poll() that sees a stop request and a deadline. Runs in whichever process
//! opened it, and only there.
//!
//! Why not `postgres::Client`: the relay needs whole CopyData frames as bytes, replication needs CopyBoth, and a
//! worker must be able to cancel its own CREATE INDEX when a signal comes. One client for everything means one TLS
//! policy, one authentication, one thread, and server errors with all their fields.
//!
//! Must not: know ConnInfo's syntax, retry, or run a statement nobody asked for.

mod auth;
mod cancel;
mod copy;
mod frame;
mod login;
mod pipeline;
mod query;
mod replication;
mod row;
mod socket;
mod start_tls;
mod startup;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::error::{Error, ServerError, Side};
use crate::sys::signal::Shutdown;

pub use cancel::CancelKey;
pub use copy::{CopyChunk, CopyIn, CopyOut};
pub use frame::FrameBuffer;
pub use login::Login;
pub use pipeline::{Outcome, Outcomes};
pub use replication::{ReplicationStream, StreamMessage};
pub use row::Row;
pub use socket::{Address, ConnectError, Socket, Transport};
pub use start_tls::{TlsStart, start_tls};
pub use startup::StartError;

/// What the server last said about the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

/// A connection that is ready for a query. Dropping it sends Terminate when the protocol state allows it; a process
/// that merely inherited it across fork closes the socket without a word.
pub struct Connection {
    side: Side,
    transport: Transport,
    /// What the server sent and nobody looked at yet.
    input: FrameBuffer,
    /// What we have not handed to the kernel yet.
    output: BytesMut,
    shutdown: Shutdown,
    opened_in: u32,
    address: Address,
    cancel_key: Option<CancelKey>,
    parameters: HashMap<String, String>,
    status: TransactionStatus,
    /// Set when the protocol state is unknown: only closing is left.
    is_broken: bool,
    /// A limit for each wait, where the caller set one.
    deadline: Option<Instant>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({} {:?})", self.side, self.address)
    }
}

impl Connection {
    pub fn side(&self) -> Side {
        self.side
    }

    /// A value the server reported at startup or since: `server_encoding`, `is_superuser`, ...
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// For example 150020 for 15.20. Zero when the server told nothing we understand.
    pub fn server_version(&self) -> u32 {
        self.parameter("server_version")
            .map_or(0, parse_server_version)
    }

    /// The process id of the server's backend.
    pub fn backend_pid(&self) -> i32 {
        self.cancel_key.as_ref().map_or(0, CancelKey::backend_pid)
    }

    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Limit everything from now on; `None` waits as long as the server is alive.
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    fn server_error(&self, error: ServerError) -> Error {
        Error::server(self.side, error)
    }

    fn lost(&mut self, what: impl std::fmt::Display) -> Error {
        self.is_broken = true;
        let side = self.side;
        Error::connection_lost(side, format!("connection to the {side} was lost: {what}"))
    }

    fn protocol_error(&mut self, what: impl Into<String>) -> Error {
        self.is_broken = true;
        Error::new(crate::error::ErrorKind::Protocol, what).with_side(self.side)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.opened_in != std::process::id() {
            // Inherited across fork: the session belongs to the parent, and a Terminate from here would end it.
            self.transport.forget_tls();
            return;
        }
        if !self.is_broken {
            // One attempt, no wait: if the socket is full the server learns it from the close.
            let _ = self.transport.write_once(&[b'X', 0, 0, 0, 4]);
        }
    }
}

/// "15.20 (Debian 15.20-0+deb12u1)" to 150020, "18beta1" to 180000.
fn parse_server_version(text: &str) -> u32 {
    let digits = |part: &str| -> u32 {
        let end = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        part[..end].parse().unwrap_or(0)
    };
    let mut parts = text.split('.');
    let major = digits(parts.next().unwrap_or(""));
    let minor = parts.next().map_or(0, digits);
    major.saturating_mul(10_000).saturating_add(minor)
}

#[cfg(test)]
mod tests {
    use super::parse_server_version;

    #[test]
    fn reads_server_versions() {
        assert_eq!(
            parse_server_version("15.20 (Debian 15.20-0+deb12u1)"),
            150020
        );
        assert_eq!(parse_server_version("18beta1"), 180000);
        assert_eq!(parse_server_version("10.23"), 100023);
        assert_eq!(parse_server_version("what"), 0);
        assert_eq!(parse_server_version("99999999999.1"), 1);
    }
}
