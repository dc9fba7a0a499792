//! Done-files that wait for the target's flush. Runs in each worker that commits on the target. Commits are
//! asynchronous inside a step; a done-file is written only after one flush that covers its commit, and one flush serves
//! all that gathered within half a second.
//!
//! When the connection breaks before that flush, another one serves as well, as long as the server is still the one that
//! has committed. One that has started anew may have lost it, and what waits is done once more.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::ident::Oid;
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;

/// Long enough that thousands of small tables share a flush, short enough that a crash repeats little.
const GATHER: Duration = Duration::from_millis(500);

/// What is to be written once the target has flushed.
type Announcement<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// What an announcement speaks of, for who has to do it again. Numbers are those of the plan, and oids the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    Rows(u32),
    LargeObjects(u32),
    Index(Oid),
    Constraint(Oid),
    Vacuum(Oid),
}

/// Announcements in the order of their commits.
#[derive(Default)]
pub struct Ledger<'a> {
    waiting: Vec<(Made, Announcement<'a>)>,
    /// What comes after them, whatever becomes of them.
    after: Vec<Box<dyn FnOnce() + 'a>>,
    since: Option<Instant>,
}

impl<'a> Ledger<'a> {
    pub fn new() -> Ledger<'a> {
        Ledger::default()
    }

    /// Something was committed; `announce` writes its done-file.
    pub fn committed(&mut self, made: Made, announce: impl FnOnce() -> Result<()> + 'a) {
        self.since.get_or_insert_with(Instant::now);
        self.waiting.push((made, Box::new(announce)));
    }

    /// `next` is done once everything before it is announced, or given up: at once if nothing waits.
    pub fn then(&mut self, next: impl FnOnce() + 'a) {
        match self.waiting.is_empty() && self.after.is_empty() {
            true => next(),
            false => self.after.push(Box::new(next)),
        }
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What waits may be lost: it is the caller's to do again. What comes after it still does.
    pub fn take(&mut self) -> Vec<Made> {
        self.waiting.drain(..).map(|(made, _)| made).collect()
    }

    /// Nothing waits any more: what comes after it is due.
    pub fn go_on(&mut self) {
        if self.waiting.is_empty() {
            self.since = None;
            self.after.drain(..).for_each(|next| next());
        }
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
        self.go_on();
        failpoint("copy.after_done_file")
    }

    /// Give up what waits: it will be done again by the next run.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.go_on();
    }
}
