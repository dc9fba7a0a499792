//! Signals: how far this process has been asked to stop. Runs in every process. Handlers only store a number and
//! write one byte to a pipe of this process; everything else happens where the flag is looked at.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::error::{Context, Error, Result};

/// How urgently this process was asked to stop; only ever rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    /// SIGTERM.
    Smart,
    /// SIGINT.
    Fast,
    /// SIGQUIT.
    Quit,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static WAKE_READ: AtomicI32 = AtomicI32::new(-1);
static WAKE_WRITE: AtomicI32 = AtomicI32::new(-1);

/// A handle on the stop level of this process. `deaf` handles are for the clean-up that runs after a signal: they
/// never report an interruption, so their waits must have a deadline.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    is_deaf: bool,
}

impl Shutdown {
    /// Install the handlers; once per program, before the first fork.
    pub fn install() -> Result<Shutdown> {
        open_wake_pipe().context("could not create the signal pipe")?;
        for (signal, level) in [
            (libc::SIGTERM, Level::Smart),
            (libc::SIGINT, Level::Fast),
            (libc::SIGQUIT, Level::Quit),
        ] {
            register(signal, Some(level)).context("could not install a signal handler")?;
        }
        // SIGCHLD wakes the parent's poll(); SIGALRM only makes msgrcv() and msgsnd() return EINTR.
        for signal in [libc::SIGCHLD, libc::SIGALRM] {
            register(signal, None).context("could not install a signal handler")?;
        }
        Ok(Shutdown { is_deaf: false })
    }

    /// The handle without installing anything (the handlers are inherited across fork).
    pub fn handle() -> Shutdown {
        Shutdown { is_deaf: false }
    }

    /// A handle that never reports an interruption.
    pub fn deaf() -> Shutdown {
        Shutdown { is_deaf: true }
    }

    pub fn level(&self) -> Level {
        if self.is_deaf {
            return Level::None;
        }
        match LEVEL.load(Ordering::SeqCst) {
            0 => Level::None,
            1 => Level::Smart,
            2 => Level::Fast,
            _ => Level::Quit,
        }
    }

    /// The signal that asked first, to die by it in the end.
    pub fn signal(&self) -> Option<i32> {
        match SIGNAL.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }

    pub fn is_requested(&self) -> bool {
        self.level() > Level::None
    }

    pub fn check(&self) -> Result<()> {
        if self.is_requested() {
            Err(Error::interrupted())
        } else {
            Ok(())
        }
    }

    /// Wait until one of `fds` is ready, a signal arrives, or `deadline` passes; returns which fds are ready. An
    /// interruption is an error, a passed deadline an empty answer.
    pub fn poll(
        &self,
        fds: &[(BorrowedFd<'_>, PollFlags)],
        deadline: Option<Instant>,
    ) -> Result<Vec<PollFlags>> {
        loop {
            self.check()?;
            let mut set: Vec<PollFd<'_>> = fds
                .iter()
                .map(|(fd, flags)| PollFd::new(*fd, *flags))
                .collect();
            let wake = WAKE_READ.load(Ordering::SeqCst);
            if wake >= 0 {
                set.push(PollFd::new(borrow(wake), PollFlags::POLLIN));
            }
            let timeout = match deadline {
                // A second at most: the flag is looked at again whatever happens.
                None => Duration::from_secs(1),
                Some(deadline) => deadline
                    .saturating_duration_since(Instant::now())
                    .min(Duration::from_secs(1)),
            };
            // Rounded up, so that the last millisecond before a deadline does not spin.
            let milliseconds = timeout.as_micros().div_ceil(1000) as u16;
            match nix::poll::poll(&mut set, PollTimeout::from(milliseconds)) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(Error::io("could not poll", errno.into())),
            }
            let ready: Vec<PollFlags> = set
                .iter()
                .take(fds.len())
                .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
                .collect();
            if set.len() > fds.len() && set[fds.len()].any().unwrap_or(false) {
                drain_wake_pipe();
                self.check()?;
                if fds.is_empty() {
                    // A child ended: the caller's loop wants to know now.
                    return Ok(ready);
                }
            }
            let is_ready = ready.iter().any(|flags| !flags.is_empty());
            if is_ready || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(ready);
            }
        }
    }

    /// Sleep, but end at once with an error when a signal asks to stop.
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        while Instant::now() < deadline {
            self.poll(&[], Some(deadline))?;
        }
        Ok(())
    }

    /// In a new child: the pipe of the parent must not be shared, or one process would eat the other's bytes.
    pub(super) fn after_fork() -> io::Result<()> {
        let (read, write) = (
            WAKE_READ.load(Ordering::SeqCst),
            WAKE_WRITE.load(Ordering::SeqCst),
        );
        open_wake_pipe()?;
        for fd in [read, write] {
            if fd >= 0 {
                close(fd);
            }
        }
        Ok(())
    }
}

fn open_wake_pipe() -> io::Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    WAKE_READ.store(read.into_raw_fd(), Ordering::SeqCst);
    WAKE_WRITE.store(write.into_raw_fd(), Ordering::SeqCst);
    Ok(())
}

fn drain_wake_pipe() {
    let mut bytes = [0u8; 64];
    let fd = WAKE_READ.load(Ordering::SeqCst);
    while fd >= 0
        && nix::unistd::read(borrow(fd), &mut bytes).is_ok_and(|count| count == bytes.len())
    {}
}

#[expect(
    unsafe_code,
    reason = "a handler is registered through an unsafe function"
)]
fn register(signal: i32, level: Option<Level>) -> io::Result<()> {
    let handler = move || {
        if let Some(level) = level {
            LEVEL.fetch_max(level as u8, Ordering::SeqCst);
            let _ = SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        }
        let fd = WAKE_WRITE.load(Ordering::SeqCst);
        // SAFETY: write(2) is async-signal-safe; a full or closed pipe only loses a wake-up that is pending anyway.
        unsafe {
            libc::write(fd, [0u8].as_ptr().cast(), 1);
        }
    };
    // SAFETY: the handler touches atomics and calls write(2) only. signal-hook restores errno.
    unsafe { signal_hook::low_level::register(signal, handler).map(|_| ()) }
}

#[expect(unsafe_code, reason = "the wake pipe is a static raw descriptor")]
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the descriptors of the wake pipe stay open for the life of the process; they are only replaced in
    // after_fork, before anything else runs in the child.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

#[expect(unsafe_code, reason = "the wake pipe is a static raw descriptor")]
fn close(fd: RawFd) {
    // SAFETY: called for the two inherited pipe ends only, which nobody else owns in this process.
    unsafe {
        libc::close(fd);
    }
}

/// Poll a single descriptor; used by callers that own exactly one.
pub fn poll_one(
    shutdown: &Shutdown,
    fd: &impl std::os::fd::AsFd,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> Result<PollFlags> {
    let ready = shutdown.poll(&[(fd.as_fd(), flags)], deadline)?;
    debug_assert!(fd.as_fd().as_raw_fd() >= 0);
    Ok(ready.first().copied().unwrap_or(PollFlags::empty()))
}
