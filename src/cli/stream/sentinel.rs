//! `stream sentinel ..`: the remote control of a follow that runs, or will.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::objects::refuse_instance;
use crate::cli::options::{DirArgs, SourceArgs};
use crate::cli::stdout;
use crate::cli::text_table::printable;
use crate::error::{Context, Error, Result};
use crate::instance::{self, Followed};
use crate::lsn::Lsn;
use crate::pg::session::open_source;
use crate::sentinel::{Sentinel, SentinelRow};
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, cdc_location, location};

const NAME: &str = "pgcopydb stream sentinel";

/// Steer a follow, and see how far it is
#[derive(Args)]
pub struct SentinelArgs {
    #[command(subcommand)]
    command: SentinelCommand,
}

#[derive(Args)]
struct PlaceArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    dir: DirArgs,
}

#[derive(Subcommand)]
enum SentinelCommand {
    /// Create the sentinel on the source
    #[command(
        visible_alias = "create",
        after_help = "\
Example: pgcopydb stream sentinel setup --source postgres://me@old/shop --dir /var/tmp/shop"
    )]
    Setup(CreateArgs),
    /// Drop the sentinel
    #[command(after_help = "\
Example: pgcopydb stream sentinel drop --source postgres://me@old/shop --dir /var/tmp/shop")]
    Drop(PlaceArgs),
    /// Print the sentinel
    #[command(after_help = "\
With --all-databases: one block of lines for each database, which begins with its name; with --json an array of objects, \
each with the key database before the others.

Example: pgcopydb stream sentinel get --source postgres://me@old/shop --dir /var/tmp/shop --json")]
    Get(GetArgs),
    /// Change the sentinel
    Set(SetArgs),
}

#[derive(Args)]
struct CreateArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Where the changes begin [default: the source's current position]
    startpos: Option<Lsn>,
    /// Where to stop
    endpos: Option<Lsn>,
}

#[derive(Args)]
struct GetArgs {
    #[command(flatten)]
    place: SomeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SetArgs {
    #[command(subcommand)]
    what: SetWhat,
}

#[derive(Subcommand)]
enum SetWhat {
    /// Set where the changes begin
    #[command(after_help = "\
Example: pgcopydb stream sentinel set startpos 0/1A2B3C8 --source postgres://me@old/shop --dir /var/tmp/shop")]
    Startpos(PositionArgs),
    /// Set where to stop
    #[command(after_help = "\
With --all-databases all of them get the same position; each is printed with the name of its database behind it.

Examples: pgcopydb stream sentinel set endpos --current --source postgres://me@old/shop --dir /var/tmp/shop
  pgcopydb stream sentinel set endpos 0/1A2B3C8 --source postgres://me@old/shop --dir /var/tmp/shop")]
    Endpos(PositionArgs),
    /// Allow applying changes
    #[command(after_help = "\
Example: pgcopydb stream sentinel set apply --source postgres://me@old/shop --dir /var/tmp/shop")]
    Apply(SomeArgs),
    /// Only collect changes, apply none
    #[command(after_help = "\
Example: pgcopydb stream sentinel set prefetch --source postgres://me@old/shop --dir /var/tmp/shop")]
    Prefetch(SomeArgs),
}

#[derive(Args)]
struct PositionArgs {
    #[command(flatten)]
    place: SomeArgs,
    /// The position
    #[arg(required_unless_present = "current", conflicts_with = "current")]
    lsn: Option<Lsn>,
    /// The position that covers every commit until now; on a standby, every commit that it has replayed
    #[arg(long)]
    current: bool,
}

/// One sentinel, or all of an instance.
#[derive(Args)]
struct SomeArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Do it for every database that clone --all-databases follows in --dir
    #[arg(long)]
    all_databases: bool,
}

/// A sentinel, and the database that it is of where there are several.
struct Found {
    database: Option<String>,
    sentinel: Sentinel,
}

impl SomeArgs {
    fn open(&self) -> Result<Vec<Found>> {
        let (source, dir) = (self.place.source.required()?, &self.place.dir.dir);
        let shutdown = Shutdown::install()?;
        let top = location(dir.as_deref());
        if !self.all_databases {
            refuse_instance(&top)?;
            let connection = open_source(&source, NAME, &shutdown)?;
            return Ok(vec![Found {
                database: None,
                sentinel: Sentinel::open(connection, &cdc_location(dir.as_deref()))?,
            }]);
        }
        let open = |it: Followed| {
            let what = || format!("database \"{}\"", it.database);
            let source = source.with_dbname(&it.database);
            let connection = open_source(&source, NAME, &shutdown).with_context(what)?;
            let sentinel = Sentinel::open(connection, &it.cdc_dir()).with_context(what)?;
            Ok(Found {
                database: Some(it.database),
                sentinel,
            })
        };
        // All of them, before the first is changed.
        instance::followed(&top)?.into_iter().map(open).collect()
    }

    /// After the others were told: a script must not take it for all, and one that failed for good must not keep them from
    /// being told.
    fn check_all_told(&self) -> Result<()> {
        if !self.all_databases {
            return Ok(());
        }
        let left = instance::not_followed(&location(self.place.dir.dir.as_deref()))?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(Error::state(format!(
                "{} databases are not followed and were not told: {}; the others were",
                left.len(),
                left.join(", ")
            ))
            .with_hint("Unless they failed, wait until they are set up and set it again: \"stream sentinel get --all-databases\" shows them.")),
        }
    }
}

