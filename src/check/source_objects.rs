//! What the role that connects to the source can and cannot do with its objects, fetched in a few queries whatever their
//! number. Runs in the process that checks, on a prepared session. Reads catalogs only.

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::ident::{Oid, QualifiedName};
use crate::pg::wire::Connection;

/// A table or sequence that the role cannot read as a copy must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub oid: Oid,
    pub name: QualifiedName,
    pub obstacle: Obstacle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// No SELECT, or no USAGE of the schema.
    NoRight,
    /// Policies would hide rows. The owner can lift it, others need BYPASSRLS.
    RowSecurity { is_owner: bool },
}

/// The kind of privileges that pg_restore grants as the role that did.
pub const FOREIGN_GRANT: &str = "grant by another role than the owner on";

/// An object that only a superuser may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuperuserOnly {
    pub kind: String,
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceObjects {
    pub closed: Vec<Closed>,
    /// Roles that own something that is copied, other than a schema; schema "public" counts all the same.
    pub owners: Vec<String>,
    /// (schema, owner)
    pub schemas: Vec<(String, String)>,
    pub superuser_only: Vec<SuperuserOnly>,
    pub event_triggers: Vec<String>,
    /// Collations in use whose library has another version than when they were made.
    pub stale_collations: Vec<String>,
    pub closed_large_objects: u64,
    /// User mappings of foreign servers whose options the role may not see.
    pub closed_user_mappings: u64,
    pub subscriptions: u64,
    /// Schema "public" belongs to the role that made the cluster, as it did before 15 by default.
    pub is_public_of_the_cluster: bool,
}

pub fn fetch(source: &mut Connection) -> Result<SourceObjects> {
    let row = source
        .query_one(COUNTS)
        .context("could not count objects of the source")?;
    Ok(SourceObjects {
        closed: fetch_closed(source)?,
        owners: names(source, OWNERS)?,
        schemas: fetch_schemas(source)?,
        superuser_only: fetch_superuser_only(source)?,
        event_triggers: names(source, EVENT_TRIGGERS)?,
        // A library that is gone makes the server refuse to tell its version: then there is nothing to compare.
        stale_collations: names(source, STALE_COLLATIONS).or_else(ignore_refusal)?,
        closed_large_objects: row.parse(0)?,
        closed_user_mappings: row.parse(1)?,
        subscriptions: row.parse(2)?,
        is_public_of_the_cluster: row.bool(3)?,
    })
}

fn ignore_refusal(error: crate::error::Error) -> Result<Vec<String>> {
    match error.is_connection_lost() || error.is_interrupted() {
        true => Err(error),
        false => {
            log::debug!("{error}");
            Ok(Vec::new())
        }
    }
}

fn names(source: &mut Connection, sql: &str) -> Result<Vec<String>> {
    let rows = source
        .query(sql)
        .context("could not look at objects of the source")?;
    rows.iter()
        .map(|row| row.text(0).map(str::to_owned))
        .collect()
}

/// A large object without an entry for us in its ACL is closed to us. A mapping's options are NULL where pg_user_mappings
/// hides them, and also where there are none: so its own rule is asked.
const COUNTS: &str = "SELECT
    (SELECT count(*) FROM pg_largeobject_metadata l
     WHERE NOT me.rolsuper AND current_setting('lo_compat_privileges') = 'off' AND NOT pg_has_role(l.lomowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
           AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))),
    (SELECT count(*) FROM pg_user_mappings u JOIN pg_foreign_server s ON s.oid = u.srvid
     WHERE NOT me.rolsuper AND u.umoptions IS NULL AND NOT (pg_has_role(s.srvowner, 'USAGE')
           AND (u.umuser = 0 OR u.usename = me.rolname))
       AND NOT (u.usename = me.rolname AND has_server_privilege(s.oid, 'USAGE'))),
    (SELECT count(*) FROM pg_subscription WHERE NOT me.rolsuper
       AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())),
    EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public' AND nspowner = 10)
FROM pg_roles me WHERE me.rolname = current_user";

/// Tables are locked and read, of sequences the last value is read.
const CLOSED: &str =
    "SELECT c.oid, n.nspname, c.relname, r.can_read, pg_has_role(c.relowner, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind
        WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
        ELSE has_table_privilege(c.oid, 'SELECT') END AS can_read) r
WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND (NOT r.can_read OR c.relkind <> 'S' AND c.relrowsecurity AND row_security_active(c.oid))
ORDER BY 2, 3";

fn fetch_closed(source: &mut Connection) -> Result<Vec<Closed>> {
    let mut closed = Vec::new();
    source
        .query_each(CLOSED, &mut |row| {
            let obstacle = match row.bool(3)? {
                true => Obstacle::RowSecurity {
                    is_owner: row.bool(4)?,
                },
                false => Obstacle::NoRight,
            };
            closed.push(Closed {
                oid: row.parse(0)?,
                name: QualifiedName::new(row.text(1)?, row.text(2)?),
                obstacle,
            });
            Ok(())
        })
        .context("could not look at the rights of our role on the source")?;
    Ok(closed)
}

