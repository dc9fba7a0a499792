//! `pgcopydb snapshot`: export a snapshot of the source, print its id on stdout, hold it until a signal. Ending by a
//! signal is its normal end, so the exit code is then 0.

use clap::Args;

use super::options::{DirArgs, SourceArgs};
use super::stdout;
use crate::error::Result;
use crate::snapshot;
use crate::sys::signal::Shutdown;

/// Export a snapshot of the source and hold it until a signal
#[derive(Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    dir: DirArgs,
}

pub fn run(args: SnapshotArgs) -> Result<()> {
    let source = args.source.required()?;
    let shutdown = Shutdown::install()?;
    let held = snapshot::hold(&source, args.dir.dir.as_deref(), &shutdown, &mut |id| {
        stdout::print_line(id)
    });
    match held {
        Err(error) if error.is_interrupted() => Ok(()),
        held => held,
    }
}
