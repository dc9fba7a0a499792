//! What must be true of both servers before anything is made: all of it is looked at, and told together. Writes nothing.

use super::decode::Plugin;
use super::origin;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ident::QualifiedName;
use crate::pg::wire::Connection;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub plugin: Plugin,
    /// The slot is not there yet.
    pub makes_slot: bool,
}

/// Look at everything; one error names all that is missing.
pub fn check(
    source: &mut Connection,
    target: Option<&mut Connection>,
    wanted: Wanted,
) -> Result<()> {
    let mut problems = check_source(source, wanted)?;
    if let Some(target) = target {
        problems.extend(check_target(target)?);
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Source,
        format!(
            "cannot follow the source's changes: {}",
            problems.join("; ")
        ),
    )
    .with_hint("Nothing was changed on either server."))
}

fn check_source(source: &mut Connection, wanted: Wanted) -> Result<Vec<String>> {
    let row = source
        .query_one(
            "SELECT current_setting('wal_level'), \
                 (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int8, \
                 (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'), \
                 current_setting('max_wal_senders')::int8, \
                 (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), \
                 current_setting('output_plugin_libraries', true), pg_is_in_recovery(), \
                 (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()), \
                 has_database_privilege(current_database(), 'CREATE'), quote_ident(current_user)",
        )
        .context("could not look at the settings of the source")?;
    let version = source.server_version();
    let plugin = wanted.plugin;
    let mut problems = Vec::new();
    if row.text(0)? != "logical" {
        problems.push(format!(
            "source: wal_level is \"{}\", and must be \"logical\" (ALTER SYSTEM SET wal_level = logical, then restart)",
            row.text(0)?
        ));
    }
    let (slots, most_slots): (i64, i64) = (row.parse(1)?, row.parse(2)?);
    if wanted.makes_slot && slots >= most_slots {
        problems.push(format!(
            "source: all {most_slots} replication slots are in use (max_replication_slots)"
        ));
    }
    let (senders, most_senders): (i64, i64) = (row.parse(3)?, row.parse(4)?);
    if senders + 1 > most_senders {
        problems.push(format!(
            "source: all {most_senders} WAL senders are in use (max_wal_senders)"
        ));
    }
    if !row.bool(5)? {
        problems.push(format!(
            "source: role {user} lacks the right to replicate (ALTER ROLE {user} REPLICATION)",
            user = row.text(10)?
        ));
    }
    // Trap 56: since 15.19, 16.15, 17.11 and 18.6 the server has a list of plugins that it loads.
    if let Some(allowed) = row.opt_text(6)? {
        let is_allowed = allowed
            .split(',')
            .any(|name| name.trim().trim_matches('"') == plugin.name() || name.trim() == "*");
        if !is_allowed {
            problems.push(format!(
                "source: output_plugin_libraries is \"{allowed}\" and does not name \"{plugin}\" \
                 (ALTER SYSTEM SET output_plugin_libraries, then SELECT pg_reload_conf())"
            ));
        }
    }
    if row.bool(7)? && version < 16_00_00 {
        problems.push(
            "source: it is a standby, which can be followed from PostgreSQL 16 on".to_owned(),
        );
    }
    let encoding = row.text(8)?;
    if plugin != Plugin::Pgoutput && !matches!(encoding, "UTF8" | "SQL_ASCII") {
        problems.push(format!(
            "source: {plugin} sends text in the database's encoding, {encoding}: use --plugin pgoutput"
        ));
    }
    if plugin == Plugin::Pgoutput && wanted.makes_slot {
        problems.extend(check_publication_rights(source, row.bool(9)?)?);
    }
    if plugin != Plugin::TestDecoding {
        problems.extend(check_identities(source, plugin)?);
    }
    Ok(problems)
}

/// Whoever makes a publication must be allowed to, and own its tables.
fn check_publication_rights(source: &mut Connection, may_create: bool) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if !may_create {
        problems.push("source: no right to create a publication in the database".to_owned());
    }
    let row = source.query_one(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' \
           AND n.nspname NOT IN ('information_schema', 'pgcopydb') AND NOT pg_has_role(c.relowner, 'USAGE')",
    )?;
    let count: u64 = row.parse(0)?;
    if count > 0 {
        problems.push(format!(
            "source: {count} tables belong to others, and only owners can publish them: use --plugin test_decoding"
        ));
    }
    Ok(problems)
}

/// Tables of which these plugins would skip updates and deletes in silence, or whose updates a publication would refuse.
fn check_identities(source: &mut Connection, plugin: Plugin) -> Result<Vec<String>> {
    let rows = source
        .query(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' \
               AND n.nspname NOT IN ('information_schema', 'pgcopydb') \
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                   AND d.deptype = 'e') \
               AND (c.relreplident = 'n' \
                 OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i \
                     WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid) \
                 OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i \
                     WHERE i.indrelid = c.oid AND i.indisreplident)) \
             ORDER BY 1, 2",
        )
        .context("could not look at the replica identities of the source")?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut alters = Vec::new();
    for row in &rows {
        let name = QualifiedName::new(row.text(0)?, row.text(1)?);
        alters.push(format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"));
    }
    Ok(vec![format!(
        "source: {} tables have no usable replica identity, so that {plugin} cannot tell which rows are updated or deleted: {} \
         (or USING INDEX; tables that are only ever inserted into can be followed with --plugin test_decoding)",
        rows.len(),
        alters.join(" ")
    )])
}

fn check_target(target: &mut Connection) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let row = target
        .query_one(
            "SELECT pg_is_in_recovery(), current_setting('max_replication_slots')::int8, \
                 current_setting('max_active_replication_origins', true), quote_ident(current_user)",
        )
        .context("could not look at the settings of the target")?;
    if row.bool(0)? {
        problems.push("target: it is a standby".to_owned());
    }
    if let Err(error) = target.execute("SET session_replication_role = replica") {
        if error.is_connection_lost() || error.is_interrupted() {
            return Err(error);
        }
        problems.push(format!(
            "target: role {user} may not set session_replication_role, so triggers and foreign keys would fire \
             (GRANT SET ON PARAMETER session_replication_role TO {user}, from PostgreSQL 15 on)",
            user = row.text(3)?
        ));
    }
    let has_rights = origin::missing_rights(target)?.is_empty();
    // Sessions with an origin need a place, which is another setting since 18.
    let places: i64 = match row.opt_text(2)? {
        Some(text) => text.parse().unwrap_or(0),
        None => row.parse(1)?,
    };
    if has_rights && places == 0 {
        problems.push(
            "target: there is no place for a replication origin (max_replication_slots, from 18 on \
             max_active_replication_origins)"
                .to_owned(),
        );
    }
    Ok(problems)
}
