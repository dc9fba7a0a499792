//! `pgcopydb dump ..`: a section of the source, written into the work directory.

use clap::{Args, Subcommand};

use super::roles::{self, DumpRolesArgs};
use crate::error::Result;

/// Dump a section of the source into the work directory
#[derive(Args)]
pub struct DumpArgs {
    #[command(subcommand)]
    command: DumpCommand,
}

#[derive(Subcommand)]
enum DumpCommand {
    Roles(DumpRolesArgs),
}

pub fn run(args: DumpArgs) -> Result<()> {
    match args.command {
        DumpCommand::Roles(args) => roles::dump(args),
    }
}
