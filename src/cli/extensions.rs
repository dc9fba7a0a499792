//! `pgcopydb copy extensions`: from what the user typed to `extensions`; and the option that clone shares with it.

use std::path::PathBuf;

use clap::Args;

use super::given::Given;
use super::options::{ConnectionArgs, DirArgs, FilterArgs, SnapshotIdArgs};
use crate::error::{Result, Side};
use crate::extensions::{self, ExtensionsSpec, Requirements};
use crate::sys::signal::Shutdown;

/// Which versions of extensions are created.
#[derive(Args)]
#[command(next_help_heading = "Scope")]
pub struct RequirementsArgs {
    /// Create extensions in the versions of this JSON file: [{"name": "..", "version": ".."}, ..]
    #[arg(long, value_name = "FILE")]
    requirements: Option<PathBuf>,
}

impl RequirementsArgs {
    pub fn read(&self) -> Result<Requirements> {
        match &self.requirements {
            Some(path) => Requirements::read(path),
            None => Ok(Requirements::default()),
        }
    }
}

/// Copy the extensions of the source database to the target
#[derive(Args)]
#[command(after_help = "\
Each extension is created in its schema, after those that it needs, with its comment and the rows that its configuration \
tables have of the user's. Extensions that exist on the target are kept as they are, so the command can be run again at \
any time. An extension or version that the target does not offer is named before anything is done. It mostly takes a \
superuser of the target; clone --skip-extensions then does the rest as any role.

Example: pgcopydb copy extensions --source postgres://postgres@old/shop --target postgres://postgres@new/shop")]
pub struct CopyExtensionsArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    requirements: RequirementsArgs,
    /// Leave out comments on extensions
    #[arg(long)]
    skip_ext_comments: bool,
    /// Go on with an earlier run: what it has copied is kept, as always
    #[arg(long)]
    resume: bool,
    /// Read the source as it is now when the snapshot of PGCOPYDB_SNAPSHOT is gone
    #[arg(long)]
    not_consistent: bool,
    #[command(flatten)]
    snapshot: SnapshotIdArgs,
}

pub fn copy(args: CopyExtensionsArgs, given: &Given) -> Result<()> {
    let snapshot = args.snapshot.snapshot.filter(|_| {
        // An exported PGCOPYDB_SNAPSHOT outlives the snapshot it names.
        !args.not_consistent || given.is_typed("snapshot")
    });
    let spec = ExtensionsSpec {
        source: args.connections.required(Side::Source)?,
        target: args.connections.required(Side::Target)?,
        dir: args.dir.dir,
        requirements: args.requirements.read()?,
        filters: args.filters.read()?,
        skip_comments: args.skip_ext_comments,
        snapshot,
    };
    if args.resume {
        log::info!("extensions that an earlier run has copied are kept");
    }
    let shutdown = Shutdown::install()?;
    extensions::copy(&spec, &shutdown)
}
