//! Throw-away PostgreSQL servers of every version. Each has a data directory and a Unix socket in a directory of its
//! own and a TCP port on 127.0.0.1; it is gone when the `Cluster` is dropped, and also when the test binary ends
//! without dropping it (shared clusters, a kill). A server that is not installed fails the test: nothing is skipped.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use pgcopydb::ident::quote_ident;
use postgres::error::{ErrorPosition, SqlState};
use postgres::{Client, NoTls, SimpleQueryMessage};

use super::version::Version;
use super::wait_until;

/// How long a server may take to start or stop, on a machine that does other work at the same time.
const SERVER_DEADLINE: Duration = Duration::from_secs(60);

/// How `pg_ctl stop` calls them.
#[derive(Debug, Clone, Copy)]
pub enum StopMode {
    Smart,
    Fast,
    Immediate,
}

/// Ends the server and removes its directory as soon as its standard input closes, which happens on drop and also
/// when the test binary ends in any other way. Only a process that is at home in that data directory is signalled.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; then
  kill -QUIT "$pid"
  tries=0
  while [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 600 ]; do sleep 0.05; tries=$((tries + 1)); done
fi
rm -rf "$1"
"#;

/// One server.
pub struct Cluster {
    version: Version,
    dir: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
    watchdog: Child,
}

impl Cluster {
    /// Make and start one. `settings` come last in postgresql.conf, so they override ours (`("fsync", "on")`).
    pub fn start(version: Version, settings: &[(&str, &str)]) -> Cluster {
        Cluster::start_with(version, settings, Cluster::make_data_dir)
    }

