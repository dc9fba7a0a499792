//! A copy that changes follow, resumed after its snapshot is lost: what is left is read in the snapshot of a temporary slot,
//! whose position is known exactly, and apply skips what the tables have already (see `stream::meeting`). Runs in the
//! parent.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Clone, step};
use crate::catalog::{Catalog, TableKind};
use crate::error::{Context, Error, Result};
use crate::ident::{Oid, QualifiedName};
use crate::lsn::Lsn;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sentinel::Sentinel;
use crate::snapshot::Snapshot;
use crate::stream::meeting::{self, Meeting, TableAsOf};
use crate::stream::setup::{self, SetupSpec};
use crate::stream::{preconditions, slot};
use crate::sys::failpoint::failpoint;
use crate::workdir::done::{self, TableDone};
use crate::workdir::paths::Paths;

/// A snapshot of the source at a position that is known exactly: that of a slot, which goes as soon as the snapshot stands on
/// its own. The slot of the follow is there already.
pub fn new_snapshot(clone: &Clone<'_>, follow: &SetupSpec) -> Result<Snapshot> {
    let (info, process) = (clone.source()?, clone.run.of("clone"));
    let mut source = open_source(info, &process, clone.shutdown)?;
    preconditions::check_for_snapshot(&mut source)?;
    // Of this process: that of a run that was killed, or of another database, may be there for a moment.
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!("pgcopydb_resume_{}_{number}", std::process::id());
    let new = slot::create_temporary(info, &process, &name, follow.plugin, clone.shutdown)?;
    let at = new.consistent_point;
    failpoint("clone.resume_slot")?;
    let snapshot = Snapshot::of_slot(
        info,
        &new.snapshot,
        at,
        Some(new.exporter),
        &process,
        clone.shutdown,
    )?
    .on_its_own()?;
    log::info!(
        "the snapshot that came with replication slot \"{}\" is gone: what is left is copied as of {at}, in snapshot {}",
        follow.slot_name,
        snapshot.id()
    );
    warn_of_end(source, follow, at)?;
    if !clone.workdir.is_step_done(step::TABLES)? {
        let former = meeting::noted(&follow.dir)?.unwrap_or_default().former;
        meeting::note(&follow.dir, &Meeting { at, former })?;
    }
    failpoint("clone.resume_noted")?;
    Ok(snapshot)
}

/// An end position that was set before can be moved while the copy runs.
fn warn_of_end(source: Connection, follow: &SetupSpec, at: Lsn) -> Result<()> {
    let row = Sentinel::open(source, &follow.dir)?.get()?;
    if let Some(endpos) = row.wishes().endpos.filter(|endpos| *endpos < at) {
        log::warn!(
            "the end position {endpos} lies before {at}, where the target will be consistent: set a later one with \
             \"pgcopydb stream sentinel set endpos\" before the copy ends"
        );
    }
    Ok(())
}

/// Tables of the catalog before this one that are not copied and not there any more under their names: their changes up to
/// the new snapshot concern nobody.
pub fn note_former(clone: &Clone<'_>, before: &Catalog, now: &Catalog) -> Result<()> {
    let Some(follow) = &clone.spec.follow else {
        return Ok(());
    };
    let Some(mut meeting) = meeting::noted(&follow.dir)? else {
        return Ok(());
    };
    let paths = &clone.workdir.paths;
    let left = before
        .tables_to_copy()
        .filter(|table| !paths.table_done(table.oid).exists())
        .map(|table| table.qualified_name());
    let there: HashSet<QualifiedName> = names(now).collect();
    let gone: Vec<TableAsOf> = left
        .filter(|name| !there.contains(name))
        .map(|name| (name, meeting.at))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    for (name, _) in &gone {
        log::warn!(
            "table {name} was dropped or renamed on the source before it was copied: it stays empty on the target"
        );
    }
    meeting.former.extend(gone);
    meeting::note(&follow.dir, &meeting)
}

