//! Runs another program to its end: reads one of its output pipes line by line, stops it when this process is asked to
//! stop, and always reaps it. Runs in the clone parent, which blocks here meanwhile. Knows nothing of what the program
//! is or prints. The program gets a signal when this process dies, and its own process group, so that its workers
//! can be stopped with it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::process::ExitReason;
use crate::sys::signal::Shutdown;

/// How often the child is looked at when it prints nothing: the wake-up pipe may not tell of its end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// From SIGTERM to SIGKILL: enough to cancel a statement on the server, half of what a whole stop may take.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the pipe may stay open after the child's end, when a process it started still holds it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// A line longer than this is handed over in pieces: memory stays bounded whatever the program prints.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Which output is read; the other one and the standard input are /dev/null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Start `command` and wait for its end. `on_line` gets each line without its newline. When `shutdown` asks to stop or
/// `deadline` passes, the program is ended first (SIGTERM, SIGKILL after 5 seconds), and the answer is an error. One of
/// kind `Config` says that the arguments are more than the system takes.
pub fn run(
    mut command: Command,
    output: Output,
    shutdown: &Shutdown,
    deadline: Option<Instant>,
    on_line: &mut dyn FnMut(&[u8]),
) -> Result<ExitReason> {
    shutdown.check()?;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut running = Running::start(&mut command, output).map_err(|cause| {
        let kind = match cause.kind() {
            io::ErrorKind::ArgumentListTooLong => ErrorKind::Config,
            _ => ErrorKind::Io,
        };
        Error::io(format!("could not run program \"{name}\""), cause).with_kind(kind)
    })?;
    let waited = running.wait(shutdown, deadline, on_line);
    match waited {
        Ok(Some(reason)) => Ok(reason),
        Ok(None) => {
            running.stop(on_line);
            Err(Error::new(
                ErrorKind::Child,
                format!("program \"{name}\" did not end in time"),
            ))
        }
        Err(error) => {
            running.stop(on_line);
            Err(error)
        }
    }
}

struct Running {
    child: Child,
    /// `None` once it is at its end.
    pipe: Option<Pipe>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    exit: Option<ExitReason>,
}

enum Pipe {
    Stdout(std::process::ChildStdout),
    Stderr(std::process::ChildStderr),
}

impl Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Pipe::Stdout(pipe) => pipe.read(buffer),
            Pipe::Stderr(pipe) => pipe.read(buffer),
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Pipe::Stdout(pipe) => pipe.as_fd(),
            Pipe::Stderr(pipe) => pipe.as_fd(),
        }
    }
}

impl Running {
    fn start(command: &mut Command, output: Output) -> io::Result<Running> {
        let stdio = |wanted: Output| {
            if wanted == output {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(stdio(Output::Stdout))
            .stderr(stdio(Output::Stderr))
            .process_group(0);
        die_with_parent(command);
        let mut child = command.spawn()?;
        let pipe = match output {
            Output::Stdout => child.stdout.take().map(Pipe::Stdout),
            Output::Stderr => child.stderr.take().map(Pipe::Stderr),
        };
        Ok(Running {
            child,
            pipe,
            line: Vec::new(),
            exit: None,
        })
    }

    /// Until the child has ended and its pipe is read to the end; `None` when the deadline passed before.
    fn wait(
        &mut self,
        shutdown: &Shutdown,
        deadline: Option<Instant>,
        on_line: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<ExitReason>> {
        let mut drain_deadline = None;
        loop {
            if self.exit.is_none() {
                self.exit = self
                    .child
                    .try_wait()
                    .context("could not wait for a program")?
                    .map(exit_reason);
            }
            let now = Instant::now();
            if let Some(reason) = self.exit {
                let until = *drain_deadline.get_or_insert(now + DRAIN_TIMEOUT);
                if self.pipe.is_none() || now >= until {
                    self.flush_line(on_line);
                    return Ok(Some(reason));
                }
            } else if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(None);
            }
            self.read_some(shutdown, now + LOOK_INTERVAL, on_line)?;
        }
    }

    /// Wait for output or for a moment, and hand over the lines that came.
    fn read_some(
        &mut self,
        shutdown: &Shutdown,
        until: Instant,
        on_line: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let Some(pipe) = &mut self.pipe else {
            // With nothing to read, the wake-up pipe tells of the child's end.
            shutdown.poll(&[], Some(until))?;
            return Ok(());
        };
        let ready = shutdown.poll(&[(pipe.as_fd(), PollFlags::POLLIN)], Some(until))?;
        if ready.iter().all(|flags| flags.is_empty()) {
            return Ok(());
        }
        let mut buffer = [0; 8192];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.take_lines(&buffer[..count], on_line),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("could not read a program's output", error)),
        }
        Ok(())
    }