impl PositionArgs {
    /// Set a position of each. That of all databases is one: they share the source's log.
    fn set(&self, set: fn(&mut Sentinel, Lsn) -> Result<Lsn>) -> Result<()> {
        let mut found = self.place.open()?;
        let mut wanted = self.lsn;
        for it in &mut found {
            let lsn = match wanted {
                Some(lsn) => lsn,
                None => it.sentinel.current()?,
            };
            wanted = Some(lsn);
            let lsn = set(&mut it.sentinel, lsn)?;
            match &it.database {
                None => stdout::print_line(&lsn.to_string())?,
                Some(database) => stdout::print_line(&format!("{lsn} {database}"))?,
            }
        }
        self.place.check_all_told()
    }
}

pub fn run(args: SentinelArgs) -> Result<()> {
    match args.command {
        SentinelCommand::Setup(args) => create(&args),
        SentinelCommand::Drop(place) => {
            let shutdown = Shutdown::install()?;
            let mut connection = open_source(&place.source.required()?, NAME, &shutdown)?;
            let dir = cdc_location(place.dir.dir.as_deref());
            match Sentinel::drop(&mut connection, &dir)? {
                true => log::info!("dropped the sentinel"),
                false => log::info!("there is no sentinel"),
            }
            Ok(())
        }
        SentinelCommand::Get(args) => {
            let mut rows = Vec::new();
            for mut it in args.place.open()? {
                rows.push((it.database, it.sentinel.get()?));
            }
            get(&rows, args.json)
        }
        SentinelCommand::Set(args) => set(args.what),
    }
}

fn create(args: &CreateArgs) -> Result<()> {
    let shutdown = Shutdown::install()?;
    let mut connection = open_source(&args.place.source.required()?, NAME, &shutdown)?;
    let dir = cdc_location(args.place.dir.dir.as_deref());
    let _workdir = WorkDir::open(&location(args.place.dir.dir.as_deref()), Service::Follow)?;
    let startpos = match args.startpos {
        Some(lsn) => lsn,
        None => connection
            .query_one(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END",
            )?
            .parse(0)?,
    };
    let mut sentinel = Sentinel::create(connection, &dir, startpos)?;
    match args.endpos {
        Some(endpos) => sentinel.set_endpos(endpos).map(|_| ()),
        None => Ok(()),
    }
}

/// A sentinel's row, with its database where there are several.
type Got = (Option<String>, SentinelRow);

fn get(rows: &[Got], is_json: bool) -> Result<()> {
    match (rows, is_json) {
        ([(None, row)], true) => stdout::print_line(&json(row)?),
        ([(None, row)], false) => stdout::print(&text(row)),
        (rows, true) => stdout::print_json(&rows.iter().map(named).collect::<Vec<_>>()),
        (rows, false) => {
            let block = |(database, row): &Got| {
                let database = database.as_deref().unwrap_or_default();
                format!(
                    "database   {}\n{}",
                    printable(database.to_owned()),
                    text(row)
                )
            };
            stdout::print(&rows.iter().map(block).collect::<Vec<_>>().join("\n"))
        }
    }
}

#[derive(Serialize)]
struct Named<'a> {
    database: Option<&'a str>,
    #[serde(flatten)]
    row: &'a SentinelRow,
}

fn named((database, row): &Got) -> Named<'_> {
    Named {
        database: database.as_deref(),
        row,
    }
}

fn set(what: SetWhat) -> Result<()> {
    match what {
        SetWhat::Startpos(args) => {
            args.set(|sentinel, lsn| sentinel.set_startpos(lsn).map(|()| lsn))
        }
        SetWhat::Endpos(args) => args.set(Sentinel::set_endpos),
        SetWhat::Apply(args) => set_apply(&args, true),
        SetWhat::Prefetch(args) => set_apply(&args, false),
    }
}

fn set_apply(args: &SomeArgs, is_allowed: bool) -> Result<()> {
    let mut found = args.open()?;
    found
        .iter_mut()
        .try_for_each(|it| it.sentinel.set_apply(is_allowed))?;
    args.check_all_told()
}

fn json(row: &SentinelRow) -> Result<String> {
    serde_json::to_string_pretty(row)
        .map_err(|error| Error::internal(format!("could not encode the sentinel: {error}")))
}

/// Aligned as users' scripts know it.
fn text(row: &SentinelRow) -> String {
    let apply = if row.apply { "enabled" } else { "disabled" };
    format!(
        "startpos   {}\nendpos     {}\napply      {apply}\nwrite_lsn  {}\nflush_lsn  {}\nreplay_lsn {}\n",
        row.startpos, row.endpos, row.write_lsn, row.flush_lsn, row.replay_lsn
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_as_documented() {
        let row = SentinelRow {
            startpos: Lsn(0x1_8D17_3AF8),
            endpos: Lsn::INVALID,
            apply: false,
            write_lsn: Lsn::INVALID,
            flush_lsn: Lsn::INVALID,
            replay_lsn: Lsn::INVALID,
        };
        assert_eq!(
            text(&row),
            "startpos   1/8D173AF8\nendpos     0/0\napply      disabled\nwrite_lsn  0/0\nflush_lsn  0/0\n\
             replay_lsn 0/0\n"
        );
        let expected = "{\n  \"startpos\": \"1/8D173AF8\",\n  \"endpos\": \"0/0\",\n  \"apply\": false,\n  \
             \"write_lsn\": \"0/0\",\n  \"flush_lsn\": \"0/0\",\n  \"replay_lsn\": \"0/0\"\n}";
        assert_eq!(json(&row).unwrap(), expected);
    }
}
