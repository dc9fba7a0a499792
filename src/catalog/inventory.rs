//! What `list` shows besides the catalog that a clone works from: the databases of the server, collations and who uses
//! them, versions of extensions, owners and values of sequences. One query each, whatever the number of objects; runs
//! in the process of the command. Must not be needed by a clone.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::error::{Context, Result};
use crate::ident::Oid;
use crate::pg::wire::Connection;

use super::fetch::{boxed, opt_boxed};
use super::queries::IN_USER_SCHEMA;

/// A database that can be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatabaseEntry {
    pub oid: Oid,
    pub name: Box<str>,
    pub owner: Box<str>,
    pub encoding: Box<str>,
    /// `None` when our role may not know it.
    pub bytes: Option<u64>,
}

/// Every database but templates and those that refuse connections.
pub fn fetch_databases(source: &mut Connection) -> Result<Vec<DatabaseEntry>> {
    let mut found = Vec::new();
    source
        .query_each(
            "SELECT d.oid, d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding),
    CASE WHEN has_database_privilege(d.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
        THEN pg_database_size(d.oid) END
FROM pg_database d
WHERE d.datallowconn AND NOT d.datistemplate
ORDER BY d.datname",
            &mut |row| {
                found.push(DatabaseEntry {
                    oid: row.parse(0)?,
                    name: boxed(row, 1)?,
                    owner: boxed(row, 2)?,
                    encoding: boxed(row, 3)?,
                    bytes: row.opt_parse(4)?,
                });
                Ok(())
            },
        )
        .context("could not list the databases of the source")?;
    Ok(found)
}

/// A table or sequence whose rows an extension declares to be the user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExtensionConfig {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    pub condition: Box<str>,
}

/// The configuration tables of each extension, by the extension's oid.
pub fn fetch_extension_configs(
    source: &mut Connection,
) -> Result<HashMap<Oid, Vec<ExtensionConfig>>> {
    let mut found: HashMap<Oid, Vec<ExtensionConfig>> = HashMap::new();
    source
        .query_each(
            "SELECT x.oid, c.oid, n.nspname, c.relname, coalesce(u.condition, '')
FROM pg_extension x
    CROSS JOIN LATERAL unnest(x.extconfig, x.extcondition) WITH ORDINALITY AS u(oid, condition, position)
    JOIN pg_class c ON c.oid = u.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY x.oid, u.position",
            &mut |row| {
                found.entry(row.parse(0)?).or_default().push(ExtensionConfig {
                    oid: row.parse(1)?,
                    schema: boxed(row, 2)?,
                    name: boxed(row, 3)?,
                    condition: boxed(row, 4)?,
                });
                Ok(())
            },
        )
        .context("could not list the configuration tables of extensions")?;
    Ok(found)
}

/// An extension that the server could install, with every version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExtensionVersions {
    pub name: Box<str>,
    pub versions: Vec<Box<str>>,
}

pub fn fetch_extension_versions(source: &mut Connection) -> Result<Vec<ExtensionVersions>> {
    let mut found: Vec<ExtensionVersions> = Vec::new();
    source
        .query_each(
            "SELECT name, version FROM pg_available_extension_versions ORDER BY name, version",
            &mut |row| {
                let (name, version) = (row.text(0)?, boxed(row, 1)?);
                match found.last_mut() {
                    Some(last) if &*last.name == name => last.versions.push(version),
                    _ => found.push(ExtensionVersions {
                        name: name.into(),
                        versions: vec![version],
                    }),
                }
                Ok(())
            },
        )
        .context("could not list the versions of extensions")?;
    Ok(found)
}

/// A collation of the user, or one that an object of the user needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CollationEntry {
    pub oid: Oid,
    pub schema: Box<str>,
    pub name: Box<str>,
    /// `c` libc, `i` ICU, `b` builtin, `d` the database's default.
    pub provider: char,
    pub locale: Option<Box<str>>,
    /// As noted when it was created.
    pub version: Option<Box<str>>,
    /// What the operating system or ICU has now.
    pub actual_version: Option<Box<str>>,
    /// In the server's words: `column name of table app.film`.
    pub used_by: Vec<Box<str>>,
}

