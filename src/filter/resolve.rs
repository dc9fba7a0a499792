//! What the rules match on the source, now. A few statements, whatever the number of rules and tables.

use std::collections::{BTreeSet, HashSet};

use super::{Filters, Pattern, Rule, Section, unreadable};
use crate::error::{Context, Error, Result};
use crate::ident::{Oid, QualifiedName, quote_ident, quote_literal};
use crate::pg::wire::{Connection, Row};

/// How many rules are asked about in one statement.
const BATCH: usize = 200;

const IN_USER_SCHEMA: &str =
    r"n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgcopydb')";

/// An object that a rule leaves out, or that cannot be kept because of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The catalog that it is a row of, and its oid there.
    pub catalog: Oid,
    pub oid: Oid,
    /// As pg_dump calls it: `TABLE`, `SEQUENCE`, ...
    pub kind: String,
    pub name: String,
    pub reason: String,
    /// A sequence that its table owned: it stays if something that is kept needs it.
    pub may_be_needed: bool,
    /// A rule says so, and not what it needs.
    pub is_by_rule: bool,
    /// What goes instead, where it is no object of its own in the dump: a default may stand inside its table.
    pub holder: Option<(Oid, Oid)>,
}

/// Everything that the rules match.
#[derive(Debug, Default)]
pub struct Selection {
    pub left_out: Vec<LeftOut>,
    /// Nothing in them is kept, but for the extensions that live there.
    pub schemas: BTreeSet<String>,
    /// Tables that are kept, without their rows.
    pub without_rows: HashSet<Oid>,
    /// What is left out and may not even be locked by this role, so that pg_dump must not look at it.
    pub unreadable_tables: Vec<(Oid, QualifiedName)>,
}

impl Selection {
    pub fn unreadable_names(&self) -> Vec<QualifiedName> {
        self.unreadable_tables
            .iter()
            .map(|(_, name)| name.clone())
            .collect()
    }
}

/// Refuse expressions that the server does not understand, and warn about rules that match nothing. Outside a transaction.
pub fn check(source: &mut Connection, filters: &Filters) -> Result<()> {
    for rule in &filters.rules {
        for pattern in rule.schema.iter().chain([&rule.name]) {
            if let Pattern::Regex(regex) = pattern {
                check_regex(source, filters, rule, regex)?;
            }
        }
    }
    for batch in filters.rules.chunks(BATCH) {
        let asked: Vec<String> = batch.iter().map(Rule::matches_something).collect();
        let row = source
            .query_one(&format!("SELECT {}", asked.join(", ")))
            .context("could not look for what the filters name")?;
        for (index, rule) in batch.iter().enumerate() {
            if !row.bool(index)? {
                log::warn!(
                    "filters file \"{}\", line {}: nothing on the source matches {} in [{}]",
                    filters.file,
                    rule.line,
                    rule.object(),
                    rule.section.name()
                );
            }
        }
    }
    Ok(())
}

fn check_regex(source: &mut Connection, filters: &Filters, rule: &Rule, regex: &str) -> Result<()> {
    let tried = source.query_one(&format!("SELECT 'x' ~ {}", quote_literal(regex)));
    let Err(error) = tried else {
        return Ok(());
    };
    match error.server_error() {
        // Class 22 and 2201B: what is wrong with it.
        Some(said) if said.sqlstate.starts_with("22") => {
            let reason = said.message.clone();
            source.recover();
            Err(Error::config(format!(
                "filters file \"{}\", line {}: {reason}",
                filters.file, rule.line
            )))
        }
        _ => Err(error),
    }
}

impl Rule {
    fn matches_something(&self) -> String {
        let from = match self.section {
            Section::IncludeOnlySchema | Section::ExcludeSchema => {
                return format!(
                    "EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE {})",
                    self.condition("n.nspname", "n.nspname")
                );
            }
            Section::IncludeOnlyExtension | Section::ExcludeExtension => {
                return format!(
                    "EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE {})",
                    self.condition("x.extname", "x.extname")
                );
            }
            Section::ExcludeIndex => "'i', 'I'",
            Section::ExcludeTableData => "'r', 'p'",
            Section::ExcludeTable => "'r', 'p', 'f', 'v', 'm'",
            Section::IncludeOnlyTable => "'r', 'p', 'f'",
        };
        format!(
            "EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ({from}) AND {})",
            self.condition("n.nspname", "c.relname")
        )
    }
}

