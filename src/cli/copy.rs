//! `pgcopydb copy ..`: one section of a database at a time. `copy db` is the whole of it, the older name of `clone`.

use clap::{Args, Subcommand};

use super::clone::{self, CloneArgs};
use super::given::Given;
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
}

pub fn run(args: CopyArgs, given: &Given) -> Result<()> {
    match args.command {
        CopyCommand::Db(args) => clone::run(*args, given),
    }
}
