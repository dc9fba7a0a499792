//! `clone`: a whole database from source to target, readable from top to bottom. Runs in the parent, which holds the
//! snapshot, starts the programs and the workers, and waits. Each phase begins by asking what is done already: that is
//! all there is to `--resume`, and to the commands that do one section each in a work directory that they share.

mod again;
mod begin;
mod data;
mod drops;
mod filters;
mod finish;
mod meeting;
mod noted;
mod occupied;
pub mod parse_list;
mod phases;
mod prerequisites;
mod progress;
mod properties;
mod reach;
mod replaced;
mod restore;
mod schema;
mod spec;
mod stages;
mod summary;
mod unlogged;

pub use meeting::left_post_data;
pub use noted::names as noted_options;
pub use phases::{Phase, Phases};
pub use prerequisites::RolesOptions;
pub use spec::{CloneSpec, SplitOptions};
pub use stages::{Job, Ready, Started};

use crate::catalog::{self, Catalog, FetchOptions};
use crate::check::{self, CheckSpec, SourceFacts};
use crate::copy::{self, CopySpec, End, Watch};
use crate::dump::programs::Programs;
use crate::dump::select::LeftAlone;
use crate::error::{Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{RunName, TargetSettings, open_target};
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::sys::durable::{Sync, write_atomic};
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::watch::{self, WatchSpec};
use crate::workdir::WorkDir;
use again::again;
use summary::Clock;

/// Names of the steps in the work directory.
mod step {
    pub const ROLES: &str = "roles";
    pub const DUMP: &str = "dump-pre";
    pub const DUMP_POST: &str = "dump-post";
    pub const RESTORE_PRE: &str = "restore-pre";
    pub const TABLES: &str = "tables";
    pub const INDEXES: &str = "indexes";
    pub const CONSTRAINTS: &str = "constraints";
    pub const BLOBS: &str = "blobs";
    pub const SEQUENCES: &str = "sequences";
    pub const PROPERTIES: &str = "properties";
    pub const RESTORE_POST: &str = "restore-post";
    /// Everything: a resume of a finished run has nothing to do.
    pub const CLONE: &str = "clone";
}

/// A server that answered, for every later connection and every program.
struct Server {
    info: ConnInfo,
    /// As server_version_num.
    version: u32,
}

/// What every phase needs; made once the servers were reached, and only read afterwards.
struct Clone<'a> {
    pub spec: &'a CloneSpec,
    pub workdir: &'a WorkDir,
    pub run: RunName,
    pub is_resumed: bool,
    /// None: no phase of this command talks to it.
    source: Option<Server>,
    target: Option<Server>,
    /// None: no phase of this command needs them.
    programs: Option<Programs>,
    source_facts: Option<SourceFacts>,
    check_spec: CheckSpec,
    /// None: one of the two servers is not known at all.
    checked: Option<check::Begun>,
    /// On the source, for the changes that follow: set up by this command, or for this directory before it.
    publication: Option<String>,
    /// Found by the checks before anything is restored.
    left_alone: LeftAlone,
    pub shutdown: &'a Shutdown,
}

/// Clone a database, or do the phases of it that the command is. `Ok` means that everything is on the target and flushed
/// there.
pub fn run(spec: &CloneSpec, shutdown: &Shutdown) -> Result<()> {
    let job = Job::open(spec)?;
    let _watch = watch::start(WatchSpec {
        source: spec.source.clone(),
        target: spec.target.clone(),
        runs: vec![job.run_name().clone()],
        paths: Some(job.workdir.paths.clone()),
        after: spec.stall_timeout,
    });
    let result = run_in(&job, shutdown);
    if result.is_err() {
        // Whatever ended the run, a program or worker that had to be killed may have left a backend behind.
        job.end_backends();
    }
    result
}

fn run_in(job: &Job, shutdown: &Shutdown) -> Result<()> {
    let Some(mut started) = job.start(shutdown)? else {
        return Ok(());
    };
    let catalog = started.prepare()?;
    if !started.clone.spec.phases.has_any(DATA) {
        return started.finish(&catalog);
    }
    let (ready, mut snapshot) = started.ready(catalog)?;
    let mut reader = Reader {
        ready: &ready,
        snapshot: &mut snapshot,
    };
    let databases = [ready.context()];
    copy::run(
        &databases,
        None,
        &job.workdir,
        ready.jobs(),
        shutdown,
        &mut reader,
    )?;
    ready.finish(ready.clone.spec.restore_jobs)
}