/// What the rules match. Expects `search_path = pg_catalog`.
pub fn resolve(source: &mut Connection, filters: &Filters) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut gather = || -> Result<()> {
        schemas(source, filters, &mut selection)?;
        relations(source, filters, &mut selection)?;
        extension_rows(source, filters, &mut selection)?;
        sequences(source, filters, &mut selection)?;
        indexes(source, filters, &mut selection)?;
        extensions(source, filters, &mut selection)?;
        foreign_keys(source, &mut selection)?;
        unreadable::add_dependents(source, &mut selection)
    };
    gather().context("could not apply the filters to the source")?;
    Ok(selection)
}

fn schemas(source: &mut Connection, filters: &Filters, selection: &mut Selection) -> Result<()> {
    let rows = source.query(&format!(
        "SELECT 'pg_namespace'::regclass::oid, n.oid, n.nspname,
    EXISTS (SELECT FROM pg_extension x WHERE x.extnamespace = n.oid AND NOT {})
FROM pg_namespace n WHERE {IN_USER_SCHEMA} AND {}",
        filters.extension_left_out(),
        filters.schema_left_out()
    ))?;
    for row in &rows {
        let name = row.text(2)?.to_owned();
        let holds_extension = row.bool(3)?;
        if !holds_extension {
            selection.left_out.push(LeftOut {
                catalog: row.parse(0)?,
                oid: row.parse(1)?,
                kind: "SCHEMA".to_owned(),
                name: quote_ident(&name),
                reason: by_schema_rule(filters),
                may_be_needed: false,
                is_by_rule: true,
                holder: None,
            });
        }
        selection.schemas.insert(name);
    }
    Ok(())
}

fn by_schema_rule(filters: &Filters) -> String {
    match filters.has(Section::IncludeOnlySchema) {
        true => "not in [include-only-schema]".to_owned(),
        false => "in [exclude-schema]".to_owned(),
    }
}

fn relations(source: &mut Connection, filters: &Filters, selection: &mut Selection) -> Result<()> {
    let rows = source.query(&format!(
        "SELECT 'pg_class'::regclass::oid, c.oid, c.relkind, n.nspname, c.relname, left_out,
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
FROM (SELECT c.*, {} AS left_out, {} AS rows_out FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid
            AND e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e')) c
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE left_out OR rows_out ORDER BY c.oid",
        filters.relation_left_out(),
        filters.rows_left_out(),
    ))?;
    for row in &rows {
        if !row.bool(5)? {
            selection.without_rows.insert(row.parse(1)?);
            continue;
        }
        let schema = row.text(3)?;
        let name = QualifiedName::new(schema, row.text(4)?);
        let is_by_schema = selection.schemas.contains(schema);
        if !row.bool(6)? {
            let oid = row.parse(1)?;
            selection.unreadable_tables.push((oid, name.clone()));
        }
        let reason = match is_by_schema {
            true => format!("schema {} is left out", quote_ident(schema)),
            false if filters.has(Section::IncludeOnlyTable) => {
                "not in [include-only-table]".to_owned()
            }
            false => "in [exclude-table]".to_owned(),
        };
        selection.left_out.push(LeftOut {
            catalog: row.parse(0)?,
            oid: row.parse(1)?,
            kind: relation_kind(row.text(2)?).to_owned(),
            name: name.to_string(),
            reason,
            may_be_needed: false,
            is_by_rule: true,
            holder: None,
        });
    }
    Ok(())
}

/// The user's rows in tables that extensions make.
fn extension_rows(
    source: &mut Connection,
    filters: &Filters,
    selection: &mut Selection,
) -> Result<()> {
    let rows = source.query(&format!(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid IN (SELECT unnest(x.extconfig) FROM pg_extension x) AND c.relkind IN ('r', 'p') AND {IN_USER_SCHEMA} AND {}",
        filters.extension_rows_left_out()
    ))?;
    for row in &rows {
        selection.without_rows.insert(row.parse(0)?);
    }
    Ok(())
}

pub(super) fn relation_kind(relkind: &str) -> &'static str {
    match relkind {
        "v" => "VIEW",
        "m" => "MATERIALIZED VIEW",
        "f" => "FOREIGN TABLE",
        "S" => "SEQUENCE",
        _ => "TABLE",
    }
}

