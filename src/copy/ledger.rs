//! Done-files that wait for the target's flush. Runs in each worker that commits on the target. Commits are
//! asynchronous inside a step; a done-file is written only after one flush that covers its commit, and one flush serves
//! all that gathered within half a second.
//!
//! When the connection breaks before that flush, another one serves as well, as long as the server is still the one that
//! has committed: it has lost nothing then. One that has started anew may have, and what waits is done once more.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;

/// Long enough that thousands of small tables share a flush, short enough that a crash repeats little.
const GATHER: Duration = Duration::from_millis(500);

/// What is to be written once the target has flushed.
type Announcement<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// Announcements in the order of their commits, each with what has to be done again if the target has lost it.
pub struct Ledger<'a, W> {
    waiting: Vec<(W, Announcement<'a>)>,
    since: Option<Instant>,
}

impl<'a, W> Ledger<'a, W> {
    pub fn new() -> Ledger<'a, W> {
        Ledger {
            waiting: Vec::new(),
            since: None,
        }
    }

    /// `work` was committed; `announce` writes its done-file.
    pub fn committed(&mut self, work: W, announce: impl FnOnce() -> Result<()> + 'a) {
        self.since.get_or_insert_with(Instant::now);
        self.waiting.push((work, Box::new(announce)));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether what waits has waited long enough.
    pub fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= GATHER)
    }

    /// Flush the target, then announce everything.
    pub fn settle(&mut self, target: &mut Connection) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        failpoint("copy.before_flush")?;
        flush_commits(target)?;
        failpoint("copy.before_done_file")?;
        for (_, announce) in self.waiting.drain(..) {
            announce()?;
        }
        self.since = None;
        failpoint("copy.after_done_file")
    }

    /// Give up what waits, in the order of the commits: it is to be done again.
    pub fn forget(&mut self) -> Vec<W> {
        self.since = None;
        self.waiting.drain(..).map(|(work, _)| work).collect()
    }
}
