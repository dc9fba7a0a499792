//! What the target has: the tables and columns that changes go to, and whether rows of a table may be grouped by a key.
//! Fetched by one query for all tables, again when a name is missing. Runs in the apply process.

use std::collections::HashMap;

use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::ident::{Oid, QualifiedName};
use crate::pg::wire::{Connection, Row};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetColumn {
    pub name: String,
    /// As format_type(oid, -1) writes it.
    pub type_name: String,
    /// Arrays cannot be elements of an array; domains and composites are best read by their own input. Types without an
    /// array type, or with another delimiter than the comma, cannot travel in one.
    pub travels_as_text: bool,
    /// GENERATED ALWAYS AS IDENTITY: an UPDATE may not set it.
    pub is_always_identity: bool,
    /// Computed from other columns.
    pub is_generated: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetTable {
    pub is_partitioned: bool,
    /// What it is a partition of.
    pub parent: Option<QualifiedName>,
    pub columns: Vec<TargetColumn>,
    /// The columns of each unique index that always holds: immediate, valid, of whole rows and plain columns.
    pub unique: Vec<Vec<String>>,
    /// A deferrable unique constraint lets rows pass through states that a set cannot.
    pub has_deferrable: bool,
}

impl TargetTable {
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether these columns, in whatever order, are a key whose index finds each row.
    pub fn has_unique(&self, columns: &[String]) -> bool {
        self.unique.iter().any(|unique| {
            unique.len() == columns.len() && unique.iter().all(|name| columns.contains(name))
        })
    }
}

/// All tables by their names.
#[derive(Debug, Default)]
pub struct Target {
    tables: HashMap<QualifiedName, TargetTable>,
}

impl Target {
    pub fn fetch(connection: &mut Connection) -> Result<Target> {
        let mut target = Target::default();
        let mut last: Option<(Oid, QualifiedName)> = None;
        connection
            .query_each(&query(connection.server_version()), &mut |row| {
                let oid: Oid = row.parse(0)?;
                let name = match last.take() {
                    Some((known, name)) if known == oid => name,
                    _ => {
                        let name = QualifiedName::new(row.text(1)?, row.text(2)?);
                        target.tables.insert(name.clone(), table(row)?);
                        name
                    }
                };
                if let (Some(table), Some(column)) =
                    (target.tables.get_mut(&name), row.opt_text(6)?)
                {
                    table.columns.push(TargetColumn {
                        name: column.to_owned(),
                        type_name: row.text(7)?.to_owned(),
                        travels_as_text: row.bool(8)?,
                        is_always_identity: row.bool(9)?,
                        is_generated: row.bool(10)?,
                    });
                }
                last = Some((oid, name));
                Ok(())
            })
            .context("could not list the tables of the target")?;
        Ok(target)
    }

    pub fn table(&self, name: &QualifiedName) -> Option<&TargetTable> {
        self.tables.get(name)
    }

    /// Whether a table is a partition of another one, at whatever depth.
    pub fn is_partition_of(&self, name: &QualifiedName, of: &QualifiedName) -> bool {
        let mut parent = self.table(name).and_then(|table| table.parent.as_ref());
        while let Some(name) = parent {
            if name == of {
                return true;
            }
            parent = self.table(name).and_then(|table| table.parent.as_ref());
        }
        false
    }

    /// That the target has a table with these columns; the error says what to do.
    pub fn check(&self, name: &QualifiedName, columns: &[String]) -> Result<()> {
        let Some(table) = self.tables.get(name) else {
            return Err(missing(
                &format!("table {name}"),
                "Create the table on the target (DDL is not replicated)",
            ));
        };
        match columns.iter().find(|column| table.column(column).is_none()) {
            None => Ok(()),
            Some(column) => Err(missing(
                &format!("column \"{column}\" of table {name}"),
                "Add the column on the target (DDL is not replicated)",
            )),
        }
    }
}

fn missing(what: &str, hint: &str) -> Error {
    Error::new(
        ErrorKind::Target,
        format!("cannot apply changes: the target has no {what}"),
    )
    .with_side(Side::Target)
    .with_hint(format!("{hint}, {RESUME}"))
}

/// How to go on once the cause is mended.
pub const RESUME: &str = "then run the same command again with --resume: nothing is lost.";

fn table(row: &Row) -> Result<TargetTable> {
    // A list of lists of names, as JSON: no quoting of our own.
    let unique: Vec<Vec<String>> = serde_json::from_str(row.text(4)?)
        .map_err(|error| Error::internal(format!("unexpected list of keys: {error}")))?;
    Ok(TargetTable {
        is_partitioned: row.bool(3)?,
        parent: match (row.opt_text(11)?, row.opt_text(12)?) {
            (Some(schema), Some(name)) => Some(QualifiedName::new(schema, name)),
            _ => None,
        },
        columns: Vec::new(),
        unique,
        has_deferrable: row.bool(5)?,
    })
}

/// One row for each column; one for a table without any.
fn query(server_version: u32) -> String {
    let keys = match server_version >= 11_00_00 {
        true => "i.indnkeyatts",
        false => "i.indnatts",
    };
    let generated = match server_version >= 12_00_00 {
        true => "COALESCE(a.attgenerated <> '', false)",
        false => "false",
    };
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind = 'p',
    COALESCE(u.keys, '[]'), COALESCE(u.has_deferrable, false),
    a.attname, format_type(a.atttypid, -1),
    t.typcategory = 'A' OR t.typtype IN ('c', 'd') OR t.typarray = 0 OR t.typdelim <> ',',
    COALESCE(a.attidentity = 'a', false), {generated},
    pn.nspname, p.relname
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_inherits h ON h.inhrelid = c.oid AND c.relispartition
    LEFT JOIN pg_class p ON p.oid = h.inhparent
    LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
    LEFT JOIN (SELECT i.indrelid, bool_or(NOT i.indimmediate) AS has_deferrable,
            json_agg((SELECT json_agg(k.attname ORDER BY k.attnum) FROM pg_attribute k
                WHERE k.attrelid = i.indrelid AND k.attnum = ANY ((i.indkey::int2[])[0:{keys} - 1])))
                FILTER (WHERE i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) AS keys
        FROM pg_index i WHERE i.indisunique OR NOT i.indimmediate GROUP BY i.indrelid) u ON u.indrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY c.oid, a.attnum"
    )
}
