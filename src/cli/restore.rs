//! `pgcopydb restore ..`: a section in the work directory, written to the target.

use clap::{Args, Subcommand};

use super::clone::CloneArgs;
use super::given::Given;
use super::parse_list::{self, ParseListArgs};
use super::roles::{self, RestoreRolesArgs};
use super::sections::{self, PostDataArgs};
use crate::error::Result;

/// Restore a section from the work directory to the target
#[derive(Args)]
pub struct RestoreArgs {
    #[command(subcommand)]
    command: RestoreCommand,
}

#[derive(Subcommand)]
enum RestoreCommand {
    /// Restore the whole schema, without a row
    #[command(mut_args = sections::RESTORE_SCHEMA.arg(), after_help = "\
What dump schema wrote, both sections. The source is not asked; if it is given, it must be the one that was dumped.

Example: pgcopydb restore schema --target postgres://me@new/shop --dir /var/tmp/shop")]
    Schema(Box<CloneArgs>),
    /// Restore what the rows need: schemas, types, functions, tables
    #[command(mut_args = sections::RESTORE_PRE_DATA.arg(), after_help = "\
What dump schema wrote. Change the tables on the target as you like before you run copy data. An interrupted restore is \
done again from its beginning with --resume. The source is not asked; if it is given, it must be the one that was dumped.

Example: pgcopydb restore pre-data --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    PreData(Box<CloneArgs>),
    /// Restore what comes after the rows: indexes, constraints, triggers, privileges
    #[command(mut_args = sections::RESTORE_POST_DATA.arg(), after_help = "\
What dump schema wrote, without the indexes and constraints that copy data has made. Settings of the database are set too. \
The source is not asked; if it is given, it must be the one that was dumped.

While a table cannot be copied, this is refused: mend the cause and run copy data --resume. To do without the table for now, use \
--despite-failures: the rest is restored, what is missing is listed, and the exit code is 4. Both can be run again later.

Example: pgcopydb restore post-data --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    PostData(PostDataArgs),
    ParseList(ParseListArgs),
    Roles(RestoreRolesArgs),
}

pub fn run(args: RestoreArgs, given: &Given) -> Result<()> {
    match args.command {
        RestoreCommand::Schema(args) => sections::run(&sections::RESTORE_SCHEMA, *args, given),
        RestoreCommand::PreData(args) => sections::run(&sections::RESTORE_PRE_DATA, *args, given),
        RestoreCommand::PostData(args) => sections::restore_post_data(args, given),
        RestoreCommand::Roles(args) => roles::restore(args),
        RestoreCommand::ParseList(args) => parse_list::run(args),
    }
}
