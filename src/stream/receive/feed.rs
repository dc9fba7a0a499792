//! What goes into the pipe to transform: the lines of the segment files, read back from them. So the pipe may be full
//! for as long as it likes: receive goes on writing, and the files are the buffer.

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Context, Error, Result};
use crate::stream::message::LogicalMessage;
use crate::stream::segment;

/// How much is read back at once.
const READ_BYTES: usize = 256 << 10;

/// A pipe from which nobody has taken anything for this long belongs to an apply that waits for somebody: the files take
/// over.
const STALL: Duration = Duration::from_secs(30);

/// What became of an attempt to fill the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// Everything that is in the files is in the pipe.
    All,
    /// The pipe is full.
    Full,
    Stalled,
    /// The reader has gone.
    Closed,
}

pub struct Feed {
    pipe: OwnedFd,
    /// The file that is read, and up to where it was.
    file: Option<(PathBuf, File)>,
    offset: u64,
    /// Whole lines that are still to be written.
    waiting: Vec<u8>,
    written: usize,
    last_progress: Instant,
}

impl Feed {
    pub fn new(pipe: OwnedFd) -> Feed {
        Feed {
            pipe,
            file: None,
            offset: 0,
            waiting: Vec::new(),
            written: 0,
            last_progress: Instant::now(),
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Begin in the middle of a file: what is before was passed on in another way.
    pub fn begin(&mut self, path: &Path, offset: u64) -> Result<()> {
        let what = || format!("could not read file \"{}\"", path.display());
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        LogicalMessage::File {
            name: Cow::Borrowed(&name),
            offset,
        }
        .write_json(&mut self.waiting);
        self.file = Some((path.to_path_buf(), File::open(path).with_context(what)?));
        self.offset = offset;
        Ok(())
    }

    /// The transaction under way was cut off its file at `boundary`.
    pub fn abort(&mut self, boundary: u64) {
        if self.offset > boundary {
            LogicalMessage::Abort.write_json(&mut self.waiting);
            self.offset = boundary;
        }
    }

    /// Fill the pipe from what is in the files; `newest` is the one that is written, with its length.
    pub fn pump(&mut self, newest: Option<(&Path, u64)>) -> Result<Fed> {
        let Some((newest, length)) = newest else {
            return Ok(Fed::All);
        };
        if self.file.is_none() {
            self.begin(newest, 0)?;
        }
        loop {
            match self.write()? {
                Fed::All => {}
                other => return Ok(other),
            }
            if !self.read(newest, length)? {
                return Ok(Fed::All);
            }
        }
    }

    /// Take the next lines; `false` when there are none.
    fn read(&mut self, newest: &Path, length: u64) -> Result<bool> {
        let Some((path, file)) = &self.file else {
            return Ok(false);
        };
        let what = || format!("could not read file \"{}\"", path.display());
        let is_newest = path == newest;
        let end = match is_newest {
            true => length,
            false => file.metadata().with_context(what)?.len(),
        };
        if self.offset >= end {
            if is_newest {
                return Ok(false);
            }
            // While the pipe was full, more than one file may have been made.
            let next = next_file(path)?;
            self.begin(&next, 0)?;
            return Ok(true);
        }
        let mut wanted = READ_BYTES;
        loop {
            let count = (end - self.offset).min(wanted as u64) as usize;
            let from = self.waiting.len();
            self.waiting.resize(from + count, 0);
            file.read_exact_at(&mut self.waiting[from..], self.offset)
                .with_context(what)?;
            // Whole lines, so that an abort can be told between two of them.
            let lines = self.waiting[from..].iter().rposition(|byte| *byte == b'\n');
            let kept = lines.map_or(0, |at| at + 1);
            self.waiting.truncate(from + kept);
            if kept > 0 || count as u64 == end - self.offset {
                self.offset += kept as u64;
                return Ok(kept > 0);
            }
            wanted *= 2;
        }
    }

    fn write(&mut self) -> Result<Fed> {
        while self.written < self.waiting.len() {
            match nix::unistd::write(&self.pipe, &self.waiting[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    self.last_progress = Instant::now();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Ok(match self.last_progress.elapsed() > STALL {
                        true => Fed::Stalled,
                        false => Fed::Full,
                    });
                }
                Err(Errno::EPIPE) => return Ok(Fed::Closed),
                Err(errno) => return Err(Error::io("could not write to a pipe", errno.into())),
            }
        }
        self.waiting.clear();
        self.written = 0;
        self.last_progress = Instant::now();
        Ok(Fed::All)
    }
}

/// The segment file after this one, which is not the newest.
fn next_file(path: &Path) -> Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("."));
    segment::json_files(dir)?
        .into_iter()
        .find(|other| other.as_path() > path)
        .ok_or_else(|| Error::internal(format!("no file follows \"{}\"", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::{LineReader, Next, Pipes};
    use crate::sys::signal::Shutdown;

    /// The pipe is full while several files are made: every line of each comes through, in order.
    #[test]
    fn no_file_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let pipes = Pipes::new();
        let (read, write) = pipes.add().unwrap();
        let [Some(read), Some(write)] = pipes.keep([read, write]) else {
            panic!("both ends are there once");
        };
        let mut feed = Feed::new(write);
        let mut expected = Vec::new();
        let path = |number: u32| {
            dir.path()
                .join(format!("00000001000000000000000{number}.json"))
        };
        let mut pumped = Fed::All;
        for number in 1..=5 {
            let lines: Vec<String> = (0..40_000)
                .map(|line| format!("{number} {line} line"))
                .collect();
            let text = lines.join("\n") + "\n";
            std::fs::write(path(number), &text).unwrap();
            expected.extend(lines);
            pumped = feed.pump(Some((&path(number), text.len() as u64))).unwrap();
        }
        assert_eq!(pumped, Fed::Full);
        let length = std::fs::metadata(path(5)).unwrap().len();
        let (mut reader, mut found) = (LineReader::new(read), Vec::new());
        while found.len() < expected.len() {
            feed.pump(Some((&path(5), length))).unwrap();
            let soon = Some(Instant::now() + Duration::from_secs(5));
            match reader.next(soon, &Shutdown::deaf()).unwrap() {
                Next::Line(line) if line.starts_with(b"{") => {}
                Next::Line(line) => found.push(String::from_utf8(line.to_vec()).unwrap()),
                other => panic!("{other:?} after {} lines", found.len()),
            }
        }
        assert!(found == expected);
    }
}
