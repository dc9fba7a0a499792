//! What the target has at this moment: to know what may be truncated, what a killed run left half-made, and what is
//! missing before anything starts. Fetched in bulk by the parent, and thrown away after the checks.
//!
//! Must not be trusted later: the user may change the target in between, so a worker asks again about its own table.

use std::collections::HashSet;

use crate::error::{Context, Result};
use crate::ident::{Oid, QualifiedName};
use crate::pg::wire::{Connection, Row};

use super::fetch::{boxed, fetch_names, opt_boxed, query_each_unlocked, unknown};
use super::objects::Catalog;
use super::queries;

/// Tables looked into in one statement.
const ROWS_BATCH: usize = 200;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Ordered by schema and name.
    tables: Vec<TargetTable>,
    /// Ordered by schema and name.
    indexes: Vec<TargetIndex>,
    /// Ordered by name.
    pub extensions: Vec<TargetExtension>,
    pub roles: HashSet<Box<str>>,
    pub tablespaces: HashSet<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    Ordinary,
    Partitioned,
    Foreign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTable {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    pub kind: TargetKind,
    /// False proves that it is empty; true says nothing (see `fetch_tables_with_rows`).
    pub may_have_rows: bool,
    /// We have the TRUNCATE privilege, and no foreign key of another table is in the way.
    pub can_truncate: bool,
    pub columns: Box<[Box<str>]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetIndex {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    /// The table's name, in the same schema.
    pub table: Box<str>,
    /// False after a CREATE INDEX CONCURRENTLY or REINDEX that did not end.
    pub is_valid: bool,
    pub constraint: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetExtension {
    pub name: Box<str>,
    pub default_version: Option<Box<str>>,
    pub installed_version: Option<Box<str>>,
}

impl Target {
    pub fn tables(&self) -> &[TargetTable] {
        &self.tables
    }

    pub fn table(&self, schema: &str, name: &str) -> Option<&TargetTable> {
        let at = self
            .tables
            .binary_search_by(|table| (&*table.schema, &*table.name).cmp(&(schema, name)));
        self.tables.get(at.ok()?)
    }

    pub fn indexes(&self) -> &[TargetIndex] {
        &self.indexes
    }

    pub fn index(&self, schema: &str, name: &str) -> Option<&TargetIndex> {
        let at = self
            .indexes
            .binary_search_by(|index| (&*index.schema, &*index.name).cmp(&(schema, name)));
        self.indexes.get(at.ok()?)
    }

    pub fn extension(&self, name: &str) -> Option<&TargetExtension> {
        let at = self
            .extensions
            .binary_search_by(|extension| (*extension.name).cmp(name));
        self.extensions.get(at.ok()?)
    }

    /// Done here and not in SQL: the server would order by its own collation, and the look-ups by bytes.
    fn put_in_order(&mut self) {
        self.tables
            .sort_unstable_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        self.indexes
            .sort_unstable_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        self.extensions.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    }
}

impl TargetTable {
    pub fn qualified_name(&self) -> QualifiedName {
        QualifiedName::new(&*self.schema, &*self.name)
    }

    /// The SELECT that finds out whether there is a row. A foreign table's rows are elsewhere, but COPY would add to
    /// them all the same.
    fn has_row_sql(&self) -> String {
        let only = match self.kind {
            TargetKind::Ordinary => "ONLY ",
            TargetKind::Partitioned | TargetKind::Foreign => "",
        };
        format!(
            "SELECT {}::oid WHERE EXISTS (SELECT FROM {only}{})",
            self.oid,
            self.qualified_name()
        )
    }
}

impl TargetIndex {
    pub fn qualified_name(&self) -> QualifiedName {
        QualifiedName::new(&*self.schema, &*self.name)
    }
}

/// Everything there is in the target, on a connection with `search_path = pg_catalog`.
pub fn fetch(target: &mut Connection) -> Result<Target> {
    let mut found = Target {
        tables: fetch_tables(target).context("could not list the tables of the target")?,
        indexes: fetch_indexes(target).context("could not list the indexes of the target")?,
        extensions: fetch_extensions(target)
            .context("could not list the extensions of the target")?,
        roles: fetch_names(target, queries::TARGET_ROLES, "roles")?
            .into_iter()
            .collect(),
        tablespaces: fetch_names(target, queries::TARGET_TABLESPACES, "tablespaces")?
            .into_iter()
            .collect(),
    };
    found.put_in_order();
    Ok(found)
}

/// Which of these tables have a row that this connection sees. Tables proven empty are not asked.
pub fn fetch_tables_with_rows(
    target: &mut Connection,
    tables: &[&TargetTable],
) -> Result<HashSet<Oid>> {
    let mut with_rows = HashSet::new();
    let selects: Vec<String> = tables
        .iter()
        .filter(|table| table.may_have_rows)
        .map(|table| table.has_row_sql())
        .collect();
    for batch in selects.chunks(ROWS_BATCH) {
        query_each_unlocked(target, &batch.join(" UNION ALL "), &mut |row| {
            with_rows.insert(row.parse(0)?);
            Ok(())
        })
        .context("could not look for rows in the tables of the target")?;
    }
    Ok(with_rows)
}

/// The configuration tables of extensions that hold rows of a user already: rows that our COPY would replace are not ours.
pub fn fetch_filled_config_tables(
    target: &mut Connection,
    catalog: &Catalog,
    found: &Target,
) -> Result<Vec<String>> {
    let mut filled = Vec::new();
    for table in &catalog.tables {
        let name = table.qualified_name();
        let (Some(condition), Some(there)) = (
            &table.extension_config,
            found.table(&table.schema, &table.name),
        ) else {
            continue;
        };
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {name} {condition})");
        if there.may_have_rows && target.query_one(&sql)?.bool(0)? {
            filled.push(name.to_string());
        }
    }
    Ok(filled)
}

fn fetch_tables(target: &mut Connection) -> Result<Vec<TargetTable>> {
    let mut tables = Vec::new();
    target.query_each(&queries::target_tables(), &mut |row| {
        tables.push(read_table(row)?);
        Ok(())
    })?;
    let mut current: Oid = 0;
    let mut gathered: Vec<Box<str>> = Vec::new();
    let mut store = |oid: Oid, columns: &mut Vec<Box<str>>| {
        if let Ok(at) = tables.binary_search_by_key(&oid, |table| table.oid) {
            tables[at].columns = columns.drain(..).collect();
        }
        columns.clear();
    };
    target.query_each(&queries::target_columns(), &mut |row| {
        let oid = row.parse(0)?;
        if oid != current {
            store(current, &mut gathered);
            current = oid;
        }
        gathered.push(boxed(row, 1)?);
        Ok(())
    })?;
    store(current, &mut gathered);
    Ok(tables)
}

fn read_table(row: &Row) -> Result<TargetTable> {
    let kind = match row.text(3)? {
        "r" => TargetKind::Ordinary,
        "p" => TargetKind::Partitioned,
        "f" => TargetKind::Foreign,
        other => return Err(unknown("relkind", other)),
    };
    Ok(TargetTable {
        oid: row.parse(0)?,
        schema: boxed(row, 1)?,
        name: boxed(row, 2)?,
        kind,
        may_have_rows: row.bool(4)?,
        can_truncate: row.bool(5)?,
        columns: Box::default(),
    })
}

fn fetch_indexes(target: &mut Connection) -> Result<Vec<TargetIndex>> {
    let mut indexes = Vec::new();
    target.query_each(&queries::target_indexes(), &mut |row| {
        indexes.push(TargetIndex {
            schema: boxed(row, 0)?,
            name: boxed(row, 1)?,
            table: boxed(row, 2)?,
            oid: row.parse(3)?,
            is_valid: row.bool(4)?,
            constraint: opt_boxed(row, 5)?,
        });
        Ok(())
    })?;
    Ok(indexes)
}

fn fetch_extensions(target: &mut Connection) -> Result<Vec<TargetExtension>> {
    let mut extensions = Vec::new();
    target.query_each(queries::TARGET_EXTENSIONS, &mut |row| {
        extensions.push(TargetExtension {
            name: boxed(row, 0)?,
            default_version: opt_boxed(row, 1)?,
            installed_version: opt_boxed(row, 2)?,
        });
        Ok(())
    })?;
    Ok(extensions)
}

#[cfg(test)]
mod tests {
    use super::{Target, TargetKind, TargetTable};

    fn table(schema: &str, name: &str, kind: TargetKind) -> TargetTable {
        TargetTable {
            oid: 7,
            schema: schema.into(),
            name: name.into(),
            kind,
            may_have_rows: true,
            can_truncate: true,
            columns: Box::default(),
        }
    }

    #[test]
    fn finds_tables_by_name() {
        let mut target = Target {
            tables: vec![
                table("b", "x", TargetKind::Ordinary),
                table("a", "y", TargetKind::Foreign),
                table("B", "x", TargetKind::Partitioned),
            ],
            ..Target::default()
        };
        target.put_in_order();
        let kind = |schema, name| target.table(schema, name).map(|table| table.kind);
        assert_eq!(kind("b", "x"), Some(TargetKind::Ordinary));
        assert_eq!(kind("B", "x"), Some(TargetKind::Partitioned));
        assert_eq!(kind("a", "y"), Some(TargetKind::Foreign));
        assert_eq!(kind("a", "x"), None);
    }

    // #33, #949: the children of a table are looked into on their own, those of a partitioned one hold its rows.
    #[test]
    fn looks_for_rows_where_they_are() {
        assert_eq!(
            table("a", "T\"", TargetKind::Ordinary).has_row_sql(),
            r#"SELECT 7::oid WHERE EXISTS (SELECT FROM ONLY "a"."T""")"#
        );
        assert_eq!(
            table("a", "t", TargetKind::Partitioned).has_row_sql(),
            r#"SELECT 7::oid WHERE EXISTS (SELECT FROM "a"."t")"#
        );
    }
}
