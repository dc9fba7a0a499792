//! What every worker of the data section is: a process that takes items from one queue, with connections to one database
//! at a time. Decides what a failure means: for an object it is listed, for a database nothing more is done, and only what
//! concerns a whole server, or ourselves, ends the run. What is done with an item is for `tables`, `indexes`, `vacuum`
//! and `large_objects` to say.

mod fate;

use std::time::{Duration, Instant};

use super::ledger::{Ledger, Made};
use super::work::{Item, Work, try_next};
use super::{CopyContext, Pool};
use crate::error::{Error, Result, Side};
use crate::logging;
use crate::pg::connect::is_there;
use crate::pg::incarnation::Incarnation;
use crate::pg::remedy::{Remedy, WhenFull, is_disk_full};
use crate::pg::wire::Connection;
use crate::sys::msgq::{MessageQueue, Received};
use crate::sys::signal::Shutdown;
use crate::workdir::done::Failure;
use crate::workdir::live::Seat;

pub use fate::Fate;

/// How often an item is tried when a connection breaks under it. Opening the next connection waits for a server that
/// is restarting, and every attempt comes later than the one before: about a quarter of a minute in all.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Between attempts on a full disk, and how often it is said.
const FULL_PAUSE: Duration = Duration::from_secs(5);
const REPEAT: Duration = Duration::from_secs(60);

/// Between one attempt and the next, the first being 1.
fn pause_after(attempt: u32) -> Duration {
    FIRST_PAUSE * 2u32.pow(attempt.saturating_sub(1).min(8))
}

pub struct Worker<'a> {
    pub pool: &'a Pool<'a>,
    pub queue: &'a MessageQueue<Item>,
    process: String,
    pub shutdown: Shutdown,
    /// The database where the connections lead; none before the first item.
    here: Option<u32>,
    /// Of that database.
    pub context: &'a CopyContext<'a>,
    source: Option<Connection>,
    target: Option<Connection>,
    /// The server that what waits in the ledger was committed on.
    incarnation: Option<Incarnation>,
    pub ledger: Ledger<'a>,
    /// Who does again what a target that has started anew may have lost.
    redo: Redo<'a>,
    pub seat: Seat<'a>,
}

/// Do again what the target may have lost, of the database where the connections lead.
pub type Redo<'a> = fn(&mut Worker<'a>, Made) -> Result<()>;

