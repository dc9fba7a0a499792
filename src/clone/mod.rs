//! `clone`: a whole database from source to target, readable from top to bottom. Runs in the parent, which holds the
//! snapshot, starts the programs and the workers, and waits. Each phase begins by asking what is done already: that is
//! all there is to `--resume`, and to the commands that do one section each in a work directory that they share.

mod again;
mod begin;
mod data;
mod drops;
mod filters;
mod finish;
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
mod summary;

pub use noted::names as noted_options;
pub use phases::{Phase, Phases};
pub use prerequisites::RolesOptions;
pub use spec::{CloneSpec, SplitOptions};

use crate::catalog::{self, Catalog, FetchOptions};
use crate::check::{self, CheckSpec, SourceFacts};
use crate::copy::CopySpec;
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
use crate::workdir::paths::Paths;
use crate::workdir::{Service, WorkDir, location};
use again::again;
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
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Clone)?;
    let mut spec = spec.clone();
    let run = begin::begin(&mut spec, &workdir)?;
    let result = run_in(&spec, &workdir, &run, shutdown);
    if result.is_err() {
        // Whatever ended the run, a program or worker that had to be killed may have left a backend behind.
        begin::end_backends(&spec, &run.name);
    }
    result
}

fn run_in(spec: &CloneSpec, workdir: &WorkDir, run: &Run, shutdown: &Shutdown) -> Result<()> {
    begin::check_predecessors(spec, workdir)?;
    let mut clock = Clock::start();
    let mut clone = again("the checks", shutdown, || {
        reach::reach(spec, workdir, run, shutdown)
    })?;
    if let Some(earlier) = &run.earlier {
        begin::end_backends(spec, earlier);
    }
    if begin::is_all_done(&clone)? {
        return Ok(());
    }
    let phases = spec.phases;
    if let (Some(begun), true) = (&clone.checked, spec.follow.is_some() && !run.is_resumed) {
        // A slot that nobody will read must not be made.
        again("the checks", shutdown, || {
            check::objects_now(&clone.check_spec, begun, shutdown)
        })?;
    }
    let mut snapshot = begin::snapshot(&clone)?;
    if phases.has(Phase::Dump) {
        reach::note_source(&clone)?;
    }
    let mut catalog = clone.fetch_catalog(snapshot.as_mut())?;
    clock.lap("catalog");
    let selection = filters::select(&clone, snapshot.as_mut())?;
    if let (Some(filters), Some(selection)) = (&spec.filters, &selection) {
        // What falls with what is left out is in the dump; the target is asked for the rest only.
        if phases.has(Phase::Dump) {
            again("the dump of the schema", shutdown, || {
                schema::dump(&clone, &catalog, snapshot.as_ref(), Some(selection))
            })?;
        }
        let archive = filters::read_dump(&clone)?;
        filters::apply(&clone, filters, &mut catalog, &archive, selection)?;
        clone.write_catalog(&catalog)?;
    }
    if phases.has_any(begin::RESTORES) {
        again("the checks of the target", shutdown, || {
            reach::prepare_target(&mut clone, &catalog, snapshot.as_mut())
        })?;
    }
    if phases.has(Phase::Dump) {
        again("the dump of the schema", shutdown, || {
            schema::dump(&clone, &catalog, snapshot.as_ref(), None)
        })?;
        clock.lap("dump");
        failpoint("clone.after_dump")?;
    }
    if phases.has(Phase::PreData) {
        again("pre-data", shutdown, || {
            schema::restore_pre(&clone, &catalog)
        })?;
        clock.lap("pre-data");
    }
    let mut has_copied = false;
    if phases.has_any(DATA) {
        has_copied = data::copy(&clone, &catalog, snapshot)?;
        clock.lap("data");
    }
    if phases.has(Phase::Sequences) {
        again("sequences", shutdown, || {
            data::sequences(&clone, &catalog, has_copied)
        })?;
    }
    if phases.has(Phase::PostData) {
        again("post-data", shutdown, || {
            schema::restore_post(&clone, &catalog)
        })?;
        clock.lap("post-data");
        again("properties of the database", shutdown, || {
            properties::copy(&clone, &catalog)
        })?;
    }
    finish::finish(&clone, &catalog, clock)
}

/// Whether the clone in this work directory has copied everything.
pub fn is_complete(dir: &std::path::Path) -> bool {
    Paths::new(dir).step_done(step::CLONE).exists()
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

    fn copy_spec(&self) -> Result<CopySpec> {
        let spec = self.spec;
        Ok(CopySpec {
            source: self.source.as_ref().map(|server| server.info.clone()),
            target: self.target()?.info.clone(),
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
            skip_analyze: spec.skip_analyze,
            fail_fast: spec.fail_fast,
            keeps_indexes: spec.said.is_some(),
        })
    }
}
