//! Tables with their columns and split keys: three ordered streams, merged by table oid.

use crate::error::Result;
use crate::ident::Oid;
use crate::pg::wire::{Connection, Row};

use super::{FetchOptions, boxed, opt_boxed, persistence, unknown};
use crate::catalog::objects::{Column, SplitKey, Table, TableKind};
use crate::catalog::queries;

pub(super) fn fetch(
    source: &mut Connection,
    version: u32,
    options: &FetchOptions,
) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    source.query_each(&queries::tables(version, options), &mut |row| {
        tables.push(read_table(row)?);
        Ok(())
    })?;
    fetch_columns(source, version, &mut tables)?;
    source.query_each(&queries::split_keys(version), &mut |row| {
        if let Some(table) = find(&mut tables, row.parse(0)?) {
            table.split_key = Some(SplitKey {
                column: boxed(row, 1)?,
                type_oid: row.parse(2)?,
            });
        }
        Ok(())
    })?;
    Ok(tables)
}

fn read_table(row: &Row) -> Result<Table> {
    let kind = match row.text(3)? {
        "r" => TableKind::Ordinary,
        "p" => TableKind::Partitioned,
        other => return Err(unknown("relkind", other)),
    };
    // A configuration table without a condition has an empty one.
    let extension_config = if row.bool(14)? {
        Some(row.opt_text(15)?.unwrap_or("").into())
    } else {
        None
    };
    Ok(Table {
        oid: row.parse(0)?,
        schema: boxed(row, 1)?,
        name: boxed(row, 2)?,
        kind,
        persistence: persistence(row, 4)?,
        relfilenode: row.parse(5)?,
        bytes: row.parse(6)?,
        pages: row.parse(7)?,
        row_estimate: row.opt_parse(8)?,
        columns: Box::default(),
        has_generated: false,
        split_key: None,
        is_heap: row.bool(9)?,
        has_row_security: row.bool(10)?,
        partition_of: row.opt_parse(11)?,
        owner: boxed(row, 12)?,
        tablespace: opt_boxed(row, 13)?,
        extension_config,
        rows_left_out: false,
    })
}

/// Columns arrive table by table, so one table's are gathered and then stored without spare room.
fn fetch_columns(source: &mut Connection, version: u32, tables: &mut [Table]) -> Result<()> {
    let mut gathered: Vec<Column> = Vec::new();
    let mut current: Oid = 0;
    let mut has_generated = false;
    let mut store = |oid: Oid, columns: &mut Vec<Column>, has_generated: &mut bool| {
        if let Some(table) = find(tables, oid) {
            table.columns = columns.drain(..).collect();
            table.has_generated = *has_generated;
        }
        columns.clear();
        *has_generated = false;
    };
    source.query_each(&queries::columns(version), &mut |row| {
        let oid = row.parse(0)?;
        if oid != current {
            store(current, &mut gathered, &mut has_generated);
            current = oid;
        }
        if row.bool(4)? {
            has_generated = true;
        } else {
            gathered.push(Column {
                attnum: row.parse(1)?,
                name: boxed(row, 2)?,
                type_oid: row.parse(3)?,
            });
        }
        Ok(())
    })?;
    store(current, &mut gathered, &mut has_generated);
    Ok(())
}

/// The tables arrived in order of their oid.
fn find(tables: &mut [Table], oid: Oid) -> Option<&mut Table> {
    let at = tables.binary_search_by_key(&oid, |table| table.oid).ok()?;
    tables.get_mut(at)
}
