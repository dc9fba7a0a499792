//! One database that is followed to another: what the tests of change data capture are about. Each has a slot and an
//! origin of its own name, on servers that follow tests share or on servers of its own. Its end is always the same: an end
//! position, exit 0, both sides equal, `stream cleanup`, and nothing left anywhere.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::Cluster;
use super::cmd::{Invocation, Outcome, RUN_DEADLINE, Running, Scene};
use super::compare::assert_same;
use super::reference::assert_same_across_versions;
use super::version::Version;
use super::{leftovers, wait_until};

/// How long anything that follows from a change may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Every plugin must be allowed by name (trap 56), and each test has a slot, a sender and an origin of its own.
pub const SETTINGS: &[(&str, &str)] = &[
    ("max_replication_slots", "60"),
    ("max_wal_senders", "60"),
    ("max_prepared_transactions", "10"),
    (
        "output_plugin_libraries",
        "pgoutput, test_decoding, wal2json",
    ),
];

/// A pair of servers for all tests that restart neither.
pub fn shared(version: Version) -> (&'static Cluster, &'static Cluster) {
    static DEBIAN: OnceLock<(Cluster, Cluster)> = OnceLock::new();
    static SEVENTEEN: OnceLock<(Cluster, Cluster)> = OnceLock::new();
    let pair = match version {
        Version::Debian15 => &DEBIAN,
        Version::Pg17 => &SEVENTEEN,
        _ => panic!("no shared pair of {version:?}"),
    };
    let (source, target) = pair.get_or_init(|| (start(version), start(version)));
    (source, target)
}

/// A server that can be a source or a target.
pub fn start(version: Version) -> Cluster {
    Cluster::start(version, SETTINGS)
}

/// `pgcopydb stream sentinel get --json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinel {
    pub endpos: String,
    pub apply: bool,
    pub replay_lsn: String,
}

pub struct Following<'a> {
    pub source: &'a Cluster,
    pub target: &'a Cluster,
    pub db: String,
    pub copy: String,
    pub scene: Scene,
    /// Of the slot and of the origin.
    pub name: String,
    pub plugin: &'static str,
    /// Instead of direct connections; a proxy's.
    pub source_uri: String,
    pub target_uri: String,
}

