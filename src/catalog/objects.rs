//! The types of the catalog, as fetched and as kept in `schema.json`. Plain data, in whichever process inherited it.
//!
//! A database may have 50,000 tables and 100,000 indexes, and every worker inherits this: names are `Box<str>`, and
//! nothing is stored twice (an index is always in the schema of its table, so it has no schema of its own).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::ident::{Oid, QualifiedName};

/// Everything we know of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    pub database: Database,
    /// As `server_version_num`: 150020 is 15.20.
    pub server_version: u32,
    /// The source is a standby: rows of unlogged tables are not there.
    pub is_standby: bool,
    /// Ordered by oid.
    pub tables: Vec<Table>,
    /// Ordered by table, then by oid. Only indexes that we build ourselves.
    pub indexes: Vec<Index>,
    pub sequences: Vec<Sequence>,
    pub extensions: Vec<Extension>,
    pub large_objects: LargeObjects,
    /// Roles that something in this database needs, by name.
    pub roles: Vec<RoleInUse>,
    /// Names of tablespaces that something in this database was put into, ordered.
    pub tablespaces: Vec<Box<str>>,
    /// Positions in `indexes`, ordered by index oid.
    #[serde(skip)]
    pub(super) index_positions: Vec<u32>,
}

/// What a role is needed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleInUse {
    pub name: Box<str>,
    /// It owns something.
    pub owns: bool,
    /// It was granted something, or has default privileges.
    pub is_granted: bool,
    /// By a policy or a user mapping.
    pub is_named: bool,
}

impl RoleInUse {
    #[cfg(test)]
    pub fn owner(name: &str) -> RoleInUse {
        RoleInUse {
            name: name.into(),
            owns: true,
            is_granted: false,
            is_named: false,
        }
    }

    /// Whether it must be on the target, with what is left out there.
    pub fn is_needed(&self, no_owner: bool, no_acl: bool) -> bool {
        self.owns && !no_owner || self.is_granted && !no_acl || self.is_named
    }
}

impl Catalog {
    pub fn table(&self, oid: Oid) -> Option<&Table> {
        let at = self.tables.binary_search_by_key(&oid, |table| table.oid);
        self.tables.get(at.ok()?)
    }

    pub fn index(&self, oid: Oid) -> Option<&Index> {
        let at = self
            .index_positions
            .binary_search_by_key(&oid, |at| self.indexes[*at as usize].oid)
            .ok()?;
        self.indexes.get(self.index_positions[at] as usize)
    }

    /// The indexes that we build on this table.
    pub fn indexes_of(&self, table: Oid) -> &[Index] {
        let start = self.indexes.partition_point(|index| index.table < table);
        let end = self.indexes.partition_point(|index| index.table <= table);
        &self.indexes[start..end]
    }

    /// Tables whose rows can be read here: partitioned parents have none, and on a standby unlogged tables neither.
    pub fn tables_to_copy(&self) -> impl Iterator<Item = &Table> {
        self.tables
            .iter()
            .filter(|table| table.holds_rows(self.is_standby))
    }

    /// Take out what a filter leaves out, and the indexes of tables that stay without rows: post-data makes those.
    pub fn leave_out(
        &mut self,
        is_relation: &dyn Fn(Oid) -> bool,
        is_constraint: &dyn Fn(Oid) -> bool,
        without_rows: &HashSet<Oid>,
    ) {
        self.tables.retain(|table| !is_relation(table.oid));
        for table in &mut self.tables {
            table.rows_left_out = without_rows.contains(&table.oid);
        }
        let builds = |table: Oid| {
            let at = self.tables.binary_search_by_key(&table, |table| table.oid);
            at.is_ok_and(|at| !self.tables[at].rows_left_out)
        };
        self.indexes.retain(|index| {
            let constraint = index.constraint.as_ref();
            builds(index.table)
                && !is_relation(index.oid)
                && !constraint.is_some_and(|constraint| is_constraint(constraint.oid))
        });
        self.sequences.retain(|sequence| !is_relation(sequence.oid));
        self.put_in_order();
    }

    /// What this has and the other has not, or has without its rows.
    pub fn without(mut self, other: &Catalog) -> Catalog {
        let is_kept = |table: &Table| other.table(table.oid).is_some_and(|it| !it.rows_left_out);
        self.tables.retain(|table| !is_kept(table));
        self.indexes
            .retain(|index| other.index(index.oid).is_none());
        let kept: HashSet<Oid> = other.sequences.iter().map(|it| it.oid).collect();
        self.sequences
            .retain(|sequence| !kept.contains(&sequence.oid));
        self.put_in_order();
        self
    }

