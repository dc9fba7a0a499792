//! Processes: fork a child under the fork contract, name it, end it. Runs in the parent and in the first moments of
//! each child.
//!
//! Fork contract: one thread at fork (asserted); stdout, stderr and the log are flushed before; pipe ends are owned
//! values that move into the child that uses them; no server connection is used on both sides of a fork (the
//! snapshot's is abandoned in the child, without a Terminate message); the child makes its own wake pipe, asks for a
//! signal at its parent's death, opens its own connections, and ends in `_exit`. Threads only in processes that never
//! fork.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};

use super::signal::Shutdown;
use crate::error::{Error, ErrorKind, Result};

/// What this process and its children leave on disk is for nobody else: no file that others may read, whatever the user's
/// umask and whoever makes it (pg_dump does), and no core, which would hold passwords. The hard limit stays, so that
/// prlimit(1) can allow one again.
pub fn keep_private() {
    nix::sys::stat::umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let hard = getrlimit(Resource::RLIMIT_CORE).map_or(0, |(_, hard)| hard);
    // Lowering one's own limit cannot fail.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
}

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

/// A child as its parent knows it.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    /// Where the child leaves its last error. A pipe, since a full disk may be what it has to tell of.
    report: OwnedFd,
}

impl Child {
    /// Why a child that has ended did so; `None` when it could not tell.
    pub fn last_error(self) -> Option<Error> {
        let mut bytes = Vec::new();
        // The pipe does not block: what a process that was killed has not written will not come.
        let _ = File::from(self.report).read_to_end(&mut bytes);
        serde_json::from_slice(&bytes).ok()
    }
}

/// Fork a child that runs `body` and never returns into the caller's stack. It exits with its error's code and leaves
/// the error to the parent, who logs it.
pub fn fork_child(name: &str, body: impl FnOnce(Shutdown) -> Result<()>) -> Result<Child> {
    let threads = thread_count();
    if threads != 1 {
        return Err(Error::internal(format!(
            "cannot fork \"{name}\": {threads} threads are running"
        )));
    }
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    let parent = nix::unistd::getpid();
    let (report, to_parent) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|errno| Error::io("could not create a pipe", errno.into()))?;
    match fork().map_err(|errno| Error::io(format!("could not fork \"{name}\""), errno.into()))? {
        ForkResult::Parent { child } => Ok(Child { pid: child, report }),
        ForkResult::Child => {
            drop(report);
            let code = run_child(name, parent, to_parent, body);
            exit_now(code)
        }
    }
}

fn run_child(
    name: &str,
    parent: Pid,
    to_parent: OwnedFd,
    body: impl FnOnce(Shutdown) -> Result<()>,
) -> i32 {
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
        Ok(Err(error)) => leave(name, to_parent, &error),
        Err(_) => leave(name, to_parent, &Error::internal("it panicked")),
    }
}

/// Hand the last error to the parent, or log it when that fails.
fn leave(name: &str, to_parent: OwnedFd, error: &Error) -> i32 {
    let text = serde_json::to_vec(error).unwrap_or_default();
    if text.is_empty() || File::from(to_parent).write_all(&text).is_err() {
        error.log(&format!("{name}: "));
    }
    i32::from(error.exit_code())
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
