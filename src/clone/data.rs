//! The data section as clone runs it: what is done already, what is to be copied, the run of the workers, and the proof
//! that nothing is missing. Runs in the parent.

use std::time::Instant;

use super::again::again;
use super::phases::{Phase, Phases};
use super::progress::{Cut, cut, empty_unproven_tables, read_progress, wait_for_old_backends};
use super::{Clone, meeting, occupied, step, unlogged};
use crate::catalog::{Catalog, Target, target};
use crate::copy::{self, CopyContext, CopyPlan, CopySpec, Wanted};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::pg::session::open_source;
use crate::snapshot::Snapshot;
use crate::stream::triggers;
use crate::sys::failpoint::failpoint;
use crate::workdir::done::Failure;

/// What is to be copied of a database, and where it is to go.
pub struct Section {
    found: Target,
    plan: CopyPlan,
    spec: CopySpec,
    /// Empty when nothing is left to read from the source.
    snapshot: String,
    snapshot_content: String,
    snapshot_lsn: Option<Lsn>,
    started: Instant,
}

/// Look at the target, and at what earlier runs have done; from here on the steps of the command count as begun.
pub fn prepare(
    clone: &Clone<'_>,
    catalog: &Catalog,
    mut snapshot: Option<&mut Snapshot>,
) -> Result<Section> {
    let (workdir, phases, started) = (clone.workdir, clone.spec.phases, Instant::now());
    let may_have_rows =
        clone.is_resumed && phases.has(Phase::TableData) && workdir.is_step_begun(step::TABLES);
    let found = again("a look at the target", clone.shutdown, || {
        let mut target = clone.open_target("clone")?;
        if may_have_rows {
            wait_for_old_backends(clone, &mut target)?;
        }
        let found = target::fetch(&mut target)?;
        occupied::check(clone, catalog, &found, &mut target)?;
        Ok(found)
    })?;
    for phase in phases.iter().filter(|phase| STEPS.has(*phase)) {
        phase
            .step()
            .map_or(Ok(()), |step| workdir.begin_step(step))?;
    }
    let cut = match &mut snapshot {
        Some(snapshot) => cut(clone, catalog, snapshot)?,
        None => Cut::default(),
    };
    let mut progress = read_progress(clone, catalog, &cut)?;
    if may_have_rows {
        again("emptying tables", clone.shutdown, || {
            let mut target = clone.open_target("clone")?;
            empty_unproven_tables(clone, catalog, &found, &cut, &mut progress, &mut target)?;
            // Post-data was made although tables had failed: the triggers that fire in replica sessions too must not see rows
            // that are copied now.
            match workdir.is_step_begun(step::RESTORE_POST) {
                true => triggers::disable(&mut target, &workdir.paths.run()),
                false => Ok(()),
            }
        })?;
    }
    let plan = copy::plan(catalog, cut.items, cut.batches, progress, wanted(clone));
    // Rows of a later moment may have used more of them: forgotten before the first such row is there.
    if plan.reads_source() && (phases.has(Phase::Sequences) || clone.spec.not_consistent) {
        workdir.undo_step(step::SEQUENCES)?;
    }
    Ok(Section {
        found,
        plan,
        spec: clone.copy_spec()?,
        snapshot: snapshot
            .as_ref()
            .map_or_else(String::new, |held| held.id().to_string()),
        snapshot_content: cut.snapshot,
        snapshot_lsn: snapshot.and_then(|held| held.lsn()),
        started,
    })
}

impl Section {
    /// For the workers.
    pub fn context<'c>(&'c self, clone: &'c Clone<'_>, catalog: &'c Catalog) -> CopyContext<'c> {
        CopyContext {
            spec: &self.spec,
            catalog,
            target: &self.found,
            workdir: clone.workdir,
            snapshot: &self.snapshot,
            snapshot_content: &self.snapshot_content,
            snapshot_lsn: self.snapshot_lsn,
            plan: &self.plan,
        }
    }
}

/// The workers have done what they could: note which steps that completes.
pub fn finish(clone: &Clone<'_>, section: &Section) -> Result<()> {
    let (workdir, phases) = (clone.workdir, clone.spec.phases);
    workdir.sync_done_files()?;
    if !triggers::noted(&workdir.paths.run())?.is_empty() {
        again("restoring triggers", clone.shutdown, || {
            let mut target = clone.open_target("clone")?;
            triggers::restore(&mut target, &workdir.paths.run())
        })?;
    }
    for phase in [Phase::Indexes, Phase::Constraints] {
        if let (true, Some(step)) = (phases.has(phase), phase.step()) {
            workdir.finish_step(step, section.started.elapsed())?;
        }
    }
    again("the end of the vacuum", clone.shutdown, || {
        finish_vacuum(clone)
    })
}

