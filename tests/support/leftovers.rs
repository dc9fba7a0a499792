//! What a run may leave behind: processes, System V queues, backends. Only what belongs to the test's own run counts,
//! since other tests run at the same time. A short while is given, as everything must be gone within 10 seconds.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};
use pgcopydb::ident::quote_literal;

use super::cluster::Cluster;
use super::wait_until;

/// How long after the end of a run its remains may take to disappear.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The title: `pgcopydb: table worker 1`, or the command with its arguments.
    pub title: String,
}

/// The processes that have this variable in their environment, or this path in their arguments. Zombies do not count:
/// they wait for a parent that may be the test itself.
pub fn processes_with(variable: &str, value: &str, path: &Path) -> Vec<Process> {
    let wanted = format!("{variable}={value}");
    let path = path.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process may end between two reads, which then find nothing.
        let title =
            zero_separated(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).join(" ");
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if !title.contains(path) && !zero_separated(&environment).contains(&wanted) {
            continue;
        }
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        match state_and_parent(&stat) {
            Some((state, parent)) if state != "Z" => found.push(Process { pid, parent, title }),
            _ => {}
        }
    }
    found
}

fn zero_separated(bytes: &[u8]) -> Vec<String> {
    let parts = bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Fields 3 and 4 of proc(5) stat, after the command in parentheses.
fn state_and_parent(stat: &str) -> Option<(&str, i32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

#[track_caller]
pub fn assert_no_process(processes: impl Fn() -> Vec<Process>) {
    let mut left = processes();
    let started = Instant::now();
    while !left.is_empty() {
        assert!(
            started.elapsed() < GONE_DEADLINE,
            "processes left: {left:#?}"
        );
        std::thread::sleep(Duration::from_millis(10));
        left = processes();
    }
}

/// A row of /proc/sysvipc/msg.
#[derive(Debug, Clone)]
pub struct Queue {
    pub last_sender: i32,
    pub last_receiver: i32,
    /// Seconds since the epoch.
    pub created: u64,
}

pub fn queues() -> Vec<Queue> {
    let text = fs::read_to_string("/proc/sysvipc/msg").unwrap();
    let parse = |line: &str| {
        let fields: Vec<i64> = line
            .split_ascii_whitespace()
            .map(|field| field.parse().unwrap_or(-1))
            .collect();
        Queue {
            last_sender: fields[5] as i32,
            last_receiver: fields[6] as i32,
            created: fields[13] as u64,
        }
    };
    text.lines().skip(1).map(parse).collect()
}

/// No queue was last used by one of these processes. The kernel does not tell who created a queue, so one that was
/// never used cannot be told from another test's; scripts/test looks for those after the whole run. A queue that was
/// there before the tests began has only the pids in common.
#[track_caller]
pub fn assert_no_queue(pids: &[i32]) {
    let is_ours = |queue: &Queue| {
        queue.created >= tests_began()
            && (pids.contains(&queue.last_sender) || pids.contains(&queue.last_receiver))
    };
    wait_until(
        GONE_DEADLINE,
        "the run's System V queues to be gone",
        || !queues().iter().any(is_ours),
    );
}

/// Seconds since the epoch: when this test process was started, from proc(5).
fn tests_began() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after_name
        .split_ascii_whitespace()
        .nth(19)
        .unwrap()
        .parse()
        .unwrap();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    let machine = fs::read_to_string("/proc/stat").unwrap();
    let booted = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .unwrap();
    booted.parse::<u64>().unwrap() + ticks / per_second
}

/// Who is connected to this database and what they run, apart from the tests' own clients.
pub fn backends(cluster: &Cluster, db: &str) -> Vec<String> {
    let sql = format!(
        "select application_name || ': ' || query from pg_stat_activity \
         where backend_type = 'client backend' and application_name <> 'test client' and datname = {}",
        quote_literal(db)
    );
    let found = cluster.rows("postgres", &sql);
    found.into_iter().flatten().flatten().collect()
}

#[track_caller]
pub fn assert_no_backend(cluster: &Cluster, db: &str) {
    wait_until(GONE_DEADLINE, "backends of the run to be gone", || {
        backends(cluster, db).is_empty()
    });
}