    fn take_lines(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, is_whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.line.extend_from_slice(text);
            if is_whole || self.line.len() >= MAX_LINE_BYTES {
                on_line(&self.line);
                self.line.clear();
            }
        }
    }

    fn flush_line(&mut self, on_line: &mut dyn FnMut(&[u8])) {
        if !self.line.is_empty() {
            on_line(&self.line);
            self.line.clear();
        }
    }

    /// SIGTERM to the whole group, then SIGKILL. What it still prints is handed over.
    fn stop(&mut self, on_line: &mut dyn FnMut(&[u8])) {
        // The caller is being interrupted already: this wait has its own deadline instead.
        let deaf = Shutdown::deaf();
        self.signal_group(Signal::SIGTERM);
        let deadline = Instant::now() + TERMINATE_TIMEOUT;
        let waited = self.wait(&deaf, Some(deadline), on_line);
        if !matches!(waited, Ok(Some(_))) {
            self.signal_group(Signal::SIGKILL);
        }
    }

    fn signal_group(&self, signal: Signal) {
        // Not after the reaping: the number may be another's by then.
        if self.exit.is_none() {
            if let Ok(group) = i32::try_from(self.child.id()) {
                let _ = killpg(Pid::from_raw(group), signal);
            }
        }
    }
}

impl Drop for Running {
    /// Never a zombie, never a program that outlives the call, also when `on_line` panics.
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.signal_group(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn exit_reason(status: ExitStatus) -> ExitReason {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitReason::Code(code),
        (None, Some(signal)) => ExitReason::Signal(signal),
        // Neither happens only for a stopped process, which try_wait() does not report.
        (None, None) => ExitReason::Code(-1),
    }
}

/// SIGTERM at the death of this process, however it dies.
#[expect(unsafe_code, reason = "runs between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        // The parent may have died between fork and prctl: then no signal will ever come.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ECHILD))
        }
    };
    // SAFETY: the closure makes two system calls (prctl, getppid) and allocates nothing, so it is async-signal-safe.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::{Output, run};
    use crate::error::{ErrorKind, Result};
    use crate::sys::process::ExitReason;
    use crate::sys::signal::Shutdown;

    fn shell(
        script: &str,
        output: Output,
        limit: Option<Duration>,
    ) -> (Result<ExitReason>, Vec<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let deadline = limit.map(|limit| Instant::now() + limit);
        let outcome = run(command, output, &Shutdown::deaf(), deadline, &mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
        });
        (outcome, lines)
    }

    #[test]
    fn gives_lines_and_the_exit_code() {
        let (outcome, lines) = shell(
            "echo one >&2; printf 'two\\n\\nlast' >&2; echo no; exit 3",
            Output::Stderr,
            None,
        );
        assert_eq!(outcome.unwrap(), ExitReason::Code(3));
        assert_eq!(lines, ["one", "two", "", "last"]);
        let (outcome, lines) = shell("echo one; echo no >&2", Output::Stdout, None);
        assert_eq!(outcome.unwrap(), ExitReason::Code(0));
        assert_eq!(lines, ["one"]);
    }

    #[test]
    fn a_signal_is_not_an_exit_code() {
        let (outcome, _) = shell("kill -9 $$", Output::Stderr, None);
        assert_eq!(outcome.unwrap(), ExitReason::Signal(9));
    }

    #[test]
    fn a_missing_program_is_named() {
        let command = Command::new("/nonexistent/pg_dump");
        let outcome = run(
            command,
            Output::Stderr,
            &Shutdown::deaf(),
            None,
            &mut |_| {},
        );
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("\"/nonexistent/pg_dump\""));
    }

    #[test]
    fn the_deadline_ends_the_program_and_its_children() {
        let started = Instant::now();
        let script = "sleep 60 & echo $! >&2; wait";
        let (outcome, lines) = shell(script, Output::Stderr, Some(Duration::from_millis(200)));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Child);
        assert!(started.elapsed() < Duration::from_secs(4));
        let grandchild: i32 = lines[0].parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        // Reaped by init, which may take a moment.
        while is_running(grandchild) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!is_running(grandchild));
    }

    fn is_running(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_pipe_held_by_a_grandchild_does_not_hang() {
        let started = Instant::now();
        let (outcome, _) = shell("sleep 4 & exit 0", Output::Stderr, None);
        assert_eq!(outcome.unwrap(), ExitReason::Code(0));
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}