    /// A hot standby of `primary`, which streams from it.
    pub fn standby_of(primary: &Cluster, settings: &[(&str, &str)]) -> Cluster {
        Cluster::start_with(primary.version, settings, |standby| {
            let output = standby
                .server_command("pg_basebackup")
                .args(["-R", "-c", "fast", "--no-sync", "-U", "postgres", "-p"])
                .arg(primary.port.to_string())
                .arg("-h")
                .arg(&primary.dir)
                .arg("-D")
                .arg(standby.data_dir())
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "pg_basebackup: {errors}");
        })
    }

    fn start_with(
        version: Version,
        settings: &[(&str, &str)],
        make_data_dir: impl FnOnce(&Cluster),
    ) -> Cluster {
        let dir = tempfile::Builder::new()
            .prefix("pgcopydb-test-")
            .tempdir()
            .unwrap()
            .keep();
        give_to_server_user(&dir);
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&dir)
            // A Ctrl-C at the terminal ends the tests, not the one who cleans up after them.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut cluster = Cluster {
            version,
            dir,
            port: 0,
            server: Mutex::new(None),
            watchdog,
        };
        make_data_dir(&cluster);
        // Somebody else may take the port between our probe and the server's bind.
        for attempt in 0.. {
            cluster.port = free_port();
            cluster.write_settings(settings);
            match cluster.try_start() {
                Ok(()) => return cluster,
                Err(log) if attempt < 5 && log.contains("could not bind") => {}
                Err(log) => panic!("{version:?} did not start:\n{log}"),
            }
        }
        unreachable!("the loop ends by return or panic")
    }

    /// Make the data directory: a copy of what initdb made once, which costs a tenth of another initdb. So clusters of
    /// one version have the same system identifier, as servers restored from one base backup do.
    fn make_data_dir(&self) {
        let template = self.template_path();
        if template.exists() {
            copy_dir(&template, &self.data_dir());
            return;
        }
        self.initdb();
        // Several may make it at a time: a rename takes effect at once, and the first one wins.
        let parent = template.parent().expect("it is in a directory");
        fs::create_dir_all(parent).unwrap();
        let copy = tempfile::tempdir_in(parent).unwrap();
        copy_dir(&self.data_dir(), &copy.path().join("data"));
        let _ = fs::rename(copy.path().join("data"), &template);
    }

    /// One for each build, which a new minor release is.
    fn template_path(&self) -> PathBuf {
        let output = self.server_command("postgres").arg("--version").output();
        let version = String::from_utf8(output.unwrap().stdout).unwrap();
        let name = version.replace(|c: char| !c.is_alphanumeric() && c != '.', "_");
        Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("initdb")
            .join(name)
    }

    fn initdb(&self) {
        let mut command = self.server_command("initdb");
        command
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(self.data_dir());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "initdb of {:?}: {}{}",
            self.version,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A program of this version as the user that servers run as, without our environment.
    fn server_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.version.bindir().join(program));
        command.env_clear().env("PATH", "/usr/bin:/bin");
        // The modules of some side-by-side builds would find the distribution's libpq, which is too old for them.
        command.env("LD_LIBRARY_PATH", self.version.bindir().join("../lib"));
        command.current_dir(&self.dir).stdin(Stdio::null());
        // PostgreSQL refuses to run as root.
        if let Some(user) = server_user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn write_settings(&self, settings: &[(&str, &str)]) {
        let port = self.port.to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", port.as_str()),
            ("unix_socket_directories", self.dir.to_str().unwrap()),
            ("fsync", "off"),
            ("wal_level", "logical"),
            ("max_connections", "100"),
            ("shared_buffers", "32MB"),
            ("log_line_prefix", "%m [%p] %d %a: "),
        ];
        self.configure(&ours);
        self.configure(settings);
    }

    /// Append to postgresql.conf; the caller restarts or reloads.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let path = self.data_dir().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''")).unwrap();
        }
    }

    /// Start it again, with the same port.
    pub fn start_again(&self) {
        if let Err(log) = self.try_start() {
            panic!("{:?} did not start again:\n{log}", self.version);
        }
    }

    fn try_start(&self) -> Result<(), String> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = self.server_command("postgres");
        command.arg("-D").arg(self.data_dir());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        while !self.says_ready(child.id()) {
            if child.try_wait().unwrap().is_some() || started.elapsed() > SERVER_DEADLINE {
                // A server that hangs would keep the directory; the log tells why.
                let _ = child.kill();
                let _ = child.wait();
                return Err(self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.server.lock().unwrap() = Some(child);
        Ok(())
    }

    /// Line 8 of postmaster.pid is what `pg_ctl start -w` waits for.
    fn says_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(pid.to_string().as_str())
            && lines
                .nth(6)
                .is_some_and(|status| matches!(status.trim(), "ready" | "standby"))
    }

    /// Stop it and wait until it is gone.
    pub fn stop(&self, mode: StopMode) -> ExitStatus {
        let mut server = self.server.lock().unwrap();
        let mut child = server.take().expect("the server is running");
        let signal = match mode {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let mut status = None;
        wait_until(SERVER_DEADLINE, "the server to stop", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.expect("waited for")
    }

    /// A crash and a recovery: whatever was not flushed is lost.
    pub fn restart_immediate(&self) {
        self.stop(StopMode::Immediate);
        self.start_again();
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The server log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Over the Unix socket, as superuser.
    pub fn uri(&self, db: &str) -> String {
        format!(
            "postgresql:///{}?host={}&port={}&user=postgres",
            percent_encode(db),
            percent_encode(self.dir.to_str().unwrap()),
            self.port
        )
    }

    /// Over TCP, as superuser; `port` may be that of a proxy.
    pub fn tcp_uri(&self, db: &str, port: u16) -> String {
        format!(
            "postgresql://postgres@127.0.0.1:{port}/{}",
            percent_encode(db)
        )
    }

    /// An independent client: what it sees does not depend on our own protocol code.
    pub fn client(&self, db: &str) -> Client {
        let mut config = postgres::Config::new();
        config
            .host_path(&self.dir)
            .port(self.port)
            .user("postgres")
            .dbname(db)
            .application_name("test client");
        let mut client = config.connect(NoTls);
        // Somebody may have sent it into crash recovery just now.
        wait_until(SERVER_DEADLINE, "the server to take connections", || {
            let error = client.as_ref().err();
            let is_recovering =
                error.is_some_and(|error| error.code() == Some(&SqlState::CANNOT_CONNECT_NOW));
            if is_recovering {
                client = config.connect(NoTls);
            }
            !is_recovering
        });
        client.unwrap_or_else(|error| {
            panic!("cannot connect to {:?} \"{db}\": {error:?}", self.version)
        })
    }

    /// Run any number of statements.
    #[track_caller]
    pub fn psql(&self, db: &str, sql: &str) {
        if let Err(error) = self.client(db).batch_execute(sql) {
            let version = self.version;
            panic!("on {version:?} \"{db}\": {}", describe(&error, sql));
        }
    }

    /// The rows of a query, as text.
    #[track_caller]
    pub fn rows(&self, db: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        rows(&mut self.client(db), sql)
    }

    /// The only value of a query's only row.
    #[track_caller]
    pub fn value(&self, db: &str, sql: &str) -> String {
        let rows = self.rows(db, sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// An empty database with the given name.
    pub fn create_db(&self, name: &str) {
        let name = quote_ident(name);
        self.psql(
            "postgres",
            &format!("create database {name} template template0"),
        );
    }

    /// An empty database with a name that nobody else has, for a test on a shared cluster.
    pub fn new_db(&self, prefix: &str) -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.create_db(&name);
        name
    }

    /// Run a file with psql (of 18, as the older ones come without), which knows COPY FROM stdin.
    pub fn load_file(&self, db: &str, file: &Path) {
        let output = Command::new(Version::Pg18.bindir().join("psql"))
            .env_clear()
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.uri(db)])
            .stdin(File::open(file).unwrap())
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "psql of \"{}\" on {:?}: {}",
            file.display(),
            self.version,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.lock().unwrap().take() {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGQUIT);
            let _ = child.wait();
        }
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The rows of a query over an open connection, as text.
#[track_caller]
pub fn rows(client: &mut Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client
        .simple_query(sql)
        .unwrap_or_else(|error| panic!("{}", describe(&error, sql)));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let columns = 0..row.len();
            Some(columns.map(|i| row.get(i).map(str::to_owned)).collect())
        }
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// What the server said, and the place in a long script that it speaks of.
fn describe(error: &postgres::Error, sql: &str) -> String {
    let Some(server) = error.as_db_error() else {
        return format!("{error:?} in {}", excerpt(sql, 0));
    };
    let position = match server.position() {
        Some(ErrorPosition::Original(position)) => *position as usize,
        _ => 0,
    };
    let details = [server.detail(), server.hint(), server.where_()];
    let details: Vec<&str> = details.into_iter().flatten().collect();
    format!(
        "{server} (SQLSTATE {}) {} at: {}",
        server.code().code(),
        details.join("; "),
        excerpt(sql, position)
    )
}

fn excerpt(sql: &str, position: usize) -> String {
    let start = position.saturating_sub(100);
    sql.chars().skip(start).take(300).collect()
}

/// The source that most tests share: Debian's 15, each test with databases of its own.
pub fn shared_source() -> &'static Cluster {
    static SOURCE: OnceLock<Cluster> = OnceLock::new();
    SOURCE.get_or_init(|| Cluster::start(Version::Debian15, &[]))
}

/// The target that most tests share.
pub fn shared_target() -> &'static Cluster {
    static TARGET: OnceLock<Cluster> = OnceLock::new();
    TARGET.get_or_init(|| Cluster::start(Version::Debian15, &[]))
}

/// Whom servers run as; none when we are not root ourselves.
fn server_user() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let user = User::from_name("postgres").unwrap();
    Some(user.expect("no system user postgres: run scripts/install-postgres"))
}

/// With owners and modes, which the server checks.
fn copy_dir(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let status = command.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    assert!(status.status().unwrap().success(), "cp of {from:?}");
}

/// Let the server user write there, and everybody reach the socket.
fn give_to_server_user(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    if let Some(user) = server_user() {
        chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// A port that nobody listens on, below the range that the kernel hands to outgoing connections, so that a server
/// can be stopped for a while without losing it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several test binaries at a time start from different places.
    let base = 15_000 + (std::process::id() % 16_000) as u16;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
