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

/// How the rows of a set are found must not depend on statistics: by the key's index. Where there is none, the price of a
/// plan that is switched off must not make the server compile it.
const PLANS: &str = "SET jit = off; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET plan_cache_mode = force_generic_plan; SET synchronous_commit = off";

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
            maintenance_work_mem: "64MB".to_owned(),
        };
        let mut connection =
            open_target(&spec.target, &spec.application_name, &settings, shutdown)?;
        connection
            .execute(PLANS)
            .context("could not prepare a session on the target")?;
        connection
            .execute("SET session_replication_role = replica")
            .map_err(may_not_be_replica)?;
        let progress = match spec.keeper {
            PositionKeeper::Origin => take_origin(&mut connection, &spec.origin, shutdown)?,
            PositionKeeper::Table => read_table(&mut connection, &spec.origin)?,
        };
        let position = match spec.keeper {
            PositionKeeper::Origin => {
                "SELECT pg_catalog.pg_replication_origin_xact_setup($1::pg_catalog.pg_lsn, $2::pg_catalog.timestamptz)"
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

    /// Commit with the position of the last source transaction in it. Every result before it was checked.
    pub fn commit(&mut self, last: &CommitIs<'_>) -> Result<()> {
        failpoint("apply.before_commit")?;
        let (lsn, timestamp) = (last.commit_lsn.to_string(), last.timestamp.as_bytes());
        self.connection
            .add_execute(SET_POSITION, [Some(lsn.as_bytes()), Some(timestamp)])?;
        self.connection.add_execute(COMMIT, [])?;
        let outcomes = self.connection.run_pipeline()?;
        check(&outcomes).context("could not commit on the target")?;
        let is_committed = matches!(
            (&outcomes.done[..], self.keeper),
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
    let started = Instant::now();
    let mut is_told = false;
    loop {
        let error = match connection.execute(&setup) {
            Ok(_) => break,
            Err(error) => error,
        };
        if !error.is_any_of(&[SqlState::OBJECT_IN_USE]) {
            return Err(error.context(format!("could not use replication origin \"{origin}\"")));
        }
        if !is_told {
            log::info!(
                "waiting for replication origin \"{origin}\": {}",
                error.message()
            );
            is_told = true;
        }
        if started.elapsed() > ORIGIN_WAIT && end_holders(connection)? > 0 {
            log::warn!(
                "ended a backend of an earlier run that still held replication origin \"{origin}\""
            );
        }
        shutdown.sleep(Duration::from_millis(200))?;
    }
    let row = connection.query_one(
        "SELECT COALESCE(pg_catalog.pg_replication_origin_session_progress(false), '0/0')",
    )?;
    row.parse(0)
}

/// End backends of other apply processes of ours in this database.
fn end_holders(connection: &mut Connection) -> Result<u64> {
    let row = connection.query_one(
        "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
         WHERE application_name ~ '^pgcopydb\\[.*\\] apply$' AND datname = pg_catalog.current_database() \
           AND pid <> pg_catalog.pg_backend_pid() AND usename = session_user",
    )?;
    row.parse(0)
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
