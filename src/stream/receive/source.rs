//! The connections of receive to the source: one for the stream, opened again for as long as it takes; short ones for
//! what the catalog says.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::ReceiveSpec;
use crate::error::{Context, Error, Result};
use crate::ident::{quote_ident, quote_literal};
use crate::lsn::{Lsn, WalSegments};
use crate::pg::connect::connect_once;
use crate::pg::session::open_source;
use crate::pg::wire::{Connection, ReplicationStream};
use crate::stream::decode::Decoder;
use crate::stream::relations::Relations;
use crate::sys::signal::Shutdown;

/// Between attempts: short first, as most interruptions are.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How often it is said that the source is still away, or the slot still in use.
const REPEAT: Duration = Duration::from_secs(30);

/// Values in the stream look as they do in the copy, whatever the server's and the role's defaults; and no timeout ends
/// a session that waits for changes.
const SETTINGS: &str = "-c TimeZone=UTC -c DateStyle=ISO,YMD -c IntervalStyle=postgres -c extra_float_digits=3 \
     -c bytea_output=hex -c lc_monetary=C -c xmloption=content -c search_path=pg_catalog -c statement_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c lock_timeout=0";

pub struct Source<'a> {
    spec: &'a ReceiveSpec,
    shutdown: Shutdown,
}

impl Source<'_> {
    pub fn new<'a>(spec: &'a ReceiveSpec, shutdown: &Shutdown) -> Result<Source<'a>> {
        Ok(Source {
            spec,
            shutdown: *shutdown,
        })
    }

    /// How the source cuts its log.
    pub fn segments(&self) -> Result<WalSegments> {
        let mut connection = open_source(
            &self.spec.source,
            &self.spec.application_name,
            &self.shutdown,
        )?;
        let row = connection
            .query_one(
                "SELECT (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
                 pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))",
            )
            .context("could not learn how the source names its WAL files")?;
        Ok(WalSegments {
            timeline: row.parse(0)?,
            size: row.parse(1)?,
        })
    }

    pub fn relations(&self) -> Result<Relations> {
        let (info, name) = (self.spec.source.clone(), self.spec.application_name.clone());
        let shutdown = self.shutdown;
        let open = move || open_source(&info, &name, &shutdown);
        let mut connection = open()?;
        Relations::fetch(&mut connection, Box::new(open))
    }

    /// Start the stream after `position`, waiting for a source that is away and for a slot that somebody dead still holds.
    pub fn start(&self, position: Lsn, decoder: &mut dyn Decoder) -> Result<ReplicationStream> {
        let mut sql = self.start_sql(position, &decoder.options());
        let mut pause = FIRST_PAUSE;
        let mut told: Option<Instant> = None;
        loop {
            let error = match self.connect().and_then(|it| it.start_replication(&sql)) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if decoder.has_other_options(&error) {
                sql = self.start_sql(position, &decoder.options());
                continue;
            }
            if !may_pass(&error) {
                return Err(error.context(format!(
                    "could not receive from slot \"{}\"",
                    self.spec.slot_name
                )));
            }
            // A slot is released within moments when its receiver was stopped in good order: not worth a line.
            let is_new = told.is_none() && pause > FIRST_PAUSE * 4;
            if is_new || told.is_some_and(|told| told.elapsed() > REPEAT) {
                log::warn!("waiting for the source: {error}");
                told = Some(Instant::now());
            }
            self.shutdown.sleep(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn start_sql(&self, position: Lsn, options: &[(String, String)]) -> String {
        let mut sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {position}",
            quote_ident(&self.spec.slot_name)
        );
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{} {}", quote_ident(name), quote_literal(value)))
            .collect();
        if !options.is_empty() {
            sql.push_str(&format!(" ({})", options.join(", ")));
        }
        sql
    }

    fn connect(&self) -> Result<Connection> {
        let info = self
            .spec
            .source
            .for_replication()
            .with_more_options(SETTINGS);
        let name = &self.spec.application_name;
        connect_once(&info, name, &self.shutdown, ATTEMPT)
    }
}

/// Away, starting, full, or the slot is in use: tried again. A slot that is not there, or a wrong password, stays so.
fn may_pass(error: &Error) -> bool {
    !error.is_interrupted()
        && (error.is_connection_lost()
            || error.is_any_of(&[
                SqlState::OBJECT_IN_USE,
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::TOO_MANY_CONNECTIONS,
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
            ]))
}
