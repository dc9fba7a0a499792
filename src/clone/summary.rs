//! The summary: what was done, in which time. Runs in the parent at the end, from the done-files, so that a resumed run
//! tells of the whole.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Clone, DATA};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::workdir::done::{self, BlobsDone, Failure, IndexDone, TableDone, VacuumDone};

/// Tables that the log names; all of them are in `summary.json`.
const TABLES_SHOWN: usize = 20;

/// Time of the phases of this run.
pub struct Clock {
    started: Instant,
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    pub fn start() -> Clock {
        let now = Instant::now();
        Clock {
            started: now,
            last: now,
            laps: Vec::new(),
        }
    }

    /// A phase ended.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.laps.push((name, now - self.last));
        self.last = now;
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Lap {
    name: String,
    duration_ms: u64,
}

/// What is read of the summary of an earlier command of the run.
#[derive(Default, Deserialize)]
struct EarlierLaps {
    phases: Vec<Lap>,
}

#[derive(Serialize)]
struct TableSummary {
    name: String,
    rows: u64,
    bytes: u64,
    copy_ms: u64,
    indexes: usize,
    index_ms: u64,
    vacuum_ms: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    version: u32,
    is_complete: bool,
    duration_ms: u64,
    phases: Vec<Lap>,
    tables: Vec<TableSummary>,
    large_objects: u64,
    large_objects_bytes: u64,
    sequences: usize,
    failures: &'a [Failure],
}

/// Write `summary.json` and tell the main part of it; returns the time of this run.
pub fn write(
    clone: &Clone<'_>,
    catalog: &Catalog,
    failures: &[Failure],
    is_complete: bool,
    mut clock: Clock,
) -> Result<Duration> {
    clock.lap("rest");
    let elapsed = clock.started.elapsed();
    let paths = &clone.workdir.paths;
    let mut tables = read_tables(clone, catalog)?;
    tables.sort_by(|a, b| b.copy_ms.cmp(&a.copy_ms).then_with(|| a.name.cmp(&b.name)));
    let blobs: Vec<BlobsDone> = done::read_directory(&paths.blobs(), ".done")?
        .into_values()
        .collect();
    let summary = Summary {
        version: 1,
        is_complete,
        duration_ms: elapsed.as_millis() as u64,
        phases: laps(clone, &clock),
        large_objects: blobs.iter().map(|done| done.count).sum(),
        large_objects_bytes: blobs.iter().map(|done| done.bytes).sum(),
        sequences: catalog.sequences.len(),
        tables,
        failures,
    };
    clone.workdir.write_json(&paths.summary_json(), &summary)?;
    if clone.spec.phases.has_any(DATA) {
        tell(&summary);
    }
    Ok(elapsed)
}

/// The phases of this command, behind those of the commands before it: each does its own.
fn laps(clone: &Clone<'_>, clock: &Clock) -> Vec<Lap> {
    let mut laps = match clone.spec.said {
        Some(_) => {
            std::fs::read(clone.workdir.paths.summary_json())
                .ok()
                .and_then(|text| serde_json::from_slice::<EarlierLaps>(&text).ok())
                .unwrap_or_default()
                .phases
        }
        None => Vec::new(),
    };
    laps.extend(clock.laps.iter().map(|(name, duration)| Lap {
        name: name.to_string(),
        duration_ms: duration.as_millis() as u64,
    }));
    laps
}

fn read_tables(clone: &Clone<'_>, catalog: &Catalog) -> Result<Vec<TableSummary>> {
    let paths = &clone.workdir.paths;
    let copied = done::read_directory::<TableDone>(&paths.tables(), ".done")?;
    let built = done::read_directory::<IndexDone>(&paths.indexes(), ".done")?;
    let vacuumed = done::read_directory::<VacuumDone>(&paths.vacuum(), ".done")?;
    let summarise = |table: TableDone| {
        let indexes: Vec<&IndexDone> = catalog
            .indexes_of(table.oid)
            .iter()
            .filter_map(|index| built.get(&index.oid.to_string()))
            .collect();
        TableSummary {
            rows: table.rows,
            bytes: table.bytes,
            copy_ms: table.duration_ms,
            indexes: indexes.len(),
            index_ms: indexes.iter().map(|index| index.duration_ms).sum(),
            vacuum_ms: vacuumed
                .get(&table.oid.to_string())
                .map_or(0, |done| done.duration_ms),
            name: table.name,
        }
    };
    Ok(copied
        .into_values()
        .filter(|table| table.part.is_none())
        .map(summarise)
        .collect())
}

fn tell(summary: &Summary<'_>) {
    log::info!(
        "{:>12} {:>14} {:>10} {:>10} {:>10}  table",
        "rows",
        "bytes",
        "copy ms",
        "index ms",
        "vacuum ms"
    );
    for table in summary.tables.iter().take(TABLES_SHOWN) {
        log::info!(
            "{:>12} {:>14} {:>10} {:>10} {:>10}  {}",
            table.rows,
            table.bytes,
            table.copy_ms,
            table.index_ms,
            table.vacuum_ms,
            table.name
        );
    }
    if summary.tables.len() > TABLES_SHOWN {
        log::info!(
            "and {} tables more, see summary.json",
            summary.tables.len() - TABLES_SHOWN
        );
    }
    let rows: u64 = summary.tables.iter().map(|table| table.rows).sum();
    let bytes: u64 = summary.tables.iter().map(|table| table.bytes).sum();
    log::info!(
        "{} tables, {rows} rows, {bytes} bytes; {} large objects, {} bytes; {} sequences",
        summary.tables.len(),
        summary.large_objects,
        summary.large_objects_bytes,
        summary.sequences
    );
    for phase in &summary.phases {
        log::info!("{:>10} ms  {}", phase.duration_ms, phase.name);
    }
}
