//! Pipes between two children of one parent: made before the forks, each end kept by one process and closed by all
//! others, or the end of the stream would never come. Reading is by lines; every wait sees a stop request.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;

use super::signal::{Shutdown, poll_one};
use crate::error::{Context, Error, ErrorKind, Result};

/// What a pipe holds: the most an unprivileged process may ask for. Fewer switches between writer and reader.
const PIPE_BYTES: i32 = 1 << 20;

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// The same for the rest of a long line: more room than this would only be memory that is never filled.
const MOST_READ_BYTES: usize = 16 << 20;

/// A line longer than this is no line of ours: a row cannot be larger than 1 GB on the server, and its escapes no more
/// than six times that.
const LONGEST_LINE: usize = 8 << 30;

/// Several pipes, shared by the forks that come after.
#[derive(Debug, Default)]
pub struct Pipes {
    ends: RefCell<Vec<Option<OwnedFd>>>,
}

/// One end, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(usize);

impl Pipes {
    pub fn new() -> Pipes {
        Pipes::default()
    }

    /// A new pipe: its end to read from, its end to write to. Neither ever blocks its process.
    pub fn add(&self) -> Result<(End, End)> {
        let what = "could not create a pipe";
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(io::Error::from)
            .context(what)?;
        // A limit of the system may refuse it; a smaller pipe works too.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let mut ends = self.ends.borrow_mut();
        ends.extend([Some(read), Some(write)]);
        Ok((End(ends.len() - 2), End(ends.len() - 1)))
    }

    /// In a child: take the ends that are its own and close this process's copies of all others.
    pub fn keep<const N: usize>(&self, own: [End; N]) -> [Option<OwnedFd>; N] {
        let mut ends = self.ends.borrow_mut();
        let kept = own.map(|end| ends.get_mut(end.0).and_then(Option::take));
        ends.clear();
        kept
    }
}

/// What a reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A line without its line break.
    Line(&'a [u8]),
    /// The writer has closed its end. Bytes after the last line break are not a line and are dropped.
    End,
    /// The deadline passed.
    Nothing,
}

/// Reads lines from a pipe, a FIFO, a terminal or a file.
#[derive(Debug)]
pub struct LineReader<F> {
    fd: F,
    buffer: Vec<u8>,
    /// Where the next line begins, and how far we looked for its end.
    start: usize,
    searched: usize,
    is_at_end: bool,
}

impl<F: AsFd> LineReader<F> {
    pub fn new(fd: F) -> LineReader<F> {
        LineReader {
            fd,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            is_at_end: false,
        }
    }

    /// The next line, waited for until `deadline`. Errors: `Io`; `Interrupted`.
    pub fn next(&mut self, deadline: Option<Instant>, shutdown: &Shutdown) -> Result<Next<'_>> {
        loop {
            if let Some(line) = self.find() {
                return Ok(Next::Line(&self.buffer[line]));
            }
            if self.is_at_end {
                return Ok(Next::End);
            }
            if !self.fill(deadline, shutdown)? {
                return Ok(Next::Nothing);
            }
        }
    }

    /// Whether a line can be had without waiting.
    pub fn is_ready(&mut self, shutdown: &Shutdown) -> Result<bool> {
        loop {
            let end = self.end_of_line();
            if end.is_some() || self.is_at_end {
                return Ok(end.is_some());
            }
            if !self.fill(Some(Instant::now()), shutdown)? {
                return Ok(false);
            }
        }
    }

    fn end_of_line(&mut self) -> Option<usize> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..]);
        // Asked again, the end is where the search goes on.
        self.searched = found.map_or(self.buffer.len(), |at| self.searched + at);
        found.map(|_| self.searched)
    }

    fn find(&mut self) -> Option<std::ops::Range<usize>> {
        let end = self.end_of_line()?;
        let line = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        Some(line)
    }

    /// Read some more; `false` when the deadline passed.
    fn fill(&mut self, deadline: Option<Instant>, shutdown: &Shutdown) -> Result<bool> {
        // Lines that were handed out are dropped here, so a byte is moved at most once for each doubling.
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
            // The memory of a very long line goes with it.
            if self.buffer.capacity() > 4 * MOST_READ_BYTES {
                self.buffer.shrink_to(2 * MOST_READ_BYTES);
            }
        }
        if self.buffer.len() > LONGEST_LINE {
            return Err(Error::new(ErrorKind::Protocol, "a line has no end"));
        }
        loop {
            let filled = self.buffer.len();
            let room = (filled / 2).clamp(READ_BYTES, MOST_READ_BYTES);
            self.buffer.resize(filled + room, 0);
            let read = nix::unistd::read(self.fd.as_fd(), &mut self.buffer[filled..]);
            self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    self.is_at_end = true;
                    return Ok(true);
                }
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => shutdown.check()?,
                Err(Errno::EAGAIN) => {
                    let ready = poll_one(shutdown, &self.fd, PollFlags::POLLIN, deadline)?;
                    if ready.is_empty() {
                        return Ok(false);
                    }
                }
                Err(errno) => return Err(Error::io("could not read from a pipe", errno.into())),
            }
        }
    }
}

