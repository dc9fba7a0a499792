//! Runs the program under test as a user would: in an environment of its own, with a work directory of its own, under
//! a deadline. `PGCOPYDB_UNDER_TEST` names another program than ours, for conformance runs.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::leftovers::{self, Process};
use super::version::Version;

/// Every process of a run inherits this variable, which is how the ones it leaves behind are found.
pub const TEST_ID: &str = "PGCOPYDB_TEST_ID";

/// Long enough for any run of a small database on a busy machine.
pub const RUN_DEADLINE: Duration = Duration::from_secs(120);

pub fn program() -> OsString {
    std::env::var_os("PGCOPYDB_UNDER_TEST")
        .unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_pgcopydb")))
}

/// Where one migration happens: the work directory that its runs share, their captured output, an empty home.
pub struct Scene {
    id: String,
    tmp: TempDir,
    outputs: AtomicU32,
}

impl Scene {
    pub fn new() -> Scene {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let tmp = tempfile::Builder::new()
            .prefix("pgcopydb-scene-")
            .tempdir()
            .unwrap();
        for dir in ["home", "tmp"] {
            fs::create_dir(tmp.path().join(dir)).unwrap();
        }
        Scene {
            id: format!("{}-{count}", std::process::id()),
            tmp,
            outputs: AtomicU32::new(1),
        }
    }

    /// What `--dir` is given: a directory that the program has to make.
    pub fn work_dir(&self) -> PathBuf {
        self.tmp.path().join("work")
    }

    /// Where all of it is.
    pub fn dir(&self) -> &Path {
        self.tmp.path()
    }

    /// A place for files that a test makes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// The program with these arguments; `--dir` is not among them, as some commands know none.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        self.invocation(&program(), args)
    }

    /// A script for bash that ends at the first command that fails, with `pgcopydb` and `psql` as a user has them. Without
    /// `-u`: bash unsets COPROC_PID as soon as the coproc has ended.
    pub fn bash(&self, script: &str) -> Invocation {
        let strict = format!("set -eo pipefail\n{script}");
        let mut path = Path::new(&program())
            .parent()
            .unwrap()
            .as_os_str()
            .to_owned();
        for more in [
            std::env::var_os("PATH").unwrap_or_default(),
            Version::Pg18.bindir().into_os_string(),
        ] {
            path.push(":");
            path.push(more);
        }
        self.invocation(OsStr::new("bash"), ["-c", &strict])
            .env("PATH", path)
    }

    fn invocation<S: AsRef<OsStr>>(
        &self,
        program: &OsStr,
        args: impl IntoIterator<Item = S>,
    ) -> Invocation {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("LANG", "C.UTF-8")
            .env(TEST_ID, &self.id)
            .current_dir(self.path("tmp"))
            .stdin(Stdio::null());
        let number = self.outputs.fetch_add(1, Ordering::Relaxed);
        Invocation {
            command,
            id: self.id.clone(),
            work_dir: self.work_dir(),
            stdout: self.path(&format!("{number}.stdout")),
            stderr: self.path(&format!("{number}.stderr")),
        }
    }

    /// `pgcopydb clone` of one database into another, with further arguments.
    pub fn clone_db(&self, source: &str, target: &str, more: &[&str]) -> Invocation {
        let work_dir = self.work_dir();
        let work_dir = work_dir.to_str().unwrap();
        let mut args = vec!["clone", "--source", source, "--target", target];
        args.extend(["--dir", work_dir]);
        args.extend(more);
        self.command(args)
    }

    /// The processes of this scene's runs that are alive.
    pub fn processes(&self) -> Vec<Process> {
        leftovers::processes_with(TEST_ID, &self.id, &self.work_dir())
    }

    /// No process and no queue is left 10 seconds after the end of a run, which is what the program promises.
    #[track_caller]
    pub fn assert_nothing_left(&self, outcome: &Outcome) {
        leftovers::assert_no_process(|| self.processes());
        leftovers::assert_no_queue(&outcome.pids);
    }
}

impl Drop for Scene {
    /// A failed test must not leave its processes to the others.
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}

/// One run to be.
pub struct Invocation {
    command: Command,
    id: String,
    work_dir: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Invocation {
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Invocation {
        self.command.env(name, value);
        self
    }

    /// Which pg_dump and pg_restore are found first.
    pub fn tools(self, version: Version) -> Invocation {
        let mut path = version.bindir().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        self.env("PATH", path)
    }

    /// Start it in the background. Output goes to files: a pipe would stay open as long as any child holds it.
    pub fn spawn(mut self) -> Running {
        self.command.stdout(File::create(&self.stdout).unwrap());
        self.command.stderr(File::create(&self.stderr).unwrap());
        let child = self.command.spawn().unwrap();
        Running {
            child,
            started: Instant::now(),
            id: self.id,
            work_dir: self.work_dir,
            stdout: self.stdout,
            stderr: self.stderr,
            pids: Vec::new(),
        }
    }

    /// For a test that has its own idea of where the output goes.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Run it to its end.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.spawn().wait_deadline(RUN_DEADLINE)
    }
}

