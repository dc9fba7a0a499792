//! `stream prune`: remove the files of changes that are not needed any more.

use clap::Args;

use crate::cli::options::{ConnectionArgs, DirArgs};
use crate::cli::stdout;
use crate::error::{Error, Result, Side};
use crate::stream::prune;
use crate::sys::signal::Shutdown;
use crate::workdir::cdc_location;

/// Remove the files of changes that the target has durably passed
#[derive(Args)]
#[command(after_help = "\
A follow removes them itself, unless it runs with --keep-cdc-files. May be run at any time, beside a follow too. The newest \
segment stays, as receiving goes on from it.

With --json: applied (up to where the target has everything), removed and left (how many segments).

Example: pgcopydb stream prune --target postgres://me@new/shop --dir /var/tmp/shop")]
pub struct PruneArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: PruneArgs) -> Result<()> {
    let target = args.connections.required(Side::Target)?;
    let shutdown = Shutdown::install()?;
    let dir = cdc_location(args.dir.dir.as_deref());
    let pruned = prune::prune(&target, &dir, &shutdown)?;
    if !args.json {
        return Ok(());
    }
    let json = serde_json::to_string_pretty(&pruned)
        .map_err(|error| Error::internal(format!("could not encode the result: {error}")))?;
    stdout::print_line(&json)
}