/// Gives the snapshot back as soon as everything is read.
struct Reader<'r, 'a> {
    ready: &'r Ready<'a>,
    snapshot: &'r mut Option<Snapshot>,
}

impl Watch for Reader<'_, '_> {
    fn read(&mut self, _: usize, end: End) -> Result<()> {
        self.ready.read(self.snapshot.take(), end)
    }

    fn over(&mut self, _: usize, _: End) -> Result<()> {
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Everything before the rows: the catalog, the dump, and the objects that rows need. Phases that are done already, or
/// that this command is not, are passed over.
fn before_data(
    clone: &mut Clone<'_>,
    mut snapshot: Option<&mut Snapshot>,
    clock: &mut Clock,
) -> Result<Catalog> {
    let phases = clone.spec.phases;
    let mut catalog = clone.fetch_catalog(snapshot.as_deref_mut())?;
    clock.lap("catalog");
    let selection = filters::select(clone, snapshot.as_deref_mut())?;
    if let (Some(filters), Some(selection)) = (&clone.spec.filters, &selection) {
        // What falls with what is left out is in the dump; the target is asked for the rest only.
        if phases.has(Phase::Dump) {
            again("the dump of the schema", clone.shutdown, || {
                schema::dump(clone, &catalog, snapshot.as_deref(), Some(selection))
            })?;
        }
        let archive = filters::read_dump(clone)?;
        filters::apply(clone, filters, &mut catalog, &archive, selection)?;
        clone.write_catalog(&catalog)?;
    }
    if phases.has_any(begin::RESTORES) {
        let shutdown = clone.shutdown;
        again("the checks of the target", shutdown, || {
            reach::prepare_target(clone, &catalog, snapshot.as_deref_mut())
        })?;
    }
    if phases.has(Phase::Dump) {
        again("the dump of the schema", clone.shutdown, || {
            schema::dump(clone, &catalog, snapshot.as_deref(), None)
        })?;
        clock.lap("dump");
        failpoint("clone.after_dump")?;
    }
    if phases.has(Phase::PreData) {
        again("pre-data", clone.shutdown, || {
            schema::restore_pre(clone, &catalog)
        })?;
        clock.lap("pre-data");
    }
    Ok(catalog)
}

/// Everything after the rows.
fn after_data(
    clone: &Clone<'_>,
    catalog: &Catalog,
    restore_jobs: u32,
    mut clock: Clock,
) -> Result<()> {
    let phases = clone.spec.phases;
    if phases.has(Phase::Sequences) {
        again("sequences", clone.shutdown, || {
            data::sequences(clone, catalog)
        })?;
    }
    if phases.has(Phase::PostData) && lacks_tables(clone)? {
        log::warn!(
            "post-data waits until all tables are copied: triggers must not see their rows, foreign keys and materialized \
             views need them. \"pgcopydb restore post-data --resume --despite-failures\" makes it without the others"
        );
        return finish::finish(clone, catalog, clock);
    }
    if phases.has(Phase::PostData) && meeting::must_wait(clone)? {
        return finish::wait(clone, catalog, clock);
    }
    if phases.has(Phase::PostData) {
        again("post-data", clone.shutdown, || {
            schema::restore_post(clone, catalog, restore_jobs)
        })?;
        clock.lap("post-data");
        again("properties of the database", clone.shutdown, || {
            properties::copy(clone, catalog)
        })?;
        if phases.has(Phase::Sequences)
            && unlogged::has_sequences(catalog)
            && clone.workdir.is_step_done(step::SEQUENCES)?
        {
            // A crash of the target since they were set, in this run or before it, would have taken them back.
            clone.workdir.undo_step(step::SEQUENCES)?;
            again("sequences", clone.shutdown, || {
                data::sequences(clone, catalog)
            })?;
        }
    }
    finish::finish(clone, catalog, clock)
}

/// Whether this command copies tables, and not all of them are there: a resume copies the others into what it finds. For a
/// command that copies none, `Phases::check_predecessors` asks.
fn lacks_tables(clone: &Clone<'_>) -> Result<bool> {
    Ok(clone.spec.phases.has(Phase::TableData) && !clone.workdir.is_step_done(step::TABLES)?)
}

/// What the workers do.
const DATA: Phases = Phases::of(&[
    Phase::TableData,
    Phase::LargeObjects,
    Phase::Indexes,
    Phase::Constraints,
    Phase::Vacuum,
]);

/// A standby has unlogged tables without their rows: they are made on the target, and stay empty.
fn notice_unlogged(catalog: &Catalog) {
    let skipped: Vec<String> = catalog
        .tables
        .iter()
        .filter(|table| table.holds_rows(false) && !table.holds_rows(catalog.is_standby))
        .map(|table| table.qualified_name().to_string())
        .collect();
    if !skipped.is_empty() {
        log::warn!(
            "the source is a standby, which has no rows of unlogged tables: {} stay empty on the target: {}",
            skipped.len(),
            skipped.join(", ")
        );
    }
}

impl Clone<'_> {
    fn target_settings(&self) -> TargetSettings {
        TargetSettings {
            maintenance_work_mem: self.spec.maintenance_work_mem.clone(),
            lock_timeout: self.spec.lock_timeout,
        }
    }

    fn source(&self) -> Result<&ConnInfo> {
        let source = self.source.as_ref().map(|server| &server.info);
        source.ok_or_else(|| Error::internal("this command knows no source"))
    }

    fn target(&self) -> Result<&Server> {
        let target = self.target.as_ref();
        target.ok_or_else(|| Error::internal("this command knows no target"))
    }

    fn programs(&self) -> Result<&Programs> {
        let programs = self.programs.as_ref();
        programs.ok_or_else(|| Error::internal("this command knows no programs"))
    }

    fn open_target(&self, process: &str) -> Result<Connection> {
        open_target(
            &self.target()?.info,
            &self.run.of(process),
            &self.target_settings(),
            self.shutdown,
        )
    }

    /// The catalog of the snapshot; when nothing is left to read, the one that was fetched then.
    fn fetch_catalog(&self, snapshot: Option<&mut Snapshot>) -> Result<Catalog> {
        let path = self.workdir.paths.schema_json();
        let Some(snapshot) = snapshot else {
            let text = std::fs::read(&path).map_err(|error| {
                Error::io(format!("could not read file \"{}\"", path.display()), error)
            })?;
            return Catalog::from_json(&text);
        };
        let options = FetchOptions {
            estimate_sizes: self.spec.split.estimate_sizes,
            skip_extensions: self.spec.skip_extensions,
        };
        let before = match self.spec.follow.is_some() && path.exists() {
            true => Some(self.fetch_catalog(None)?),
            false => None,
        };
        let catalog = catalog::fetch(snapshot.connection(), &options)?;
        if let Some(before) = &before {
            meeting::note_former(self, before, &catalog)?;
        }
        self.write_catalog(&catalog)?;
        log::info!(
            "source database \"{}\": {} tables to copy, {} indexes to build, {} sequences, {} large objects",
            catalog.database.name,
            catalog.tables_to_copy().count(),
            catalog.indexes.len(),
            catalog.sequences.len(),
            catalog.large_objects.count,
        );
        notice_unlogged(&catalog);
        Ok(catalog)
    }

    fn write_catalog(&self, catalog: &Catalog) -> Result<()> {
        let path = self.workdir.paths.schema_json();
        write_atomic(&path, &catalog.to_json()?, Sync::Now)
    }

    fn copy_spec(&self) -> Result<CopySpec> {
        let spec = self.spec;
        Ok(CopySpec {
            source: self.source.as_ref().map(|server| server.info.clone()),
            target: self.target()?.info.clone(),
            run: self.run.clone(),
            target_settings: self.target_settings(),
            use_copy_binary: spec.use_copy_binary,
            no_owner: spec.no_owner,
            no_acl: spec.no_acl,
            no_comments: spec.no_comments,
            no_tablespaces: spec.no_tablespaces,
            skip_analyze: spec.skip_analyze,
            fail_fast: spec.fail_fast,
            when_full: spec.when_full,
            keeps_indexes: spec.said.is_some(),
            is_followed: spec.follow.is_some(),
        })
    }
}
