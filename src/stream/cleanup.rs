//! The end of a follow's traces: everything that it has made on both servers and on disk. Works when a half of it is
//! missing, and can be repeated. Runs in the process of `stream cleanup`, or of a clone that starts over. What belongs to
//! somebody else stays.

use std::path::Path;

use postgres::error::SqlState;

use super::setup::{SetUp, SetupSpec, noted, open_target_of};
use super::{origin, publication, segment, slot, triggers};
use crate::error::{Error, Result};
use crate::pg::session::{flush_commits, open_source};
use crate::pg::wire::Connection;
use crate::sentinel::Sentinel;
use crate::sys::durable::remove_file;
use crate::sys::failpoint::failpoint_at;
use crate::sys::signal::Shutdown;

/// Files of a follow's directory that are no segments.
const FILES: &[&str] = &[
    "slot",
    super::attempt::ATTEMPT,
    crate::workdir::SETUP_LOCK,
    super::relations::NOTE,
    "sentinel.json",
    "sentinel.lock",
    super::pause::WISH,
    super::pause::ANSWER,
    super::pause::LOCK,
    super::meeting::MEETING,
    super::meeting::TABLES,
    super::meeting::MET,
    super::missed::MISSED,
    super::after_crash::BOOT,
    super::setup::APPLY_ENABLED,
    "triggers.json",
    "lsn.json",
    "origin",
    "tli",
    "wal_segment_size",
];

/// Remove everything from both servers and from the disk; nothing to remove is no error. Restores the triggers. A server
/// that cannot be reached does not keep the other one from being cleaned: a slot that nobody reads fills the source's disk.
pub fn cleanup(spec: &SetupSpec, shutdown: &Shutdown) -> Result<()> {
    let noted = noted(&spec.dir)?;
    if let Some(noted) = &noted {
        check_names(spec, noted)?;
    }
    let mut removed = Vec::new();
    let source = clean_source(spec, noted.as_ref(), shutdown, &mut removed);
    let is_foreign = match &source {
        Err(error) if error.is_interrupted() => return source.map(|_| ()),
        Ok(Whose::AnotherDatabases) => true,
        _ => false,
    };
    let target = clean_target(spec, is_foreign, shutdown, &mut removed);
    if !removed.is_empty() {
        log::info!("removed {}", removed.join(", "));
    }
    match (source, target) {
        (Ok(_), Ok(())) => {}
        (Err(error), Ok(())) | (Ok(_), Err(error)) => return Err(error),
        (Err(error), Err(other)) => {
            other.log("");
            return Err(error);
        }
    }
    // They say what was set up, so they go last.
    let files = remove_files(&spec.dir)?;
    if files > 0 {
        log::info!("removed {files} files in \"{}\"", spec.dir.display());
    } else if removed.is_empty() {
        log::info!("there was nothing to clean up");
    }
    Ok(())
}

/// Other names would leave what was made, and then forget it with the files.
fn check_names(spec: &SetupSpec, noted: &SetUp) -> Result<()> {
    for (option, was, is) in [
        ("--slot-name", &noted.slot_name, &spec.slot_name),
        ("--origin", &noted.origin, &spec.origin),
    ] {
        if was != is {
            return Err(Error::state(format!(
                "cannot clean up: the follow in \"{}\" was set up with {option} {was}, not {is}",
                spec.dir.display()
            ))
            .with_hint(format!("Use {option} {was}, or another --dir.")));
        }
    }
    Ok(())
}

/// Whose the slot is.
enum Whose {
    OursOrGone,
    AnotherDatabases,
}