/// Those of schemas, and those that belong to a column of a table that is left out.
fn sequences(source: &mut Connection, filters: &Filters, selection: &mut Selection) -> Result<()> {
    let rows = source.query(&format!(
        "SELECT 'pg_class'::regclass::oid, s.oid, sn.nspname, s.relname, n.nspname, c.relname,
    has_schema_privilege(sn.oid, 'USAGE') AND has_sequence_privilege(s.oid, 'SELECT')
FROM pg_class s
    JOIN pg_namespace sn ON sn.oid = s.relnamespace
    LEFT JOIN (pg_depend d
        JOIN pg_class c ON c.oid = d.refobjid
        JOIN pg_namespace n ON n.oid = c.relnamespace)
      ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype IN ('a', 'i')
        AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND {}
WHERE s.relkind = 'S' AND s.relpersistence <> 't'
    AND (c.oid IS NOT NULL OR s.relnamespace IN (SELECT n.oid FROM pg_namespace n WHERE {IN_USER_SCHEMA} AND {}))
ORDER BY s.oid",
        filters.relation_left_out(),
        filters.schema_left_out(),
    ))?;
    for row in &rows {
        let schema = row.text(2)?;
        let is_by_schema = selection.schemas.contains(schema);
        let reason = match row.opt_text(5)? {
            Some(table) if !is_by_schema => {
                let table = QualifiedName::new(row.text(4)?, table);
                format!("belongs to table {table}")
            }
            _ => format!("schema {} is left out", quote_ident(schema)),
        };
        let name = QualifiedName::new(schema, row.text(3)?);
        let is_readable = row.bool(6)?;
        if !is_readable {
            let oid = row.parse(1)?;
            selection.unreadable_tables.push((oid, name.clone()));
        }
        selection.left_out.push(LeftOut {
            catalog: row.parse(0)?,
            oid: row.parse(1)?,
            kind: "SEQUENCE".to_owned(),
            name: name.to_string(),
            reason,
            may_be_needed: !is_by_schema && is_readable,
            is_by_rule: true,
            holder: None,
        });
    }
    Ok(())
}

/// An index and the constraint that stands on it are two rows of two catalogs.
fn indexes(source: &mut Connection, filters: &Filters, selection: &mut Selection) -> Result<()> {
    if !filters.has(Section::ExcludeIndex) {
        return Ok(());
    }
    let rows = source.query(&format!(
        "SELECT 'pg_class'::regclass::oid, c.oid, n.nspname, c.relname,
    'pg_constraint'::regclass::oid, k.oid, k.conname
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')
WHERE c.relkind IN ('i', 'I') AND {IN_USER_SCHEMA} AND {} ORDER BY c.oid",
        filters.index_left_out()
    ))?;
    let left_out = |row: &Row, at: usize, kind: &str, name: String| -> Result<LeftOut> {
        Ok(LeftOut {
            catalog: row.parse(at)?,
            oid: row.parse(at + 1)?,
            kind: kind.to_owned(),
            name,
            reason: "in [exclude-index]".to_owned(),
            may_be_needed: false,
            is_by_rule: true,
            holder: None,
        })
    };
    for row in &rows {
        let name = |name: &str| -> Result<String> {
            Ok(QualifiedName::new(row.text(2)?, name).to_string())
        };
        let index = left_out(row, 0, "INDEX", name(row.text(3)?)?)?;
        selection.left_out.push(index);
        if let Some(constraint) = row.opt_text(6)? {
            let constraint = left_out(row, 4, "CONSTRAINT", name(constraint)?)?;
            selection.left_out.push(constraint);
        }
    }
    Ok(())
}

