//! One round: a database is cloned and followed while things break; whenever the program has ended it is resumed, and it
//! must have said why. Then the end position, exit code 0, and nothing may differ or be left.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bulk::{self, Bulk};
use super::faults;
use super::plan::Plan;
use super::tally::Tally;
use super::watch::{describe_hang, keep_evidence};
use crate::support::cluster::Cluster;
use crate::support::cmd::{Outcome, Running, unexpected_lines};
use crate::support::compare;
use crate::support::following::Following;
use crate::support::leftovers::{self, Process};
use crate::support::proxy::Proxy;
use crate::support::small_disk::SmallDisk;
use crate::support::wait_until;
use crate::support::workload::{self, Workload};
use crate::support::workload_statements::Random;

/// How long nothing may move once nothing breaks any more, in a debug build on a busy machine; longer is a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every so often the copy is left in peace, until it is done: or a round would see nothing else.
const MOST_OF_COPY: f64 = 0.5;

pub struct Round<'a> {
    pub plan: Plan,
    pub random: Random,
    // Dropped before the directory that they are in.
    pub work_disk: Option<SmallDisk>,
    pub target_disk: Option<SmallDisk>,
    pub following: Following<'a>,
    proxies: Option<[Proxy; 2]>,
    time: Duration,
    started: Instant,
    run: Option<Running>,
    /// What broke while this run was under way.
    faults_of_run: u32,
    /// The signals that its parent was sent.
    sent: Vec<Signal>,
    /// The base copy is done.
    may_truncate: bool,
    may_end: bool,
    tally: Tally,
    pids: Vec<i32>,
    story: RefCell<String>,
}

