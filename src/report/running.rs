//! What the workers are busy with, from the records that they keep in the work directory, and what the target says of
//! the indexes among it.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::estimate::{per_second, seconds_left_of};
use super::{IndexRunning, Process, TableProgress, TableRunning, TableState};
use crate::catalog::{Catalog, Index};
use crate::error::{Context, Result};
use crate::ident::{Oid, quote_literal};
use crate::pg::session::RunName;
use crate::pg::wire::Connection;
use crate::workdir::live::{Current, Task, WorkerRecord};

/// A row of pg_stat_progress_create_index.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BuildProgress {
    /// In the server's words: `building index: scanning table`.
    pub phase: String,
    pub blocks_done: u64,
    pub blocks_total: u64,
    pub tuples_done: u64,
    pub tuples_total: u64,
    /// Of the whole build, from 0 to 1: an estimate.
    pub fraction: Option<f64>,
    pub seconds_left: Option<u64>,
}

fn process(record: &WorkerRecord, current: &Current) -> Process {
    Process {
        pid: record.pid,
        worker: record.worker.clone(),
        start_time_epoch: current.since_ms / 1000,
    }
}

/// Tables and parts that are being copied and not done yet.
pub(super) fn running_tables(
    catalog: &Catalog,
    records: &[WorkerRecord],
    all: &HashMap<Oid, TableProgress>,
    now_ms: u64,
) -> Vec<TableRunning> {
    let running = |record: &WorkerRecord| {
        let current = record
            .current
            .as_ref()
            .filter(|current| current.task == Task::Copy)?;
        let table = catalog.table(current.oid)?;
        let is_done = all
            .get(&current.oid)
            .is_some_and(|table| table.state == TableState::Done);
        if is_done {
            return None;
        }
        let elapsed_ms = now_ms.saturating_sub(current.since_ms);
        let fraction = current.share(table.row_estimate, table.bytes);
        Some(TableRunning {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            part: Some(current.part).filter(|part| *part > 0),
            reltuples: table.row_estimate,
            bytes: current.size,
            copied_rows: current.rows,
            copied_bytes: current.bytes,
            fraction,
            rows_per_second: per_second(current.rows, elapsed_ms),
            bytes_per_second: per_second(current.bytes, elapsed_ms),
            seconds_left: seconds_left_of(fraction, elapsed_ms),
            elapsed_ms,
            process: process(record, current),
        })
    };
    records.iter().filter_map(running).collect()
}

/// Indexes that are being built and not done yet. Those of a small table are built one after the other: the first that
/// is not done stands for them.
pub(super) fn running_indexes(
    catalog: &Catalog,
    records: &[WorkerRecord],
    built: &HashSet<Oid>,
    now_ms: u64,
) -> Vec<IndexRunning> {
    let running = |record: &WorkerRecord| {
        let current = record.current.as_ref()?;
        let is_left = |index: &&Index| !built.contains(&index.oid);
        let index = match current.task {
            Task::Index => catalog.index(current.oid).filter(is_left)?,
            Task::IndexesOf => catalog.indexes_of(current.oid).iter().find(is_left)?,
            Task::Copy | Task::Vacuum | Task::LargeObjects => return None,
        };
        let table = catalog.table(index.table)?;
        Some(IndexRunning {
            oid: index.oid,
            schema: table.schema.clone(),
            name: index.name.clone(),
            table: table.name.clone(),
            elapsed_ms: now_ms.saturating_sub(current.since_ms),
            process: process(record, current),
            build: None,
        })
    };
    records.iter().filter_map(running).collect()
}

/// What the target builds for this run, by the name of the worker. Servers before 12 do not tell.
pub fn fetch_builds(target: &mut Connection, run: &str) -> Result<HashMap<String, BuildProgress>> {
    if target.server_version() < 120_000 {
        return Ok(HashMap::new());
    }
    let prefix = RunName::new(run).of("");
    let mut found = HashMap::new();
    target
        .query_each(
            &format!(
                "SELECT substr(a.application_name, {from}), p.phase, p.blocks_done, p.blocks_total, p.tuples_done, \
                     p.tuples_total \
                 FROM pg_catalog.pg_stat_progress_create_index p \
                     JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid \
                 WHERE left(a.application_name, {length}) = {name} AND p.phase IS NOT NULL",
                from = prefix.len() + 1,
                length = prefix.len(),
                name = quote_literal(&prefix),
            ),
            &mut |row| {
                let count = |column| row.opt_parse(column).map(Option::unwrap_or_default);
                let (blocks_done, blocks_total) = (count(2)?, count(3)?);
                let (tuples_done, tuples_total) = (count(4)?, count(5)?);
                let phase = row.text(1)?.to_owned();
                let build = BuildProgress {
                    fraction: fraction(&phase, (blocks_done, blocks_total), (tuples_done, tuples_total)),
                    phase,
                    blocks_done,
                    blocks_total,
                    tuples_done,
                    tuples_total,
                    seconds_left: None,
                };
                found.insert(row.text(0)?.to_owned(), build);
                Ok(())
            },
        )
        .context("could not ask the target for the progress of indexes")?;
    Ok(found)
}

/// A B-tree is built in three phases of their own counts: the table is scanned (blocks), its tuples are sorted (which
/// nobody counts), the tree is written (tuples). Their shares of the time are as measured with text keys in memory. Other
/// kinds of index have one phase, which counts blocks if it counts at all. The totals of an earlier phase may stand on.
fn fraction(phase: &str, blocks: (u64, u64), tuples: (u64, u64)) -> Option<f64> {
    const SCANNED: f64 = 0.35;
    const SORTED: f64 = 0.7;
    let of = |(done, total): (u64, u64)| (total > 0).then(|| (done as f64 / total as f64).min(1.0));
    match phase.strip_prefix("building index: ") {
        Some("scanning table") => of(blocks).map(|share| share * SCANNED),
        Some("sorting live tuples" | "sorting dead tuples") => Some(SCANNED),
        Some("loading tuples in tree") => of(tuples).map(|share| SORTED + share * (1.0 - SORTED)),
        _ => of(blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn a_build_only_goes_forward() {
        let phases = [
            ("building index: scanning table", (5, 10), (0, 0)),
            ("building index: sorting live tuples", (10, 10), (9, 9)),
            ("building index: loading tuples in tree", (10, 10), (0, 9)),
            ("building index: loading tuples in tree", (10, 10), (9, 9)),
        ];
        let fractions = phases.map(|(phase, blocks, tuples)| fraction(phase, blocks, tuples));
        assert!(fractions.iter().all(Option::is_some) && fractions.is_sorted());
        assert_eq!(fractions[3], Some(1.0));
        assert_eq!(fraction("building index", (5, 10), (0, 0)), Some(0.5));
        assert_eq!(fraction("initializing", (0, 0), (0, 0)), None);
    }
}