/// Writes to a pipe, waiting for room.
#[derive(Debug)]
pub struct PipeWriter<F> {
    fd: F,
}

/// How long one wait for room lasts before the stop flag is looked at again.
const TICK: Duration = Duration::from_secs(1);

impl<F: AsFd> PipeWriter<F> {
    pub fn new(fd: F) -> PipeWriter<F> {
        PipeWriter { fd }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Write everything. `false` when the reader has gone.
    pub fn write_all(&mut self, bytes: &[u8], shutdown: &Shutdown) -> Result<bool> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match nix::unistd::write(&self.fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EINTR) => shutdown.check()?,
                Err(Errno::EPIPE) => return Ok(false),
                Err(Errno::EAGAIN) => {
                    let deadline = Some(Instant::now() + TICK);
                    poll_one(shutdown, &self.fd, PollFlags::POLLOUT, deadline)?;
                }
                Err(errno) => return Err(Error::io("could not write to a pipe", errno.into())),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (LineReader<OwnedFd>, PipeWriter<OwnedFd>) {
        let pipes = Pipes::new();
        let (read, write) = pipes.add().unwrap();
        let [Some(read), Some(write)] = pipes.keep([read, write]) else {
            panic!("both ends are there once");
        };
        (LineReader::new(read), PipeWriter::new(write))
    }

    #[test]
    fn lines_come_whole() {
        let (mut reader, mut writer) = pipe();
        let shutdown = Shutdown::deaf();
        assert!(writer.write_all(b"one\ntw", &shutdown).unwrap());
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(reader.next(soon(), &shutdown).unwrap(), Next::Line(b"one"));
        assert!(!reader.is_ready(&shutdown).unwrap());
        assert_eq!(reader.next(soon(), &shutdown).unwrap(), Next::Nothing);
        assert!(writer.write_all(b"o\n\nx", &shutdown).unwrap());
        assert!(reader.is_ready(&shutdown).unwrap());
        drop(writer);
        assert_eq!(reader.next(None, &shutdown).unwrap(), Next::Line(b"two"));
        assert_eq!(reader.next(None, &shutdown).unwrap(), Next::Line(b""));
        assert_eq!(reader.next(None, &shutdown).unwrap(), Next::End);
    }

    #[test]
    fn a_long_line_passes_through_a_small_pipe() {
        let (mut reader, mut writer) = pipe();
        let line = vec![b'x'; 5 << 20];
        let copy = line.clone();
        let sender = std::thread::spawn(move || {
            let shutdown = Shutdown::deaf();
            writer.write_all(&copy, &shutdown).unwrap();
            writer.write_all(b"\nend\n", &shutdown).unwrap();
        });
        let shutdown = Shutdown::deaf();
        assert_eq!(reader.next(None, &shutdown).unwrap(), Next::Line(&line));
        assert_eq!(reader.next(None, &shutdown).unwrap(), Next::Line(b"end"));
        sender.join().unwrap();
    }

    #[test]
    fn a_writer_learns_that_its_reader_has_gone() {
        let (reader, mut writer) = pipe();
        drop(reader);
        assert!(!writer.write_all(b"x", &Shutdown::deaf()).unwrap());
    }
}
