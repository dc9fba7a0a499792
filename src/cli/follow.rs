//! `pgcopydb follow`: replay the changes of the source on the target.

use clap::Args;

use super::follow_options::{ApplyArgs, SlotArgs};
use super::options::{ConnectionArgs, DirArgs};
use crate::error::{Result, Side};
use crate::follow::{self, FollowSpec};
use crate::sys::signal::Shutdown;

/// Replay the changes of the source on the target
#[derive(Args)]
#[command(after_help = "\
The target must hold what the source held when the slot was made: \"clone --follow\" does both. Changes are applied once the \
sentinel allows it (\"stream sentinel set apply\"), until its end position (\"stream sentinel set endpos\").")]
pub struct FollowArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    apply: ApplyArgs,
    /// Go back to the beginning; refused where changes would be lost
    #[arg(long, conflicts_with = "resume")]
    restart: bool,
    /// Go on with an earlier run
    #[arg(long)]
    resume: bool,
}

pub fn run(args: FollowArgs) -> Result<()> {
    let spec = FollowSpec {
        source: args.connections.required(Side::Source)?,
        target: args.connections.required(Side::Target)?,
        dir: args.dir.dir,
        plugin: args.slot.plugin,
        slot_name: args.slot.slot_name,
        origin: args.slot.origin,
        endpos: args.apply.endpos,
        apply_mode: args.apply.apply_mode,
        replay_no_op_updates: args.apply.replay_no_op_updates,
        keep_files: args.apply.keep_cdc_files,
        restart: args.restart,
        resume: args.resume,
    };
    let shutdown = Shutdown::install()?;
    follow::run(&spec, &shutdown)
}