    /// Establish the orders that the look-ups rely on.
    pub(super) fn put_in_order(&mut self) {
        self.tables.sort_unstable_by_key(|table| table.oid);
        self.indexes
            .sort_unstable_by_key(|index| (index.table, index.oid));
        self.index_positions = (0..self.indexes.len() as u32).collect();
        self.index_positions
            .sort_unstable_by_key(|at| self.indexes[*at as usize].oid);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// Holds rows of its own: also a partition, and a parent by inheritance.
    Ordinary,
    /// Holds none; listed because ANALYZE of the parent is ours to do.
    Partitioned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    Permanent,
    Unlogged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    pub kind: TableKind,
    pub persistence: Persistence,
    /// As the snapshot sees it. TRUNCATE and rewrites are not MVCC-safe: another number at COPY time means that the
    /// rows of the snapshot are gone.
    pub relfilenode: Oid,
    /// Heap and TOAST; from `relpages` when sizes are only estimated.
    pub bytes: u64,
    /// Pages of the heap's main fork.
    pub pages: u64,
    /// `None` when the table was never analyzed.
    pub row_estimate: Option<u64>,
    /// What COPY carries, in order of attnum: neither dropped nor generated columns. Empty for partitioned parents.
    pub columns: Box<[Column]>,
    pub has_generated: bool,
    pub split_key: Option<SplitKey>,
    /// Whether CTID ranges mean something.
    pub is_heap: bool,
    pub has_row_security: bool,
    /// The table that it is a partition of.
    #[serde(default)]
    pub partition_of: Option<Oid>,
    pub owner: Box<str>,
    /// `None` is the database's default.
    pub tablespace: Option<Box<str>>,
    /// A configuration table of an extension: the `WHERE ..` (or nothing) that chooses the user's rows in it. Its
    /// other rows come from CREATE EXTENSION, so the target's table is never truncated.
    pub extension_config: Option<Box<str>>,
    /// A filter keeps the table and not its rows.
    #[serde(default)]
    pub rows_left_out: bool,
}

impl Table {
    pub fn qualified_name(&self) -> QualifiedName {
        QualifiedName::new(&*self.schema, &*self.name)
    }

    /// Whether there are rows to read.
    pub fn holds_rows(&self, is_standby: bool) -> bool {
        if self.rows_left_out {
            return false;
        }
        match (self.kind, self.persistence) {
            (TableKind::Partitioned, _) => false,
            (TableKind::Ordinary, Persistence::Permanent) => true,
            (TableKind::Ordinary, Persistence::Unlogged) => !is_standby,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub attnum: i16,
    pub name: Box<str>,
    pub type_oid: Oid,
}

/// A NOT NULL integer column with a unique index of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitKey {
    pub column: Box<str>,
    pub type_oid: Oid,
}

/// An index that we build: of an ordinary table of the user, valid, and no exclusion or WITHOUT OVERLAPS constraint's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub oid: Oid,
    /// The table's oid; the index is in the table's schema.
    pub table: Oid,
    pub name: Box<str>,
    pub is_unique: bool,
    pub is_primary: bool,
    /// `pg_get_indexdef`, which says nothing about the tablespace.
    pub definition: Box<str>,
    pub constraint: Option<Box<Constraint>>,
    pub is_clustered: bool,
    pub is_replica_identity: bool,
    /// (attnum, statistics target) where one was set.
    pub column_statistics: Box<[(i16, i32)]>,
    /// Extensions that take the index with them when dropped (ALTER INDEX .. DEPENDS ON EXTENSION).
    pub depends_on_extensions: Box<[Box<str>]>,
    pub tablespace: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    pub oid: Oid,
    pub name: Box<str>,
    pub kind: ConstraintKind,
    pub is_deferrable: bool,
    pub is_deferred: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConstraintKind {
    PrimaryKey,
    Unique,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    /// Since 15; not readable on a standby.
    pub persistence: Persistence,
}

impl Sequence {
    pub fn qualified_name(&self) -> QualifiedName {
        QualifiedName::new(&*self.schema, &*self.name)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub oid: Oid,
    pub name: Box<str>,
    pub schema: Box<str>,
    pub version: Box<str>,
    /// Extensions that must be there before, ordered by name: it is said to need them, or its schema is of theirs.
    pub requires: Box<[Box<str>]>,
    /// Its schema is a part of it, and comes with it.
    pub makes_schema: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObjects {
    pub count: u64,
    /// The size of the catalog table that holds them.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    pub oid: Oid,
    pub name: Box<str>,
    pub owner: Box<str>,
    /// As PostgreSQL names it: `UTF8`, `SQL_ASCII`, ...
    pub encoding: Box<str>,
    pub collate: Box<str>,
    pub ctype: Box<str>,
    /// `c` libc, `i` ICU, `b` builtin.
    pub locale_provider: char,
    /// The ICU or builtin locale.
    pub locale: Option<Box<str>>,
    pub settings: Vec<DatabaseSetting>,
}

/// ALTER DATABASE .. SET, or ALTER ROLE .. IN DATABASE .. SET.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSetting {
    pub role: Option<Box<str>>,
    pub name: Box<str>,
    /// As stored: a list of names is quoted already.
    pub value: Box<str>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        Catalog, Column, Database, Index, LargeObjects, Persistence, Sequence, Table, TableKind,
    };

