//! What was done to each table, and in which time: from the done-files, so that a resumed run, and one that was made
//! section by section, tells of the whole. Used at the end of a clone and by `list progress --summary`.

use serde::{Deserialize, Serialize};

use super::{read_catalog, read_failures};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::workdir::done::{self, BlobsDone, Failure, IndexDone, StepDone, TableDone, VacuumDone};
use crate::workdir::paths::Paths;

/// One phase of a run, or one step of the work directory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub duration_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct TableSummary {
    pub name: String,
    pub rows: u64,
    pub bytes: u64,
    pub copy_ms: u64,
    pub indexes: usize,
    pub index_ms: u64,
    pub vacuum_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct Summary {
    pub version: u32,
    pub is_complete: bool,
    pub duration_ms: u64,
    pub phases: Vec<Phase>,
    /// Longest copy first.
    pub tables: Vec<TableSummary>,
    pub large_objects: u64,
    pub large_objects_bytes: u64,
    pub sequences: usize,
    pub failures: Vec<Failure>,
}

/// What a run wrote at its end, as far as it cannot be told from the done-files.
#[derive(Deserialize)]
pub struct Written {
    pub duration_ms: u64,
    pub phases: Vec<Phase>,
}

impl Written {
    pub fn read(paths: &Paths) -> Option<Written> {
        serde_json::from_slice(&std::fs::read(paths.summary_json()).ok()?).ok()
    }
}

impl Summary {
    /// From the done-files; the times of phases are the caller's to know.
    pub fn gather(
        paths: &Paths,
        catalog: &Catalog,
        failures: &[Failure],
        is_complete: bool,
    ) -> Result<Summary> {
        let blobs: Vec<BlobsDone> = done::read_directory(&paths.blobs(), ".done")?
            .into_values()
            .collect();
        Ok(Summary {
            version: 1,
            is_complete,
            duration_ms: 0,
            phases: Vec::new(),
            tables: read_tables(paths, catalog)?,
            large_objects: blobs.iter().map(|done| done.count).sum(),
            large_objects_bytes: blobs.iter().map(|done| done.bytes).sum(),
            sequences: catalog.sequences.len(),
            failures: failures.to_vec(),
        })
    }

    /// Of whatever the directory holds, at any moment; `None` before there is anything. The steps that are done stand for
    /// the phases until a run has written its own.
    pub fn read(paths: &Paths) -> Result<Option<Summary>> {
        let Some(catalog) = read_catalog(paths)? else {
            return Ok(None);
        };
        let mut steps: Vec<StepDone> = done::read_directory(&paths.run(), ".done")?
            .into_values()
            .collect();
        steps.sort_by(|a, b| (a.finished_at_ms, &a.step).cmp(&(b.finished_at_ms, &b.step)));
        let is_complete = steps.iter().any(|step| step.step == "clone");
        let mut summary = Summary::gather(paths, &catalog, &read_failures(paths)?, is_complete)?;
        if let Some(written) = Written::read(paths) {
            summary.duration_ms = written.duration_ms;
            summary.phases = written.phases;
        } else {
            summary.duration_ms = steps.iter().map(|step| step.duration_ms).sum();
            let phase = |step: StepDone| Phase {
                name: step.step,
                duration_ms: step.duration_ms,
            };
            summary.phases = steps.into_iter().map(phase).collect();
        }
        Ok(Some(summary))
    }
}

fn read_tables(paths: &Paths, catalog: &Catalog) -> Result<Vec<TableSummary>> {
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
    let mut tables: Vec<TableSummary> = copied
        .into_values()
        .filter(|table| table.part.is_none())
        .map(summarise)
        .collect();
    tables.sort_by(|a, b| b.copy_ms.cmp(&a.copy_ms).then_with(|| a.name.cmp(&b.name)));
    Ok(tables)
}
