//! Catchup: the finished script files, one by one in the order of the log, from where the origin stands. Runs in the
//! apply process of the modes that work with files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::apply::{Applied, Applier, ApplySpec, has_no_room};
use super::positions::{ApplyEnd, Positions};
use super::segment;
use super::transform_process::{is_complete, script_of};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pg::connect::connect_once;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;

/// Between attempts to reach a target that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long the target gets to answer while nothing is received.
const ANSWER: Duration = Duration::from_secs(5);

/// How often it is said that the target is still away, or still full.
const REPEAT: Duration = Duration::from_secs(60);

/// Apply until the end position, or until there is no finished script left. A target that goes away is waited for, as
/// long as it takes, if `waits`; its origin then says where to go on. While nothing is received it is not: changes must not
/// pile up on the source meanwhile.
pub fn run(
    spec: &ApplySpec,
    dir: &Path,
    waits: bool,
    positions: &Positions,
    shutdown: &Shutdown,
) -> Result<ApplyEnd> {
    let mut pause = FIRST_PAUSE;
    let mut told: Option<Instant> = None;
    loop {
        let committed = positions.committed();
        let answers = match waits {
            true => Ok(()),
            false => answers(spec, shutdown),
        };
        let end = answers.and_then(|()| run_connected(spec, dir, positions, shutdown));
        let error = match end {
            Err(error) if spec.may_pass(&error) => error,
            end => return end,
        };
        if !waits {
            log::warn!("{error}; receiving meanwhile");
            return Ok(ApplyEnd::LostTarget);
        }
        let has_gone_on = positions.committed() > committed;
        if has_gone_on {
            pause = FIRST_PAUSE;
        }
        if has_gone_on || told.is_none_or(|told| told.elapsed() > REPEAT) {
            log::warn!("{error}; {}", what_next(&error));
            told = Some(Instant::now());
        }
        shutdown.sleep(pause)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connecting waits for a server that refuses for a minute, in which nobody would receive.
fn answers(spec: &ApplySpec, shutdown: &Shutdown) -> Result<()> {
    connect_once(&spec.target, &spec.application_name, shutdown, ANSWER).map(drop)
}

/// What is done about an error that may pass.
fn what_next(error: &Error) -> &'static str {
    match has_no_room(error) {
        true => {
            "trying again until the target has room: nothing is lost, and changes are collected meanwhile"
        }
        false => "connecting to the target again",
    }
}

fn run_connected(
    spec: &ApplySpec,
    dir: &Path,
    positions: &Positions,
    shutdown: &Shutdown,
) -> Result<ApplyEnd> {
    let mut applier = Applier::connect(spec, positions, shutdown)?;
    let mut applied = applier.end_if_reached()?;
    let mut last: Option<(PathBuf, u64)> = None;
    while applied != Some(Applied::EndPos) {
        let found = next(dir, applier.seen())?.map(|json| {
            let length = std::fs::metadata(&json).map_or(0, |metadata| metadata.len());
            (json, length)
        });
        // A receive that was killed leaves a transaction without its end: the file does not tell where it ends then, and the
        // same script would be found for ever.
        let Some((json, length)) = found.filter(|found| Some(found) != last.as_ref()) else {
            applier.finish()?;
            return Ok(ApplyEnd::EndOfInput);
        };
        last = Some((json.clone(), length));
        applier.pass_what_was_removed();
        log::info!("catching up with \"{}\"", script_of(&json).display());
        applied = Some(applier.run_file(&script_of(&json))?);
        failpoint("apply.after_file")?;
    }
    Ok(ApplyEnd::EndPos)
}

/// The first file that holds something after `seen`, if its script is finished. By position and not by name: a file may
/// have grown, and its script been made again, since it was read. A file whose script is not finished ends the search:
/// nothing after it may be applied before it. One that is gone was passed: only such files are removed.
fn next(dir: &Path, seen: Lsn) -> Result<Option<PathBuf>> {
    for json in segment::json_files(dir)? {
        if segment::last_position(&json)?.is_some_and(|last| last <= seen) {
            continue;
        }
        match is_complete(&json)? {
            None => {}
            Some(true) => return Ok(Some(json)),
            Some(false) => return Ok(None),
        }
    }
    Ok(None)
}
