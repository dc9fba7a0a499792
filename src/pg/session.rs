//! Sessions: connections with the settings that make values travel exactly and keep timeouts away. Runs in every
//! process that talks to a server. Decides settings, never which statements are run.

use std::time::{Duration, Instant};

use crate::error::{Context, Result, Side};
use crate::ident::quote_literal;
use crate::pg::connect::{connect_and_pin, patience};
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::Remedy;
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;

/// The name of this run in pg_stat_activity: what a later run recognises, and ends, when we were killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunName(String);

impl RunName {
    /// `id` is the run id of the work directory: short, letters and digits.
    pub fn new(id: &str) -> RunName {
        RunName(format!("pgcopydb[{id}]"))
    }

    /// The application_name of one process. The server keeps 63 bytes.
    pub fn of(&self, process: &str) -> String {
        format!("{} {process}", self.0)
    }

    /// SQL that counts the other backends of this run that are not idle.
    pub fn others_sql(&self) -> String {
        format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {} AND state <> 'idle'",
            self.condition()
        )
    }

    /// For a WHERE: the other backends of this run.
    pub(super) fn condition(&self) -> String {
        format!(
            "left(application_name, {length}) = {name} AND pid <> pg_backend_pid() \
             AND usename = session_user",
            length = self.0.len() + 1,
            name = quote_literal(&format!("{} ", self.0)),
        )
    }

    /// SQL that ends every other backend of this run that belongs to our role; returns how many there were.
    pub fn terminate_sql(&self) -> String {
        format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {}",
            self.condition()
        )
    }
}

