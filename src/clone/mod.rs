//! `clone`: a whole database from source to target, readable from top to bottom. Runs in the parent, which holds the
//! snapshot, starts the programs and the workers, and waits. Each phase begins by asking what is done already: that is
//! all there is to `--resume`.

mod begin;
mod data;
mod drops;
mod filters;
mod prerequisites;
mod progress;
mod properties;
mod restore;
mod schema;
mod spec;
mod summary;

pub use prerequisites::RolesOptions;
pub use spec::{CloneSpec, SplitOptions};

use crate::catalog::{self, Catalog, FetchOptions};
use crate::check;
use crate::copy::CopySpec;
use crate::dump::programs::Programs;
use crate::dump::select::LeftAlone;
use crate::error::{Error, Result};
use crate::pg::connect::connect_and_pin;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{RunName, TargetSettings, open_target};
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::sys::durable::{Sync, write_atomic};
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::workdir::done::Failure;
use crate::workdir::paths::Paths;
use crate::workdir::{Service, WorkDir, location};
use begin::Run;
use summary::Clock;

/// Names of the steps in the work directory.
mod step {
    pub const ROLES: &str = "roles";
    pub const DUMP: &str = "dump-pre";
    pub const DUMP_POST: &str = "dump-post";
    pub const RESTORE_PRE: &str = "restore-pre";
    pub const TABLES: &str = "tables";
    pub const INDEXES: &str = "indexes";
    pub const BLOBS: &str = "blobs";
    pub const SEQUENCES: &str = "sequences";
    pub const PROPERTIES: &str = "properties";
    pub const RESTORE_POST: &str = "restore-post";
    /// Everything: a resume of a finished run has nothing to do.
    pub const CLONE: &str = "clone";
}

/// What every phase needs; made once the servers were reached, and only read afterwards.
struct Clone<'a> {
    pub spec: &'a CloneSpec,
    pub workdir: &'a WorkDir,
    pub run: RunName,
    pub is_resumed: bool,
    /// The server that answered, for every later connection and every program.
    pub source: ConnInfo,
    pub target: ConnInfo,
    /// As server_version_num.
    pub target_version: u32,
    pub programs: Programs,
    /// Found by the checks before anything is restored.
    pub left_alone: LeftAlone,
    pub shutdown: &'a Shutdown,
}

/// Clone a database. `Ok` means that everything is on the target and flushed there.
pub fn run(spec: &CloneSpec, shutdown: &Shutdown) -> Result<()> {
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Clone)?;
    let run = begin::begin(spec, &workdir)?;
    let result = run_in(spec, &workdir, &run, shutdown);
    if result.is_err() {
        // Whatever ended the run, a program or worker that had to be killed may have left a backend behind.
        begin::end_backends(spec, &run.name);
    }
    result
}

fn run_in(spec: &CloneSpec, workdir: &WorkDir, run: &Run, shutdown: &Shutdown) -> Result<()> {
    let mut clock = Clock::start();
    let (mut source, source_info) = connect_and_pin(&spec.source, &run.name.of("clone"), shutdown)?;
    let (mut target, target_info) = connect_and_pin(&spec.target, &run.name.of("clone"), shutdown)?;
    let check_spec = spec.to_check(&source_info, &target_info);
    let begun = check::begin(
        &check_spec,
        run.is_resumed,
        (&mut source, &mut target),
        shutdown,
    )?;
    if let Some(filters) = &spec.filters {
        crate::filter::check(&mut source, filters)?;
    }
    let target_version = target.server_version();
    // Nothing is asked on these two any more: what follows opens its own, with its own settings.
    drop((source, target));
    let mut clone = Clone {
        spec,
        workdir,
        run: run.name.clone(),
        is_resumed: run.is_resumed,
        source: source_info,
        target: target_info,
        target_version,
        programs: begun.programs.clone(),
        left_alone: LeftAlone::default(),
        shutdown,
    };
    if let Some(earlier) = &run.earlier {
        begin::end_backends(spec, earlier);
    }
    if run.is_resumed && workdir.is_step_done(step::CLONE)? {
        log::info!(
            "nothing to do: the run in \"{}\" was complete",
            workdir.paths.top().display()
        );
        return Ok(());
    }
    if spec.follow.is_some() && !run.is_resumed {
        // A slot that nobody will read must not be made.
        check::objects_now(&check_spec, &begun, shutdown)?;
    }
    let mut snapshot = begin::snapshot(&clone)?;
    let mut catalog = clone.fetch_catalog(snapshot.as_mut())?;
    clock.lap("catalog");
    let mut target = clone.open_target("clone")?;
    let selection = filters::select(&clone, snapshot.as_mut())?;
    if let (Some(filters), Some(selection)) = (&spec.filters, &selection) {
        // What falls with what is left out is in the dump; the target is asked for the rest only.
        schema::dump(&clone, &catalog, snapshot.as_ref(), Some(selection))?;
        let archive = schema::read_archive(&workdir.paths.dump())?;
        filters::apply(&clone, filters, &mut catalog, &archive, selection)?;
        clone.write_catalog(&catalog)?;
    }
    if !workdir.is_step_done(step::RESTORE_PRE)? {
        let check_spec = check_spec.after_begun(workdir.is_step_begun(step::RESTORE_PRE));
        clone.left_alone = check::objects(&check_spec, &begun, &catalog, &mut target)?;
    }
    clone.left_alone.schemas = check::schemas_of_others(&mut target)?;
    prerequisites::make(&clone, &catalog, snapshot.as_mut(), &mut target)?;
    schema::dump(&clone, &catalog, snapshot.as_ref(), None)?;
    clock.lap("dump");
    failpoint("clone.after_dump")?;
    schema::restore_pre(&clone, &catalog, &mut target)?;
    clock.lap("pre-data");
    // The workers are forked next: no connection may be shared with them but the snapshot's, which they leave alone.
    drop(target);
    let has_copied = data::copy(&clone, &catalog, snapshot)?;
    clock.lap("data");
    data::sequences(&clone, &catalog, has_copied)?;
    schema::restore_post(&clone, &catalog)?;
    clock.lap("post-data");
    properties::copy(&clone, &catalog)?;
    finish(&clone, &catalog, clock)
}

