//! How old the oldest transaction is that was received and is not on the target: read from the segment files, as the server
//! measures a lag in seconds for pgoutput only. Runs in the process of `list progress`, beside a follow that writes and
//! removes these files.

use std::fs::File;
use std::path::Path;

use super::message::LogicalMessage;
use super::segment::{json_files, last_position};
use crate::error::{Context, Result};
use crate::lsn::Lsn;
use crate::sys::pipe::{LineReader, Next};
use crate::sys::signal::Shutdown;

/// A commit on the source, as a timestamptz in UTC.
pub type CommittedAt = String;

/// What the files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// The first of what is not replayed.
    Since(CommittedAt),
    /// All of it is replayed. The last that is still there, if any is.
    Nothing(Option<CommittedAt>),
}

/// What waits in the files of `dir` when everything up to `replayed` is on the target. Reads, of the file in which that
/// position is, what comes before it; no more than a follow writes into one file.
pub fn waiting(dir: &Path, replayed: Lsn, shutdown: &Shutdown) -> Result<Waiting> {
    let files = match dir.is_dir() {
        true => json_files(dir)?,
        false => Vec::new(),
    };
    let mut last = None;
    for (at, json) in files.iter().enumerate() {
        // The newest is read in any case: its last line is not always a position, and it tells what came last.
        let is_newest = at + 1 == files.len();
        if !is_newest && last_position(json)?.is_some_and(|end| end <= replayed) {
            continue;
        }
        match first_after(json, replayed, shutdown)? {
            Waiting::Nothing(found) => last = found.or(last),
            since => return Ok(since),
        }
    }
    Ok(Waiting::Nothing(last))
}

fn first_after(json: &Path, replayed: Lsn, shutdown: &Shutdown) -> Result<Waiting> {
    let file = match File::open(json) {
        Ok(file) => file,
        // The target has passed it since it was listed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Waiting::Nothing(None));
        }
        failed => failed.with_context(|| format!("could not read file \"{}\"", json.display()))?,
    };
    let mut lines = LineReader::new(file);
    let mut last = None;
    while let Next::Line(line) = lines.next(None, shutdown)? {
        if !line.starts_with(b"{\"action\":\"C\"") {
            continue;
        }
        if let Ok(LogicalMessage::Commit { lsn, timestamp, .. }) = LogicalMessage::parse_json(line)
        {
            match lsn > replayed {
                true => return Ok(Waiting::Since(timestamp.into_owned())),
                false => last = Some(timestamp.into_owned()),
            }
        }
    }
    Ok(Waiting::Nothing(last))
}

#[cfg(test)]
mod tests {
    use super::{Waiting, waiting};
    use crate::lsn::Lsn;
    use crate::sys::signal::Shutdown;

    #[test]
    fn the_first_commit_that_is_not_replayed_counts() {
        let dir = tempfile::tempdir().unwrap();
        let look = |dir: &std::path::Path, lsn| waiting(dir, Lsn(lsn), &Shutdown::deaf()).unwrap();
        assert_eq!(look(dir.path(), 5), Waiting::Nothing(None));
        assert_eq!(look(&dir.path().join("none"), 5), Waiting::Nothing(None));
        let commit = |xid: u32, lsn: &str| {
            format!(
                "{{\"action\":\"B\",\"xid\":{xid}}}\n\
                 {{\"action\":\"C\",\"xid\":{xid},\"lsn\":\"{lsn}\",\"timestamp\":\"2026-11-21 07:00:0{xid}+00\"}}\n"
            )
        };
        let first = [commit(1, "0/10"), commit(2, "0/20")].concat();
        // Of the last one the commit is not there yet.
        let second = [
            "{\"action\":\"S\",\"lsn\":\"0/20\"}\n".to_owned(),
            commit(3, "0/30"),
            "{\"action\":\"B\",\"xid\":4}\n{\"action\":\"C\",\"xi".to_owned(),
        ]
        .concat();
        std::fs::write(dir.path().join("000000010000000000000001.json"), first).unwrap();
        std::fs::write(dir.path().join("000000010000000000000002.json"), second).unwrap();
        let since = |second: u32| Waiting::Since(format!("2026-11-21 07:00:0{second}+00"));
        assert_eq!(look(dir.path(), 0x05), since(1));
        assert_eq!(look(dir.path(), 0x10), since(2));
        assert_eq!(look(dir.path(), 0x20), since(3));
        let all = Waiting::Nothing(Some("2026-11-21 07:00:03+00".to_owned()));
        assert_eq!(look(dir.path(), 0x30), all);
    }
}
