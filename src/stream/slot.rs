//! The replication slot on the source: made with an exported snapshot, found, dropped. Runs in whichever process sets a
//! follow up or cleans up after it.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::decode::Plugin;
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::ident::{quote_ident, quote_literal};
use crate::lsn::Lsn;
use crate::pg::connect::connect;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::WorkerSet;

/// The snapshot that comes with a slot lives as long as its connection is idle in peace: every timeout is switched off when
/// the connection is made, as any later command would end the snapshot.
const NO_TIMEOUTS: &str =
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";

/// When a slot that is not there yet is worth a word, and how often.
const FIRST_WORD: Duration = Duration::from_secs(2);
const LATER_WORDS: Duration = Duration::from_secs(30);

/// A slot that was just made.
#[derive(Debug)]
pub struct NewSlot {
    /// Every transaction that commits after it is sent; the snapshot sees all that committed before.
    pub consistent_point: Lsn,
    pub snapshot: String,
    /// Keeps the snapshot alive.
    pub exporter: Connection,
}

/// A slot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub plugin: String,
    pub database: Option<String>,
    pub confirmed_flush: Option<Lsn>,
    pub active_pid: Option<i32>,
    /// The application_name of who uses it, where we may see it.
    pub user: Option<String>,
    /// The server has removed WAL that the slot still needs.
    pub is_lost: bool,
}

impl Slot {
    /// Whether somebody uses it who is no pgcopydb.
    fn is_in_foreign_use(&self) -> bool {
        self.active_pid.is_some()
            && self
                .user
                .as_deref()
                .is_some_and(|user| !user.starts_with("pgcopydb"))
    }
}

/// Make the slot. It waits for the end of every transaction that is running: which ones is said while it does.
pub fn create(
    info: &ConnInfo,
    application_name: &str,
    name: &str,
    plugin: Plugin,
    shutdown: &Shutdown,
) -> Result<NewSlot> {
    create_as("", info, application_name, name, plugin, shutdown)
}

/// The same for a slot that is gone with its connection: what it is good for is the snapshot.
pub fn create_temporary(
    info: &ConnInfo,
    application_name: &str,
    name: &str,
    plugin: Plugin,
    shutdown: &Shutdown,
) -> Result<NewSlot> {
    create_as("TEMPORARY ", info, application_name, name, plugin, shutdown)
}

fn create_as(
    kind: &str,
    info: &ConnInfo,
    application_name: &str,
    name: &str,
    plugin: Plugin,
    shutdown: &Shutdown,
) -> Result<NewSlot> {
    let info_here = info.for_replication().with_more_options(NO_TIMEOUTS);
    let info_here = match server_version(info, application_name, shutdown)? {
        170_000.. => {
            info_here.with_more_options("-c idle_session_timeout=0 -c transaction_timeout=0")
        }
        140_000.. => info_here.with_more_options("-c idle_session_timeout=0"),
        _ => info_here,
    };
    // The watcher is forked before the connection exists, and learns its process from the server.
    let mut watcher = WorkerSet::new();
    watcher.start_one("slot watch", |shutdown| {
        watch(info, application_name, &shutdown)
    })?;
    let mut exporter = connect(&info_here, application_name, shutdown)?;
    failpoint("slot.before_create")?;
    let created = exporter.query_one(&format!(
        "CREATE_REPLICATION_SLOT {} {kind}LOGICAL {} EXPORT_SNAPSHOT",
        quote_ident(name),
        plugin.name()
    ));
    watcher.stop();
    let row = created.map_err(|error| explain_refusal(error, name, plugin))?;
    failpoint("slot.after_create")?;
    Ok(NewSlot {
        consistent_point: row.parse(1)?,
        snapshot: row.text(2)?.to_owned(),
        exporter,
    })
}

fn explain_refusal(error: Error, name: &str, plugin: Plugin) -> Error {
    let is_missing = error.is_any_of(&[SqlState::UNDEFINED_FILE]);
    let error = error.context(format!("could not create replication slot \"{name}\""));
    match is_missing {
        true => error.with_hint(format!(
            "Install the package of {plugin} on the source server, or use another --plugin."
        )),
        false => error,
    }
}

fn server_version(info: &ConnInfo, application_name: &str, shutdown: &Shutdown) -> Result<u32> {
    Ok(open_source(info, application_name, shutdown)?.server_version())
}

/// Say what a slot under way waits for. Runs in a child of its own, as the parent is blocked.
fn watch(info: &ConnInfo, application_name: &str, shutdown: &Shutdown) -> Result<()> {
    let mut connection = open_source(info, application_name, shutdown)?;
    let is_standby = connection
        .query_one("SELECT pg_is_in_recovery()")?
        .bool(0)?;
    let sql = waits_sql(application_name);
    let mut next = Instant::now() + FIRST_WORD;
    loop {
        shutdown.poll(&[], Some(next))?;
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + LATER_WORDS;
        let waits = connection.query(&sql)?;
        for row in &waits {
            log::warn!(
                "the replication slot waits for a transaction on the source: {}, running for {}, query: {}",
                row.text(0)?,
                row.opt_text(1)?.unwrap_or("an unknown time"),
                row.opt_text(2)?.unwrap_or("unknown")
            );
        }
        if waits.is_empty() && is_standby {
            log::warn!(
                "the replication slot waits for the primary to log its running transactions: on the primary, SELECT \
                 pg_log_standby_snapshot()"
            );
        }
    }
}

