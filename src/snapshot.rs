//! The snapshot that everything read from the source shares: export, hold, use again. The holder is a connection of
//! the parent; workers know its name only.

use postgres::error::SqlState;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir};

/// How often the holder of a snapshot looks whether its server is still there.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(2);

/// A snapshot and, when it is ours, the transaction that keeps it alive.
#[derive(Debug)]
pub struct Snapshot {
    id: String,
    /// What the snapshot sees, in the server's words: two snapshots with the same text see the same rows. The id alone
    /// may be given again after a restart of the server.
    content: String,
    lsn: Option<Lsn>,
    holder: Connection,
    /// The replication connection that made a slot and exported this snapshot with it: any command on it, or its end, ends
    /// the snapshot.
    exporter: Option<Connection>,
}

impl Snapshot {
    /// Begin a transaction and export its snapshot.
    pub fn export(
        info: &ConnInfo,
        application_name: &str,
        shutdown: &Shutdown,
    ) -> Result<Snapshot> {
        let mut holder = open_source(info, application_name, shutdown)?;
        holder
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .context("could not export a snapshot")?;
        let row = holder
            .query_one("SELECT pg_catalog.pg_export_snapshot()")
            .context("could not export a snapshot")?;
        let content = content(&mut holder)?;
        Ok(Snapshot {
            id: row.text(0)?.to_string(),
            content,
            lsn: None,
            holder,
            exporter: None,
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
        let content = content(&mut holder)?;
        Ok(Snapshot {
            id: id.to_string(),
            content,
            lsn: None,
            holder,
            exporter: None,
        })
    }

    /// The snapshot that came with a new slot: what it sees and what the slot sends meet at `lsn`, exactly.
    pub fn of_slot(
        info: &ConnInfo,
        id: &str,
        lsn: Lsn,
        exporter: Option<Connection>,
        application_name: &str,
        shutdown: &Shutdown,
    ) -> Result<Snapshot> {
        Ok(Snapshot {
            lsn: Some(lsn),
            exporter,
            ..Snapshot::import(info, id, application_name, shutdown)?
        })
    }

    /// The same snapshot under a name of our own transaction's: the connection that made the slot can go, and with it a slot
    /// that was only made for the snapshot.
    pub fn on_its_own(mut self) -> Result<Snapshot> {
        let row = self
            .holder
            .query_one("SELECT pg_catalog.pg_export_snapshot()")
            .context("could not export a snapshot")?;
        self.id = row.text(0)?.to_string();
        drop(self.exporter.take());
        Ok(self)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn content(&self) -> &str {
        &self.content
    }

    /// The snapshot sees what committed at or before it, exactly; known only if it came with a slot.
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
        drop(self.exporter.take());
        Ok(())
    }
}

fn content(holder: &mut Connection) -> Result<String> {
    Ok(holder
        .query_one("SELECT pg_catalog.txid_current_snapshot()")?
        .text(0)?
        .to_string())
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

/// The snapshot that the commands of a work directory share: the one that is asked for, else the one that a process holds
/// for the directory, else a new one for this command alone.
pub fn shared(
    info: &ConnInfo,
    workdir: &WorkDir,
    wanted: Option<&str>,
    application_name: &str,
    shutdown: &Shutdown,
) -> Result<Snapshot> {
    if let Some(id) = wanted {
        return Snapshot::import(info, id, application_name, shutdown);
    }
    if let Some(id) = workdir.noted_snapshot()? {
        if is_alive(info, &id, application_name, shutdown)? {
            log::info!("using snapshot {id}, which another process holds for this work directory");
            return Snapshot::import(info, &id, application_name, shutdown);
        }
        log::info!("snapshot {id} of this work directory is gone: reading the source as it is now");
    }
    Snapshot::export(info, application_name, shutdown)
}

/// The server's words, from BEGIN on a snapshot, for a snapshot whose transaction has ended: 22023 before 16 (and for a malformed name), 42704
/// since.
pub fn is_gone(error: &Error) -> bool {
    error.is_any_of(&[
        SqlState::INVALID_PARAMETER_VALUE,
        SqlState::UNDEFINED_OBJECT,
    ])
}

/// Export a snapshot, note it in the work directory, tell `announce` its id, and hold it until a signal, or until the
/// source ends the connection, which is an error.
pub fn hold(
    info: &ConnInfo,
    dir: Option<&std::path::Path>,
    shutdown: &Shutdown,
    announce: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let workdir = WorkDir::open(&crate::workdir::location(dir), Service::Snapshot)?;
    let mut snapshot = Snapshot::export(info, "pgcopydb snapshot", shutdown)?;
    workdir.note_snapshot(snapshot.id())?;
    let held = hold_until_signal(&mut snapshot, shutdown, announce);
    workdir.forget_snapshot()?;
    held
}

/// Announce a snapshot and keep it until a signal, or until the source ends the connection, which is an error.
pub fn hold_until_signal(
    snapshot: &mut Snapshot,
    shutdown: &Shutdown,
    announce: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    announce(snapshot.id()).and_then(|()| {
        log::info!(
            "exported snapshot {}; holding it until a signal",
            snapshot.id()
        );
        loop {
            shutdown.sleep(HEARTBEAT)?;
            // A server that went away took the snapshot with it: whoever waits for us must learn that.
            snapshot
                .connection()
                .query("SELECT 1")
                .context("lost the snapshot")?;
        }
    })
}
