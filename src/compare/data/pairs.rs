//! Which table is compared with which, and by which columns. Pure: two catalogs in, pairs out.

use std::collections::{HashMap, HashSet};

use crate::catalog::{Catalog, Table, TableKind};
use crate::ident::{Oid, QualifiedName};

/// A column that both have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairedColumn {
    pub name: Box<str>,
    /// Where it is the same on both sides; user-defined types have other OIDs there.
    pub type_oid: Option<Oid>,
}

/// How one side's rows are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SideTable {
    /// Zero where there is no such table.
    pub oid: Oid,
    /// As the snapshot sees it. TRUNCATE and rewrites are not MVCC-safe: with another one the rows of the snapshot are gone.
    pub relfilenode: Oid,
    /// Rows of the table alone; a partitioned one is read with its partitions.
    pub is_only: bool,
    pub bytes: u64,
    pub pages: u64,
    pub has_ctid_ranges: bool,
}

/// Why there is nothing to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    MissingOnTarget,
    OnlyOnTarget,
    /// The columns differ, in these words.
    Columns(String),
}

/// What its rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    Rows,
    LargeObjects,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub name: QualifiedName,
    pub contents: Contents,
    pub source: SideTable,
    pub target: SideTable,
    pub columns: Vec<PairedColumn>,
    /// The `WHERE ..` of an extension's configuration table: its other rows come from CREATE EXTENSION.
    pub condition: Option<Box<str>>,
    /// Columns that identify a row; none, where there is no such key.
    pub key: Vec<Box<str>>,
    /// An integer key that ranges can be made of.
    pub split_column: Option<Box<str>>,
    pub obstacle: Option<Obstacle>,
}

/// TID range scans exist since 14.
const CTID_RANGES_SINCE: u32 = 140_000;

/// Every table of the source with its counterpart, and what only the target has. What the filters leave out may be there or
/// not. Partitions of a table that is plain on the other side are compared with it, as its rows.
pub fn pair(
    source: &Catalog,
    target: &Catalog,
    filtered_out: &HashSet<QualifiedName>,
) -> Vec<Pair> {
    let (ours, theirs) = (by_name(source), by_name(target));
    let find = |tables: &TablesByName<'_>, table: &Table| -> Option<TableKind> {
        let found = tables.get(&(&*table.schema, &*table.name));
        found.map(|found| found.kind)
    };
    let mut pairs = Vec::new();
    for table in &source.tables {
        let other = theirs.get(&(&*table.schema, &*table.name)).copied();
        let is_plain_there = |above: &Table| find(&theirs, above) == Some(TableKind::Ordinary);
        match other {
            // Its partitions are compared, or their rows with those of a plain table.
            _ if table.kind == TableKind::Partitioned
                && other.is_none_or(|other| other.kind == TableKind::Partitioned) => {}
            None if is_part_of(table, source, &is_plain_there) => {}
            _ if !is_readable(table, source) => {}
            Some(other) if !is_readable(other, target) => {}
            other => pairs.push(pair_of((table, source), other.map(|other| (other, target)))),
        }
    }
    for table in &target.tables {
        let is_comparable = table.kind == TableKind::Ordinary && table.extension_config.is_none();
        let is_left_out = |table: &Table| filtered_out.contains(&table.qualified_name());
        let is_known = find(&ours, table).is_some() || is_left_out(table);
        let is_plain_here =
            |above: &Table| find(&ours, above) == Some(TableKind::Ordinary) || is_left_out(above);
        if is_comparable && !is_known && !is_part_of(table, target, &is_plain_here) {
            pairs.push(Pair {
                obstacle: Some(Obstacle::OnlyOnTarget),
                ..pair_of((table, target), None)
            });
        }
    }
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    pairs
}

type TablesByName<'c> = HashMap<(&'c str, &'c str), &'c Table>;

fn by_name(catalog: &Catalog) -> TablesByName<'_> {
    let tables = catalog.tables.iter();
    tables
        .map(|table| ((&*table.schema, &*table.name), table))
        .collect()
}

/// Whether this is so of a table that it is a partition of, on whatever level.
fn is_part_of(table: &Table, catalog: &Catalog, is_so: &dyn Fn(&Table) -> bool) -> bool {
    let mut above = table.partition_of;
    while let Some(parent) = above.and_then(|oid| catalog.table(oid)) {
        if is_so(parent) {
            return true;
        }
        above = parent.partition_of;
    }
    false
}

/// On a standby there are no rows of unlogged tables.
fn is_readable(table: &Table, catalog: &Catalog) -> bool {
    table.kind == TableKind::Partitioned || table.holds_rows(catalog.is_standby)
}

fn pair_of((ours, source): (&Table, &Catalog), other: Option<(&Table, &Catalog)>) -> Pair {
    let obstacle = match other {
        None => Some(Obstacle::MissingOnTarget),
        Some((theirs, _)) => columns_differ(ours, theirs).map(Obstacle::Columns),
    };
    Pair {
        name: ours.qualified_name(),
        contents: Contents::Rows,
        source: side(ours, source),
        target: other.map_or(SideTable::default(), |(table, catalog)| {
            side(table, catalog)
        }),
        columns: columns(ours, other.map(|(table, _)| table)),
        condition: ours.extension_config.clone(),
        key: Vec::new(),
        split_column: ours.split_key.as_ref().map(|key| key.column.clone()),
        obstacle,
    }
}

