//! What a follow needs on both servers: publication, slot, origin, sentinel. Made in this order, each found again by a later
//! run; and all removed by `cleanup`. Runs in the process that sets up: `clone --follow`, `follow`, `snapshot --follow`,
//! `stream setup`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::apply::PositionKeeper;
use super::decode::{Plugin, wal2json};
use super::preconditions::{self, Wanted};
use super::slot::{self, NewSlot};
use super::{origin, publication, segment, triggers};
use crate::error::{Error, Result, Side};
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{TargetSettings, open_source, open_target};
use crate::pg::wire::Connection;
use crate::sentinel::Sentinel;
use crate::snapshot::{Snapshot, hold_until_signal};
use crate::sys::durable::Sync;
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, done, location};

/// What to set up, under which names.
#[derive(Debug, Clone)]
pub struct SetupSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    pub plugin: Plugin,
    pub slot_name: String,
    pub origin: String,
    /// Where the files of the follow are.
    pub dir: PathBuf,
    pub application_name: String,
}

impl SetupSpec {
    /// The publication that pgoutput needs.
    pub fn publication(&self) -> &str {
        publication_of(&self.slot_name)
    }
}

/// What was set up; kept with the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUp {
    pub slot_name: String,
    pub plugin: Plugin,
    pub origin: String,
    /// Whether a table keeps the position instead of an origin.
    pub has_progress_table: bool,
    /// Everything that commits after it comes through the slot.
    pub startpos: Lsn,
    pub source: String,
    pub target: String,
}

impl SetUp {
    pub fn keeper(&self) -> PositionKeeper {
        match self.has_progress_table {
            true => PositionKeeper::Table,
            false => PositionKeeper::Origin,
        }
    }
}

/// The publication of a slot, for pgoutput.
pub fn publication_of(slot_name: &str) -> &str {
    slot_name
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("slot")
}

/// What an earlier process has set up here.
pub fn noted(dir: &Path) -> Result<Option<SetUp>> {
    done::read(&file_in(dir))
}

/// Set up what is missing. The new slot, if one was made, holds the snapshot that fits to it.
pub fn run(spec: &SetupSpec, shutdown: &Shutdown) -> Result<(SetUp, Option<NewSlot>)> {
    segment::make_directory(&spec.dir)?;
    let mut source = open_source(&spec.source, &spec.application_name, shutdown)?;
    let mut target = open(spec, shutdown)?;
    let noted = noted(&spec.dir)?;
    if let Some(noted) = &noted {
        check_noted(spec, noted)?;
    }
    let found = slot::find(&mut source, &spec.slot_name)?;
    if noted.is_some() && found.is_none() {
        return Err(Error::on(
            Side::Source,
            format!(
                "replication slot \"{}\" is gone from the source: changes may be lost",
                spec.slot_name
            ),
        )
        .with_hint("Run \"pgcopydb stream cleanup\", then start over with a new clone."));
    }
    let wanted = Wanted {
        plugin: spec.plugin,
        makes_slot: found.is_none(),
    };
    preconditions::check(&mut source, Some(&mut target), wanted)?;
    if let Some(slot) = &found {
        slot::check(slot, &spec.slot_name, spec.plugin, spec.source.dbname())?;
    }
    let known_keeper = origin::find(&mut target, &spec.origin)?;
    if found.is_none() && known_keeper.is_some() {
        return Err(Error::on(
            Side::Target,
            format!(
                "replication origin \"{}\" is on the target already, from another run",
                spec.origin
            ),
        )
        .with_hint("Run \"pgcopydb stream cleanup\", or choose another --origin."));
    }
    make_publication(spec, &mut source)?;
    let (startpos, new) = match found {
        Some(slot) => (slot.confirmed_flush.unwrap_or(Lsn::INVALID), None),
        None => {
            let new = slot::create(
                &spec.source,
                &spec.application_name,
                &spec.slot_name,
                spec.plugin,
                shutdown,
            )?;
            log::info!(
                "created replication slot \"{}\" with plugin {}: changes come from {} on",
                spec.slot_name,
                spec.plugin,
                new.consistent_point
            );
            if let Err(error) = check_wal2json(spec, &mut source) {
                drop(new);
                slot::drop(&mut source, &spec.slot_name, shutdown)?;
                return Err(error);
            }
            (new.consistent_point, Some(new))
        }
    };
    let startpos = noted.as_ref().map_or(startpos, |noted| noted.startpos);
    let keeper = match known_keeper {
        Some(keeper) => keeper,
        None => origin::create(&mut target, &spec.origin, startpos)?,
    };
    let set_up = SetUp {
        slot_name: spec.slot_name.clone(),
        plugin: spec.plugin,
        origin: spec.origin.clone(),
        has_progress_table: keeper == PositionKeeper::Table,
        startpos,
        source: spec.source.identity(),
        target: spec.target.identity(),
    };
    let sentinel = Sentinel::create(source, &spec.dir, startpos)?;
    drop(sentinel);
    // Last: who finds it finds everything.
    done::write(&file_in(&spec.dir), &set_up, Sync::Now)?;
    Ok((set_up, new))
}

