//! The children of each mode: receive, transform and apply (or catchup). Runs in the follow parent, which starts them,
//! waits, and ends them; it moves no data itself.

use std::time::{Duration, Instant};

use super::modes::{Event, StreamMode};
use super::remote::Remote;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::stream::apply::ApplySpec;
use crate::stream::positions::{ApplyEnd, Positions, ReceiveEnd};
use crate::stream::receive::{self, ReceiveSpec, TransformWork};
use crate::stream::transform_process::{self, TransformSpec};
use crate::stream::{catchup, replay, segment};
use crate::sys::failpoint::failpoint_at;
use crate::sys::msgq::{MessageQueue, QueueNote};
use crate::sys::pipe::Pipes;
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::{Ended, WorkerSet};
use crate::workdir::{QueuesOf, WorkDir};

pub const RECEIVE: &str = "receive";
pub const TRANSFORM: &str = "transform";
pub const APPLY: &str = "apply";

/// How often the parent looks around; a child's end wakes it earlier.
const TICK: Duration = Duration::from_millis(100);

/// How long a process whose pipe is closed may take to be gone, such as one whose disk is slow.
const DYING: Duration = Duration::from_secs(10);

/// What the children need, the same for the whole run.
pub struct Trio<'a> {
    pub receive: ReceiveSpec,
    pub transform: TransformSpec,
    pub apply: ApplySpec,
    pub positions: Positions,
    pub workdir: &'a WorkDir,
    pub keeps_files: bool,
    /// Whether the sentinel's word counts at all; and whether it is not asked.
    pub may_apply: bool,
    pub must_apply: bool,
    pub shutdown: &'a Shutdown,
}

