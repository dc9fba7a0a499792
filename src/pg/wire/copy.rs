//! COPY in both directions, as guards that hold the connection: no query compiles while one lives. Data is handed
//! over as raw protocol bytes: a CopyData frame from a server is byte for byte what another server expects, so the
//! relay neither takes frames apart nor holds one whole.

use nix::poll::PollFlags;
use postgres_protocol::message::frontend;

use super::frame::frame_length;
use super::query::command_rows;
use super::{Connection, Row};
use crate::error::{Error, Result};
use crate::sys::signal::Shutdown;

/// Room for one read of COPY data: large enough that system calls do not matter, small against 60 MB.
const READ_BYTES: usize = 256 * 1024;

/// How many bytes are written before the target is asked, without waiting, whether it has failed.
const CHECK_EVERY_BYTES: usize = 1 << 20;

/// How long taking back a copy may take before the connection is given up instead.
const TAKE_BACK_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// A row of more than this is not worth filling up.
const MAX_PADDING_BYTES: usize = 1 << 20;

/// COPY TO STDOUT under way on the source.
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    /// Bytes of the current frame that have not arrived yet.
    missing: usize,
    /// Bytes handed out by the last `next_chunk`.
    handed_out: usize,
    /// Frames that began in what was handed out.
    frames: u64,
    is_finished: bool,
}

/// A piece of the COPY stream.
pub enum CopyChunk<'a> {
    /// Bytes of CopyData frames, headers included; may begin and end inside a frame.
    Data(&'a [u8]),
    /// The source has sent everything; `CopyOut::finish` tells how many rows.
    Done,
}

impl Connection {
    /// Send statements of which the last but possibly a COMMIT is a COPY TO STDOUT. Rows of earlier statements go to
    /// `on_row`, whose error stops the copy before a byte is handed out.
    pub fn copy_out(
        &mut self,
        sql: &str,
        on_row: &mut dyn FnMut(&Row) -> Result<()>,
    ) -> Result<CopyOut<'_>> {
        match self.begin_copy(sql, b'H', on_row) {
            Ok(()) => Ok(CopyOut {
                connection: self,
                missing: 0,
                handed_out: 0,
                frames: 0,
                is_finished: false,
            }),
            Err(error) => {
                self.after_error(&error);
                Err(error)
            }
        }
    }

    /// Send statements of which the last is a COPY FROM STDIN; rows of earlier ones go to `on_row`.
    pub fn copy_in(
        &mut self,
        sql: &str,
        on_row: &mut dyn FnMut(&Row) -> Result<()>,
    ) -> Result<CopyIn<'_>> {
        match self.begin_copy(sql, b'G', on_row) {
            Ok(()) => Ok(CopyIn {
                connection: self,
                missing: 0,
                unchecked: 0,
                is_finished: false,
            }),
            Err(error) => {
                self.after_error(&error);
                Err(error)
            }
        }
    }

    fn begin_copy(
        &mut self,
        sql: &str,
        started: u8,
        on_row: &mut dyn FnMut(&Row) -> Result<()>,
    ) -> Result<()> {
        self.send_query(sql)?;
        let mut failure: Option<Error> = None;
        let mut row = Row::default();
        loop {
            let frame = match self.read_frame() {
                Ok(frame) => frame,
                Err(error) => {
                    self.after_error(&error);
                    return Err(failure.unwrap_or(error));
                }
            };
            match frame.tag {
                tag if tag == started => match failure {
                    None => return Ok(()),
                    Some(error) => {
                        // Our own check said no: the copy that began is of no use to anybody.
                        self.cancel_and_break();
                        return Err(error);
                    }
                },
                b'D' => {
                    if let Err(error) = row.load(self.input.body(frame)).and_then(|()| on_row(&row))
                    {
                        failure.get_or_insert(error);
                    }
                }
                b'T' | b'C' | b'I' => {}
                b'E' => {
                    let error = self.frame_error(frame);
                    failure.get_or_insert(error);
                }
                b'Z' => {
                    self.note_ready(frame);
                    return Err(failure
                        .unwrap_or_else(|| Error::internal(format!("no COPY started by: {sql}"))));
                }
                tag => return Err(self.unexpected(tag, "the start of a COPY")),
            }
        }
    }
}

