//! `pgcopydb follow`: replay the changes of the source on the target.

use clap::Args;

use super::follow_options::{Again, FollowingArgs};
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
    following: FollowingArgs,
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
    let spec = args.following.taken().spec(again)?;
    let shutdown = Shutdown::install()?;
    follow::run(&spec, &shutdown)
}
