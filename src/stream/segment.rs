//! The JSON segment files: their names, what is written to them and found in them. Written by the receive process alone;
//! read by transform, catchup and the parent, which removes what the target has passed.
//!
//! A file holds whole transactions, each once, in commit order. It is named after the WAL segment of the position before
//! its first transaction, so names only grow. What comes after the last commit or keepalive is not complete, and is cut
//! off before anything is added.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::last_line::last_line;
use super::message::LogicalMessage;
use crate::error::{Context, Error, Result};
use crate::lsn::{Lsn, WalSegments};
use crate::sys::durable::remove_file;
use crate::sys::pipe::{LineReader, Next};
use crate::sys::signal::Shutdown;

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 256 << 10;

/// Make the directory for the files of a follow.
pub fn make_directory(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("could not create directory \"{}\"", dir.display()))
}

/// All JSON files, in the order of the log.
pub fn json_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("could not read directory \"{}\"", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(what)? {
        let path = entry.with_context(what)?.path();
        let is_segment = path.extension().is_some_and(|ending| ending == "json")
            && path
                .file_stem()
                .and_then(|name| name.to_str())
                .is_some_and(is_segment_name);
        if is_segment {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// 24 hexadecimal digits, as the server names its WAL files.
pub fn is_segment_name(name: &str) -> bool {
    name.len() == 24
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// The last commit or keepalive of a file that is complete; `None` when its last line is another one, or the file is gone.
pub fn last_position(json: &Path) -> Result<Option<Lsn>> {
    Ok(last_line(json)?.and_then(|line| position_of(&line.bytes)))
}

/// The position that the file before this one ended with; `None` when its first line does not tell, or the file is gone.
pub fn start_position(json: &Path) -> Result<Option<Lsn>> {
    let what = || format!("could not read file \"{}\"", json.display());
    let file = match File::open(json) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(what)?,
    };
    let mut lines = LineReader::new(file);
    let Next::Line(line) = lines.next(None, &Shutdown::deaf())? else {
        return Ok(None);
    };
    Ok(match LogicalMessage::parse_json(line) {
        Ok(LogicalMessage::Start { lsn }) => Some(lsn),
        _ => None,
    })
}

/// A file that nothing has followed on yet ends where it begins.
fn position_of(line: &[u8]) -> Option<Lsn> {
    let has_position = [b'C', b'K', b'S'].iter().any(|action| {
        line.strip_prefix(b"{\"action\":\"")
            .is_some_and(|rest| rest.starts_with(&[*action, b'"']))
    });
    if !has_position {
        return None;
    }
    match LogicalMessage::parse_json(line) {
        Ok(
            LogicalMessage::Commit { lsn, .. }
            | LogicalMessage::Keepalive { lsn }
            | LogicalMessage::Start { lsn },
        ) => Some(lsn),
        _ => None,
    }
}

/// The first transaction in the files that committed after `after` and at or before `upto`.
pub fn commit_between(dir: &Path, after: Lsn, upto: Lsn) -> Result<Option<Lsn>> {
    for json in json_files(dir)? {
        if start_position(&json)?.is_some_and(|start| start >= upto) {
            break;
        }
        if last_position(&json)?.is_some_and(|last| last <= after) {
            continue;
        }
        let what = || format!("could not read file \"{}\"", json.display());
        let file = match File::open(&json) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file.with_context(what)?,
        };
        let mut lines = LineReader::new(file);
        while let Next::Line(line) = lines.next(None, &Shutdown::deaf())? {
            let is_commit = line.starts_with(b"{\"action\":\"C\"");
            let lsn = is_commit.then(|| position_of(line)).flatten();
            if lsn.is_some_and(|lsn| lsn > after && lsn <= upto) {
                return Ok(lsn);
            }
        }
    }
    Ok(None)
}

/// Bytes of the files, and of the scripts beside them, that are complete. The newest, which may still be written, does not
/// count: nobody could remove it.
pub fn waiting_bytes(dir: &Path) -> Result<u64> {
    let mut files = json_files(dir)?;
    files.pop();
    let mut bytes = 0;
    for json in files {
        for path in [json.with_extension("sql"), json] {
            bytes += match std::fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
                Err(error) => {
                    let what = format!("could not look at file \"{}\"", path.display());
                    return Err(Error::io(what, error));
                }
            };
        }
    }
    Ok(bytes)
}

/// Remove the files, and the scripts beside them, that hold nothing after `applied`; never the newest, which may still
/// be written. Returns how many.
pub fn remove_applied(dir: &Path, applied: Lsn) -> Result<usize> {
    let mut files = json_files(dir)?;
    files.pop();
    let mut removed = 0;
    for json in files {
        if last_position(&json)?.is_none_or(|last| last > applied) {
            break;
        }
        // The script first: without its JSON it would never be removed.
        for path in [json.with_extension("sql"), json] {
            remove_file(&path)?;
        }
        removed += 1;
    }
    Ok(removed)
}

/// Where the complete part of a file ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub length: u64,
    pub position: Option<Lsn>,
}

