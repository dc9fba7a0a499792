//! `stream setup`, `cleanup`, `create ..`, `drop ..`: what a follow needs on the servers.

use std::path::Path;

use clap::{Args, Subcommand};

use crate::cli::follow_options::SlotArgs;
use crate::cli::options::{ConnectionArgs, DirArgs, FilterArgs};
use crate::error::{Error, Result, Side};
use crate::instance::{self, CleanupSpec};
use crate::lsn::Lsn;
use crate::pg::session::{TargetSettings, open_source, open_target};
use crate::report::instance::databases;
use crate::stream::preconditions::{self, Wanted};
use crate::stream::setup::{self, NewSlotSpec, SetupSpec};
use crate::stream::{attempt, origin, publication, slot};
use crate::sys::signal::Shutdown;
use crate::workdir::paths::Paths;
use crate::workdir::{Service, WorkDir, cdc_location, location};

const NAME: &str = "pgcopydb stream";

/// Both servers, and the names of what is there.
#[derive(Args)]
struct BothArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    slot: SlotArgs,
}

impl BothArgs {
    /// The work directory, made if need be; a follow that is running keeps it for itself.
    fn open(&self) -> Result<WorkDir> {
        WorkDir::open(&location(self.dir.dir.as_deref()), Service::Follow)
    }

    fn spec(&self) -> Result<SetupSpec> {
        Ok(SetupSpec {
            source: self.connections.required(Side::Source)?,
            target: self.connections.required(Side::Target)?,
            plugin: self.slot.plugin,
            slot_name: self.slot.slot_name.clone(),
            origin: self.slot.origin.clone(),
            dir: cdc_location(self.dir.dir.as_deref()),
            application_name: NAME.to_owned(),
            filters: None,
        })
    }
}

