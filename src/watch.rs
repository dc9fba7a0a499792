//! The watch: a process beside a run that looks now and then whether something hangs, and says which statement on which
//! server is waited for, and who is in its way; or which process cannot go on. It has no connection but while it looks, changes nothing, and its end is
//! nobody's concern. Started by the parents of clone, follow and instance, before they talk to a server.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::pg::connect::connect_once;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::RunName;
use crate::pg::waits::{self, Waiting};
use crate::sys::family::{self, Relative};
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::WorkerSet;
use crate::workdir::live::{self, WorkerRecord};
use crate::workdir::paths::Paths;

const WATCH: &str = "watch";

/// How long a server gets to answer: one that does not is its workers' concern.
const ANSWER: Duration = Duration::from_secs(10);

/// Bounds of the time between two looks, which is half of what counts as a hang.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// What counts as a hang when nobody says it.
pub const DEFAULT_AFTER: Duration = Duration::from_secs(60);

/// What is watched.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    pub source: Option<ConnInfo>,
    pub target: Option<ConnInfo>,
    /// By whose names its sessions are known.
    pub runs: Vec<RunName>,
    /// The work directory whose workers say how far they are.
    pub paths: Option<Paths>,
    /// How long nothing may move; zero: nobody looks.
    pub after: Duration,
}

/// Under way until dropped.
pub struct Watch {
    _process: WorkerSet,
}

/// A run goes on without a watch, so that it could not be started is only told.
pub fn start(spec: WatchSpec) -> Watch {
    let parent = std::process::id();
    let mut process = WorkerSet::new();
    if !spec.after.is_zero()
        && let Err(error) = process.start_one(WATCH, move |shutdown| run(&spec, parent, &shutdown))
    {
        log::warn!("{error}; a hang will not be told");
    }
    Watch { _process: process }
}

fn run(spec: &WatchSpec, parent: u32, shutdown: &Shutdown) -> Result<()> {
    let mut hangs = Hangs::new(spec.after);
    loop {
        shutdown.sleep((spec.after / 2).clamp(SHORTEST_LOOK, LONGEST_LOOK))?;
        let records = match spec.paths.as_ref().map(live::read) {
            Some(Ok(Some((_, records)))) => records,
            _ => Vec::new(),
        };
        let mut waiting = Vec::new();
        for info in spec.source.iter().chain(&spec.target) {
            match look(info, spec, shutdown) {
                Ok(found) => waiting.extend(found),
                Err(error) if error.is_interrupted() => return Err(error),
                Err(error) => log::debug!("could not look at what is waited for: {error}"),
            }
        }
        let now = Instant::now();
        // Receive and transform may hang with no session on any server.
        let family = family::of(parent);
        hangs.look_at(now, &family);
        for told in hangs.step(now, &records, &waiting) {
            log::warn!("{told}");
        }
    }
}

fn look(info: &ConnInfo, spec: &WatchSpec, shutdown: &Shutdown) -> Result<Vec<Waiting>> {
    let Some(run) = spec.runs.first() else {
        return Err(Error::internal("a watch for no run"));
    };
    let mut connection = connect_once(info, &run.of(WATCH), shutdown, ANSWER)?;
    connection.set_deadline(Some(ANSWER));
    waits::fetch(&mut connection, &spec.runs)
}

/// What hangs, since when, and when it is told again: each time after twice as long.
struct Hangs {
    after: Duration,
    /// What each worker was last seen at.
    seen: HashMap<String, (WorkerRecord, Instant)>,
    /// Processes that cannot go on, and since when they were seen so.
    halted: Vec<(Relative, Instant)>,
    told: HashMap<String, u64>,
}

impl Hangs {
    fn new(after: Duration) -> Hangs {
        Hangs {
            after,
            seen: HashMap::new(),
            halted: Vec::new(),
            told: HashMap::new(),
        }
    }

    /// Take what the kernel says of the run's processes.
    fn look_at(&mut self, now: Instant, family: &[Relative]) {
        let before = std::mem::take(&mut self.halted);
        let halted = family.iter().filter(|relative| relative.halted().is_some());
        // The same down to the processor time: one that was seen waiting for the disk twice need not have waited all along.
        self.halted = halted
            .map(|relative| {
                let earlier = before.iter().find(|(seen, _)| seen == relative);
                (relative.clone(), earlier.map_or(now, |(_, since)| *since))
            })
            .collect();
    }

