//! The data section: what of each table, index and large object is done, and what is under way. Reads done-files and the
//! records of the workers; a table that is done is never counted again from a record, since its done-file comes later.

use std::collections::{HashMap, HashSet};

use super::estimate::{per_second, seconds_left};
use super::running::{running_indexes, running_tables};
use super::{Progress, TableProgress, TableState, Tables};
use crate::catalog::{Catalog, Table, WorkItem};
use crate::error::Result;
use crate::ident::Oid;
use crate::workdir::done::{
    self, BlobsDone, ConstraintDone, IndexDone, Pieces, TableDone, VacuumDone,
};
use crate::workdir::live::{LiveRun, WorkerRecord};
use crate::workdir::paths::Paths;

pub fn count(
    progress: &mut Progress,
    paths: &Paths,
    catalog: &Catalog,
    live: Option<&(LiveRun, Vec<WorkerRecord>)>,
    now_ms: u64,
) -> Result<()> {
    let records = live.map_or(&[][..], |(_, records)| records);
    let items = done::read::<Pieces<WorkItem>>(&paths.cut())?.map(|cut| cut.pieces);
    let mut all = tables_of_run(catalog, items.as_deref());
    let copied = done::read_directory::<TableDone>(&paths.tables(), ".done")?;
    let since_start = live.map_or(0, |(run, _)| bytes_since(&copied, run.started_at_ms));
    add_done(&mut all, copied.into_values(), progress.has_done("tables"));
    let running = running_tables(catalog, records, &all, now_ms);
    for running in &running {
        if let Some(table) = all.get_mut(&running.oid) {
            table.state = TableState::Copying;
            table.copied_rows += running.copied_rows;
            table.copied_bytes += running.copied_bytes;
        }
    }
    progress.tables = sum(all, running, live, since_start, progress.elapsed_ms);
    count_indexes(progress, paths, catalog, records, now_ms)?;
    let blobs = done::read_directory::<BlobsDone>(&paths.blobs(), ".done")?;
    progress.large_objects.total = catalog.large_objects.count;
    progress.large_objects.done = blobs.values().map(|done| done.count).sum();
    progress.large_objects.copied_bytes = blobs.values().map(|done| done.bytes).sum();
    Ok(())
}

/// What the run copies: once it has cut its tables, these, else all that there are.
fn tables_of_run(catalog: &Catalog, items: Option<&[WorkItem]>) -> HashMap<Oid, TableProgress> {
    let entry = |table: &Table, parts| TableProgress {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        state: TableState::Waiting,
        parts,
        parts_done: 0,
        reltuples: table.row_estimate,
        bytes: table.bytes,
        copied_rows: 0,
        copied_bytes: 0,
    };
    match items {
        Some(items) => items
            .iter()
            .filter_map(|item| {
                let parts = item.part.as_ref().map_or(1, |part| part.count);
                Some((item.table, entry(catalog.table(item.table)?, parts)))
            })
            .collect(),
        None => catalog
            .tables_to_copy()
            .map(|table| (table.oid, entry(table, 1)))
            .collect(),
    }
}

/// What was copied since this moment. A table in parts has files of its parts beside that of the whole: these count.
fn bytes_since(copied: &HashMap<String, TableDone>, start_ms: u64) -> u64 {
    let in_parts: HashSet<Oid> = copied
        .values()
        .filter(|done| done.part.is_some())
        .map(|done| done.oid)
        .collect();
    copied
        .values()
        .filter(|done| done.part.is_some() || !in_parts.contains(&done.oid))
        .filter(|done| done.finished_at_ms >= start_ms)
        .map(|done| done.bytes)
        .sum()
}

