//! The apply process: script lines, from files or from the pipe, to committed transactions on the target. Runs in the
//! apply process, which has one connection and nothing else.
//!
//! Several source transactions share a target transaction while more of them are at hand; the position that is committed
//! with them is that of the last. What is applied is decided by commit LSN alone: already applied iff it is at or before
//! the origin's progress, and before the end position iff it is at or before that.

mod chunk;
mod execute;
mod in_copy;
mod kept;
mod plan;
mod session;
mod sql;
mod state;
mod take;
mod target;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::left_out::{self, LeftOutTables};
use super::missed;
use super::pause;
use super::positions::Positions;
use super::script::{CommitIs, StatementId};
use crate::error::{Context, Error, Result};
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::{Remedy, WhenFull, is_disk_full};
use crate::sys::failpoint::failpoint;
use crate::sys::pipe::{LineReader, Next};
use crate::sys::signal::Shutdown;
use chunk::Chunk;
use execute::Executor;
use in_copy::InCopy;
use kept::Kept;
use session::Session;
use state::ApplyState;

/// How much is sent at once. Large enough that a round trip of 10 ms does not matter, small enough to keep memory flat.
const CHUNK_BYTES: usize = 8 << 20;
const CHUNK_CHANGES: usize = 40_000;

/// How often the target is asked to flush what it has committed, so that files can go.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Changes at hand from which on apply is behind rather than in step, and how long it then waits for more.
const BUSY_CHANGES: usize = 100;
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// How long live replay waits for a line before it looks at the end position again.
const TICK: Duration = Duration::from_millis(100);

/// How often apply looks whether it may go on.
const PAUSE_TICK: Duration = Duration::from_millis(10);

/// Changes that met no row are named one by one up to this many.
const MISSED_NAMED: u64 = 100;

/// A chunk that lost against another session is tried again this often.
const ATTEMPTS: u32 = 5;

/// Where the position is kept on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionKeeper {
    Origin,
    /// `pgcopydb.progress`, where the role may not use origins.
    Table,
}

/// How changes are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyMode {
    /// By sets where that gives the same.
    Auto,
    /// Each change by its own statement.
    Rows,
}

/// What apply has to know.
#[derive(Debug, Clone)]
pub struct ApplySpec {
    pub target: ConnInfo,
    pub application_name: String,
    pub origin: String,
    pub keeper: PositionKeeper,
    pub mode: ApplyMode,
    pub when_full: WhenFull,
    /// How long a statement may wait for a lock; zero: as long as it takes.
    pub lock_timeout: Duration,
    /// Where the files of the follow are.
    pub dir: PathBuf,
    /// Where the base copy notes the tables that it left out, whose changes are nobody's.
    pub left_out: PathBuf,
}

/// Why an input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    EndPos,
    EndOfInput,
}

/// Changes that met no row: how many, and words about the first ones.
#[derive(Debug, Default)]
struct Missed {
    count: u64,
    words: Vec<String>,
}

impl Missed {
    fn add(&mut self, words: Vec<String>) {
        self.count += words.len() as u64;
        let room = (MISSED_NAMED as usize).saturating_sub(self.words.len());
        self.words.extend(words.into_iter().take(room));
    }
}

/// A connection to the target with all that is under way on it.
pub struct Applier {
    session: Session,
    executor: Executor,
    state: ApplyState,
    chunk: Chunk,
    /// A target transaction is open, with changes of earlier chunks.
    is_open: bool,
    /// The last transaction that is complete in what is gathered or sent, and how many there are.
    last: Option<CommitIs<'static>>,
    transactions: u64,
    changes: u64,
    grouped: u64,
    /// Where we are in the script: the line, and the end of the transaction under way where BEGIN told it.
    line: u64,
    commit_lsn: Option<Lsn>,
    /// A savepoint stands before the last chunk.
    has_savepoint: bool,
    /// Changes that met no row, until they are committed.
    missed: Missed,
    /// A copy that was read in several snapshots has some of the changes already.
    in_copy: Option<InCopy>,
    /// A large transaction of which only its end tells whether it is to be applied.
    kept: Option<Kept>,
    /// Where the files of the follow are.
    dir: PathBuf,
    /// Tables that were not copied, and the statements of the script that are about one of them.
    left_out: LeftOutTables,
    passed_over: HashSet<StatementId>,
    positions: Positions,
    last_flush: Instant,
    is_flushed: bool,
    shutdown: Shutdown,
}

