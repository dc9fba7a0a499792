//! The indexes that we build ourselves, and what their archive entries carry besides CREATE INDEX.

use std::collections::HashMap;

use log::warn;

use crate::error::Result;
use crate::ident::Oid;
use crate::pg::wire::{Connection, Row};

use super::{boxed, opt_boxed, unknown};
use crate::catalog::objects::{Catalog, Constraint, ConstraintKind, Index};
use crate::catalog::queries;

/// Indexes of the tables in `catalog` whose rows we copy. Others stay in post-data: nobody would queue them.
pub(super) fn fetch(
    source: &mut Connection,
    version: u32,
    catalog: &Catalog,
) -> Result<Vec<Index>> {
    let mut statistics = fetch_statistics(source, version)?;
    let mut extensions = fetch_extensions(source)?;
    let mut indexes = Vec::new();
    source.query_each(&queries::indexes(version), &mut |row| {
        let is_ours = catalog
            .table(row.parse(0)?)
            .is_some_and(|table| table.holds_rows(catalog.is_standby));
        if !is_ours {
            return Ok(());
        }
        // pg_get_indexdef looks past the snapshot: of an index dropped since, nothing is left to copy.
        let Some(definition) = row.opt_text(5)? else {
            let name = row.text(2)?;
            warn!(
                "index \"{name}\" was dropped on the source while it was being read, skipping it"
            );
            return Ok(());
        };
        let mut index = read_index(row, definition)?;
        if let Some(targets) = statistics.remove(&index.oid) {
            index.column_statistics = targets.into();
        }
        if let Some(names) = extensions.remove(&index.oid) {
            index.depends_on_extensions = names.into();
        }
        indexes.push(index);
        Ok(())
    })?;
    Ok(indexes)
}

fn read_index(row: &Row, definition: &str) -> Result<Index> {
    Ok(Index {
        table: row.parse(0)?,
        oid: row.parse(1)?,
        name: boxed(row, 2)?,
        is_unique: row.bool(3)?,
        is_primary: row.bool(4)?,
        definition: definition.into(),
        constraint: read_constraint(row)?.map(Box::new),
        is_clustered: row.bool(6)?,
        is_replica_identity: row.bool(7)?,
        column_statistics: Box::default(),
        depends_on_extensions: Box::default(),
        tablespace: opt_boxed(row, 8)?,
    })
}

fn read_constraint(row: &Row) -> Result<Option<Constraint>> {
    let Some(oid) = row.opt_parse(9)? else {
        return Ok(None);
    };
    let kind = match row.text(11)? {
        "p" => ConstraintKind::PrimaryKey,
        "u" => ConstraintKind::Unique,
        other => return Err(unknown("contype", other)),
    };
    Ok(Some(Constraint {
        oid,
        name: boxed(row, 10)?,
        kind,
        is_deferrable: row.bool(12)?,
        is_deferred: row.bool(13)?,
    }))
}

fn fetch_statistics(
    source: &mut Connection,
    version: u32,
) -> Result<HashMap<Oid, Vec<(i16, i32)>>> {
    let mut found: HashMap<Oid, Vec<(i16, i32)>> = HashMap::new();
    if version >= 11_00_00 {
        source.query_each(queries::INDEX_STATISTICS, &mut |row| {
            let targets = found.entry(row.parse(0)?).or_default();
            targets.push((row.parse(1)?, row.parse(2)?));
            Ok(())
        })?;
    }
    Ok(found)
}

fn fetch_extensions(source: &mut Connection) -> Result<HashMap<Oid, Vec<Box<str>>>> {
    let mut found: HashMap<Oid, Vec<Box<str>>> = HashMap::new();
    source.query_each(queries::INDEX_EXTENSIONS, &mut |row| {
        found.entry(row.parse(0)?).or_default().push(boxed(row, 1)?);
        Ok(())
    })?;
    Ok(found)
}
