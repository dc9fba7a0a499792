//! The note of the snapshot that somebody exported for a work directory: its id and, when it came with a replication slot,
//! where the changes of that slot begin. Written by the process that holds the snapshot, read by whoever copies in it.

use serde::{Deserialize, Serialize};

use super::WorkDir;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::sys::durable::{Sync, remove_file, write_atomic};

/// Beside the id of a snapshot that came with a slot.
#[derive(Serialize, Deserialize)]
struct SlotNote {
    lsn: Lsn,
    slot: String,
}

impl WorkDir {
    /// The id of the snapshot that some process exported for this directory.
    pub fn noted_snapshot(&self) -> Result<Option<String>> {
        match std::fs::read_to_string(self.paths.snapshot()) {
            Ok(text) => Ok(text
                .lines()
                .next()
                .map(str::trim)
                .filter(|id| !id.is_empty())
                .map(str::to_string)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(
                format!(
                    "could not read file \"{}\"",
                    self.paths.snapshot().display()
                ),
                error,
            )),
        }
    }

    /// The snapshot that was exported together with a slot, and where its changes begin: the second line of the note.
    pub fn noted_slot_snapshot(&self) -> Result<Option<(String, Lsn)>> {
        let Some(id) = self.noted_snapshot()? else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(self.paths.snapshot()).unwrap_or_default();
        let lsn = text
            .lines()
            .nth(1)
            .and_then(|line| serde_json::from_str::<SlotNote>(line).ok());
        Ok(lsn.map(|note| (id, note.lsn)))
    }

    pub fn note_slot_snapshot(&self, id: &str, lsn: Lsn, slot: &str) -> Result<()> {
        let note = SlotNote {
            lsn,
            slot: slot.to_owned(),
        };
        let note = serde_json::to_string(&note)
            .map_err(|error| Error::internal(format!("could not encode a snapshot: {error}")))?;
        write_atomic(
            &self.paths.snapshot(),
            format!("{id}\n{note}\n").as_bytes(),
            Sync::Now,
        )
    }

    pub fn note_snapshot(&self, id: &str) -> Result<()> {
        write_atomic(
            &self.paths.snapshot(),
            format!("{id}\n").as_bytes(),
            Sync::Now,
        )
    }

    pub fn forget_snapshot(&self) -> Result<()> {
        remove_file(&self.paths.snapshot())
    }
}
