//! What a clone needs on the target before its schema: the roles of the source (`--roles`) and the extensions. Runs in
//! the parent; the work itself is that of `copy roles` and `copy extensions`.

use std::collections::HashSet;
use std::time::Instant;

use super::{Clone, step};
use crate::catalog::Catalog;
use crate::error::{Context, Error, Result, Side};
use crate::extensions;
use crate::ident::shorten;
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
    mut snapshot: Option<&mut Snapshot>,
    target: &mut Connection,
) -> Result<()> {
    if let Some(snapshot) = &mut snapshot {
        check_collations(clone, snapshot, target)?;
    }
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
    let there = names(target, "SELECT rolname FROM pg_catalog.pg_roles")
        .context("could not list the roles of the target")?;
    let coming: HashSet<&str> = script.role_names().collect();
    let missing: Vec<String> = catalog
        .roles
        .iter()
        .filter(|role| role.is_needed(clone.spec.no_owner, clone.spec.no_acl))
        .map(|role| role.name.to_string())
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

fn names(server: &mut Connection, sql: &str) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    server.query_each(sql, &mut |row| {
        names.insert(row.text(0)?.to_string());
        Ok(())
    })?;
    Ok(names)
}

/// With --skip-collations the target must have those of the source: what uses one could not be made.
fn check_collations(
    clone: &Clone<'_>,
    snapshot: &mut Snapshot,
    target: &mut Connection,
) -> Result<()> {
    const COLLATIONS: &str = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname) \
        FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace \
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' \
                AND d.classid = 'pg_catalog.pg_collation'::pg_catalog.regclass AND d.objid = c.oid)";
    if !clone.spec.skip_collations {
        return Ok(());
    }
    let wanted = names(snapshot.connection(), COLLATIONS)
        .context("could not list the collations of the source")?;
    let there = names(target, COLLATIONS).context("could not list the collations of the target")?;
    let mut missing: Vec<String> = wanted.difference(&there).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    let what = "collations of the source do not exist on the target, and --skip-collations leaves them out";
    Err(
        Error::on(Side::Target, format!("{what}: {}", shorten(&missing))).with_hint(
            "Create them on the target, in schemas of the same names, with locales that it has.",
        ),
    )
}
