//! The data section as clone runs it: what is done already, what is to be copied, the run of the workers, and the proof
//! that nothing is missing. Runs in the parent.

use std::time::Instant;

use super::progress::{Cut, cut, empty_unproven_tables, read_progress};
use super::{Clone, step};
use crate::catalog::{Catalog, Target, target};
use crate::copy::{self, CopyContext};
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::sys::failpoint::failpoint;
use crate::workdir::done::Failure;

/// Copy rows and large objects, build indexes, vacuum. Whether anything was copied.
pub fn copy(clone: &Clone<'_>, catalog: &Catalog, mut snapshot: Option<Snapshot>) -> Result<bool> {
    let (workdir, spec, started) = (clone.workdir, clone.spec, Instant::now());
    let mut target = clone.open_target("clone")?;
    let found = target::fetch(&mut target)?;
    check_no_rows(clone, catalog, &found, &mut target)?;
    workdir.begin_step(step::TABLES)?;
    let cut = match &mut snapshot {
        Some(snapshot) => cut(clone, catalog, snapshot)?,
        None => Cut {
            snapshot: String::new(),
            items: Vec::new(),
            batches: Vec::new(),
        },
    };
    let mut progress = read_progress(clone, catalog, &cut)?;
    if clone.is_resumed {
        empty_unproven_tables(clone, catalog, &found, &cut, &mut progress, &mut target)?;
    }
    drop(target);
    let plan = copy::plan(catalog, cut.items, cut.batches, progress, spec.skip_vacuum);
    let has_work = plan.reads_source();
    let (id, lsn) = snapshot.as_ref().map_or((String::new(), None), |held| {
        (held.id().to_string(), held.lsn())
    });
    let copy_spec = clone.copy_spec();
    let context = CopyContext {
        spec: &copy_spec,
        catalog,
        target: &found,
        workdir,
        snapshot: &id,
        snapshot_content: &cut.snapshot,
        snapshot_lsn: lsn,
        plan: &plan,
    };
    copy::run(&context, clone.shutdown, &mut || {
        // Noted before the snapshot goes: from here on a resume needs none.
        finish_reading(clone, catalog, started)?;
        if let Some(snapshot) = snapshot.take() {
            log::info!("everything is read: releasing snapshot {}", snapshot.id());
            if let Err(error) = snapshot.release() {
                log::info!("{error}; nothing needs it any more");
            }
        }
        Ok(())
    })?;
    workdir.sync_done_files()?;
    workdir.finish_step(step::INDEXES, started.elapsed())?;
    if !spec.skip_vacuum && clone.target_version >= 160_000 {
        let mut target = clone.open_target("clone")?;
        target
            .execute("VACUUM (ONLY_DATABASE_STATS)")
            .context("could not finish the vacuum of the target")?;
    }
    Ok(has_work)
}

/// A row that was there before this run is somebody's: nothing of ours may remove it. Once this was checked, every row
/// in these tables is ours.
fn check_no_rows(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    target: &mut Connection,
) -> Result<()> {
    if clone.workdir.is_step_begun(step::TABLES) {
        return Ok(());
    }
    let tables: Vec<&target::TargetTable> = catalog
        .tables_to_copy()
        .filter(|table| table.extension_config.is_none())
        .filter_map(|table| found.table(&table.schema, &table.name))
        .collect();
    let with_rows = target::fetch_tables_with_rows(target, &tables)?;
    let names: Vec<String> = tables
        .iter()
        .filter(|table| with_rows.contains(&table.oid))
        .map(|table| table.qualified_name().to_string())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = crate::ident::shorten(&names);
    Err(Error::on(
        Side::Target,
        format!("target not empty: there are rows already in {names}"),
    )
    .with_hint("Empty these tables, or start over with --restart --drop-if-exists."))
}

/// The workers that read from the source have left: note which steps that completes.
fn finish_reading(clone: &Clone<'_>, catalog: &Catalog, started: Instant) -> Result<()> {
    let workdir = clone.workdir;
    workdir.sync_done_files()?;
    let failed = workdir.failures()?;
    let is_free_of = |kind: &str| !failed.iter().any(|failure| failure.kind == kind);
    if is_free_of("table") {
        check_tables(clone, catalog)?;
        workdir.finish_step(step::TABLES, started.elapsed())?;
    }
    if is_free_of("large objects") {
        workdir.finish_step(step::BLOBS, started.elapsed())?;
    }
    Ok(())
}

fn check_tables(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    let paths = &clone.workdir.paths;
    match catalog
        .tables_to_copy()
        .find(|table| !paths.table_done(table.oid).exists())
    {
        None => Ok(()),
        Some(table) => Err(missing("table", &table.qualified_name().to_string())),
    }
}

/// The last look before success is claimed: a done-file for everything that had to be done.
pub fn check_complete(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    check_tables(clone, catalog)?;
    let paths = &clone.workdir.paths;
    for table in catalog.tables_to_copy() {
        for index in catalog.indexes_of(table.oid) {
            let name = index.qualified_name(table).to_string();
            if !paths.index_done(index.oid).exists() {
                return Err(missing("index", &name));
            }
            if !index.attach_sql(table).is_empty() && !paths.constraint_done(index.oid).exists() {
                return Err(missing("constraint", &name));
            }
        }
    }
    for step in [
        step::DUMP,
        step::RESTORE_PRE,
        step::TABLES,
        step::BLOBS,
        step::SEQUENCES,
        step::RESTORE_POST,
    ] {
        if !clone.workdir.is_step_done(step)? {
            return Err(missing("step", step));
        }
    }
    Ok(())
}

fn missing(kind: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("{kind} {name} is not known to be done"),
    )
    .with_hint("Run again with --resume.")
}

/// Sequences, again whenever rows were copied.
pub fn sequences(clone: &Clone<'_>, catalog: &Catalog, has_copied: bool) -> Result<()> {
    let started = Instant::now();
    if !has_copied && clone.workdir.is_step_done(step::SEQUENCES)? {
        return Ok(());
    }
    failpoint("clone.before_sequences")?;
    let mut source = open_source(&clone.source, &clone.run.of("clone"), clone.shutdown)?;
    let mut target = clone.open_target("clone")?;
    let readable: Vec<_> = catalog
        .sequences
        .iter()
        .filter(|sequence| {
            !catalog.is_standby || sequence.persistence == crate::catalog::Persistence::Permanent
        })
        .cloned()
        .collect();
    let failures = copy::copy_sequences(&mut source, &mut target, &readable)?;
    crate::pg::session::flush_commits(&mut target)?;
    for failure in &failures {
        if clone.spec.fail_fast {
            return Err(failure.error.clone());
        }
        failure.error.log("");
        clone
            .workdir
            .record_failure(&Failure::new("sequence", &failure.name, &failure.error))?;
    }
    if failures.is_empty() {
        clone
            .workdir
            .finish_step(step::SEQUENCES, started.elapsed())?;
    }
    log::info!("set {} sequences", readable.len() - failures.len());
    failpoint("clone.after_sequences")
}
