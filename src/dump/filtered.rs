//! The catalog of the source without what the filters leave out. Used by the clone parent around its own dump, and by what
//! only looks: then a dump of the schema is made for it, read and removed.

use std::collections::HashSet;

use crate::catalog::{self, Catalog, FetchOptions};
use crate::dump::archive::{Archive, CatalogId, Entry};
use crate::dump::closure::{Omitted, close};
use crate::dump::pg_dump::DumpSpec;
use crate::dump::programs::SearchPlaces;
use crate::dump::run;
use crate::error::{Context, Error, Result};
use crate::filter::{self, Filters, Selection};
use crate::ident::Oid;
use crate::pg::conninfo::ConnInfo;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;

/// What is meant, and what is not.
pub struct Filtered {
    pub catalog: Catalog,
    /// What is left out, and the tables whose rows are.
    pub skipped: Catalog,
    pub omitted: Vec<Omitted>,
    /// All rows of the source's catalogs that are left out: also those that are no entry of a dump, as the index of a primary
    /// key, and those that the dump was not shown.
    pub left_out: HashSet<CatalogId>,
}

/// Read the source as the filters want it. `source` is in a transaction that sees one moment, and stays in it.
pub fn fetch(
    source: &mut Connection,
    info: &ConnInfo,
    filters: &Filters,
    options: &FetchOptions,
    shutdown: &Shutdown,
) -> Result<Filtered> {
    let mut catalog = catalog::fetch(source, options)?;
    let selection = filter::resolve(source, filters)?;
    let snapshot = source.query_one("SELECT pg_catalog.pg_export_snapshot()")?;
    let version = source.server_version();
    let programs = SearchPlaces::from_environment().find(version, version, shutdown)?;
    let dir = tempfile::Builder::new()
        .prefix("pgcopydb-schema-")
        .tempdir()
        .context("could not make a directory for a dump of the schema")?;
    let file = dir.path().join("schema.dump");
    let child = info.child()?;
    let excluded = selection.unreadable_names();
    let arguments = DumpSpec {
        conninfo: &child.dbname_argument,
        snapshot: snapshot.text(0)?,
        excluded_tables: &excluded,
        encoding: (&*catalog.database.encoding != "SQL_ASCII").then_some("UTF8"),
        file: &file,
    }
    .arguments();
    let outcome = run::run(&programs.pg_dump, &arguments, &child, shutdown)?;
    outcome
        .check(&programs.pg_dump)
        .context("could not dump the schema of the source")?;
    let bytes = std::fs::read(&file)
        .with_context(|| format!("could not read file \"{}\"", file.display()))?;
    let all = catalog.clone();
    let omitted = apply(&mut catalog, &Archive::read(&bytes)?, &selection, filters)?;
    let skipped = all.without(&catalog);
    let left_out = ids(&omitted, &selection);
    Ok(Filtered {
        catalog,
        skipped,
        left_out,
        omitted,
    })
}

/// Take what falls out of the catalog; what that is. `catalog` is what the dump's snapshot has, all of it.
pub fn apply(
    catalog: &mut Catalog,
    archive: &Archive,
    selection: &Selection,
    filters: &Filters,
) -> Result<Vec<Omitted>> {
    let omitted = close(archive, selection);
    check_wanted(filters, &omitted, selection)?;
    let ids = ids(&omitted, selection);
    let kept: Vec<_> = {
        let gone: HashSet<i32> = omitted.iter().map(|omitted| omitted.dump_id).collect();
        let is_kept = |entry: &&Entry| !gone.contains(&entry.dump_id);
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
    catalog.roles.retain(|role| mentions(&role.name));
    let mut tablespaces = std::mem::take(&mut catalog.tablespaces);
    tablespaces.retain(|name| {
        kept.iter().any(|entry| entry.tablespace == **name)
            || catalog
                .indexes
                .iter()
                .any(|index| index.tablespace.as_ref() == Some(name))
    });
    catalog.tablespaces = tablespaces;
    Ok(omitted)
}

/// What a rule asks for by name, and something else that is left out does not allow: no other table comes in its place.
fn check_wanted(filters: &Filters, omitted: &[Omitted], selection: &Selection) -> Result<()> {
    if !filters.names_tables() {
        return Ok(());
    }
    let matched: HashSet<(Oid, Oid)> = selection
        .left_out
        .iter()
        .filter(|left| left.is_by_rule)
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