impl Applier {
    /// Connect and learn how far the target is.
    pub fn connect(
        spec: &ApplySpec,
        positions: &Positions,
        shutdown: &Shutdown,
    ) -> Result<Applier> {
        let (mut session, progress) = Session::open(spec, shutdown)?;
        let executor = Executor::new(&mut session, spec.mode == ApplyMode::Rows)?;
        if progress < positions.committed() {
            log::warn!(
                "the target has lost what it had not flushed: applying again after {progress}"
            );
            positions.reset_replayed(progress);
        }
        positions.advance_committed(progress);
        positions.advance_replayed(progress);
        let in_copy = InCopy::read(&spec.dir, positions.replayed())?;
        Ok(Applier {
            session,
            executor,
            state: ApplyState::new(progress),
            chunk: Chunk::default(),
            is_open: false,
            last: None,
            transactions: 0,
            changes: 0,
            grouped: 0,
            line: 0,
            commit_lsn: None,
            has_savepoint: false,
            missed: Missed::default(),
            in_copy,
            kept: None,
            dir: spec.dir.clone(),
            left_out: left_out::read(&spec.left_out)?,
            passed_over: HashSet::new(),
            positions: *positions,
            last_flush: Instant::now(),
            is_flushed: false,
            shutdown: *shutdown,
        })
    }

    /// Everything at or before it was read from the scripts, in order.
    pub fn seen(&self) -> Lsn {
        self.state.seen()
    }

    /// Files up to here may be gone: the target has durably passed them, though its origin, which stands at a commit, may not
    /// say so. To be called after looking for a file and before reading it.
    pub fn pass_what_was_removed(&mut self) {
        self.state.pass(self.positions.replayed_flushed());
    }

    /// The same for what an earlier connection of this run has applied, of which the origin, which stands at a commit, may
    /// not tell.
    pub fn pass_what_was_applied(&mut self) {
        self.state.pass(self.positions.replayed());
    }

    /// Apply a finished script file.
    pub fn run_file(&mut self, path: &Path) -> Result<Applied> {
        let what = || format!("could not read file \"{}\"", path.display());
        let file = std::fs::File::open(path).with_context(what)?;
        let mut lines = LineReader::new(file);
        self.line = 0;
        self.kept = None;
        loop {
            let shutdown = self.shutdown;
            let line = match lines.next(None, &shutdown)? {
                Next::Line(line) => line,
                Next::Nothing => continue,
                Next::End => break,
            };
            let end = self
                .take(line)
                .with_context(|| format!("file \"{}\"", path.display()))?;
            if let Some(endpos) = end {
                return self.reached(endpos);
            }
            self.shutdown.check()?;
        }
        self.send_complete()
            .with_context(|| format!("file \"{}\"", path.display()))?;
        self.note_pause();
        self.flush_if_due()?;
        Ok(self.end_if_reached()?.unwrap_or(Applied::EndOfInput))
    }

    /// Apply what comes through the pipe, at once.
    pub fn run_pipe(&mut self, input: OwnedFd) -> Result<Applied> {
        let mut lines = LineReader::new(input);
        let shutdown = self.shutdown;
        loop {
            // With much at hand a little more is waited for: fewer, larger sets. With little, nobody waits.
            let is_busy = self.chunk.len() >= BUSY_CHANGES;
            let deadline = Instant::now() + if is_busy { BUSY_WAIT } else { TICK };
            let line = match lines.next(Some(deadline), &shutdown)? {
                Next::Line(line) => line,
                Next::Nothing => {
                    if !self.state.is_inside() {
                        self.send_complete()?;
                    }
                    self.note_pause();
                    self.flush_if_due()?;
                    if let Some(end) = self.end_if_reached()? {
                        return Ok(end);
                    }
                    continue;
                }
                Next::End => break,
            };
            if let Some(endpos) = self.take(line)? {
                return self.reached(endpos);
            }
            let is_small = self.chunk.len() < BUSY_CHANGES;
            if is_small && !self.state.is_inside() && !lines.is_ready(&shutdown)? {
                self.send_complete()?;
                self.note_pause();
                self.flush_if_due()?;
            }
        }
        // What is not complete comes again, from the files.
        self.discard()?;
        Ok(self.end_if_reached()?.unwrap_or(Applied::EndOfInput))
    }

