//! The end of segment files that the target has durably passed. Which transaction was the last in them is noted first: a target
//! that comes back without it (a failover to a standby that was behind) has lost what nobody can send again, and must not go
//! on as if nothing was missing. Written by the follow parent and by `stream prune`; asked by apply whenever it connects.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::segment::{json_files, last_position};
use crate::error::{Error, Result, Side};
use crate::lsn::Lsn;
use crate::sys::durable::{Sync, remove_file};
use crate::workdir::done;

pub const REMOVED: &str = "removed.json";

/// How far the target had got, durably, when files were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Removed {
    commit_lsn: Lsn,
}

/// Remove the files, and the scripts beside them, that hold nothing after `applied`; never the newest, which may still
/// be written. `committed` is the last transaction that the target has flushed. Returns how many.
pub fn remove_applied(dir: &Path, applied: Lsn, committed: Lsn) -> Result<usize> {
    let mut files = json_files(dir)?;
    files.pop();
    let mut removed = 0;
    for json in files {
        if last_position(&json)?.is_none_or(|last| last > applied) {
            break;
        }
        if removed == 0 {
            let noted = Removed {
                commit_lsn: committed,
            };
            done::write(&dir.join(REMOVED), &noted, Sync::Now)?;
        }
        // The script first: without its JSON it would never be removed.
        for path in [json.with_extension("sql"), json] {
            remove_file(&path)?;
        }
        removed += 1;
    }
    Ok(removed)
}

/// That a target which has committed everything up to `progress` lacks nothing of what was removed.
pub fn check(dir: &Path, progress: Lsn) -> Result<()> {
    let noted: Option<Removed> = done::read(&dir.join(REMOVED))?;
    let Some(Removed { commit_lsn }) = noted.filter(|noted| progress < noted.commit_lsn) else {
        return Ok(());
    };
    Err(Error::on(
        Side::Target,
        format!(
            "the target has lost transactions that it had flushed: it is at {progress}, and was at {commit_lsn} when the \
             changes before that were removed"
        ),
    )
    .with_hint(
        "Was it replaced by a standby that was behind, or restored? Bring the server back that has them, or start over with \
         \"pgcopydb clone --follow --restart\".",
    ))
}

#[cfg(test)]
mod tests {
    use super::{check, remove_applied};
    use crate::lsn::Lsn;

    #[test]
    fn what_was_removed_must_stay_on_the_target() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), Lsn(0)).unwrap();
        for (name, lsn) in [(1, "0/10"), (2, "0/20"), (3, "0/30")] {
            let line = format!("{{\"action\":\"K\",\"lsn\":\"{lsn}\"}}\n");
            std::fs::write(dir.path().join(format!("{name:024}.json")), line).unwrap();
        }
        assert_eq!(remove_applied(dir.path(), Lsn(0x0f), Lsn(0x0e)).unwrap(), 0);
        check(dir.path(), Lsn(0)).unwrap();
        assert_eq!(remove_applied(dir.path(), Lsn(0x10), Lsn(0x0e)).unwrap(), 1);
        check(dir.path(), Lsn(0x0e)).unwrap();
        assert!(check(dir.path(), Lsn(0x0d)).is_err());
        // The newest stays.
        assert_eq!(remove_applied(dir.path(), Lsn(0x99), Lsn(0x2e)).unwrap(), 1);
        assert!(check(dir.path(), Lsn(0x0e)).is_err());
    }
}
