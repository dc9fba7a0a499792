//! How far a follow is behind the source: the sentinel's positions, and what the source's server says of the slot and of
//! the process that reads it.

use std::path::Path;

use serde::Serialize;

use crate::error::{Context, Result};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::wire::Connection;
use crate::sentinel::{Sentinel, SentinelRow};
use crate::stream::lag::{CommittedAt, Waiting, waiting};
use crate::stream::setup;
use crate::sys::signal::Shutdown;

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
    /// Since the commit of the oldest transaction that is not replayed; 0 when there is none. While the source still sends
    /// what has gathered and all of that is replayed: since the last commit that was sent. `None`: nobody can know, as the
    /// slot is not read.
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
        slot_name: set_up.slot_name.clone(),
        origin: set_up.origin.clone(),
        pid,
        sentinel: None,
        source: None,
    };
    let Some(mut source) = source else {
        return Ok(Some(replication));
    };
    let (mut found, sending) = fetch_positions(&mut source, &replication.slot_name)?;
    // It may be dropped already.
    if let Ok(mut sentinel) = Sentinel::open(source, cdc_dir) {
        let row = sentinel.get()?;
        // What the source knows of the replay comes with the next status message only, and is nothing before apply runs: all
        // that was received since the slot began is in files then.
        let replayed = found.replayed_lsn.unwrap_or_default();
        let replayed = replayed.max(row.replay_lsn).max(set_up.startpos);
        found.replayed_lsn = Some(replayed);
        found.lag_bytes = Some(found.current_lsn.0.saturating_sub(replayed.0));
        let waiting = waiting(cdc_dir, replayed, &Shutdown::handle())?;
        found.lag_seconds = match oldest(waiting, sending) {
            Oldest::At(committed) => Some(fetch_age(sentinel.connection(), &committed)?),
            Oldest::NothingWaits => Some(0.0),
            Oldest::Unknown => found.lag_seconds,
        };
        replication.sentinel = Some(row);
    }
    replication.source = Some(found);
    Ok(Some(replication))
}

/// What the source does for the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Nobody reads it.
    No,
    /// What has gathered since it was read last.
    Backlog,
    /// Everything, as it comes.
    Live,
}

#[derive(Debug, PartialEq, Eq)]
enum Oldest {
    At(CommittedAt),
    NothingWaits,
    Unknown,
}

/// What the age of decides how far behind a follow is.
fn oldest(waiting: Waiting, sending: Sending) -> Oldest {
    match (waiting, sending) {
        (Waiting::Since(committed), _) => Oldest::At(committed),
        (Waiting::Nothing(_), Sending::Live) => Oldest::NothingWaits,
        // What comes next was committed after it, nobody can say when.
        (Waiting::Nothing(Some(committed)), Sending::Backlog) => Oldest::At(committed),
        (Waiting::Nothing(_), _) => Oldest::Unknown,
    }
}

/// In seconds, by the clock that the commit's time is from.
fn fetch_age(source: &mut Connection, committed: &str) -> Result<f64> {
    source
        .query_one(&format!(
            "SELECT greatest(extract(epoch FROM pg_catalog.clock_timestamp() - {}::timestamptz), 0)::float8",
            quote_literal(committed)
        ))
        .and_then(|row| row.parse(0))
        .context("could not ask the source how far the follow is")
}

fn fetch_positions(source: &mut Connection, slot_name: &str) -> Result<(SourcePositions, Sending)> {
    let row = source
        .query_one(&format!(
            "SELECT w.lsn, coalesce(s.active, false), r.write_lsn, r.flush_lsn, r.replay_lsn, \
                 greatest(w.lsn - r.replay_lsn, 0), \
                 CASE WHEN r.replay_lsn >= r.sent_lsn THEN 0 ELSE extract(epoch FROM r.replay_lag) END, \
                 greatest(w.lsn - s.restart_lsn, 0), r.state \
             FROM (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                     ELSE pg_catalog.pg_current_wal_lsn() END AS lsn) w \
                 LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = {} \
                 LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid",
            quote_literal(slot_name)
        ))
        .context("could not ask the source how far the follow is")?;
    let sending = match row.opt_text(8)? {
        Some("streaming") => Sending::Live,
        Some(_) => Sending::Backlog,
        None => Sending::No,
    };
    let found = SourcePositions {
        current_lsn: row.parse(0)?,
        is_active: row.bool(1)?,
        received_lsn: row.opt_parse(2)?,
        flushed_lsn: row.opt_parse(3)?,
        replayed_lsn: row.opt_parse(4)?,
        lag_bytes: row.opt_parse(5)?,
        lag_seconds: row.opt_parse(6)?,
        retained_bytes: row.opt_parse(7)?,
    };
    Ok((found, sending))
}

#[cfg(test)]
mod tests {
    use super::{Oldest, Sending, oldest};
    use crate::stream::lag::Waiting;

    #[test]
    fn what_a_lag_is_measured_from() {
        let committed = || Some("2026-11-21 07:00:00+00".to_owned());
        let at = |committed: Option<String>| Oldest::At(committed.unwrap());
        for sending in [Sending::No, Sending::Backlog, Sending::Live] {
            let waits = Waiting::Since(committed().unwrap());
            assert_eq!(oldest(waits, sending), at(committed()));
        }
        let nothing = |last| Waiting::Nothing(last);
        assert_eq!(
            oldest(nothing(committed()), Sending::Live),
            Oldest::NothingWaits
        );
        assert_eq!(
            oldest(nothing(committed()), Sending::Backlog),
            at(committed())
        );
        assert_eq!(oldest(nothing(None), Sending::Backlog), Oldest::Unknown);
        assert_eq!(oldest(nothing(committed()), Sending::No), Oldest::Unknown);
    }
}
