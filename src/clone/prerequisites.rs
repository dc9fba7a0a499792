//! What a clone needs on the target before its schema: the roles of the source (`--roles`) and the extensions. Runs in
//! the parent; the work itself is that of `copy roles` and `copy extensions`.

use std::collections::HashSet;
use std::time::Instant;

use super::{Clone, step};
use crate::catalog::Catalog;
use crate::dump::archive::Archive;
use crate::dump::select::Held;
use crate::error::{Context, Error, ErrorKind, Result, Side};
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

/// The roles to create, read from the source. None when they are not asked for, or done.
pub fn read_roles(clone: &Clone<'_>, snapshot: Option<&mut Snapshot>) -> Result<Option<Script>> {
    let Some(options) = clone.spec.roles else {
        return Ok(None);
    };
    if clone.workdir.is_step_done(step::ROLES)? {
        return Ok(None);
    }
    if let Some(snapshot) = snapshot {
        roles::write(snapshot.connection(), clone.workdir, options.no_passwords)?;
    }
    roles::read(&clone.workdir.paths.roles()).map(Some)
}

/// Create them, once everything else was found fit.
pub fn create_roles(
    clone: &Clone<'_>,
    roles: Option<&Script>,
    target: &mut Connection,
) -> Result<()> {
    let Some(script) = roles else {
        return Ok(());
    };
    let started = Instant::now();
    roles::create(script, target)?;
    clone.workdir.finish_step(step::ROLES, started.elapsed())
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

/// The schemas and extensions that the target has from another role: we may not change them, and need not.
pub fn held(target: &mut Connection) -> Result<Held> {
    let mut names = |sql: &str| -> Result<HashSet<String>> {
        let mut names = HashSet::new();
        target.query_each(sql, &mut |row| {
            names.insert(row.text(0)?.to_string());
            Ok(())
        })?;
        Ok(names)
    };
    let schemas = names(
        "SELECT nspname FROM pg_catalog.pg_namespace \
         WHERE nspname !~ '^pg_' AND NOT pg_catalog.pg_has_role(nspowner, 'USAGE')",
    );
    let extensions = names(
        "SELECT extname FROM pg_catalog.pg_extension WHERE NOT pg_catalog.pg_has_role(extowner, 'USAGE')",
    );
    Ok(Held {
        schemas: schemas.context("could not list the schemas of the target")?,
        extensions: extensions.context("could not list the extensions of the target")?,
    })
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
        Error::new(ErrorKind::Target, format!("{what}: {}", shorten(&missing)))
            .with_side(Side::Target)
            .with_hint("Create them on the target, in schemas of the same names, with locales that it has."),
    )
}
