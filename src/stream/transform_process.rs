//! The transform process: JSON segment files to script files while changes are only collected, or the pipe from receive
//! to the pipe of apply (and a script file beside it) in live replay. Talks to no server.
//!
//! Script files are derived: one that was not finished, or that belongs to a shorter JSON file, is made again. So nothing
//! here needs to be flushed to disk.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::last_line::last_line;
use super::left_out;
use super::message::LogicalMessage;
use super::receive::TransformWork;
use super::script::ScriptLine;
use super::segment;
use super::transform::Transform;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::sys::failpoint::failpoint;
use crate::sys::msgq::{MessageQueue, Received};
use crate::sys::pipe::{LineReader, Next, PipeWriter};
use crate::sys::signal::Shutdown;

/// How much is written at once.
const WRITE_BYTES: usize = 256 << 10;

#[derive(Debug, Clone)]
pub struct TransformSpec {
    /// Where the segment files are.
    pub dir: PathBuf,
    /// Also replay updates that change nothing.
    pub replay_no_op_updates: bool,
    /// Where the base copy notes the tables that it left out.
    pub left_out: PathBuf,
}

impl TransformSpec {
    fn transform(&self) -> Result<Transform> {
        let left_out = left_out::read(&self.left_out)?;
        Ok(Transform::new(self.replay_no_op_updates).leaving_out(left_out))
    }
}

/// Make the script of each JSON file: first those that are complete and have none yet, then whatever the queue names. A
/// `Stop` means that receive has ended: then the newest file too.
pub fn run_files(
    spec: &TransformSpec,
    queue: &MessageQueue<TransformWork>,
    shutdown: &Shutdown,
) -> Result<()> {
    make_all(spec, false, shutdown)?;
    loop {
        match queue.recv(shutdown)? {
            Received::Item(TransformWork::Segment(_)) => make_all(spec, false, shutdown)?,
            Received::Item(TransformWork::Stop) => return make_all(spec, true, shutdown),
            Received::Empty => {}
            Received::Closed => return Ok(()),
        }
    }
}

/// Make what is missing; the newest file only when nobody writes it any more.
pub fn make_all(spec: &TransformSpec, with_newest: bool, shutdown: &Shutdown) -> Result<()> {
    let mut files = segment::json_files(&spec.dir)?;
    if !with_newest {
        files.pop();
    }
    for json in files {
        // Gone since the directory was read: the target has passed it.
        let Some(length) = file_length(&json)? else {
            continue;
        };
        if covered_bytes(&script_of(&json))? != Some(length) {
            make(spec, &json, length, shutdown)?;
            failpoint("transform.after_file")?;
        }
    }
    Ok(())
}

/// The script beside a JSON file.
pub fn script_of(json: &Path) -> PathBuf {
    json.with_extension("sql")
}

/// Whether the script beside a JSON file has all that the JSON file has now; `None` when the JSON file is gone.
pub fn is_complete(json: &Path) -> Result<Option<bool>> {
    let covered = covered_bytes(&script_of(json))?;
    Ok(file_length(json)?.map(|length| covered == Some(length)))
}

/// `None` when the file is gone.
fn file_length(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(data) => Ok(Some(data.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(
            format!("could not inspect file \"{}\"", path.display()),
            error,
        )),
    }
}

/// How many bytes of JSON a finished script was made from; `None` when it is not there or not finished.
fn covered_bytes(script: &Path) -> Result<Option<u64>> {
    Ok(
        last_line(script)?.and_then(|line| match ScriptLine::parse(&line.bytes) {
            Ok(ScriptLine::Switch { json_bytes, .. }) => Some(json_bytes),
            _ => None,
        }),
    )
}

