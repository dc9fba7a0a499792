//! The beginning of a run on the servers: reach those that its phases talk to, and check what can be known before anything
//! is made. Runs in the parent. A command that does not talk to the source takes what the dump noted of it.

use super::begin::{Run, progress};
use super::phases::{Phase, Phases, Progress};
use super::{Clone, CloneSpec, Server, prerequisites, step};
use crate::catalog::Catalog;
use crate::check::{self, SourceFacts};
use crate::dump::programs::SearchPlaces;
use crate::dump::select::LeftAlone;
use crate::error::{Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_and_pin;
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::stream::setup::{self, SetUp, publication_of};
use crate::sys::durable::Sync;
use crate::sys::signal::Shutdown;
use crate::workdir::{WorkDir, cdc_location, done};

/// Phases that run pg_dump or pg_restore.
const OF_PROGRAMS: Phases = Phases::of(&[Phase::Dump, Phase::PreData, Phase::PostData]);

type Reached = (Connection, ConnInfo);

pub fn reach<'a>(
    spec: &'a CloneSpec,
    workdir: &'a WorkDir,
    run: &Run,
    shutdown: &'a Shutdown,
) -> Result<Clone<'a>> {
    let name = run.name.of("clone");
    let connect = |info: &ConnInfo| open_and_pin(info, &name, shutdown);
    let mut source: Option<Reached> = match spec.phases.need_source() {
        true => spec.source.as_ref().map(connect).transpose()?,
        false => None,
    };
    let mut target: Option<Reached> = spec.target.as_ref().map(connect).transpose()?;
    let facts = source_facts(workdir, source.as_mut())?;
    if let (Some(filters), Some((source, _))) = (&spec.filters, &mut source) {
        crate::filter::check(source, filters)?;
    }
    let check_spec = spec.to_check(
        source.as_ref().map(|(_, info)| info),
        target.as_ref().map(|(_, info)| info),
    );
    let mut programs = None;
    let needs_programs = spec.phases.has_any(OF_PROGRAMS);
    let mut checked = None;
    match (&facts, &mut target) {
        (Some(facts), Some((target, _))) => {
            let (found, begun) = check::begin(
                &check_spec,
                check::Wanted {
                    programs: needs_programs,
                    // A run that goes on has passed the rest before, and a dump asks the target for its version only.
                    all: spec.phases.need_target() && !has_begun(spec, workdir)?,
                },
                facts.clone(),
                target,
                shutdown,
            )?;
            (programs, checked) = (found, Some(begun));
        }
        (Some(facts), None) if needs_programs => {
            let version = facts.version();
            programs = Some(SearchPlaces::from_environment().find(version, version, shutdown)?);
        }
        _ => {}
    }
    // Nothing is asked on these two any more: what follows opens its own, with its own settings.
    let server = |(connection, info): Reached| Server {
        info,
        version: connection.server_version(),
    };
    Ok(Clone {
        spec,
        workdir,
        run: run.name.clone(),
        is_resumed: run.is_resumed,
        source: source.map(server),
        target: target.map(server),
        programs,
        source_facts: facts,
        check_spec,
        checked,
        publication: publication(spec)?,
        left_alone: LeftAlone::default(),
        shutdown,
    })
}

/// A command for a section is told nothing about following; what was set up is in the directory of the changes.
fn publication(spec: &CloneSpec) -> Result<Option<String>> {
    if let Some(follow) = &spec.follow {
        return Ok(Some(follow.publication().to_string()));
    }
    let set_up = setup::noted(&cdc_location(spec.dir.as_deref()))?;
    let is_of_this = |set_up: &SetUp| {
        let source = spec.source.as_ref();
        source.is_none_or(|source| source.identity() == set_up.source)
    };
    let set_up = set_up.filter(is_of_this);
    Ok(set_up.map(|set_up| publication_of(&set_up.slot_name).to_string()))
}

/// As the source is now, or as the dump found it.
fn source_facts(workdir: &WorkDir, source: Option<&mut Reached>) -> Result<Option<SourceFacts>> {
    match source {
        Some((source, _)) => SourceFacts::look(source).map(Some),
        None => done::read(&workdir.paths.source_facts()),
    }
}

fn has_begun(spec: &CloneSpec, workdir: &WorkDir) -> Result<bool> {
    for phase in spec.phases.iter() {
        if progress(workdir, phase)? != Progress::NotBegun {
            return Ok(true);
        }
    }
    Ok(false)
}

/// For the commands of this run that will not talk to the source.
pub fn note_source(clone: &Clone<'_>) -> Result<()> {
    match &clone.source_facts {
        Some(facts) => done::write(&clone.workdir.paths.source_facts(), facts, Sync::Now),
        None => Ok(()),
    }
}

/// What the restores build on: checks, roles, and what of another role stays as it is.
pub fn prepare_target(
    clone: &mut Clone<'_>,
    catalog: &Catalog,
    snapshot: Option<&mut Snapshot>,
) -> Result<()> {
    let makes_objects = clone.spec.phases.has(Phase::PreData);
    recall_target(clone)?;
    if makes_objects {
        check_objects(clone, catalog)?;
    }
    let mut target = clone.open_target("clone")?;
    clone.left_alone.schemas = check::schemas_of_others(&mut target)?;
    let noted = clone.workdir.paths.left_alone();
    done::write(&noted, &clone.left_alone, Sync::Now)?;
    match makes_objects {
        true => prerequisites::make(clone, catalog, snapshot, &mut target),
        false => Ok(()),
    }
}

/// What the checks of this run have found on the target: later it cannot be told from what the run has made.
pub fn recall_target(clone: &mut Clone<'_>) -> Result<()> {
    if let Some(noted) = done::read(&clone.workdir.paths.left_alone())? {
        clone.left_alone = noted;
    }
    Ok(())
}

/// What must be there, and what must not, before the first object is made on the target.
fn check_objects(clone: &mut Clone<'_>, catalog: &Catalog) -> Result<()> {
    let workdir = clone.workdir;
    if workdir.is_step_done(step::RESTORE_PRE)? {
        return Ok(());
    }
    let begun = clone.checked.as_ref().ok_or_else(|| {
        Error::state("it is not known what the source is: the note of the dump about it is lost")
            .with_hint("Use \"pgcopydb dump schema --restart\" to start over.")
    })?;
    let is_begun = workdir.is_step_begun(step::RESTORE_PRE);
    let check_spec = clone.check_spec.after_begun(is_begun);
    let mut target = clone.open_target("clone")?;
    clone.left_alone = check::objects(&check_spec, begun, catalog, &mut target)?;
    Ok(())
}