impl<'a> Following<'a> {
    /// The source database is made by `fill`, which gets its name; the target's is new.
    pub fn new(
        (source, target): (&'a Cluster, &'a Cluster),
        plugin: &'static str,
        fill: impl FnOnce(&Cluster, &str),
    ) -> Following<'a> {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let db = source.new_db("followed");
        fill(source, &db);
        let copy = target.new_db("follower");
        let name = format!(
            "follow_{}_{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        Following {
            source_uri: source.uri(&db),
            target_uri: target.uri(&copy),
            scene: Scene::new(),
            source,
            target,
            db,
            copy,
            name,
            plugin,
        }
    }

    /// With tables made by plain SQL.
    pub fn of(pair: (&'a Cluster, &'a Cluster), plugin: &'static str, sql: &str) -> Following<'a> {
        Following::new(pair, plugin, |source, db| source.psql(db, sql))
    }

    /// `clone --follow` with further arguments, in the background.
    pub fn clone_follow(&self, more: &[&str]) -> Running {
        self.command(&["clone", "--follow"], more).spawn()
    }

    /// `clone --follow` that has copied everything and applies changes.
    #[track_caller]
    pub fn clone_and_apply(&self, more: &[&str]) -> Running {
        let mut run = self.clone_follow(more);
        self.wait_for_apply(&mut run);
        run
    }

    /// What an interrupted `clone --follow` is continued with.
    pub fn resume(&self, more: &[&str]) -> Running {
        self.command(&["clone", "--follow", "--resume"], more)
            .spawn()
    }

    /// A command with everything that names this migration. The newer server's programs are found first.
    pub fn command(&self, command: &[&str], more: &[&str]) -> Invocation {
        let work_dir = self.scene.work_dir();
        let ours = [
            ("--source", self.source_uri.as_str()),
            ("--target", self.target_uri.as_str()),
            ("--dir", work_dir.to_str().unwrap()),
            ("--slot-name", self.name.as_str()),
            ("--origin", self.name.as_str()),
        ];
        let ours = ours.iter().flat_map(|(name, value)| [*name, *value]);
        let plugin = ["--plugin", self.plugin].into_iter();
        // Cleaning up asks for no plugin.
        let plugin = plugin.filter(|_| command[0] != "stream");
        let ours = ours.chain(plugin);
        let args: Vec<&str> = command
            .iter()
            .copied()
            .chain(ours)
            .chain(more.iter().copied())
            .collect();
        self.scene.command(args).tools(self.target.version())
    }

    /// `stream sentinel ..`, which needs the source and the work directory only.
    #[track_caller]
    pub fn sentinel_command(&self, words: &[&str]) -> Outcome {
        let work_dir = self.scene.work_dir();
        let mut args = vec!["stream", "sentinel"];
        args.extend(words);
        args.extend([
            "--source",
            &self.source_uri,
            "--dir",
            work_dir.to_str().unwrap(),
        ]);
        let outcome = self.scene.command(args).run();
        outcome.assert_success(&[]);
        outcome
    }

    pub fn sentinel(&self) -> Sentinel {
        let outcome = self.sentinel_command(&["get", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        Sentinel {
            endpos: text("endpos"),
            apply: json["apply"].as_bool().unwrap(),
            replay_lsn: text("replay_lsn"),
        }
    }

    /// The remote control of the spec's example.
    pub fn set_endpos_current(&self) {
        self.sentinel_command(&["set", "endpos", "--current"]);
    }

    pub fn set_endpos(&self, lsn: &str) {
        self.sentinel_command(&["set", "endpos", lsn]);
    }

    /// Whether the base copy is done, so that changes are applied: what the sentinel's table says.
    pub fn is_apply_enabled(&self) -> bool {
        // Gone between two looks, when the run starts over.
        let sql = "select coalesce(bool_or(apply), false) from pgcopydb.sentinel";
        let row = self.source.client(&self.db).query_one(sql, &[]);
        row.is_ok_and(|row| row.get(0))
    }

    #[track_caller]
    pub fn wait_for_apply(&self, run: &mut Running) {
        wait_until(RUN_DEADLINE, "the base copy to be done", || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            self.is_apply_enabled()
        });
    }

    /// Until a query on the target gives this value.
    #[track_caller]
    pub fn wait_on_target(&self, run: &mut Running, sql: &str, wanted: &str) {
        wait_until(
            SOON,
            &format!("{wanted} as the target's answer to: {sql}"),
            || {
                assert!(run.is_running(), "it ended:\n{}", run.stderr());
                self.on_target(sql) == wanted
            },
        );
    }

    /// A mark in a table of its own ("marks"), and its arrival: everything before it was applied.
    #[track_caller]
    pub fn wait_for_mark(&self, run: &mut Running) {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let mark = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.source.psql(
            &self.db,
            &format!("insert into public.marks values ({mark})"),
        );
        self.wait_on_target(
            run,
            &format!("select count(*) from public.marks where mark = {mark}"),
            "1",
        );
    }

    pub fn on_source(&self, sql: &str) -> String {
        self.source.value(&self.db, sql)
    }

    pub fn on_target(&self, sql: &str) -> String {
        self.target.value(&self.copy, sql)
    }

    pub fn current_lsn(&self) -> String {
        self.on_source("select pg_current_wal_insert_lsn()")
    }

    /// A column of our slot, empty when there is no slot.
    pub fn slot(&self, column: &str) -> String {
        let sql = format!(
            "select (select ({column})::text from pg_replication_slots where slot_name = '{}')",
            self.name
        );
        self.on_source(&sql)
    }

    /// Until the slot has confirmed this position: what is before it is safe on our disk.
    #[track_caller]
    pub fn wait_for_slot(&self, lsn: &str) {
        wait_until(SOON, &format!("the slot to move to {lsn}"), || {
            self.slot(&format!("confirmed_flush_lsn >= '{lsn}'")) == "true"
        });
    }

    /// The process with this role: receive, transform, apply.
    pub fn process(&self, run: &Running, role: &str) -> Option<Pid> {
        let processes = run.processes();
        let wanted = format!("pgcopydb: {role}");
        let found = processes
            .iter()
            .find(|process| process.title.trim() == wanted);
        found.map(|process| Pid::from_raw(process.pid))
    }

    /// kill -9 of the process with this role, or of the parent, once it is there.
    #[track_caller]
    pub fn kill_role(&self, run: &mut Running, role: &str) {
        if role == "parent" {
            run.kill9();
            return;
        }
        kill(self.wait_for_process(run, role), Signal::SIGKILL).unwrap();
    }

    /// The process with this role, once it is there: between two modes there is none for a moment.
    #[track_caller]
    pub fn wait_for_process(&self, run: &mut Running, role: &str) -> Pid {
        let mut pid = None;
        wait_until(SOON, &format!("a process {role}"), || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            pid = self.process(run, role);
            pid.is_some()
        });
        pid.expect("waited for")
    }

    /// End the sessions that apply changes on the target; says how many there were.
    pub fn terminate_apply(&self) -> String {
        self.on_target(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and application_name like '%apply%'",
        )
    }

    /// End the walsender of our slot; says how many there were.
    pub fn terminate_walsender(&self) -> String {
        let sql = format!(
            "select count(pg_terminate_backend(active_pid)) from pg_replication_slots
             where slot_name = '{}' and active_pid is not null",
            self.name
        );
        self.on_source(&sql)
    }

    /// The files of the changes that wait on our disk.
    pub fn cdc_files(&self, extension: &str) -> Vec<PathBuf> {
        let dir = fs::read_dir(self.scene.work_dir().join("cdc"));
        let paths = dir
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        // lsn.json is not one of them.
        let is_segment = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem.len() == 24);
        let has_extension =
            |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        paths
            .filter(|path| is_segment(path) && has_extension(path))
            .collect()
    }

    /// Cut over: the end position is now, the run ends with 0, and the copy is the source.
    #[track_caller]
    pub fn cut_over(&self, run: Running, told: &[&str]) -> Outcome {
        self.set_endpos_current();
        self.ends_well(run, told)
    }

    /// The run ends by itself with 0 and without an unexpected warning; then nothing is left and both sides are equal.
    #[track_caller]
    pub fn ends_well(&self, run: Running, told: &[&str]) -> Outcome {
        let outcome = run.wait_deadline(RUN_DEADLINE);
        outcome.assert_success(told);
        self.scene.assert_nothing_left(&outcome);
        self.clean_up();
        self.assert_same();
        outcome
    }

    /// `stream cleanup`, twice, as it is safe to repeat (trap 51).
    #[track_caller]
    pub fn clean_up(&self) {
        for _ in 0..2 {
            let outcome = self.command(&["stream", "cleanup"], &[]).run();
            outcome.assert_success(&[]);
            self.scene.assert_nothing_left(&outcome);
        }
        self.assert_nothing_left();
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let name = &self.name;
        let slots = format!("select count(*) from pg_replication_slots where slot_name = '{name}'");
        let origins = format!("select count(*) from pg_replication_origin where roname = '{name}'");
        let schemas = "select count(*) from pg_namespace where nspname = 'pgcopydb'";
        let publications = "select count(*) from pg_publication";
        for sql in [slots.as_str(), schemas, publications] {
            assert_eq!(self.on_source(sql), "0", "left on the source: {sql}");
        }
        for sql in [origins.as_str(), schemas, publications] {
            assert_eq!(self.on_target(sql), "0", "left on the target: {sql}");
        }
        leftovers::assert_no_backend(self.source, &self.db);
        leftovers::assert_no_backend(self.target, &self.copy);
    }

    #[track_caller]
    pub fn assert_same(&self) {
        if self.source.version().major() == self.target.version().major() {
            assert_same(self.source, &self.db, self.target, &self.copy);
        } else {
            assert_same_across_versions(self.source, &self.db, self.target, &self.copy);
        }
    }
}
