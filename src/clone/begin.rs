//! How a run begins: fresh, resumed or refused; which snapshot it reads from; and the end of what an earlier run, or this
//! one, left on the servers. Runs in the parent.

use std::time::Duration;

use super::phases::{COPY_DATA, Phase, Phases, Progress};
use super::progress::forget_torn;
use super::{Clone, CloneSpec, filters, meeting, noted, step};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pg::connect::connect_once;
use crate::pg::session::RunName;
use crate::snapshot::{Snapshot, is_alive};
use crate::stream::preconditions;
use crate::stream::setup::{self, SetupSpec};
use crate::sys::durable::Sync;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::workdir::state::Wish;
use crate::workdir::{WorkDir, done};

/// A run and how it began.
pub struct Run {
    pub name: RunName,
    pub is_resumed: bool,
    /// What the work directory held before.
    pub earlier: Option<RunName>,
}

/// Phases that need the dump of an earlier command, and nothing of the source.
pub const RESTORES: Phases = Phases::of(&[Phase::PreData, Phase::PostData]);

/// Phases that read the source in the snapshot of the run.
const READS: Phases = Phases::of(&[Phase::Dump, Phase::TableData, Phase::LargeObjects]);

/// Decide, and leave the work directory ready; the spec gets what earlier commands of the run were given.
pub fn begin(spec: &mut CloneSpec, workdir: &WorkDir) -> Result<Run> {
    let is_begun = |phase: Phase| {
        let step = phase.step();
        step.is_some_and(|step| workdir.is_step_begun(step))
    };
    let is_restore = spec.phases.iter().all(|phase| RESTORES.has(phase));
    let wish = Wish {
        restart: spec.restart,
        resume: spec.resume,
        joins: is_restore && !spec.phases.iter().any(is_begun),
    };
    let options = noted::options(spec, is_begun);
    let begun = workdir.begin(&options, wish, &new_id()?)?;
    noted::take_over(spec, &begun.options);
    filters::keep(spec, &workdir.paths)?;
    if begun.is_resumed {
        log::info!("resuming the run in \"{}\"", workdir.paths.top().display());
        forget_torn(workdir)?;
    }
    Ok(Run {
        name: RunName::new(&begun.id),
        is_resumed: begun.is_resumed,
        earlier: begun.earlier_id.as_deref().map(RunName::new),
    })
}

