//! The publication that pgoutput needs, on the source: exactly the tables that are copied. Not FOR ALL TABLES: that would
//! make the application's own UPDATEs fail on a new table without a replica identity.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::filter::Filters;
use crate::ident::{QualifiedName, quote_ident, quote_literal};
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;

/// What is followed of `pg_class c` and `pg_namespace n`: no temporary, unlogged, system, extension or own relations. Foreign
/// tables and views are no 'r' or 'p'.
pub const IS_FOLLOWED: &str = "c.relpersistence = 'p' AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'pgcopydb') \
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
         AND d.deptype = 'e')";

/// The comment that tells our publication from the user's of the same name, which is neither used nor dropped.
const MARK: &str = "made by pgcopydb for replication slot";

/// A publication that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Ours,
    SomebodyElses,
}

/// Tables whose changes are to be sent; from 13 on a partitioned table stands for its partitions, also those to come.
fn tables_sql(version: u32, filters: Option<&Filters>) -> String {
    // A partition may be left out of a table that is followed: then each one stands for itself.
    let by_root = version >= 13_00_00 && filters.is_none();
    let (kinds, partitions) = match by_root {
        true => ("'r', 'p'", "AND NOT c.relispartition"),
        false => ("'r'", ""),
    };
    format!(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ({kinds}) {partitions} AND {} ORDER BY 1, 2",
        followed(filters)
    )
}

/// `IS_FOLLOWED`, less what the filters leave out.
pub fn followed(filters: Option<&Filters>) -> String {
    match filters {
        Some(filters) => format!("{IS_FOLLOWED} AND NOT {}", filters.changes_left_out()),
        None => IS_FOLLOWED.to_owned(),
    }
}

/// How many of these tables belong to others: only an owner can publish a table.
pub fn count_not_owned(source: &mut Connection, filters: Option<&Filters>) -> Result<u64> {
    let tables = tables_sql(source.server_version(), filters);
    source
        .query_one(&format!(
            "SELECT count(*) FROM ({tables}) t (schema, name) JOIN pg_namespace n ON n.nspname = t.schema \
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name \
             WHERE NOT pg_has_role(c.relowner, 'USAGE')"
        ))
        .context("could not look at the owners of the source's tables")?
        .parse(0)
}

fn names(source: &mut Connection, sql: &str) -> Result<Vec<QualifiedName>> {
    source
        .query(sql)?
        .iter()
        .map(|row| Ok(QualifiedName::new(row.text(0)?, row.text(1)?)))
        .collect()
}

/// None on a standby: what it shows was made on its primary, by whom it concerns there.
pub fn find(source: &mut Connection, name: &str) -> Result<Option<Found>> {
    let rows = source
        .query(&format!(
            "SELECT COALESCE(obj_description(oid, 'pg_publication') LIKE '{MARK}%', false) FROM pg_publication \
             WHERE pubname = {} AND NOT pg_is_in_recovery()",
            quote_literal(name)
        ))
        .context("could not look for publications on the source")?;
    rows.first()
        .map(|row| {
            Ok(match row.bool(0)? {
                true => Found::Ours,
                false => Found::SomebodyElses,
            })
        })
        .transpose()
}

pub fn exists(source: &mut Connection, name: &str) -> Result<bool> {
    Ok(find(source, name)?.is_some())
}

/// Make it; committed and flushed when this returns, which must be before the slot is made.
pub fn create(source: &mut Connection, name: &str, filters: Option<&Filters>) -> Result<()> {
    let version = source.server_version();
    let tables = names(source, &tables_sql(version, filters))
        .context("could not list tables of the source")?;
    let list = match tables.is_empty() {
        true => String::new(),
        false => {
            // Without ONLY a parent brings its children, which are in the list anyway.
            let words: Vec<String> = tables.iter().map(ToString::to_string).collect();
            format!(" FOR TABLE {}", words.join(", "))
        }
    };
    failpoint("publication.before_create")?;
    source
        .execute(&format!(
            "BEGIN; SET LOCAL synchronous_commit = on; CREATE PUBLICATION {publication}{list}; \
             COMMENT ON PUBLICATION {publication} IS {}; COMMIT",
            quote_literal(&format!("{MARK} {name}")),
            publication = quote_ident(name),
        ))
        .inspect_err(|_| {
            source.recover();
        })
        .with_context(|| format!("could not create publication \"{name}\" on the source"))?;
    failpoint("publication.after_create")
}

/// Tables of the source whose changes the publication does not send.
pub fn missing_tables(
    source: &mut Connection,
    name: &str,
    filters: Option<&Filters>,
) -> Result<Vec<QualifiedName>> {
    let version = source.server_version();
    let wanted = names(source, &tables_sql(version, filters))
        .context("could not list tables of the source")?;
    let published = names(
        source,
        &format!(
            "SELECT n.nspname, c.relname FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
             JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE p.pubname = {}",
            quote_literal(name)
        ),
    )
    .with_context(|| format!("could not read publication \"{name}\""))?;
    Ok(wanted
        .into_iter()
        .filter(|table| !published.contains(table))
        .collect())
}

/// The error for tables that appeared since: their changes were never sent.
pub fn check(source: &mut Connection, name: &str, filters: Option<&Filters>) -> Result<()> {
    let missing = missing_tables(source, name, filters)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(Error::new(
        ErrorKind::Source,
        format!(
            "publication \"{name}\" does not send the changes of table {}, which appeared on the source after the start",
            list.join(", ")
        ),
    )
    .with_hint(format!(
        "Create the table on the target too and copy its rows, or drop it on the source; for changes to come: \
         ALTER PUBLICATION {} ADD TABLE {}.",
        quote_ident(name),
        list.join(", ")
    )))
}

/// Drop it, unless it is somebody else's; whether it was there.
pub fn drop(source: &mut Connection, name: &str) -> Result<bool> {
    match find(source, name)? {
        None => Ok(false),
        Some(Found::SomebodyElses) => {
            log::info!("publication \"{name}\" on the source is not ours: it stays");
            Ok(false)
        }
        Some(Found::Ours) => {
            source
                .execute(&format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name)))
                .with_context(|| format!("could not drop publication \"{name}\" on the source"))?;
            failpoint("publication.after_drop").map(|()| true)
        }
    }
}
