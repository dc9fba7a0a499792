//! The filters, as clone applies them: what they match, what the dump says falls with it, and the catalog without all of
//! that. Runs in the parent, around pg_dump. What is left out is noted in the work directory, where a resume and
//! `list depends` find it.

use std::collections::HashSet;

use super::Clone;
use crate::catalog::Catalog;
use crate::dump::archive::{Archive, CatalogId};
use crate::dump::closure::{Omitted, close};
use crate::error::{Error, Result};
use crate::filter::{self, Selection};
use crate::ident::Oid;
use crate::snapshot::Snapshot;
use crate::sys::durable::Sync;
use crate::workdir::done;

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

/// Take what falls out of the catalog, and note it. `catalog` is what the snapshot has, all of it.
pub fn apply(
    clone: &Clone<'_>,
    catalog: &mut Catalog,
    archive: &Archive,
    selection: &Selection,
) -> Result<()> {
    let omitted = close(archive, selection);
    check_wanted(clone, &omitted, selection)?;
    done::write(&clone.workdir.paths.omitted(), &omitted, Sync::Now)?;
    let ids = ids(&omitted, selection);
    let kept: Vec<_> = {
        let gone: HashSet<i32> = omitted.iter().map(|omitted| omitted.dump_id).collect();
        let is_kept = |entry: &&crate::dump::archive::Entry| !gone.contains(&entry.dump_id);
        archive.entries.iter().filter(is_kept).collect()
    };
    catalog.leave_out(
        &|oid| ids.contains(&CatalogId::relation(oid)),
        &|oid| ids.contains(&CatalogId::constraint(oid)),
        &selection.without_rows,
    );
    let extensions: HashSet<Oid> = selection
        .left_out
        .iter()
        .filter(|left| left.kind == "EXTENSION")
        .map(|left| left.oid)
        .collect();
    catalog
        .extensions
        .retain(|extension| !extensions.contains(&extension.oid));
    // Whoever owns nothing that is kept, and was granted nothing on it, need not be on the target.
    let mentions = |role: &str| {
        kept.iter().any(|entry| {
            let is_about_roles = matches!(&*entry.desc.lossy(), "ACL" | "DEFAULT ACL" | "POLICY");
            entry.owner == role || is_about_roles && entry.defn.lossy().contains(role)
        })
    };
    catalog.roles.retain(|role| mentions(role));
    let mut tablespaces = std::mem::take(&mut catalog.tablespaces);
    tablespaces.retain(|name| {
        kept.iter().any(|entry| entry.tablespace == **name)
            || catalog
                .indexes
                .iter()
                .any(|index| index.tablespace.as_ref() == Some(name))
    });
    catalog.tablespaces = tablespaces;
    tell(&omitted, selection);
    Ok(())
}

/// What a rule asks for by name, and something else that is left out does not allow: no other table comes in its place.
fn check_wanted(clone: &Clone<'_>, omitted: &[Omitted], selection: &Selection) -> Result<()> {
    let is_only = clone
        .spec
        .filters
        .as_ref()
        .is_some_and(|filters| filters.names_tables());
    if !is_only {
        return Ok(());
    }
    let matched: HashSet<(Oid, Oid)> = selection
        .left_out
        .iter()
        .map(|left| (left.catalog, left.oid))
        .collect();
    let is_wanted = |omitted: &&Omitted| {
        omitted.kind == "TABLE"
            && !matched.contains(&(omitted.catalog_id.tableoid, omitted.catalog_id.oid))
    };
    match omitted.iter().find(is_wanted) {
        None => Ok(()),
        Some(table) => Err(Error::config(format!(
            "the filters ask for {} and leave out what it needs: it {}",
            table.object, table.reason
        ))
        .with_hint("Add what it needs to the filters file, or take the table out of it.")),
    }
}

fn ids(omitted: &[Omitted], selection: &Selection) -> HashSet<CatalogId> {
    let matched = selection.left_out.iter().filter(|left| !left.may_be_needed);
    let matched = matched.map(|left| CatalogId {
        tableoid: left.catalog,
        oid: left.oid,
    });
    let fallen = omitted.iter().map(|omitted| omitted.catalog_id);
    fallen.filter(|id| id.oid != 0).chain(matched).collect()
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
            | "SEQUENCE SET"
    )
}

/// What an earlier phase left out, by dump id.
pub fn omitted(clone: &Clone<'_>) -> Result<HashSet<i32>> {
    if clone.spec.filters.is_none() {
        return Ok(HashSet::new());
    }
    let omitted: Vec<Omitted> = done::read(&clone.workdir.paths.omitted())?.ok_or_else(|| {
        Error::state("it is not known what the filters leave out")
            .with_hint("Use --restart to start over.")
    })?;
    Ok(omitted.into_iter().map(|omitted| omitted.dump_id).collect())
}
