//! How far a follow is behind the source: the sentinel's positions, and what the source's server says of the slot and of
//! the process that reads it.

use std::path::Path;

use serde::Serialize;

use crate::error::{Context, Result};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::wire::Connection;
use crate::sentinel::{Sentinel, SentinelRow};
use crate::stream::setup;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replication {
    pub slot_name: String,
    pub origin: String,
    /// Of the follow, while it runs.
    pub pid: Option<u32>,
    pub sentinel: Option<SentinelRow>,
    pub source: Option<SourcePositions>,
}

/// What the source says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourcePositions {
    /// Where its log stands.
    pub current_lsn: Lsn,
    /// Whether somebody reads the slot.
    pub is_active: bool,
    pub received_lsn: Option<Lsn>,
    pub flushed_lsn: Option<Lsn>,
    pub replayed_lsn: Option<Lsn>,
    /// From what is replayed to where the log stands.
    pub lag_bytes: Option<u64>,
    /// Between a commit on the source and its being replayed; 0 when everything sent is.
    pub lag_seconds: Option<f64>,
    /// The log that the slot keeps on the source's disk.
    pub retained_bytes: Option<u64>,
}

/// What a directory's follow has come to; `None` when nothing was set up here. Without a connection only what the files
/// say.
pub fn fetch_replication(
    cdc_dir: &Path,
    pid: Option<u32>,
    source: Option<Connection>,
) -> Result<Option<Replication>> {
    let Some(set_up) = setup::noted(cdc_dir)? else {
        return Ok(None);
    };
    let mut replication = Replication {
        slot_name: set_up.slot_name,
        origin: set_up.origin,
        pid,
        sentinel: None,
        source: None,
    };
    let Some(mut source) = source else {
        return Ok(Some(replication));
    };
    let found = fetch_positions(&mut source, &replication.slot_name)?;
    // It may be dropped already.
    if let Ok(mut sentinel) = Sentinel::open(source, cdc_dir) {
        replication.sentinel = Some(sentinel.get()?);
    }
    replication.source = Some(found);
    Ok(Some(replication))
}

fn fetch_positions(source: &mut Connection, slot_name: &str) -> Result<SourcePositions> {
    let row = source
        .query_one(&format!(
            "SELECT w.lsn, coalesce(s.active, false), r.write_lsn, r.flush_lsn, \
                 coalesce(r.replay_lsn, s.confirmed_flush_lsn), \
                 greatest(w.lsn - coalesce(r.replay_lsn, s.confirmed_flush_lsn), 0), \
                 CASE WHEN r.replay_lsn >= r.sent_lsn THEN 0 ELSE extract(epoch FROM r.replay_lag) END, \
                 greatest(w.lsn - s.restart_lsn, 0) \
             FROM (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                     ELSE pg_catalog.pg_current_wal_lsn() END AS lsn) w \
                 LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = {} \
                 LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid",
            quote_literal(slot_name)
        ))
        .context("could not ask the source how far the follow is")?;
    Ok(SourcePositions {
        current_lsn: row.parse(0)?,
        is_active: row.bool(1)?,
        received_lsn: row.opt_parse(2)?,
        flushed_lsn: row.opt_parse(3)?,
        replayed_lsn: row.opt_parse(4)?,
        lag_bytes: row.opt_parse(5)?,
        lag_seconds: row.opt_parse(6)?,
        retained_bytes: row.opt_parse(7)?,
    })
}
