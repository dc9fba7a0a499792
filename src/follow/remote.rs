//! The remote control: what the sentinel wishes (endpos, apply) goes to the children, what they have reached goes to the
//! sentinel. Runs in the follow parent, which owns the one connection to the source that this takes.
//!
//! A write to the source is itself a transaction that comes back through the slot. So positions are written only after
//! somebody else's transaction, or when a lot of WAL has passed: an idle source sees none of ours.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::meet::Meet;
use super::retention::Retention;
use super::spool::Spool;
use crate::error::{Error, Result, Side};
use crate::filter::Filters;
use crate::lsn::Lsn;
use crate::pg::connect::connect_once;
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::Remedy;
use crate::sentinel::{Reached, Sentinel, Wishes};
use crate::stream::pause::Carrier;
use crate::stream::positions::Positions;
use crate::stream::publication;
use crate::sys::signal::Shutdown;

/// How often the sentinel is read, and the most often that it is written.
const INTERVAL: Duration = Duration::from_secs(1);

/// WAL without any transaction of this database, such as another database's: positions are written once it is this much.
const QUIET_BYTES: u64 = 16 << 20;

/// How often the publication is compared with the catalog.
const COMPARISON: Duration = Duration::from_secs(30);

/// The source is away: how long one attempt to reach it may keep the parent from its children, and how long it waits
/// before the next.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(3);

/// Whether positions are to be written: one of them has moved towards the last commit that is not our own, or a lot of
/// WAL has passed.
pub fn is_worth_writing(written: &Reached, now: &Reached, activity: Lsn) -> bool {
    let pairs = [
        (written.write_lsn, now.write_lsn),
        (written.flush_lsn, now.flush_lsn),
        (written.replay_lsn, now.replay_lsn),
    ];
    pairs.into_iter().any(|(before, after)| {
        let is_owed = before < activity && after > before;
        is_owed || after.0.saturating_sub(before.0) > QUIET_BYTES
    })
}

/// The parent's side of the sentinel.
pub struct Remote {
    info: ConnInfo,
    application_name: String,
    /// Where the sentinel is when the source cannot be written to.
    dir: std::path::PathBuf,
    sentinel: Option<Sentinel>,
    /// A comparison on the same work directory may ask for a pause.
    pauses: Carrier,
    /// A copy that was resumed may keep apply from going on.
    meet: Meet,
    /// For pgoutput: what is compared with the catalog now and then.
    publication: Option<String>,
    filters: Option<Filters>,
    next_comparison: Instant,
    retention: Option<Retention>,
    spool: Option<Spool>,
    written: Reached,
    /// As the sentinel has it.
    wished_endpos: Option<Lsn>,
    next: Instant,
    shutdown: Shutdown,
}

impl Remote {
    pub fn new(
        info: &ConnInfo,
        application_name: &str,
        dir: &std::path::Path,
        sentinel: Sentinel,
        shutdown: &Shutdown,
    ) -> Remote {
        Remote {
            info: info.clone(),
            application_name: application_name.to_owned(),
            dir: dir.to_path_buf(),
            sentinel: Some(sentinel),
            pauses: Carrier::new(dir),
            meet: Meet::new(dir),
            publication: None,
            filters: None,
            next_comparison: Instant::now(),
            retention: None,
            spool: None,
            written: Reached::default(),
            wished_endpos: None,
            next: Instant::now(),
            shutdown: *shutdown,
        }
    }

    /// A table that appears on the source is not published, and its changes would be missed in silence.
    pub fn watch_publication(&mut self, publication: Option<String>, filters: Option<Filters>) {
        self.publication = publication;
        self.filters = filters;
    }

    /// What the slot costs the source is told.
    pub fn watch_slot(&mut self, retention: Retention) {
        self.retention = Some(retention);
    }

    /// Receiving holds when too much waits in files.
    pub fn watch_files(&mut self, spool: Spool) {
        self.spool = Some(spool);
    }

    /// A full disk: how much is there, and how much more would come.
    pub fn explain(&mut self, error: Error) -> Error {
        if !error.is_disk_full() {
            return error;
        }
        let left_on_source = match (&mut self.retention, &mut self.sentinel) {
            (Some(retention), Some(sentinel)) => retention.bytes(sentinel.connection()),
            _ => None,
        };
        match self
            .spool
            .as_ref()
            .and_then(|spool| spool.words(left_on_source))
        {
            Some(words) => error.with_detail(words),
            None => error,
        }
    }

    /// Whether somebody wants apply to pause, and whether it does. Costs a look at two file names.
    pub fn carry_pause(&mut self, positions: &Positions, applies: bool) -> Result<()> {
        match self.meet.look(positions, applies)? {
            // The clone goes first: for a comparison this is as before the end of the copy.
            true => self.pauses.decline(),
            false => self.pauses.carry(positions, applies),
        }
    }

    /// Whether everything that may be applied before the rest of the clone is made is applied.
    pub fn holds_apply(&self) -> bool {
        self.meet.holds()
    }