fn open(spec: &SetupSpec, shutdown: &Shutdown) -> Result<Connection> {
    let settings = TargetSettings {
        maintenance_work_mem: "64MB".to_owned(),
    };
    open_target(&spec.target, &spec.application_name, &settings, shutdown)
}

fn check_noted(spec: &SetupSpec, noted: &SetUp) -> Result<()> {
    let pairs = [
        ("--slot-name", &noted.slot_name, &spec.slot_name),
        ("--origin", &noted.origin, &spec.origin),
        (
            "--plugin",
            &noted.plugin.to_string(),
            &spec.plugin.to_string(),
        ),
        ("--source", &noted.source, &spec.source.identity()),
        ("--target", &noted.target, &spec.target.identity()),
    ]
    .map(|(option, was, is)| {
        (was != is).then(|| format!("{option} was \"{was}\" and is now \"{is}\""))
    });
    let differences: Vec<String> = pairs.into_iter().flatten().collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::state(format!(
        "cannot go on in \"{}\": {}",
        spec.dir.display(),
        differences.join("; ")
    ))
    .with_hint("Use the options of the first run, another --dir, or \"pgcopydb stream cleanup\"."))
}

/// A wal2json that cannot send numbers as strings sends NaN and the infinities as null: tables with such columns are
/// refused. Only a slot can be asked what its plugin knows.
fn check_wal2json(spec: &SetupSpec, source: &mut Connection) -> Result<()> {
    if spec.plugin != Plugin::Wal2json
        || wal2json::supports_numeric_as_string(source, &spec.slot_name)?
    {
        return Ok(());
    }
    let columns = source.query(
        "SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(c.relname), format_type(a.atttypid, -1) \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND a.attnum > 0 AND NOT a.attisdropped \
           AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgcopydb') ORDER BY 1",
    )?;
    let mut tables: Vec<String> = Vec::new();
    for row in &columns {
        let table = row.text(0)?;
        if wal2json::is_ambiguous_without_strings(row.text(1)?)
            && tables.last().is_none_or(|last| last != table)
        {
            tables.push(table.to_owned());
        }
    }
    if tables.is_empty() {
        return Ok(());
    }
    Err(Error::on(
        Side::Source,
        format!(
            "cannot follow with this wal2json: it sends NaN and Infinity as null, and {} tables have float or numeric columns: {}",
            tables.len(),
            tables.join(", ")
        ),
    )
    .with_hint("Use --plugin test_decoding or pgoutput, or install wal2json 2.6 or newer."))
}

fn make_publication(spec: &SetupSpec, source: &mut Connection) -> Result<()> {
    let name = spec.publication();
    if spec.plugin == Plugin::Pgoutput && !publication::exists(source, name)? {
        publication::create(source, name)?;
    }
    Ok(())
}

