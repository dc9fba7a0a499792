//! `pgcopydb dump ..`: a section of the source, written into the work directory.

use clap::{Args, Subcommand};

use super::clone::CloneArgs;
use super::given::Given;
use super::roles::{self, DumpRolesArgs};
use super::sections;
use crate::error::Result;

/// Dump a section of the source into the work directory
#[derive(Args)]
pub struct DumpArgs {
    #[command(subcommand)]
    command: DumpCommand,
}

/// All three make the same file, which has both sections: they belong to one snapshot.
#[derive(Subcommand)]
enum DumpCommand {
    /// Dump the schema, for restore pre-data and restore post-data
    #[command(mut_args = sections::DUMP.arg(), after_help = "\
Writes schema/schema.dump below the work directory, an archive that pg_restore reads too. Run it while \"pgcopydb snapshot\" \
holds a snapshot for the same work directory, and the commands that follow with --resume read the rows in that one. A \
target that is given is asked for its version, to choose the pg_dump that fits both servers.

Example: pgcopydb dump schema --source postgres://me@old/shop --dir /var/tmp/shop --resume")]
    Schema(Box<CloneArgs>),
    /// The same as dump schema: both sections belong to one snapshot
    #[command(mut_args = sections::DUMP.arg(), after_help = "\
Example: pgcopydb dump pre-data --source postgres://me@old/shop --dir /var/tmp/shop")]
    PreData(Box<CloneArgs>),
    /// The same as dump schema: both sections belong to one snapshot
    #[command(mut_args = sections::DUMP.arg(), after_help = "\
Example: pgcopydb dump post-data --source postgres://me@old/shop --dir /var/tmp/shop --resume")]
    PostData(Box<CloneArgs>),
    Roles(DumpRolesArgs),
}

pub fn run(args: DumpArgs, given: &Given) -> Result<()> {
    match args.command {
        DumpCommand::Schema(args) | DumpCommand::PreData(args) | DumpCommand::PostData(args) => {
            sections::run(&sections::DUMP, *args, given)
        }
        DumpCommand::Roles(args) => roles::dump(args),
    }
}
