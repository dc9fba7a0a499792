//! What a run has to copy and what earlier runs have copied of it. Runs in the parent before the workers start. On a
//! resume it empties what cannot be proven to hold exactly the rows that done-files speak of.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::phases::Phase;
use super::{Clone, step};
use crate::catalog::split::{SplitMethod, SplitOptions, method, plan as plan_parts};
use crate::catalog::{Catalog, Table, Target, TargetKind, TargetTable, WorkItem, fetch_key_bounds};
use crate::copy::{self, CopyProgress, LargeObjectBatch};
use crate::error::{Context, Error, Result, Side};
use crate::ident::Oid;
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::sys::durable::Sync;
use crate::workdir::WorkDir;
use crate::workdir::done::{
    self, BlobsDone, ConstraintDone, IndexDone, Pieces, TableDone, VacuumDone,
};

/// What was cut into parts and batches under one snapshot. Sizes change while a run lives, so a resume under the same
/// snapshot must not cut anew: the parts that are done would not fit to the others.
#[derive(Default)]
pub struct Cut {
    /// `Snapshot::content`.
    pub snapshot: String,
    pub items: Vec<WorkItem>,
    pub batches: Vec<LargeObjectBatch>,
}

/// The parts of tables and the batches of large objects under this snapshot, as far as the command copies them.
pub fn cut(clone: &Clone<'_>, catalog: &Catalog, snapshot: &mut Snapshot) -> Result<Cut> {
    let (paths, spec) = (&clone.workdir.paths, clone.spec);
    let copies_large_objects = spec.phases.has(Phase::LargeObjects) && !spec.skip_large_objects;
    Ok(Cut {
        items: match spec.phases.has(Phase::TableData) {
            true => cut_once(&paths.cut(), snapshot, |snapshot| {
                cut_tables(clone, catalog, snapshot)
            })?,
            false => Vec::new(),
        },
        batches: match copies_large_objects {
            true => cut_once(&paths.batches(), snapshot, |snapshot| {
                copy::fetch_batches(snapshot.connection())
            })?,
            false => Vec::new(),
        },
        snapshot: snapshot.content().to_string(),
    })
}

fn cut_once<T: Serialize + DeserializeOwned>(
    path: &Path,
    snapshot: &mut Snapshot,
    cut: impl FnOnce(&mut Snapshot) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    if let Some(found) = done::read::<Pieces<T>>(path)?
        && found.snapshot == snapshot.content()
    {
        return Ok(found.pieces);
    }
    let pieces = Pieces {
        pieces: cut(snapshot)?,
        snapshot: snapshot.content().to_string(),
    };
    done::write(path, &pieces, Sync::Now)?;
    Ok(pieces.pieces)
}

fn cut_tables(
    clone: &Clone<'_>,
    catalog: &Catalog,
    snapshot: &mut Snapshot,
) -> Result<Vec<WorkItem>> {
    let spec = clone.spec;
    let options = SplitOptions {
        larger_than: spec.split.larger_than.unwrap_or(0),
        max_parts: spec.split.max_parts,
        skip_ctid: spec.split.skip_ctid,
        table_jobs: spec.table_jobs,
        source_version: catalog.server_version,
    };
    let by_key: Vec<_> = catalog
        .tables_to_copy()
        .filter(|table| method(table, &options) == SplitMethod::Key)
        .collect();
    let bounds = match by_key.is_empty() {
        true => HashMap::new(),
        false => fetch_key_bounds(snapshot.connection(), &by_key)?,
    };
    Ok(plan_parts(catalog.tables_to_copy(), &bounds, &options))
}

/// A power cut may have torn what was not synced yet. That is done again, so from here on a file that exists is whole.
/// Once a step is finished, its files were synced before, and nothing of it is done again: tables may be in use.
pub fn forget_torn(workdir: &WorkDir) -> Result<()> {
    let paths = &workdir.paths;
    for (directory, suffix, step) in [
        (paths.tables(), ".done", step::TABLES),
        (paths.blobs(), ".done", step::BLOBS),
        (paths.indexes(), ".done", step::CLONE),
        (paths.indexes(), ".constraint", step::CLONE),
        (paths.vacuum(), ".done", step::CLONE),
    ] {
        if !workdir.is_step_done(step)? {
            done::remove_torn(&directory, suffix)?;
        }
    }
    Ok(())
}

