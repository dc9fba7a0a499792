//! `pgcopydb snapshot`: export a snapshot of the source, print its id on stdout, hold it until a signal. Ending by a
//! signal is its normal end, so the exit code is then 0.

use std::path::PathBuf;

use clap::Args;

use super::follow_options::{SlotArgs, typed_slot_option};
use super::given::Given;
use super::options::{DirArgs, SourceArgs};
use super::stdout;
use crate::error::{Error, Result};
use crate::filter::Filters;
use crate::snapshot;
use crate::stream::setup::NewSlotSpec;
use crate::stream::slot_snapshot::hold_slot_snapshot;
use crate::sys::signal::Shutdown;

/// Export a snapshot of the source and hold it until a signal
#[derive(Args)]
#[command(after_help = "\
The id is printed once the snapshot is held; commands in the same work directory read in it. With --follow, clone --follow \
goes on from its slot.

Examples: pgcopydb snapshot --source postgres://me@old/shop --dir /var/tmp/shop
  pgcopydb snapshot --source postgres://me@old/shop --dir /var/tmp/shop --follow --plugin pgoutput")]
pub struct SnapshotArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    dir: DirArgs,
    /// Create a replication slot, and hold the snapshot that comes with it
    #[arg(short = 'f', long)]
    follow: bool,
    #[command(flatten)]
    slot: SlotArgs,
    /// Filters of the follow to come: tables whose changes will not be asked for
    #[arg(
        short = 'F',
        long,
        visible_alias = "filter",
        value_name = "FILE",
        requires = "follow"
    )]
    filters: Option<PathBuf>,
}

pub fn run(args: SnapshotArgs, given: &Given) -> Result<()> {
    if !args.follow
        && let Some(option) = typed_slot_option(given)
    {
        return Err(Error::usage(format!("option {option} needs --follow")));
    }
    let source = args.source.required()?;
    let filters = args.filters.as_deref().map(Filters::read).transpose()?;
    let shutdown = Shutdown::install()?;
    let dir = args.dir.dir.as_deref();
    let mut announce = |id: &str| stdout::print_line(id);
    let held = match args.follow {
        false => snapshot::hold(&source, dir, &shutdown, &mut announce),
        true => hold_slot_snapshot(
            NewSlotSpec {
                source: &source,
                application_name: "",
                slot_name: &args.slot.slot_name,
                plugin: args.slot.plugin,
                filters: filters.as_ref(),
            },
            dir,
            &shutdown,
            &mut announce,
        ),
    };
    match held {
        Err(error) if error.is_interrupted() => Ok(()),
        held => held,
    }
}
