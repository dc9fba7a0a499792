//! What a follow needs on both servers: publication, slot, origin, sentinel. Made in this order, each found again by a later
//! run; `cleanup` removes them. Runs in the process that sets up: `clone --follow`, `follow`, `stream setup`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::error::SqlState;
use serde::{Deserialize, Serialize};

use super::apply::PositionKeeper;
use super::decode::{Plugin, wal2json};
use super::ownership::{Beginning, Found, Names};
use super::preconditions::{self, Wanted};
use super::slot::{self, NewSlot, Slot};
use super::{attempt, cleanup, origin, ownership, publication, relations, segment};
use crate::error::{Error, Result, Side};
use crate::filter::Filters;
use crate::lsn::Lsn;
use crate::pg::connect::connect_once;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{TargetSettings, open_source, open_target};
use crate::pg::wire::Connection;
use crate::sentinel::Sentinel;
use crate::sys::durable::{Sync, remove_file, write_atomic};
use crate::sys::signal::Shutdown;
use crate::workdir::done;

pub use super::cleanup::cleanup;

/// For each server: a run that ends because of a signal has ten seconds for everything.
const UNDO_WAIT: Duration = Duration::from_secs(3);

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
    /// What is not followed.
    pub filters: Option<Filters>,
}

impl SetupSpec {
    /// What the filters say, for comparing; `none` without any.
    pub fn filter_words(&self) -> String {
        self.filters
            .as_ref()
            .map_or_else(no_filters, Filters::words)
    }

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
    #[serde(default = "no_filters")]
    pub filters: String,
}

fn no_filters() -> String {
    "none".to_owned()
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

/// Its presence says that a clone has allowed applying: from then on it is for the user to allow or not.
pub const APPLY_ENABLED: &str = "apply-enabled";

pub fn has_enabled_apply(dir: &Path) -> bool {
    dir.join(APPLY_ENABLED).exists()
}

pub fn note_enabled_apply(dir: &Path) -> Result<()> {
    write_atomic(&dir.join(APPLY_ENABLED), b"", Sync::Now)
}

/// What an earlier process has set up here.
pub fn noted(dir: &Path) -> Result<Option<SetUp>> {
    done::read(&file_in(dir))
}

/// What an earlier process has set up here, if it is what is asked for now: for what needs the source only.
pub fn noted_for(spec: &SetupSpec) -> Result<Option<SetUp>> {
    let noted = noted(&spec.dir)?;
    if let Some(noted) = &noted {
        check_noted(spec, noted)?;
    }
    Ok(noted)
}

/// Set up what is missing. The new slot, if one was made, holds the snapshot that fits to it. What a setup that fails has
/// made is removed again: a slot that nobody reads would fill the source's disk.
pub fn run(spec: &SetupSpec, shutdown: &Shutdown) -> Result<(SetUp, Option<NewSlot>)> {
    segment::make_directory(&spec.dir)?;
    // What is complete may be looked at by several at once: the clone and the follow of one run.
    let _lock = match noted(&spec.dir)?.is_none() {
        true => Some(attempt::lock(&spec.dir)?),
        false => None,
    };
    let mut servers = Servers {
        source: open_source(&spec.source, &spec.application_name, shutdown)?,
        target: open_target_of(spec, shutdown)?,
    };
    let noted = noted(&spec.dir)?;
    if noted.is_none() {
        undo_killed(spec, &mut servers, shutdown)?;
    }
    let (found, beginning) = decide(spec, noted.as_ref(), &mut servers)?;
    let wanted = Wanted {
        plugin: spec.plugin,
        makes_slot: beginning == Beginning::New,
        filters: spec.filters.as_ref(),
    };
    preconditions::check(&mut servers.source, Some(&mut servers.target), wanted)?;
    match beginning {
        Beginning::Again => {
            let at = found.slot.and_then(|slot| slot.confirmed_flush);
            let startpos = noted.map_or(at.unwrap_or(Lsn::INVALID), |noted| noted.startpos);
            let keeper = found.origin.map(|(keeper, _)| keeper);
            Ok((complete(spec, servers, startpos, keeper, beginning)?, None))
        }
        Beginning::New => {
            let made = make(spec, &mut servers, shutdown).and_then(|new| {
                let set_up = complete(spec, servers, new.consistent_point, None, beginning)?;
                Ok((set_up, Some(new)))
            });
            made.inspect_err(|error| {
                if !error.is_any_of(&[SqlState::DUPLICATE_OBJECT]) {
                    undo(spec);
                }
            })
        }
    }
}

/// How it would begin with what the servers and the directory hold; the error is the refusal.
fn decide(
    spec: &SetupSpec,
    noted: Option<&SetUp>,
    servers: &mut Servers,
) -> Result<(Found, Beginning)> {
    if let Some(noted) = noted {
        check_noted(spec, noted)?;
    }
    let found = look(spec, noted.is_some(), servers)?;
    if let Some(slot) = &found.slot {
        slot::check(slot, &spec.slot_name, spec.plugin, spec.source.dbname())?;
    }
    let names = Names {
        slot: &spec.slot_name,
        origin: &spec.origin,
        plugin: spec.plugin,
    };
    let beginning = ownership::decide(names, &found)?;
    Ok((found, beginning))
}

/// What `run` would find, with nothing made: whether it would go on with a slot or make one, or the refusal; and what is
/// missing on the servers.
pub fn preview(
    spec: &SetupSpec,
    shutdown: &Shutdown,
) -> Result<(Result<Beginning>, Vec<preconditions::Problem>)> {
    let mut servers = Servers {
        source: open_source(&spec.source, &spec.application_name, shutdown)?,
        target: open_target_of(spec, shutdown)?,
    };
    let noted = noted(&spec.dir)?;
    let beginning = match noted.is_none() && killed_slot(spec, &mut servers.source)?.is_some() {
        // It would be made once more.
        true => Ok(Beginning::New),
        false => decide(spec, noted.as_ref(), &mut servers).map(|(_, beginning)| beginning),
    };
    if let Err(error) = &beginning
        && (error.is_connection_lost() || error.is_interrupted())
    {
        return Err(error.clone());
    }
    let wanted = Wanted {
        plugin: spec.plugin,
        makes_slot: !matches!(beginning, Ok(Beginning::Again)),
        filters: spec.filters.as_ref(),
    };
    let problems = preconditions::find(&mut servers.source, Some(&mut servers.target), wanted)?;
    Ok((beginning, problems))
}

/// Both connections of a setup.
struct Servers {
    source: Connection,
    target: Connection,
}

fn look(spec: &SetupSpec, is_noted: bool, servers: &mut Servers) -> Result<Found> {
    let Servers { source, target } = servers;
    let origin = match origin::find(target, &spec.origin)? {
        Some(keeper) => Some((keeper, origin::progress(target, &spec.origin, keeper)?)),
        None => None,
    };
    // Left behind by a slot that is gone, it is nobody's.
    let sentinel_of = match Sentinel::marked_slot(source)? {
        Some(name) if slot::find(source, &name)?.is_some() => Some(name),
        _ => None,
    };
    Ok(Found {
        is_noted,
        slot: slot::find(source, &spec.slot_name)?,
        origin,
        publication: publication::find(source, spec.publication())?,
        sentinel_of,
    })
}

fn make(spec: &SetupSpec, servers: &mut Servers, shutdown: &Shutdown) -> Result<NewSlot> {
    let source = &mut servers.source;
    attempt::begin(source, &spec.dir, &spec.slot_name)?;
    // Before the slot: a table may be gone when its changes come.
    relations::note(source, &spec.dir, spec.filters.as_ref())?;
    let new = NewSlotSpec {
        source: &spec.source,
        application_name: &spec.application_name,
        slot_name: &spec.slot_name,
        plugin: spec.plugin,
        filters: spec.filters.as_ref(),
    };
    make_slot(source, &new, shutdown)
}

/// A slot to make.
#[derive(Clone, Copy)]
pub struct NewSlotSpec<'a> {
    pub source: &'a ConnInfo,
    pub application_name: &'a str,
    pub slot_name: &'a str,
    pub plugin: Plugin,
    pub filters: Option<&'a Filters>,
}

