//! Cancel requests: end the statement that runs on another connection of ours. Runs in the process that owns that
//! connection.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::Connection;
use super::socket::{Address, Socket, Transport};
use crate::pg::conninfo::Keepalives;
use crate::sys::signal::Shutdown;

/// How long a cancelled statement gets to end; a CREATE INDEX looks at interrupts every page.
const CANCEL_WAIT: Duration = Duration::from_secs(3);

/// The connection lives for a moment.
const NO_KEEPALIVES: Keepalives = Keepalives {
    is_enabled: false,
    idle: None,
    interval: None,
    count: None,
    user_timeout: None,
};

/// BackendKeyData: enough to cancel, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    pub(super) backend_pid: i32,
    pub(super) secret: i32,
}

impl CancelKey {
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }
}

impl Connection {
    /// Cancel what runs and wait, deaf to signals but not for long, until the server has let go. The connection is
    /// not usable afterwards: its last answer was never looked at.
    pub(super) fn cancel_and_break(&mut self) {
        if let Some(key) = &self.cancel_key {
            send_cancel(&self.address, key);
        }
        self.shutdown = Shutdown::deaf();
        self.deadline = Some(Instant::now() + CANCEL_WAIT);
        while let Ok(frame) = self.read_frame() {
            if frame.tag == b'Z' {
                break;
            }
        }
        self.is_broken = true;
    }
}

/// Best effort: the server answers nothing, it only closes the connection. Sent without TLS, as libpq always did
/// before 17: the request is read before pg_hba.conf is.
fn send_cancel(address: &Address, key: &CancelKey) {
    let deaf = Shutdown::deaf();
    let deadline = Some(Instant::now() + CANCEL_WAIT);
    let Ok(socket) = Socket::connect(address, &NO_KEEPALIVES, &deaf, deadline) else {
        return;
    };
    let mut message = BytesMut::new();
    frontend::cancel_request(key.backend_pid, key.secret, &mut message);
    let mut transport = Transport::Plain(socket);
    // Sixteen bytes always fit into a fresh socket.
    let _ = transport.write_once(&message);
    // The close tells that the postmaster has passed the request on.
    let mut byte = [0u8; 1];
    while let Ok(Err(blocked)) = transport.read_once(&mut byte) {
        if !transport.wait(blocked, &deaf, deadline).unwrap_or(false) {
            break;
        }
    }
}