/// What earlier runs have done. Parts and batches count only under the snapshot they were cut for.
pub fn read_progress(clone: &Clone<'_>, catalog: &Catalog, cut: &Cut) -> Result<CopyProgress> {
    let paths = &clone.workdir.paths;
    let mut progress = CopyProgress::default();
    for (name, table) in done::read_directory::<TableDone>(&paths.tables(), ".done")? {
        match &table.part {
            None => {
                progress.tables.insert(table.oid);
            }
            Some(part) if table.snapshot == cut.snapshot => {
                progress.parts.insert((table.oid, part.number));
            }
            Some(_) => log::debug!("part {name} belongs to another snapshot"),
        }
    }
    // The last part of a table was announced, and then we died: nobody made the table complete.
    let mut counts: HashMap<Oid, u32> = HashMap::new();
    for item in &cut.items {
        if let Some(part) = &item.part {
            counts.insert(item.table, part.count);
        }
    }
    for (table, count) in counts {
        if !progress.tables.contains(&table) {
            clone.workdir.remove_table_done(table)?;
        }
        let is_whole = (1..=count).all(|part| progress.parts.contains(&(table, part)));
        if is_whole && !progress.tables.contains(&table) {
            clone.workdir.complete_parts(table, count, &cut.snapshot)?;
            progress.tables.insert(table);
        }
    }
    if clone.workdir.is_step_done(step::TABLES)? {
        progress.tables = catalog.tables_to_copy().map(|table| table.oid).collect();
    }
    let oids = |names: Vec<Oid>| names.into_iter().collect::<HashSet<Oid>>();
    let indexes = done::read_directory::<IndexDone>(&paths.indexes(), ".done")?;
    progress.indexes = oids(indexes.into_values().map(|done| done.oid).collect());
    let constraints = done::read_directory::<ConstraintDone>(&paths.indexes(), ".constraint")?;
    progress.constraints = oids(
        constraints
            .into_values()
            .map(|done| done.index_oid)
            .collect(),
    );
    let vacuumed = done::read_directory::<VacuumDone>(&paths.vacuum(), ".done")?;
    progress.vacuumed = oids(vacuumed.into_values().map(|done| done.oid).collect());
    let batches = done::read_directory::<BlobsDone>(&paths.blobs(), ".done")?;
    progress.batches = batches
        .into_values()
        .filter(|done| {
            cut.batches.get(done.batch as usize)
                == Some(&LargeObjectBatch {
                    first: done.first,
                    last: done.last,
                })
                && done.snapshot == cut.snapshot
        })
        .map(|done| done.batch)
        .collect();
    Ok(progress)
}

/// How long backends of a dead run get to be gone, after they were told to.
const BACKENDS_GONE: Duration = Duration::from_secs(10);

/// A COPY may have been committed without its done-file: then its rows are there and nobody knows. A table that one COPY
/// fills empties itself in the transaction of the next one. Every other incomplete table is emptied here, unless it holds
/// exactly the rows of its parts that count.
pub fn empty_unproven_tables(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    cut: &Cut,
    progress: &mut CopyProgress,
    target: &mut Connection,
) -> Result<()> {
    let mut counted: HashMap<Oid, u64> = HashMap::new();
    let mut on_disk: HashMap<Oid, Vec<u32>> = HashMap::new();
    for done in
        done::read_directory::<TableDone>(&clone.workdir.paths.tables(), ".done")?.into_values()
    {
        if let Some(part) = done.part {
            on_disk.entry(done.oid).or_default().push(part.number);
            if done.snapshot == cut.snapshot {
                *counted.entry(done.oid).or_default() += done.rows;
            }
        }
    }
    let mut incomplete: Vec<(&Table, bool)> = cut
        .items
        .iter()
        .filter(|item| !progress.tables.contains(&item.table))
        .filter_map(|item| Some((catalog.table(item.table)?, item.part.is_some())))
        .collect();
    incomplete.dedup_by_key(|(table, _)| table.oid);
    let mut seen = HashSet::new();
    for (table, is_split) in incomplete {
        let Some(there) = found.table(&table.schema, &table.name) else {
            continue;
        };
        let expected = counted.get(&table.oid).copied().unwrap_or(0);
        // An unlogged table is empty after a crash of the target, and its parts are lost.
        let may_differ = there.may_have_rows || expected > 0;
        if !seen.insert(table.oid) || !may_differ || empties_itself(table, there, is_split) {
            continue;
        }
        if is_split && expected > 0 && row_count(table, target)? == expected {
            continue;
        }
        empty(table, there, target)?;
        // Before the done-files go: they must not be believed of an empty table, nor forgotten of a full one.
        flush_commits(target)?;
        progress.parts.retain(|(oid, _)| *oid != table.oid);
        clone.workdir.remove_parts(
            table.oid,
            on_disk.get(&table.oid).map_or(&[], Vec::as_slice),
        )?;
    }
    Ok(())
}

/// Whether the COPY itself begins with TRUNCATE, or with the DELETE of an extension's configuration table.
fn empties_itself(table: &Table, there: &TargetTable, is_split: bool) -> bool {
    table.extension_config.is_some()
        || (!is_split && there.kind == TargetKind::Ordinary && there.can_truncate)
}

pub fn row_count(table: &Table, target: &mut Connection) -> Result<u64> {
    let name = table.qualified_name();
    target
        .query_one(&format!("SELECT count(*) FROM ONLY {name}"))
        .with_context(|| format!("could not count the rows of target table {name}"))?
        .parse(0)
}

fn empty(table: &Table, there: &TargetTable, target: &mut Connection) -> Result<()> {
    let name = table.qualified_name();
    // A partitioned table in the place of a plain one knows no ONLY.
    let only = if there.kind == TargetKind::Partitioned {
        ""
    } else {
        "ONLY "
    };
    let sql = match there.can_truncate {
        true => format!("TRUNCATE {only}{name}"),
        false => format!("DELETE FROM {only}{name}"),
    };
    log::info!("table {name} is copied again from its beginning");
    target
        .execute(&sql)
        .map(|_| ())
        .with_context(|| format!("could not empty target table {name}, which is copied again"))
}

/// A backend of the dead run could still commit a COPY after we have looked which tables have rows, or while we count them.
pub fn wait_for_old_backends(clone: &Clone<'_>, target: &mut Connection) -> Result<()> {
    let deadline = Instant::now() + BACKENDS_GONE;
    loop {
        let left: u64 = target.query_one(&clone.run.others_sql())?.parse(0)?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::on(
                Side::Target,
                format!(
                    "{left} connections of the run that is resumed are still at work on the target"
                ),
            )
            .with_hint("End them with pg_terminate_backend, then run again with --resume."));
        }
        clone.shutdown.sleep(Duration::from_millis(100))?;
    }
}
