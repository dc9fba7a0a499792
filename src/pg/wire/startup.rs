//! From a socket to a connection that is ready for a query: startup message, authentication, parameters. Runs in the
//! process that will own the connection. Decides nothing about which host or which TLS mode to try.

use std::collections::HashMap;
use std::time::Instant;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::auth::Authentication;
use super::cancel::CancelKey;
use super::frame::Body;
use super::login::Login;
use super::socket::{Address, Transport};
use super::{Connection, FrameBuffer, TransactionStatus};
use crate::error::{Error, Result, Side};
use crate::sys::signal::Shutdown;

/// Why the server did not let us in.
#[derive(Debug)]
pub struct StartError {
    pub error: Error,
    /// Whether it had begun to authenticate us: then it accepts connections of this kind.
    pub was_asked: bool,
}

impl Connection {
    /// Introduce ourselves on a fresh transport and wait until the server is ready.
    pub fn start(
        side: Side,
        address: Address,
        transport: Transport,
        login: &Login<'_>,
        shutdown: &Shutdown,
        deadline: Option<Instant>,
    ) -> std::result::Result<Connection, StartError> {
        let mut connection = Connection {
            side,
            transport,
            input: FrameBuffer::new(),
            output: BytesMut::new(),
            shutdown: *shutdown,
            opened_in: std::process::id(),
            address,
            cancel_key: None,
            parameters: HashMap::new(),
            status: TransactionStatus::Idle,
            is_broken: false,
            deadline,
        };
        let mut authentication = Authentication::new(login, side);
        let started = connection
            .send_startup(login)
            .and_then(|()| connection.wait_until_ready(&mut authentication));
        match started {
            Ok(()) => {
                connection.deadline = None;
                Ok(connection)
            }
            Err(error) => Err(StartError {
                error,
                was_asked: authentication.was_asked(),
            }),
        }
    }

    fn send_startup(&mut self, login: &Login<'_>) -> Result<()> {
        let fixed = [("user", login.user), ("database", login.dbname)];
        let others = login
            .parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        frontend::startup_message(fixed.into_iter().chain(others), &mut self.output).map_err(
            |_| Error::usage("a connection parameter holds a zero byte").with_side(self.side),
        )?;
        self.flush_output()
    }

    fn wait_until_ready(&mut self, authentication: &mut Authentication<'_>) -> Result<()> {
        loop {
            let frame = self.read_frame()?;
            match frame.tag {
                b'R' => {
                    let step = authentication.step(self.input.body(frame));
                    match step {
                        Ok(Some(answer)) => {
                            self.output.extend_from_slice(&answer);
                            self.flush_output()?;
                        }
                        Ok(None) => {}
                        Err(error) => {
                            self.is_broken = true;
                            return Err(error.with_side(self.side));
                        }
                    }
                }
                b'K' => {
                    let mut body = Body::new(self.input.body(frame));
                    self.cancel_key = Some(CancelKey {
                        backend_pid: body.i32()?,
                        secret: body.i32()?,
                    });
                }
                // NegotiateProtocolVersion: 3.0 is all we use.
                b'v' => {}
                b'E' => return Err(self.frame_error(frame)),
                b'Z' => {
                    authentication.check_finished()?;
                    self.note_ready(frame);
                    return Ok(());
                }
                tag => return Err(self.unexpected(tag, "the server to be ready")),
            }
        }
    }
}