fn names(catalog: &Catalog) -> impl Iterator<Item = QualifiedName> {
    catalog.tables.iter().map(|table| table.qualified_name())
}

/// All rows are read: note for apply as of which position each table was, before that step counts as done.
pub fn note_tables(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    let Some(follow) = &clone.spec.follow else {
        return Ok(());
    };
    let (Some(meeting), Some(set_up)) = (meeting::noted(&follow.dir)?, setup::noted(&follow.dir)?)
    else {
        return Ok(());
    };
    if clone.workdir.is_step_done(step::TABLES)? {
        // Noted before, with done-files that may be gone by now.
        return Ok(());
    }
    let done = done::read_directory::<TableDone>(&clone.workdir.paths.tables(), ".done")?;
    let done = done.into_values().filter(|table| table.part.is_none());
    let as_of: HashMap<Oid, Option<Lsn>> =
        done.map(|table| (table.oid, table.snapshot_lsn)).collect();
    let mut tables = later_tables(catalog, &as_of, set_up.startpos);
    let Some(at) = tables.iter().map(|(_, lsn)| *lsn).max() else {
        // All of them were complete before.
        return meeting::forget(&follow.dir);
    };
    // These have no rows of their own; a TRUNCATE lists them beside their partitions, which are looked at one by one.
    let parents = catalog.tables.iter();
    let parents = parents.filter(|table| table.kind == TableKind::Partitioned);
    tables.extend(parents.map(|table| (table.qualified_name(), at)));
    let former: Vec<TableAsOf> = meeting.former.clone();
    tables.extend(former.iter().map(|(name, lsn)| (name.clone(), *lsn)));
    meeting::note_tables(&follow.dir, &tables)?;
    meeting::note(&follow.dir, &Meeting { at, former })?;
    failpoint("clone.noted_tables")
}

/// Tables that were copied as of a position after that of the slot. Without a position of its own a table was copied in the
/// slot's own snapshot.
fn later_tables(
    catalog: &Catalog,
    as_of: &HashMap<Oid, Option<Lsn>>,
    startpos: Lsn,
) -> Vec<TableAsOf> {
    let later = |oid: &Oid| {
        as_of
            .get(oid)
            .copied()
            .flatten()
            .filter(|lsn| *lsn > startpos)
    };
    catalog
        .tables_to_copy()
        .filter_map(|table| Some((table.qualified_name(), later(&table.oid)?)))
        .collect()
}

/// Whether post-data has to wait until changes are applied up to where all tables meet. All of post-data does: foreign
/// keys and materialized views look at several tables at once, what else there is apply does not need, and entries of the
/// archive depend on each other in ways that only its order tells.
pub fn must_wait(clone: &Clone<'_>) -> Result<bool> {
    let Some(follow) = &clone.spec.follow else {
        return Ok(false);
    };
    if clone.workdir.is_step_done(step::RESTORE_POST)? || meeting::is_over(&follow.dir)? {
        return Ok(false);
    }
    if let Some(meeting) = meeting::noted(&follow.dir)? {
        log::info!(
            "tables were copied as of different positions: foreign keys, materialized views and the rest of post-data wait \
             until changes are applied up to {}, where all tables meet",
            meeting.at
        );
    }
    Ok(true)
}

/// Whether a clone in this directory that ended well has left post-data for later.
pub fn left_post_data(dir: &Path) -> Result<bool> {
    let path = Paths::new(dir).step_done(step::RESTORE_POST);
    path.try_exists()
        .map(|is_done| !is_done)
        .with_context(|| format!("could not inspect file \"{}\"", path.display()))
}

/// The slot is there and its snapshot is not, and nobody said to go on.
pub fn without_resume(slot_name: &str) -> Error {
    Error::state(format!(
        "cannot begin the copy: replication slot \"{slot_name}\" is there, and the snapshot that came with it is gone"
    ))
    .with_hint(
        "Use --resume to copy in a new snapshot, as changes that it holds are skipped then; or --restart to start over with a \
         new slot.",
    )
}
