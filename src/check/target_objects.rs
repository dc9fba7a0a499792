//! What the role that connects to the target may use there, and what is there already. Fetched in a few queries by the
//! process that checks, on a prepared session. Changes nothing.

use std::collections::HashSet;

use crate::catalog::{self, Catalog, Target};
use crate::error::{Context, Result};
use crate::pg::wire::Connection;

/// An extension that the target offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub name: String,
    /// Only a superuser may create it.
    pub needs_superuser: bool,
    pub is_installed: bool,
    /// It is installed, and our role may act as its owner.
    pub is_ours: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetObjects {
    pub found: Target,
    /// Schemas that belong to another role: ours may not change them, and need not.
    pub schemas_of_others: HashSet<String>,
    /// Schemas that our role may not create anything in.
    pub closed_schemas: HashSet<String>,
    /// Roles that objects may be given to.
    pub roles_to_give_to: HashSet<String>,
    pub tablespaces_to_use: HashSet<String>,
    pub offers: Vec<Offer>,
    /// Those that would fire.
    pub event_triggers: Vec<String>,
    /// Configuration tables of extensions that hold rows already.
    pub filled_config_tables: Vec<String>,
    /// Some of the large objects that are there.
    pub large_objects: Vec<String>,
    /// Modules in the server that do not come with PostgreSQL, by the settings that they bring.
    pub foreign_modules: Vec<String>,
}

impl TargetObjects {
    pub fn offer(&self, name: &str) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.name == name)
    }
}

const CLOSED_SCHEMAS: &str = "SELECT nspname FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT has_schema_privilege(oid, 'CREATE')";

pub fn fetch(target: &mut Connection, catalog: &Catalog) -> Result<TargetObjects> {
    let found = catalog::target::fetch(target)?;
    let filled_config_tables =
        catalog::target::fetch_filled_config_tables(target, catalog, &found)?;
    let version = target.server_version();
    Ok(TargetObjects {
        schemas_of_others: schemas_of_others(target)?,
        closed_schemas: names(target, CLOSED_SCHEMAS)?.into_iter().collect(),
        roles_to_give_to: names(target, roles_sql(version))?.into_iter().collect(),
        tablespaces_to_use: names(target, TABLESPACES)?.into_iter().collect(),
        offers: fetch_offers(target)?,
        event_triggers: names(target, EVENT_TRIGGERS)?,
        filled_config_tables,
        large_objects: names(target, LARGE_OBJECTS)?,
        foreign_modules: names(target, FOREIGN_MODULES)?,
        found,
    })
}

pub fn schemas_of_others(target: &mut Connection) -> Result<HashSet<String>> {
    Ok(names(target, SCHEMAS_OF_OTHERS)?.into_iter().collect())
}

fn names(target: &mut Connection, sql: &str) -> Result<Vec<String>> {
    let rows = target
        .query(sql)
        .context("could not look at objects of the target")?;
    rows.iter()
        .map(|row| row.text(0).map(str::to_owned))
        .collect()
}

/// Since 16 a member may act as a role only where SET was granted with the membership.
fn roles_sql(version: u32) -> &'static str {
    match version {
        16_00_00.. => "SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'SET')",
        _ => "SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'MEMBER')",
    }
}

const SCHEMAS_OF_OTHERS: &str = "SELECT nspname FROM pg_catalog.pg_namespace
WHERE nspname !~ '^pg_' AND NOT pg_catalog.pg_has_role(nspowner, 'USAGE')";

const TABLESPACES: &str =
    "SELECT spcname FROM pg_tablespace WHERE has_tablespace_privilege(oid, 'CREATE')";

const EVENT_TRIGGERS: &str =
    "SELECT evtname FROM pg_event_trigger WHERE evtenabled IN ('O', 'A') ORDER BY 1";

const LARGE_OBJECTS: &str = "SELECT oid::text FROM pg_largeobject_metadata ORDER BY oid LIMIT 100";

/// Which libraries are loaded is not for everybody to see; the settings of most of them are.
const FOREIGN_MODULES: &str = "SELECT DISTINCT split_part(name, '.', 1) FROM pg_settings
WHERE name LIKE '%.%' AND split_part(name, '.', 1) NOT IN ('auth_delay', 'auto_explain', 'basebackup_to_shell',
    'basic_archive', 'isn', 'passwordcheck', 'pg_prewarm', 'pg_stat_statements', 'pg_trgm', 'plperl', 'plpgsql', 'pltcl',
    'postgres_fdw', 'sepgsql')
ORDER BY 1";

fn fetch_offers(target: &mut Connection) -> Result<Vec<Offer>> {
    // Trusted extensions exist since 13.
    let trusted = match target.server_version() {
        13_00_00.. => "v.trusted",
        _ => "false",
    };
    let rows = target
        .query(&format!(
            "SELECT e.name, v.superuser AND NOT {trusted}, x.oid IS NOT NULL, \
                 coalesce(pg_has_role(x.extowner, 'USAGE'), false) \
             FROM pg_available_extensions e \
                 LEFT JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version \
                 LEFT JOIN pg_extension x ON x.extname = e.name"
        ))
        .context("could not list the extensions that the target offers")?;
    rows.iter()
        .map(|row| {
            Ok(Offer {
                name: row.text(0)?.to_owned(),
                // Without its script nobody can create it, which is another matter.
                needs_superuser: row.opt_text(1)? == Some("t"),
                is_installed: row.bool(2)?,
                is_ours: row.bool(3)?,
            })
        })
        .collect()
}