    /// What there is to tell after a look.
    fn step(
        &mut self,
        now: Instant,
        records: &[WorkerRecord],
        sessions: &[Waiting],
    ) -> Vec<String> {
        let mut hanging: Vec<(String, u64, String)> = sessions
            .iter()
            .filter(|session| session.seconds >= self.after.as_secs() && hangs(session))
            .map(|session| {
                let key = format!("{} {} {}", session.side, session.pid, session.began);
                let text = format!("{} {session}", session.process);
                (key, session.seconds, text)
            })
            .collect();
        for (record, seconds) in self.standing_still(now, records) {
            let theirs: Vec<&Waiting> = sessions
                .iter()
                .filter(|session| session.process == record.worker)
                .collect();
            // A server at work is what a long statement looks like, and a lock is told above.
            if theirs
                .iter()
                .any(|session| session.is_at_work() || session.is_for_lock())
            {
                continue;
            }
            let words: Vec<String> = theirs
                .iter()
                .map(|session| format!("it {session}"))
                .collect();
            let words = match words.is_empty() {
                true => "it has no session on either server".to_owned(),
                false => words.join("; "),
            };
            let text = format!(
                "{} (pid {}) has made no progress for {seconds} s: {words}",
                record.worker, record.pid
            );
            hanging.push((record.worker.clone(), seconds, text));
        }
        for (relative, since) in &self.halted {
            let seconds = now.saturating_duration_since(*since).as_secs();
            if let Some(why) = relative.halted()
                && seconds >= self.after.as_secs()
            {
                let Relative { pid, name, .. } = relative;
                let text =
                    format!("{name} (pid {pid}) {why}, and has made no progress for {seconds} s");
                hanging.push((format!("process {pid}"), seconds, text));
            }
        }
        self.told
            .retain(|key, _| hanging.iter().any(|(hangs, ..)| hangs == key));
        let mut texts = Vec::new();
        for (key, seconds, text) in hanging {
            if self.told.get(&key).is_none_or(|next| seconds >= *next) {
                self.told.insert(key, seconds.max(1) * 2);
                texts.push(text);
            }
        }
        texts
    }

    /// Workers that are busy with something, and are as far with it as they were.
    fn standing_still<'r>(
        &mut self,
        now: Instant,
        records: &'r [WorkerRecord],
    ) -> Vec<(&'r WorkerRecord, u64)> {
        let mut still = Vec::new();
        let mut seen = HashMap::new();
        for record in records.iter().filter(|record| record.current.is_some()) {
            let since = match self.seen.remove(&record.worker) {
                Some((before, since)) if before == *record => since,
                _ => now,
            };
            let standing = now.saturating_duration_since(since);
            if standing >= self.after {
                still.push((record, standing.as_secs()));
            }
            seen.insert(record.worker.clone(), (record.clone(), since));
        }
        self.seen = seen;
        still
    }
}

/// A session that waits for a lock, or whose process has left it alone in the middle of a transaction. The parents may:
/// they hold snapshots.
fn hangs(session: &Waiting) -> bool {
    let holds_snapshot = ["clone", "snapshot", "follow"].contains(&&*session.process);
    session.is_for_lock() || session.state.starts_with("idle in transaction") && !holds_snapshot
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Hangs;
    use crate::error::Side;
    use crate::pg::waits::Waiting;
    use crate::workdir::live::{Current, Task, WorkerRecord};

    const AFTER: Duration = Duration::from_secs(60);

    fn session(kind: &str, state: &str, seconds: u64) -> Waiting {
        Waiting {
            side: Side::Target,
            pid: 7,
            process: "copy worker 1".to_owned(),
            state: state.to_owned(),
            wait_event_type: kind.to_owned(),
            wait_event: String::new(),
            began: "12:00".to_owned(),
            seconds,
            statement: "COPY t".to_owned(),
            blockers: Vec::new(),
        }
    }

    fn record(bytes: u64) -> WorkerRecord {
        WorkerRecord {
            worker: "copy worker 1".to_owned(),
            pid: 8,
            current: Some(Current {
                task: Task::Copy,
                database: 0,
                oid: 1,
                part: 0,
                size: 10,
                since_ms: 0,
                rows: 0,
                bytes,
            }),
            ..WorkerRecord::default()
        }
    }

    #[test]
    fn a_wait_is_told_once_in_twice_as_long() {
        let (mut hangs, now) = (Hangs::new(AFTER), Instant::now());
        let mut told = |seconds| {
            hangs
                .step(now, &[], &[session("Lock", "active", seconds)])
                .len()
        };
        assert_eq!(
            [59, 61, 90, 121, 123, 200, 250].map(&mut told),
            [0, 1, 0, 0, 1, 0, 1]
        );
    }

    #[test]
    fn a_worker_that_stands_still_is_told_unless_its_server_works() {
        for (kind, state, is_told) in [
            ("Client", "active", true),
            ("IO", "active", false),
            ("", "active", false),
            ("Client", "idle", true),
        ] {
            let (mut hangs, now) = (Hangs::new(AFTER), Instant::now());
            let sessions = [session(kind, state, 5)];
            assert!(hangs.step(now, &[record(1)], &sessions).is_empty());
            assert!(hangs.step(now + AFTER, &[record(2)], &sessions).is_empty());
            let told = hangs.step(now + AFTER * 2, &[record(2)], &sessions);
            assert_eq!(!told.is_empty(), is_told, "{kind} {state}: {told:?}");
        }
    }

    #[test]
    fn a_session_that_is_left_alone_is_told_and_a_snapshot_is_not() {
        let mut session = session("Client", "idle in transaction", 70);
        let (mut hangs, now) = (Hangs::new(AFTER), Instant::now());
        assert_eq!(
            hangs.step(now, &[], std::slice::from_ref(&session)).len(),
            1
        );
        session.process = "clone".to_owned();
        assert!(hangs.step(now, &[], &[session]).is_empty());
    }
}
