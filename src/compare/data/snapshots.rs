//! The two snapshots that a comparison reads in. Held by the parent; workers know their names.

use std::path::Path;

use super::{NAME, exactly};
use crate::error::Result;
use crate::pg::conninfo::ConnInfo;
use crate::snapshot::Snapshot;
use crate::sys::signal::Shutdown;

pub struct Snapshots {
    pub source: Snapshot,
    pub target: Snapshot,
}

impl Snapshots {
    /// Of both servers as they are. They show the same only if nobody writes.
    pub fn now(source: &ConnInfo, target: &ConnInfo, shutdown: &Shutdown) -> Result<Snapshots> {
        Ok(Snapshots {
            source: Snapshot::export(source, NAME, shutdown)?,
            target: Snapshot::export(target, NAME, shutdown)?,
        })
    }

    /// At one point of the changes that a running follow applies.
    pub fn of_follow(
        source: &ConnInfo,
        target: &ConnInfo,
        dir: &Path,
        shutdown: &Shutdown,
    ) -> Result<Snapshots> {
        exactly::snapshots(source, target, dir, shutdown)
    }

    pub fn release(self) -> Result<()> {
        self.source.release()?;
        self.target.release()
    }
}
