//! Unlogged tables: no flush makes their rows durable, so a done-file is no proof of them. A target that has crashed has them
//! without a row. Runs in the parent: a resume forgets what is lost before it decides what there is to copy, and no run ends
//! well with a table that was lost meanwhile. What is lost once all is done is the user's own choice of unlogged tables.

use std::collections::HashMap;

use super::again::again;
use super::phases::Phase;
use super::progress::row_count;
use super::{Clone, step};
use crate::catalog::{Catalog, Persistence, Table};
use crate::error::{Context, Error, Result, Side};
use crate::ident::{Oid, QualifiedName};
use crate::pg::wire::Connection;
use crate::workdir::done::{self, Failure, TableDone};

/// Needs no right on the tables: those that post-data has restored may forbid us to read our own. One that is dropped just now
/// has no size.
const SIZES: &str = "SELECT n.nspname, c.relname, COALESCE(pg_catalog.pg_relation_size(c.oid) = 0, false) \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpersistence = 'u'";

/// On a resume: tables that were lost are copied again, and what was made of their rows is made again.
pub fn forget_lost(clone: &Clone<'_>) -> Result<()> {
    let (workdir, paths) = (clone.workdir, &clone.workdir.paths);
    let is_meant = clone.is_resumed && clone.spec.phases.has(Phase::TableData);
    if !is_meant || !paths.schema_json().exists() {
        return Ok(());
    }
    let catalog = clone.fetch_catalog(None)?;
    let lost = find_lost(clone, &catalog)?;
    if lost.is_empty() {
        return Ok(());
    }
    // First what stands for all tables: who is killed before the rest finds the table lost once more.
    workdir.undo_step(step::TABLES)?;
    workdir.undo_step(step::RESTORE_POST)?;
    let parts = Copied::read(clone)?.parts;
    for table in lost {
        log::warn!(
            "unlogged table {} has lost its rows in a crash of the target: it is copied again",
            table.qualified_name()
        );
        workdir.remove_parts(table.oid, parts.get(&table.oid).map_or(&[], Vec::as_slice))?;
        workdir.remove_vacuum_done(table.oid)?;
        workdir.remove_table_done(table.oid)?;
    }
    Ok(())
}

/// List as failures the tables that were lost while this run was under way.
pub fn tell_lost(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    for table in find_lost(clone, catalog)? {
        let name = table.qualified_name().to_string();
        let error = Error::on(
            Side::Target,
            format!("unlogged table {name} has lost its rows in a crash of the target"),
        )
        .with_hint("Run again with --resume, which copies it again.");
        if clone.spec.fail_fast {
            return Err(error);
        }
        error.log("");
        clone
            .workdir
            .record_failure(&Failure::new("table", &name, &error))?;
    }
    Ok(())
}

/// A crash takes unlogged sequences back to their beginning.
pub fn has_sequences(catalog: &Catalog) -> bool {
    let mut sequences = catalog.sequences.iter();
    sequences.any(|sequence| sequence.persistence == Persistence::Unlogged)
}

fn find_lost<'c>(clone: &Clone<'_>, catalog: &'c Catalog) -> Result<Vec<&'c Table>> {
    let unlogged: Vec<&Table> = catalog
        .tables_to_copy()
        .filter(|table| table.persistence == Persistence::Unlogged)
        .collect();
    if unlogged.is_empty() {
        return Ok(Vec::new());
    }
    let copied = Copied::read(clone)?;
    // Looked at before that step was done: from then on a table is lost as a whole.
    let may_lack_parts = !clone.workdir.is_step_done(step::TABLES)?;
    again("a look at unlogged tables", clone.shutdown, || {
        let mut target = clone.open_target("clone")?;
        let is_empty = fetch_sizes(&mut target)?;
        let mut lost = Vec::new();
        for table in &unlogged {
            // One that is logged there, or partitioned, or gone, was lost in no crash.
            let (Some(rows), Some(is_empty)) = (
                copied.rows.get(&table.oid),
                is_empty.get(&table.qualified_name()),
            ) else {
                continue;
            };
            let is_split = may_lack_parts && copied.parts.contains_key(&table.oid);
            if *rows > 0 && (*is_empty || (is_split && row_count(table, &mut target)? < *rows)) {
                lost.push(*table);
            }
        }
        Ok(lost)
    })
}

/// Which unlogged tables the target has, and whether they are without a row.
fn fetch_sizes(target: &mut Connection) -> Result<HashMap<QualifiedName, bool>> {
    let rows = target
        .query(SIZES)
        .context("could not look at the unlogged tables of the target")?;
    rows.iter()
        .map(|row| {
            let name = QualifiedName::new(row.text(0)?, row.text(1)?);
            Ok((name, row.bool(2)?))
        })
        .collect()
}

/// What the done-files say.
#[derive(Default)]
struct Copied {
    /// Of whole tables.
    rows: HashMap<Oid, u64>,
    /// Of all tables that were copied in parts.
    parts: HashMap<Oid, Vec<u32>>,
}

impl Copied {
    fn read(clone: &Clone<'_>) -> Result<Copied> {
        let mut copied = Copied::default();
        let files = done::read_directory::<TableDone>(&clone.workdir.paths.tables(), ".done")?;
        for done in files.into_values() {
            match done.part {
                None => {
                    copied.rows.insert(done.oid, done.rows);
                }
                Some(part) => copied.parts.entry(done.oid).or_default().push(part.number),
            }
        }
        Ok(copied)
    }
}
