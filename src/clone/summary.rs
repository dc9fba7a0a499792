//! The summary: what was done, in which time. Runs in the parent at the end, from the done-files, so that a resumed run
//! tells of the whole.

use std::time::{Duration, Instant};

use super::{Clone, DATA};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::report::summary::{Phase, Summary, Written};
use crate::workdir::done::Failure;

/// Tables that the log names; all of them are in `summary.json`.
const TABLES_SHOWN: usize = 20;

/// Time of the phases of this run.
#[derive(Debug, Clone)]
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
    let mut summary = Summary::gather(paths, catalog, failures, is_complete)?;
    // A command that is one section goes on where the one before it ended.
    if let (Some(_), Some(written)) = (&clone.spec.said, Written::read(paths)) {
        summary.duration_ms = written.duration_ms;
        summary.phases = written.phases;
    }
    summary.duration_ms += elapsed.as_millis() as u64;
    let laps = clock.laps.iter().map(|(name, duration)| Phase {
        name: (*name).to_owned(),
        duration_ms: duration.as_millis() as u64,
    });
    summary.phases.extend(laps);
    clone.workdir.write_json(&paths.summary_json(), &summary)?;
    if clone.spec.phases.has_any(DATA) {
        tell(&summary);
    }
    Ok(elapsed)
}

fn tell(summary: &Summary) {
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
