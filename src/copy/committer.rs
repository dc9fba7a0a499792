//! A worker's connection to the target, with what it has committed there and not announced yet. Runs in copy and index
//! workers. It connects again when the connection breaks, and finds out what became of the commits.

use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::{CopyContext, with_retry};
use crate::error::{Error, Result, Side};
use crate::ident::quote_literal;
use crate::pg::connect::patience;
use crate::pg::incarnation::Incarnation;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;

/// How often the fate of a transaction is asked for while its backend still works on it.
const PAUSE: Duration = Duration::from_millis(200);

pub struct Committer<'a, W> {
    context: &'a CopyContext<'a>,
    process: String,
    shutdown: Shutdown,
    connection: Option<Connection>,
    /// The server that the ledger's commits were made on.
    incarnation: Option<Incarnation>,
    ledger: Ledger<'a, W>,
}

/// What became of a transaction whose COMMIT was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Committed,
    /// Nothing of it is there.
    RolledBack,
    /// The server has started anew: it may be there or not.
    Unknown,
}

impl<'a, W> Committer<'a, W> {
    pub fn new(context: &'a CopyContext<'a>, process: &str, shutdown: &Shutdown) -> Self {
        Committer {
            context,
            process: process.to_owned(),
            shutdown: *shutdown,
            connection: None,
            incarnation: None,
            ledger: Ledger::new(),
        }
    }

    /// The connection, if there is one.
    pub fn current(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// The connection, made if there is none. `Err` with what has to be done again first: the server that has committed
    /// it may have lost it.
    pub fn connect(&mut self) -> Result<std::result::Result<&mut Connection, Vec<W>>> {
        if self.connection.is_none() {
            let mut connection = self.context.open_target(&self.process, &self.shutdown)?;
            let now = Incarnation::of(&mut connection)?;
            let before = self.incarnation.replace(now);
            self.connection = Some(connection);
            let is_same = before.is_none_or(|before| {
                let now = self.incarnation.as_ref();
                now.is_some_and(|now| before.is_same(now))
            });
            if !is_same && !self.ledger.is_empty() {
                log::warn!(
                    "the target has started anew, and may have lost the last commits of {}: doing them again",
                    self.process
                );
                return Ok(Err(self.ledger.forget()));
            }
        }
        match &mut self.connection {
            Some(connection) => Ok(Ok(connection)),
            None => Err(Error::internal("a connection vanished")),
        }
    }

    /// After an error: drop the connection, if it cannot go on.
    pub fn keep_if_it_works(&mut self) {
        self.connection.take_if(|connection| !connection.recover());
    }

    pub fn committed(&mut self, work: W, announce: impl FnOnce() -> Result<()> + 'a) {
        self.ledger.committed(work, announce);
    }

    pub fn is_due(&self) -> bool {
        self.ledger.is_due()
    }

    /// Make what was committed durable and announce it. What has to be done again instead, if the server was started anew.
    pub fn settle(&mut self) -> Result<Vec<W>> {
        if self.ledger.is_empty() {
            return Ok(Vec::new());
        }
        with_retry(
            self,
            "the flush of what was committed",
            |committer| {
                if let Err(lost) = committer.connect()? {
                    return Ok(lost);
                }
                match &mut committer.connection {
                    Some(connection) => committer.ledger.settle(connection)?,
                    None => return Err(Error::internal("a connection vanished")),
                }
                Ok(Vec::new())
            },
            Committer::keep_if_it_works,
        )
    }

    /// What became of a transaction of the connection that broke.
    pub fn fate(&mut self, xid: &str) -> Result<Fate> {
        let before = self.incarnation.clone();
        let asked = Instant::now();
        let sql = format!(
            "SELECT pg_catalog.pg_xact_status({}::pg_catalog.xid8)",
            quote_literal(xid)
        );
        loop {
            let status = with_retry(
                self,
                "a transaction whose end is not known",
                |committer| {
                    if committer.connection.is_none() {
                        let mut connection = committer
                            .context
                            .open_target(&committer.process, &committer.shutdown)?;
                        let now = Incarnation::of(&mut connection)?;
                        committer.connection = Some(connection);
                        // A transaction id of another life of the server is another transaction's. What waits in the
                        // ledger is looked at by the next `connect`.
                        if !before.as_ref().is_some_and(|before| before.is_same(&now)) {
                            return Ok(None);
                        }
                    }
                    match &mut committer.connection {
                        Some(connection) => {
                            Ok(connection.query_one(&sql)?.opt_text(0)?.map(str::to_owned))
                        }
                        None => Err(Error::internal("a connection vanished")),
                    }
                },
                |committer| {
                    committer.connection = None;
                },
            )?;
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
                _ => {
                    // So that the next `connect` compares.
                    self.connection = None;
                    return Ok(Fate::Unknown);
                }
            }
        }
    }
}
