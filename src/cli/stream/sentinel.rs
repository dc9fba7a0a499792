//! `stream sentinel ..`: the remote control of a follow that runs, or will.

use clap::{Args, Subcommand};

use crate::cli::options::{DirArgs, SourceArgs};
use crate::cli::stdout;
use crate::error::{Error, Result};
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
    place: PlaceArgs,
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
Examples: pgcopydb stream sentinel set endpos --current --source postgres://me@old/shop --dir /var/tmp/shop
  pgcopydb stream sentinel set endpos 0/1A2B3C8 --source postgres://me@old/shop --dir /var/tmp/shop")]
    Endpos(PositionArgs),
    /// Allow applying changes
    #[command(after_help = "\
Example: pgcopydb stream sentinel set apply --source postgres://me@old/shop --dir /var/tmp/shop")]
    Apply(PlaceArgs),
    /// Only collect changes, apply none
    #[command(after_help = "\
Example: pgcopydb stream sentinel set prefetch --source postgres://me@old/shop --dir /var/tmp/shop")]
    Prefetch(PlaceArgs),
}

#[derive(Args)]
struct PositionArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The position
    #[arg(required_unless_present = "current", conflicts_with = "current")]
    lsn: Option<Lsn>,
    /// The position that covers every commit until now; on a standby, every commit that it has replayed
    #[arg(long)]
    current: bool,
}

impl PositionArgs {
    fn position(&self, sentinel: &mut Sentinel) -> Result<Lsn> {
        match self.lsn {
            Some(lsn) => Ok(lsn),
            None => sentinel.current(),
        }
    }
}

impl PlaceArgs {
    fn open(&self) -> Result<Sentinel> {
        let shutdown = Shutdown::install()?;
        let connection = open_source(&self.source.required()?, NAME, &shutdown)?;
        Sentinel::open(connection, &cdc_location(self.dir.dir.as_deref()))
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
            let row = args.place.open()?.get()?;
            match args.json {
                true => stdout::print_line(&json(&row)?),
                false => stdout::print(&text(&row)),
            }
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

fn set(what: SetWhat) -> Result<()> {
    match what {
        SetWhat::Startpos(args) => {
            let mut sentinel = args.place.open()?;
            let lsn = args.position(&mut sentinel)?;
            sentinel.set_startpos(lsn)?;
            stdout::print_line(&lsn.to_string())
        }
        SetWhat::Endpos(args) => {
            let mut sentinel = args.place.open()?;
            let lsn = args.position(&mut sentinel)?;
            let lsn = sentinel.set_endpos(lsn)?;
            stdout::print_line(&lsn.to_string())
        }
        SetWhat::Apply(place) => place.open()?.set_apply(true),
        SetWhat::Prefetch(place) => place.open()?.set_apply(false),
    }
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