/// Make the script of the first `length` bytes of a JSON file, all or nothing; nothing when the parent has removed the JSON
/// file, which the target has passed then.
fn make(spec: &TransformSpec, json: &Path, length: u64, shutdown: &Shutdown) -> Result<()> {
    let what = || format!("could not read file \"{}\"", json.display());
    let script = script_of(json);
    let unfinished = json.with_extension("sql.tmp");
    let file = match File::open(json) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.with_context(what)?,
    };
    let mut out = ScriptFile::create(&unfinished)?;
    let mut transform = spec.transform()?;
    transform.begin_script();
    let mut lines = LineReader::new(file);
    let (mut seen, mut number) = (0, 0u64);
    while seen < length {
        let Next::Line(line) = lines.next(None, shutdown)? else {
            break;
        };
        seen += line.len() as u64 + 1;
        number += 1;
        LogicalMessage::parse_json_raw(line)
            .and_then(|message| transform.step(&message))
            .map_err(|error| in_line(error, json, number))?;
        if transform.output().len() >= WRITE_BYTES {
            out.write(transform.output())?;
            transform.clear_output();
            shutdown.check()?;
        }
    }
    // Receive was stopped in the middle of a transaction: it comes again, whole.
    transform.abort();
    transform.end_script(length);
    out.write(transform.output())?;
    failpoint("transform.before_rename")?;
    std::fs::rename(&unfinished, &script)
        .with_context(|| format!("could not rename file \"{}\"", unfinished.display()))?;
    if file_length(json)?.is_none() {
        // It was removed meanwhile, its script before it: this one would stay for ever.
        let _ = std::fs::remove_file(&script);
    }
    Ok(())
}

fn in_line(error: Error, json: &Path, number: u64) -> Error {
    error.context(format!("file \"{}\" line {number}", json.display()))
}

/// A script that is being written.
struct ScriptFile {
    path: PathBuf,
    file: File,
}

impl ScriptFile {
    fn create(path: &Path) -> Result<ScriptFile> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        ScriptFile::opened(path, file)
    }

    /// Go on behind what a finished script has, in place of its last line. `None` when it is gone: the target has passed
    /// what it had, and the parent has removed it.
    fn go_on(path: &Path) -> Result<Option<ScriptFile>> {
        let end = last_line(path)?.map_or(0, |line| line.start);
        let file = match OpenOptions::new().write(true).open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file,
        };
        let mut it = ScriptFile::opened(path, file)?;
        let what = || format!("could not write file \"{}\"", path.display());
        it.file.set_len(end).with_context(what)?;
        it.file.seek(SeekFrom::Start(end)).with_context(what)?;
        Ok(Some(it))
    }

    fn opened(path: &Path, file: std::io::Result<File>) -> Result<ScriptFile> {
        Ok(ScriptFile {
            path: path.to_path_buf(),
            file: file.with_context(|| format!("could not write file \"{}\"", path.display()))?,
        })
    }

    /// Write and forget what is in `bytes`.
    fn write(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.append(bytes)?;
        bytes.clear();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("could not write file \"{}\"", self.path.display()))
    }
}

/// Live replay: until receive closes its pipe, or apply its own.
pub fn run_live(
    spec: &TransformSpec,
    input: OwnedFd,
    output: OwnedFd,
    shutdown: &Shutdown,
) -> Result<()> {
    let mut live = Live {
        spec,
        transform: spec.transform()?,
        lines: LineReader::new(input),
        output: PipeWriter::new(output),
        script: None,
    };
    live.run(shutdown)
}

/// Messages from one descriptor to a script on another, without files. `false` when nobody reads the script.
pub fn run_stream(
    input: OwnedFd,
    output: OwnedFd,
    replay_no_op_updates: bool,
    shutdown: &Shutdown,
) -> Result<bool> {
    let mut transform = Transform::new(replay_no_op_updates);
    let (mut lines, mut output) = (LineReader::new(input), PipeWriter::new(output));
    transform.begin_script();
    let mut seen = 0;
    loop {
        let is_large = transform.output().len() >= WRITE_BYTES;
        if is_large || !lines.is_ready(shutdown)? {
            if !output.write_all(transform.output(), shutdown)? {
                return Ok(false);
            }
            transform.clear_output();
        }
        match lines.next(None, shutdown)? {
            Next::Line(line) => {
                seen += line.len() as u64 + 1;
                transform.step(&LogicalMessage::parse_json_raw(line)?)?;
            }
            Next::Nothing => {}
            Next::End => break,
        }
    }
    transform.abort();
    transform.end_script(seen);
    output.write_all(transform.output(), shutdown)
}

/// The JSON file that the lines on the pipe are from.
struct Origin {
    /// `None` when the target has passed all of it that there was.
    out: Option<ScriptFile>,
    /// Where the next line begins in it, and where the transaction under way does.
    offset: u64,
    boundary: u64,
}

