//! The receive process alone, against a real server: what is in the segment files and on the pipe, and what is confirmed
//! to the slot, through kills, lost connections, restarts and pipes that nobody reads. Traps 1, 2, 6 and 9, as far as they
//! concern receive. It runs in a process of its own, which is this test binary once more: see `receive_process`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcopydb::error::Side;
use pgcopydb::logging::{self, Severity};
use pgcopydb::lsn::Lsn;
use pgcopydb::pg::conninfo::ConnInfo;
use pgcopydb::sentinel::without_page_header;
use pgcopydb::stream::positions::{Positions, ReceiveEnd};
use pgcopydb::stream::receive::{self, ReceiveSpec};
use pgcopydb::stream::segment;
use pgcopydb::sys::signal::Shutdown;
use serde_json::{Value, json};

use crate::support::cluster::{Cluster, StopMode};
use crate::support::version::Version;
use crate::support::wait_until;

/// What the process is to do, as JSON.
const TASK: &str = "PGCOPYDB_TEST_RECEIVE";

const SOON: Duration = Duration::from_secs(30);

/// Not a test of its own: the process that the tests below start.
#[test]
fn receive_process() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let task: Value = serde_json::from_str(&task).unwrap();
    let text = |name: &str| task[name].as_str().unwrap();
    logging::init(Severity::Info).unwrap();
    let shutdown = Shutdown::install().unwrap();
    let positions = Positions::create().unwrap();
    positions.set_endpos(task["endpos"].as_str().map(|lsn| lsn.parse().unwrap()));
    let spec = ReceiveSpec {
        source: ConnInfo::parse(Side::Source, text("source")).unwrap(),
        application_name: format!("receive {}", text("slot")),
        slot_name: text("slot").to_owned(),
        plugin: text("plugin").parse().unwrap(),
        publication: "pub".to_owned(),
        dir: PathBuf::from(text("dir")),
        startpos: text("startpos").parse().unwrap(),
        filters: None,
        left_out: PathBuf::new(),
    };
    let (pipe, reader) = make_pipe(task["pipe"].as_str());
    let code = match receive::run(&spec, &positions, pipe, None, &shutdown) {
        Ok(ReceiveEnd::EndPos) => 0,
        Ok(end) => panic!("{end:?}"),
        Err(error) => {
            error.log("");
            i32::from(error.exit_code())
        }
    };
    // Receive has closed its end: the copy ends with the last byte.
    if let Some(Reader::Copies(thread)) = reader {
        thread.join().unwrap();
    }
    std::process::exit(code);
}

