//! `pgcopydb copy ..`: one section of a database at a time. `copy db` is the whole of it, the older name of `clone`.

use clap::{Args, Subcommand};

use super::clone::{self, CloneArgs};
use super::extensions::{self, CopyExtensionsArgs};
use super::given::Given;
use super::roles::{self, CopyRolesArgs};
use super::sections;
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
    /// Copy the schema without a row: dump schema, then restore schema
    #[command(mut_args = sections::COPY_SCHEMA.arg(), after_help = "\
Example: pgcopydb copy schema --source postgres://me@old/shop --target postgres://me@new/shop")]
    Schema(Box<CloneArgs>),
    /// Copy the data section: rows, large objects, indexes, constraints, sequences
    #[command(mut_args = sections::COPY_DATA.arg(), after_help = "\
The tables must be on the target: made by restore pre-data in the same work directory, or by other means, and they may be \
changed before. Each index is built as soon as its table is copied. An index that is there already stays as it is.

Example: pgcopydb copy data --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    Data(Box<CloneArgs>),
    /// Copy the rows of all tables, and nothing else
    #[command(mut_args = sections::COPY_TABLE_DATA.arg(), after_help = "\
Example: pgcopydb copy table-data --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    TableData(Box<CloneArgs>),
    /// Copy the large objects
    #[command(mut_args = sections::COPY_BLOBS.arg(), after_help = "\
Example: pgcopydb copy blobs --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    Blobs(Box<CloneArgs>),
    /// Set the sequences as they are on the source
    #[command(mut_args = sections::COPY_SEQUENCES.arg(), after_help = "\
Sequences are read as they are now: no snapshot covers them.

Example: pgcopydb copy sequences --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    Sequences(Box<CloneArgs>),
    /// Build the indexes, after copy table-data
    #[command(mut_args = sections::COPY_INDEXES.arg(), after_help = "\
An index of the same name on the same table stays as it is. Indexes of primary keys and unique constraints are built as \
unique indexes; copy constraints makes the constraints of them.

Example: pgcopydb copy indexes --target postgres://me@new/shop --dir /var/tmp/shop --index-jobs 8 --resume")]
    Indexes(Box<CloneArgs>),
    /// Make primary keys and unique constraints of their indexes, after copy indexes
    #[command(mut_args = sections::COPY_CONSTRAINTS.arg(), after_help = "\
What else ALTER TABLE says about an index is said here too: CLUSTER ON, REPLICA IDENTITY. Foreign keys and check \
constraints belong to restore post-data and restore pre-data.

Example: pgcopydb copy constraints --target postgres://me@new/shop --dir /var/tmp/shop --resume")]
    Constraints(Box<CloneArgs>),
    Roles(CopyRolesArgs),
    Extensions(CopyExtensionsArgs),
}

pub fn run(args: CopyArgs, given: &Given) -> Result<()> {
    let (section, args) = match args.command {
        CopyCommand::Db(args) => return clone::run(*args, given),
        CopyCommand::Roles(args) => return roles::copy(args),
        CopyCommand::Extensions(args) => return extensions::copy(args, given),
        CopyCommand::Schema(args) => (&sections::COPY_SCHEMA, args),
        CopyCommand::Data(args) => (&sections::COPY_DATA, args),
        CopyCommand::TableData(args) => (&sections::COPY_TABLE_DATA, args),
        CopyCommand::Blobs(args) => (&sections::COPY_BLOBS, args),
        CopyCommand::Sequences(args) => (&sections::COPY_SEQUENCES, args),
        CopyCommand::Indexes(args) => (&sections::COPY_INDEXES, args),
        CopyCommand::Constraints(args) => (&sections::COPY_CONSTRAINTS, args),
    };
    sections::run(section, *args, given)
}
