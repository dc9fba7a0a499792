//! `stream prune`: removes the files of changes that the target has durably passed, such as those that `--keep-cdc-files`
//! kept. Runs in the process of that command, beside a follow or without one; it changes nothing on either server.

use std::path::Path;

use serde::Serialize;

use super::setup::noted;
use super::{origin, removed, segment};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{TargetSettings, flush_commits, open_target};
use crate::sys::signal::Shutdown;

/// What was done; also the form of `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Up to here the target has everything, flushed.
    pub applied: Lsn,
    /// Segments of changes that were removed, each a JSON file and its script, and those that are left.
    pub removed: usize,
    pub left: usize,
}

/// Ask the target how far it is, and remove what lies behind. The newest segment always stays: receive goes on from it. No
/// lock is taken: what the origin has passed is read by nobody any more.
pub fn prune(target: &ConnInfo, dir: &Path, shutdown: &Shutdown) -> Result<Pruned> {
    let Some(set_up) = noted(dir)? else {
        return Err(Error::state(format!(
            "there is no follow in directory \"{}\"",
            dir.display()
        ))
        .with_hint("Give the --dir of the follow."));
    };
    if set_up.target != target.identity() {
        return Err(Error::state(format!(
            "cannot prune: the follow in \"{}\" has another target, {}",
            dir.display(),
            set_up.target
        )));
    }
    let settings = TargetSettings::default();
    let mut target = open_target(target, "pgcopydb stream", &settings, shutdown)?;
    let applied = origin::progress(&mut target, &set_up.origin, set_up.keeper())?;
    // After the position was read: what was committed until then cannot be lost any more.
    flush_commits(&mut target)?;
    let removed = removed::remove_applied(dir, applied, applied)?;
    let left = segment::json_files(dir)?.len();
    log::info!(
        "the target has everything up to {applied}: removed {removed} segments of changes, {left} left"
    );
    Ok(Pruned {
        applied,
        removed,
        left,
    })
}