/// A pipe that nobody reads ("full"), or one that is copied to a file of that name, slowly if it is called so.
fn make_pipe(kind: Option<&str>) -> (Option<OwnedFd>, Option<Reader>) {
    let Some(kind) = kind else {
        return (None, None);
    };
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    if kind == "full" {
        return (Some(write), Some(Reader::Nobody(read)));
    }
    let mut copy = File::create(kind).unwrap();
    let is_slow = kind.ends_with("slow");
    let thread = std::thread::spawn(move || {
        let mut pipe = File::from(read);
        let mut bytes = vec![0; 20_000];
        while let Ok(count @ 1..) = pipe.read(&mut bytes) {
            copy.write_all(&bytes[..count]).unwrap();
            if is_slow {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    });
    (Some(write), Some(Reader::Copies(thread)))
}

/// Who has the other end of the pipe.
enum Reader {
    /// It is kept open and not read.
    Nobody(#[expect(dead_code, reason = "the descriptor only has to stay open")] OwnedFd),
    Copies(JoinHandle<()>),
}

/// A source with a slot, and where its changes go.
struct Scene {
    source: Arc<Cluster>,
    plugin: &'static str,
    slot: String,
    startpos: String,
    tmp: tempfile::TempDir,
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Scene {
    fn new(source: &Arc<Cluster>, plugin: &'static str) -> Scene {
        if source
            .value("postgres", "select to_regclass('t')::text")
            .is_empty()
        {
            source.psql(
                "postgres",
                "create table t (id bigint generated always as identity primary key, tx text, v text); \
                 create publication pub for table t",
            );
        }
        let slots = "select count(*) from pg_replication_slots";
        let slot = format!("slot_{}", source.value("postgres", slots));
        let startpos = source.value(
            "postgres",
            &format!("select lsn from pg_create_logical_replication_slot('{slot}', '{plugin}')"),
        );
        Scene {
            source: Arc::clone(source),
            plugin,
            slot,
            startpos,
            tmp: tempfile::tempdir().unwrap(),
        }
    }

    fn start(&self, endpos: Option<&str>, pipe: Option<&str>) -> Running {
        let task = json!({
            "source": self.source.uri("postgres"), "dir": self.tmp.path().join("cdc"), "slot": self.slot,
            "plugin": self.plugin, "startpos": self.startpos, "endpos": endpos, "pipe": pipe,
        });
        segment::make_directory(&self.tmp.path().join("cdc")).unwrap();
        let log = self.tmp.path().join("log");
        let out = OpenOptions::new().create(true).append(true).open(&log);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "receive::receive_process", "--nocapture"])
            .env(TASK, task.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out.unwrap())
            .spawn()
            .unwrap();
        Running { child, log }
    }

    /// Everything that is committed now.
    fn run_to_here(&self) {
        let endpos = self.here();
        let status = self.start(Some(&endpos), None).wait(SOON);
        assert!(status.success(), "{status} {}", self.log());
    }

    fn here(&self) -> String {
        let lsn = self
            .source
            .value("postgres", "select pg_current_wal_insert_lsn()");
        // Just behind a switch there is only a page header, which an idle source takes long to pass.
        without_page_header(lsn.parse().unwrap(), 16 << 20, 8192).to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.tmp.path().join("log")).unwrap_or_default()
    }

    fn slot(&self, column: &str) -> String {
        let slot = &self.slot;
        self.source.value(
            "postgres",
            &format!("select {column} from pg_replication_slots where slot_name = '{slot}'"),
        )
    }

    fn files(&self) -> Vec<PathBuf> {
        segment::json_files(&self.tmp.path().join("cdc")).unwrap()
    }

    /// Whole lines of all files.
    fn text(&self) -> String {
        let texts = self.files().into_iter().map(|path| whole_lines(&path));
        texts.collect()
    }

    /// The last commit or keepalive in the files.
    fn recorded(&self) -> Lsn {
        for path in self.files().iter().rev() {
            let text = whole_lines(path);
            let last = text.lines().rfind(|line| {
                line.starts_with("{\"action\":\"C\"") || line.starts_with("{\"action\":\"K\"")
            });
            if let Some(line) = last {
                let line: Value = serde_json::from_str(line).unwrap();
                return line["lsn"].as_str().unwrap().parse().unwrap();
            }
        }
        self.startpos.parse().unwrap()
    }

    /// The files hold each row of the table once, with the others of its transaction, in commit order.
    #[track_caller]
    fn assert_complete(&self) {
        let transactions = transactions(&self.text());
        let mut ids = BTreeSet::new();
        for pair in transactions.windows(2) {
            assert!(pair[0].lsn < pair[1].lsn, "{pair:?}");
        }
        for transaction in &transactions {
            let labels: BTreeSet<_> = transaction.rows.iter().map(|row| &row.1).collect();
            assert_eq!(labels.len(), 1, "{transaction:?}");
            for (id, _) in &transaction.rows {
                assert!(ids.insert(id.parse::<i64>().unwrap()), "{id} came twice");
            }
        }
        let rows = self.source.rows("postgres", "select id from t order by id");
        let expected: BTreeSet<i64> = rows
            .iter()
            .map(|row| row[0].as_deref().unwrap().parse().unwrap())
            .collect();
        assert!(ids == expected, "{} of {}", ids.len(), expected.len());
    }
}

impl Running {
    #[track_caller]
    fn wait(mut self, deadline: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if started.elapsed() > deadline {
                let _ = self.child.kill();
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                panic!("receive did not end within {deadline:?}: {log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn term(self) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.wait(Duration::from_secs(10))
    }
}

fn whole_lines(path: &Path) -> String {
    let mut bytes = fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    bytes.truncate(end.map_or(0, |at| at + 1));
    String::from_utf8(bytes).unwrap()
}

#[derive(Debug, PartialEq)]
struct Transaction {
    lsn: Lsn,
    /// The first two columns.
    rows: Vec<(String, String)>,
}

/// The transactions of a file or of the pipe, where one may be taken back.
fn transactions(text: &str) -> Vec<Transaction> {
    let mut done = Vec::new();
    let mut rows = None;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match line["action"].as_str().unwrap() {
            "B" => assert!(rows.replace(Vec::new()).is_none(), "B inside a transaction"),
            "X" => assert!(rows.take().is_some(), "X outside of a transaction"),
            "C" => done.push(Transaction {
                lsn: line["lsn"].as_str().unwrap().parse().unwrap(),
                rows: rows.take().unwrap(),
            }),
            "I" => {
                let value = |at: usize| line["new"][at].as_str().unwrap().to_owned();
                rows.as_mut().unwrap().push((value(0), value(1)));
            }
            "K" | "F" => assert!(rows.is_none(), "{line} inside a transaction"),
            _ => {}
        }
    }
    done
}

/// Sessions that insert, roll back and leave the server alone for nothing, until told.
struct Load {
    must_stop: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(source: &Arc<Cluster>) -> Load {
        let must_stop = Arc::new(AtomicBool::new(false));
        let session = |number: u32| {
            let (source, must_stop) = (Arc::clone(source), Arc::clone(&must_stop));
            std::thread::spawn(move || insert(&source, number, &must_stop))
        };
        let sessions = (0..3).map(session).collect();
        Load {
            must_stop,
            sessions,
        }
    }

    fn stop(self) {
        self.must_stop.store(true, Ordering::Relaxed);
        for session in self.sessions {
            session.join().unwrap();
        }
    }
}

/// The server may be away at any time; what the table holds in the end is what was committed.
fn insert(source: &Cluster, session: u32, must_stop: &AtomicBool) {
    let config = format!(
        "host={} port={} user=postgres dbname=postgres",
        source.socket_dir().display(),
        source.port()
    );
    let mut client = None;
    for number in 0.. {
        if must_stop.load(Ordering::Relaxed) {
            return;
        }
        let connection = client
            .take()
            .or_else(|| postgres::Client::connect(&config, postgres::NoTls).ok());
        let Some(mut connection) = connection else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let rows = if number % 50 == 7 {
            3000
        } else {
            1 + number % 4
        };
        let end = if number % 9 == 3 {
            "rollback"
        } else {
            "commit"
        };
        let sql = format!(
            "begin; insert into t (tx, v) select '{session}-{number}', repeat('x', 300) \
             from generate_series(1, {rows}); {end}"
        );
        if connection.batch_execute(&sql).is_ok() {
            client = Some(connection);
        }
        // A load that two cores can follow while the other tests run.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn source(version: Version) -> Arc<Cluster> {
    Arc::new(Cluster::start(version, &[("wal_sender_timeout", "5s")]))
}

fn terminate_walsender(source: &Cluster) {
    source.psql(
        "postgres",
        "select pg_terminate_backend(pid) from pg_stat_replication",
    );
}

/// Let it run on for as long as it takes to receive something new; confirmed never passes what is recorded.
#[track_caller]
fn wait_for_progress(scene: &Scene) {
    let before = scene.recorded();
    wait_until(SOON, "new transactions in the files", || {
        let confirmed: Lsn = scene.slot("confirmed_flush_lsn").parse().unwrap();
        let recorded = scene.recorded();
        assert!(confirmed <= recorded, "{confirmed} {recorded}");
        recorded > before
    });
}

fn survives_faults(version: Version, plugin: &'static str) {
    let source = source(version);
    let scene = Scene::new(&source, plugin);
    let load = Load::start(&source);
    for _ in 0..2 {
        let running = scene.start(None, None);
        wait_for_progress(&scene);
        terminate_walsender(&source);
        wait_for_progress(&scene);
        source.psql("postgres", "select pg_switch_wal()");
        wait_for_progress(&scene);
        running.kill9();
        let running = scene.start(None, None);
        wait_for_progress(&scene);
        source.stop(StopMode::Fast);
        source.start_again();
        wait_for_progress(&scene);
        running.kill9();
    }
    load.stop();
    scene.run_to_here();
    let startpos: Lsn = scene.startpos.parse().unwrap();
    let confirmed: Lsn = scene.slot("confirmed_flush_lsn").parse().unwrap();
    assert!(confirmed > startpos, "{confirmed}");
    scene.assert_complete();
    assert!(scene.files().len() > 1, "{:?}", scene.files());
    assert!(!scene.log().contains("panicked"), "{}", scene.log());
}

#[test]
fn faults_lose_and_double_nothing_17_pgoutput() {
    survives_faults(Version::Pg17, "pgoutput");
}

#[test]
fn faults_lose_and_double_nothing_15_test_decoding() {
    survives_faults(Version::Debian15, "test_decoding");
}

/// Receive eight transactions in eight files through a pipe, losing the connection as `disturb` likes; returns what came.
fn receive_through_pipe(pipe: &str, rows: u32, disturb: impl Fn(&Cluster, &Path)) -> String {
    let source = source(Version::Pg17);
    let scene = Scene::new(&source, "test_decoding");
    let copy = scene.tmp.path().join(pipe);
    source.psql(
        "postgres",
        &format!(
            "do $$ begin for i in 1..8 loop insert into t (tx, v) select i, repeat('x', 100) \
             from generate_series(1, {rows}); commit; perform pg_switch_wal(); end loop; end $$"
        ),
    );
    let endpos = scene.here();
    let running = scene.start(Some(&endpos), copy.to_str());
    disturb(&source, &copy);
    assert!(running.wait(2 * SOON).success(), "{}", scene.log());
    assert!(scene.log().contains("connecting again"), "{}", scene.log());
    scene.assert_complete();
    let piped = fs::read_to_string(copy).unwrap();
    assert_eq!(transactions(&piped).len(), 8);
    assert!(transactions(&piped) == transactions(&scene.text()));
    assert!(scene.files().len() >= 8, "{:?}", scene.files());
    piped
}

/// A reader that keeps up has seen a part of what is cut off, and is told.
#[test]
fn the_pipe_takes_back_what_comes_again() {
    let piped = receive_through_pipe("fast", 30_000, |source, copy| {
        for _ in 0..2 {
            wait_until(SOON, "half a transaction in the pipe", || {
                let text = fs::read_to_string(copy).unwrap_or_default();
                let last = text.rfind("\"action\":\"B\"").map_or("", |at| &text[at..]);
                last.len() > 100_000 && !last.contains("\"action\":\"C\"")
            });
            terminate_walsender(source);
        }
    });
    assert!(piped.contains("{\"action\":\"X\"}"));
}

/// A reader that is files behind gets all of them, and none twice.
#[test]
fn a_slow_pipe_says_what_the_files_say() {
    receive_through_pipe("slow", 10_000, |source, copy| {
        // Receive is files ahead when the pipe has come to the end of the first.
        wait_until(SOON, "a few lines in the pipe", || {
            copy.metadata().is_ok_and(|copy| copy.len() > 0)
        });
        terminate_walsender(source);
    });
}

/// Trap 9: the server must not think us dead, neither when nothing happens nor when nobody reads the pipe.
#[test]
fn no_silence_ends_the_stream() {
    for version in [Version::Pg17, Version::Pg11] {
        let source = Arc::new(Cluster::start(version, &[("wal_sender_timeout", "2s")]));
        let silent = [None, Some("full")].map(|pipe| {
            let scene = Scene::new(&source, "test_decoding");
            let running = scene.start(None, pipe);
            (scene, running)
        });
        let sql =
            "insert into t (tx, v) select 'one', repeat('x', 500) from generate_series(1, 20000)";
        source.psql("postgres", sql);
        let pids = silent.each_ref().map(|(scene, _)| {
            wait_until(SOON, "all rows in the files", || {
                scene.text().matches("{\"action\":\"C\"").count() == 1
            });
            scene.slot("active_pid")
        });
        // More than twice the server's patience.
        std::thread::sleep(Duration::from_secs(5));
        for ((scene, running), pid) in silent.into_iter().zip(pids) {
            assert_eq!(scene.slot("active_pid"), pid, "{}", scene.log());
            let confirmed: Lsn = scene.slot("confirmed_flush_lsn").parse().unwrap();
            let startpos: Lsn = scene.startpos.parse().unwrap();
            assert!(confirmed > startpos);
            // A signal ends it at once, whatever the pipe does.
            assert_eq!(running.term().code(), Some(12));
        }
        assert!(!source.log().contains("replication timeout"));
    }
}

/// The end position before, at and after a commit, in the past, and where nothing happens any more.
#[test]
fn each_end_position_is_reached() {
    let source = source(Version::Pg17);
    let scenes: Vec<Scene> = (0..4).map(|_| Scene::new(&source, "pgoutput")).collect();
    source.psql("postgres", "insert into t (tx, v) values ('one', 'x')");
    source.psql("postgres", "insert into t (tx, v) values ('two', 'x')");
    scenes[3].run_to_here();
    let found = transactions(&scenes[3].text());
    assert_eq!(found.len(), 2);
    let commit = found[0].lsn;
    for (scene, endpos) in scenes.iter().zip([commit.0 - 1, commit.0, commit.0 + 1]) {
        let status = scene.start(Some(&Lsn(endpos).to_string()), None);
        assert!(status.wait(Duration::from_secs(10)).success());
        assert!(scene.recorded() >= Lsn(endpos));
        let found = transactions(&scene.text());
        assert_eq!(found[0].lsn, commit);
        let confirmed: Lsn = scene.slot("confirmed_flush_lsn").parse().unwrap();
        assert!(confirmed >= Lsn(endpos), "{confirmed}");
        // What it has is not lost for a later run, and does not come again.
        scene.run_to_here();
        scene.assert_complete();
    }
    // In the past by now.
    let status = scenes[0].start(Some(&commit.to_string()), None);
    assert!(status.wait(Duration::from_secs(10)).success());
}

/// A slot that somebody moved: the changes between are gone, and that is said.
#[test]
fn a_slot_that_is_ahead_is_refused() {
    let source = source(Version::Pg17);
    let scene = Scene::new(&source, "test_decoding");
    source.psql("postgres", "insert into t (tx, v) values ('one', 'x')");
    let slot = &scene.slot;
    source.psql(
        "postgres",
        &format!("select pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())"),
    );
    let status = scene.start(None, None).wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(3), "{}", scene.log());
    assert!(scene.log().contains("has confirmed everything before"));
}

/// A publication that is gone: an error of the plugin, again and again.
#[test]
fn a_plugin_that_fails_is_not_asked_for_ever() {
    let source = source(Version::Pg17);
    let scene = Scene::new(&source, "pgoutput");
    source.psql(
        "postgres",
        "drop publication pub; insert into t (tx, v) values ('one', 'x')",
    );
    let status = scene.start(None, None).wait(SOON);
    assert_eq!(status.code(), Some(4), "{}", scene.log());
    assert!(scene.log().contains("publication \"pub\" does not exist"));
}
