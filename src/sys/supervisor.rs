//! The children of one process: start, reap, forward signals, escalate. Runs in the parent only; it decides nothing
//! about the work.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::process::{Child, ExitReason, fork_child};
use super::signal::Shutdown;
use crate::error::{Error, ErrorKind, Result};

/// How long children get to cancel their statements and leave before SIGKILL: well inside the 10 s in which
/// everything has to be gone.
const GRACE: Duration = Duration::from_secs(6);

/// A child that ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub name: String,
    pub group: &'static str,
    pub pid: Pid,
    pub reason: ExitReason,
    /// What it said itself.
    pub last_error: Option<Error>,
}

impl Ended {
    /// Why it failed: in its own words, or else how it ended.
    pub fn error(&self) -> Error {
        match &self.last_error {
            Some(error) => error.clone().context(&self.name),
            None => Error::new(
                ErrorKind::Child,
                format!("{} (pid {}) {}", self.name, self.pid, self.reason),
            ),
        }
    }
}

#[derive(Debug)]
struct Worker {
    name: String,
    group: &'static str,
    child: Child,
}

/// The children that are alive, as far as this process knows.
#[derive(Debug, Default)]
pub struct WorkerSet {
    workers: Vec<Worker>,
}

impl WorkerSet {
    pub fn new() -> WorkerSet {
        WorkerSet::default()
    }

    /// Fork a worker. `group` is the kind of worker ("copy worker"), the name carries its number too.
    pub fn start(
        &mut self,
        group: &'static str,
        number: u32,
        body: impl FnOnce(Shutdown) -> Result<()>,
    ) -> Result<Pid> {
        self.start_named(group, format!("{group} {number}"), body)
    }

    /// Fork the only worker of its kind.
    pub fn start_one(
        &mut self,
        group: &'static str,
        body: impl FnOnce(Shutdown) -> Result<()>,
    ) -> Result<Pid> {
        self.start_named(group, group.to_owned(), body)
    }

    fn start_named(
        &mut self,
        group: &'static str,
        name: String,
        body: impl FnOnce(Shutdown) -> Result<()>,
    ) -> Result<Pid> {
        let child = fork_child(&name, body)?;
        let pid = child.pid;
        log::debug!("started {name} (pid {pid})");
        self.workers.push(Worker { name, group, child });
        Ok(pid)
    }

    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// How many of a group are alive.
    pub fn count(&self, group: &str) -> usize {
        self.workers
            .iter()
            .filter(|worker| worker.group == group)
            .count()
    }

    /// Collect whoever has ended; never waits. Only our own pids are waited for, so that a child program of somebody
    /// else in this process is not taken away from its owner.
    pub fn reap(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for worker in std::mem::take(&mut self.workers) {
            let pid = worker.child.pid;
            let reason = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => ExitReason::Code(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => ExitReason::Signal(signal as i32),
                // ECHILD: somebody else reaped it, so all we know is that it is gone.
                Err(nix::errno::Errno::ECHILD) => ExitReason::Code(-1),
                _ => {
                    self.workers.push(worker);
                    continue;
                }
            };
            ended.push(Ended {
                name: worker.name,
                group: worker.group,
                pid,
                reason,
                last_error: worker.child.last_error(),
            });
        }
        ended
    }

    pub fn signal_all(&self, signal: Signal) {
        for worker in &self.workers {
            let _ = nix::sys::signal::kill(worker.child.pid, signal);
        }
    }

    /// Ask one group to stop, and wait for it; the others go on. Returns who ended and how.
    pub fn stop_group(&mut self, group: &str) -> Vec<Ended> {
        let is_other = |worker: &Worker| worker.group != group;
        let (others, stopped) = std::mem::take(&mut self.workers)
            .into_iter()
            .partition(is_other);
        let mut set = WorkerSet { workers: stopped };
        let ended = set.stop();
        self.workers = others;
        ended
    }

    /// Ask everybody to stop, wait, then kill. Returns who ended and how. Deaf to further signals: it is what happens
    /// because of one, and it ends by itself.
    pub fn stop(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.signal_all(Signal::SIGTERM);
        let deadline = Instant::now() + GRACE;
        while !self.workers.is_empty() && Instant::now() < deadline {
            ended.extend(self.reap());
            if !self.workers.is_empty() {
                let _ =
                    Shutdown::deaf().poll(&[], Some(Instant::now() + Duration::from_millis(100)));
            }
        }
        if !self.workers.is_empty() {
            for worker in &self.workers {
                log::warn!(
                    "{} (pid {}) did not stop in time: killing it",
                    worker.name,
                    worker.child.pid
                );
            }
            self.signal_all(Signal::SIGKILL);
            while !self.workers.is_empty() {
                ended.extend(self.reap());
                let _ =
                    Shutdown::deaf().poll(&[], Some(Instant::now() + Duration::from_millis(20)));
            }
        }
        ended
    }
}

impl Drop for WorkerSet {
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            self.stop();
        }
    }
}