    /// Everything that was applied is flushed on the target.
    pub fn finish(&mut self) -> Result<()> {
        let flushed = self.session.flush()?;
        failpoint("apply.after_flush")?;
        self.note_flushed(flushed);
        Ok(())
    }

    /// Whether the end position lies behind us, such as one that was set after it had passed.
    pub fn end_if_reached(&mut self) -> Result<Option<Applied>> {
        let endpos = self.positions.endpos();
        match endpos.filter(|endpos| self.positions.replayed() >= *endpos) {
            Some(endpos) => self.reached(endpos).map(Some),
            None => Ok(None),
        }
    }

    /// Everything up to this end position was taken, in order: make it durable, and only then say so. By now there may be
    /// another one, of which nothing is known.
    fn reached(&mut self, endpos: Lsn) -> Result<Applied> {
        self.send_complete()?;
        self.discard()?;
        self.finish()?;
        log::info!("applied everything up to the end position {endpos}");
        self.positions.set_reached(endpos);
        Ok(Applied::EndPos)
    }

    /// Stand still before a transaction that ends after the position at which somebody wants the target as it is. What is
    /// complete is committed before that is said; the transaction under way, if there is one, waits for its commit.
    fn pause_before(&mut self, end: Lsn) -> Result<()> {
        let is_wanted = |positions: &Positions| {
            let endpos = positions.endpos();
            positions
                .pause()
                .filter(|(_, at)| end > *at && endpos.is_none_or(|endpos| end <= endpos))
        };
        while let Some((number, at)) = is_wanted(&self.positions) {
            if !self.state.is_inside() {
                self.send_complete()?;
            }
            self.set_paused(number, at);
            self.flush_if_due()?;
            self.shutdown.sleep(PAUSE_TICK)?;
        }
        Ok(())
    }

    /// The same while nothing is at hand: what comes next will stop, and everything before has come.
    fn note_pause(&mut self) {
        let is_idle = !self.state.is_inside() && self.last.is_none() && self.chunk.is_empty();
        if let Some((number, at)) = self.positions.pause()
            && is_idle
            && self.positions.replayed() >= at
        {
            self.set_paused(number, at);
        }
    }

    /// Say so, unless the target has more than was asked for: then nobody can have it without.
    fn set_paused(&self, number: u64, at: Lsn) {
        let is_passed = at != pause::AT_ONCE && self.state.progress() > at;
        if !is_passed && self.positions.paused() != Some(number) {
            log::debug!("standing still for wish {number}, at {at}");
            self.positions.set_paused(number);
        }
    }

    fn send_if_large(&mut self) -> Result<()> {
        if self.chunk.bytes() < CHUNK_BYTES && self.chunk.len() < CHUNK_CHANGES {
            return Ok(());
        }
        self.send()
    }