struct Live<'a> {
    spec: &'a TransformSpec,
    transform: Transform,
    lines: LineReader<OwnedFd>,
    output: PipeWriter<OwnedFd>,
    script: Option<Origin>,
}

impl Live<'_> {
    fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        loop {
            // What is ready goes out before anything is waited for: latency is what live replay is for.
            let is_large = self.transform.output().len() >= WRITE_BYTES;
            if (is_large || !self.lines.is_ready(shutdown)?) && !self.pass_on(shutdown)? {
                return Ok(());
            }
            let line = match self.lines.next(None, shutdown)? {
                Next::Line(line) => line,
                Next::Nothing => continue,
                Next::End => break,
            };
            let length = line.len() as u64 + 1;
            match LogicalMessage::parse_json_raw(line)? {
                LogicalMessage::File { name, offset, lsn } => {
                    let json = self.spec.dir.join(name.as_ref()).with_extension("json");
                    self.begin_file(&json, offset, lsn, shutdown)?;
                }
                LogicalMessage::Abort => {
                    self.transform.abort();
                    if let Some(script) = &mut self.script {
                        script.offset = script.boundary;
                    }
                }
                message => {
                    self.transform.step(&message)?;
                    let is_boundary = !self.transform.is_in_transaction();
                    let script = self.script.as_mut().ok_or_else(without_file)?;
                    script.offset += length;
                    if is_boundary {
                        script.boundary = script.offset;
                    }
                }
            }
        }
        self.transform.abort();
        self.end_file();
        self.pass_on(shutdown)?;
        Ok(())
    }

    /// Write what is ready to the file and to the pipe; `false` when apply has gone, who then says why.
    fn pass_on(&mut self, shutdown: &Shutdown) -> Result<bool> {
        let ready = self.transform.output();
        if ready.is_empty() {
            return Ok(true);
        }
        if let Some(out) = self.script.as_mut().and_then(|script| script.out.as_mut()) {
            out.append(ready)?;
        }
        let is_read = self.output.write_all(ready, shutdown)?;
        self.transform.clear_output();
        Ok(is_read)
    }

    fn end_file(&mut self) {
        if let Some(script) = &self.script {
            self.transform.end_script(script.boundary);
        }
    }

    fn begin_file(
        &mut self,
        json: &Path,
        offset: u64,
        after: Lsn,
        shutdown: &Shutdown,
    ) -> Result<()> {
        self.end_file();
        self.pass_on(shutdown)?;
        let path = script_of(json);
        let out = if offset == 0 {
            Some(ScriptFile::create(&path)?)
        } else {
            if covered_bytes(&path)? != Some(offset) {
                make(self.spec, json, offset, shutdown)?;
            }
            ScriptFile::go_on(&path)?
        };
        self.script = Some(Origin {
            out,
            offset,
            boundary: offset,
        });
        self.transform.begin_script();
        if offset > 0 {
            self.transform.begin_after(after);
        }
        Ok(())
    }
}

fn without_file() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "the changes on the pipe do not say which file they are from",
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// The parent removes the file before the one that receive has begun, just when live replay begins in it.
    #[test]
    fn a_script_that_was_passed_and_removed_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let spec = TransformSpec {
            dir: dir.path().to_path_buf(),
            replay_no_op_updates: false,
            left_out: std::path::PathBuf::new(),
        };
        let mut lines = Vec::new();
        for message in [
            LogicalMessage::File {
                name: "000000010000000000000004".into(),
                offset: 4711,
                lsn: Lsn(0x400),
            },
            LogicalMessage::Keepalive { lsn: Lsn(0x500) },
        ] {
            message.write_json(&mut lines);
        }
        let (input, to) = nix::unistd::pipe().unwrap();
        let (from, output) = nix::unistd::pipe().unwrap();
        File::from(to).write_all(&lines).unwrap();
        run_live(&spec, input, output, &Shutdown::deaf()).unwrap();
        let mut script = String::new();
        File::from(from).read_to_string(&mut script).unwrap();
        assert!(script.contains("AFTER; -- {\"lsn\":\"0/400\"}"), "{script}");
        assert!(
            script.contains("KEEPALIVE; -- {\"lsn\":\"0/500\"}"),
            "{script}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