/// The publication, where the plugin needs one, and then the slot: the server looks a publication up as of each change.
pub fn make_slot(
    source: &mut Connection,
    spec: &NewSlotSpec<'_>,
    shutdown: &Shutdown,
) -> Result<NewSlot> {
    let (slot_name, plugin) = (spec.slot_name, spec.plugin);
    if plugin == Plugin::Pgoutput {
        // One that an interrupted setup left may lack tables.
        publication::drop(source, publication_of(slot_name))?;
        publication::create(source, publication_of(slot_name), spec.filters)?;
    }
    let new = slot::create(
        spec.source,
        spec.application_name,
        slot_name,
        plugin,
        shutdown,
    )?;
    log::info!(
        "created replication slot \"{slot_name}\" with plugin {plugin}: changes come from {} on",
        new.consistent_point
    );
    // Only a slot can be asked what its plugin knows.
    if plugin == Plugin::Wal2json
        && let Err(error) = check_wal2json(source, slot_name)
    {
        drop(new);
        slot::drop(source, slot_name, shutdown)?;
        return Err(error);
    }
    Ok(new)
}

/// Origin, sentinel and the note of all of it.
fn complete(
    spec: &SetupSpec,
    mut servers: Servers,
    startpos: Lsn,
    keeper: Option<PositionKeeper>,
    beginning: Beginning,
) -> Result<SetUp> {
    let keeper = match keeper {
        Some(keeper) => keeper,
        None => origin::create(&mut servers.target, &spec.origin, startpos)?,
    };
    let set_up = SetUp {
        slot_name: spec.slot_name.clone(),
        plugin: spec.plugin,
        origin: spec.origin.clone(),
        has_progress_table: keeper == PositionKeeper::Table,
        startpos,
        source: spec.source.identity(),
        target: spec.target.identity(),
        filters: spec.filter_words(),
    };
    let mut sentinel = Sentinel::create(servers.source, &spec.dir, startpos)?;
    let noted = sentinel.get()?.startpos;
    if noted != startpos && (beginning == Beginning::New || noted == Lsn::INVALID) {
        // Made before the slot.
        sentinel.set_startpos(startpos)?;
    }
    if beginning == Beginning::Again {
        // Ours from here on, whoever has made it.
        sentinel.mark(&spec.slot_name)?;
    }
    // Who finds it finds everything.
    done::write(&file_in(&spec.dir), &set_up, Sync::Now)?;
    // Only now: until then the token has to tell whose the slot is.
    sentinel.mark(&spec.slot_name)?;
    attempt::end(&spec.dir)?;
    Ok(set_up)
}

