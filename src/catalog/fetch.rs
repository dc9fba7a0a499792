//! Fill the catalog from the source, in the parent, on one connection that is inside the snapshot's transaction with
//! `search_path = pg_catalog`. The number of queries does not depend on the number of tables.
//!
//! Rows are streamed: what arrives is kept in its final form at once. Must not open a transaction or change one.

mod indexes;
mod tables;

use std::collections::HashMap;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ident::{Oid, quote_ident};
use crate::pg::wire::{Connection, Row, TransactionStatus};

use super::objects::{
    Catalog, Database, DatabaseSetting, Extension, LargeObjects, Persistence, RoleInUse, Sequence,
    Table,
};
use super::queries;
use super::split::KeyBounds;

/// Tables asked for their smallest and largest key in one statement: few round trips, and no plan of 50,000 branches.
const BOUNDS_BATCH: usize = 200;

#[derive(Debug, Clone, Copy, Default)]
pub struct FetchOptions {
    /// Sizes from `relpages`, without asking the file system of the source.
    pub estimate_sizes: bool,
    /// Without the rows of extensions' own tables and their sequences.
    pub skip_extensions: bool,
}

/// Everything there is in the source.
pub fn fetch(source: &mut Connection, options: &FetchOptions) -> Result<Catalog> {
    let version = source.server_version();
    let mut catalog = fetch_tables_only(source, options)?;
    catalog.sequences = fetch_sequences(source, options)?;
    catalog.extensions = fetch_extensions(source)?;
    catalog.large_objects = fetch_large_objects(source)?;
    catalog.roles = fetch_roles(source)?;
    catalog.tablespaces = fetch_names(source, queries::TABLESPACES, "tablespaces")?;
    catalog.indexes = indexes::fetch(source, version, &catalog)
        .context("could not list the indexes of the source")?;
    catalog.put_in_order();
    Ok(catalog)
}

/// A catalog of the database and its tables alone, for those who list tables.
pub fn fetch_tables_only(source: &mut Connection, options: &FetchOptions) -> Result<Catalog> {
    let version = source.server_version();
    if version >= 11_00_00 {
        source.execute(queries::PREPARE_SESSION)?;
    }
    let (database, is_standby) = fetch_database(source, version)?;
    let tables = tables::fetch(source, version, options)
        .context("could not list the tables of the source")?;
    let mut catalog = Catalog {
        database,
        server_version: version,
        is_standby,
        tables,
        indexes: Vec::new(),
        sequences: Vec::new(),
        extensions: Vec::new(),
        large_objects: LargeObjects::default(),
        roles: Vec::new(),
        tablespaces: Vec::new(),
        index_positions: Vec::new(),
    };
    catalog.put_in_order();
    Ok(catalog)
}

/// The smallest and largest key of each table that has a `split_key`; empty tables are left out.
pub fn fetch_key_bounds(
    source: &mut Connection,
    tables: &[&Table],
) -> Result<HashMap<Oid, KeyBounds>> {
    let mut bounds = HashMap::new();
    for batch in tables.chunks(BOUNDS_BATCH) {
        let selects: Vec<String> = batch
            .iter()
            .filter_map(|table| {
                let column = quote_ident(&table.split_key.as_ref()?.column);
                Some(format!(
                    "SELECT {}::oid, min({column})::int8, max({column})::int8 FROM ONLY {}",
                    table.oid,
                    table.qualified_name()
                ))
            })
            .collect();
        if selects.is_empty() {
            continue;
        }
        query_each_unlocked(source, &selects.join(" UNION ALL "), &mut |row| {
            if let (Some(min), Some(max)) = (row.opt_parse(1)?, row.opt_parse(2)?) {
                bounds.insert(row.parse(0)?, KeyBounds { min, max });
            }
            Ok(())
        })
        .context("could not read the bounds of keys to split tables by")?;
    }
    Ok(bounds)
}

/// A query that gives its table locks back. Inside a transaction they would be kept to its end, and a few thousand
/// tables with their indexes fill the server's lock table; going back to a savepoint releases them.
pub(super) fn query_each_unlocked(
    connection: &mut Connection,
    sql: &str,
    on_row: &mut dyn FnMut(&Row) -> Result<()>,
) -> Result<()> {
    if connection.transaction_status() == TransactionStatus::Idle {
        return connection.query_each(sql, on_row);
    }
    connection.execute("SAVEPOINT unlocked")?;
    connection.query_each(sql, on_row)?;
    connection.execute("ROLLBACK TO SAVEPOINT unlocked; RELEASE SAVEPOINT unlocked")?;
    Ok(())
}

