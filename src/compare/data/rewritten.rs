//! Tables that were truncated or rewritten while they were compared: their rows of the snapshot are gone, so that a
//! difference says nothing. Runs in the parent, on the connections that hold the snapshots.

use std::collections::HashMap;

use super::pairs::{Pair, SideTable};
use super::report::{DataReport, Status};
use super::snapshots::Snapshots;
use crate::error::{Context, Result};
use crate::ident::Oid;
use crate::pg::wire::Connection;

/// Tables asked for in one statement.
const BATCH: usize = 1_000;

/// Tell of them that they could not be compared, instead of a difference that may be none.
pub fn withdraw(report: &mut DataReport, pairs: &[Pair], snapshots: &mut Snapshots) -> Result<()> {
    let differing: Vec<usize> = (0..pairs.len())
        .filter(|at| report.tables[*at].status == Status::Differs)
        .collect();
    for is_source in [true, false] {
        let side = |pair: &'_ Pair| match is_source {
            true => pair.source,
            false => pair.target,
        };
        let tables: Vec<SideTable> = differing.iter().map(|at| side(&pairs[*at])).collect();
        let connection = match is_source {
            true => snapshots.source.connection(),
            false => snapshots.target.connection(),
        };
        let now = file_nodes(connection, &tables)?;
        for (at, table) in differing.iter().zip(&tables) {
            let is_rewritten = now
                .get(&table.oid)
                .is_some_and(|filenode| *filenode != Some(table.relfilenode));
            if is_rewritten {
                let side = connection.side();
                report.withdraw(
                    *at,
                    format!("it was truncated or rewritten on the {side} while it was compared: compare again"),
                );
            }
        }
    }
    Ok(())
}

/// As they are now, whatever the snapshot sees; `None` for a table that was dropped.
fn file_nodes(
    connection: &mut Connection,
    tables: &[SideTable],
) -> Result<HashMap<Oid, Option<Oid>>> {
    let mut found = HashMap::new();
    // Partitioned tables have none.
    let oids: Vec<String> = tables
        .iter()
        .filter(|table| table.relfilenode != 0)
        .map(|table| table.oid.to_string())
        .collect();
    for batch in oids.chunks(BATCH) {
        let sql = format!(
            "SELECT u.oid, pg_relation_filenode(u.oid) FROM unnest('{{{}}}'::oid[]) AS u(oid)",
            batch.join(",")
        );
        connection
            .query_each(&sql, &mut |row| {
                found.insert(row.parse(0)?, row.opt_parse(1)?);
                Ok(())
            })
            .context("could not look for tables that were rewritten")?;
    }
    Ok(found)
}
