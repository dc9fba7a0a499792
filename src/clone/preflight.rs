//! What must be true before anything is changed: each problem is named with what to do about it. Runs in the parent; it
//! writes nothing anywhere.

use super::phases::Phase;
use super::{Clone, step};
use crate::catalog::{Catalog, target};
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::pg::wire::Connection;

/// How many names an error lists before it says how many more there are.
const NAMES_SHOWN: usize = 10;

/// Versions that can be source and target of one clone; a command may know one side only.
pub fn check_versions(source: Option<u32>, target: Option<u32>) -> Result<()> {
    let [from, to] = [source, target].map(|version| version.map(|version| version / 10_000));
    if let Some(from) = from.filter(|from| *from < 10) {
        return Err(Error::on(
            Side::Source,
            format!("the source is PostgreSQL {from}: 10 is the oldest supported"),
        ));
    }
    match (from, to) {
        (Some(from), Some(to)) if to < from => Err(Error::on(
            Side::Target,
            format!("the target is PostgreSQL {to}, older than the source, which is {from}"),
        )
        .with_hint(
            "A dump of a newer server cannot be restored into an older one; use a newer target.",
        )),
        _ => Ok(()),
    }
}

/// Nobody means to copy a database into itself.
pub fn check_not_the_same(source: &mut Connection, target: &mut Connection) -> Result<()> {
    let identity = "SELECT pg_catalog.current_database(), pg_catalog.pg_postmaster_start_time(), \
         pg_catalog.current_setting('port'), s.system_identifier FROM pg_catalog.pg_control_system() s";
    // A role that may not ask this has no rights to mix up two databases with either.
    let (Ok(one), Ok(other)) = (source.query_one(identity), target.query_one(identity)) else {
        return Ok(());
    };
    if (0..4).all(|column| one.bytes(column) == other.bytes(column)) {
        return Err(Error::usage(format!(
            "source and target are the same database \"{}\" of the same server",
            one.text(0)?
        )));
    }
    Ok(())
}

/// A target that can take what the catalog lists.
pub fn check_target(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    if clone.workdir.is_step_done(step::RESTORE_PRE)? {
        return Ok(());
    }
    // The command may not have talked to the source itself.
    check_versions(Some(catalog.server_version), Some(clone.target()?.version))?;
    let connection = &mut clone.open_target("clone")?;
    let row = connection
        .query_one(
            "SELECT pg_catalog.current_database(), current_user, \
             pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'), \
             pg_catalog.pg_is_in_recovery()",
        )
        .context("could not inspect the target database")?;
    if row.bool(3)? {
        return Err(Error::on(
            Side::Target,
            "the target is a standby, which cannot be written to",
        ));
    }
    if !row.bool(2)? {
        return Err(Error::on(
            Side::Target,
            format!(
                "role \"{}\" has no right to create objects in target database \"{}\"",
                row.text(1)?,
                row.text(0)?
            ),
        )
        .with_hint(format!(
            "Run on the target: GRANT CREATE ON DATABASE {} TO {}",
            crate::ident::quote_ident(row.text(0)?),
            crate::ident::quote_ident(row.text(1)?)
        )));
    }
    let found = target::fetch(connection)?;
    let spec = clone.spec;
    if !spec.no_owner && !spec.no_acl {
        let missing = catalog
            .roles
            .iter()
            .filter(|role| !found.roles.contains(*role));
        refuse_missing(
            "roles that own objects of the source, or were granted rights on them, do not exist on the target",
            missing.map(|role| role.to_string()).collect(),
            "Create them on the target, or use --no-owner and --no-acl.",
        )?;
    }
    if !spec.no_tablespaces {
        let missing = catalog
            .tablespaces
            .iter()
            .filter(|name| !found.tablespaces.contains(*name));
        refuse_missing(
            "tablespaces of the source do not exist on the target",
            missing.map(|name| name.to_string()).collect(),
            "Create them on the target, or use --no-tablespaces.",
        )?;
    }
    if !spec.skip_extensions {
        let missing = catalog
            .extensions
            .iter()
            .filter(|extension| found.extension(&extension.name).is_none());
        refuse_missing(
            "extensions of the source are not available on the target",
            missing
                .map(|extension| extension.name.to_string())
                .collect(),
            "Install their packages on the target server, or use --skip-extensions.",
        )?;
    }
    check_extension_tables(clone, catalog, &found, connection)?;
    check_empty(clone, catalog, &found)?;
    // Before anything is changed, if the command changes anything.
    match spec.phases.has(Phase::LargeObjects) && !clone.workdir.is_step_begun(step::RESTORE_PRE) {
        true => check_no_large_objects(clone, catalog, connection),
        false => Ok(()),
    }
}

/// The configuration tables of an extension that the target has already: rows that our COPY would replace are not ours.
pub fn check_extension_tables(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &target::Target,
    connection: &mut Connection,
) -> Result<()> {
    let workdir = clone.workdir;
    let is_begun = [step::RESTORE_PRE, step::TABLES]
        .iter()
        .any(|step| workdir.is_step_begun(step));
    if clone.spec.drop_if_exists || is_begun {
        return Ok(());
    }
    let mut with_rows = Vec::new();
    for table in &catalog.tables {
        let name = table.qualified_name();
        let (Some(condition), Some(there)) = (
            &table.extension_config,
            found.table(&table.schema, &table.name),
        ) else {
            continue;
        };
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {name} {condition})");
        if there.may_have_rows && connection.query_one(&sql)?.bool(0)? {
            with_rows.push(name.to_string());
        }
    }
    refuse_missing(
        "target not empty: configuration tables of extensions hold rows already",
        with_rows,
        "Empty them, or use --drop-if-exists to replace the rows.",
    )
}

/// Without --drop-if-exists, a table that is there already is somebody else's, rows or not.
fn check_empty(clone: &Clone<'_>, catalog: &Catalog, found: &target::Target) -> Result<()> {
    if clone.spec.drop_if_exists || clone.workdir.is_step_begun(step::RESTORE_PRE) {
        return Ok(());
    }
    let there: Vec<String> = catalog
        .tables
        .iter()
        .filter(|table| table.extension_config.is_none())
        .filter(|table| found.table(&table.schema, &table.name).is_some())
        .map(|table| table.qualified_name().to_string())
        .collect();
    refuse_missing(
        "target not empty: tables of the source exist there already",
        there,
        "Use an empty target database, or --drop-if-exists to replace them.",
    )
}

/// Large objects have no schema to keep them apart: one that is there would be replaced by the source's of its id.
pub fn check_no_large_objects(
    clone: &Clone<'_>,
    catalog: &Catalog,
    connection: &mut Connection,
) -> Result<()> {
    let spec = clone.spec;
    let is_none_copied = spec.skip_large_objects || catalog.large_objects.count == 0;
    if is_none_copied || spec.drop_if_exists {
        return Ok(());
    }
    let there = connection
        .query("SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid LIMIT 100")
        .context("could not list large objects of the target")?;
    let there = there
        .iter()
        .map(|row| Ok(row.text(0)?.to_string()))
        .collect::<Result<Vec<String>>>()?;
    refuse_missing(
        "target not empty: large objects exist there already",
        there,
        "Use an empty target database, --skip-large-objects, or --drop-if-exists to replace them.",
    )
}

fn refuse_missing(what: &str, names: Vec<String>, hint: &str) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Target, format!("{what}: {}", shorten(&names)))
            .with_side(Side::Target)
            .with_hint(hint),
    )
}

/// A list for people.
pub fn shorten(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMES_SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        assert_eq!(shorten(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(shorten(&names[..2]), "0, 1");
    }
}