    /// The end position is reached: what waits for an earlier position need not wait any more.
    pub fn reached_end(&mut self, positions: &Positions) -> Result<()> {
        self.meet.reached_end(positions)
    }

    /// Exchange, if it is time to; whether it was. The source may be away: that is said once and tried again.
    pub fn exchange(&mut self, positions: &Positions) -> Result<bool> {
        if Instant::now() < self.next {
            return Ok(false);
        }
        self.next = Instant::now() + INTERVAL;
        if let Some(spool) = &mut self.spool {
            spool.look(positions)?;
        }
        self.exchange_now(positions)?;
        Ok(true)
    }

    /// Exchange whether it is time or not, such as before the end.
    pub fn exchange_now(&mut self, positions: &Positions) -> Result<()> {
        match self.try_exchange(positions) {
            // A statement that somebody cancelled is no reason to end either.
            Err(error)
                if Remedy::of(&error).exists() || error.is_any_of(&[SqlState::QUERY_CANCELED]) =>
            {
                if self.sentinel.take().is_some() {
                    log::warn!("{error}; trying to reach the source again");
                }
                self.next = Instant::now() + PAUSE;
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Exchange before saying that the end is reached: an answer is needed. An error that may pass is for the caller to try
    /// again.
    pub fn exchange_for_end(&mut self, positions: &Positions) -> Result<()> {
        let silent = || {
            let what = "the source does not say whether the end position has changed";
            Err(Error::connection_lost(Side::Source, what))
        };
        match self.try_exchange(positions) {
            Ok(true) => Ok(()),
            Ok(false) => silent(),
            Err(error) => {
                self.sentinel = None;
                match error.is_any_of(&[SqlState::QUERY_CANCELED]) {
                    true => silent(),
                    false => Err(error),
                }
            }
        }
    }

    /// Whether there was an answer.
    fn try_exchange(&mut self, positions: &Positions) -> Result<bool> {
        if self.sentinel.is_none() {
            self.sentinel = self.reconnect()?;
        }
        let Some(sentinel) = &mut self.sentinel else {
            return Ok(false);
        };
        let Wishes { endpos, apply, .. } = sentinel.get()?.wishes();
        if self.wished_endpos != endpos {
            // Whoever writes the table himself may have copied what the server says, which may be in a page header.
            let reachable = endpos.map(|lsn| sentinel.reachable(lsn)).transpose()?;
            match reachable {
                Some(lsn) => log::info!("the end position is {lsn}"),
                None => log::info!("there is no end position any more"),
            }
            positions.set_endpos(reachable);
            self.wished_endpos = endpos;
        }
        if positions.is_apply_enabled() != apply {
            let word = if apply { "enabled" } else { "disabled" };
            log::info!("applying changes is {word}");
            positions.set_apply(apply);
        }
        if let Some(name) = &self.publication
            && Instant::now() >= self.next_comparison
        {
            self.next_comparison = Instant::now() + COMPARISON;
            publication::check(sentinel.connection(), name, self.filters.as_ref())?;
        }
        if let Some(retention) = &mut self.retention {
            retention.look(sentinel.connection())?;
        }
        let now = reached(positions);
        if is_worth_writing(&self.written, &now, positions.activity()) {
            sentinel.set_reached(&now)?;
            self.written = now;
        }
        Ok(true)
    }

    /// `None` while the source does not answer.
    fn reconnect(&self) -> Result<Option<Sentinel>> {
        match connect_once(&self.info, &self.application_name, &self.shutdown, ATTEMPT)
            .and_then(|connection| Sentinel::open(connection, &self.dir))
        {
            Ok(sentinel) => {
                log::info!("the source is back");
                Ok(Some(sentinel))
            }
            Err(error) if error.is_interrupted() => Err(error),
            Err(error) => {
                log::debug!("{error}");
                Ok(None)
            }
        }
    }
}

fn reached(positions: &Positions) -> Reached {
    Reached {
        write_lsn: positions.written(),
        flush_lsn: positions.flushed(),
        replay_lsn: positions.replayed(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Reached, is_worth_writing};
    use crate::lsn::Lsn;

    #[test]
    fn our_own_writes_cause_no_further_ones() {
        let at = |lsn: u64| Reached {
            write_lsn: Lsn(lsn),
            flush_lsn: Lsn(lsn),
            replay_lsn: Lsn(lsn),
        };
        // Somebody's commit at 9, received and then applied.
        assert!(is_worth_writing(&at(5), &at(9), Lsn(9)));
        let received = Reached {
            replay_lsn: Lsn(5),
            ..at(9)
        };
        assert!(is_worth_writing(&received, &at(9), Lsn(9)));
        // What comes after it is our own.
        assert!(!is_worth_writing(&at(9), &at(500), Lsn(9)));
        assert!(!is_worth_writing(
            &received,
            &Reached {
                replay_lsn: Lsn(5),
                ..at(500)
            },
            Lsn(9)
        ));
        assert!(is_worth_writing(&at(9), &at(64 << 20), Lsn(9)));
    }
}