impl<'a> Round<'a> {
    pub fn begin(plan: Plan, servers: (&'a Cluster, &'a Cluster), left: Duration) -> Round<'a> {
        let mut following = Following::new(servers, plan.plugin, |source, db| {
            if plan.has_typed_tables() {
                workload::create(source, db, plan.plugin == "test_decoding");
            }
            bulk::create(source, db);
        });
        let proxies = plan.has_proxies.then(|| {
            let source = Proxy::start(servers.0.port());
            let target = Proxy::start(servers.1.port());
            following.source_uri = servers.0.tcp_uri(&following.db, source.port());
            following.target_uri = servers.1.tcp_uri(&following.copy, target.port());
            [source, target]
        });
        let mut disks = (None, None);
        if plan.has_small_disks {
            let work_dir = following.scene.work_dir();
            disks.0 = SmallDisk::mount(&work_dir, "size=2g,mode=700");
            disks.1 = disks.0.as_ref().and_then(|_| target_disk(&following));
        }
        Round {
            random: plan.random.clone(),
            time: plan.time.min(left),
            plan,
            following,
            work_disk: disks.0,
            target_disk: disks.1,
            proxies,
            started: Instant::now(),
            run: None,
            faults_of_run: 0,
            sent: Vec::new(),
            may_truncate: false,
            may_end: false,
            tally: Tally::default(),
            pids: Vec::new(),
            story: RefCell::default(),
        }
    }

    pub fn run(mut self) -> Tally {
        let plan = &self.plan;
        self.say(&format!(
            "{:?} to {:?}, {}, {}{}{}, for {} s",
            plan.pair.0,
            plan.pair.1,
            plan.plugin,
            plan.options.join(" "),
            if self.proxies.is_some() {
                ", proxies"
            } else {
                ""
            },
            if self.work_disk.is_some() {
                ", small disks"
            } else {
                ""
            },
            self.time.as_secs()
        ));
        let seed = self.random.next();
        let source = self.following.source;
        let load = plan
            .has_typed_tables()
            .then(|| Workload::start_with(source, &self.following.db, seed));
        let bulk = Bulk::start(source, &self.following.db, seed);
        self.start("clone --follow", &[]);
        while self.started.elapsed() < self.time {
            self.tend();
            let is_enabled = self.following.is_apply_enabled();
            if is_enabled && !self.may_truncate {
                // Before, it would take rows of the snapshot away, which clone refuses.
                self.say("the base copy is done");
                self.may_truncate = true;
                bulk.allow_truncate();
                if let Some(load) = &load {
                    load.allow_truncate();
                }
            }
            let share = self.started.elapsed().as_secs_f64() / self.time.as_secs_f64();
            if is_enabled || share < MOST_OF_COPY {
                self.break_something();
            }
            self.pause();
        }
        self.recover();
        self.tally.transactions = bulk.finish() + load.map_or(0, Workload::finish);
        self.finish();
        std::mem::take(&mut self.tally)
    }

    /// A line of the story, with the time in the round.
    pub fn say(&self, what: &str) {
        let line = format!(
            "chaos: round {:>3} {:>6.1} s: {what}",
            self.plan.number,
            self.started.elapsed().as_secs_f64()
        );
        println!("{line}");
        let mut story = self.story.borrow_mut();
        story.push_str(&line);
        story.push('\n');
    }

    pub fn story(&self) -> String {
        self.story.borrow().clone()
    }

    fn pause(&mut self) {
        let longest = *[200, 1_000, 2_500, 5_000]
            .get(self.random.below(4) as usize)
            .unwrap_or(&200);
        std::thread::sleep(Duration::from_millis(self.random.below(longest)));
    }

    fn break_something(&mut self) {
        if let Some(kind) = faults::inflict(self) {
            self.say(&kind);
            self.tally.fault(&kind);
            self.faults_of_run += 1;
        }
    }

    /// The processes of the run that are alive, and the pid of their parent.
    pub fn processes(&self) -> (Vec<Process>, i32) {
        self.run
            .as_ref()
            .map_or((Vec::new(), 0), |run| (run.processes(), run.pid()))
    }

    pub fn signal_parent(&mut self, signal: Signal) {
        if let Some(run) = &self.run {
            run.signal(signal);
            self.sent.push(signal);
        }
    }

    pub fn pick_proxy(&mut self) -> Option<(&'static str, &Proxy)> {
        let index = self.random.below(2) as usize;
        let proxies = self.proxies.as_ref()?;
        Some((["source", "target"][index], &proxies[index]))
    }

    fn start(&mut self, what: &str, more: &[&str]) {
        let pauses = pauses(&mut self.random, self.may_truncate);
        self.say(&format!("{what} {} {pauses}", more.join(" ")));
        let mut arguments: Vec<&str> = self.plan.options.iter().map(String::as_str).collect();
        arguments.extend(more);
        let command = self.following.command(&["clone", "--follow"], &arguments);
        self.run = Some(command.env("PGCOPYDB_FAILPOINT", pauses).spawn());
        self.faults_of_run = 0;
        self.sent.clear();
    }

    /// If the run has ended: was that right? Then it goes on. Says whether it has ended with 0.
    fn tend(&mut self) -> bool {
        let Some(mut run) = self.run.take() else {
            return false;
        };
        if run.is_running() {
            self.run = Some(run);
            return false;
        }
        let outcome = run.wait_deadline(PATIENCE);
        self.pids.extend(&outcome.pids);
        if self.judge(&outcome) {
            return true;
        }
        // Somebody may be quicker than its processes are in noticing that their parent is gone; nobody has to be.
        leftovers::assert_no_process(|| self.following.scene.processes());
        self.tally.resumes += 1;
        self.start("resumed", &["--resume"]);
        false
    }

    /// Whether it ended with 0, and was right to; how it ended otherwise must be explained by what broke.
    fn judge(&mut self, outcome: &Outcome) -> bool {
        let log = &outcome.stderr;
        let errors = unexpected_lines(log, &[" WARN "]);
        let last = errors.last().map_or("", String::as_str);
        self.say(&format!("ended with {}: {last}", outcome.status));
        assert!(!log.contains("panicked at"), "a panic:\n{log}");
        if let Some(signal) = outcome.status.signal() {
            let was_sent = self.sent.iter().any(|sent| *sent as i32 == signal);
            assert!(was_sent, "died by a signal of its own:\n{log}");
            return false;
        }
        let code = outcome.status.code().expect("no signal");
        if code == 0 {
            assert!(self.may_end, "0 before the end position:\n{log}");
            return true;
        }
        assert!(!last.is_empty(), "no cause in the log:\n{log}");
        assert!(
            ![1, 2, 3].contains(&code),
            "it must always be possible to resume:\n{log}"
        );
        assert!(
            self.faults_of_run > 0,
            "nothing broke during this run, but it ended with {code}:\n{log}"
        );
        false
    }

    /// Until this holds; the run goes on meanwhile.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Round<'a>) -> bool) {
        let mut since = Instant::now();
        let mut reached = String::new();
        loop {
            if self.tend() || holds(self) {
                return;
            }
            if since.elapsed() > PATIENCE {
                let now = self.reached();
                if now == reached {
                    let log = self.run.as_ref().map_or(String::new(), Running::stderr);
                    panic!(
                        "nothing has moved for {PATIENCE:?}, while this was waited for: {what}\n{}\nlog:\n{log}",
                        describe_hang(self)
                    );
                }
                (since, reached) = (Instant::now(), now);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How far the run is: the position on the target, and what is done of the copy.
    fn reached(&self) -> String {
        let following = &self.following;
        let sql = "select (select coalesce(max(remote_lsn)::text, '') from pg_replication_origin_status) || ' ' \
                   || (select count(*) from pg_class)";
        let run = following.scene.work_dir().join("run");
        let done = ["tables", "indexes"]
            .map(|name| fs::read_dir(run.join(name)).map_or(0, Iterator::count));
        format!("{} {done:?}", following.on_target(sql))
    }

    /// Nothing breaks any more: the run must come to live replay by itself.
    fn recover(&mut self) {
        self.until("the base copy to be done", |round| {
            round.following.is_apply_enabled()
        });
        let mark = 1_000_000 + self.random.below(1_000_000) as i32;
        let following = &self.following;
        let insert = format!("insert into public.marks values ({mark})");
        following.source.psql(&following.db, &insert);
        self.until("a change to arrive", |round| {
            let sql = format!("select count(*) from public.marks where mark = {mark}");
            round.following.on_target(&sql) == "1"
        });
        self.say("recovered");
    }

    /// The end position, the end, and what is there then.
    fn finish(&mut self) {
        self.following.set_endpos_current();
        self.may_end = true;
        if self.random.one_in(3) {
            self.break_something();
        }
        // It is over when `tend` says so.
        self.until("the end position", |_| false);
        leftovers::assert_no_process(|| self.following.scene.processes());
        leftovers::assert_no_queue(&self.pids);
        self.following.clean_up();
        self.following.assert_same();
        self.assert_no_other_traces();
        let following = &self.following;
        (self.tally.rows, self.tally.sequences) =
            compare::size_of((following.source, &following.db));
        self.say(&format!(
            "{} faults survived, {} transactions, {} rows and {} sequences are the same",
            self.tally.faults(),
            self.tally.transactions,
            self.tally.rows,
            self.tally.sequences
        ));
        self.drop_databases();
    }

    /// Slots of any name, prepared transactions, temporary files.
    fn assert_no_other_traces(&self) {
        let Following {
            source,
            target,
            db,
            copy,
            scene,
            ..
        } = &self.following;
        for (cluster, db) in [(source, db), (target, copy)] {
            let slots =
                format!("select count(*) from pg_replication_slots where database = '{db}'");
            assert_eq!(cluster.value("postgres", &slots), "0", "{slots}");
        }
        let mut dirs = vec![scene.work_dir(), scene.path("tmp")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                assert!(!name.ends_with(".tmp"), "left: {}", entry.path().display());
                if entry.path().is_dir() {
                    dirs.push(entry.path());
                }
            }
        }
    }

    /// The next rounds need the room.
    fn drop_databases(&mut self) {
        let following = &self.following;
        for (cluster, db) in [
            (following.source, &following.db),
            (following.target, &following.copy),
        ] {
            wait_until(PATIENCE, "nobody to use the database", || {
                let sql = format!("select count(*) from pg_stat_activity where datname = '{db}'");
                cluster.value("postgres", &sql) == "0"
            });
            cluster.psql("postgres", &format!("drop database {db}"));
        }
        if self.target_disk.is_some() {
            // No recovery may look for it.
            let sql = format!("drop tablespace {}", following.copy);
            following.target.psql("postgres", &sql);
            following.target.psql("postgres", "checkpoint");
        }
    }
}