/// Whether the clone in this work directory has copied everything.
pub fn is_complete(dir: &std::path::Path) -> bool {
    Paths::new(dir).step_done(step::CLONE).exists()
}

/// Everything was tried: say what was done, and whether that was everything.
fn finish(clone: &Clone<'_>, catalog: &Catalog, clock: Clock) -> Result<()> {
    let failures = clone.workdir.failures()?;
    let is_complete = failures.is_empty();
    if is_complete {
        data::check_complete(clone, catalog)?;
        // Commits of pg_restore and ours alike: the last flush before anybody is told.
        let mut target = clone.open_target("clone")?;
        crate::pg::session::flush_commits(&mut target)?;
    }
    failpoint("clone.before_summary")?;
    let elapsed = summary::write(clone, catalog, &failures, clock)?;
    if is_complete {
        clone.workdir.finish_step(step::CLONE, elapsed)?;
        log::info!("all is copied, in {:.1} s", elapsed.as_secs_f64());
        return Ok(());
    }
    Err(incomplete(&failures))
}

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

/// The last line of a run in which objects failed.
fn incomplete(failures: &[Failure]) -> Error {
    for failure in failures {
        log::error!("{} {}: {}", failure.kind, failure.name, failure.message);
    }
    let first = failures
        .first()
        .map_or("", |failure| failure.message.as_str());
    Error::new(
        crate::error::ErrorKind::Sql,
        format!(
            "{} objects could not be copied; the first: {first}",
            failures.len()
        ),
    )
    .with_hint("Mend the cause and run again with --resume.")
}

impl Clone<'_> {
    fn target_settings(&self) -> TargetSettings {
        TargetSettings {
            maintenance_work_mem: self.spec.maintenance_work_mem.clone(),
        }
    }

    fn open_target(&self, process: &str) -> Result<Connection> {
        open_target(
            &self.target,
            &self.run.of(process),
            &self.target_settings(),
            self.shutdown,
        )
    }

    /// The catalog of the snapshot; on a resume that reads nothing any more, the one that was fetched then.
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
        let catalog = catalog::fetch(snapshot.connection(), &options)?;
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

    fn copy_spec(&self) -> CopySpec {
        let spec = self.spec;
        CopySpec {
            source: self.source.clone(),
            target: self.target.clone(),
            run: self.run.clone(),
            target_settings: self.target_settings(),
            table_jobs: spec.table_jobs,
            index_jobs: spec.index_jobs,
            vacuum_jobs: spec.vacuum_jobs,
            large_objects_jobs: spec.large_objects_jobs,
            use_copy_binary: spec.use_copy_binary,
            no_owner: spec.no_owner,
            no_acl: spec.no_acl,
            no_comments: spec.no_comments,
            no_tablespaces: spec.no_tablespaces,
            skip_vacuum: spec.skip_vacuum,
            skip_analyze: spec.skip_analyze,
            fail_fast: spec.fail_fast,
        }
    }
}