/// 48 random bits: enough to tell runs apart on one server, short enough for application_name.
fn new_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|error| Error::internal(format!("could not make a run id: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether what this command builds on is there.
pub fn check_predecessors(spec: &CloneSpec, workdir: &WorkDir) -> Result<()> {
    let dir = workdir.paths.top().display().to_string();
    spec.phases
        .check_predecessors(&dir, |phase| match progress(workdir, phase)? {
            // What is missing is told at the end.
            Progress::Begun if spec.despite_failures && COPY_DATA.has(phase) => Ok(Progress::Done),
            progress => Ok(progress),
        })
}

/// A whole clone that is complete has nothing to go on with.
pub fn is_all_done(clone: &Clone<'_>) -> Result<bool> {
    let workdir = clone.workdir;
    let is_done = clone.is_resumed
        && clone.spec.phases == Phases::ALL
        && workdir.is_step_done(step::CLONE)?;
    if is_done {
        log::info!(
            "nothing to do: the run in \"{}\" was complete",
            workdir.paths.top().display()
        );
    }
    Ok(is_done)
}

/// How far a phase has come.
pub fn progress(workdir: &WorkDir, phase: Phase) -> Result<Progress> {
    let Some(step) = phase.step() else {
        return Ok(Progress::NotBegun);
    };
    Ok(match workdir.is_step_done(step)? {
        true => Progress::Done,
        false if workdir.is_step_begun(step) => Progress::Begun,
        false => Progress::NotBegun,
    })
}

/// The snapshot to read from; `None` when nothing is left to read.
pub fn snapshot(clone: &Clone<'_>) -> Result<Option<Snapshot>> {
    let (workdir, spec) = (clone.workdir, clone.spec);
    let mut has_read_all = true;
    for phase in spec.phases.iter().filter(|phase| READS.has(*phase)) {
        has_read_all &= progress(workdir, phase)? == Progress::Done;
    }
    // The first command of a run reads the catalog, whatever it does then.
    if has_read_all && workdir.paths.schema_json().exists() {
        return Ok(None);
    }
    failpoint("snapshot.before_export")?;
    let snapshot = find_snapshot(clone)?;
    failpoint("snapshot.after_export")?;
    let path = workdir.paths.snapshot_content();
    match done::read::<String>(&path)? {
        Some(content) if content == snapshot.content() => {}
        // One that somebody holds for this directory need not be the one that this run began with.
        Some(_) if has_read(workdir)? && !spec.not_consistent && spec.follow.is_none() => {
            return Err(not_the_same(&snapshot));
        }
        _ => done::write(&path, &snapshot.content(), Sync::Now)?,
    }
    Ok(Some(snapshot))
}

/// Whether anything that was read of the source is kept: what is read later must be of the same moment.
fn has_read(workdir: &WorkDir) -> Result<bool> {
    // A dump that was interrupted is made again as a whole.
    Ok(progress(workdir, Phase::Dump)? == Progress::Done
        || progress(workdir, Phase::TableData)? != Progress::NotBegun
        || progress(workdir, Phase::LargeObjects)? != Progress::NotBegun)
}

fn not_the_same(snapshot: &Snapshot) -> Error {
    Error::state(format!(
        "cannot resume consistently: snapshot {} is not the one that the earlier run read the source in",
        snapshot.id()
    ))
    .with_hint("Use --not-consistent to copy the rest as this snapshot sees it, or --restart to start over.")
}

fn find_snapshot(clone: &Clone<'_>) -> Result<Snapshot> {
    let (workdir, spec) = (clone.workdir, clone.spec);
    let (source, process) = (clone.source()?, clone.run.of("clone"));
    if let Some(follow) = &spec.follow {
        return snapshot_of_slot(clone, follow);
    }
    if let Some(id) = &spec.snapshot {
        return Snapshot::import(source, id, &process, clone.shutdown);
    }
    if let Some(id) = workdir.noted_snapshot()? {
        if is_alive(source, &id, &process, clone.shutdown)? {
            log::info!("using snapshot {id}, which another process holds for this work directory");
            return match workdir.noted_slot_snapshot()? {
                Some((id, lsn)) => {
                    Snapshot::of_slot(source, &id, lsn, None, &process, clone.shutdown)
                }
                None => Snapshot::import(source, &id, &process, clone.shutdown),
            };
        }
        // Its holder was killed before it could remove the note.
        workdir.forget_snapshot()?;
    }
    if clone.is_resumed && has_read(workdir)? && !spec.not_consistent {
        return Err(Error::state(
            "cannot resume consistently: the snapshot of the earlier run is gone and not everything was read from it",
        )
        .with_hint(match spec.phases == Phases::ALL {
            true => "Use --not-consistent to copy the rest as it is now, or --restart to start over.",
            false => {
                "Use --not-consistent to copy the rest as it is now, or --restart to start over, with \"pgcopydb snapshot\" \
                 running until the last command has read the source."
            }
        }));
    }
    let snapshot = Snapshot::export(source, &process, clone.shutdown)?;
    log::info!("exported snapshot {}", snapshot.id());
    Ok(snapshot)
}

/// The copy and the changes must meet: the snapshot is the one that came with the slot, or one whose position is known as
/// exactly.
fn snapshot_of_slot(clone: &Clone<'_>, follow: &SetupSpec) -> Result<Snapshot> {
    let (workdir, process) = (clone.workdir, clone.run.of("clone"));
    let noted = workdir.noted_slot_snapshot()?;
    if noted.is_none() {
        setup::refuse_slot_without_snapshot(follow, clone.shutdown)?;
    }
    let (set_up, new) = setup::run(
        &SetupSpec {
            application_name: process.clone(),
            ..follow.clone()
        },
        clone.shutdown,
    )?;
    let source = clone.source()?;
    if let Some(new) = new {
        if let Some(id) = &clone.spec.snapshot {
            return Err(Error::state(format!(
                "cannot follow from snapshot \"{id}\": it does not belong to the slot \"{}\"",
                set_up.slot_name
            ))
            .with_hint(
                "Use the snapshot that \"pgcopydb snapshot --follow\" prints, in the same --dir.",
            ));
        }
        preconditions::warn_without_spare_slot(source, &process, clone.shutdown)?;
        let lsn = new.consistent_point;
        log::info!("snapshot {} came with the slot", new.snapshot);
        let (id, exporter) = (new.snapshot, Some(new.exporter));
        return Snapshot::of_slot(source, &id, lsn, exporter, &process, clone.shutdown);
    }
    if let Some(snapshot) = held_snapshot_of_slot(clone, noted)? {
        return Ok(snapshot);
    }
    if let Some(id) = &clone.spec.snapshot {
        return Err(Error::state(format!(
            "cannot resume the copy in snapshot \"{id}\": it does not exist any more"
        ))
        .with_hint("Without --snapshot, --resume copies what is left in a new one."));
    }
    match clone.is_resumed || clone.spec.resume {
        true => meeting::new_snapshot(clone, follow),
        false => Err(meeting::without_resume(&set_up.slot_name)),
    }
}

/// The one that "pgcopydb snapshot --follow" holds for this directory. An id may be given again after a restart of the
/// server: then it sees something else.
fn held_snapshot_of_slot(
    clone: &Clone<'_>,
    noted: Option<(String, Lsn)>,
) -> Result<Option<Snapshot>> {
    let (workdir, process) = (clone.workdir, clone.run.of("clone"));
    let is_wanted = |id: &String| {
        let wanted = clone.spec.snapshot.as_ref();
        wanted.is_none_or(|wanted| wanted == id)
    };
    let Some((id, lsn)) = noted.filter(|(id, _)| is_wanted(id)) else {
        return Ok(None);
    };
    let source = clone.source()?;
    if !is_alive(source, &id, &process, clone.shutdown)? {
        return Ok(None);
    }
    let snapshot = Snapshot::of_slot(source, &id, lsn, None, &process, clone.shutdown)?;
    let begun_with = done::read::<String>(&workdir.paths.snapshot_content())?;
    if begun_with.is_some_and(|content| content != snapshot.content()) && has_read(workdir)? {
        return Ok(None);
    }
    log::info!("using snapshot {id}, which was exported with the slot");
    Ok(Some(snapshot))
}

/// For each server: a run that ends because of a signal has ten seconds for everything.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(1);

/// End every backend that carries the name of one of these runs, on both servers. Best effort: it is also done after
/// failures, when a server may be the one that failed.
pub fn end_backends(spec: &CloneSpec, runs: &[&RunName]) {
    for info in spec.source.iter().chain(&spec.target) {
        let end = || -> Result<()> {
            let mut connection =
                connect_once(info, "pgcopydb clean-up", &Shutdown::deaf(), CLEAN_UP_WAIT)?;
            connection.set_deadline(Some(CLEAN_UP_WAIT));
            for run in runs {
                connection.query(&run.terminate_sql())?;
            }
            Ok(())
        };
        if let Err(error) = end() {
            log::debug!(
                "could not end backends of this run on the {}: {error}",
                info.side()
            );
        }
    }
}
