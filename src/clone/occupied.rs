//! What is on the target where rows and large objects are to go: nothing that is not this run's may be touched by it. Runs
//! in the parent, before the first worker starts.

use super::phases::Phase;
use super::{Clone, step};
use crate::catalog::{Catalog, Target, target};
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::ident::shorten;
use crate::pg::wire::Connection;

/// What is on the target already must be what this run, or the user for it, has made.
pub fn check(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    target: &mut Connection,
) -> Result<()> {
    let (phases, workdir) = (clone.spec.phases, clone.workdir);
    if phases.has(Phase::TableData) {
        check_tables_there(clone, catalog, found)?;
        check_no_extension_rows(clone, catalog, found, target)?;
        check_no_rows(clone, catalog, found, target)?;
    }
    if phases.has(Phase::LargeObjects) && !workdir.is_step_begun(step::BLOBS) {
        check_no_large_objects(clone, catalog, target)?;
    }
    Ok(())
}

fn refuse(what: &str, names: &[String], hint: &str) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Target, format!("{what}: {}", shorten(names)))
            .with_side(Side::Target)
            .with_hint(hint),
    )
}

/// Without a pre-data of this run the tables are there only if the user made them. That none is, is no failure of each.
fn check_tables_there(clone: &Clone<'_>, catalog: &Catalog, found: &Target) -> Result<()> {
    if clone.workdir.is_step_begun(step::RESTORE_PRE) {
        return Ok(());
    }
    let missing: Vec<String> = catalog
        .tables_to_copy()
        .filter(|table| found.table(&table.schema, &table.name).is_none())
        .map(|table| table.qualified_name().to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::state(format!(
        "cannot copy table data: \"restore pre-data\" was not run in work directory \"{}\", and tables do not exist on \
         the target: {}",
        clone.workdir.paths.top().display(),
        shorten(&missing)
    ))
    .with_hint("Run \"pgcopydb dump schema\" and \"pgcopydb restore pre-data --resume\" first."))
}

/// The configuration tables of an extension that was there before: rows that our COPY would replace are not ours.
fn check_no_extension_rows(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    target: &mut Connection,
) -> Result<()> {
    let workdir = clone.workdir;
    let is_begun = [step::RESTORE_PRE, step::TABLES]
        .iter()
        .any(|step| workdir.is_step_begun(step));
    if clone.spec.drop_if_exists || is_begun {
        return Ok(());
    }
    let with_rows = target::fetch_filled_config_tables(target, catalog, found)?;
    refuse(
        "target not empty: configuration tables of extensions hold rows already",
        &with_rows,
        "Empty them, or use --drop-if-exists to replace the rows.",
    )
}

/// A row that was there before this run is somebody's: nothing of ours may remove it. Once this was checked, every row
/// in these tables is ours.
fn check_no_rows(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    target: &mut Connection,
) -> Result<()> {
    if clone.workdir.is_step_begun(step::TABLES) {
        return Ok(());
    }
    let tables: Vec<&target::TargetTable> = catalog
        .tables_to_copy()
        .filter(|table| table.extension_config.is_none())
        .filter_map(|table| found.table(&table.schema, &table.name))
        .collect();
    let with_rows = target::fetch_tables_with_rows(target, &tables)?;
    let names: Vec<String> = tables
        .iter()
        .filter(|table| with_rows.contains(&table.oid))
        .map(|table| table.qualified_name().to_string())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = shorten(&names);
    Err(Error::on(
        Side::Target,
        format!("target not empty: there are rows already in {names}"),
    )
    .with_hint("Empty these tables, or start over with --restart --drop-if-exists."))
}

/// Large objects have no schema to keep them apart: one that is there would be replaced by the source's of its id.
fn check_no_large_objects(
    clone: &Clone<'_>,
    catalog: &Catalog,
    connection: &mut Connection,
) -> Result<()> {
    let spec = clone.spec;
    let is_none_copied = spec.skip_large_objects || catalog.large_objects.count == 0;
    if is_none_copied || spec.drop_if_exists {
        return Ok(());
    }
    let there = connection
        .query("SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid LIMIT 100")
        .context("could not list large objects of the target")?;
    let there = there
        .iter()
        .map(|row| Ok(row.text(0)?.to_string()))
        .collect::<Result<Vec<String>>>()?;
    refuse(
        "target not empty: large objects exist there already",
        &there,
        "Use an empty target database, --skip-large-objects, or --drop-if-exists to replace them.",
    )
}
