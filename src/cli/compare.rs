//! `pgcopydb compare ..`: the source against the target. What differs is printed on stdout and makes the exit code 7, so
//! that a script can go on when both are equal and only then.

mod data;
mod schema;

use clap::{Args, Subcommand};

use crate::error::{Error, ErrorKind, Result, Side};

/// Compare the source with the target
#[derive(Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Nothing is changed on either side. The exit code is 0 when both are equal; 7 when the target differs, and also when it could \
not be reached, which the log says.

Example: pgcopydb compare schema --source postgres://me@old/shop --target postgres://me@new/shop"
)]
pub struct CompareArgs {
    #[command(subcommand)]
    command: CompareCommand,
}

#[derive(Subcommand)]
enum CompareCommand {
    Schema(schema::SchemaArgs),
    Data(data::DataArgs),
}

pub fn run(args: CompareArgs) -> Result<()> {
    match args.command {
        CompareCommand::Schema(args) => schema::run(args),
        CompareCommand::Data(args) => data::run(args),
    }
}

/// The error of a target that is not what the source is: the same kind as that of changes that met no row.
fn differs(what: String) -> Error {
    Error::new(ErrorKind::Target, what).with_side(Side::Target)
}

fn json(report: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(report).map_err(|error| {
        Error::internal(format!("could not write the comparison as JSON: {error}"))
    })
}
