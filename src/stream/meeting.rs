//! The meeting point of a copy that was read in several snapshots. When `clone --follow` is resumed after its snapshot is
//! lost, the tables that were left are copied as of a later position than the others. From the latest of these positions
//! on all tables stand together: the target is the source as it was there, once every change up to it was applied.
//!
//! Three files beside the changes, each with one writer. `meeting.json` (the clone parent): where the point is; as long as
//! it is there nothing after the point may be applied. `tables-as-of.json` (the clone parent, once all rows are read): as of
//! which position each table was copied. `met.json` (the follow parent): everything up to a point is on the target, and
//! flushed there. All are on disk before anybody acts on them; the clone removes them when the rest of it is done.

use std::collections::HashMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ident::QualifiedName;
use crate::lsn::Lsn;
use crate::sys::durable::Sync;
use crate::workdir::done;

pub const MEETING: &str = "meeting.json";
pub const TABLES: &str = "tables-as-of.json";
pub const MET: &str = "met.json";

/// A table as it was called when its changes were made, and the position as of which the target has it: exactly what
/// committed at or before it is in its rows.
pub type TableAsOf = (QualifiedName, Lsn);

/// What a resumed copy notes when it takes another snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    /// The latest position as of which anything was copied.
    pub at: Lsn,
    /// Tables that were not copied before they were dropped or renamed on the source: nothing is left of their changes up to
    /// there.
    pub former: Vec<TableAsOf>,
}

/// The rule: a change is in the rows of its table already iff its transaction committed at or before the position that the
/// table was copied as of. Both are ends of records, so that a commit there is in the rows.
pub fn is_in_copy(commit_lsn: Lsn, as_of: Lsn) -> bool {
    commit_lsn <= as_of
}

pub fn noted(dir: &Path) -> Result<Option<Meeting>> {
    read(&dir.join(MEETING))
}

pub fn note(dir: &Path, meeting: &Meeting) -> Result<()> {
    done::write(&dir.join(MEETING), meeting, Sync::Now)
}

pub fn note_tables(dir: &Path, tables: &[TableAsOf]) -> Result<()> {
    done::write(&dir.join(TABLES), &tables, Sync::Now)
}

/// The point up to which everything is on the target, if it was met.
pub fn met(dir: &Path) -> Result<Option<Lsn>> {
    read(&dir.join(MET))
}

pub fn note_met(dir: &Path, at: Lsn) -> Result<()> {
    done::write(&dir.join(MET), &at, Sync::Now)
}

/// Whether there is no point that is still to be met.
pub fn is_over(dir: &Path) -> Result<bool> {
    Ok(match noted(dir)? {
        None => true,
        Some(meeting) => met(dir)?.is_some_and(|met| met >= meeting.at),
    })
}

/// All tables stand together from here on. What holds apply back goes first: the others mean nothing without it.
pub fn forget(dir: &Path) -> Result<()> {
    for name in [MEETING, TABLES, MET] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let what = format!("could not remove file \"{}\"", path.display());
                return Err(Error::io(what, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file that is there and cannot be read must not count as missing: changes would be applied twice.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match done::read(path)? {
        None if path.exists() => Err(Error::state(format!(
            "file \"{}\" is not whole: as of which position tables were copied is not known",
            path.display()
        ))
        .with_hint("Start over with \"pgcopydb clone --follow --restart\".")),
        found => Ok(found),
    }
}

/// As of which position each table was copied, for whoever applies changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablesAsOf {
    tables: HashMap<QualifiedName, Lsn>,
    latest: Lsn,
}

impl TablesAsOf {
    /// One name may have been that of several tables, one after the other: the last one's position holds.
    pub fn new(all: impl IntoIterator<Item = TableAsOf>) -> TablesAsOf {
        let mut of = TablesAsOf::default();
        for (name, lsn) in all {
            of.latest = of.latest.max(lsn);
            let known = of.tables.entry(name).or_default();
            *known = (*known).max(lsn);
        }
        of
    }

    /// `None` when a copy was read in one snapshot, which is nearly always: then no change is in it already.
    pub fn read(dir: &Path) -> Result<Option<TablesAsOf>> {
        let tables: Option<Vec<TableAsOf>> = read(&dir.join(TABLES))?;
        match tables {
            Some(tables) => Ok(Some(TablesAsOf::new(tables))),
            None if noted(dir)?.is_some() => Err(Error::state(
                "cannot apply changes: the copy of the tables is not complete",
            )
            .with_hint("Run \"pgcopydb clone --follow --resume\" first.")),
            None => Ok(None),
        }
    }

    /// `None` for a table all of whose changes are to be applied.
    pub fn get(&self, name: &QualifiedName) -> Option<Lsn> {
        self.tables.get(name).copied()
    }

    /// Everything up to the latest of the positions is behind us: nothing that comes is in the copy.
    pub fn latest(&self) -> Lsn {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: &str) -> QualifiedName {
        QualifiedName::new("public", table)
    }

    #[test]
    fn a_change_is_in_the_copy_up_to_its_position_and_no_further() {
        let as_of = Lsn(100);
        assert!(is_in_copy(Lsn(99), as_of));
        assert!(is_in_copy(Lsn(100), as_of));
        assert!(!is_in_copy(Lsn(101), as_of));
    }

    #[test]
    fn the_last_table_of_a_name_counts() {
        let tables = TablesAsOf::new([
            (name("a"), Lsn(7)),
            (name("b"), Lsn(5)),
            (name("a"), Lsn(3)),
        ]);
        assert_eq!(tables.get(&name("a")), Some(Lsn(7)));
        assert_eq!(tables.get(&name("b")), Some(Lsn(5)));
        assert_eq!(tables.get(&name("c")), None);
        assert_eq!(tables.latest(), Lsn(7));
        assert_eq!(TablesAsOf::new([]).latest(), Lsn::INVALID);
    }

    #[test]
    fn what_is_noted_is_read_and_what_is_torn_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(noted(dir).unwrap(), None);
        assert_eq!(TablesAsOf::read(dir).unwrap(), None);
        assert!(is_over(dir).unwrap());
        let meeting = Meeting {
            at: Lsn(9),
            former: vec![(name("gone"), Lsn(9))],
        };
        note(dir, &meeting).unwrap();
        assert_eq!(noted(dir).unwrap(), Some(meeting));
        // Before all rows are read nobody may apply anything.
        assert!(TablesAsOf::read(dir).is_err());
        note_tables(dir, &[(name("a"), Lsn(9))]).unwrap();
        let tables = TablesAsOf::read(dir).unwrap().unwrap();
        assert_eq!(tables.get(&name("a")), Some(Lsn(9)));
        note_met(dir, Lsn(8)).unwrap();
        assert!(!is_over(dir).unwrap());
        note_met(dir, Lsn(9)).unwrap();
        assert!(is_over(dir).unwrap());
        std::fs::write(dir.join(TABLES), "{}").unwrap();
        assert!(TablesAsOf::read(dir).is_err());
        forget(dir).unwrap();
        forget(dir).unwrap();
        assert_eq!(TablesAsOf::read(dir).unwrap(), None);
    }
}