/// Who holds up a walsender of ours: (who, for how long, what it runs). A prepared transaction has no process, which
/// pg_blocking_pids() says by 0; each of them is named then.
fn waits_sql(application_name: &str) -> String {
    format!(
        "WITH blocker AS (SELECT DISTINCT unnest(pg_blocking_pids(w.pid)) AS pid FROM pg_stat_activity w \
             WHERE w.application_name = {} AND w.backend_type = 'walsender') \
         SELECT 'pid ' || b.pid, date_trunc('second', clock_timestamp() - a.xact_start)::text, \
             left(regexp_replace(a.query, '\\s+', ' ', 'g'), 100) \
         FROM blocker b LEFT JOIN pg_stat_activity a ON a.pid = b.pid WHERE b.pid <> 0 \
         UNION ALL SELECT 'prepared transaction ' || quote_literal(p.gid), \
             date_trunc('second', clock_timestamp() - p.prepared)::text, 'PREPARE TRANSACTION' \
         FROM pg_prepared_xacts p WHERE EXISTS (SELECT FROM blocker b WHERE b.pid = 0)",
        quote_literal(application_name)
    )
}

pub fn find(source: &mut Connection, name: &str) -> Result<Option<Slot>> {
    // Since 13 a slot may have lost its WAL; since 16 it may be invalid for other reasons too, which counts as the same.
    let is_lost = match source.server_version() {
        130_000.. => "COALESCE(s.wal_status = 'lost', false)",
        _ => "false",
    };
    let rows = source
        .query(&format!(
            "SELECT s.plugin, s.database, s.confirmed_flush_lsn, s.active_pid, a.application_name, {is_lost} \
             FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = {}",
            quote_literal(name)
        ))
        .context("could not look for replication slots on the source")?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(Slot {
        plugin: row.opt_text(0)?.unwrap_or("").to_owned(),
        database: row.opt_text(1)?.map(str::to_owned),
        confirmed_flush: row.opt_parse(2)?,
        active_pid: row.opt_parse(3)?,
        user: row.opt_text(4)?.map(str::to_owned),
        is_lost: row.bool(5)?,
    }))
}

/// That a slot which is there can be used by this follow.
pub fn check(slot: &Slot, name: &str, plugin: Plugin, database: &str) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::new(
            ErrorKind::Source,
            format!("cannot use replication slot \"{name}\": {what}"),
        ))
    };
    if slot.plugin != plugin.name() {
        return refuse(format!(
            "it was made for plugin \"{}\", not for \"{plugin}\"",
            slot.plugin
        ));
    }
    if slot.database.as_deref() != Some(database) {
        return refuse(format!(
            "it belongs to database \"{}\"",
            slot.database.as_deref().unwrap_or("")
        ));
    }
    if slot.is_lost {
        return refuse(
            "the source has removed WAL that it still needs (max_slot_wal_keep_size), so that changes are lost".to_owned(),
        )
        .map_err(|error| {
            error.with_hint("Start over: \"pgcopydb clone --follow --restart\", or \"pgcopydb stream cleanup\" and a new clone.")
        });
    }
    Ok(())
}

/// Drop the slot, ending a receiver that still holds it; whether it was there.
pub fn drop(source: &mut Connection, name: &str, shutdown: &Shutdown) -> Result<bool> {
    /// How long the server may take to release a slot whose receiver was ended.
    const PATIENCE: Duration = Duration::from_secs(20);
    let started = Instant::now();
    loop {
        let Some(slot) = find(source, name)? else {
            return Ok(false);
        };
        if slot.is_in_foreign_use() {
            return Err(Error::on(
                Side::Source,
                format!(
                    "cannot drop replication slot \"{name}\": process {} (\"{}\"), which is no pgcopydb, uses it",
                    slot.active_pid.unwrap_or_default(),
                    slot.user.unwrap_or_default()
                ),
            ));
        }
        if let Some(pid) = slot.active_pid {
            log::info!(
                "ending process {pid} on the source, which uses replication slot \"{name}\""
            );
            source
                .execute(&format!("SELECT pg_terminate_backend({pid})"))
                .with_context(|| format!("could not drop replication slot \"{name}\""))?;
        }
        failpoint("slot.before_drop")?;
        let dropped = source.execute(&format!(
            "SELECT pg_drop_replication_slot({})",
            quote_literal(name)
        ));
        match dropped {
            Ok(_) => return failpoint("slot.after_drop").map(|()| true),
            Err(error)
                if error.is_any_of(&[SqlState::OBJECT_IN_USE]) && started.elapsed() < PATIENCE =>
            {
                shutdown.sleep(Duration::from_millis(100))?;
            }
            Err(error) => {
                return Err(error.context(format!("could not drop replication slot \"{name}\"")));
            }
        }
    }
}
