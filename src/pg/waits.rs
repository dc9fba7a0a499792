//! What the sessions of a run wait for on a server, and who is in their way: the server's own words, made readable. Asked
//! by the watch process; changes nothing.

use std::fmt;

use super::session::RunName;
use super::wire::{Connection, Row};
use crate::error::{Result, Side};

/// So much of a statement is shown.
const STATEMENT_CHARS: u32 = 300;

/// A session of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub side: Side,
    pub pid: i32,
    /// Which process of ours it belongs to: `copy worker 3`, `pg_restore`.
    pub process: String,
    /// As in pg_stat_activity.
    pub state: String,
    pub wait_event_type: String,
    pub wait_event: String,
    /// When its statement began: tells one wait from the next.
    pub began: String,
    /// How long it has waited for its lock, or else how long its statement has run.
    pub seconds: u64,
    pub statement: String,
    /// Who holds what it waits for, each in a few words.
    pub blockers: Vec<String>,
}

impl Waiting {
    pub fn is_for_lock(&self) -> bool {
        self.wait_event_type == "Lock"
    }

    /// Whether the server is at work for it, as opposed to waiting for a lock or for us.
    pub fn is_at_work(&self) -> bool {
        self.state == "active" && !matches!(&*self.wait_event_type, "Lock" | "Client")
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting {
            side,
            pid,
            state,
            seconds,
            statement,
            ..
        } = self;
        match (self.is_for_lock(), &*self.wait_event_type) {
            (true, _) => write!(
                f,
                "waits for a lock on the {side} for {seconds} s (pid {pid} there)"
            )?,
            (false, "") => write!(f, "is {state} on the {side} (pid {pid} there)")?,
            (false, kind) => write!(
                f,
                "is {state} on the {side} (pid {pid} there), waiting for {kind} {}",
                self.wait_event
            )?,
        }
        write!(f, ": {statement}")?;
        for blocker in &self.blockers {
            write!(f, "; in its way: {blocker}")?;
        }
        Ok(())
    }
}

/// The sessions of these runs on this server, but for our own and for those that hold a snapshot.
pub fn fetch(connection: &mut Connection, runs: &[RunName]) -> Result<Vec<Waiting>> {
    let side = connection.side();
    let rows = connection.query(&sql(runs, connection.server_version()))?;
    rows.iter().map(|row| waiting(side, row)).collect()
}

fn waiting(side: Side, row: &Row) -> Result<Waiting> {
    let text =
        |column| Ok::<String, crate::error::Error>(row.opt_text(column)?.unwrap_or("").to_owned());
    let name = text(1)?;
    let blockers = text(8)?;
    Ok(Waiting {
        side,
        pid: row.parse(0)?,
        process: name
            .split_once("] ")
            .map_or(&*name, |(_, process)| process)
            .to_owned(),
        state: text(2)?,
        wait_event_type: text(3)?,
        wait_event: text(4)?,
        began: text(5)?,
        seconds: row.opt_parse(6)?.unwrap_or(0),
        statement: one_line(&text(7)?),
        blockers: blockers
            .lines()
            .map(one_line)
            .filter(|line| !line.is_empty())
            .collect(),
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One row for each session. Since 14 the server tells when a wait for a lock began; before, when the statement did.
fn sql(runs: &[RunName], server_version: u32) -> String {
    let ours: Vec<String> = runs.iter().map(RunName::condition).collect();
    let waits_since = match server_version >= 140_000 {
        true => {
            "COALESCE((SELECT min(l.waitstart) FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted), a.query_start)"
        }
        false => "a.query_start",
    };
    // Newlines part the blockers, so there must be none in their statements.
    let blocker = format!(
        "CASE WHEN b.blocker = 0 THEN 'a prepared transaction (see pg_prepared_xacts)' ELSE \
             'pid ' || b.blocker || COALESCE(', user \"' || h.usename || '\"', '') \
             || COALESCE(', \"' || NULLIF(h.application_name, '') || '\"', '') \
             || COALESCE(', ' || h.state || ' since ' || pg_catalog.date_trunc('second', h.state_change), '') \
             || COALESCE(': ' || pg_catalog.regexp_replace(pg_catalog.left(h.query, {STATEMENT_CHARS}), '\\s+', ' ', 'g'), '') END"
    );
    format!(
        "SELECT a.pid, a.application_name, a.state, a.wait_event_type, a.wait_event, a.query_start::text, \
            GREATEST(0, EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - {waits_since}))::bigint, \
            pg_catalog.left(a.query, {STATEMENT_CHARS}), \
            (SELECT pg_catalog.string_agg(DISTINCT {blocker}, E'\\n') \
                FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) b (blocker) \
                LEFT JOIN pg_catalog.pg_stat_activity h ON h.pid = b.blocker) \
         FROM (SELECT * FROM pg_catalog.pg_stat_activity WHERE {}) a ORDER BY a.application_name, a.pid",
        match ours.is_empty() {
            true => "false".to_owned(),
            false => ours.join(" OR "),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::Waiting;
    use crate::error::Side;

    fn waiting() -> Waiting {
        Waiting {
            side: Side::Target,
            pid: 4711,
            process: "copy worker 3".to_owned(),
            state: "active".to_owned(),
            wait_event_type: "Lock".to_owned(),
            wait_event: "relation".to_owned(),
            began: String::new(),
            seconds: 61,
            statement: "TRUNCATE ONLY \"public\".\"film\"".to_owned(),
            blockers: vec!["pid 99, user \"dba\", idle in transaction: SELECT 1".to_owned()],
        }
    }

    #[test]
    fn who_is_in_the_way_is_named() {
        assert_eq!(
            waiting().to_string(),
            "waits for a lock on the target for 61 s (pid 4711 there): TRUNCATE ONLY \"public\".\"film\"; in its way: \
             pid 99, user \"dba\", idle in transaction: SELECT 1"
        );
        assert!(waiting().is_for_lock() && !waiting().is_at_work());
    }

    #[test]
    fn a_server_at_work_is_no_hang() {
        let mut waiting = waiting();
        waiting.wait_event_type = "IO".to_owned();
        assert!(waiting.is_at_work());
        waiting.wait_event_type = "Client".to_owned();
        waiting.wait_event = "ClientRead".to_owned();
        assert!(!waiting.is_at_work());
    }
}