/// `snapshot --follow`: make the slot and hold the snapshot that comes with it until a signal. The slot stays; a clone that
/// follows, in the same work directory, uses both.
pub fn hold_slot_snapshot(
    info: &ConnInfo,
    dir: Option<&Path>,
    slot_name: &str,
    plugin: Plugin,
    shutdown: &Shutdown,
    announce: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    const NAME: &str = "pgcopydb snapshot";
    let workdir = WorkDir::open(&location(dir), Service::Snapshot)?;
    let mut source = open_source(info, NAME, shutdown)?;
    if slot::find(&mut source, slot_name)?.is_some() {
        return Err(Error::on(
            Side::Source,
            format!("replication slot \"{slot_name}\" is there already: its snapshot cannot be exported again"),
        )
        .with_hint("Run \"pgcopydb stream cleanup\", or choose another --slot-name."));
    }
    let wanted = Wanted {
        plugin,
        makes_slot: true,
    };
    preconditions::check(&mut source, None, wanted)?;
    if plugin == Plugin::Pgoutput && !publication::exists(&mut source, publication_of(slot_name))? {
        publication::create(&mut source, publication_of(slot_name))?;
    }
    let new = slot::create(info, NAME, slot_name, plugin, shutdown)?;
    let lsn = new.consistent_point;
    let mut snapshot =
        Snapshot::of_slot(info, &new.snapshot, lsn, Some(new.exporter), NAME, shutdown)?;
    workdir.note_slot_snapshot(snapshot.id(), lsn, slot_name)?;
    log::info!(
        "created replication slot \"{slot_name}\" at {lsn}; holding snapshot {} until a signal",
        snapshot.id()
    );
    let held = hold_until_signal(&mut snapshot, shutdown, announce);
    workdir.forget_snapshot()?;
    held
}

/// Remove everything from both servers and from the disk; nothing to remove is no error. Restores the triggers.
pub fn cleanup(spec: &SetupSpec, shutdown: &Shutdown) -> Result<()> {
    let mut target = open(spec, shutdown)?;
    triggers::restore(&mut target, &spec.dir)?;
    let mut source = open_source(&spec.source, &spec.application_name, shutdown)?;
    let mut removed = Vec::new();
    let mut note = |was_there: bool, what: String| {
        if was_there {
            removed.push(what);
        }
    };
    let slot_name = &spec.slot_name;
    note(
        slot::drop(&mut source, slot_name, shutdown)?,
        format!("replication slot \"{slot_name}\""),
    );
    let publication = spec.publication();
    note(
        publication::drop(&mut source, publication)?,
        format!("publication \"{publication}\""),
    );
    note(
        Sentinel::drop(&mut source, &spec.dir)?,
        "the sentinel".to_owned(),
    );
    note(
        origin::drop(&mut target, &spec.origin)?,
        format!("replication origin \"{}\"", spec.origin),
    );
    for connection in [&mut source, &mut target] {
        let side = connection.side();
        note(
            drop_schema_if_empty(connection)?,
            format!("schema \"pgcopydb\" on the {side}"),
        );
    }
    crate::pg::session::flush_commits(&mut target)?;
    let files = remove_files(&spec.dir)?;
    note(
        files > 0,
        format!("{files} files in \"{}\"", spec.dir.display()),
    );
    match removed.is_empty() {
        true => log::info!("there was nothing to clean up"),
        false => log::info!("removed {}", removed.join(", ")),
    }
    Ok(())
}

fn drop_schema_if_empty(connection: &mut Connection) -> Result<bool> {
    let is_empty = connection
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgcopydb') \
             AND NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = 'pgcopydb')",
        )?
        .bool(0)?;
    if is_empty {
        // RESTRICT: what somebody has put there stays.
        connection.execute("DROP SCHEMA pgcopydb RESTRICT")?;
    }
    Ok(is_empty)
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
        let is_ours = name == "slot"
            || ["json", "sql", "tmp"]
                .iter()
                .any(|ending| name.ends_with(&format!(".{ending}")));
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            std::fs::remove_file(entry.path()).map_err(|error| {
                Error::io(
                    format!("could not remove file \"{}\"", entry.path().display()),
                    error,
                )
            })?;
            count += 1;
        }
    }
    // Ours when it is empty; somebody else's files keep it.
    let _ = std::fs::remove_dir(dir);
    Ok(count)
}
