//! The apply process's session on the target: settings, the replication origin, commits. Runs in the apply process.
//!
//! The position moves in the same transaction as the data, so the two cannot part. Where the role may not use origins, a
//! row in `pgcopydb.progress` takes the origin's place.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::{ApplySpec, PositionKeeper};
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::session::{TargetSettings, flush_commits, open_target};
use crate::pg::wire::{Connection, Outcome, Outcomes};
use crate::stream::script::CommitIs;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;

/// The origin of a process that died is free once its backend has noticed; after this long we end the backend.
const ORIGIN_WAIT: Duration = Duration::from_secs(10);

/// How often a position that another session holds is asked for again.
const HOLDER_PAUSE: Duration = Duration::from_millis(200);

/// How rows are found must not depend on statistics: by the index of the key. Where there is none, the price put on
/// scanning the table must not make the server compile each statement.
fn plans(server_version: u32) -> String {
    let mut sql =
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
         SET enable_mergejoin = off; SET synchronous_commit = off"
            .to_owned();
    if server_version >= 11_00_00 {
        sql.push_str("; SET jit = off");
    }
    if server_version >= 12_00_00 {
        sql.push_str("; SET plan_cache_mode = force_generic_plan");
    }
    sql
}

/// The equality of a type that an extension brought is in the extension's schema; without it `citext = text` would
/// silently be that of text. The rest of the database's search_path stays out.
const OPERATORS: &str =
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog' || COALESCE(pg_catalog.string_agg(
        DISTINCT ', ' || pg_catalog.quote_ident(n.nspname), ''), ''), false)
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    WHERE n.nspname <> 'pg_catalog'";

const SET_POSITION: &str = "pgcopydb_position";
const BEGIN: &str = "pgcopydb_begin";
const COMMIT: &str = "pgcopydb_commit";

pub struct Session {
    pub connection: Connection,
    keeper: PositionKeeper,
    origin: String,
}

impl Session {
    /// Connect and take the origin. Returns the session and the position of the last transaction that is applied.
    pub fn open(spec: &ApplySpec, shutdown: &Shutdown) -> Result<(Session, Lsn)> {
        let settings = TargetSettings {
            lock_timeout: spec.lock_timeout,
            ..TargetSettings::default()
        };
        let mut connection =
            open_target(&spec.target, &spec.application_name, &settings, shutdown)?;
        connection
            .execute(&plans(connection.server_version()))
            .and_then(|_| connection.execute(OPERATORS))
            .context("could not prepare a session on the target")?;
        connection
            .execute("SET session_replication_role = replica")
            .map_err(may_not_be_replica)?;
        let progress = match spec.keeper {
            PositionKeeper::Origin => take_origin(&mut connection, &spec.origin, shutdown)?,
            PositionKeeper::Table => take_table(&mut connection, &spec.origin, shutdown)?,
        };
        let position = match spec.keeper {
            // Without a transaction id of its own, a transaction that wrote nothing (all its rows were missing) would not
            // move the origin.
            PositionKeeper::Origin => {
                "SELECT pg_catalog.pg_replication_origin_xact_setup($1::pg_catalog.pg_lsn, $2::pg_catalog.timestamptz), \
                     pg_catalog.txid_current()"
                    .to_owned()
            }
            PositionKeeper::Table => format!(
                "UPDATE pgcopydb.progress SET lsn = $1::pg_catalog.pg_lsn, committed_at = $2::pg_catalog.timestamptz \
                 WHERE origin = {}",
                quote_literal(&spec.origin)
            ),
        };
        connection.add_parse(SET_POSITION, &position)?;
        connection.add_parse(BEGIN, "BEGIN")?;
        connection.add_parse(COMMIT, "COMMIT")?;
        check(&connection.run_pipeline()?)?;
        let session = Session {
            connection,
            keeper: spec.keeper,
            origin: spec.origin.clone(),
        };
        Ok((session, progress))
    }

    /// Gather the begin of a target transaction.
    pub fn add_begin(&mut self) -> Result<()> {
        self.connection.add_execute(BEGIN, [])
    }

    /// Commit with the position of the last source transaction in it. Every result before it was checked. `begins`: there
    /// was nothing to apply, and only the position moves.
    pub fn commit(&mut self, last: &CommitIs<'_>, begins: bool) -> Result<()> {
        failpoint("apply.before_commit")?;
        if begins {
            self.add_begin()?;
        }
        let (lsn, timestamp) = (last.commit_lsn.to_string(), last.timestamp.as_bytes());
        self.connection
            .add_execute(SET_POSITION, [Some(lsn.as_bytes()), Some(timestamp)])?;
        self.connection.add_execute(COMMIT, [])?;
        let outcomes = self.connection.run_pipeline()?;
        check(&outcomes).context("could not commit on the target")?;
        let done = outcomes.done.get(usize::from(begins)..).unwrap_or(&[]);
        let is_committed = matches!(
            (done, self.keeper),
            ([Outcome::Done(_), Outcome::Done(_)], PositionKeeper::Origin)
                | ([Outcome::Done(1), Outcome::Done(_)], PositionKeeper::Table)
        );
        if !is_committed {
            return Err(Error::on(
                Side::Target,
                "could not commit on the target: the transaction was rolled back, or its position is gone",
            ));
        }
        failpoint("apply.after_commit")
    }