/// Settings of both sides: whatever the servers' and roles' defaults are, a value is written and read the same way,
/// and nothing is cut off by a timeout. 17 adds transaction_timeout.
const EXACT_VALUES: &[(&str, &str)] = &[
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("extra_float_digits", "3"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("search_path", "pg_catalog"),
    ("standard_conforming_strings", "on"),
    ("synchronize_seqscans", "off"),
    ("client_min_messages", "warning"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
];

/// Between two attempts to prepare a session.
const PAUSE: Duration = Duration::from_millis(200);

/// What a target session needs on top.
#[derive(Debug, Clone)]
pub struct TargetSettings {
    /// For index builds, in PostgreSQL's notation; only ever raises the server's own value.
    pub maintenance_work_mem: String,
    /// How long a statement may wait for a lock; zero: as long as it takes.
    pub lock_timeout: Duration,
}

impl Default for TargetSettings {
    /// For sessions that build nothing.
    fn default() -> TargetSettings {
        TargetSettings {
            maintenance_work_mem: "64MB".to_owned(),
            lock_timeout: Duration::ZERO,
        }
    }
}

/// Connect to the source. Nothing is written there, whatever happens.
pub fn open_source(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
) -> Result<Connection> {
    let opened = open(info, application_name, shutdown, &mut apply_settings)?;
    Ok(opened.0)
}

/// Connect to either side for a look, with a conninfo that names only the server that answered. Prepared at once: while the
/// other side is looked at, a timeout of the role's could end this session.
pub fn open_and_pin(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
) -> Result<(Connection, ConnInfo)> {
    open(info, application_name, shutdown, &mut apply_settings)
}

/// Connect to the target.
pub fn open_target(
    info: &ConnInfo,
    application_name: &str,
    settings: &TargetSettings,
    shutdown: &Shutdown,
) -> Result<Connection> {
    let opened = open(info, application_name, shutdown, &mut |connection| {
        apply_settings(connection)?;
        apply_target_settings(connection, settings)
    })?;
    Ok(opened.0)
}

/// Connect and prepare the session. One that breaks meanwhile, such as on a server that goes down just now, is made again
/// within the time that a server is waited for.
fn open(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
    prepare: &mut dyn FnMut(&mut Connection) -> Result<()>,
) -> Result<(Connection, ConnInfo)> {
    let started = Instant::now();
    loop {
        let (mut connection, pinned) = connect_and_pin(info, application_name, shutdown)?;
        match prepare(&mut connection) {
            Ok(()) => return Ok((connection, pinned)),
            Err(error)
                if Remedy::of(&error) == Remedy::Connection && started.elapsed() < patience() =>
            {
                log::warn!("{error}; connecting again");
                shutdown.sleep(PAUSE)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn apply_target_settings(connection: &mut Connection, settings: &TargetSettings) -> Result<()> {
    connection
        .execute(&format!(
            "SET synchronous_commit = off; SET lock_timeout = {lock_timeout}; \
             SELECT pg_catalog.set_config('maintenance_work_mem', {wanted}, false) \
             WHERE pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) \
                 < pg_catalog.pg_size_bytes({wanted})",
            lock_timeout = settings.lock_timeout.as_millis(),
            wanted = quote_literal(&settings.maintenance_work_mem),
        ))
        .context("could not prepare a session on the target")?;
    if connection.server_version() >= 140_000 {
        // A worker killed with -9 in the middle of CREATE INDEX: the backend notices within seconds.
        // Not every platform supports it; without it the next run ends the backend.
        or_refused(connection.execute("SET client_connection_check_interval = '2s'"))?;
    }
    // Triggers and rules that the user added between pre-data and data must not fire. Needs a right that an owner of a
    // database often lacks: without it COPY behaves as pg_restore's does.
    or_refused(connection.execute("SET session_replication_role = replica"))
}

/// A setting that the server may refuse; a connection that breaks is no refusal.
fn or_refused(result: Result<u64>) -> Result<()> {
    match result {
        Err(error) if error.is_connection_lost() || error.is_interrupted() => Err(error),
        _ => Ok(()),
    }
}

/// What has all text come as UTF-8. A SQL_ASCII database has no encoding to convert from: bytes pass as they are.
pub fn client_encoding_sql(connection: &Connection) -> String {
    let encoding = match connection.parameter("server_encoding") {
        Some("SQL_ASCII") => "SQL_ASCII",
        _ => "UTF8",
    };
    format!("SET client_encoding = {}", quote_literal(encoding))
}

fn apply_settings(connection: &mut Connection) -> Result<()> {
    let mut sql = String::new();
    for (name, value) in EXACT_VALUES {
        sql.push_str(&format!("SET {name} = {}; ", quote_literal(value)));
    }
    // A worker may wait for hours until the next table is complete.
    if connection.server_version() >= 140_000 {
        sql.push_str("SET idle_session_timeout = 0; ");
    }
    if connection.server_version() >= 170_000 {
        sql.push_str("SET transaction_timeout = 0; ");
    }
    let side = connection.side();
    sql.push_str(&client_encoding_sql(connection));
    connection
        .execute(&sql)
        .with_context(|| format!("could not prepare a session on the {side}"))?;
    Ok(())
}

/// Make everything this server has committed durable, also what was committed with synchronous_commit off, by anybody:
/// WAL is flushed in order, so one small synchronous commit carries all before it. A done-file may be written
/// after this, never before.
pub fn flush_commits(connection: &mut Connection) -> Result<()> {
    debug_assert_eq!(connection.side(), Side::Target);
    failpoint("target.before_flush")?;
    connection
        .execute(
            "BEGIN; SET LOCAL synchronous_commit = on; \
             SELECT pg_catalog.pg_logical_emit_message(true, 'pgcopydb', 'flush'); COMMIT",
        )
        .context("could not flush the target's commits")?;
    failpoint("target.after_flush")
}

#[cfg(test)]
mod tests {
    use super::RunName;

    #[test]
    fn names_fit_what_the_server_keeps() {
        let run = RunName::new("0123456789ab");
        assert_eq!(
            run.of("copy worker 3"),
            "pgcopydb[0123456789ab] copy worker 3"
        );
        assert!(run.of("large-object worker 128").len() <= 63);
        assert!(run.terminate_sql().contains("'pgcopydb[0123456789ab] '"));
    }
}
