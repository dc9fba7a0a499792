//! What became of commits whose connection broke. Runs in the workers that commit on the target.
//!
//! A server that is still the one that has committed has lost nothing. One that has started anew may have lost what it had
//! not flushed, and gives its transaction ids again: what waits for its done-file is done once more then.

use std::time::{Duration, Instant};

use super::Worker;
use crate::error::{Error, Result, Side};
use crate::ident::quote_literal;
use crate::pg::connect::patience;
use crate::pg::incarnation::Incarnation;

/// How often the fate of a transaction is asked for while its backend still works on it.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of a transaction whose COMMIT was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Committed,
    /// Nothing of it is there.
    RolledBack,
    /// The server has started anew: it may be there or not.
    Unknown,
}

impl Worker<'_> {
    /// Connect to the target, and see whether it is still the server that has committed what waits.
    pub(super) fn open_target(&mut self) -> Result<()> {
        let context = self.context;
        let mut target = context.open_target(&self.process, &self.shutdown)?;
        let now = Incarnation::of(&mut target)?;
        self.target = Some(target);
        let before = self.incarnation.replace(now);
        let is_same = match (&before, &self.incarnation) {
            (Some(before), Some(now)) => before.is_same(now),
            _ => true,
        };
        if !is_same && self.ledger.has_waiting() {
            log::warn!(
                "the target has started anew, and may have lost the last commits of {}: doing them again",
                self.process
            );
            self.ledger.lose();
        }
        Ok(())
    }

    /// What became of a transaction of the connection that broke just now.
    pub fn fate(&mut self, xid: &str) -> Result<Fate> {
        let before = self.incarnation.clone();
        let asked = Instant::now();
        let sql = format!(
            "SELECT pg_catalog.pg_xact_status({}::pg_catalog.xid8)",
            quote_literal(xid)
        );
        loop {
            let status = self.retry("a transaction whose end is not known", |worker| {
                let target = worker.target()?;
                let row = target.query_one(&sql);
                let is_same = match (&before, &worker.incarnation) {
                    (Some(before), Some(now)) => before.is_same(now),
                    _ => false,
                };
                match is_same {
                    true => Ok(row?.opt_text(0)?.map(str::to_owned)),
                    // An id of another life of the server is another transaction's, or nobody's yet.
                    false => Ok(None),
                }
            })?;
            match status.as_deref() {
                Some("committed") => return Ok(Fate::Committed),
                Some("aborted") => return Ok(Fate::RolledBack),
                Some("in progress") if asked.elapsed() < patience() => {
                    self.shutdown.sleep(PAUSE)?
                }
                Some("in progress") => {
                    return Err(Error::on(
                        Side::Target,
                        format!(
                            "the target is still busy with transaction {xid}, whose connection is lost"
                        ),
                    ));
                }
                _ => return Ok(Fate::Unknown),
            }
        }
    }
}
