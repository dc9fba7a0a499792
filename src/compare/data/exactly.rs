//! Snapshots of both sides at one point of the changes, while a follow runs on the same work directory. Runs in the
//! parent of the comparison, before it forks.
//!
//! First apply stands still, wherever it is. Then a temporary slot is made: its consistent point lies after everything that
//! was applied, and its snapshot shows exactly what committed up to there. Apply goes on to that point and stands still
//! again; now the target's snapshot is taken, and apply goes on for good. The source is never held up.

use std::path::Path;

use super::NAME;
use super::snapshots::Snapshots;
use crate::error::{Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::snapshot::Snapshot;
use crate::stream::pause::Asker;
use crate::stream::{setup, slot};
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;

pub fn snapshots(
    source: &ConnInfo,
    target: &ConnInfo,
    dir: &Path,
    shutdown: &Shutdown,
) -> Result<Snapshots> {
    let Some(set_up) = setup::noted(dir)? else {
        return Err(Error::state(format!(
            "cannot compare exactly: nothing was set up to follow in \"{}\"",
            dir.display()
        ))
        .with_hint(
            "Give the --dir of the follow that runs, or compare without --follow when nobody writes.",
        ));
    };
    let mut pause = Asker::begin(dir, shutdown)?;
    let name = format!("pgcopydb_compare_{}", std::process::id());
    let new = slot::create_temporary(source, NAME, &name, set_up.plugin, shutdown)?;
    // It may have taken longer than apply waits.
    pause.confirm()?;
    let point = new.consistent_point;
    pause.move_to(point, shutdown)?;
    failpoint("compare.paused")?;
    let ours = Snapshot::of_slot(
        source,
        &new.snapshot,
        point,
        Some(new.exporter),
        NAME,
        shutdown,
    )?
    .on_its_own()?;
    let theirs = Snapshot::export(target, NAME, shutdown)?;
    pause.confirm()?;
    drop(pause);
    log::info!("comparing both sides as of {point}; changes are applied again");
    Ok(Snapshots {
        source: ours,
        target: theirs,
    })
}
