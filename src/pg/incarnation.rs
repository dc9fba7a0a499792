//! Whether a server is still the one that it was, or has started anew since: then it may have lost what it had committed
//! and not flushed, and a transaction id may mean another transaction. Runs in workers that commit on the target.

use std::collections::BTreeSet;

use super::wire::Connection;
use crate::error::{Context, Result};

/// From one start of the server's processes to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    started: String,
    /// The server's own processes. A crash of any backend ends them all, and the postmaster goes on with new ones.
    processes: BTreeSet<i32>,
}

impl Incarnation {
    /// Needs no right: process ids are shown to everybody.
    pub fn of(connection: &mut Connection) -> Result<Incarnation> {
        let side = connection.side();
        let row = connection
            .query_one(
                "SELECT pg_catalog.pg_postmaster_start_time()::text, \
                 COALESCE((SELECT pg_catalog.string_agg(pid::text, ' ') FROM pg_catalog.pg_stat_activity \
                     WHERE datid IS NULL AND usesysid IS NULL), '')",
            )
            .with_context(|| format!("could not learn since when the {side} is up"))?;
        Ok(Incarnation {
            started: row.text(0)?.to_owned(),
            processes: row.text(1)?.split(' ').flat_map(str::parse).collect(),
        })
    }

    /// Some of its processes come and go; a server that was not started anew keeps most.
    pub fn is_same(&self, later: &Incarnation) -> bool {
        self.started == later.started && !self.processes.is_disjoint(&later.processes)
    }
}

#[cfg(test)]
mod tests {
    use super::Incarnation;

    fn incarnation(started: &str, processes: &[i32]) -> Incarnation {
        Incarnation {
            started: started.to_owned(),
            processes: processes.iter().copied().collect(),
        }
    }

    #[test]
    fn a_restart_and_a_crash_are_noticed() {
        let first = incarnation("12:00", &[10, 11, 12]);
        assert!(first.is_same(&incarnation("12:00", &[10, 11, 12])));
        // A worker of the server's own has come, another has gone.
        assert!(first.is_same(&incarnation("12:00", &[10, 12, 40])));
        assert!(!first.is_same(&incarnation("12:30", &[10, 11, 12])));
        assert!(!first.is_same(&incarnation("12:00", &[50, 51, 52])));
        // What cannot be told is not assumed.
        assert!(!first.is_same(&incarnation("12:00", &[])));
    }
}
