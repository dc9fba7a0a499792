//! `pgcopydb copy ..`: one section of a database at a time. `copy db` is the whole of it, the older name of `clone`.

use clap::{Args, Subcommand};

use super::clone::{self, CloneArgs};
use super::extensions::{self, CopyExtensionsArgs};
use super::given::Given;
use super::roles::{self, CopyRolesArgs};
use crate::error::Result;

/// Copy a database, or a section of one
#[derive(Args)]
pub struct CopyArgs {
    #[command(subcommand)]
    command: CopyCommand,
}

#[derive(Subcommand)]
enum CopyCommand {
    /// Copy a whole database, as clone does
    Db(Box<CloneArgs>),
    Roles(CopyRolesArgs),
    Extensions(CopyExtensionsArgs),
}

pub fn run(args: CopyArgs, given: &Given) -> Result<()> {
    match args.command {
        CopyCommand::Db(args) => clone::run(*args, given),
        CopyCommand::Roles(args) => roles::copy(args),
        CopyCommand::Extensions(args) => extensions::copy(args, given),
    }
}
