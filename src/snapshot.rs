//! The snapshot that everything read from the source shares: export, hold, use again. The holder is a connection of
//! the parent; workers know its name only.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;

/// A snapshot and, when it is ours, the transaction that keeps it alive.
#[derive(Debug)]
pub struct Snapshot {
    id: String,
    lsn: Option<Lsn>,
    holder: Connection,
}

impl Snapshot {
    /// Begin a transaction and export its snapshot.
    pub fn export(
        info: &ConnInfo,
        application_name: &str,
        shutdown: &Shutdown,
    ) -> Result<Snapshot> {
        let mut holder = open_source(info, application_name, shutdown)?;
        let row = holder
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .and_then(|_| {
                holder.query_one(
                    "SELECT pg_catalog.pg_export_snapshot(), \
                     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                     ELSE pg_catalog.pg_current_wal_lsn() END",
                )
            })
            .context("could not export a snapshot")?;
        Ok(Snapshot {
            id: row.text(0)?.to_string(),
            lsn: row.opt_parse(1)?,
            holder,
        })
    }

    /// Use a snapshot that another process holds. Our own transaction on it keeps it importable for nobody else, but
    /// gives the parent a consistent view for the catalog.
    pub fn import(
        info: &ConnInfo,
        id: &str,
        application_name: &str,
        shutdown: &Shutdown,
    ) -> Result<Snapshot> {
        let mut holder = open_source(info, application_name, shutdown)?;
        holder.execute(&begin_sql(id)).map_err(|error| {
            if is_gone(&error) {
                Error::new(
                    ErrorKind::Source,
                    format!("cannot use snapshot \"{id}\": it does not exist any more"),
                )
                .with_hint("Start over with a new one, or keep \"pgcopydb snapshot\" running.")
            } else {
                error.context(format!("could not use snapshot \"{id}\""))
            }
        })?;
        Ok(Snapshot {
            id: id.to_string(),
            lsn: None,
            holder,
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the source's log stood just after the snapshot was taken; unknown for another process's snapshot.
    pub fn lsn(&self) -> Option<Lsn> {
        self.lsn
    }

    /// The transaction that sees the snapshot.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.holder
    }

    /// End the transaction: from here on the source may vacuum again.
    pub fn release(mut self) -> Result<()> {
        self.holder
            .execute("COMMIT")
            .context("could not release the snapshot")?;
        Ok(())
    }
}

/// Begin a transaction that sees `snapshot`.
pub fn begin_sql(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        quote_literal(snapshot)
    )
}

/// Whether a snapshot can still be imported; other failures are errors.
pub fn is_alive(
    info: &ConnInfo,
    id: &str,
    application_name: &str,
    shutdown: &Shutdown,
) -> Result<bool> {
    let mut connection = open_source(info, application_name, shutdown)?;
    match connection.execute(&begin_sql(id)) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error.context(format!("could not look for snapshot \"{id}\""))),
    }
}

/// The server's words for a snapshot whose transaction has ended: 22023 before 16 (and for a malformed name), 42704
/// since.
fn is_gone(error: &Error) -> bool {
    matches!(error.sqlstate(), Some("22023") | Some("42704"))
}