/// A crash of the machine may leave a hole of zeros where the kernel had not written yet, with good lines behind it.
fn is_line_of_ours(line: &[u8]) -> bool {
    line.starts_with(b"{\"action\":\"") && line.ends_with(b"}") && !line.contains(&0)
}

/// Reads all of the file.
pub(super) fn find_tail(json: &Path) -> Result<Tail> {
    let what = || format!("could not read file \"{}\"", json.display());
    let mut lines = LineReader::new(File::open(json).with_context(what)?);
    let mut tail = Tail {
        length: 0,
        position: None,
    };
    let mut seen = 0;
    while let Next::Line(line) = lines.next(None, &Shutdown::deaf())? {
        if !is_line_of_ours(line) {
            break;
        }
        seen += line.len() as u64 + 1;
        if let Some(lsn) = position_of(line) {
            tail = Tail {
                length: seen,
                position: Some(lsn),
            };
        }
    }
    Ok(tail)
}

/// The file that is being written.
struct Open {
    path: PathBuf,
    file: Arc<File>,
    /// Bytes written to the file.
    length: u64,
    /// Where the last complete transaction ends.
    boundary: u64,
}

/// A file as the thread that flushes it needs it.
#[derive(Debug, Clone)]
pub struct FileToFlush {
    pub path: PathBuf,
    pub file: Arc<File>,
}

impl Open {
    fn to_flush(&self) -> FileToFlush {
        FileToFlush {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
        }
    }
}

/// Put on disk what a process that was killed had written and not flushed: it counts as received from here on.
fn flush_all(dir: &Path, files: &[PathBuf]) -> Result<()> {
    for path in files {
        match File::open(path).and_then(|file| file.sync_data()) {
            // Removed by the parent since it was listed: the target has durably passed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            flushed => {
                flushed.with_context(|| format!("could not flush file \"{}\"", path.display()))?;
            }
        }
    }
    flush_directory(dir)
}

/// The name of a file must survive a crash before anything in it is called flushed.
pub fn flush_directory(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("could not flush directory \"{}\"", dir.display()))
}

/// Writes the files, in one process.
pub struct SegmentWriter {
    dir: PathBuf,
    segments: WalSegments,
    open: Option<Open>,
    /// Relations that the open file has described.
    described: HashSet<u32>,
    /// Lines that are not written yet.
    gathered: Vec<u8>,
    /// The last commit or keepalive in the files, or where they begin.
    recorded: Lsn,
}

impl SegmentWriter {
    /// Go on where the files end, cutting off what is not complete; in an empty directory, begin at `startpos`.
    pub fn open(dir: &Path, segments: WalSegments, startpos: Lsn) -> Result<SegmentWriter> {
        let mut writer = SegmentWriter {
            dir: dir.to_path_buf(),
            segments,
            open: None,
            described: HashSet::new(),
            gathered: Vec::new(),
            recorded: startpos,
        };
        let mut files = json_files(dir)?;
        flush_all(dir, &files)?;
        if let Some(newest) = files.pop() {
            let tail = find_tail(&newest)?;
            let position = match (tail.position, files.last()) {
                (None, Some(before)) => last_position(before)?,
                (position, _) => position,
            };
            writer.recorded = position.map_or(startpos, |position| position.max(startpos));
            writer.go_on(newest, tail.length)?;
            if tail.length == 0 {
                // What is added has to tell where it begins.
                let lsn = writer.recorded;
                writer.add(&LogicalMessage::Start { lsn })?;
                writer.write()?;
            }
        }
        Ok(writer)
    }

    fn go_on(&mut self, path: PathBuf, length: u64) -> Result<()> {
        let what = || format!("could not write file \"{}\"", path.display());
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(what)?;
        let before = file.metadata().with_context(what)?.len();
        if before > length {
            log::info!(
                "cutting {} bytes of an incomplete transaction off \"{}\"",
                before - length,
                path.display()
            );
            file.set_len(length).with_context(what)?;
        }
        self.open = Some(Open {
            path,
            file: Arc::new(file),
            length,
            boundary: length,
        });
        Ok(())
    }