/// The slot of a setup in this directory that was killed before it was complete: nothing was copied or received with it.
fn killed_slot(spec: &SetupSpec, source: &mut Connection) -> Result<Option<Slot>> {
    let slot = slot::find(source, &spec.slot_name)?;
    let slot = slot.filter(|slot| slot.database.as_deref() == Some(spec.source.dbname()));
    match slot.is_some() && attempt::was_begun(source, &spec.dir, &spec.slot_name)? {
        true => Ok(slot),
        false => Ok(None),
    }
}

/// The snapshot of such a slot is gone, so it is made once more.
fn undo_killed(spec: &SetupSpec, servers: &mut Servers, shutdown: &Shutdown) -> Result<()> {
    let Some(slot) = killed_slot(spec, &mut servers.source)? else {
        return Ok(());
    };
    if let Some(keeper) = origin::find(&mut servers.target, &spec.origin)? {
        let at = origin::progress(&mut servers.target, &spec.origin, keeper)?;
        // Of that attempt only if it stands where the slot began, or was not put there yet.
        if at != Lsn::INVALID && Some(at) != slot.confirmed_flush {
            return Ok(());
        }
        origin::drop(&mut servers.target, &spec.origin)?;
    }
    log::info!(
        "replication slot \"{}\" is of an earlier attempt here, which did not get further: it is made once more",
        spec.slot_name
    );
    slot::drop(&mut servers.source, &spec.slot_name, shutdown).map(|_| ())
}

/// Remove what a failed setup has made. Best effort: a server may be what failed, and a signal may be why.
fn undo(spec: &SetupSpec) {
    // It may be there although writing it failed, and speaks of what goes now.
    if let Err(error) = remove_file(&file_in(&spec.dir)) {
        log::warn!("{error}");
    }
    let deaf = Shutdown::deaf();
    let name = "pgcopydb clean-up";
    let on_source = || -> Result<()> {
        let mut source = connect_once(&spec.source, name, &deaf, UNDO_WAIT)?;
        source.set_deadline(Some(UNDO_WAIT));
        slot::drop(&mut source, &spec.slot_name, &deaf)?;
        publication::drop(&mut source, spec.publication())?;
        if Sentinel::marked_slot(&mut source)?.is_some_and(|slot| slot == spec.slot_name) {
            match attempt::had_sentinel(&spec.dir)? {
                true => Sentinel::unmark(&mut source)?,
                false => Sentinel::drop(&mut source, &spec.dir).map(|_| ())?,
            }
        }
        cleanup::drop_schema_if_empty(&mut source).map(|_| ())
    };
    let on_target = || -> Result<()> {
        let mut target = connect_once(&spec.target, name, &deaf, UNDO_WAIT)?;
        target.set_deadline(Some(UNDO_WAIT));
        origin::drop(&mut target, &spec.origin)?;
        cleanup::drop_schema_if_empty(&mut target).map(|_| ())
    };
    for (side, undone) in [(Side::Source, on_source()), (Side::Target, on_target())] {
        if let Err(error) = undone {
            log::warn!(
                "could not remove what this setup has made on the {side}: {error}; run \"pgcopydb stream cleanup\""
            );
        }
    }
}

/// Refuse a slot that is there when this directory has no snapshot of it: a copy could not meet its changes. Asked before
/// anything is made.
pub fn refuse_slot_without_snapshot(spec: &SetupSpec, shutdown: &Shutdown) -> Result<()> {
    if noted(&spec.dir)?.is_some() {
        return Ok(());
    }
    let mut source = open_source(&spec.source, &spec.application_name, shutdown)?;
    if killed_slot(spec, &mut source)?.is_some() {
        return Ok(());
    }
    match slot::find(&mut source, &spec.slot_name)? {
        None => Ok(()),
        Some(_) => Err(Error::on(
            Side::Source,
            format!(
                "replication slot \"{}\" is on the source already, and the snapshot that came with it is not known here",
                spec.slot_name
            ),
        )
        .with_hint(
            "Run \"pgcopydb stream cleanup\" if it is of an earlier run, or choose another --slot-name and --origin.",
        )),
    }
}

pub(super) fn open_target_of(spec: &SetupSpec, shutdown: &Shutdown) -> Result<Connection> {
    let settings = TargetSettings::default();
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
        ("--filters", &noted.filters, &spec.filter_words()),
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
/// refused.
fn check_wal2json(source: &mut Connection, slot_name: &str) -> Result<()> {
    if wal2json::supports_numeric_as_string(source, slot_name)? {
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
