//! The end of a run: what was done, and whether that is everything the command had to do. Runs in the parent.

use super::again::again;
use super::begin::progress;
use super::phases::{Phase, Phases, Progress};
use super::summary::{self, Clock};
use super::{Clone, data, schema, step, unlogged};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::session::flush_commits;
use crate::sys::failpoint::failpoint;
use crate::workdir::done::Failure;

/// Everything was tried: say what was done, and whether that was everything.
pub fn finish(clone: &Clone<'_>, catalog: &Catalog, clock: Clock) -> Result<()> {
    let (phases, workdir) = (clone.spec.phases, clone.workdir);
    // Without that step it was looked at already.
    if phases.has(Phase::TableData) && workdir.is_step_done(step::TABLES)? {
        unlogged::tell_lost(clone, catalog)?;
    }
    let failures = workdir.failures()?;
    let is_complete = failures.is_empty();
    if is_complete {
        data::check_complete(clone, catalog, phases)?;
        if phases.need_target() {
            // Commits of pg_restore and ours alike: the last flush before anybody is told.
            again("the last flush", clone.shutdown, || {
                flush_commits(&mut clone.open_target("clone")?)
            })?;
        }
    }
    let is_all = is_complete && is_all_done(clone, catalog)?;
    failpoint("clone.before_summary")?;
    let elapsed = summary::write(clone, catalog, &failures, is_all, clock)?;
    if !is_complete {
        return Err(incomplete(&failures));
    }
    let seconds = elapsed.as_secs_f64();
    if phases != Phases::ALL {
        log::info!("done: {}, in {seconds:.1} s", phases.describe());
    }
    if is_all {
        workdir.finish_step(step::CLONE, elapsed)?;
        log::info!("all is copied, in {seconds:.1} s");
    }
    Ok(())
}

/// Everything that each table needs for itself was tried, and the rest has to wait: a failure is told now, as there is
/// nothing to wait for then.
pub fn wait(clone: &Clone<'_>, catalog: &Catalog, clock: Clock) -> Result<()> {
    match clone.workdir.failures()?.is_empty() {
        true => failpoint("clone.before_waiting"),
        false => finish(clone, catalog, clock),
    }
}

/// Whether the commands of this run have together done all of a clone, and nothing of it failed.
fn is_all_done(clone: &Clone<'_>, catalog: &Catalog) -> Result<bool> {
    for phase in Phases::ALL.iter().filter(|phase| phase.step().is_some()) {
        if progress(clone.workdir, phase)? != Progress::Done {
            return Ok(false);
        }
    }
    Ok(
        schema::is_all_restored(clone)?
            && data::check_complete(clone, catalog, Phases::ALL).is_ok(),
    )
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
        ErrorKind::Sql,
        format!(
            "{} objects could not be copied; the first: {first}",
            failures.len()
        ),
    )
    .with_hint("Mend the cause and run again with --resume.")
}
