//! Done-files that wait for the target's flush. Runs in each worker that commits on the target. Commits are
//! asynchronous inside a step; a done-file is written only after one flush that covers its commit, and one flush serves
//! all that gathered within half a second.
//!
//! When the connection breaks before that flush, another one serves as well, as long as the server is still the one that
//! has committed. One that has started anew may have lost it, and what waits is done once more.

use std::collections::VecDeque;
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
    /// What a target that has started anew may have lost, and nobody has begun to do again.
    lost: VecDeque<Made>,
    /// What comes after all of them, whatever becomes of them.
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

    /// `next` is done once everything before it is announced, or given up: at once if there is nothing.
    pub fn then(&mut self, next: impl FnOnce() + 'a) {
        self.after.push(Box::new(next));
        self.go_on();
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What waits may be lost: it has to be done again. What comes after it still does.
    pub fn lose(&mut self) {
        self.lost
            .extend(self.waiting.drain(..).map(|(made, _)| made));
    }

    /// What the caller has to do again next.
    pub fn next_lost(&mut self) -> Option<Made> {
        self.lost.pop_front()
    }

    /// If nothing waits any more, and nothing is to be done again: what comes after it is due.
    pub fn go_on(&mut self) {
        if self.waiting.is_empty() && self.lost.is_empty() {
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
        self.announce()?;
        failpoint("copy.after_done_file")
    }

    fn announce(&mut self) -> Result<()> {
        self.waiting
            .drain(..)
            .try_for_each(|(_, announce)| announce())
    }

    /// Give up what waits: it will be done again by the next run.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.lost.clear();
        self.go_on();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{Ledger, Made};

    #[test]
    fn what_is_lost_is_not_over_before_it_is_done_again() {
        let told = RefCell::new(Vec::new());
        let tell = |what: &'static str| told.borrow_mut().push(what);
        let mut ledger = Ledger::new();
        ledger.then(|| tell("nothing before it"));
        ledger.committed(Made::Rows(1), || {
            tell("1");
            Ok(())
        });
        ledger.then(|| tell("1 is over"));
        ledger.lose();
        ledger.then(|| tell("2 has failed"));
        ledger.committed(Made::Rows(3), || {
            tell("3");
            Ok(())
        });
        ledger.then(|| tell("3 is over"));
        ledger.announce().unwrap();
        ledger.go_on();
        assert_eq!(*told.borrow(), ["nothing before it", "3"]);

        assert_eq!(ledger.next_lost(), Some(Made::Rows(1)));
        ledger.committed(Made::Rows(1), || {
            tell("1 again");
            Ok(())
        });
        assert_eq!(ledger.next_lost(), None);
        ledger.announce().unwrap();
        ledger.go_on();
        let all = [
            "nothing before it",
            "3",
            "1 again",
            "1 is over",
            "2 has failed",
            "3 is over",
        ];
        assert_eq!(*told.borrow(), all);
        assert!(!ledger.is_due());
    }

    #[test]
    fn what_is_given_up_is_over() {
        let is_over = RefCell::new(false);
        let mut ledger = Ledger::new();
        for number in [1, 2] {
            ledger.committed(Made::Rows(number), || panic!("nobody flushed it"));
            ledger.lose();
        }
        ledger.then(|| *is_over.borrow_mut() = true);
        ledger.next_lost();
        assert!(!*is_over.borrow());
        ledger.forget();
        assert!(*is_over.borrow());
    }
}