/// Create slot, origin and sentinel (and publication) for a later follow
#[derive(Args)]
#[command(after_help = "\
Example: pgcopydb stream setup --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --plugin pgoutput")]
pub struct SetupArgs {
    #[command(flatten)]
    both: BothArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

pub fn setup(args: SetupArgs) -> Result<()> {
    let spec = SetupSpec {
        filters: args.filters.read()?,
        ..args.both.spec()?
    };
    let shutdown = Shutdown::install()?;
    let _workdir = args.both.open()?;
    let (set_up, new) = setup::run(&spec, &shutdown)?;
    if new.is_none() {
        log::info!("slot \"{}\" was set up before", set_up.slot_name);
    }
    Ok(())
}

/// Remove everything that a follow has made on both servers, and its files
#[derive(Args)]
#[command(after_help = "\
Safe to repeat. Triggers and rules of the target that were disabled are enabled again. With --all-databases, \
--slot-name and --origin are those that the clone of all databases was given.

Example: pgcopydb stream cleanup --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop")]
pub struct CleanupArgs {
    #[command(flatten)]
    both: BothArgs,
    /// Do it for every database that clone --all-databases has followed in --dir
    #[arg(long)]
    all_databases: bool,
}

pub fn cleanup(args: CleanupArgs) -> Result<()> {
    let spec = args.both.spec()?;
    let shutdown = Shutdown::install()?;
    let dir = location(args.both.dir.dir.as_deref());
    if args.all_databases {
        let spec = CleanupSpec {
            top: dir,
            of_one: spec,
        };
        return instance::cleanup(&spec, &shutdown);
    }
    refuse_instance(&dir)?;
    // A follow that is under way would lose its slot; no directory is made only to be left behind.
    let _workdir = match dir.exists() {
        true => Some(WorkDir::open(&dir, Service::Follow)?),
        false => None,
    };
    setup::cleanup(&spec, &shutdown)
}

/// The directory of an instance has no follow of its own.
pub fn refuse_instance(dir: &Path) -> Result<()> {
    match databases(&Paths::new(dir))? {
        None => Ok(()),
        Some(_) => Err(Error::state(format!(
            "\"{}\" is the work directory of a clone of all databases",
            dir.display()
        ))
        .with_hint(format!(
            "Use --all-databases, or --dir {}/NAME for one of them.",
            Paths::new(dir).databases().display()
        ))),
    }
}

#[derive(Args)]
pub struct CreateArgs {
    #[command(subcommand)]
    what: CreateWhat,
}

#[derive(Subcommand)]
enum CreateWhat {
    /// Create the replication slot on the source
    #[command(after_help = "\
Example: pgcopydb stream create slot --source postgres://me@old/shop --slot-name shop --plugin pgoutput")]
    Slot(BothArgs),
    /// Create the replication origin on the target, at a position of the source
    #[command(after_help = "\
Example: pgcopydb stream create origin --target postgres://me@new/shop --origin shop --startpos 0/1A2B3C8")]
    Origin(OriginArgs),
}

#[derive(Args)]
struct OriginArgs {
    #[command(flatten)]
    both: BothArgs,
    /// Everything that committed up to this position is on the target already
    #[arg(long, value_name = "LSN")]
    startpos: Lsn,
}

pub fn create(args: CreateArgs) -> Result<()> {
    let shutdown = Shutdown::install()?;
    match args.what {
        CreateWhat::Slot(both) => {
            let source = both.connections.required(Side::Source)?;
            let (name, plugin) = (&both.slot.slot_name, both.slot.plugin);
            let mut connection = open_source(&source, NAME, &shutdown)?;
            if let Some(found) = slot::find(&mut connection, name)? {
                slot::check(&found, name, plugin, source.dbname())?;
                log::info!("replication slot \"{name}\" is there already");
                return Ok(());
            }
            let wanted = Wanted {
                plugin,
                makes_slot: true,
                filters: None,
            };
            preconditions::check(&mut connection, None, wanted)?;
            let new = NewSlotSpec {
                source: &source,
                application_name: NAME,
                slot_name: name,
                plugin,
                filters: None,
            };
            attempt::supersede(&mut connection, name)?;
            setup::make_slot(&mut connection, &new, &shutdown).map(|_| ())
        }
        CreateWhat::Origin(args) => {
            let mut target = open(&args.both, &shutdown)?;
            let name = &args.both.slot.origin;
            if origin::find(&mut target, name)?.is_some() {
                return Err(Error::on(
                    Side::Target,
                    format!("replication origin \"{name}\" is there already"),
                ));
            }
            origin::create(&mut target, name, args.startpos).map(|_| ())
        }
    }
}

fn open(both: &BothArgs, shutdown: &Shutdown) -> Result<crate::pg::wire::Connection> {
    let settings = TargetSettings::default();
    let target = both.connections.required(Side::Target)?;
    open_target(&target, NAME, &settings, shutdown)
}

#[derive(Args)]
pub struct DropArgs {
    #[command(subcommand)]
    what: DropWhat,
}

#[derive(Subcommand)]
enum DropWhat {
    /// Drop the replication slot on the source
    #[command(after_help = "\
Example: pgcopydb stream drop slot --source postgres://me@old/shop --slot-name shop")]
    Slot(BothArgs),
    /// Drop the replication origin on the target
    #[command(after_help = "\
Example: pgcopydb stream drop origin --target postgres://me@new/shop --origin shop")]
    Origin(BothArgs),
}

pub fn drop(args: DropArgs) -> Result<()> {
    let shutdown = Shutdown::install()?;
    let (was_there, what) = match args.what {
        DropWhat::Slot(both) => {
            let source = both.connections.required(Side::Source)?;
            let mut connection = open_source(&source, NAME, &shutdown)?;
            let name = &both.slot.slot_name;
            let was_there = slot::drop(&mut connection, name, &shutdown)?;
            publication::drop(&mut connection, setup::publication_of(name))?;
            (was_there, format!("replication slot \"{name}\""))
        }
        DropWhat::Origin(both) => {
            let mut target = open(&both, &shutdown)?;
            let name = &both.slot.origin;
            let was_there = origin::drop(&mut target, name)?;
            (was_there, format!("replication origin \"{name}\""))
        }
    };
    match was_there {
        true => log::info!("dropped {what}"),
        false => log::info!("there is no {what}"),
    }
    Ok(())
}