    /// An ordinary table with int4 columns.
    pub(crate) fn table(schema: &str, name: &str, columns: &[&str]) -> Table {
        let columns = columns.iter().enumerate().map(|(at, name)| Column {
            attnum: at as i16 + 1,
            name: (*name).into(),
            type_oid: 23,
        });
        Table {
            oid: 16_384,
            schema: schema.into(),
            name: name.into(),
            kind: TableKind::Ordinary,
            persistence: Persistence::Permanent,
            relfilenode: 16_384,
            bytes: 0,
            pages: 0,
            row_estimate: None,
            columns: columns.collect(),
            has_generated: false,
            split_key: None,
            is_heap: true,
            has_row_security: false,
            partition_of: None,
            owner: "postgres".into(),
            tablespace: None,
            extension_config: None,
            rows_left_out: false,
        }
    }

    pub(crate) fn index(name: &str) -> Index {
        Index {
            oid: 16_390,
            table: 16_384,
            name: name.into(),
            is_unique: true,
            is_primary: false,
            definition: "CREATE UNIQUE INDEX i ON public.t USING btree (a)".into(),
            constraint: None,
            is_clustered: false,
            is_replica_identity: false,
            column_statistics: Box::new([]),
            depends_on_extensions: Box::new([]),
            tablespace: None,
        }
    }

    pub(crate) fn catalog(tables: Vec<Table>, indexes: Vec<Index>) -> Catalog {
        let mut catalog = Catalog {
            database: Database {
                oid: 5,
                name: "app".into(),
                owner: "app".into(),
                encoding: "UTF8".into(),
                collate: "C".into(),
                ctype: "C".into(),
                locale_provider: 'c',
                locale: None,
                settings: Vec::new(),
            },
            server_version: 150_020,
            is_standby: false,
            tables,
            indexes,
            sequences: vec![Sequence {
                oid: 77,
                schema: "public".into(),
                name: "s".into(),
                persistence: Persistence::Permanent,
            }],
            extensions: Vec::new(),
            large_objects: LargeObjects::default(),
            roles: Vec::new(),
            tablespaces: Vec::new(),
            index_positions: Vec::new(),
        };
        catalog.put_in_order();
        catalog
    }

    #[test]
    fn finds_objects_by_oid() {
        let tables = [30, 10, 20].map(|oid| Table {
            oid,
            ..table("public", "t", &[])
        });
        let indexes = [(30, 5), (10, 7), (30, 3)].map(|(table, oid)| Index {
            table,
            oid,
            ..index("i")
        });
        let catalog = catalog(tables.into(), indexes.into());
        assert_eq!(catalog.table(20).map(|table| table.oid), Some(20));
        assert!(catalog.table(11).is_none());
        assert_eq!(catalog.index(5).map(|index| index.table), Some(30));
        assert!(catalog.index(6).is_none());
        let of_30: Vec<_> = catalog.indexes_of(30).iter().map(|i| i.oid).collect();
        assert_eq!(of_30, [3, 5]);
        assert!(catalog.indexes_of(20).is_empty());
    }

    #[test]
    fn a_standby_has_no_rows_of_unlogged_tables() {
        let mut unlogged = table("public", "u", &["a"]);
        unlogged.persistence = Persistence::Unlogged;
        assert!(unlogged.holds_rows(false));
        assert!(!unlogged.holds_rows(true));
        let mut parent = table("public", "p", &[]);
        parent.kind = TableKind::Partitioned;
        assert!(!parent.holds_rows(false));
    }
}