    /// Make everything that was committed durable; the position up to which it is.
    pub fn flush(&mut self) -> Result<Lsn> {
        failpoint("apply.before_flush")?;
        match self.keeper {
            PositionKeeper::Origin => {
                let row = self.connection.query_one(
                    "SELECT COALESCE(pg_catalog.pg_replication_origin_session_progress(true), '0/0')",
                )?;
                row.parse(0)
            }
            PositionKeeper::Table => {
                flush_commits(&mut self.connection)?;
                read_table(&mut self.connection, &self.origin)
            }
        }
    }
}

/// The first failure of a pipeline, if any.
pub fn check(outcomes: &Outcomes) -> Result<()> {
    match &outcomes.failure {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}

fn may_not_be_replica(error: Error) -> Error {
    if !error.is_any_of(&[SqlState::INSUFFICIENT_PRIVILEGE]) {
        return error;
    }
    error
        .context("cannot keep triggers and foreign keys of the target from firing")
        .with_hint(
            "As a superuser: GRANT SET ON PARAMETER session_replication_role TO the role that connects to the target \
             (PostgreSQL 15 and later), or connect as a superuser.",
        )
}

/// Take the origin for this session, waiting for one that a dead process still holds.
fn take_origin(connection: &mut Connection, origin: &str, shutdown: &Shutdown) -> Result<Lsn> {
    let name = quote_literal(origin);
    let setup = format!("SELECT pg_catalog.pg_replication_origin_session_setup({name})");
    wait_for_holder(connection, origin, shutdown, &mut |connection| {
        let error = match connection.execute(&setup) {
            Ok(_) => return Ok(None),
            Err(error) => error,
        };
        if !error.is_any_of(&[SqlState::OBJECT_IN_USE]) {
            return Err(error.context(format!("could not use replication origin \"{origin}\"")));
        }
        // "replication origin with ID 1 is already active for PID 4711", in whatever language.
        let mut words = error.message().rsplit(|c: char| !c.is_ascii_digit());
        Ok(Some(words.find_map(|word| word.parse().ok())))
    })?;
    let row = connection.query_one(
        "SELECT COALESCE(pg_catalog.pg_replication_origin_session_progress(false), '0/0')",
    )?;
    row.parse(0)
}

/// The same for the row that takes an origin's place: only who holds its lock may move it, or what a dying session still
/// commits after we have read the position would be applied again.
fn take_table(connection: &mut Connection, origin: &str, shutdown: &Shutdown) -> Result<Lsn> {
    // The first key is the tool's, so that locks of the application do not get in the way.
    let keys = format!("1885823856, pg_catalog.hashtext({})", quote_literal(origin));
    let lock = format!(
        "SELECT pg_catalog.pg_try_advisory_lock({keys}), (SELECT min(pid) FROM pg_catalog.pg_locks \
             WHERE locktype = 'advisory' AND granted AND pid <> pg_catalog.pg_backend_pid() \
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
               AND classid = 1885823856 AND objid::bigint = pg_catalog.hashtext({})::bigint & 4294967295)",
        quote_literal(origin)
    );
    wait_for_holder(connection, origin, shutdown, &mut |connection| {
        let row = connection.query_one(&lock)?;
        match row.bool(0)? {
            true => Ok(None),
            false => Ok(Some(row.opt_parse(1)?)),
        }
    })?;
    read_table(connection, origin)
}

/// Try until nobody else holds the position. `attempt` answers with the process id of the session that does, if it could
/// be told.
fn wait_for_holder(
    connection: &mut Connection,
    origin: &str,
    shutdown: &Shutdown,
    attempt: &mut dyn FnMut(&mut Connection) -> Result<Option<Option<i32>>>,
) -> Result<()> {
    let started = Instant::now();
    let mut is_told = false;
    while let Some(holder) = attempt(connection)? {
        if !is_told {
            let pid = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            log::info!(
                "waiting for replication origin \"{origin}\": another session of the target holds it{pid}"
            );
            is_told = true;
        }
        if let Some(pid) = holder
            && started.elapsed() > ORIGIN_WAIT
            && end_holder(connection, pid)?
        {
            log::warn!(
                "ended the backend of an earlier run that still held replication origin \"{origin}\" (pid {pid})"
            );
        }
        shutdown.sleep(HOLDER_PAUSE)?;
    }
    Ok(())
}

/// End a backend if it is one of this work directory's apply processes, which has our name. Apply processes for other
/// sources are left alone.
fn end_holder(connection: &mut Connection, pid: i32) -> Result<bool> {
    let row = connection.query_one(&format!(
        "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
         WHERE pid = {pid} AND application_name = pg_catalog.current_setting('application_name') \
           AND datname = pg_catalog.current_database() AND usename = session_user"
    ))?;
    Ok(row.parse::<u64>(0)? > 0)
}

fn read_table(connection: &mut Connection, origin: &str) -> Result<Lsn> {
    let sql = format!(
        "SELECT lsn FROM pgcopydb.progress WHERE origin = {}",
        quote_literal(origin)
    );
    match connection.query(&sql)?.first() {
        Some(row) => row.parse(0),
        None => Err(Error::new(
            ErrorKind::State,
            format!(
                "the target has no position for origin \"{origin}\" in table \"pgcopydb\".\"progress\""
            ),
        )),
    }
}
