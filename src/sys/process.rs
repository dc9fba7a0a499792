//! Processes: fork a child under the fork contract, name it, end it. Runs in the parent and in the first moments of
//! each child.
//!
//! Fork contract: one thread at fork (asserted); stdout, stderr and the log are flushed before; pipe ends are owned
//! values that move into the child that uses them; no server connection is used on both sides of a fork (the
//! snapshot's is abandoned in the child, without a Terminate message); the child makes its own wake pipe, asks for a
//! signal at its parent's death, opens its own connections, and ends in `_exit`. Threads only in processes that never
//! fork.

use std::io::Write;
use std::panic::AssertUnwindSafe;

use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};

use super::signal::Shutdown;
use crate::error::{Error, ErrorKind, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    Code(i32),
    Signal(i32),
}

impl ExitReason {
    pub fn is_success(self) -> bool {
        self == ExitReason::Code(0)
    }
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitReason::Code(code) => write!(f, "exited with code {code}"),
            ExitReason::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was terminated by {signal}"),
                Err(_) => write!(f, "was terminated by signal {number}"),
            },
        }
    }
}

/// Fork a child that runs `body` and never returns into the caller's stack. The child logs its error itself (the
/// parent only says who ended and how) and exits with the error's code.
pub fn fork_child(name: &str, body: impl FnOnce(Shutdown) -> Result<()>) -> Result<Pid> {
    let threads = thread_count();
    if threads != 1 {
        return Err(Error::internal(format!(
            "cannot fork \"{name}\": {threads} threads are running"
        )));
    }
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    let parent = nix::unistd::getpid();
    match fork().map_err(|errno| Error::io(format!("could not fork \"{name}\""), errno.into()))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = run_child(name, parent, body);
            exit_now(code)
        }
    }
}

fn run_child(name: &str, parent: Pid, body: impl FnOnce(Shutdown) -> Result<()>) -> i32 {
    if Shutdown::after_fork().is_err() {
        return i32::from(ErrorKind::Io.exit_code());
    }
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    // The parent may have died between fork and prctl: then no signal will ever come.
    if nix::unistd::getppid() != parent {
        return i32::from(ErrorKind::Child.exit_code());
    }
    super::title::set(&format!("pgcopydb: {name}"));
    // A panic must not unwind into the parent's frames, which this process has a copy of.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| body(Shutdown::handle())));
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(error)) if error.is_interrupted() => {
            log::debug!("{name} stopped on request");
            i32::from(error.exit_code())
        }
        Ok(Err(error)) => {
            error.log(&format!("{name}: "));
            i32::from(error.exit_code())
        }
        Err(_) => i32::from(ErrorKind::Internal.exit_code()),
    }
}

/// Threads of this process, from the kernel's own list.
fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count())
}

#[expect(unsafe_code, reason = "fork(2)")]
fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the process has one thread (checked by the caller), so the child may allocate and lock as usual.
    unsafe { nix::unistd::fork() }
}

/// Leave without running destructors: they belong to the parent's copies of the values.
#[expect(unsafe_code, reason = "_exit(2)")]
fn exit_now(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// End this process by `signal`, so that no caller takes an interrupted run for a finished one.
#[expect(unsafe_code, reason = "restoring a default signal action")]
pub fn die_by_signal(signal: i32) -> ! {
    if let Ok(signal) = Signal::try_from(signal) {
        // SAFETY: the default action needs no handler function.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
        let _ = nix::sys::signal::raise(signal);
    }
    // PID 1 in a container has no default actions; the conventional code says the same.
    exit_now(128 + signal)
}