fn clean_source(
    spec: &SetupSpec,
    noted: Option<&SetUp>,
    shutdown: &Shutdown,
    removed: &mut Vec<String>,
) -> Result<Whose> {
    let mut source = open_source(&spec.source, &spec.application_name, shutdown)?;
    let mut note = |was_there: bool, what: String| {
        if was_there {
            removed.push(what);
        }
    };
    let name = &spec.slot_name;
    let found = slot::find(&mut source, name)?;
    if let Some(noted) = noted.filter(|_| found.is_none())
        && noted.source != spec.source.identity()
    {
        return Err(Error::state(format!(
            "cannot clean up: the follow in \"{}\" has another source, {}",
            spec.dir.display(),
            noted.source
        )));
    }
    let other = found
        .and_then(|slot| slot.database)
        .filter(|database| database != spec.source.dbname());
    let whose = match other {
        Some(database) => {
            log::info!(
                "replication slot \"{name}\" belongs to database \"{database}\": it stays, and the origin too"
            );
            Whose::AnotherDatabases
        }
        None => {
            note(
                slot::drop(&mut source, name, shutdown)?,
                format!("replication slot \"{name}\""),
            );
            Whose::OursOrGone
        }
    };
    let publication = spec.publication();
    note(
        publication::drop(&mut source, publication)?,
        format!("publication \"{publication}\""),
    );
    let sentinel_of = Sentinel::marked_slot(&mut source)?.filter(|other| other != name);
    match sentinel_of {
        Some(other) if slot::find(&mut source, &other)?.is_some() => {
            log::info!("the sentinel belongs to replication slot \"{other}\": it stays");
        }
        _ => note(
            Sentinel::drop(&mut source, &spec.dir)?,
            "the sentinel".to_owned(),
        ),
    }
    note(
        drop_schema_if_empty(&mut source)?,
        "schema \"pgcopydb\" on the source".to_owned(),
    );
    Ok(whose)
}

fn clean_target(
    spec: &SetupSpec,
    is_foreign: bool,
    shutdown: &Shutdown,
    removed: &mut Vec<String>,
) -> Result<()> {
    let mut target = open_target_of(spec, shutdown)?;
    triggers::restore(&mut target, &spec.dir)?;
    if !is_foreign && origin::drop(&mut target, &spec.origin)? {
        removed.push(format!("replication origin \"{}\"", spec.origin));
    }
    if drop_schema_if_empty(&mut target)? {
        removed.push("schema \"pgcopydb\" on the target".to_owned());
    }
    flush_commits(&mut target)
}

pub(super) fn drop_schema_if_empty(connection: &mut Connection) -> Result<bool> {
    let side = connection.side();
    let is_empty = connection
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgcopydb') \
             AND NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = 'pgcopydb')",
        )?
        .bool(0)?;
    if !is_empty {
        return Ok(false);
    }
    // RESTRICT: what somebody has put there, functions and types too, stays and keeps the schema.
    match connection.execute("DROP SCHEMA IF EXISTS pgcopydb RESTRICT") {
        Ok(_) => failpoint_at("cleanup.after_schema", || side.to_string()).map(|()| true),
        Err(error) if error.is_any_of(&[SqlState::DEPENDENT_OBJECTS_STILL_EXIST]) => Ok(false),
        Err(error) => {
            Err(error.context(format!("could not drop schema \"pgcopydb\" on the {side}")))
        }
    }
}

/// Remove what a follow has put into its directory, and nothing else.
pub fn remove_files(dir: &Path) -> Result<usize> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => {
            return Err(Error::io(
                format!("could not read directory \"{}\"", dir.display()),
                error,
            ));
        }
    };
    let mut count = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_ours(&name) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove_file(&entry.path())?;
            count += 1;
        }
    }
    // Ours when it is empty; somebody else's files keep it.
    let _ = std::fs::remove_dir(dir);
    Ok(count)
}

/// A segment, one of the others, or the temporary file of either (`NAME.tmp`, `NAME.PID.tmp`).
fn is_ours(name: &str) -> bool {
    let is_segment = |name: &str| {
        name.split_once('.').is_some_and(|(stem, ending)| {
            segment::is_segment_name(stem) && matches!(ending, "json" | "sql")
        })
    };
    let is_known = |name: &str| FILES.contains(&name) || is_segment(name);
    let is_temporary = name.strip_suffix(".tmp").is_some_and(|whole| {
        is_known(whole)
            || whole.rsplit_once('.').is_some_and(|(whole, pid)| {
                pid.bytes().all(|byte| byte.is_ascii_digit()) && is_known(whole)
            })
    });
    is_known(name) || is_temporary
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn knows_its_files_from_the_users() {
        for name in [
            "slot",
            "sentinel.json",
            "0000000100000000000000AB.json",
            "0000000100000000000000AB.sql",
            "0000000100000000000000AB.sql.tmp",
            "0000000100000000000000AB.sql.4711.tmp",
            "triggers.json.4711.tmp",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "notes.json",
            "0000000100000000000000AB.txt",
            "backup.sql",
            "notes.json.4711.tmp",
            "x.tmp",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