impl CopyOut<'_> {
    /// The next bytes of the stream, waiting for them.
    pub fn next_chunk(&mut self) -> Result<CopyChunk<'_>> {
        let result = self.prepare_chunk();
        match result {
            Ok(0) => Ok(CopyChunk::Done),
            Ok(count) => Ok(CopyChunk::Data(&self.connection.input.available()[..count])),
            Err(error) => {
                self.connection.after_error(&error);
                Err(error)
            }
        }
    }

    /// About how many rows were handed out: a server sends each in a frame of its own. For people to look at; what counts
    /// is what `finish` returns.
    pub fn rows_so_far(&self) -> u64 {
        self.frames
    }

    /// How many bytes at the start of the buffer are COPY data; 0 at the end of the copy.
    fn prepare_chunk(&mut self) -> Result<usize> {
        self.connection.input.consume(self.handed_out);
        self.handed_out = 0;
        loop {
            let prefix = data_prefix(self.connection.input.available(), self.missing)?;
            if prefix.count > 0 {
                self.handed_out = prefix.count;
                self.missing = prefix.missing;
                self.frames += prefix.frames;
                return Ok(prefix.count);
            }
            // Not data, or a header that is not complete yet.
            let Some(frame) = self.connection.input.next_frame()? else {
                self.connection.fill(READ_BYTES)?;
                continue;
            };
            match frame.tag {
                b'c' => return Ok(0),
                b'E' => {
                    let error = self.connection.frame_error(frame);
                    self.drain();
                    self.is_finished = true;
                    return Err(error);
                }
                // A function in the copied query may raise notices between rows.
                b'N' => self.connection.log_notice(frame),
                b'S' => self.connection.note_parameter(frame)?,
                b'A' => {}
                tag => return Err(self.connection.unexpected(tag, "COPY data")),
            }
        }
    }

    fn drain(&mut self) {
        while let Ok(frame) = self.connection.read_frame() {
            if frame.tag == b'Z' {
                self.connection.note_ready(frame);
                break;
            }
        }
    }

    /// After `Done`: the number of rows the source says it sent; statements after the COPY have succeeded too.
    pub fn finish(mut self) -> Result<u64> {
        self.is_finished = true;
        self.connection.read_end_of_copy()
    }
}

impl Drop for CopyOut<'_> {
    fn drop(&mut self) {
        // The target failed: do not let the source go on sending a table to nobody.
        if !self.is_finished && !self.connection.is_broken {
            self.connection.cancel_and_break();
        }
    }
}

/// The front of a buffer that belongs to CopyData frames.
#[derive(Debug, PartialEq, Eq)]
struct Prefix {
    count: usize,
    /// Bytes of the last frame that come after it.
    missing: usize,
    /// How many frames begin in it.
    frames: u64,
}

/// How many bytes at the front belong to CopyData frames, when `missing` bytes of a frame are still to come. Pure. A
/// header is only handed out whole.
fn data_prefix(bytes: &[u8], missing: usize) -> Result<Prefix> {
    let mut frames = 0;
    let prefix = |count, missing, frames| Prefix {
        count,
        missing,
        frames,
    };
    let mut count = missing.min(bytes.len());
    if count < missing {
        return Ok(prefix(count, missing - count, frames));
    }
    while count < bytes.len() && bytes[count] == b'd' {
        let Some(length) = frame_length(&bytes[count..])? else {
            break;
        };
        frames += 1;
        if count + length > bytes.len() {
            let missing = count + length - bytes.len();
            return Ok(prefix(bytes.len(), missing, frames));
        }
        count += length;
    }
    Ok(prefix(count, 0, frames))
}

/// COPY FROM STDIN under way on the target. Dropped before `finish`, it is taken back, or the connection is broken so
/// that the server rolls back: no half of a copy can ever be committed.
pub struct CopyIn<'a> {
    connection: &'a mut Connection,
    /// Bytes still missing to the end of the current frame.
    missing: usize,
    unchecked: usize,
    is_finished: bool,
}

impl CopyIn<'_> {
    /// Forward raw CopyData bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.forward(bytes);
        if let Err(error) = &result {
            self.connection.after_error(error);
        }
        result
    }

    fn forward(&mut self, bytes: &[u8]) -> Result<()> {
        self.unchecked += bytes.len();
        if self.unchecked >= CHECK_EVERY_BYTES {
            self.unchecked = 0;
            self.check_target()?;
        }
        let missing = data_prefix(bytes, self.missing)?.missing;
        // Written in full or the connection is broken, so that `missing` is always true of what was sent.
        self.connection
            .write_all(bytes)
            .inspect_err(|_| self.connection.is_broken = true)?;
        self.missing = missing;
        Ok(())
    }

    /// The server has nothing to say during a COPY unless it failed: then it discards what we send, and gigabytes
    /// would be moved for nothing.
    fn check_target(&mut self) -> Result<()> {
        let Some(socket) = self.connection.transport.socket() else {
            return Ok(());
        };
        let now = Some(std::time::Instant::now());
        let ready =
            crate::sys::signal::poll_one(&Shutdown::handle(), socket, PollFlags::POLLIN, now)?;
        if ready.is_empty() && !self.connection.transport.has_buffered_input() {
            return Ok(());
        }
        self.connection.fill(0)?;
        while let Some(frame) = self.connection.input.next_frame()? {
            match frame.tag {
                b'E' => return Err(self.connection.frame_error(frame)),
                b'N' | b'S' | b'A' => {}
                tag => return Err(self.connection.unexpected(tag, "COPY to go on")),
            }
        }
        Ok(())
    }

    /// End the copy; the number of rows the target says it took. The transaction is still open.
    pub fn finish(mut self) -> Result<u64> {
        if self.missing > 0 {
            return Err(self
                .connection
                .protocol_error("the source ended inside a COPY row"));
        }
        self.is_finished = true;
        let result = self.end();
        if let Err(error) = &result {
            self.connection.after_error(error);
        }
        result
    }

    fn end(&mut self) -> Result<u64> {
        frontend::copy_done(&mut self.connection.output);
        self.connection.flush_output()?;
        self.connection.read_end_of_copy()
    }
}

