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
    /// Arrays cannot be elements of an array; domains and composites are best read by their own input.
    pub travels_as_text: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetTable {
    pub is_partitioned: bool,
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
            .query_each(QUERY, &mut |row| {
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
    .with_hint(format!(
        "{hint}, then run the same command again with --resume: nothing is lost."
    ))
}

fn table(row: &Row) -> Result<TargetTable> {
    // A list of lists of names, as JSON: no quoting of our own.
    let unique: Vec<Vec<String>> = serde_json::from_str(row.text(4)?)
        .map_err(|error| Error::internal(format!("unexpected list of keys: {error}")))?;
    Ok(TargetTable {
        is_partitioned: row.bool(3)?,
        columns: Vec::new(),
        unique,
        has_deferrable: row.bool(5)?,
    })
}

/// One row for each column; one for a table without any.
const QUERY: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind = 'p',
    COALESCE(u.keys, '[]'), COALESCE(u.has_deferrable, false),
    a.attname, format_type(a.atttypid, -1), t.typcategory = 'A' OR t.typtype IN ('c', 'd')
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN (SELECT i.indrelid, bool_or(NOT i.indimmediate) AS has_deferrable,
            json_agg((SELECT json_agg(k.attname ORDER BY k.attnum) FROM pg_attribute k
                WHERE k.attrelid = i.indrelid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])))
                FILTER (WHERE i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) AS keys
        FROM pg_index i WHERE i.indisunique GROUP BY i.indrelid) u ON u.indrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY c.oid, a.attnum";
