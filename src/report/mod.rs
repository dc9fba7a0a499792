//! How far a run is, for whoever looks: from the files of the work directory, which are only read, and from the two
//! servers when they can be reached. Runs in a process of its own at any moment of a run or after it; takes no lock and
//! changes nothing. What it says may be a moment old; done-files alone decide what a resume does.

mod data;
mod estimate;
pub mod instance;
mod replication;
mod running;
pub mod summary;

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::ident::Oid;
use crate::workdir::done::{self, Failure, StepDone};
use crate::workdir::paths::Paths;
use crate::workdir::state::RunSpec;
use crate::workdir::{Service, holder, live};

pub use replication::{Replication, fetch_replication};
pub use running::{BuildProgress, fetch_builds};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The directory holds no run.
    NotStarted,
    Running,
    /// Everything is copied.
    Complete,
    /// It ended, or was ended, before everything was copied: it can be resumed.
    Incomplete,
}

/// Everything there is to say. The keys are documented with the command that prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Progress {
    pub state: State,
    pub pid: Option<u32>,
    pub run: Option<String>,
    pub table_jobs: Option<u32>,
    pub index_jobs: Option<u32>,
    /// Of the data section that is under way.
    pub elapsed_ms: Option<u64>,
    pub steps: Vec<StepDone>,
    pub tables: Tables,
    pub indexes: Indexes,
    pub constraints: Count,
    pub vacuum: Count,
    pub large_objects: LargeObjectsCount,
    pub failures: Vec<Failure>,
    pub replication: Option<Replication>,
    pub servers: Servers,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Count {
    pub total: u64,
    pub done: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LargeObjectsCount {
    pub total: u64,
    pub done: u64,
    pub copied_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tables {
    pub total: u64,
    pub done: u64,
    /// On the source's disk.
    pub bytes: u64,
    /// The share of it that is copied, an estimate while tables are under way.
    pub bytes_done: u64,
    pub copied_rows: u64,
    pub copied_bytes: u64,
    pub bytes_per_second: Option<u64>,
    pub seconds_left: Option<u64>,
    pub in_progress: Vec<TableRunning>,
    pub all: Vec<TableProgress>,
}

/// One table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableProgress {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    pub state: TableState,
    pub parts: u32,
    pub parts_done: u32,
    pub reltuples: Option<u64>,
    pub bytes: u64,
    pub copied_rows: u64,
    pub copied_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableState {
    Waiting,
    Copying,
    Done,
}

/// A table, or a part of one, that a worker copies now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableRunning {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    /// `None` for a table that is copied whole.
    pub part: Option<u32>,
    pub reltuples: Option<u64>,
    pub bytes: u64,
    pub copied_rows: u64,
    pub copied_bytes: u64,
    /// From 0 to 1, an estimate.
    pub fraction: f64,
    pub rows_per_second: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
    pub elapsed_ms: u64,
    pub process: Process,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Process {
    pub pid: u32,
    pub worker: String,
    pub start_time_epoch: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Indexes {
    pub total: u64,
    pub done: u64,
    pub in_progress: Vec<IndexRunning>,
}

/// An index that a worker builds now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IndexRunning {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    pub table: Box<str>,
    pub elapsed_ms: u64,
    pub process: Process,
    /// What the target says of it; `None` when it was not asked or has no more to say.
    pub build: Option<BuildProgress>,
}

/// What became of asking each server.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Servers {
    pub source: Answer,
    pub target: Answer,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    #[default]
    NotAsked,
    Answered,
    /// With the reason.
    Failed(String),
}

impl Progress {
    /// What the directory says, at time `now_ms`. One that does not exist, or holds nothing of ours, holds no run.
    pub fn read(paths: &Paths, now_ms: u64) -> Result<Progress> {
        let mut steps: Vec<StepDone> = done::read_directory(&paths.run(), ".done")?
            .into_values()
            .collect();
        steps.sort_by(|a, b| (a.finished_at_ms, &a.step).cmp(&(b.finished_at_ms, &b.step)));
        let pid = holder(paths.top(), Service::Clone);
        let spec: Option<RunSpec> = done::read(&paths.run_spec())?;
        let is_complete = steps.iter().any(|step| step.step == "clone");
        // Records of a run that is over are of no meaning any more, nor are they before its successor has made its own.
        let noted = live::read(paths)?;
        let last_run = noted
            .as_ref()
            .map(|(run, _)| run.clone())
            .unwrap_or_default();
        let live = noted.filter(|(run, _)| Some(run.pid) == pid);
        let state = match (pid, is_complete, &spec) {
            // Of an instance, whose other databases are still at it.
            (Some(_), true, _) if last_run.database.is_some() => State::Complete,
            (Some(_), ..) => State::Running,
            (None, true, _) => State::Complete,
            (None, false, None) => State::NotStarted,
            (None, false, Some(_)) => State::Incomplete,
        };
        let mut progress = Progress {
            state,
            pid,
            run: spec.map(|spec| spec.id),
            table_jobs: live.as_ref().map(|(run, _)| run.table_jobs),
            index_jobs: live.as_ref().map(|(run, _)| run.index_jobs),
            elapsed_ms: live
                .as_ref()
                .map(|(run, _)| now_ms.saturating_sub(run.started_at_ms)),
            steps,
            tables: Tables::default(),
            indexes: Indexes::default(),
            constraints: Count::default(),
            vacuum: Count::default(),
            large_objects: LargeObjectsCount::default(),
            failures: read_failures(paths)?,
            replication: None,
            servers: Servers::default(),
        };
        if let Some(catalog) = read_catalog(paths)? {
            data::count(&mut progress, paths, &catalog, live.as_ref(), now_ms)?;
            // Nothing but the run itself knows that it was not to vacuum.
            if last_run.skips_vacuum {
                progress.vacuum.total = progress.vacuum.done;
            }
        }
        Ok(progress)
    }

    /// Whether this step is done.
    fn has_done(&self, step: &str) -> bool {
        self.steps.iter().any(|done| done.step == step)
    }

    /// What the target says of the indexes that are being built, by the worker that builds them.
    pub fn add_builds(&mut self, mut builds: HashMap<String, BuildProgress>) {
        for index in &mut self.indexes.in_progress {
            index.build = builds
                .remove(&index.process.worker)
                .map(|build| BuildProgress {
                    seconds_left: build
                        .fraction
                        .and_then(|fraction| estimate::seconds_left_of(fraction, index.elapsed_ms)),
                    ..build
                });
        }
    }
}

/// The catalog that the run works from, once it has one.
fn read_catalog(paths: &Paths) -> Result<Option<Catalog>> {
    let path = paths.schema_json();
    match std::fs::read(&path) {
        Ok(text) => Catalog::from_json(&text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(
            format!("could not read file \"{}\"", path.display()),
            error,
        )),
    }
}

fn read_failures(paths: &Paths) -> Result<Vec<Failure>> {
    let mut found: Vec<(String, Failure)> = done::read_directory(&paths.failures(), ".json")?
        .into_iter()
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found.into_iter().map(|(_, failure)| failure).collect())
}

/// Whether a follow of this directory is running.
pub fn follow_pid(dir: &Path) -> Option<u32> {
    holder(dir, Service::Follow)
}
