//! The connections of receive to the source: one for the stream, opened again for as long as it takes; short ones for
//! what the catalog says.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::ReceiveSpec;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ident::{quote_ident, quote_literal};
use crate::lsn::{Lsn, WalSegments};
use crate::pg::connect::connect_once;
use crate::pg::remedy::Remedy;
use crate::pg::session::{client_encoding_sql, open_source};
use crate::pg::wire::{Connection, ReplicationStream};
use crate::stream::decode::{Decoder, decoder};
use crate::stream::left_out;
use crate::stream::positions::Positions;
use crate::stream::relations::Relations;
use crate::stream::slot;
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

/// A slot that is still in use after this long is held by somebody who lives: who that is can be said.
const HELD: Duration = Duration::from_secs(60);

/// A stream that the server ends with an error so many times in a row, without having sent a transaction, will do so again:
/// a publication that was dropped, a plugin that cannot read its own catalog.
const MOST_FRUITLESS: u32 = 5;

pub struct Source<'a> {
    spec: &'a ReceiveSpec,
    positions: Positions,
    shutdown: Shutdown,
    /// How often the stream ended without having brought a transaction, and how often in the same way; where the last
    /// transaction was when it began.
    fruitless: u32,
    alike: u32,
    activity: Lsn,
    last_error: String,
}