impl Trio<'_> {
    /// Work in one mode until something calls for another.
    pub fn run(&self, mode: StreamMode, remote: &mut Remote) -> Result<Event> {
        failpoint_at("follow.before_mode", || format!("{mode:?}"))?;
        self.positions.clear_ends();
        // Before the first change is applied: a wish may be older than this process.
        self.carry_pause(remote)?;
        let mut workers = WorkerSet::new();
        let result = match mode {
            StreamMode::Prefetch | StreamMode::Catchup => self.collect(mode, &mut workers, remote),
            StreamMode::Drain => self.drain(&mut workers, remote),
            StreamMode::Live => self.live(&mut workers, remote),
            StreamMode::Done => Ok(Event::EndPos),
        };
        let left = workers.stop();
        failpoint_at("follow.after_mode", || format!("{mode:?}"))?;
        if result.is_err() {
            for ended in left.iter().filter(|ended| ended.last_error.is_some()) {
                ended.error().log("");
            }
        }
        result
    }

    /// Receive and transform write files; in catchup, apply runs beside them.
    fn collect(
        &self,
        mode: StreamMode,
        workers: &mut WorkerSet,
        remote: &mut Remote,
    ) -> Result<Event> {
        let note = QueueNote::of_new();
        self.workdir
            .note_queues(QueuesOf::Follow, std::slice::from_ref(&note))?;
        let queue = MessageQueue::create(&note)?;
        let positions = self.positions;
        workers.start_one(RECEIVE, |shutdown| {
            let end = receive::run(&self.receive, &positions, None, Some(&queue), &shutdown)?;
            positions.set_receive_end(end);
            Ok(())
        })?;
        workers.start_one(TRANSFORM, |shutdown| {
            transform_process::run_files(&self.transform, &queue, &shutdown)
        })?;
        if mode == StreamMode::Catchup {
            self.start_catchup(workers, true)?;
        }
        let event = self.watch_collecting(mode, workers, remote);
        if event.is_ok() {
            self.end_collecting(workers, &queue)?;
        }
        // Before its note, which is all that a later run knows of it.
        drop(queue);
        self.workdir.forget_queues(QueuesOf::Follow)?;
        event
    }

    fn watch_collecting(
        &self,
        mode: StreamMode,
        workers: &mut WorkerSet,
        remote: &mut Remote,
    ) -> Result<Event> {
        loop {
            for ended in self.look(workers, remote)? {
                match ended.group {
                    APPLY => return self.apply_event(),
                    // At the end position nothing more is received; what is on disk is applied when it may be.
                    RECEIVE => {}
                    _ => return Err(unexpected(&ended)),
                }
            }
            // The end position was moved on after receive had reached it.
            let is_behind = self.positions.is_end_after(self.positions.written());
            if self.positions.receive_end() == Some(ReceiveEnd::EndPos) {
                match (is_behind, self.may_apply) {
                    (true, _) => return Ok(Event::Received),
                    // Nothing is to be applied, so this is the end.
                    (false, false) => return Ok(Event::EndPos),
                    (false, true) => {}
                }
            }
            match (mode, self.may_apply_now(remote)) {
                (StreamMode::Prefetch, true) => return Ok(Event::ApplyEnabled),
                (StreamMode::Catchup, false) => return Ok(Event::ApplyDisabled),
                _ => {}
            }
        }
    }

    /// Receive first, so that its files are complete; then transform makes the last scripts.
    fn end_collecting(
        &self,
        workers: &mut WorkerSet,
        queue: &MessageQueue<TransformWork>,
    ) -> Result<()> {
        let ended = workers.stop_group(RECEIVE);
        check_stopped(&ended)?;
        if workers.count(APPLY) > 0 {
            check_stopped(&workers.stop_group(APPLY))?;
        }
        queue.send(&TransformWork::Stop, self.shutdown)?;
        loop {
            let ended = workers.reap();
            if let Some(failed) = ended.iter().find(|ended| !ended.reason.is_success()) {
                return Err(failed.error());
            }
            if workers.count(TRANSFORM) == 0 {
                return Ok(());
            }
            self.shutdown.poll(&[], Some(Instant::now() + TICK))?;
        }
    }

    fn start_catchup(&self, workers: &mut WorkerSet, waits: bool) -> Result<()> {
        let positions = self.positions;
        workers.start_one(APPLY, |shutdown| {
            let end = catchup::run(
                &self.apply,
                &self.transform.dir,
                waits,
                &positions,
                &shutdown,
            )?;
            positions.set_apply_end(end);
            Ok(())
        })?;
        Ok(())
    }

    /// Everything that was received is applied, without concurrent activity.
    fn drain(&self, workers: &mut WorkerSet, remote: &mut Remote) -> Result<Event> {
        // After live replay the newest script may be behind its JSON.
        workers.start_one(TRANSFORM, |shutdown| {
            transform_process::make_all(&self.transform, true, &shutdown)
        })?;
        while workers.count(TRANSFORM) > 0 {
            self.look(workers, remote)?;
        }
        self.start_catchup(workers, false)?;
        loop {
            if !self.look(workers, remote)?.is_empty() {
                return self.apply_event();
            }
            if !self.may_apply_now(remote) {
                return Ok(Event::ApplyDisabled);
            }
        }
    }

    fn live(&self, workers: &mut WorkerSet, remote: &mut Remote) -> Result<Event> {
        let pipes = Pipes::new();
        let (json_out, json_in) = pipes.add()?;
        let (script_out, script_in) = pipes.add()?;
        let positions = self.positions;
        workers.start_one(RECEIVE, |shutdown| {
            let [pipe] = pipes.keep([json_in]);
            let end = receive::run(&self.receive, &positions, pipe, None, &shutdown)?;
            positions.set_receive_end(end);
            Ok(())
        })?;
        workers.start_one(TRANSFORM, |shutdown| {
            match pipes.keep([json_out, script_in]) {
                [Some(input), Some(output)] => {
                    transform_process::run_live(&self.transform, input, output, &shutdown)
                }
                _ => Err(Error::internal("the pipes of transform are gone")),
            }
        })?;
        workers.start_one(APPLY, |shutdown| {
            let [Some(input)] = pipes.keep([script_out]) else {
                return Err(Error::internal("the pipe of apply is gone"));
            };
            let end = replay::run(&self.apply, input, &positions, &shutdown)?;
            positions.set_apply_end(end);
            Ok(())
        })?;
        // Or the end of a stream would never be seen.
        drop(pipes);
        self.watch_live(workers, remote)
    }

    fn watch_live(&self, workers: &mut WorkerSet, remote: &mut Remote) -> Result<Event> {
        loop {
            let ended = self.look(workers, remote)?;
            if ended.iter().any(|ended| ended.group == APPLY) {
                let event = self.apply_event()?;
                if event == Event::NoScriptLeft {
                    // The stream has an end because somebody closed it: on purpose, or by dying just now.
                    self.wait_for_others(workers, remote)?;
                }
                return Ok(event);
            }
            if self.positions.receive_end() == Some(ReceiveEnd::PipeStalled) {
                log::info!("apply is busy: falling back to prefetch and catchup");
                return Ok(Event::PipeStalled);
            }
            if !self.may_apply_now(remote) {
                return Ok(Event::ApplyDisabled);
            }
        }
    }

    /// A process that was killed closes its pipe before its parent can learn of its death.
    fn wait_for_others(&self, workers: &mut WorkerSet, remote: &mut Remote) -> Result<()> {
        let deadline = Instant::now() + DYING;
        while workers.count(RECEIVE) + workers.count(TRANSFORM) > 0 && Instant::now() < deadline {
            self.look(workers, remote)?;
        }
        Ok(())
    }

    /// Wait a moment, exchange positions with the sentinel, see who ended. A child that failed is the run's error.
    fn look(&self, workers: &mut WorkerSet, remote: &mut Remote) -> Result<Vec<Ended>> {
        self.shutdown.poll(&[], Some(Instant::now() + TICK))?;
        self.carry_pause(remote)?;
        if remote.exchange(&self.positions)? && !self.keeps_files {
            // What the target has flushed is needed no more.
            segment::remove_applied(&self.transform.dir, self.positions.replayed_flushed())?;
        }
        let ended = workers.reap();
        match ended.iter().position(|ended| !ended.reason.is_success()) {
            None => Ok(ended),
            Some(first) => {
                for other in ended.iter().skip(first + 1) {
                    if other.last_error.is_some() {
                        other.error().log("");
                    }
                }
                Err(remote.explain(ended[first].error()))
            }
        }
    }

    /// Whether changes are to be applied, before the first mode.
    pub fn applies(&self, remote: &mut Remote) -> Result<bool> {
        self.carry_pause(remote)?;
        Ok(self.may_apply_now(remote))
    }

    fn may_apply_now(&self, remote: &Remote) -> bool {
        self.is_apply_enabled() && !remote.holds_apply()
    }

    fn is_apply_enabled(&self) -> bool {
        self.must_apply || self.may_apply && self.positions.is_apply_enabled()
    }

    fn carry_pause(&self, remote: &mut Remote) -> Result<()> {
        remote.carry_pause(&self.positions, self.is_apply_enabled())
    }

    /// What the end of apply means.
    fn apply_event(&self) -> Result<Event> {
        match self.positions.apply_end() {
            Some(ApplyEnd::EndPos) => Ok(Event::EndPos),
            Some(ApplyEnd::EndOfInput) => Ok(Event::NoScriptLeft),
            Some(ApplyEnd::LostTarget) => Ok(Event::LostTarget),
            None => Err(
                Error::new(ErrorKind::Child, "apply ended without saying why")
                    .with_side(Side::Target),
            ),
        }
    }
}

fn unexpected(ended: &Ended) -> Error {
    Error::new(
        ErrorKind::Child,
        format!(
            "{} (pid {}) ended before it was done",
            ended.name, ended.pid
        ),
    )
}

/// Whoever was asked to stop has stopped because of it, or has failed.
fn check_stopped(ended: &[Ended]) -> Result<()> {
    match ended.iter().find(|ended| ended.last_error.is_some()) {
        Some(failed) => Err(failed.error()),
        None => Ok(()),
    }
}