/// What belongs to the role that made the cluster (oid 10) is not in pg_shdepend, so its tables and functions are asked.
/// Schema "public" counts where somebody else was made its owner. Since 15 pg_database_owner is, which is any database's.
const OWNERS: &str = "WITH member AS (
    SELECT classid, objid FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
), owned AS (
    SELECT s.refobjid AS owner, s.classid, s.objid FROM pg_shdepend s
    WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o'
      AND s.classid NOT IN ('pg_extension'::regclass, 'pg_user_mapping'::regclass)
      AND (s.classid <> 'pg_namespace'::regclass
        OR s.objid = (SELECT oid FROM pg_namespace WHERE nspname = 'public'))
    UNION ALL SELECT 10, 'pg_class'::regclass, oid FROM pg_class
        WHERE relowner = 10 AND relkind NOT IN ('i', 'I', 't') AND relpersistence <> 't'
    UNION ALL SELECT 10, 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
    UNION ALL SELECT 10, 'pg_type'::regclass, oid FROM pg_type
        WHERE typowner = 10 AND typrelid = 0 AND typelem = 0
)
SELECT DISTINCT r.rolname FROM owned o JOIN pg_roles r ON r.oid = o.owner AND r.rolname <> 'pg_database_owner'
WHERE (o.objid >= 16384 OR o.classid = 'pg_namespace'::regclass
        AND o.objid = (SELECT oid FROM pg_namespace WHERE nspname = 'public'))
    AND (o.classid, o.objid) NOT IN (SELECT classid, objid FROM member)
ORDER BY 1";

/// What a target has of these already may belong to another role there.
const SCHEMAS: &str = "SELECT n.nspname, r.rolname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
WHERE n.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('public', 'pgcopydb')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid
        AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
ORDER BY 1";

fn fetch_schemas(source: &mut Connection) -> Result<Vec<(String, String)>> {
    let rows = source
        .query(SCHEMAS)
        .context("could not look at the schemas of the source")?;
    rows.iter()
        .map(|row| Ok((row.text(0)?.to_owned(), row.text(1)?.to_owned())))
        .collect()
}

/// Event triggers that are no extension's.
const EVENT_TRIGGERS: &str = "SELECT e.evtname FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e') ORDER BY 1";

/// Only what something refers to: initdb makes hundreds that nobody uses.
const STALE_COLLATIONS: &str = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname)
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE c.collversion IS NOT NULL
    AND c.oid IN (SELECT refobjid FROM pg_depend WHERE refclassid = 'pg_collation'::regclass)
    AND c.collversion <> pg_collation_actual_version(c.oid)
ORDER BY 1";

fn fetch_superuser_only(source: &mut Connection) -> Result<Vec<SuperuserOnly>> {
    let rows = source
        .query(&superuser_only_sql(source.server_version()))
        .context("could not look for objects of superusers on the source")?;
    rows.iter()
        .map(|row| {
            Ok(SuperuserOnly {
                kind: row.text(0)?.to_owned(),
                name: row.text(1)?.to_owned(),
            })
        })
        .collect()
}

/// Without the members of extensions, which CREATE EXTENSION makes.
fn superuser_only_sql(version: u32) -> String {
    let schemas = match version {
        15_00_00.. => {
            "OR EXISTS (SELECT FROM pg_publication_namespace pn WHERE pn.pnpubid = p.oid)"
        }
        _ => "",
    };
    format!(
        "SELECT o.kind, o.name FROM (
    SELECT 'event trigger' AS kind, 'pg_event_trigger'::regclass AS classid, e.oid, e.evtname::text AS name
        FROM pg_event_trigger e
    UNION ALL SELECT 'publication of all tables', 'pg_publication'::regclass, p.oid, p.pubname
        FROM pg_publication p WHERE p.puballtables {schemas}
    UNION ALL SELECT 'foreign-data wrapper', 'pg_foreign_data_wrapper'::regclass, f.oid, f.fdwname
        FROM pg_foreign_data_wrapper f
    UNION ALL SELECT 'function in C', 'pg_proc'::regclass, f.oid, f.proname
        FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang WHERE l.lanname IN ('c', 'internal')
    UNION ALL SELECT 'function in an untrusted language', 'pg_proc'::regclass, f.oid, f.proname
        FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang
        WHERE NOT l.lanpltrusted AND l.lanname NOT IN ('c', 'internal')
    UNION ALL SELECT 'language', 'pg_language'::regclass, l.oid, l.lanname FROM pg_language l
    UNION ALL SELECT 'base type', 'pg_type'::regclass, t.oid, t.typname
        FROM pg_type t WHERE t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    UNION ALL SELECT 'operator class', 'pg_opclass'::regclass, c.oid, c.opcname FROM pg_opclass c
    UNION ALL SELECT 'access method', 'pg_am'::regclass, a.oid, a.amname FROM pg_am a
    UNION ALL SELECT 'text search parser', 'pg_ts_parser'::regclass, x.oid, x.prsname FROM pg_ts_parser x
    UNION ALL SELECT 'text search template', 'pg_ts_template'::regclass, x.oid, x.tmplname FROM pg_ts_template x
    UNION ALL SELECT '{FOREIGN_GRANT}', 'pg_class'::regclass, c.oid, c.relname FROM pg_class c
        WHERE EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantor <> c.relowner)
    UNION ALL SELECT '{FOREIGN_GRANT}', 'pg_namespace'::regclass, n.oid, n.nspname FROM pg_namespace n
        WHERE EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantor <> n.nspowner)
    UNION ALL SELECT '{FOREIGN_GRANT}', 'pg_proc'::regclass, f.oid, f.proname FROM pg_proc f
        WHERE EXISTS (SELECT FROM aclexplode(f.proacl) a WHERE a.grantor <> f.proowner)
) o
WHERE o.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
ORDER BY 1, 2"
    )
}
