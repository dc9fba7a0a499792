//! What a clone needs on the target before its schema: the roles of the source (`--roles`) and the extensions. Runs in
//! the parent; the work itself is that of `copy roles` and `copy extensions`.

use std::collections::HashSet;
use std::time::Instant;

use super::{Clone, step};
use crate::catalog::Catalog;
use crate::dump::archive::Archive;
use crate::error::{Context, Error, Result, Side};
use crate::extensions;
use crate::ident::{QualifiedName, shorten};
use crate::pg::wire::Connection;
use crate::roles::{self, Script};
use crate::snapshot::Snapshot;

/// How `--roles` copies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolesOptions {
    pub no_passwords: bool,
}

/// Look at everything that is asked for beside the objects themselves, then make the roles.
pub fn make(
    clone: &Clone<'_>,
    catalog: &Catalog,
    snapshot: Option<&mut Snapshot>,
    target: &mut Connection,
) -> Result<()> {
    if !clone.spec.skip_extensions && !clone.workdir.is_step_done(step::RESTORE_PRE)? {
        let requirements = &clone.spec.requirements;
        extensions::check(&catalog.extensions, requirements, target)?;
    }
    let Some(options) = clone.spec.roles else {
        return Ok(());
    };
    if clone.workdir.is_step_done(step::ROLES)? {
        return Ok(());
    }
    let started = Instant::now();
    if let Some(snapshot) = snapshot {
        roles::write(snapshot.connection(), clone.workdir, options.no_passwords)?;
    }
    let script = roles::read(&clone.workdir.paths.roles())?;
    check_roles(clone, catalog, &script, target)?;
    roles::create(&script, target)?;
    clone.workdir.finish_step(step::ROLES, started.elapsed())
}

/// Roles that nobody can copy may own objects all the same.
fn check_roles(
    clone: &Clone<'_>,
    catalog: &Catalog,
    script: &Script,
    target: &mut Connection,
) -> Result<()> {
    if clone.spec.no_owner || clone.spec.no_acl {
        return Ok(());
    }
    let there = names(target, "SELECT rolname FROM pg_catalog.pg_roles")
        .context("could not list the roles of the target")?;
    let coming: HashSet<&str> = script.role_names().collect();
    let missing: Vec<String> = catalog
        .roles
        .iter()
        .map(ToString::to_string)
        .filter(|role| !there.contains(role) && !coming.contains(role.as_str()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = "roles that own objects of the source, or were granted rights on them, do not exist on the target and are \
                not copied";
    Err(
        Error::on(Side::Target, format!("{what}: {}", shorten(&missing)))
            .with_hint("Create them on the target, or use --no-owner and --no-acl."),
    )
}

/// Create what is missing of the source's extensions, in the schemas that were just made.
pub fn create_extensions(
    clone: &Clone<'_>,
    catalog: &Catalog,
    target: &mut Connection,
) -> Result<()> {
    if clone.spec.skip_extensions {
        return Ok(());
    }
    extensions::create(&catalog.extensions, &clone.spec.requirements, target)
}

/// The schemas that the target has from another role: ours may not change them, and need not.
pub fn schemas_of_others(target: &mut Connection) -> Result<HashSet<String>> {
    let sql = "SELECT nspname FROM pg_catalog.pg_namespace \
               WHERE nspname !~ '^pg_' AND NOT pg_catalog.pg_has_role(nspowner, 'USAGE')";
    names(target, sql).context("could not list the schemas of the target")
}

fn names(target: &mut Connection, sql: &str) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    target.query_each(sql, &mut |row| {
        names.insert(row.text(0)?.to_string());
        Ok(())
    })?;
    Ok(names)
}

/// With --skip-collations the target must have those of the source: what uses one could not be made.
pub fn check_collations(
    clone: &Clone<'_>,
    archive: &Archive,
    target: &mut Connection,
) -> Result<()> {
    if !clone.spec.skip_collations {
        return Ok(());
    }
    let mut found = HashSet::new();
    target
        .query_each(
            "SELECT n.nspname, c.collname FROM pg_catalog.pg_collation c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace \
             WHERE n.nspname <> 'pg_catalog'",
            &mut |row| {
                found.insert(QualifiedName::new(row.text(0)?, row.text(1)?).to_string());
                Ok(())
            },
        )
        .context("could not list the collations of the target")?;
    let missing: Vec<String> = archive
        .entries
        .iter()
        .filter(|entry| entry.desc == "COLLATION")
        .map(|entry| QualifiedName::new(entry.namespace.lossy(), entry.tag.lossy()).to_string())
        .filter(|name| !found.contains(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = "collations of the source do not exist on the target, and --skip-collations leaves them out";
    Err(
        Error::on(Side::Target, format!("{what}: {}", shorten(&missing))).with_hint(
            "Create them on the target, in schemas of the same names, with locales that it has.",
        ),
    )
}