impl Source<'_> {
    pub fn new<'a>(
        spec: &'a ReceiveSpec,
        positions: &Positions,
        shutdown: &Shutdown,
    ) -> Result<Source<'a>> {
        Ok(Source {
            spec,
            positions: *positions,
            shutdown: *shutdown,
            fruitless: 0,
            alike: 0,
            activity: Lsn::INVALID,
            last_error: String::new(),
        })
    }

    /// A new one for each stream.
    pub fn decoder(&self, relations: &Relations) -> Box<dyn Decoder> {
        decoder(
            self.spec.plugin,
            &self.spec.publication,
            &relations.skipped(),
        )
    }

    /// How the source cuts its log.
    pub fn segments(&self) -> Result<WalSegments> {
        self.patiently(|connection| {
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
        })
    }

    pub fn relations(&self) -> Result<Relations> {
        self.patiently(|connection| {
            let (info, name) = (self.spec.source.clone(), self.spec.application_name.clone());
            let shutdown = self.shutdown;
            let open = move || open_source(&info, &name, &shutdown);
            let fallen = left_out::read(&self.spec.left_out)?;
            Relations::fetch(
                connection,
                self.spec.filters.as_ref(),
                fallen,
                Some(&self.spec.dir),
                Box::new(open),
            )
        })
    }

    /// Ask the source something before the stream begins. It may be away by then, or go away, and is waited for as long as it
    /// takes: it answered when the follow began.
    fn patiently<T>(&self, ask: impl Fn(&mut Connection) -> Result<T>) -> Result<T> {
        let name = &self.spec.application_name;
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = open_source(&self.spec.source, name, &self.shutdown)
                .and_then(|mut connection| ask(&mut connection));
            match answer {
                Err(error) if may_pass(&error) => log::warn!("waiting for the source: {error}"),
                other => return other,
            }
            self.shutdown.sleep(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Start the stream again after it ended with `error`.
    pub fn start_again(
        &mut self,
        position: Lsn,
        error: Error,
        decoder: &mut dyn Decoder,
    ) -> Result<ReplicationStream> {
        // By transactions and not by positions: these go on while the server reads a transaction that it cannot send.
        let is_fruitless = self.positions.activity() <= self.activity;
        self.fruitless = if is_fruitless { self.fruitless + 1 } else { 0 };
        let is_alike = is_fruitless && error.message() == self.last_error;
        self.alike = if is_alike { self.alike + 1 } else { 1 };
        self.last_error = error.message().to_owned();
        let is_refusal = |error: &Error| {
            let said = error.server_error();
            said.is_some_and(|said| said.severity == "ERROR")
        };
        // A full disk, which decoding a large transaction needs too, may have room later.
        let may_pass = Remedy::of(&error) == Remedy::Room;
        if is_refusal(&error) && !may_pass && self.alike >= MOST_FRUITLESS {
            return Err(self.explain(error));
        }
        log::warn!("{error}; connecting again");
        if self.fruitless > 0 {
            let pause = FIRST_PAUSE * 2u32.pow(self.fruitless.min(7));
            self.shutdown.sleep(pause.min(LONGEST_PAUSE))?;
        }
        let stream = self.start(position, decoder)?;
        log::info!("receiving again from {position}");
        Ok(stream)
    }

    /// Start the stream after `position`, waiting for a source that is away and for a slot that somebody dead still holds.
    pub fn start(&mut self, position: Lsn, decoder: &mut dyn Decoder) -> Result<ReplicationStream> {
        self.activity = self.positions.activity();
        let mut sql = self.start_sql(position, &decoder.options());
        let mut pause = FIRST_PAUSE;
        let mut told: Option<Instant> = None;
        let mut in_use_since: Option<Instant> = None;
        loop {
            let error = match self.try_start(position, &sql) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if decoder.has_other_options(&error) {
                sql = self.start_sql(position, &decoder.options());
                continue;
            }
            if !may_pass(&error) {
                return Err(self.explain(error));
            }
            // A slot is released within moments when its receiver was stopped in good order: not worth a line.
            let is_new = told.is_none() && pause > FIRST_PAUSE * 4;
            if is_new || told.is_some_and(|told| told.elapsed() > REPEAT) {
                log::warn!("waiting for the source: {error}");
                told = Some(Instant::now());
            }
            if !error.is_any_of(&[SqlState::OBJECT_IN_USE]) {
                in_use_since = None;
            } else if in_use_since.get_or_insert_with(Instant::now).elapsed() > HELD {
                self.tell_holder();
                in_use_since = None;
            }
            self.shutdown.sleep(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn explain(&self, error: Error) -> Error {
        let error = match is_too_large(&error) {
            // "can no longer get changes": the server has removed WAL that the slot needs.
            false if error.is_any_of(&[SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE]) => error.with_hint(
                "The source has given the slot up, and with it changes that nobody has: raise max_slot_wal_keep_size there, then \
                 start over with --restart.",
            ),
            true => error.with_hint(
                "A row is larger than the server can decode: 1 GB as text, of which bytea takes two bytes for each of its own. \
                 Shorten or remove it, then start over: \"pgcopydb stream cleanup\", and a new clone.",
            ),
            false => error,
        };
        match error.kind() {
            ErrorKind::State | ErrorKind::Interrupted => error,
            _ => error.context(format!(
                "could not receive from slot \"{}\"",
                self.spec.slot_name
            )),
        }
    }

    fn try_start(&self, position: Lsn, sql: &str) -> Result<ReplicationStream> {
        let mut connection = self.connect()?;
        self.check_position(&mut connection, position)?;
        connection.start_replication(sql)
    }

    /// Asked for an older position than it has confirmed, the server begins at the confirmed one without a word: what was
    /// committed between would be missing.
    fn check_position(&self, connection: &mut Connection, position: Lsn) -> Result<()> {
        let slot = slot::find(connection, &self.spec.slot_name)?;
        match slot.and_then(|slot| slot.confirmed_flush) {
            Some(confirmed) if confirmed > position => Err(Error::state(format!(
                "cannot receive from {position} on: slot \"{}\" has confirmed everything before {confirmed}, \
                 and the source may have removed it",
                self.spec.slot_name
            ))
            .with_detail(format!(
                "The files in \"{}\" end at {position}.",
                self.spec.dir.display()
            ))
            .with_hint(
                "Files were removed or damaged, or somebody else received from the slot. Start over with --restart.",
            )),
            _ => Ok(()),
        }
    }

    /// Who uses the slot; nothing when that cannot be learned.
    fn tell_holder(&self) {
        let name = &self.spec.slot_name;
        let open = open_source(
            &self.spec.source,
            &self.spec.application_name,
            &self.shutdown,
        );
        let held = open.and_then(|mut connection| {
            connection.query(&format!(
                "SELECT a.pid, a.application_name, COALESCE(a.client_addr::text, 'the same machine'), a.backend_start::text \
                 FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = {}",
                quote_literal(name)
            ))
        });
        for row in held.iter().flatten() {
            let text = |column| row.opt_text(column).ok().flatten().unwrap_or("");
            log::warn!(
                "slot \"{name}\" is in use by pid {} of the source, \"{}\" from {}, connected since {}",
                text(0),
                text(1),
                text(2),
                text(3)
            );
        }
    }

    fn start_sql(&self, position: Lsn, options: &[(String, String)]) -> String {
        let mut sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {position}",
            quote_ident(&self.spec.slot_name)
        );
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{} {}", quote_ident(name), quoted(value)))
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
        let mut connection = connect_once(&info, name, &self.shutdown, ATTEMPT)?;
        // pgoutput converts to it; without it, names and values would come in the database's encoding.
        connection
            .execute(&client_encoding_sql(&connection))
            .context("could not prepare a session on the source")?;
        Ok(connection)
    }
}

/// A replication command knows no E'': a backslash is a backslash.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Away, starting, full, or the slot is in use: tried again. A slot that is not there, or a wrong password, stays so. What
/// the server did not say itself (a name that is not found, a handshake that broke) is the network's, as it was reached
/// before.
fn may_pass(error: &Error) -> bool {
    let is_unreachable = error.kind() == ErrorKind::Source && error.sqlstate().is_none();
    !error.is_interrupted()
        && (is_unreachable
            || Remedy::of(error).exists()
            || error.is_any_of(&[SqlState::OBJECT_IN_USE]))
}

/// What the server says of a value that its output functions cannot hold: program_limit_exceeded, or an internal error of
/// its allocator, which has no other mark than its words (mcxt.c).
fn is_too_large(error: &Error) -> bool {
    error.is_any_of(&[SqlState::PROGRAM_LIMIT_EXCEEDED])
        || error.is_any_of(&[SqlState::INTERNAL_ERROR])
            && error.message().contains("alloc request size")
}

#[cfg(test)]
mod tests {
    use super::may_pass;
    use crate::error::{Error, ServerError, Side};

    fn said(severity: &str, sqlstate: &str) -> Error {
        Error::server(Side::Source, ServerError::of(severity, sqlstate))
    }

    #[test]
    fn what_may_pass_is_waited_for() {
        for error in [
            said("FATAL", "57P01"),
            said("FATAL", "57P03"),
            said("FATAL", "53300"),
            said("ERROR", "53100"),
            said("ERROR", "55006"),
            Error::connection_lost(Side::Source, "closed"),
            Error::on(Side::Source, "could not resolve host name \"db\""),
        ] {
            assert!(may_pass(&error), "{error}");
        }
        for error in [
            said("FATAL", "28P01"),
            said("FATAL", "28000"),
            said("FATAL", "3D000"),
            said("ERROR", "42704"),
            said("ERROR", "55000"),
            Error::state("the slot is ahead"),
            Error::interrupted(),
        ] {
            assert!(!may_pass(&error), "{error}");
        }
    }
}
