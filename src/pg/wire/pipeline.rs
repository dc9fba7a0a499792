//! Pipelines: many statements sent in one go, their results read in order. Runs in the apply process.
//!
//! Both sides may have more to say than a socket holds, so what the server says is read while we write, or both would
//! wait for ever. What is gathered before it is sent is bounded by the caller.

use std::time::Instant;

use nix::poll::PollFlags;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::query::command_rows;
use super::{Connection, Row};
use crate::error::{Error, Result, Side};
use crate::sys::signal::poll_one;

/// What became of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The rows that it counted.
    Done(u64),
    /// It ended a transaction that had failed before, or was told to: nothing of it stays.
    RolledBack,
}

/// What became of all statements up to the first that failed.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Of each statement, in order; fewer than were sent when one failed.
    pub done: Vec<Outcome>,
    /// The first failure, of the statement after the last in `done`.
    pub failure: Option<Error>,
    /// The last row that any statement returned.
    pub row: Option<Row>,
}

/// How many bytes of parameters are gathered before some are sent: what the server reads meanwhile it need not read later.
const SEND_BYTES: usize = 1 << 20;

/// A value this large is not copied into what is gathered.
const LARGE_BYTES: usize = 256 << 10;

/// The server ends the connection at a longer message, which looks like one that was lost (MaxAllocSize in memutils.h).
const LONGEST_MESSAGE: i32 = (1 << 30) - 2;

fn too_large(side: Side) -> Error {
    Error::on(
        side,
        "the values of one row are more than 65,535, or more than 1 GB: too large for the protocol",
    )
}

impl Connection {
    /// Gather a Parse: `name` stands for `sql` until the connection ends.
    pub fn add_parse(&mut self, name: &str, sql: &str) -> Result<()> {
        frontend::parse(name, sql, std::iter::empty(), &mut self.output)
            .map_err(|_| Error::internal("a statement holds a zero byte"))
    }

    /// Gather one execution of a prepared statement, all parameters as text. Large ones are sent at once, without a copy.
    pub fn add_execute<'p, P>(&mut self, name: &str, parameters: P) -> Result<()>
    where
        P: IntoIterator<Item = Option<&'p [u8]>, IntoIter: Clone>,
    {
        let parameters = parameters.into_iter();
        let mut values = parameters.clone().flatten();
        if values.any(|value| value.len() >= LARGE_BYTES) {
            self.bind_large(name, &parameters.collect::<Vec<_>>())?;
        } else {
            let bound = frontend::bind(
                "",
                name,
                std::iter::empty(),
                parameters,
                |parameter: Option<&[u8]>, out| match parameter {
                    Some(text) => {
                        out.extend_from_slice(text);
                        Ok(IsNull::No)
                    }
                    None => Ok(IsNull::Yes),
                },
                std::iter::empty(),
                &mut self.output,
            );
            bound.map_err(|_| too_large(self.side))?;
        }
        frontend::execute("", 0, &mut self.output)
            .map_err(|error| Error::internal(error.to_string()))
    }

    /// A Bind whose message is never in memory as a whole.
    fn bind_large(&mut self, name: &str, parameters: &[Option<&[u8]>]) -> Result<()> {
        let values: usize = parameters.iter().flatten().map(|value| value.len()).sum();
        // Its own length, two names with their ends, three counts, a length for each value.
        let length = 4 + 1 + (name.len() + 1) + 3 * 2 + 4 * parameters.len() + values;
        let (Ok(length), Ok(count)) = (i32::try_from(length), u16::try_from(parameters.len()))
        else {
            return Err(too_large(self.side));
        };
        if length > LONGEST_MESSAGE {
            return Err(too_large(self.side));
        }
        self.output.extend_from_slice(b"B");
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(&[0]);
        self.output.extend_from_slice(name.as_bytes());
        self.output.extend_from_slice(&[0, 0, 0]);
        self.output.extend_from_slice(&count.to_be_bytes());
        for value in parameters {
            let length = value.map_or(-1, |value| value.len() as i32);
            self.output.extend_from_slice(&length.to_be_bytes());
            match value {
                Some(value) if value.len() >= LARGE_BYTES => self.send_part(value)?,
                Some(value) => self.output.extend_from_slice(value),
                None => {}
            }
        }
        self.output.extend_from_slice(&[0, 0]);
        Ok(())
    }