fn fetch_database(source: &mut Connection, version: u32) -> Result<(Database, bool)> {
    let row = source
        .query_one(&queries::database(version))
        .context("could not read the properties of the source database")?;
    let mut database = Database {
        oid: row.parse(0)?,
        name: boxed(&row, 1)?,
        owner: boxed(&row, 2)?,
        encoding: boxed(&row, 3)?,
        collate: boxed(&row, 4)?,
        ctype: boxed(&row, 5)?,
        locale_provider: row.parse(6)?,
        locale: opt_boxed(&row, 7)?,
        settings: Vec::new(),
    };
    let is_standby = row.bool(8)?;
    let settings = &mut database.settings;
    source
        .query_each(queries::DATABASE_SETTINGS, &mut |row| {
            settings.push(DatabaseSetting {
                role: opt_boxed(row, 0)?,
                name: boxed(row, 1)?,
                value: boxed(row, 2)?,
            });
            Ok(())
        })
        .context("could not read the settings of the source database")?;
    Ok((database, is_standby))
}

pub fn fetch_sequences(source: &mut Connection, options: &FetchOptions) -> Result<Vec<Sequence>> {
    let mut sequences = Vec::new();
    source
        .query_each(&queries::sequences(options), &mut |row| {
            sequences.push(Sequence {
                oid: row.parse(0)?,
                schema: boxed(row, 1)?,
                name: boxed(row, 2)?,
                persistence: persistence(row, 3)?,
            });
            Ok(())
        })
        .context("could not list the sequences of the source")?;
    Ok(sequences)
}

/// What CREATE EXTENSION made, in the order of their oids.
pub fn fetch_extensions(source: &mut Connection) -> Result<Vec<Extension>> {
    let mut extensions = Vec::new();
    source
        .query_each(queries::EXTENSIONS, &mut |row| {
            extensions.push(Extension {
                oid: row.parse(0)?,
                name: boxed(row, 1)?,
                schema: boxed(row, 2)?,
                version: boxed(row, 3)?,
                requires: Box::default(),
                makes_schema: row.bool(4)?,
            });
            Ok(())
        })
        .context("could not list the extensions of the source")?;
    let mut requirements: HashMap<Oid, Vec<Box<str>>> = HashMap::new();
    source
        .query_each(queries::EXTENSION_REQUIREMENTS, &mut |row| {
            requirements
                .entry(row.parse(0)?)
                .or_default()
                .push(boxed(row, 1)?);
            Ok(())
        })
        .context("could not list what the extensions of the source need")?;
    for extension in &mut extensions {
        let requires = requirements.remove(&extension.oid).unwrap_or_default();
        extension.requires = requires.into();
    }
    Ok(extensions)
}

/// How many large objects a database has, on either side.
pub fn fetch_large_objects(source: &mut Connection) -> Result<LargeObjects> {
    let row = source
        .query_one(queries::LARGE_OBJECTS)
        .context("could not count the large objects of the source")?;
    Ok(LargeObjects {
        count: row.parse(0)?,
        bytes: row.parse(1)?,
    })
}

/// A single column of names.
fn fetch_roles(source: &mut Connection) -> Result<Vec<RoleInUse>> {
    let mut roles = Vec::new();
    source
        .query_each(queries::ROLES, &mut |row| {
            roles.push(RoleInUse {
                name: boxed(row, 0)?,
                owns: row.bool(1)?,
                is_granted: row.bool(2)?,
                is_named: row.bool(3)?,
            });
            Ok(())
        })
        .context("could not list the roles of the source")?;
    Ok(roles)
}

pub(super) fn fetch_names(
    connection: &mut Connection,
    sql: &str,
    what: &str,
) -> Result<Vec<Box<str>>> {
    let side = connection.side();
    let mut names = Vec::new();
    connection
        .query_each(sql, &mut |row| {
            names.push(boxed(row, 0)?);
            Ok(())
        })
        .with_context(|| format!("could not list the {what} of the {side}"))?;
    Ok(names)
}

pub(super) fn boxed(row: &Row, column: usize) -> Result<Box<str>> {
    row.text(column).map(Into::into)
}

pub(super) fn opt_boxed(row: &Row, column: usize) -> Result<Option<Box<str>>> {
    Ok(row.opt_text(column)?.map(Into::into))
}

fn persistence(row: &Row, column: usize) -> Result<Persistence> {
    match row.text(column)? {
        "p" => Ok(Persistence::Permanent),
        "u" => Ok(Persistence::Unlogged),
        other => Err(unknown("relpersistence", other)),
    }
}

/// A value of a catalog column that no major up to 18 has.
pub(super) fn unknown(column: &str, value: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("catalog column \"{column}\" has unknown value \"{value}\""),
    )
}
