//! What an interrupted run left in tables that are not complete: rows that cannot be told from those to come. Runs in the
//! parent at the beginning of a resumed data section, before any worker. It empties such tables, and no others.

use std::collections::HashMap;

use super::Clone;
use super::data::Cut;
use crate::catalog::{Catalog, Target, TargetKind};
use crate::copy::CopyProgress;
use crate::error::{Context, Result};
use crate::ident::Oid;
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::workdir::done::{self, TableDone};

/// Tables that are not complete and hold rows of parts that do not count any more are emptied; then their done-files go.
/// A table without parts empties itself in the transaction of its COPY.
pub fn empty_tables(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    cut: &Cut,
    progress: &mut CopyProgress,
    target: &mut Connection,
) -> Result<()> {
    let stale = stale_parts(clone, catalog, found, cut, progress, target)?;
    // A table whose COPY was committed but not announced, and which we may not TRUNCATE in the next one, is emptied too.
    let whole = cut
        .items
        .iter()
        .filter(|item| item.part.is_none() && !progress.tables.contains(&item.table));
    let unannounced: Vec<Oid> = whole.map(|item| item.table).collect();
    for oid in stale.keys().copied().chain(unannounced) {
        let Some(table) = catalog.table(oid) else {
            continue;
        };
        let Some(there) = found.table(&table.schema, &table.name) else {
            continue;
        };
        let empties_itself = there.kind == TargetKind::Ordinary && there.can_truncate;
        if table.extension_config.is_some()
            || !there.may_have_rows
            || (empties_itself && !stale.contains_key(&oid))
        {
            continue;
        }
        let name = table.qualified_name();
        let sql = match there.can_truncate {
            true => format!("TRUNCATE ONLY {name}"),
            false => format!("DELETE FROM ONLY {name}"),
        };
        // A partitioned table in its place has no ONLY.
        let sql = match there.kind {
            TargetKind::Partitioned => sql.replace(" ONLY ", " "),
            _ => sql,
        };
        target
            .execute(&sql)
            .with_context(|| format!("could not empty table {name}, which is copied again"))?;
    }
    flush_commits(target)?;
    for (oid, parts) in stale {
        clone.workdir.remove_parts(oid, &parts)?;
        progress.parts.retain(|(table, _)| *table != oid);
    }
    Ok(())
}

/// The tables in parts that cannot go on from what is there, with the parts that were announced. Either those are of
/// another snapshot, or there are rows of a part that was committed and not announced, which nothing tells apart.
fn stale_parts(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &Target,
    cut: &Cut,
    progress: &CopyProgress,
    target: &mut Connection,
) -> Result<HashMap<Oid, Vec<u32>>> {
    let mut parts: HashMap<Oid, Vec<TableDone>> = HashMap::new();
    for item in cut.items.iter().filter(|item| item.part.is_some()) {
        parts.entry(item.table).or_default();
    }
    let announced = done::read_directory::<TableDone>(&clone.workdir.paths.tables(), ".done")?;
    for done in announced.into_values().filter(|done| done.part.is_some()) {
        parts.entry(done.oid).or_default().push(done);
    }
    parts.retain(|table, _| !progress.tables.contains(table));
    let mut stale = HashMap::new();
    for (oid, parts) in parts {
        let is_of_this_snapshot = parts.iter().all(|part| part.snapshot == cut.snapshot);
        let known: u64 = parts.iter().map(|part| part.rows).sum();
        if !is_of_this_snapshot || count_rows(catalog, found, oid, target)? != known {
            let numbers = parts.iter().filter_map(|done| done.part.as_ref());
            stale.insert(oid, numbers.map(|part| part.number).collect());
        }
    }
    Ok(stale)
}

fn count_rows(catalog: &Catalog, found: &Target, oid: Oid, target: &mut Connection) -> Result<u64> {
    let table = catalog.table(oid);
    let there = table.and_then(|table| found.table(&table.schema, &table.name));
    let (Some(table), Some(there)) = (table, there) else {
        return Ok(0);
    };
    let only = match there.kind {
        TargetKind::Partitioned => "",
        _ => "ONLY ",
    };
    target
        .query_one(&format!(
            "SELECT count(*) FROM {only}{}",
            table.qualified_name()
        ))
        .with_context(|| {
            format!(
                "could not count the rows of table {}",
                table.qualified_name()
            )
        })?
        .parse(0)
}