impl Connection {
    /// After CopyDone, ours or the server's: its count of the rows. Statements after the COPY count in nothing but their errors.
    fn read_end_of_copy(&mut self) -> Result<u64> {
        let mut rows = None;
        let mut failure: Option<Error> = None;
        loop {
            let frame = match self.read_frame() {
                Ok(frame) => frame,
                Err(error) => {
                    self.after_error(&error);
                    return Err(failure.unwrap_or(error));
                }
            };
            match frame.tag {
                b'C' => {
                    let count = command_rows(self.input.body(frame));
                    rows.get_or_insert(count);
                }
                b'E' => {
                    let error = self.frame_error(frame);
                    failure.get_or_insert(error);
                }
                b'Z' => {
                    self.note_ready(frame);
                    let side = self.side;
                    return match (failure, rows) {
                        (Some(error), _) => Err(error),
                        (None, Some(rows)) => Ok(rows),
                        (None, None) => {
                            Err(self.protocol_error(format!("the {side} did not count its COPY")))
                        }
                    };
                }
                tag => return Err(self.unexpected(tag, "the end of a COPY")),
            }
        }
    }
}

impl CopyIn<'_> {
    /// Take back a copy that will not be finished, so that the connection (whose earlier commits may still wait for
    /// their flush) stays usable. The frame under way is filled up with zeros to get back to a message boundary; the
    /// server either still copies, and CopyFail ends that, or has failed already and ignores both.
    fn take_back(&mut self) -> Result<()> {
        if self.missing > MAX_PADDING_BYTES {
            return Err(Error::internal("too far from the end of a row"));
        }
        let connection = &mut *self.connection;
        connection.shutdown = Shutdown::deaf();
        connection.set_deadline(Some(TAKE_BACK_WAIT));
        connection.output.extend_from_slice(&vec![0; self.missing]);
        frontend::copy_fail("the copy was given up", &mut connection.output)
            .and_then(|()| frontend::query("ROLLBACK", &mut connection.output))
            .map_err(|error| Error::internal(error.to_string()))?;
        connection.flush_output()?;
        let mut is_rolled_back = false;
        loop {
            let frame = connection.read_frame()?;
            match frame.tag {
                b'C' => is_rolled_back = connection.input.body(frame).starts_with(b"ROLLBACK"),
                b'Z' => {
                    connection.note_ready(frame);
                    if is_rolled_back {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }
}

impl Drop for CopyIn<'_> {
    fn drop(&mut self) {
        if self.is_finished || self.connection.is_broken {
            return;
        }
        let shutdown = self.connection.shutdown;
        // When everything stops anyway, the end of the stream makes the server roll back just as well.
        if shutdown.is_requested() || self.take_back().is_err() {
            self.connection.is_broken = true;
            self.connection.transport.forget_tls();
            return;
        }
        self.connection.shutdown = shutdown;
        self.connection.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::data_prefix;
    use proptest::prelude::*;

    #[test]
    fn finds_copy_data_at_the_front() {
        let data_prefix = |bytes: &[u8], missing| {
            super::data_prefix(bytes, missing)
                .map(|found| (found.count, found.missing, found.frames))
        };
        assert_eq!(data_prefix(b"d\0\0\0\x06ab", 0).unwrap(), (7, 0, 1));
        assert_eq!(data_prefix(b"d\0\0\0\x06a", 0).unwrap(), (6, 1, 1));
        assert_eq!(data_prefix(b"b", 1).unwrap(), (1, 0, 0));
        assert_eq!(data_prefix(b"bc\0\0\0\x04", 1).unwrap(), (1, 0, 0));
        assert_eq!(data_prefix(b"d\0\0", 0).unwrap(), (0, 0, 0));
        assert_eq!(data_prefix(b"xyz", 5).unwrap(), (3, 2, 0));
        assert!(data_prefix(b"d\0\0\0\x01ab", 0).is_err());
    }

    proptest! {
        #[test]
        fn every_cut_of_the_stream_hands_out_every_byte(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..10),
            cut in 5usize..40,
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.push(b'd');
                stream.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
                stream.extend_from_slice(body);
            }
            let (mut missing, mut frames, mut out, mut pending) = (0, 0, Vec::new(), Vec::new());
            for part in stream.chunks(cut) {
                pending.extend_from_slice(part);
                let found = data_prefix(&pending, missing).unwrap();
                out.extend_from_slice(&pending[..found.count]);
                pending.drain(..found.count);
                missing = found.missing;
                frames += found.frames;
            }
            let last = data_prefix(&pending, missing).unwrap();
            out.extend_from_slice(&pending[..last.count]);
            prop_assert_eq!((out, last.missing), (stream, 0));
            prop_assert_eq!(frames + last.frames, bodies.len() as u64);
        }
    }
}
