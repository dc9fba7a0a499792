//! `pgcopydb follow`: replay the changes of the source on the target.

use clap::Args;

use super::follow_options::{Again, ApplyArgs, How, SlotArgs, follow_spec};
use super::options::{ConnectionArgs, DirArgs, FilterArgs, HangArgs, RoomArgs};
use crate::error::Result;
use crate::follow;
use crate::sys::signal::Shutdown;

/// Replay the changes of the source on the target
#[derive(Args)]
#[command(after_help = "\
The target must hold what the source held when the slot was made: \"clone --follow\" does both. Changes are applied once the \
sentinel allows it (\"stream sentinel set apply\"), until its end position (\"stream sentinel set endpos\").

Example: pgcopydb follow --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --plugin pgoutput --resume")]
pub struct FollowArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    apply: ApplyArgs,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    hangs: HangArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Go back to the beginning; refused where changes would be lost
    #[arg(long, conflicts_with = "resume")]
    restart: bool,
    /// Go on with an earlier run
    #[arg(long)]
    resume: bool,
}

pub fn run(args: FollowArgs) -> Result<()> {
    let again = Again {
        restart: args.restart,
        resume: args.resume,
    };
    let how = How {
        dir: &args.dir,
        slot: &args.slot,
        apply: &args.apply,
        room: &args.room,
        filters: args.filters.read()?,
        again,
    };
    let mut spec = follow_spec(&args.connections, how)?;
    spec.stall_timeout = args.hangs.stall_timeout();
    spec.lock_timeout = args.hangs.lock_timeout();
    let shutdown = Shutdown::install()?;
    follow::run(&spec, &shutdown)
}
