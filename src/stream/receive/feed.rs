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
use crate::lsn::Lsn;
use crate::stream::message::LogicalMessage;
use crate::stream::positions::ReceiveEnd;
use crate::stream::segment::json_files;

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

impl Fed {
    /// Whether the pipe is of no use any more.
    pub fn end(self) -> Option<ReceiveEnd> {
        match self {
            Fed::All | Fed::Full => None,
            Fed::Stalled => Some(ReceiveEnd::PipeStalled),
            Fed::Closed => Some(ReceiveEnd::PipeClosed),
        }
    }
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

    /// Begin in the middle of a file: what is before, up to position `lsn`, was passed on in another way.
    pub fn begin(&mut self, path: &Path, offset: u64, lsn: Lsn) -> Result<()> {
        let what = || format!("could not read file \"{}\"", path.display());
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        LogicalMessage::File {
            name: Cow::Borrowed(&name),
            offset,
            lsn,
        }
        .write_json(&mut self.waiting);
        self.file = Some((path.to_path_buf(), File::open(path).with_context(what)?));
        self.offset = offset;
        Ok(())
    }

    /// The transaction under way was cut off its file at `boundary`. A pipe that is behind, in an earlier file, has seen
    /// nothing of it.
    pub fn abort(&mut self, cut: &Path, boundary: u64) {
        let is_in_it = self.file.as_ref().is_some_and(|(path, _)| path == cut);
        if is_in_it && self.offset > boundary {
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
            // The directory was empty at the start; by now it may have more than one file.
            self.begin_next(newest)?;
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

    /// Go on with the file after the one that was read. The newest one may be several ahead of a pipe that was full.
    fn begin_next(&mut self, newest: &Path) -> Result<()> {
        let read = self.file.as_ref().map(|(path, _)| path.as_path());
        let dir = newest.parent().unwrap_or(Path::new("."));
        let next = json_files(dir)?
            .into_iter()
            .find(|path| read.is_none_or(|read| path.as_path() > read));
        // Its first line tells the position.
        self.begin(next.as_deref().unwrap_or(newest), 0, Lsn::INVALID)
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
            self.begin_next(newest)?;
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
        // The memory of a very long row goes with it.
        self.waiting.shrink_to(4 * READ_BYTES);
        self.written = 0;
        self.last_progress = Instant::now();
        Ok(Fed::All)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::fcntl::OFlag;

    use super::*;

    const NAMES: [&str; 3] = [
        "000000010000000000000001",
        "000000010000000000000002",
        "000000010000000000000003",
    ];

    struct Scene {
        dir: tempfile::TempDir,
        feed: Feed,
        reader: File,
    }

    impl Scene {
        fn new() -> Scene {
            let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
            Scene {
                dir: tempfile::tempdir().unwrap(),
                feed: Feed::new(write),
                reader: File::from(read),
            }
        }

        fn write(&self, file: usize, bytes: &[u8]) {
            std::fs::write(self.path(file), bytes).unwrap();
        }

        fn path(&self, file: usize) -> PathBuf {
            self.dir.path().join(NAMES[file]).with_extension("json")
        }

        fn pump(&mut self, newest: usize) -> Fed {
            let path = self.path(newest);
            let length = path.metadata().unwrap().len();
            self.feed.pump(Some((&path, length))).unwrap()
        }

        /// What is in the pipe now.
        fn read(&mut self) -> String {
            let mut bytes = vec![0; 1 << 20];
            match self.reader.read(&mut bytes) {
                Ok(count) => String::from_utf8(bytes[..count].to_vec()).unwrap(),
                Err(_) => String::new(),
            }
        }

        fn read_all(&mut self, newest: usize) -> String {
            let mut text = self.read();
            while self.pump(newest) == Fed::Full {
                text.push_str(&self.read());
            }
            text + &self.read()
        }
    }

    fn file_line(file: usize, offset: u64) -> String {
        let name = NAMES[file];
        format!("{{\"action\":\"F\",\"file\":\"{name}\",\"offset\":{offset},\"lsn\":\"0/0\"}}\n")
    }

    #[test]
    fn a_pipe_that_was_full_skips_no_file() {
        let mut scene = Scene::new();
        let long = format!("{}\n", "x".repeat(200_000));
        scene.write(0, long.as_bytes());
        assert_eq!(scene.pump(0), Fed::Full);
        scene.write(1, b"second\n");
        scene.write(2, b"third\n");
        let text = scene.read_all(2);
        let expected = [
            file_line(0, 0),
            long,
            file_line(1, 0),
            "second\n".to_owned(),
            file_line(2, 0),
            "third\n".to_owned(),
        ];
        assert!(text == expected.concat(), "{}", text.len());
    }

    #[test]
    fn an_empty_directory_may_have_two_files_when_the_pipe_is_first_fed() {
        let mut scene = Scene::new();
        scene.write(0, b"first\n");
        scene.write(1, b"second\n");
        assert_eq!(scene.pump(1), Fed::All);
        let expected = format!("{}first\n{}second\n", file_line(0, 0), file_line(1, 0));
        assert_eq!(scene.read(), expected);
    }

    #[test]
    fn what_was_cut_off_is_taken_back_where_it_was_seen_only() {
        let mut scene = Scene::new();
        scene.write(0, b"whole\nhalf\n");
        assert_eq!(scene.pump(0), Fed::All);
        let seen = scene.read();
        assert!(seen.ends_with("whole\nhalf\n"), "{seen}");
        let path = scene.path(0);
        scene.feed.abort(&path, 6);
        scene.write(0, b"whole\nagain\n");
        assert_eq!(scene.pump(0), Fed::All);
        assert_eq!(scene.read(), "{\"action\":\"X\"}\nagain\n");
        // The next file is cut before the pipe has come to it.
        scene.write(1, b"other\n");
        let next = scene.path(1);
        scene.feed.abort(&next, 0);
        assert_eq!(scene.pump(1), Fed::All);
        assert_eq!(scene.read(), format!("{}other\n", file_line(1, 0)));
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed() {
        let mut scene = Scene::new();
        scene.write(0, b"line\n");
        scene.reader = File::open("/dev/null").unwrap();
        assert_eq!(scene.pump(0), Fed::Closed);
    }
}
