//! The children of one process: start, reap, forward signals, escalate. Runs in the parent only; it decides nothing
//! about the work.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::process::{ExitReason, fork_child};
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
}

impl Ended {
    /// The parent's one line about it.
    pub fn error(&self) -> Error {
        Error::new(
            ErrorKind::Child,
            format!("{} (pid {}) {}", self.name, self.pid, self.reason),
        )
    }
}

#[derive(Debug)]
struct Worker {
    name: String,
    group: &'static str,
    pid: Pid,
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
        let name = format!("{group} {number}");
        let pid = fork_child(&name, body)?;
        log::debug!("started {name} (pid {pid})");
        self.workers.push(Worker { name, group, pid });
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
        self.workers.retain(|worker| {
            let reason = match waitpid(worker.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => ExitReason::Code(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => ExitReason::Signal(signal as i32),
                // ECHILD: somebody else reaped it, so all we know is that it is gone.
                Err(nix::errno::Errno::ECHILD) => ExitReason::Code(-1),
                _ => return true,
            };
            ended.push(Ended {
                name: worker.name.clone(),
                group: worker.group,
                pid: worker.pid,
                reason,
            });
            false
        });
        ended
    }

    pub fn signal_all(&self, signal: Signal) {
        for worker in &self.workers {
            let _ = nix::sys::signal::kill(worker.pid, signal);
        }
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
                    worker.pid
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