/// A run under way.
pub struct Running {
    child: Child,
    started: Instant,
    id: String,
    work_dir: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Every process seen so far, for the queues that they may leave.
    pids: Vec<i32>,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        // The process cannot have been replaced by another: nobody but us reaps it.
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn kill9(&self) {
        self.signal(Signal::SIGKILL);
    }

    pub fn is_running(&mut self) -> bool {
        self.note_pids();
        self.child.try_wait().unwrap().is_none()
    }

    /// The log so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Its processes, the parent among them, workers and pg_dump too.
    pub fn processes(&self) -> Vec<Process> {
        leftovers::processes_with(TEST_ID, &self.id, &self.work_dir)
    }

    fn note_pids(&mut self) {
        for process in self.processes() {
            if !self.pids.contains(&process.pid) {
                self.pids.push(process.pid);
            }
        }
    }

    /// Wait for the end of the parent; a run that does not end in time is killed and fails the test.
    #[track_caller]
    pub fn wait_deadline(mut self, deadline: Duration) -> Outcome {
        let waiting_since = Instant::now();
        let mut next_look = waiting_since;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if waiting_since.elapsed() > deadline {
                let processes = self.processes();
                for process in &processes {
                    let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
                }
                let _ = self.child.wait();
                let log = self.stderr();
                panic!("not finished within {deadline:?}; running: {processes:#?}; log:\n{log}");
            }
            // The scan costs a millisecond or two, so it is made less often than the end is looked for.
            if Instant::now() >= next_look {
                self.note_pids();
                next_look = Instant::now() + Duration::from_millis(50);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.note_pids();
        self.pids.push(self.pid());
        Outcome {
            status,
            stdout: read_lossy(&self.stdout),
            stderr: read_lossy(&self.stderr),
            elapsed: self.started.elapsed(),
            pids: self.pids,
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    pub pids: Vec<i32>,
}

impl Outcome {
    /// It ended with 0, and the log has no warning and no error but those that contain one of `expected`.
    #[track_caller]
    pub fn assert_success(&self, expected: &[&str]) {
        assert!(self.status.success(), "{}\n{}", self.status, self.stderr);
        self.assert_no_unexpected(expected);
    }

    /// It ended with this exit code, and said all of `texts` in its log.
    #[track_caller]
    pub fn assert_failure(&self, code: i32, texts: &[&str]) {
        let (status, log) = (self.status, &self.stderr);
        assert_eq!(status.code(), Some(code), "{status}\n{log}");
        for text in texts {
            assert!(log.contains(text), "no \"{text}\" in the log:\n{log}");
        }
    }

    /// It ended with this exit code, and the last error line of its log has all of `texts`.
    #[track_caller]
    pub fn assert_last_error(&self, code: i32, texts: &[&str]) {
        let (status, log) = (self.status, &self.stderr);
        assert_eq!(status.code(), Some(code), "{status}\n{log}");
        let errors = unexpected_lines(log, &[" WARN "]);
        let last = errors.last().map_or("", String::as_str);
        assert!(!last.contains("panicked at"), "{log}");
        for text in texts {
            assert!(last.contains(text), "no \"{text}\" in {last}\n{log}");
        }
    }

    /// It died by this signal.
    #[track_caller]
    pub fn assert_signalled(&self, signal: Signal) {
        let (status, log) = (self.status, &self.stderr);
        assert_eq!(status.signal(), Some(signal as i32), "{status}\n{log}");
    }

    #[track_caller]
    pub fn assert_no_unexpected(&self, expected: &[&str]) {
        let unexpected = unexpected_lines(&self.stderr, expected);
        let log = &self.stderr;
        assert!(
            unexpected.is_empty(),
            "unexpected: {unexpected:#?} in\n{log}"
        );
    }
}

/// The warnings, errors and panics of a log, without those that contain one of `expected`. A log line reads
/// "HH:MM:SS.mmm pid LEVEL message".
pub fn unexpected_lines(log: &str, expected: &[&str]) -> Vec<String> {
    let is_bad = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        let is_log_line = words.next().is_some_and(|time| time.contains(':'))
            && words.next().is_some_and(|pid| pid.parse::<u32>().is_ok());
        let level = if is_log_line { words.next() } else { None };
        matches!(level, Some("WARN" | "ERROR" | "FATAL")) || line.contains("panicked at")
    };
    log.lines()
        .filter(is_bad)
        .filter(|line| !expected.iter().any(|text| line.contains(text)))
        .map(str::to_owned)
        .collect()
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