    /// Send what is gathered into the target transaction, which stays open.
    fn send(&mut self) -> Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let begins = !self.is_open;
        let mut attempt = 1;
        let applied = loop {
            match self.try_send(begins) {
                Ok(applied) => break applied,
                Err(error) if is_conflict(&error) && attempt < ATTEMPTS => {
                    log::info!(
                        "{error}; trying again (attempt {} of {ATTEMPTS})",
                        attempt + 1
                    );
                    self.take_back_chunk(begins)?;
                    attempt += 1;
                    self.shutdown.sleep(Duration::from_millis(100))?;
                }
                Err(error) => return Err(error),
            }
        };
        self.is_open = true;
        self.changes += self.chunk.len() as u64;
        self.grouped += applied.grouped;
        self.missed.add(applied.missed);
        self.chunk.clear();
        Ok(())
    }

    fn try_send(&mut self, begins: bool) -> Result<execute::Applied> {
        if !begins {
            // One at a time: a transaction of a billion rows must not nest thousands of them.
            let sql = match self.has_savepoint {
                true => "RELEASE SAVEPOINT pgcopydb_chunk; SAVEPOINT pgcopydb_chunk",
                false => "SAVEPOINT pgcopydb_chunk",
            };
            self.session.connection.execute(sql)?;
            self.has_savepoint = true;
        }
        if let Some(applied) = self
            .executor
            .run_sets(&mut self.session, &self.chunk, begins)?
        {
            return Ok(applied);
        }
        self.take_back_chunk(begins)?;
        self.executor
            .run_rows(&mut self.session, &self.chunk, begins)
    }

    /// Nothing of the chunk stays; what came before it in the target transaction does.
    fn take_back_chunk(&mut self, begins: bool) -> Result<()> {
        let sql = match begins {
            true => "ROLLBACK",
            false => "ROLLBACK TO SAVEPOINT pgcopydb_chunk",
        };
        self.session.connection.execute(sql).map(|_| ())
    }

    /// Send and commit what is gathered, which is complete: between transactions, or where one begins or ends.
    fn send_complete(&mut self) -> Result<()> {
        self.send()?;
        let Some(last) = self.last.take() else {
            return Ok(());
        };
        // Once it is committed nobody looks at these changes again.
        if self.missed.count > 0 {
            let progress = self.state.progress();
            missed::note(&self.dir, self.missed.count, last.commit_lsn, progress)?;
        }
        // A transaction whose changes all concern nobody moves the position too.
        self.session.commit(&last, !self.is_open)?;
        self.is_open = false;
        self.has_savepoint = false;
        self.is_flushed = false;
        self.positions
            .add_applied(self.transactions, self.changes, self.grouped);
        (self.transactions, self.changes, self.grouped) = (0, 0, 0);
        self.report_missed();
        self.state.applied(last.commit_lsn);
        self.positions.advance_committed(last.commit_lsn);
        self.positions.advance_replayed(last.commit_lsn);
        self.forget_copy_if_passed();
        Ok(())
    }

    /// Only what is committed counts: a transaction that comes again would count twice.
    fn report_missed(&mut self) {
        let missed = std::mem::take(&mut self.missed);
        let before = self.positions.missed();
        self.positions.add_missed(missed.count);
        let left = MISSED_NAMED.saturating_sub(before);
        for words in missed.words.iter().take(left as usize) {
            log::warn!("{words}");
        }
        if left > 0 && missed.count > left {
            log::warn!("further changes that meet no row are counted only");
        }
    }

    /// Forget the transaction under way.
    fn discard(&mut self) -> Result<()> {
        self.chunk.clear();
        self.missed = Missed::default();
        (self.transactions, self.changes, self.grouped) = (0, 0, 0);
        self.last = None;
        self.state.forget();
        self.kept = None;
        self.has_savepoint = false;
        if self.is_open {
            self.is_open = false;
            self.session.connection.execute("ROLLBACK")?;
        }
        Ok(())
    }

    /// Now and then, and outside of a transaction: let the target flush, so that files can go.
    fn flush_if_due(&mut self) -> Result<()> {
        if self.is_open || self.last_flush.elapsed() < FLUSH_INTERVAL {
            return Ok(());
        }
        self.flush()
    }

    /// Let the target flush what it has committed, if it has not yet. Only outside of a transaction.
    fn flush(&mut self) -> Result<()> {
        if self.is_flushed {
            return Ok(());
        }
        self.last_flush = Instant::now();
        self.finish()
    }

    /// Positions that no transaction has are durable when all before them are.
    fn note_flushed(&mut self, flushed: Lsn) {
        self.is_flushed = true;
        let position = match flushed >= self.state.progress() {
            true => self.positions.replayed(),
            false => flushed,
        };
        self.positions.advance_replayed_flushed(position);
    }
}

impl ApplySpec {
    /// Whether the same may work in a while, over a new connection: the target went away, or has no room or no resources, or
    /// somebody was in the way. What is refused for good, such as a password, is not waited for.
    pub fn may_pass(&self, error: &Error) -> bool {
        let is_waited_for = self.when_full == WhenFull::Wait || !is_disk_full(error);
        is_waited_for && (Remedy::of(error).exists() || is_conflict(error))
    }
}

/// Insufficient resources: a full disk, too many connections, no memory.
pub fn has_no_room(error: &Error) -> bool {
    Remedy::of(error) == Remedy::Room
}

/// Lost against another session, or cancelled by somebody who had his reasons: as for native replication, no end of it.
fn is_conflict(error: &Error) -> bool {
    Remedy::of(error) == Remedy::Attempt || error.is_any_of(&[SqlState::QUERY_CANCELED])
}