/// The phases of the data section that have a step of their own.
const STEPS: Phases = Phases::of(&[
    Phase::TableData,
    Phase::LargeObjects,
    Phase::Indexes,
    Phase::Constraints,
]);

fn wanted(clone: &Clone<'_>) -> Wanted {
    let (spec, phases) = (clone.spec, clone.spec.phases);
    Wanted {
        indexes: phases.has(Phase::Indexes),
        constraints: phases.has(Phase::Constraints),
        vacuum: phases.has(Phase::Vacuum) && !spec.skip_vacuum,
    }
}

fn finish_vacuum(clone: &Clone<'_>) -> Result<()> {
    if wanted(clone).vacuum && clone.target()?.version >= 160_000 {
        clone
            .open_target("clone")?
            .execute("VACUUM (ONLY_DATABASE_STATS)")
            .context("could not finish the vacuum of the target")?;
    }
    Ok(())
}

/// Nothing is left to read from the source: note which steps that completes.
pub fn finish_reading(clone: &Clone<'_>, catalog: &Catalog, section: &Section) -> Result<()> {
    let (workdir, phases) = (clone.workdir, clone.spec.phases);
    let started = section.started;
    workdir.sync_done_files()?;
    if phases.has(Phase::TableData) && !workdir.is_step_done(step::TABLES)? {
        unlogged::tell_lost(clone, catalog)?;
    }
    let failed = workdir.failures()?;
    let is_free_of = |kind: &str| !failed.iter().any(|failure| failure.kind == kind);
    if phases.has(Phase::TableData) && is_free_of("table") {
        check_tables(clone, catalog)?;
        meeting::note_tables(clone, catalog)?;
        workdir.finish_step(step::TABLES, started.elapsed())?;
    }
    if phases.has(Phase::LargeObjects) && is_free_of("large objects") {
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

/// The last look before success is claimed: a done-file for everything that these phases had to do.
pub fn check_complete(clone: &Clone<'_>, catalog: &Catalog, phases: Phases) -> Result<()> {
    let paths = &clone.workdir.paths;
    if phases.has(Phase::TableData) {
        check_tables(clone, catalog)?;
    }
    for table in catalog.tables_to_copy() {
        for index in catalog.indexes_of(table.oid) {
            let name = || index.qualified_name(table).to_string();
            if phases.has(Phase::Indexes) && !paths.index_done(index.oid).exists() {
                return Err(missing("index", &name()));
            }
            if phases.has(Phase::Constraints)
                && !index.attach_sql(table).is_empty()
                && !paths.constraint_done(index.oid).exists()
            {
                return Err(missing("constraint", &name()));
            }
        }
    }
    for step in phases.iter().filter_map(Phase::step) {
        if !clone.workdir.is_step_done(step)? {
            return Err(missing("step", step));
        }
    }
    Ok(())
}

/// List as failures what "copy data" was to make and has not; whether that is nothing. Of a table that is not there, its
/// indexes are not told.
pub fn tell_missing(clone: &Clone<'_>, catalog: &Catalog) -> Result<bool> {
    let (workdir, paths) = (clone.workdir, &clone.workdir.paths);
    if !workdir.is_step_begun(step::TABLES) {
        return Ok(true);
    }
    let mut is_complete = true;
    let mut tell = |kind: &str, name: String, words: &str| -> Result<()> {
        is_complete = false;
        let error = Error::new(ErrorKind::State, format!("{kind} {name} was not {words}"));
        let error = error.context("it failed, or was never reached, in \"copy data\"");
        workdir.record_failure(&Failure::new(kind, &name, &error))
    };
    for table in catalog.tables_to_copy() {
        if !paths.table_done(table.oid).exists() {
            tell("table", table.qualified_name().to_string(), "copied")?;
            continue;
        }
        if !workdir.is_step_begun(step::INDEXES) {
            continue;
        }
        for index in catalog.indexes_of(table.oid) {
            if !paths.index_done(index.oid).exists() {
                tell("index", index.qualified_name(table).to_string(), "built")?;
            }
        }
    }
    if workdir.is_step_begun(step::BLOBS) && !workdir.is_step_done(step::BLOBS)? {
        tell("large objects", "of the database".to_owned(), "copied")?;
    }
    Ok(is_complete)
}

fn missing(kind: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("{kind} {name} is not known to be done"),
    )
    .with_hint("Run again with --resume.")
}

/// Sequences, again whenever rows were copied.
pub fn sequences(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    let started = Instant::now();
    if clone.workdir.is_step_done(step::SEQUENCES)? {
        log::info!("the sequences are set already");
        return Ok(());
    }
    clone.workdir.begin_step(step::SEQUENCES)?;
    failpoint("clone.before_sequences")?;
    let mut source = open_source(clone.source()?, &clone.run.of("clone"), clone.shutdown)?;
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
    failpoint("clone.before_sequences_flush")?;
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
