//! The filters, as clone applies them: what they match, what the dump says falls with it, and the catalog without all of
//! that. Runs in the parent, around pg_dump. What is left out is noted in the work directory, where a resume and
//! `list depends` find it.

use std::collections::HashSet;

use super::schema::read_archive;
use super::{Clone, CloneSpec};
use crate::catalog::Catalog;
use crate::dump::archive::{Archive, Entry};
use crate::dump::closure::Omitted;
use crate::dump::filtered;
use crate::error::{Error, Result};
use crate::filter::{self, Filters, Selection};
use crate::ident::QualifiedName;
use crate::snapshot::Snapshot;
use crate::stream::left_out;
use crate::sys::durable::{Sync, write_atomic};
use crate::workdir::done;
use crate::workdir::paths::Paths;

/// As many as a log should show.
const MOST_SHOWN: usize = 20;

/// What the rules match, as the snapshot sees it; `None` without filters, and when everything was read before.
pub fn select(clone: &Clone<'_>, snapshot: Option<&mut Snapshot>) -> Result<Option<Selection>> {
    match (&clone.spec.filters, snapshot) {
        (Some(filters), Some(snapshot)) => {
            filter::resolve(snapshot.connection(), filters).map(Some)
        }
        _ => Ok(None),
    }
}

/// The dump of the run, which says what falls with what is left out.
pub fn read_dump(clone: &Clone<'_>) -> Result<Archive> {
    let paths = &clone.workdir.paths;
    if !paths.dump().exists() {
        return Err(Error::state(format!(
            "cannot use filters: \"dump schema\" was not run in work directory \"{}\"",
            paths.top().display()
        ))
        .with_hint("Run \"pgcopydb dump schema\" with the same filters first."));
    }
    read_archive(&paths.dump())
}

/// Take what falls out of the catalog, and note it. `catalog` is what the snapshot has, all of it.
pub fn apply(
    clone: &Clone<'_>,
    filters: &Filters,
    catalog: &mut Catalog,
    archive: &Archive,
    selection: &Selection,
) -> Result<()> {
    let omitted = filtered::apply(catalog, archive, selection, filters)?;
    let paths = &clone.workdir.paths;
    left_out::write(&paths.left_out_tables(), &tables(archive, &omitted))?;
    done::write(&paths.omitted(), &omitted, Sync::Now)?;
    tell(&omitted, selection);
    Ok(())
}

/// Those whose rows are not copied, so that their changes must not be followed either.
fn tables(archive: &Archive, omitted: &[Omitted]) -> Vec<QualifiedName> {
    let omitted: HashSet<i32> = omitted.iter().map(|omitted| omitted.dump_id).collect();
    let is_table = |entry: &&Entry| entry.desc == "TABLE" && omitted.contains(&entry.dump_id);
    archive
        .entries
        .iter()
        .filter(is_table)
        .map(|entry| QualifiedName::new(entry.namespace.lossy(), entry.tag.lossy()))
        .collect()
}

/// What falls because of what it needs is worth a line each: nobody has named it.
fn tell(omitted: &[Omitted], selection: &Selection) {
    log::info!(
        "the filters leave out {} objects, and the rows of {} tables; \"pgcopydb list depends\" lists them",
        omitted.len(),
        selection.without_rows.len()
    );
    let fallen = || {
        omitted
            .iter()
            .filter(|it| !it.is_by_rule && !is_rider(&it.kind))
    };
    for omitted in fallen().take(MOST_SHOWN) {
        log::info!("left out: {}, which {}", omitted.object, omitted.reason);
    }
    let count = fallen().count();
    if count > MOST_SHOWN {
        log::info!("and {} more", count - MOST_SHOWN);
    }
}

/// What nobody would miss without its object.
fn is_rider(kind: &str) -> bool {
    matches!(
        kind,
        "ACL"
            | "COMMENT"
            | "SECURITY LABEL"
            | "DEFAULT"
            | "SEQUENCE OWNED BY"
            | "INDEX"
            | "CONSTRAINT"
            | "TRIGGER"
            | "INDEX ATTACH"
            | "RULE"
            | "POLICY"
            | "ROW SECURITY"
            | "STATISTICS"
            | "TABLE ATTACH"
            | "DEFAULT ACL"
            | "PUBLICATION TABLE"
            | "TABLE DATA"
            | "MATERIALIZED VIEW DATA"
            | "SEQUENCE SET"
    )
}

/// Keep the rules for the later commands of the run, or take over those of the earlier ones.
pub fn keep(spec: &mut CloneSpec, paths: &Paths) -> Result<()> {
    match &spec.filters {
        Some(filters) => write_atomic(&paths.filters(), filters.to_file().as_bytes(), Sync::Now),
        None if spec.said.is_some() && paths.filters().exists() => {
            spec.filters = Some(Filters::read(&paths.filters())?);
            Ok(())
        }
        None => Ok(()),
    }
}

/// What an earlier phase left out, by dump id.
pub fn omitted(clone: &Clone<'_>) -> Result<HashSet<i32>> {
    if clone.spec.filters.is_none() {
        return Ok(HashSet::new());
    }
    noted(&clone.workdir.paths)?.ok_or_else(|| {
        Error::state("it is not known what the filters leave out")
            .with_hint("Use --restart to start over.")
    })
}

/// The same of any work directory; `None` when no filters were used in it.
pub fn noted(paths: &Paths) -> Result<Option<HashSet<i32>>> {
    let omitted: Option<Vec<Omitted>> = done::read(&paths.omitted())?;
    let ids = |omitted: Vec<Omitted>| omitted.into_iter().map(|omitted| omitted.dump_id);
    Ok(omitted.map(|omitted| ids(omitted).collect()))
}
