//! Triggers and rules of the target that fire for replicated changes too (ENABLE ALWAYS, ENABLE REPLICA): switched off
//! while changes are applied, as what they did on the source comes as changes of its own. Noted before it is done, so
//! that a crash cannot lose which ones they were.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::ident::{QualifiedName, quote_ident};
use crate::pg::wire::Connection;
use crate::sys::durable::{Sync, write_atomic};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    pub table: QualifiedName,
    pub name: String,
    /// "TRIGGER" or "RULE".
    pub kind: String,
    /// "ALWAYS" or "REPLICA".
    pub when: String,
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("triggers.json")
}

/// Those that an earlier run has switched off.
pub fn noted(dir: &Path) -> Result<Vec<Firing>> {
    let path = file_in(dir);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Error::state(format!(
                "file \"{}\" cannot be read: {error}",
                path.display()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(
            format!("could not read file \"{}\"", path.display()),
            error,
        )),
    }
}

fn find(target: &mut Connection) -> Result<Vec<Firing>> {
    let rows = target
        .query(
            "SELECT n.nspname, c.relname, f.name, f.kind, CASE f.fires WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END \
             FROM (SELECT tgrelid AS relation, tgname AS name, 'TRIGGER' AS kind, tgenabled AS fires FROM pg_trigger \
                     WHERE NOT tgisinternal AND tgparentid = 0 \
                   UNION ALL SELECT ev_class, rulename, 'RULE', ev_enabled FROM pg_rewrite) f \
                 JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE f.fires IN ('A', 'R') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
        )
        .context("could not look for triggers on the target")?;
    rows.iter()
        .map(|row| {
            Ok(Firing {
                table: QualifiedName::new(row.text(0)?, row.text(1)?),
                name: row.text(2)?.to_owned(),
                kind: row.text(3)?.to_owned(),
                when: row.text(4)?.to_owned(),
            })
        })
        .collect()
}

/// Switch them off.
pub fn disable(target: &mut Connection, dir: &Path) -> Result<()> {
    let found = find(target)?;
    if found.is_empty() {
        return Ok(());
    }
    let mut all = noted(dir)?;
    all.extend(
        found
            .iter()
            .filter(|firing| !all.contains(firing))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let bytes = serde_json::to_vec_pretty(&all)
        .map_err(|error| Error::internal(format!("could not encode triggers: {error}")))?;
    write_atomic(&file_in(dir), &bytes, Sync::Now)?;
    for Firing {
        table,
        name,
        kind,
        when,
    } in &found
    {
        log::info!(
            "{kind} {} of table {table} is ENABLE {when}: disabled until the end position",
            quote_ident(name)
        );
        target
            .execute(&format!(
                "ALTER TABLE {table} DISABLE {kind} {}",
                quote_ident(name)
            ))
            .with_context(|| {
                format!("could not disable a trigger of table {table} on the target")
            })?;
    }
    Ok(())
}

/// Switch on again what was noted, and forget the note. A table that is gone has no trigger to restore.
pub fn restore(target: &mut Connection, dir: &Path) -> Result<()> {
    let all = noted(dir)?;
    for Firing {
        table,
        name,
        kind,
        when,
    } in &all
    {
        let sql = format!(
            "ALTER TABLE IF EXISTS {table} ENABLE {when} {kind} {}",
            quote_ident(name)
        );
        target.execute(&sql).with_context(|| {
            format!("could not restore a trigger of table {table} on the target")
        })?;
        log::info!(
            "{kind} {} of table {table} is ENABLE {when} again",
            quote_ident(name)
        );
    }
    match std::fs::remove_file(file_in(dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(
            format!("could not remove file \"{}\"", file_in(dir).display()),
            error,
        )),
        _ => Ok(()),
    }
}