/// Whole tables count; parts do for tables that are not whole yet.
fn add_done(
    all: &mut HashMap<Oid, TableProgress>,
    copied: impl Iterator<Item = TableDone>,
    is_step_done: bool,
) {
    let (whole, parts): (Vec<TableDone>, Vec<TableDone>) =
        copied.partition(|done| done.part.is_none());
    for done in whole {
        if let Some(table) = all.get_mut(&done.oid) {
            table.state = TableState::Done;
            table.parts_done = table.parts;
            table.copied_rows = done.rows;
            table.copied_bytes = done.bytes;
        }
    }
    for done in parts {
        if let Some(table) = all
            .get_mut(&done.oid)
            .filter(|table| table.state != TableState::Done)
        {
            table.parts_done += 1;
            table.copied_rows += done.rows;
            table.copied_bytes += done.bytes;
        }
    }
    if is_step_done {
        for table in all.values_mut() {
            table.state = TableState::Done;
            table.parts_done = table.parts;
        }
    }
}

fn sum(
    all: HashMap<Oid, TableProgress>,
    running: Vec<super::TableRunning>,
    live: Option<&(LiveRun, Vec<WorkerRecord>)>,
    since_start: u64,
    elapsed_ms: Option<u64>,
) -> Tables {
    let mut all: Vec<TableProgress> = all.into_values().collect();
    all.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    let done_of = |table: &TableProgress| match table.parts {
        // Parts are even.
        parts if parts > 0 => table.bytes as f64 * f64::from(table.parts_done) / f64::from(parts),
        _ => 0.0,
    };
    let bytes: u64 = all.iter().map(|table| table.bytes).sum();
    let under_way: f64 = running
        .iter()
        .map(|table| table.fraction * table.bytes as f64)
        .sum();
    let bytes_done = all.iter().map(done_of).sum::<f64>() + under_way;
    let is_done = |table: &&TableProgress| table.state == TableState::Done;
    let done = all.iter().filter(is_done).count() as u64;
    let mut tables = Tables {
        total: all.len() as u64,
        done,
        bytes,
        bytes_done: (bytes_done as u64).min(bytes),
        copied_rows: all.iter().map(|table| table.copied_rows).sum(),
        copied_bytes: all.iter().map(|table| table.copied_bytes).sum(),
        ..Tables::default()
    };
    if let (Some((run, _)), Some(elapsed)) = (live, elapsed_ms)
        && done < tables.total
    {
        let under_way: u64 = running.iter().map(|table| table.copied_bytes).sum();
        let passed = since_start + under_way;
        tables.bytes_per_second = Some(per_second(passed, elapsed));
        tables.seconds_left = seconds_left(
            bytes_done,
            run.size_done_before as f64,
            bytes as f64,
            elapsed,
        );
    }
    tables.in_progress = running;
    tables.all = all;
    tables
}

fn count_indexes(
    progress: &mut Progress,
    paths: &Paths,
    catalog: &Catalog,
    records: &[WorkerRecord],
    now_ms: u64,
) -> Result<()> {
    let built: HashSet<Oid> = done::read_directory::<IndexDone>(&paths.indexes(), ".done")?
        .into_values()
        .map(|done| done.oid)
        .collect();
    let attached = done::read_directory::<ConstraintDone>(&paths.indexes(), ".constraint")?;
    let vacuumed = done::read_directory::<VacuumDone>(&paths.vacuum(), ".done")?;
    let tables = || {
        progress
            .tables
            .all
            .iter()
            .filter_map(|table| catalog.table(table.oid))
    };
    let mut total = 0;
    let mut constraints = 0;
    for table in tables() {
        for index in catalog.indexes_of(table.oid) {
            total += 1;
            constraints += u64::from(!index.attach_sql(table).is_empty());
        }
    }
    progress.indexes.total = total;
    progress.indexes.done = built.len() as u64;
    progress.indexes.in_progress = running_indexes(catalog, records, &built, now_ms);
    progress.constraints.total = constraints;
    progress.constraints.done = attached.len() as u64;
    progress.vacuum.total = progress.tables.total;
    progress.vacuum.done = vacuumed.len() as u64;
    Ok(())
}
