//! `pgcopydb restore ..`: a section in the work directory, written to the target.

use clap::{Args, Subcommand};

use super::roles::{self, RestoreRolesArgs};
use crate::error::Result;

/// Restore a section from the work directory to the target
#[derive(Args)]
pub struct RestoreArgs {
    #[command(subcommand)]
    command: RestoreCommand,
}

#[derive(Subcommand)]
enum RestoreCommand {
    Roles(RestoreRolesArgs),
}

pub fn run(args: RestoreArgs) -> Result<()> {
    match args.command {
        RestoreCommand::Roles(args) => roles::restore(args),
    }
}
