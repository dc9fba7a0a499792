//! Done-files: what was done, how much, how long it took. Written by whoever did it, after the target has flushed it;
//! read by a later run and by `list progress`. A file that is torn, empty or of another version counts as missing:
//! losing one costs repeated work and nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result, Side};
use crate::ident::Oid;
use crate::lsn::Lsn;
use crate::sys::durable::{Sync, write_atomic};

/// The layout of all done-files; raised when one of the types below changes its meaning.
const VERSION: u32 = 1;

/// The first line of a done-file; the second is the data that the checksum covers.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    /// SHA-256 of the second line, its first 16 hexadecimal digits: against torn files, not against people.
    checksum: String,
}

/// A table, or one part of it, was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDone {
    /// The source's.
    pub oid: Oid,
    pub name: String,
    pub rows: u64,
    /// COPY data that passed through.
    pub bytes: u64,
    pub duration_ms: u64,
    /// Since 1970.
    pub finished_at_ms: u64,
    pub worker_pid: u32,
    pub snapshot: String,
    /// What committed on the source at or before it is in the rows, and nothing else is. Known of the snapshot of a slot only.
    pub snapshot_lsn: Option<Lsn>,
    pub part: Option<PartDone>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartDone {
    /// From 1.
    pub number: u32,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDone {
    pub oid: Oid,
    pub name: String,
    pub table_oid: Oid,
    pub duration_ms: u64,
    pub finished_at_ms: u64,
}

/// A constraint was attached to its index, or CLUSTER ON, REPLICA IDENTITY and the like were said of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstraintDone {
    pub index_oid: Oid,
    pub name: String,
    pub duration_ms: u64,
    pub finished_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VacuumDone {
    pub oid: Oid,
    pub duration_ms: u64,
    pub finished_at_ms: u64,
}

/// A batch of large objects was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobsDone {
    pub batch: u32,
    /// `Snapshot::content`.
    pub snapshot: String,
    pub first: Oid,
    pub last: Oid,
    pub count: u64,
    pub bytes: u64,
    pub duration_ms: u64,
    pub finished_at_ms: u64,
}

/// How the work of one kind was cut: tables and large objects may be cut by different commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces<T> {
    /// `Snapshot::content`.
    pub snapshot: String,
    pub pieces: Vec<T>,
}

/// A step of the whole run was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    pub step: String,
    pub duration_ms: u64,
    pub finished_at_ms: u64,
}

/// An object that could not be made in this run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// "table", "index", "constraint", ...
    pub kind: String,
    pub name: String,
    pub side: Option<Side>,
    pub sqlstate: Option<String>,
    /// What was being done and why it failed, in one line.
    pub message: String,
}

impl Failure {
    pub fn new(kind: &str, name: &str, error: &Error) -> Failure {
        Failure {
            kind: kind.to_string(),
            name: name.to_string(),
            side: error.side(),
            sqlstate: error.sqlstate().map(str::to_string),
            message: error.to_string(),
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Write a done-file.
pub fn write<T: Serialize>(path: &Path, data: &T, sync: Sync) -> Result<()> {
    write_atomic(path, &encode(data)?, sync)
}

pub fn encode<T: Serialize>(data: &T) -> Result<Vec<u8>> {
    let internal = |error: serde_json::Error| {
        Error::internal(format!("could not encode a done-file: {error}"))
    };
    let body = serde_json::to_vec(data).map_err(internal)?;
    let header = Header {
        version: VERSION,
        checksum: checksum(&body),
    };
    let mut bytes = serde_json::to_vec(&header).map_err(internal)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    Ok(bytes)
}

/// Read a done-file; `None` when it is missing or not whole.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::io(
                format!("could not read file \"{}\"", path.display()),
                error,
            ));
        }
    };
    let data = decode(&bytes);
    if data.is_none() {
        tell_torn(path);
    }
    Ok(data)
}

fn tell_torn(path: &Path) {
    log::warn!(
        "file \"{}\" is not whole: what it speaks of is done again",
        path.display()
    );
}

/// The data of a done-file; `None` when it is not whole.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(body(bytes)?).ok()
}

/// What the checksum covers, if it is right.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    let body = bytes[end + 1..].strip_suffix(b"\n")?;
    (header.version == VERSION && header.checksum == checksum(body)).then_some(body)
}

fn checksum(body: &[u8]) -> String {
    openssl::sha::sha256(body)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Remove the files of a directory whose name ends in `suffix` and that are not whole: most of the program asks only
/// whether a done-file exists.
pub fn remove_torn(directory: &Path, suffix: &str) -> Result<()> {
    let what = || format!("could not read directory \"{}\"", directory.display());
    for entry in std::fs::read_dir(directory).with_context(what)? {
        let path = entry.with_context(what)?.path();
        let is_meant = path.to_str().is_some_and(|path| path.ends_with(suffix));
        if !is_meant {
            continue;
        }
        let failed = |verb: &str| format!("could not {verb} file \"{}\"", path.display());
        let bytes = std::fs::read(&path).with_context(|| failed("read"))?;
        if body(&bytes).is_none() {
            tell_torn(&path);
            std::fs::remove_file(&path).with_context(|| failed("remove"))?;
        }
    }
    Ok(())
}

/// Read all files of a directory whose name ends in `suffix`, by the rest of the name. A missing directory is empty.
pub fn read_directory<T: DeserializeOwned>(
    directory: &Path,
    suffix: &str,
) -> Result<HashMap<String, T>> {
    let what = || format!("could not read directory \"{}\"", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(Error::io(what(), error)),
    };
    let mut found = HashMap::new();
    for entry in entries {
        let entry = entry.with_context(what)?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(suffix)) else {
            continue;
        };
        if let Some(data) = read(&entry.path())? {
            found.insert(stem.to_string(), data);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{StepDone, decode, encode, read, read_directory, write};
    use crate::sys::durable::Sync;
    use proptest::prelude::*;

    fn step() -> StepDone {
        StepDone {
            step: "tables".into(),
            duration_ms: 12,
            finished_at_ms: 34,
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables.done");
        assert_eq!(read::<StepDone>(&path).unwrap(), None);
        write(&path, &step(), Sync::Now).unwrap();
        assert_eq!(read(&path).unwrap(), Some(step()));
        let all = read_directory::<StepDone>(dir.path(), ".done").unwrap();
        assert_eq!(all.get("tables"), Some(&step()));
    }

    #[test]
    fn every_torn_or_changed_file_counts_as_missing() {
        let whole = encode(&step()).unwrap();
        for length in 0..whole.len() {
            assert_eq!(
                decode::<StepDone>(&whole[..length]),
                None,
                "cut at {length}"
            );
        }
        let text = String::from_utf8(whole).unwrap();
        assert_eq!(
            decode::<StepDone>(text.replace("12", "13").as_bytes()),
            None
        );
        assert_eq!(
            decode::<StepDone>(text.replace("\"version\":1", "\"version\":2").as_bytes()),
            None
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode::<StepDone>(&bytes).is_none());
        }
    }
}
