//! The parts of follow as commands of their own: the same engines, one at a time. Runs in the parent of each command, which
//! exchanges positions with the sentinel and waits.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::modes::{Event, StreamMode};
use super::patience::patiently;
use super::{Follow, FollowSpec, begin, begin_on_source};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::apply::{Applied, Applier};
use crate::stream::positions::{Positions, ReceiveEnd};
use crate::stream::receive;
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::WorkerSet;
use crate::workdir::{QueuesOf, Service, WorkDir, location};

/// How often the parent exchanges positions; a child's end wakes it earlier.
const TICK: Duration = Duration::from_millis(100);

/// `stream prefetch`: receive and transform into files until the end position; nothing is applied.
pub fn prefetch(spec: &FollowSpec, shutdown: &Shutdown) -> Result<()> {
    let workdir = open(spec)?;
    let follow = begin_on_source(spec, shutdown)?;
    follow.mend_files()?;
    let positions = Positions::create()?;
    let mut remote = follow.remote(&positions)?;
    follow.set_endpos(&mut remote, &positions)?;
    let mut trio = follow.trio(positions, &workdir);
    trio.may_apply = false;
    loop {
        log::info!("{}", StreamMode::Prefetch.words());
        // An end position that moved on begins it again.
        if trio.run(StreamMode::Prefetch, &mut remote)? == Event::EndPos {
            patiently(shutdown, || remote.exchange_for_end(&positions))?;
            if !positions.is_end_after(positions.written()) {
                return Ok(());
            }
        }
    }
}

/// `stream catchup`: make the scripts that are missing and apply them, until none is left or the end position is reached.
pub fn catchup(spec: &FollowSpec, shutdown: &Shutdown) -> Result<()> {
    apply_up_to(spec, StreamMode::Drain, shutdown)
}

/// `stream replay`: receive, transform and apply, joined by pipes, until the end position.
pub fn replay(spec: &FollowSpec, shutdown: &Shutdown) -> Result<()> {
    apply_up_to(spec, StreamMode::Live, shutdown)
}

/// Apply what is in files; then go on in the last mode, if that is another one.
fn apply_up_to(spec: &FollowSpec, last: StreamMode, shutdown: &Shutdown) -> Result<()> {
    let workdir = open(spec)?;
    let _applies = WorkDir::open(&location(spec.dir.as_deref()), Service::Apply)?;
    let follow = begin(spec, shutdown)?;
    follow.mend_files()?;
    let positions = Positions::create()?;
    let mut remote = follow.remote(&positions)?;
    follow.set_endpos(&mut remote, &positions)?;
    follow.disable_triggers()?;
    let mut trio = follow.trio(positions, &workdir);
    trio.must_apply = true;
    // The pipe begins where the files end: what is in them has to be applied before.
    let mut mode = StreamMode::Drain;
    let event = loop {
        log::info!("{}", mode.words());
        match trio.run(mode, &mut remote)? {
            Event::EndPos => {
                patiently(shutdown, || remote.exchange_for_end(&positions))?;
                match positions.reached() {
                    Some(reached) if positions.is_end_after(reached) => mode = StreamMode::Drain,
                    _ => break Event::EndPos,
                }
            }
            Event::NoScriptLeft if mode != last => mode = last,
            event => {
                remote.exchange_now(&positions)?;
                break event;
            }
        }
    };
    match (mode, event) {
        (_, Event::EndPos) | (StreamMode::Drain, Event::NoScriptLeft) => {
            super::finish::check_missed(&follow.dir)
        }
        _ if remote.holds_apply() => Err(Error::state(
            "cannot apply more: the clone has to make foreign keys and what else needs all tables together first",
        )
        .with_hint("Run \"pgcopydb clone --follow --resume\".")),
        (_, event) => Err(Error::new(
            ErrorKind::Child,
            format!("ended before the end position ({event:?})"),
        )
        .with_hint("Nothing is lost: run \"pgcopydb stream catchup\", or follow with --resume.")),
    }
}

/// `stream receive`: the segment files, and the messages on stdout if it is given.
pub fn receive(spec: &FollowSpec, stdout: Option<OwnedFd>, shutdown: &Shutdown) -> Result<()> {
    let workdir = open(spec)?;
    let follow = begin_on_source(spec, shutdown)?;
    follow.mend_files()?;
    let positions = Positions::create()?;
    let mut remote = follow.remote(&positions)?;
    follow.set_endpos(&mut remote, &positions)?;
    let trio = follow.trio(positions, &workdir);
    let mut workers = WorkerSet::new();
    workers.start_one("receive", |shutdown| {
        let end = receive::run(&trio.receive, &positions, stdout, None, &shutdown)?;
        positions.set_receive_end(end);
        Ok(())
    })?;
    loop {
        shutdown.poll(&[], Some(Instant::now() + TICK))?;
        remote.exchange(&positions)?;
        if let Some(ended) = workers.reap().first() {
            if !ended.reason.is_success() {
                return Err(ended.error());
            }
            return match positions.receive_end() {
                Some(ReceiveEnd::EndPos) => {
                    patiently(shutdown, || remote.exchange_for_end(&positions))?;
                    match positions.is_end_after(positions.written()) {
                        false => Ok(()),
                        // Whoever reads the messages has been told that they end here.
                        true => Err(Error::state(format!(
                            "received up to {} only: the end position was moved on meanwhile",
                            positions.written()
                        ))
                        .with_hint("Run the same command again, with --resume.")),
                    }
                }
                _ => Err(Error::new(
                    ErrorKind::Child,
                    "nobody reads the messages any more",
                )),
            };
        }
    }
}

/// `stream apply`: one script, from a file or from a pipe. Runs in this process, as there is nothing beside it.
pub fn apply(spec: &FollowSpec, script: Script<'_>, shutdown: &Shutdown) -> Result<()> {
    // Not the lock of a follow: "stream receive" at the other end of the pipe holds that one.
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Apply)?;
    let follow = begin(spec, shutdown)?;
    let positions = Positions::create()?;
    let endpos = match spec.endpos {
        Some(lsn) => Some(follow.open_sentinel()?.reachable(lsn)?),
        None => None,
    };
    positions.set_endpos(endpos);
    follow.disable_triggers()?;
    let trio = follow.trio(positions, &workdir);
    let mut applier = Applier::connect(&trio.apply, &positions, shutdown)?;
    let applied = match script {
        Script::File(path) => applier.run_file(path)?,
        Script::Pipe(input) => applier.run_pipe(input)?,
    };
    applier.finish()?;
    match (applied, endpos) {
        (Applied::EndOfInput, Some(endpos)) => Err(Error::new(
            ErrorKind::Child,
            format!(
                "the script ended before the end position {endpos}: applied up to {}",
                positions.replayed()
            ),
        )),
        _ => super::finish::check_missed(&follow.dir),
    }
}

/// Where a script comes from.
pub enum Script<'a> {
    File(&'a Path),
    Pipe(OwnedFd),
}

fn open(spec: &FollowSpec) -> Result<WorkDir> {
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Follow)?;
    workdir.remove_noted_queues(QueuesOf::Follow)?;
    Ok(workdir)
}

impl Follow<'_> {
    pub(super) fn set_endpos(
        &self,
        remote: &mut super::remote::Remote,
        positions: &Positions,
    ) -> Result<()> {
        if let Some(endpos) = self.spec.endpos {
            self.open_sentinel()?.set_endpos(endpos)?;
            remote.exchange_now(positions)?;
        }
        Ok(())
    }
}