    /// The last commit or keepalive in the files.
    pub fn recorded(&self) -> Lsn {
        self.recorded
    }

    /// The file that is written now, and how much of it is there to be read.
    pub fn file(&self) -> Option<(&Path, u64)> {
        self.open
            .as_ref()
            .map(|open| (open.path.as_path(), open.length))
    }

    /// Where the last complete transaction in it ends.
    pub fn boundary(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.boundary)
    }

    /// For a flush from another thread.
    pub fn handle(&self) -> Option<FileToFlush> {
        self.open.as_ref().map(Open::to_flush)
    }

    /// Before a transaction or a keepalive: in the file of the segment where the log stands. If that is a new one, the one
    /// before is complete: it is returned, all written and not flushed yet.
    pub fn choose_file(&mut self) -> Result<Option<FileToFlush>> {
        let name = format!("{}.json", self.segments.name(self.recorded));
        let path = self.dir.join(name);
        if self.open.as_ref().is_some_and(|open| open.path >= path) {
            return Ok(None);
        }
        self.write()?;
        let what = || format!("could not create file \"{}\"", path.display());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(what)?;
        let complete = self.handle();
        self.described.clear();
        self.open = Some(Open {
            path,
            file: Arc::new(file),
            length: 0,
            boundary: 0,
        });
        let lsn = self.recorded;
        self.add(&LogicalMessage::Start { lsn })?;
        Ok(complete)
    }

    /// Whether the open file has described this relation; from now on it has.
    pub fn describe(&mut self, relation: u32) -> bool {
        !self.described.insert(relation)
    }

    /// Add a line. Errors: the file cannot be written, such as on a full disk.
    pub fn add(&mut self, message: &LogicalMessage<'_>) -> Result<()> {
        message.write_json(&mut self.gathered);
        if let LogicalMessage::Commit { lsn, .. } | LogicalMessage::Keepalive { lsn } = message {
            self.recorded = *lsn;
            if let Some(open) = &mut self.open {
                open.boundary = open.length + self.gathered.len() as u64;
            }
        }
        if let (LogicalMessage::Start { .. }, Some(open)) = (message, &mut self.open) {
            open.boundary = self.gathered.len() as u64;
        }
        match self.gathered.len() >= WRITE_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Hand what was gathered to the kernel: from here on others can read it.
    pub fn write(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if self.gathered.is_empty() {
            return Ok(());
        }
        // At a place of our own: what a full disk took of it may be written once more, in the same place.
        if let Err(error) = open.file.write_all_at(&self.gathered, open.length) {
            let _ = open.file.set_len(open.length);
            let what = format!(
                "could not write {} bytes to file \"{}\"",
                self.gathered.len(),
                open.path.display()
            );
            return Err(Error::io(what, error).with_hint(
                "Nothing is lost: the source keeps what is not confirmed. Make room in its file system, then use --resume.",
            ));
        }
        open.length += self.gathered.len() as u64;
        self.gathered.clear();
        // The memory of a very long row goes with it.
        self.gathered.shrink_to(4 * WRITE_BYTES);
        Ok(())
    }

    /// Forget the transaction under way: it comes again, whole.
    pub fn abort(&mut self) -> Result<()> {
        // What it described may be cut off with it.
        self.described.clear();
        let Some(open) = &mut self.open else {
            self.gathered.clear();
            return Ok(());
        };
        if open.boundary >= open.length {
            let kept = (open.boundary - open.length) as usize;
            self.gathered.truncate(kept);
            return self.write();
        }
        self.gathered.clear();
        let what = || format!("could not write file \"{}\"", open.path.display());
        open.file.set_len(open.boundary).with_context(what)?;
        open.length = open.boundary;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    const SEGMENTS: WalSegments = WalSegments {
        timeline: 1,
        size: 16 << 20,
    };

    fn commit(lsn: u64) -> LogicalMessage<'static> {
        LogicalMessage::Commit {
            xid: 7,
            lsn: Lsn(lsn),
            timestamp: Cow::Borrowed("2026-11-21 07:36:18+00"),
        }
    }

    fn write_transaction(writer: &mut SegmentWriter, lsn: u64) {
        writer.choose_file().unwrap();
        writer.add(&LogicalMessage::Begin { xid: 7 }).unwrap();
        writer.add(&commit(lsn)).unwrap();
        writer.write().unwrap();
    }

    #[test]
    fn files_are_named_after_the_position_before_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
        write_transaction(&mut writer, 0x150_0000);
        // Begun before the segment's end, so it is in the same file.
        write_transaction(&mut writer, 0x200_0010);
        write_transaction(&mut writer, 0x200_0020);
        let files = json_files(dir.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap()).collect();
        assert_eq!(
            names,
            ["000000010000000000000001", "000000010000000000000002"]
        );
        assert_eq!(last_position(&files[0]).unwrap(), Some(Lsn(0x200_0010)));
        assert_eq!(remove_applied(dir.path(), Lsn(0x200_000f)).unwrap(), 0);
        assert_eq!(remove_applied(dir.path(), Lsn(0x200_0010)).unwrap(), 1);
        assert_eq!(remove_applied(dir.path(), Lsn(u64::MAX)).unwrap(), 0);
    }

    /// Torn at every byte: what is complete stays, what is not is cut off.
    #[test]
    fn a_torn_file_goes_on_after_its_last_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
        write_transaction(&mut writer, 0x100_1000);
        let first = writer.file().unwrap().1;
        let header = std::fs::read(writer.file().unwrap().0).unwrap();
        let header = header.iter().position(|byte| *byte == b'\n').unwrap() as u64 + 1;
        write_transaction(&mut writer, 0x100_2000);
        let (path, whole) = writer
            .file()
            .map(|(path, length)| (path.to_owned(), length))
            .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=whole {
            std::fs::write(&path, &bytes[..length as usize]).unwrap();
            let mut writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
            let (kept, position) = match length {
                length if length == whole => (whole, 0x100_2000),
                length if length >= first => (first, 0x100_1000),
                length if length >= header => (header, 0x100_0028),
                // It tells again where it begins.
                _ => (header, 0x100_0028),
            };
            assert_eq!(writer.recorded(), Lsn(position), "{length}");
            assert_eq!(writer.file().unwrap().1, kept);
            write_transaction(&mut writer, 0x100_3000);
            assert_eq!(last_position(&path).unwrap(), Some(Lsn(0x100_3000)));
        }
    }

    /// What a crash of the machine leaves: zeros where the kernel had not written yet, and good lines behind.
    #[test]
    fn nothing_behind_a_hole_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
        write_transaction(&mut writer, 0x100_1000);
        let first = writer.boundary();
        write_transaction(&mut writer, 0x100_2000);
        let second = writer.boundary();
        write_transaction(&mut writer, 0x100_3000);
        let path = writer.file().unwrap().0.to_owned();
        let bytes = std::fs::read(&path).unwrap();
        for hole in first as usize..second as usize - 1 {
            let mut bytes = bytes.clone();
            bytes[hole..second as usize - 1].fill(0);
            std::fs::write(&path, &bytes).unwrap();
            let writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
            assert_eq!(writer.recorded(), Lsn(0x100_1000), "{hole}");
            assert_eq!(path.metadata().unwrap().len(), first);
        }
    }

    /// /dev/full takes nothing: the error names the file, and what could not be written is written in its place later.
    #[test]
    fn a_full_disk_is_named_and_leaves_no_half_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
        write_transaction(&mut writer, 0x100_1000);
        let path = writer.file().unwrap().0.to_owned();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let open = writer.open.as_mut().unwrap();
        let file = std::mem::replace(&mut open.file, Arc::new(full));
        writer.add(&LogicalMessage::Begin { xid: 7 }).unwrap();
        writer.add(&commit(0x100_2000)).unwrap();
        let error = writer.write().unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("Make room")));
        writer.open.as_mut().unwrap().file = file;
        writer.write().unwrap();
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 5, "{lines}");
        assert_eq!(last_position(&path).unwrap(), Some(Lsn(0x100_2000)));
    }

    #[test]
    fn a_transaction_that_does_not_end_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), SEGMENTS, Lsn(0x100_0028)).unwrap();
        write_transaction(&mut writer, 0x100_1000);
        let boundary = writer.boundary();
        for is_written in [false, true] {
            writer.add(&LogicalMessage::Begin { xid: 8 }).unwrap();
            if is_written {
                writer.write().unwrap();
            }
            writer.abort().unwrap();
            writer.write().unwrap();
            assert_eq!(writer.file().unwrap().1, boundary);
        }
        write_transaction(&mut writer, 0x100_2000);
        assert!(!writer.describe(1) && writer.describe(1));
    }
}
