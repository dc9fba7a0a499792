//! How far the clone of an instance is: each database by itself, from its own folder, and all of them together. Reads
//! files only, like the progress of one database.

use serde::Serialize;

use super::estimate::seconds_left;
use super::summary::Summary;
use super::{Count, LargeObjectsCount, Progress, State};
use crate::error::{Error, Result};
use crate::workdir::paths::{Paths, database_of_folder};
use crate::workdir::{Service, holder, live};

/// The databases that have a folder in this directory, by name. None: it is not that of an instance.
pub fn databases(top: &Paths) -> Result<Option<Vec<(String, Paths)>>> {
    let directory = top.databases();
    let failed = |error| {
        Error::io(
            format!("could not read directory \"{}\"", directory.display()),
            error,
        )
    };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        if let (true, Some(name)) = (is_directory, name.to_str().and_then(database_of_folder)) {
            found.push((name, Paths::new(entry.path())));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Some(found))
}

/// All databases together. The keys are documented with the command that prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct InstanceProgress {
    pub state: State,
    pub pid: Option<u32>,
    pub table_jobs: Option<u32>,
    pub index_jobs: Option<u32>,
    pub elapsed_ms: Option<u64>,
    pub tables: Totals,
    pub indexes: Count,
    pub constraints: Count,
    pub vacuum: Count,
    pub large_objects: LargeObjectsCount,
    pub databases: Vec<DatabaseProgress>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatabaseProgress {
    pub database: String,
    #[serde(flatten)]
    pub progress: Progress,
}

/// Of the tables of all databases.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    pub total: u64,
    pub done: u64,
    pub bytes: u64,
    pub bytes_done: u64,
    pub copied_rows: u64,
    pub copied_bytes: u64,
    pub bytes_per_second: Option<u64>,
    pub seconds_left: Option<u64>,
}

impl InstanceProgress {
    pub fn read(top: &Paths, folders: &[(String, Paths)], now_ms: u64) -> Result<InstanceProgress> {
        let databases = folders
            .iter()
            .map(|(name, paths)| {
                Ok(DatabaseProgress {
                    database: name.clone(),
                    progress: Progress::read(paths, now_ms)?,
                })
            })
            .collect::<Result<Vec<DatabaseProgress>>>()?;
        let pid = holder(top.top(), Service::Instance);
        let live = live::read(top)?.filter(|(run, _)| Some(run.pid) == pid);
        let run = live.map(|(run, _)| run);
        let elapsed_ms = run
            .as_ref()
            .map(|run| now_ms.saturating_sub(run.started_at_ms));
        let mut tables = add_tables(&databases);
        if let (Some(run), Some(elapsed)) = (&run, elapsed_ms)
            && tables.done < tables.total
        {
            tables.bytes_per_second = Some(sum(&databases, |it| {
                it.tables.bytes_per_second.unwrap_or_default()
            }));
            tables.seconds_left = seconds_left(
                tables.bytes_done as f64,
                run.size_done_before as f64,
                tables.bytes as f64,
                elapsed,
            );
        }
        let count = |of: fn(&Progress) -> (u64, u64)| Count {
            total: sum(&databases, |progress| of(progress).0),
            done: sum(&databases, |progress| of(progress).1),
        };
        Ok(InstanceProgress {
            state: state(pid, &databases),
            pid,
            table_jobs: run.as_ref().map(|run| run.table_jobs),
            index_jobs: run.as_ref().map(|run| run.index_jobs),
            elapsed_ms,
            tables,
            indexes: count(|it| (it.indexes.total, it.indexes.done)),
            constraints: count(|it| (it.constraints.total, it.constraints.done)),
            vacuum: count(|it| (it.vacuum.total, it.vacuum.done)),
            large_objects: LargeObjectsCount {
                total: sum(&databases, |it| it.large_objects.total),
                done: sum(&databases, |it| it.large_objects.done),
                copied_bytes: sum(&databases, |it| it.large_objects.copied_bytes),
            },
            databases,
        })
    }
}

fn sum(databases: &[DatabaseProgress], of: impl Fn(&Progress) -> u64) -> u64 {
    databases.iter().map(|it| of(&it.progress)).sum()
}

fn add_tables(databases: &[DatabaseProgress]) -> Totals {
    Totals {
        total: sum(databases, |it| it.tables.total),
        done: sum(databases, |it| it.tables.done),
        bytes: sum(databases, |it| it.tables.bytes),
        bytes_done: sum(databases, |it| it.tables.bytes_done),
        copied_rows: sum(databases, |it| it.tables.copied_rows),
        copied_bytes: sum(databases, |it| it.tables.copied_bytes),
        ..Totals::default()
    }
}

fn state(pid: Option<u32>, databases: &[DatabaseProgress]) -> State {
    let all_are = |state| databases.iter().all(|it| it.progress.state == state);
    match pid {
        Some(_) => State::Running,
        None if all_are(State::NotStarted) => State::NotStarted,
        None if all_are(State::Complete) => State::Complete,
        None => State::Incomplete,
    }
}

/// What was done to each database, and in which time.
#[derive(Debug, Serialize)]
pub struct InstanceSummary {
    pub version: u32,
    pub is_complete: bool,
    /// Of the run that ended last; unknown before one has.
    pub duration_ms: Option<u64>,
    /// By name.
    pub databases: Vec<DatabaseSummary>,
}

#[derive(Debug, Serialize)]
pub struct DatabaseSummary {
    pub database: String,
    /// None: nothing of it is known yet.
    pub summary: Option<Summary>,
}

impl InstanceSummary {
    pub fn read(folders: &[(String, Paths)], duration_ms: Option<u64>) -> Result<InstanceSummary> {
        let mut databases = folders
            .iter()
            .map(|(name, paths)| {
                Ok(DatabaseSummary {
                    database: name.clone(),
                    summary: Summary::read(paths)?,
                })
            })
            .collect::<Result<Vec<DatabaseSummary>>>()?;
        databases.sort_by(|a, b| a.database.cmp(&b.database));
        let is_complete =
            |it: &DatabaseSummary| it.summary.as_ref().is_some_and(|it| it.is_complete);
        Ok(InstanceSummary {
            version: 1,
            is_complete: !databases.is_empty() && databases.iter().all(is_complete),
            duration_ms,
            databases,
        })
    }

    /// The time that the last run has written down.
    pub fn written_duration(top: &Paths) -> Option<u64> {
        let text = std::fs::read(top.summary_json()).ok()?;
        let written: serde_json::Value = serde_json::from_slice(&text).ok()?;
        written.get("duration_ms")?.as_u64()
    }
}