fn side(table: &Table, catalog: &Catalog) -> SideTable {
    let is_only = table.kind == TableKind::Ordinary;
    SideTable {
        oid: table.oid,
        relfilenode: table.relfilenode,
        is_only,
        bytes: table.bytes,
        pages: table.pages,
        has_ctid_ranges: is_only && table.is_heap && catalog.server_version >= CTID_RANGES_SINCE,
    }
}

/// In the order of whichever side tells them: a partitioned table's are not in the catalog.
fn columns(ours: &Table, theirs: Option<&Table>) -> Vec<PairedColumn> {
    let (first, second) = match ours.kind {
        TableKind::Ordinary => (Some(ours), theirs),
        TableKind::Partitioned => (theirs, None),
    };
    let type_on_other = |name: &str| {
        let mut columns = second?.columns.iter();
        columns
            .find(|column| &*column.name == name)
            .map(|column| column.type_oid)
    };
    first
        .map_or(&[][..], |table| &table.columns)
        .iter()
        .map(|column| PairedColumn {
            name: column.name.clone(),
            type_oid: Some(column.type_oid)
                .filter(|oid| type_on_other(&column.name).is_none_or(|other| other == *oid)),
        })
        .collect()
}

/// In words, what one has and the other has not.
fn columns_differ(ours: &Table, theirs: &Table) -> Option<String> {
    if ours.kind == TableKind::Partitioned || theirs.kind == TableKind::Partitioned {
        return None;
    }
    let lacks = |table: &Table, other: &Table| -> Vec<String> {
        let has = |name: &str| table.columns.iter().any(|column| &*column.name == name);
        let names = other.columns.iter().map(|column| &*column.name);
        names
            .filter(|name| !has(name))
            .map(crate::ident::quote_ident)
            .collect()
    };
    let (missing, extra) = (lacks(theirs, ours), lacks(ours, theirs));
    let words = [
        ("missing on the target", missing),
        ("only on the target", extra),
    ];
    let words: Vec<String> = words
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect();
    (!words.is_empty()).then(|| format!("columns {}", words.join("; ")))
}

/// Large objects as a table of their own, where there are any.
pub fn large_objects(source: &Catalog, target: &Catalog) -> Option<Pair> {
    if source.large_objects.count + target.large_objects.count == 0 {
        return None;
    }
    Some(Pair {
        name: QualifiedName::new("pg_catalog", "pg_largeobject"),
        contents: Contents::LargeObjects,
        source: SideTable {
            bytes: source.large_objects.bytes,
            ..SideTable::default()
        },
        target: SideTable {
            bytes: target.large_objects.bytes,
            ..SideTable::default()
        },
        columns: Vec::new(),
        condition: None,
        key: vec!["oid".into()],
        split_column: None,
        obstacle: None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Obstacle, pair};
    use crate::catalog::objects::tests::{catalog, table};
    use crate::catalog::{Catalog, Table, TableKind};
    use crate::ident::QualifiedName;

    /// Partitioned by two levels: t, t_low below it, t_0 below that, and t_10.
    fn partitioned() -> Catalog {
        let of = |oid, name: &str, partition_of, kind| Table {
            oid,
            kind,
            partition_of,
            ..table("s", name, &["a"])
        };
        let tables = vec![
            of(1, "t", None, TableKind::Partitioned),
            of(2, "t_low", Some(1), TableKind::Partitioned),
            of(3, "t_0", Some(2), TableKind::Ordinary),
            of(4, "t_10", Some(1), TableKind::Ordinary),
        ];
        catalog(tables, Vec::new())
    }

    fn plain(names: &[&str]) -> Catalog {
        let tables = names.iter().enumerate().map(|(at, name)| Table {
            oid: at as u32 + 1,
            ..table("s", name, &["a"])
        });
        catalog(tables.collect(), Vec::new())
    }

    fn pairs(
        source: &Catalog,
        target: &Catalog,
        left_out: &[&str],
    ) -> Vec<(String, Option<Obstacle>)> {
        let left_out: HashSet<QualifiedName> = left_out
            .iter()
            .map(|name| QualifiedName::new("s", *name))
            .collect();
        pair(source, target, &left_out)
            .into_iter()
            .map(|pair| (pair.name.name.to_string(), pair.obstacle))
            .collect()
    }

    #[test]
    fn partitions_of_what_is_plain_on_the_other_side_are_its_rows() {
        let t = ("t".to_owned(), None);
        let only = |name: &str| (name.to_owned(), Some(Obstacle::OnlyOnTarget));
        let missing = |name: &str| (name.to_owned(), Some(Obstacle::MissingOnTarget));
        let found = pairs(&partitioned(), &plain(&["t", "u"]), &[]);
        assert_eq!(found, [t.clone(), only("u")]);
        let found = pairs(&plain(&["t", "u"]), &partitioned(), &[]);
        assert_eq!(found, [t, missing("u")]);
        // One level alone.
        let found = pairs(&partitioned(), &plain(&["t_low"]), &[]);
        assert_eq!(found, [missing("t_10"), ("t_low".to_owned(), None)]);
        // Nobody has them, or the filters leave them out.
        let found = pairs(&plain(&[]), &partitioned(), &[]);
        assert_eq!(found, [only("t_0"), only("t_10")]);
        assert_eq!(pairs(&plain(&[]), &partitioned(), &["t"]), []);
    }

    #[test]
    fn partitions_are_compared_one_by_one_where_both_have_them() {
        let found = pairs(&partitioned(), &partitioned(), &[]);
        assert_eq!(found, [("t_0".to_owned(), None), ("t_10".to_owned(), None)]);
    }
}
