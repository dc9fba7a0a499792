//! What --drop-if-exists removes by itself, before pg_restore drops the rest one by one: what pg_restore could not drop
//! in any order of its own, and what it would not drop at all because it restores post-data later, without dropping.
//! Runs in the parent on its own connection to the target. Only names that the archive holds are dropped.

use std::collections::HashSet;

use crate::dump::select::Choice;
use crate::error::{Context, Result};
use crate::ident::{QualifiedName, quote_ident, quote_literal};
use crate::pg::wire::Connection;

/// Relations of one statement: each takes locks.
const BATCH: usize = 500;

/// DROP with everything that depends on it: foreign keys between tables would else keep each other alive, and so would
/// views that refer to each other.
pub fn drop_relations(target: &mut Connection, choices: &[Choice<'_>]) -> Result<()> {
    for kind in ["TABLE", "VIEW", "MATERIALIZED VIEW"] {
        let names: Vec<String> = restored(choices, kind)
            .map(|choice| {
                let entry = choice.entry;
                QualifiedName::new(entry.namespace.lossy(), entry.tag.lossy()).to_string()
            })
            .collect();
        for batch in names.chunks(BATCH) {
            target
                .execute(&format!(
                    "DROP {kind} IF EXISTS {} CASCADE",
                    batch.join(", ")
                ))
                .with_context(|| format!("could not drop objects of kind {kind} on the target"))?;
        }
    }
    Ok(())
}

/// Objects of the post-data that belong to no table. An event trigger would else see the restore of the pre-data.
pub fn drop_post_data(target: &mut Connection, choices: &[Choice<'_>]) -> Result<()> {
    for kind in ["EVENT TRIGGER", "PUBLICATION"] {
        for choice in restored(choices, kind) {
            let name = quote_ident(&choice.entry.tag.lossy());
            target
                .execute(&format!("DROP {kind} IF EXISTS {name}"))
                .with_context(|| format!("could not drop {kind} {name} on the target"))?;
        }
    }
    for choice in restored(choices, "SUBSCRIPTION") {
        let name = choice.entry.tag.lossy();
        drop_subscription(target, &name)
            .with_context(|| format!("could not drop subscription \"{name}\" on the target"))?;
    }
    Ok(())
}

/// Default privileges as they were before an earlier clone set them: what is made next would get more rights than it
/// has on the source.
pub fn reset_default_privileges(target: &mut Connection, choices: &[Choice<'_>]) -> Result<()> {
    let ours: HashSet<(String, String, String)> = restored(choices, "DEFAULT ACL")
        .map(|choice| {
            let entry = choice.entry;
            let [role, schema, tag] =
                [&entry.owner, &entry.namespace, &entry.tag].map(|text| text.lossy().into_owned());
            (role, schema, tag)
        })
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    for row in target.query(DEFAULT_PRIVILEGES)? {
        let key = [0, 1, 2].map(|column| row.text(column).map(str::to_string));
        let [role, schema, tag] = key;
        if ours.contains(&(role?, schema?, tag?)) {
            target
                .execute(row.text(3)?)
                .context("could not reset default privileges on the target")?;
        }
    }
    Ok(())
}

/// Role, schema, and the archive's tag of each default privilege, with the statement that takes it back: without a
/// schema they replace the built-in ones, which are granted again; with one they are added to others. REVOKEs come first.
const DEFAULT_PRIVILEGES: &str = "\
    WITH entry AS (
        SELECT d.defaclrole AS role, d.defaclnamespace AS schema, d.defaclacl AS acl, o.name,
            CASE d.defaclnamespace WHEN 0 THEN pg_catalog.acldefault(o.kind::\"char\", d.defaclrole) END AS built_in
        FROM pg_catalog.pg_default_acl d JOIN (VALUES ('r', 'r', 'TABLES'), ('S', 's', 'SEQUENCES'),
            ('f', 'f', 'FUNCTIONS'), ('T', 'T', 'TYPES'), ('n', 'n', 'SCHEMAS')) AS o(type, kind, name)
            ON o.type::\"char\" = d.defaclobjtype
    ), change AS (
        SELECT e.role, e.schema, e.name, 1 AS turn, 'REVOKE ALL' AS verb, 'FROM' AS word, a.grantee
        FROM entry e, pg_catalog.aclexplode(e.acl) a
        UNION
        SELECT e.role, e.schema, e.name, 2, 'GRANT ' || a.privilege_type, 'TO', a.grantee
        FROM entry e, pg_catalog.aclexplode(e.built_in) a
    )
    SELECT pg_catalog.pg_get_userbyid(c.role), coalesce(n.nspname, ''), 'DEFAULT PRIVILEGES FOR ' || c.name,
        pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I %s %s ON %s %s %s',
            pg_catalog.pg_get_userbyid(c.role), 'IN SCHEMA ' || pg_catalog.quote_ident(n.nspname), c.verb, c.name,
            c.word, CASE c.grantee WHEN 0 THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.grantee)) END)
    FROM change c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.schema
    ORDER BY c.turn";

/// A clone leaves subscriptions disabled, under the name of the slot that the source's own subscription uses: that slot
/// must live. One that is enabled is at work for somebody, and stays.
fn drop_subscription(target: &mut Connection, name: &str) -> Result<()> {
    let is_idle = format!(
        "SELECT FROM pg_catalog.pg_subscription s \
         JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = pg_catalog.current_database() \
         WHERE s.subname = {} AND NOT s.subenabled",
        quote_literal(name)
    );
    if target.query(&is_idle)?.is_empty() {
        return Ok(());
    }
    let name = quote_ident(name);
    target.execute(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"))?;
    target.execute(&format!("DROP SUBSCRIPTION {name}"))?;
    Ok(())
}

/// The entries of this kind that are restored.
fn restored<'a, 'b>(
    choices: &'a [Choice<'b>],
    kind: &'a str,
) -> impl Iterator<Item = &'a Choice<'b>> {
    choices
        .iter()
        .filter(move |choice| choice.skipped.is_none() && choice.entry.desc == kind)
}