/// A small database is copied in a moment: here and there the program dawdles, so that things break while it is there.
fn pauses(random: &mut Random, is_copied: bool) -> String {
    const OF_COPY: [(&str, u64); 14] = [
        ("clone.after_dump", 1_500),
        ("clone.after_restore_pre", 1_500),
        ("clone.before_restore_post", 1_500),
        ("clone.after_restore_post", 1_500),
        ("clone.before_summary", 1_500),
        ("copy.started", 300),
        ("copy.before_commit", 300),
        ("copy.after_commit", 300),
        ("copy.before_flush", 300),
        ("copy.before_done_file", 300),
        ("index.before_build", 300),
        ("index.after_build", 300),
        ("constraint.after_attach", 300),
        ("blobs.before_commit", 1_000),
    ];
    const OF_FOLLOW: [(&str, u64); 7] = [
        ("follow.before_mode", 1_000),
        ("receive.before_flush", 300),
        ("receive.after_file", 300),
        ("transform.after_file", 300),
        ("apply.before_commit", 20),
        ("apply.after_commit", 20),
        ("apply.after_file", 300),
    ];
    let mut pauses = Vec::new();
    let mut add = |random: &mut Random, points: &[(&str, u64)], most: u64| {
        for _ in 0..random.below(most + 1) {
            let (point, longest) = points[random.below(points.len() as u64) as usize];
            pauses.push(format!("{point}=sleep:{}", 1 + random.below(longest)));
        }
    };
    if !is_copied {
        add(random, &OF_COPY, 4);
    }
    add(random, &OF_FOLLOW, 2);
    pauses.join(",")
}

/// A tablespace of its own for the target's database, with the database's name.
fn target_disk(following: &Following<'_>) -> Option<SmallDisk> {
    let path = following.target.socket_dir().join(&following.copy);
    let disk = SmallDisk::mount(&path, "size=2g,mode=700")?;
    let owner = fs::metadata(following.target.data_dir()).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    let (name, path) = (&following.copy, path.display());
    let sql = format!("create tablespace {name} location '{path}'");
    following.target.psql("postgres", &sql);
    let sql = format!("alter database {name} set tablespace {name}");
    following.target.psql("postgres", &sql);
    Some(disk)
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = keep_evidence(self);
            println!(
                "chaos: again with: scripts/chaos --seed {} --round {}; everything of it is in \"{}\"",
                self.plan.seed,
                self.plan.number,
                kept.display()
            );
        }
        for process in self.following.scene.processes() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}
