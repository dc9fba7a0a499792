//! The streaming replication protocol: a stream of changes in one direction, our positions in the other. Runs in the
//! receive process. Knows frames and positions; what a payload means is the decoders' business.
//!
//! Source: the protocol's "Streaming Replication Protocol".

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::poll::PollFlags;
use postgres_protocol::message::frontend;

use super::Connection;
use super::frame::{Body, Frame};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::sys::signal::Shutdown;

/// Seconds from 1970 to 2000, where the server's clock begins.
const EPOCH_SECONDS: i64 = 946_684_800;

/// How long the orderly end of a stream may take before the connection is just closed.
const END_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// A stream that was started. Dropped, it closes the connection, which ends it too.
#[derive(Debug)]
pub struct ReplicationStream {
    connection: Connection,
}

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    Data {
        /// Where the WAL of this message starts; for a COMMIT of logical decoding, where its record ends.
        start: Lsn,
        payload: &'a [u8],
    },
    Keepalive {
        /// Everything before it that concerns us was sent.
        end: Lsn,
        reply_requested: bool,
    },
}

/// A message as a place in the input buffer.
enum Found {
    Data { start: Lsn, frame: Frame },
    Keepalive { end: Lsn, reply_requested: bool },
}

/// Bytes before the payload of an XLogData message: its tag, start, end, time.
const DATA_HEADER: usize = 1 + 3 * 8;

impl Connection {
    /// Send START_REPLICATION on a connection that was opened for replication.
    pub fn start_replication(mut self, sql: &str) -> Result<ReplicationStream> {
        self.send_query(sql)?;
        let mut failure: Option<Error> = None;
        loop {
            let frame = match self.read_frame() {
                Ok(frame) => frame,
                Err(error) => return Err(failure.unwrap_or(error)),
            };
            match frame.tag {
                b'W' if failure.is_none() => {
                    return Ok(ReplicationStream { connection: self });
                }
                b'E' => {
                    let error = self.frame_error(frame);
                    failure.get_or_insert(error);
                }
                b'Z' => {
                    self.note_ready(frame);
                    return Err(
                        failure.unwrap_or_else(|| self.protocol_error("replication did not start"))
                    );
                }
                tag => return Err(self.unexpected(tag, "CopyBothResponse")),
            }
        }
    }
}

impl ReplicationStream {
    /// The next message that has arrived; `None` when none has. Never waits.
    pub fn take_message(&mut self) -> Result<Option<StreamMessage<'_>>> {
        let Some(found) = self.find()? else {
            return Ok(None);
        };
        Ok(Some(match found {
            Found::Data { start, frame } => StreamMessage::Data {
                start,
                payload: self
                    .connection
                    .input
                    .body(frame)
                    .get(DATA_HEADER..)
                    .unwrap_or(&[]),
            },
            Found::Keepalive {
                end,
                reply_requested,
            } => StreamMessage::Keepalive {
                end,
                reply_requested,
            },
        }))
    }

    fn find(&mut self) -> Result<Option<Found>> {
        loop {
            let connection = &mut self.connection;
            let frame = match connection.input.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => match self.read_some()? {
                    true => continue,
                    false => return Ok(None),
                },
                Err(error) => {
                    connection.is_broken = true;
                    return Err(error.with_side(connection.side));
                }
            };
            match frame.tag {
                b'd' => {
                    if let Some(found) = self.read_message(frame)? {
                        return Ok(Some(found));
                    }
                }
                b'N' => connection.log_notice(frame),
                b'S' => connection.note_parameter(frame)?,
                b'A' => {}
                b'E' => {
                    let error = connection.frame_error(frame);
                    // Whatever the severity, the stream is over and can be started again.
                    let side = connection.side;
                    let lost = Error::connection_lost(side, error.message().to_owned());
                    connection.is_broken = true;
                    return Err(match error.is_connection_lost() {
                        true => error,
                        false => lost.with_server_of(&error),
                    });
                }
                // The server is going down and has ended the stream in good order.
                b'c' | b'C' => {
                    return Err(connection.lost("the server ended the stream"));
                }
                tag => return Err(connection.unexpected(tag, "changes")),
            }
        }
    }

    fn read_message(&mut self, frame: Frame) -> Result<Option<Found>> {
        let mut body = Body::new(self.connection.input.body(frame));
        let parsed = match body.u8()? {
            b'w' => body.take(DATA_HEADER - 1).map(|header| {
                let start = Lsn(be_u64(header));
                Some(Found::Data { start, frame })
            }),
            b'k' => body.take(17).map(|rest| {
                Some(Found::Keepalive {
                    end: Lsn(be_u64(rest)),
                    reply_requested: rest[16] != 0,
                })
            }),
            _ => Ok(None),
        };
        parsed.inspect_err(|_| self.connection.is_broken = true)
    }

    /// Read what is there; `false` when nothing is.
    fn read_some(&mut self) -> Result<bool> {
        let connection = &mut self.connection;
        let space = connection.input.room(READ_BYTES);
        match connection.transport.read_once(space) {
            Ok(Ok(0)) => Err(connection.lost("server closed the connection unexpectedly")),
            Ok(Ok(count)) => {
                connection.input.filled(count);
                Ok(true)
            }
            Ok(Err(_)) => Ok(false),
            Err(error) => Err(connection.lost(format!("could not receive from server: {error}"))),
        }
    }

    /// Wait until something may have arrived, `writable` has room, or the deadline passes.
    pub fn wait(
        &self,
        writable: Option<BorrowedFd<'_>>,
        deadline: Instant,
        shutdown: &Shutdown,
    ) -> Result<()> {
        let transport = &self.connection.transport;
        let Some(socket) = transport.socket() else {
            return Ok(());
        };
        if transport.has_buffered_input() {
            return Ok(());
        }
        let mut fds = vec![(socket.as_fd(), PollFlags::POLLIN)];
        fds.extend(writable.map(|fd| (fd, PollFlags::POLLOUT)));
        shutdown.poll(&fds, Some(deadline))?;
        Ok(())
    }

    /// Tell the server how far we are.
    pub fn send_status(
        &mut self,
        write: Lsn,
        flush: Lsn,
        apply: Lsn,
        reply_requested: bool,
    ) -> Result<()> {
        let mut body = Vec::with_capacity(34);
        body.push(b'r');
        for lsn in [write, flush, apply] {
            body.extend_from_slice(&lsn.0.to_be_bytes());
        }
        body.extend_from_slice(&server_clock().to_be_bytes());
        body.push(u8::from(reply_requested));
        let connection = &mut self.connection;
        let data = frontend::CopyData::new(&body[..])
            .map_err(|error| Error::internal(error.to_string()))?;
        data.write(&mut connection.output);
        connection.flush_output()
    }

    /// End the stream in good order, so that the server releases the slot at once.
    pub fn stop(mut self) {
        let connection = &mut self.connection;
        connection.shutdown = Shutdown::deaf();
        connection.set_deadline(Some(END_WAIT));
        frontend::copy_done(&mut connection.output);
        if connection.flush_output().is_err() {
            return;
        }
        while let Ok(frame) = connection.read_frame() {
            if frame.tag == b'Z' {
                return;
            }
        }
    }
}

/// Room for one read of the stream.
const READ_BYTES: usize = 256 << 10;

/// The first eight bytes; shorter input counts as zero, which cannot be, as its length was checked.
fn be_u64(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first))
}

/// Microseconds since 2000.
fn server_clock() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64);
    now - EPOCH_SECONDS * 1_000_000
}
