//! The replication origin on the target, or the row that takes its place: made, found, dropped. Runs in whichever process
//! sets a follow up or cleans up after it.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::apply::PositionKeeper;
use crate::error::{Context, Result};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;

/// What apply, setup and cleanup call.
const FUNCTIONS: &[&str] = &[
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_oid(text)",
    "pg_replication_origin_advance(text, pg_lsn)",
    "pg_replication_origin_progress(text, boolean)",
    "pg_replication_origin_session_setup(text)",
    "pg_replication_origin_session_progress(boolean)",
    "pg_replication_origin_xact_setup(pg_lsn, timestamptz)",
];

/// The functions that the role may not call: without all of them, origins cannot be used.
pub fn missing_rights(target: &mut Connection) -> Result<Vec<&'static str>> {
    let asks: Vec<String> = FUNCTIONS
        .iter()
        .map(|function| {
            format!(
                "has_function_privilege({}, 'EXECUTE')",
                quote_literal(function)
            )
        })
        .collect();
    let row = target
        .query_one(&format!("SELECT {}", asks.join(", ")))
        .context("could not look for rights on the target")?;
    let mut missing = Vec::new();
    for (place, function) in FUNCTIONS.iter().enumerate() {
        if !row.bool(place)? {
            missing.push(*function);
        }
    }
    Ok(missing)
}

/// Where the position of an origin is kept already, if it is.
pub fn find(target: &mut Connection, name: &str) -> Result<Option<PositionKeeper>> {
    let has_row = has_table(target)?
        && !target
            .query(&format!(
                "SELECT 1 FROM pgcopydb.progress WHERE origin = {}",
                quote_literal(name)
            ))?
            .is_empty();
    if has_row {
        return Ok(Some(PositionKeeper::Table));
    }
    let has_origin = !target
        .query(&format!(
            "SELECT 1 FROM pg_replication_origin WHERE roname = {}",
            quote_literal(name)
        ))
        .context("could not look for replication origins on the target")?
        .is_empty();
    Ok(has_origin.then_some(PositionKeeper::Origin))
}

fn has_table(target: &mut Connection) -> Result<bool> {
    target
        .query_one("SELECT to_regclass('pgcopydb.progress') IS NOT NULL")?
        .bool(0)
}

/// Make the origin, standing at `startpos`: what committed until then came with the copy.
pub fn create(target: &mut Connection, name: &str, startpos: Lsn) -> Result<PositionKeeper> {
    failpoint("origin.before_create")?;
    let missing = missing_rights(target)?;
    let literal = quote_literal(name);
    if missing.is_empty() {
        target
            .execute(&format!(
                "BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_replication_origin_create({literal}); COMMIT; \
                 SELECT pg_replication_origin_advance({literal}, '{startpos}')"
            ))
            .with_context(|| format!("could not create replication origin \"{name}\" on the target"))?;
        failpoint("origin.after_create")?;
        return Ok(PositionKeeper::Origin);
    }
    let row = target.query_one("SELECT quote_ident(current_user)")?;
    let grants: Vec<String> = missing
        .iter()
        .map(|function| {
            format!(
                "GRANT EXECUTE ON FUNCTION {function} TO {};",
                row.text(0).unwrap_or("me")
            )
        })
        .collect();
    log::warn!(
        "the role that connects to the target may not use replication origins: the position is kept in table \
         \"pgcopydb\".\"progress\" on the target instead. With these rights it would be an origin: {}",
        grants.join(" ")
    );
    target
        .execute(&format!(
            "BEGIN; SET LOCAL synchronous_commit = on; CREATE SCHEMA IF NOT EXISTS pgcopydb; \
             CREATE TABLE IF NOT EXISTS pgcopydb.progress \
                 (origin text PRIMARY KEY, lsn pg_lsn NOT NULL, committed_at timestamptz); \
             INSERT INTO pgcopydb.progress (origin, lsn) VALUES ({literal}, '{startpos}'); COMMIT"
        ))
        .context("could not create table \"pgcopydb\".\"progress\" on the target")?;
    Ok(PositionKeeper::Table)
}

/// How far the target is.
pub fn progress(target: &mut Connection, name: &str, keeper: PositionKeeper) -> Result<Lsn> {
    let literal = quote_literal(name);
    let sql = match keeper {
        PositionKeeper::Origin => {
            format!("SELECT COALESCE(pg_replication_origin_progress({literal}, true), '0/0')")
        }
        PositionKeeper::Table => {
            format!("SELECT lsn FROM pgcopydb.progress WHERE origin = {literal}")
        }
    };
    target
        .query_one(&sql)
        .with_context(|| format!("could not read the progress of origin \"{name}\""))?
        .parse(0)
}

/// How long the server may take to release an origin whose apply process was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Drop whatever keeps the position; whether anything did.
pub fn drop(target: &mut Connection, name: &str) -> Result<bool> {
    let literal = quote_literal(name);
    let mut was_there = false;
    // Both may be there, when rights were granted between two runs.
    while let Some(keeper) = find(target, name)? {
        match keeper {
            PositionKeeper::Origin => drop_origin(target, name)?,
            PositionKeeper::Table => {
                target
                    .execute(&format!(
                        "DELETE FROM pgcopydb.progress WHERE origin = {literal}"
                    ))
                    .context("could not forget the position in table \"pgcopydb\".\"progress\"")?;
            }
        }
        was_there = true;
    }
    if has_table(target)? {
        let row = target.query_one("SELECT count(*) FROM pgcopydb.progress")?;
        if row.parse::<u64>(0)? == 0 {
            target
                .execute("DROP TABLE pgcopydb.progress")
                .context("could not drop table \"pgcopydb\".\"progress\" on the target")?;
        }
    }
    Ok(was_there)
}

/// The backend of an apply process that was killed holds its origin until it notices.
fn drop_origin(target: &mut Connection, name: &str) -> Result<()> {
    let sql = format!("SELECT pg_replication_origin_drop({})", quote_literal(name));
    let started = Instant::now();
    loop {
        match target.execute(&sql) {
            Ok(_) => return failpoint("origin.after_drop"),
            Err(error)
                if error.is_any_of(&[SqlState::OBJECT_IN_USE]) && started.elapsed() < PATIENCE =>
            {
                Shutdown::handle().sleep(Duration::from_millis(100))?;
            }
            // Somebody else was faster.
            Err(error) if error.is_any_of(&[SqlState::UNDEFINED_OBJECT]) => return Ok(()),
            Err(error) => {
                return Err(error.context(format!(
                    "could not drop replication origin \"{name}\" on the target"
                )));
            }
        }
    }
}