impl<'a> Worker<'a> {
    pub fn new(
        pool: &'a Pool<'a>,
        queue: &'a MessageQueue<Item>,
        process: String,
        seat: Seat<'a>,
        shutdown: &Shutdown,
    ) -> Result<Worker<'a>> {
        Ok(Worker {
            pool,
            queue,
            process,
            shutdown: *shutdown,
            here: None,
            context: pool.context(0)?,
            source: None,
            target: None,
            incarnation: None,
            ledger: Ledger::new(),
            redo: |_, made| Err(Error::internal(format!("nobody does {made:?} again"))),
            seat,
        })
    }

    pub fn does_again(&mut self, redo: Redo<'a>) {
        self.redo = redo;
    }

    pub fn here(&self) -> Option<u32> {
        self.here
    }

    /// Take items until there are no more.
    pub fn serve(&mut self, work: fn(&mut Worker<'a>, Work) -> Result<()>) -> Result<()> {
        while let Some(item) = self.next()? {
            self.handle(item.database, &[item.work], |worker| {
                work(worker, item.work)
            })?;
        }
        self.settle()
    }

    /// The next item; before it would wait, what is committed is made durable and announced.
    fn next(&mut self) -> Result<Option<Item>> {
        if self.ledger.is_due() {
            self.settle()?;
        }
        let received = match try_next(self.queue, self.here)? {
            Received::Empty => {
                self.settle()?;
                self.queue.recv(&self.shutdown)?
            }
            received => received,
        };
        Ok(match received {
            Received::Item(item) if item.work != Work::Stop => Some(item),
            Received::Item(_) | Received::Empty | Received::Closed => None,
        })
    }

    /// Do these items of one database, unless it was given up.
    pub fn handle(
        &mut self,
        database: u32,
        items: &[Work],
        work: impl FnOnce(&mut Worker<'a>) -> Result<()>,
    ) -> Result<()> {
        self.go_to(database)?;
        let tally = self.pool.tally;
        if tally.is_given_up(database) {
            return Ok(());
        }
        if let Err(error) = work(self) {
            return self.give_up(error);
        }
        // What they did is over when it is announced.
        for item in items.iter().copied() {
            self.ledger.then(move || tally.over(database, item));
        }
        Ok(())
    }

    /// Leave one database for another.
    fn go_to(&mut self, database: u32) -> Result<()> {
        if self.here == Some(database) {
            return Ok(());
        }
        self.settle()?;
        (self.source, self.target, self.incarnation) = (None, None, None);
        self.context = self.pool.context(database)?;
        self.here = Some(database);
        self.seat.work_for(database);
        if self.pool.instance.is_some() {
            logging::about(&format!("database {}", self.context.quoted_name()));
        }
        Ok(())
    }

    /// Hand a piece of work of this database on.
    pub fn hand_on(&self, queue: &MessageQueue<Item>, work: Work) -> Result<()> {
        let database = self.here.unwrap_or_default();
        self.pool.tally.queued(database, work);
        queue.send(&self.pool.item(database, work), &self.shutdown)
    }

    /// Make durable and announce what was committed, over another connection if need be; what the target may have lost is
    /// done again. The error is the caller's to judge.
    pub fn flush(&mut self) -> Result<()> {
        loop {
            // Before the flush: one serves all that is done again.
            if let Some(made) = self.ledger.next_lost() {
                (self.redo)(self, made)?;
                continue;
            }
            if !self.ledger.has_waiting() {
                self.ledger.go_on();
                return Ok(());
            }
            self.retry("the flush of what was committed", |worker| {
                worker.target()?;
                match &mut worker.target {
                    Some(target) => worker.ledger.settle(target),
                    None => Err(Error::internal("a connection vanished")),
                }
            })?;
        }
    }

    /// The same where no item is under way.
    pub fn settle(&mut self) -> Result<()> {
        match self.flush() {
            Err(error) => self.give_up(error),
            Ok(()) => Ok(()),
        }
    }

    /// What went wrong is more than one object: nothing more is done for this database, if it is only this one. `Err`
    /// ends the run.
    fn give_up(&mut self, error: Error) -> Result<()> {
        self.seat.over();
        (self.source, self.target) = (None, None);
        let Some(database) = self.here else {
            return Err(error);
        };
        if !error.is_connection_lost() || self.context.spec.fail_fast {
            return Err(error);
        }
        if !self.pool.tally.is_given_up(database) && !self.is_server_there(error.side())? {
            return Err(error);
        }
        // The parent asks for the reason as soon as it is given up. Two workers may say theirs.
        if !self.pool.tally.is_given_up(database) {
            error.log("");
            let name = self.context.quoted_name();
            let failure = Failure::new("database", &name, &error);
            self.context.workdir.record_failure(&failure)?;
            self.pool.tally.give_up(database);
        }
        // Only now: what was not announced must not look as if it were over.
        self.ledger.forget();
        Ok(())
    }

    /// Whether the server is there all the same: then it is only this database that is lost.
    fn is_server_there(&self, side: Option<Side>) -> Result<bool> {
        let info = match (self.pool.instance, side) {
            (Some(instance), Some(Side::Source)) => instance.source,
            (Some(instance), Some(Side::Target)) => instance.target,
            (None, _) | (_, None) => return Ok(false),
        };
        let name = self.context.spec.run.of(&self.process);
        is_there(info, &name, &self.shutdown)
    }

    /// The connection to the target, opened if need be.
    pub fn target(&mut self) -> Result<&mut Connection> {
        if self.target.is_none() {
            self.open_target()?;
        }
        let target = self.target.as_mut();
        target.ok_or_else(|| Error::internal("a connection vanished"))
    }

    /// Both connections, opened if need be, and where it is told how far they are.
    pub fn both(&mut self) -> Result<(&mut Connection, &mut Connection, &mut Seat<'a>)> {
        if self.source.is_none() {
            let context = self.context;
            self.source = Some(context.open_source(&self.process, &self.shutdown)?);
        }
        self.target()?;
        match (&mut self.source, &mut self.target) {
            (Some(source), Some(target)) => Ok((source, target, &mut self.seat)),
            _ => Err(Error::internal("a connection vanished")),
        }
    }

    /// The connection to the source, if it has outlived what happened.
    pub fn source_left(&mut self) -> Option<&mut Connection> {
        self.source.as_mut()
    }

    /// The same of the target.
    pub fn target_left(&mut self) -> Option<&mut Connection> {
        self.target.as_mut()
    }

    /// After an error: drop the connections that cannot go on.
    pub fn keep_what_works(&mut self) {
        self.source.take_if(|source| !source.recover());
        self.target.take_if(|target| !target.recover());
    }

    /// Run one piece of work, again with fresh connections when a connection was lost, and when the target has room again.
    pub fn retry<T>(
        &mut self,
        what: &str,
        mut work: impl FnMut(&mut Worker<'a>) -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        let mut told: Option<Instant> = None;
        loop {
            let error = match work(self) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // Whatever happened, the protocol state of both connections is not worth guessing at.
            self.keep_what_works();
            if is_disk_full(&error) && self.context.spec.when_full == WhenFull::Wait {
                if told.is_none_or(|told| told.elapsed() >= REPEAT) {
                    log::warn!("{error}; waiting for room, to try again ({what})");
                    told = Some(Instant::now());
                }
                self.shutdown.sleep(FULL_PAUSE)?;
                continue;
            }
            let may_pass = Remedy::of(&error).exists() && !is_disk_full(&error);
            if !may_pass || attempt == ATTEMPTS || error.was_waited_for() {
                return Err(error);
            }
            // Its statement was cancelled because of the signal: what broke after that is no news.
            Shutdown::handle().check()?;
            let pause = pause_after(attempt);
            attempt += 1;
            log::warn!(
                "{error}; trying again ({what}, attempt {attempt} of {ATTEMPTS}, in {} ms)",
                pause.as_millis()
            );
            self.shutdown.sleep(pause)?;
        }
    }

    /// Run statements on the target, with fresh connections when one is lost.
    pub fn run_sql(&mut self, what: &str, sql: &str) -> Result<()> {
        self.retry(what, |worker| worker.target()?.execute(sql).map(drop))
    }
}
