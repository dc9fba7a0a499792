//! What must be true before anything is changed: each problem is named with what to do about it. Runs in the parent; it
//! writes nothing anywhere.

use std::collections::HashSet;

use super::{Clone, step};
use crate::catalog::{Catalog, target};
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::extensions;
use crate::ident::shorten;
use crate::pg::wire::Connection;
use crate::roles::Script;

/// Two servers that can be source and target of one clone.
pub fn check_servers(source: &mut Connection, target: &mut Connection) -> Result<()> {
    let (from, to) = (
        source.server_version() / 10_000,
        target.server_version() / 10_000,
    );
    if from < 10 {
        return Err(Error::on(
            Side::Source,
            format!("the source is PostgreSQL {from}: 10 is the oldest supported"),
        ));
    }
    if to < from {
        return Err(Error::on(
            Side::Target,
            format!("the target is PostgreSQL {to}, older than the source, which is {from}"),
        )
        .with_hint(
            "A dump of a newer server cannot be restored into an older one; use a newer target.",
        ));
    }
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
pub fn check_target(
    clone: &Clone<'_>,
    catalog: &Catalog,
    roles: Option<&Script>,
    connection: &mut Connection,
) -> Result<()> {
    if clone.workdir.is_step_done(step::RESTORE_PRE)? {
        return Ok(());
    }
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
        let coming: HashSet<&str> =
            roles.map_or(HashSet::new(), |script| script.role_names().collect());
        let missing = catalog
            .roles
            .iter()
            .filter(|role| !found.roles.contains(*role) && !coming.contains(&***role));
        refuse_missing(
            "roles that own objects of the source, or were granted rights on them, do not exist on the target",
            missing.map(|role| role.to_string()).collect(),
            "Create them on the target, have --roles copy them, or use --no-owner and --no-acl.",
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
        extensions::check(&catalog.extensions, &spec.requirements, connection)?;
    }
    check_extension_tables(clone, catalog, &found, connection)?;
    check_empty(clone, catalog, &found)?;
    check_no_large_objects(clone, catalog, connection)
}

/// The configuration tables of an extension that the target has already: rows that our COPY would replace are not ours.
fn check_extension_tables(
    clone: &Clone<'_>,
    catalog: &Catalog,
    found: &target::Target,
    connection: &mut Connection,
) -> Result<()> {
    if clone.spec.drop_if_exists || clone.workdir.is_step_begun(step::RESTORE_PRE) {
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
fn check_no_large_objects(
    clone: &Clone<'_>,
    catalog: &Catalog,
    connection: &mut Connection,
) -> Result<()> {
    let spec = clone.spec;
    let is_none_copied = spec.skip_large_objects || catalog.large_objects.count == 0;
    if is_none_copied || spec.drop_if_exists || clone.workdir.is_step_begun(step::RESTORE_PRE) {
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
