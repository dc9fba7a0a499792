//! `pgcopydb copy roles`, `dump roles` and `restore roles`: from what the user typed to `roles`.

use clap::Args;

use super::options::{ConnectionArgs, DirArgs, SnapshotIdArgs, SourceArgs};
use crate::error::{Result, Side};
use crate::roles::{self, RolesSpec};
use crate::sys::signal::Shutdown;

/// How roles are read.
#[derive(Args)]
struct ReadArgs {
    /// Leave out passwords; also done when the source does not let us read them
    #[arg(long)]
    no_role_passwords: bool,
    #[command(flatten)]
    snapshot: SnapshotIdArgs,
}

/// Copy the roles of the source instance to the target instance
#[derive(Args)]
#[command(after_help = "\
Roles that exist on the target are kept as they are and get the memberships that they lack. Not copied are the roles of \
PostgreSQL itself, those of a provider (rds_.., cloudsql.., azure_.., ..) and the one that the source's cluster was made \
with. Passwords take a source role that may read pg_authid. The command can be run again at any time.

Example: pgcopydb copy roles --source postgres://postgres@old/shop --target postgres://postgres@new/shop")]
pub struct CopyRolesArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    read: ReadArgs,
    /// Forget the file that an earlier run has written
    #[arg(long, conflicts_with = "resume")]
    restart: bool,
    /// Use the file that an earlier run has written
    #[arg(long)]
    resume: bool,
}

/// Write the roles of the source instance to schema/roles.sql in the work directory
#[derive(Args)]
#[command(after_help = "\
The file is SQL, may be edited, and holds hashes of passwords unless they are left out: nobody else may read it. See copy \
roles for what is left out.

Example: pgcopydb dump roles --source postgres://postgres@old/shop --dir /var/tmp/shop")]
pub struct DumpRolesArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    read: ReadArgs,
}

/// Create the roles of schema/roles.sql in the work directory on the target
#[derive(Args)]
#[command(after_help = "\
A file made by pg_dumpall --roles-only is understood, too. Each statement is run on its own; roles that exist are kept.

Example: pgcopydb restore roles --target postgres://postgres@new/shop --dir /var/tmp/shop")]
pub struct RestoreRolesArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
}

pub fn copy(args: CopyRolesArgs) -> Result<()> {
    let spec = RolesSpec {
        source: args.connections.required(Side::Source)?,
        dir: args.dir.dir,
        no_passwords: args.read.no_role_passwords,
        snapshot: args.read.snapshot.snapshot,
        restart: args.restart,
        resume: args.resume,
    };
    let target = args.connections.required(Side::Target)?;
    let shutdown = Shutdown::install()?;
    roles::copy(&spec, &target, &shutdown)
}

pub fn dump(args: DumpRolesArgs) -> Result<()> {
    let spec = RolesSpec {
        source: args.source.required()?,
        dir: args.dir.dir,
        no_passwords: args.read.no_role_passwords,
        snapshot: args.read.snapshot.snapshot,
        restart: true,
        resume: false,
    };
    let shutdown = Shutdown::install()?;
    roles::dump(&spec, &shutdown)
}

pub fn restore(args: RestoreRolesArgs) -> Result<()> {
    let target = args.connections.required(Side::Target)?;
    // Not needed here, and set where all commands of a migration share their environment.
    args.connections.optional(Side::Source)?;
    let shutdown = Shutdown::install()?;
    roles::restore(&target, args.dir.dir.as_deref(), &shutdown)
}
