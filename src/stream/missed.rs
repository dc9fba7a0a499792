//! Changes that met no row on the target, noted beside the files of changes for as long as the follow lasts: the target is
//! not what the source is, whoever asks and however often the run was resumed since. Written by the apply process, before
//! the commit that moves the position past such a change; read by whoever says how a run has ended.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lsn::Lsn;
use crate::sys::durable::Sync;
use crate::workdir::done;

pub const MISSED: &str = "missed.json";

/// What was committed before the last note, and what that one was about to commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    before: u64,
    last: u64,
    last_commit_lsn: Lsn,
}

impl Noted {
    /// What was noted and not committed came again, and is in `count` if it met no row once more.
    fn and(self, count: u64, commit_lsn: Lsn, progress: Lsn) -> Noted {
        let is_committed = self.last_commit_lsn <= progress;
        Noted {
            before: self.before + if is_committed { self.last } else { 0 },
            last: count,
            last_commit_lsn: commit_lsn,
        }
    }

    fn count(self) -> u64 {
        self.before + self.last
    }
}

/// So many changes of the target transaction that ends with `commit_lsn` met no row; `progress` is what the target had
/// committed before it.
pub fn note(dir: &Path, count: u64, commit_lsn: Lsn, progress: Lsn) -> Result<()> {
    let path = dir.join(MISSED);
    let known = done::read::<Noted>(&path)?;
    // That there were any must survive everything. How many there were is for the reader: it is not worth a flush for each
    // of them, and a file that a crash has torn still tells that there were some.
    let sync = match known {
        None => Sync::Now,
        Some(_) => Sync::Later,
    };
    let noted = known.unwrap_or_default().and(count, commit_lsn, progress);
    done::write(&path, &noted, sync)
}

/// How many there were; at least one where that is not known any more.
pub fn count(dir: &Path) -> Result<u64> {
    let path = dir.join(MISSED);
    Ok(match done::read::<Noted>(&path)? {
        Some(noted) => noted.count(),
        None => u64::from(path.exists()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_counted_once_and_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(count(dir).unwrap(), 0);
        note(dir, 2, Lsn(10), Lsn(5)).unwrap();
        assert_eq!(count(dir).unwrap(), 2);
        // It was killed before the commit: the same comes again, with more in one transaction.
        note(dir, 3, Lsn(12), Lsn(5)).unwrap();
        assert_eq!(count(dir).unwrap(), 3);
        note(dir, 1, Lsn(20), Lsn(12)).unwrap();
        assert_eq!(count(dir).unwrap(), 4);
        std::fs::write(dir.join(MISSED), "").unwrap();
        assert_eq!(count(dir).unwrap(), 1);
        note(dir, 2, Lsn(30), Lsn(20)).unwrap();
        assert_eq!(count(dir).unwrap(), 2);
    }
}