    /// Gather the data of a COPY FROM STDIN whose execution was added just before. The server reads it whatever it thinks of
    /// the COPY, so nothing has to be waited for.
    pub fn add_copy_data(&mut self, data: &[u8]) -> Result<()> {
        for piece in data.chunks(SEND_BYTES) {
            let length = piece.len() as u32 + 4;
            self.output.extend_from_slice(b"d");
            self.output.extend_from_slice(&length.to_be_bytes());
            self.send_part(piece)?;
        }
        frontend::copy_done(&mut self.output);
        Ok(())
    }

    /// Send what was gathered, and then `bytes`, which may be a part of a message. Answers that come meanwhile are kept.
    fn send_part(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_broken {
            return Err(self.lost("connection is closed"));
        }
        let output = std::mem::take(&mut self.output);
        let result = self.send_all(&output).and_then(|()| self.send_all(bytes));
        self.output = output;
        self.output.clear();
        if let Err(error) = &result {
            self.after_error(error);
            // A message is torn: there is no way back.
            self.is_broken = true;
        }
        result
    }

    fn send_all(&mut self, mut rest: &[u8]) -> Result<()> {
        while !rest.is_empty() {
            rest = self.write_or_wait(rest)?;
        }
        Ok(())
    }

    /// Send what was gathered and read every result. An `Err` means that the connection cannot go on; a statement that was
    /// refused is in the outcomes.
    pub fn run_pipeline(&mut self) -> Result<Outcomes> {
        frontend::sync(&mut self.output);
        let output = std::mem::take(&mut self.output);
        let result = self.exchange(&output);
        self.output = output;
        self.output.clear();
        if let Err(error) = &result {
            self.after_error(error);
        }
        result
    }

    fn exchange(&mut self, output: &[u8]) -> Result<Outcomes> {
        if self.is_broken {
            return Err(self.lost("connection is closed"));
        }
        let mut outcomes = Outcomes::default();
        let mut rest = output;
        loop {
            // Read first: a server that cannot get rid of its answers reads no more of ours.
            while let Some(frame) = self.next_or_broken()? {
                match frame.tag {
                    b'1' | b'2' | b'3' | b'n' | b'T' | b'I' | b'G' => {}
                    b'D' => {
                        let mut row = Row::default();
                        row.load(self.input.body(frame))?;
                        outcomes.row = Some(row);
                    }
                    b'C' => {
                        let body = self.input.body(frame);
                        let outcome = match body.starts_with(b"ROLLBACK") {
                            true => Outcome::RolledBack,
                            false => Outcome::Done(command_rows(body)),
                        };
                        outcomes.done.push(outcome);
                    }
                    b'E' => {
                        let error = self.frame_error(frame);
                        if error.is_connection_lost() {
                            return Err(error);
                        }
                        outcomes.failure.get_or_insert(error);
                    }
                    b'Z' => {
                        self.note_ready(frame);
                        return Ok(outcomes);
                    }
                    b'N' => self.log_notice(frame),
                    b'S' => self.note_parameter(frame)?,
                    b'A' => {}
                    tag => return Err(self.unexpected(tag, "the results of a pipeline")),
                }
            }
            rest = self.write_or_wait(rest)?;
        }
    }

    fn next_or_broken(&mut self) -> Result<Option<super::frame::Frame>> {
        let side = self.side;
        self.input.next_frame().map_err(|error| {
            self.is_broken = true;
            error.with_side(side)
        })
    }

    /// Write some, read some, or wait until one of the two can be done.
    fn write_or_wait<'o>(&mut self, rest: &'o [u8]) -> Result<&'o [u8]> {
        let space = self.input.room(0);
        match self.transport.read_once(space) {
            Ok(Ok(0)) => return Err(self.lost("server closed the connection unexpectedly")),
            Ok(Ok(count)) => {
                self.input.filled(count);
                return Ok(rest);
            }
            Ok(Err(_)) => {}
            Err(error) => {
                return Err(self.lost(format!("could not receive from server: {error}")));
            }
        }
        let mut flags = PollFlags::POLLIN;
        if !rest.is_empty() {
            let piece = &rest[..rest.len().min(SEND_BYTES)];
            match self.transport.write_once(piece) {
                Ok(Ok(count)) => return Ok(&rest[count..]),
                Ok(Err(_)) => flags |= PollFlags::POLLOUT,
                Err(error) => return Err(self.write_error(error)),
            }
        }
        if let Some(socket) = self.transport.socket() {
            poll_one(&self.shutdown, socket, flags, self.deadline)?;
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Err(self.lost("server did not answer in time"));
        }
        Ok(rest)
    }
}