/// With the tables of theirs that would hold rows of the user.
fn extensions(source: &mut Connection, filters: &Filters, selection: &mut Selection) -> Result<()> {
    let reason = match filters.has(Section::IncludeOnlyExtension) {
        true => "not in [include-only-extension]",
        false => "in [exclude-extension]",
    };
    let rows = source.query(&format!(
        "SELECT 'pg_extension'::regclass::oid, x.oid, x.extname, NULL FROM pg_extension x WHERE {left_out}
UNION ALL
SELECT 'pg_class'::regclass::oid, u.oid, x.extname, u.oid::regclass::text
FROM pg_extension x, unnest(x.extconfig) AS u(oid) WHERE {left_out}",
        left_out = filters.extension_left_out()
    ))?;
    for row in &rows {
        let extension = quote_ident(row.text(2)?);
        let (kind, name, reason) = match row.opt_text(3)? {
            None => ("EXTENSION", extension, reason.to_owned()),
            Some(table) => (
                "TABLE",
                table.to_owned(),
                format!("belongs to extension {extension}"),
            ),
        };
        selection.left_out.push(LeftOut {
            catalog: row.parse(0)?,
            oid: row.parse(1)?,
            kind: kind.to_owned(),
            name,
            reason,
            may_be_needed: false,
            is_by_rule: true,
            holder: None,
        });
    }
    Ok(())
}

/// Rows that point to rows which are not copied: the constraint would be refused. One that points to a partitioned table
/// is there again for each of its partitions; only the first one, which the others come from, is an object of the dump.
/// What points to a table that is left out as a whole falls with that.
fn foreign_keys(source: &mut Connection, selection: &mut Selection) -> Result<()> {
    let tables = selection
        .left_out
        .iter()
        .filter(|left| left.kind == "TABLE");
    let without_rows = oids(selection.without_rows.iter().copied());
    let left_out = oids(tables.map(|left| left.oid));
    if without_rows.is_empty() && left_out.is_empty() {
        return Ok(());
    }
    let parent = match source.server_version() {
        11_00_00.. => "k.conparentid",
        _ => "0::oid",
    };
    let rows = source.query(&format!(
        "WITH RECURSIVE above (oid, root, parent) AS (
    SELECT k.oid, k.oid, {parent} FROM pg_constraint k WHERE k.contype = 'f'
        AND (k.confrelid IN (SELECT unnest('{{{without_rows}}}'::oid[]))
            OR {parent} <> 0 AND k.confrelid IN (SELECT unnest('{{{left_out}}}'::oid[])))
    UNION ALL SELECT above.oid, k.oid, {parent} FROM above JOIN pg_constraint k ON k.oid = above.parent)
SELECT 'pg_constraint'::regclass::oid, above.root, k.conrelid, n.nspname, c.relname, r.conname, fn.nspname, f.relname
FROM above
    JOIN pg_constraint k ON k.oid = above.oid
    JOIN pg_constraint r ON r.oid = above.root
    JOIN pg_class c ON c.oid = r.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
WHERE above.parent = 0 AND r.confrelid NOT IN (SELECT unnest('{{{left_out}}}'::oid[]))
ORDER BY above.root, k.oid"
    ))?;
    let mut known: HashSet<Oid> = HashSet::new();
    for row in &rows {
        if selection.without_rows.contains(&row.parse(2)?) || !known.insert(row.parse(1)?) {
            continue;
        }
        let table = QualifiedName::new(row.text(3)?, row.text(4)?);
        selection.left_out.push(LeftOut {
            catalog: row.parse(0)?,
            oid: row.parse(1)?,
            kind: "FK CONSTRAINT".to_owned(),
            name: format!("{} of {table}", quote_ident(row.text(5)?)),
            reason: format!(
                "the rows of {} are left out",
                QualifiedName::new(row.text(6)?, row.text(7)?)
            ),
            may_be_needed: false,
            is_by_rule: true,
            holder: None,
        });
    }
    Ok(())
}

fn oids(oids: impl Iterator<Item = Oid>) -> String {
    let oids: Vec<String> = oids.map(|oid| oid.to_string()).collect();
    oids.join(",")
}