/// The database's own collation stands first, as `default`.
pub fn fetch_collations(source: &mut Connection) -> Result<Vec<CollationEntry>> {
    let mut found: Vec<CollationEntry> = Vec::new();
    source
        .query_each(&collations_sql(source.server_version()), &mut |row| {
            let oid = row.parse(0)?;
            if found.last().is_none_or(|last| last.oid != oid) {
                found.push(CollationEntry {
                    oid,
                    schema: boxed(row, 1)?,
                    name: boxed(row, 2)?,
                    provider: row.parse(3)?,
                    locale: opt_boxed(row, 4)?,
                    version: opt_boxed(row, 5)?,
                    actual_version: opt_boxed(row, 6)?,
                    used_by: Vec::new(),
                });
            }
            if let (Some(last), Some(user)) = (found.last_mut(), opt_boxed(row, 7)?) {
                last.used_by.push(user);
            }
            Ok(())
        })
        .context("could not list the collations of the source")?;
    Ok(found)
}

/// Oid 100 is `default`, 0 means that the type has none.
fn collations_sql(version: u32) -> String {
    let (own, locale) = match version {
        17_00_00.. => (
            "coalesce(d.datlocale, d.datcollate)",
            "coalesce(k.colllocale, k.collcollate)",
        ),
        15_00_00.. => (
            "coalesce(d.daticulocale, d.datcollate)",
            "coalesce(k.colliculocale, k.collcollate)",
        ),
        _ => ("d.datcollate", "k.collcollate"),
    };
    format!(
        "WITH used AS (
    SELECT a.attcollation AS coll, 'pg_class'::regclass::oid AS classid, a.attrelid AS objid, a.attnum::int AS objsubid
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
        AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
    UNION
    SELECT k.oid, 'pg_class'::regclass, i.indexrelid, 0
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL unnest(i.indcollation) AS k(oid)
    WHERE c.relpersistence <> 't' AND {IN_USER_SCHEMA}
    UNION
    SELECT t.typcollation, 'pg_type'::regclass, t.oid, 0
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typtype = 'd' AND {IN_USER_SCHEMA}
    UNION
    SELECT r.rngcollation, 'pg_type'::regclass, r.rngtypid, 0
    FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE {IN_USER_SCHEMA}
)
SELECT 100, 'pg_catalog', 'default', 'd', {own}, NULL, NULL, 'database ' || quote_ident(d.datname)
FROM pg_database d WHERE d.datname = current_database()
UNION ALL
(SELECT k.oid, n.nspname, k.collname, k.collprovider, {locale}, k.collversion,
    pg_collation_actual_version(k.oid), pg_describe_object(used.classid, used.objid, used.objsubid)
FROM pg_collation k JOIN pg_namespace n ON n.oid = k.collnamespace
    LEFT JOIN used ON used.coll = k.oid
WHERE k.oid <> 100 AND (used.coll IS NOT NULL OR {IN_USER_SCHEMA})
ORDER BY n.nspname, k.collname, k.oid, 8)"
    )
}

/// What a sequence is for, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceState {
    /// Schema, table and column that own it: serial and identity columns.
    pub owned_by: Option<(Box<str>, Box<str>, Box<str>)>,
    /// `None` before its first use, or when our role may not know it.
    pub last_value: Option<i64>,
}

pub fn fetch_sequence_states(source: &mut Connection) -> Result<HashMap<Oid, SequenceState>> {
    let mut found = HashMap::new();
    source
        .query_each(
            &format!(
                "SELECT c.oid, tn.nspname, t.relname, a.attname,
    CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE')
            AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery())
        THEN pg_sequence_last_value(c.oid) END
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
        AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_class t ON t.oid = d.refobjid
    LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}"
            ),
            &mut |row| {
                let owner = (opt_boxed(row, 1)?, opt_boxed(row, 2)?, opt_boxed(row, 3)?);
                let owned_by = match owner {
                    (Some(schema), Some(table), Some(column)) => Some((schema, table, column)),
                    _ => None,
                };
                let last_value = row.opt_parse(4)?;
                found.insert(
                    row.parse(0)?,
                    SequenceState {
                        owned_by,
                        last_value,
                    },
                );
                Ok(())
            },
        )
        .context("could not read the sequences of the source")?;
    Ok(found)
}

/// The tables that have a primary key, whichever kind of index it has.
pub fn fetch_tables_with_primary_key(source: &mut Connection) -> Result<HashSet<Oid>> {
    let mut found = HashSet::new();
    source
        .query_each(
            "SELECT indrelid FROM pg_index WHERE indisprimary AND indisvalid",
            &mut |row| {
                found.insert(row.parse(0)?);
                Ok(())
            },
        )
        .context("could not look for primary keys on the source")?;
    Ok(found)
}
