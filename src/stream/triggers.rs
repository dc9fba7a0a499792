//! Triggers and rules of the target that fire for replicated changes too (ENABLE ALWAYS, ENABLE REPLICA): switched off
//! while changes are applied, as what they did on the source comes as changes of its own. Noted before it is done, so
//! that a crash cannot lose which ones they were.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::ident::{QualifiedName, quote_ident, quote_literal};
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::sys::durable::{Sync, remove_file, write_atomic};
use crate::sys::failpoint::failpoint;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    pub table: QualifiedName,
    pub name: String,
    /// "TRIGGER" or "RULE".
    pub kind: String,
    /// "ALWAYS" or "REPLICA"; for the copy of such a trigger on a partition also "ORIGIN" or "DISABLED".
    pub when: String,
}

impl Firing {
    fn is_same_object(&self, other: &Firing) -> bool {
        (&self.table, &self.name, &self.kind) == (&other.table, &other.name, &other.kind)
    }

    /// The words of ALTER TABLE that bring its state back.
    fn restoring(&self) -> &'static str {
        match self.when.as_str() {
            "ALWAYS" => "ENABLE ALWAYS",
            "REPLICA" => "ENABLE REPLICA",
            "ORIGIN" => "ENABLE",
            _ => "DISABLE",
        }
    }
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

/// Those that fire, and the copies of such triggers on partitions, whatever their state: a statement about the parent's
/// changes them too. Parents come first, so that restoring in this order leaves each as it was. Before 13 the copies are
/// internal triggers, which have no state of their own.
fn find(target: &mut Connection) -> Result<Vec<Firing>> {
    let copies = match target.server_version() {
        130_000.. => {
            "UNION ALL SELECT t.oid, t.tgrelid, t.tgname, t.tgenabled, f.depth + 1 FROM pg_trigger t \
                 JOIN firing f ON t.tgparentid = f.oid"
        }
        _ => "",
    };
    let rows = target
        .query(&format!(
            "WITH RECURSIVE firing (oid, relation, name, fires, depth) AS ( \
                 SELECT oid, tgrelid, tgname, tgenabled, 0 FROM pg_trigger \
                 WHERE NOT tgisinternal AND tgenabled IN ('A', 'R') {copies}) \
             SELECT n.nspname, c.relname, f.name, f.kind, CASE f.fires WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' \
                 WHEN 'O' THEN 'ORIGIN' ELSE 'DISABLED' END \
             FROM (SELECT relation, name, fires, 'TRIGGER' AS kind, max(depth) AS depth FROM firing GROUP BY 1, 2, 3 \
                   UNION ALL SELECT ev_class, rulename, ev_enabled, 'RULE', 0 FROM pg_rewrite \
                   WHERE ev_enabled IN ('A', 'R')) f \
                 JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY f.depth, 1, 2, 3"
        ))
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
            // Noted by a run that was killed in the middle: what it changed since is not what it was.
            .filter(|firing| !all.iter().any(|noted| noted.is_same_object(firing)))
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
            "{kind} {} of table {table}, which is {when}, is disabled meanwhile",
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
        failpoint("triggers.after_disable")?;
    }
    // Else a crash of the target would let them fire again, and nobody would look.
    flush_commits(target)
}

fn is_there(target: &mut Connection, firing: &Firing) -> Result<bool> {
    let (catalog, relation, name) = match firing.kind.as_str() {
        "RULE" => ("pg_rewrite", "ev_class", "rulename"),
        _ => ("pg_trigger", "tgrelid", "tgname"),
    };
    target
        .query_one(&format!(
            "SELECT EXISTS (SELECT FROM {catalog} f JOIN pg_class c ON c.oid = f.{relation} \
                 JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = {} AND c.relname = {} AND f.{name} = {})",
            quote_literal(&firing.table.schema),
            quote_literal(&firing.table.name),
            quote_literal(&firing.name)
        ))
        .context("could not look for triggers on the target")?
        .bool(0)
}

/// Switch on again what was noted, and forget the note. What is gone needs no restoring.
pub fn restore(target: &mut Connection, dir: &Path) -> Result<()> {
    let all = noted(dir)?;
    for firing in &all {
        let Firing {
            table,
            name,
            kind,
            when,
        } = firing;
        if !is_there(target, firing)? {
            log::info!(
                "{kind} {} of table {table} is gone from the target: there is nothing to restore",
                quote_ident(name)
            );
            continue;
        }
        target
            .execute(&format!(
                "ALTER TABLE {table} {} {kind} {}",
                firing.restoring(),
                quote_ident(name)
            ))
            .with_context(|| {
                format!("could not restore a trigger of table {table} on the target")
            })?;
        failpoint("triggers.after_restore")?;
        log::info!(
            "{kind} {} of table {table} is {when} again",
            quote_ident(name)
        );
    }
    // Before the note goes: a crash of the target would leave them off for ever.
    if !all.is_empty() {
        flush_commits(target)?;
    }
    remove_file(&file_in(dir))
}
