//! `stream receive`, `transform`, `apply`, `prefetch`, `catchup`, `replay`: follow taken apart.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::follow_options::{Again, ApplyArgs, How, SlotArgs, follow_spec_to};
use crate::cli::options::{ConnectionArgs, DirArgs, FilterArgs, RoomArgs};
use crate::error::{Context, Error, Result, Side};
use crate::follow::FollowSpec;
use crate::follow::parts::{self, Script};
use crate::pg::conninfo::ConnInfo;
use crate::stream::{setup, transform_process};
use crate::sys::signal::Shutdown;
use crate::workdir::cdc_location;

#[derive(Args)]
pub struct PartArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    apply: ApplyArgs,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Go on with files that are there; it is done anyway
    #[arg(long)]
    resume: bool,
}

impl PartArgs {
    fn spec(&self) -> Result<FollowSpec> {
        self.spec_to(self.connections.required(Side::Target)?)
    }

    /// For what reads the source only: once a setup has noted the target, it need not be named.
    fn spec_on_source(&self) -> Result<FollowSpec> {
        if let Some(target) = self.connections.optional(Side::Target)? {
            return self.spec_to(target);
        }
        let noted = setup::noted(&cdc_location(self.dir.dir.as_deref()))?.ok_or_else(|| {
            Error::usage("no target database given, and none was set up for in this work directory")
                .with_hint("Run \"pgcopydb stream setup\" first, or use --target.")
        })?;
        self.spec_to(ConnInfo::parse(Side::Target, &noted.target)?)
    }

    fn spec_to(&self, target: ConnInfo) -> Result<FollowSpec> {
        let again = Again {
            restart: false,
            resume: true,
        };
        let how = How {
            dir: &self.dir,
            slot: &self.slot,
            apply: &self.apply,
            room: &self.room,
            filters: self.filters.read()?,
            again,
        };
        follow_spec_to(self.connections.required(Side::Source)?, target, how)
    }
}

/// Receive changes and transform them, into files; nothing is applied
#[derive(Args)]
#[command(after_help = "\
Example: pgcopydb stream prefetch --source postgres://me@old/shop --dir /var/tmp/shop --plugin pgoutput --endpos 0/1A2B3C8")]
pub struct PrefetchArgs {
    #[command(flatten)]
    part: PartArgs,
}

pub fn prefetch(args: PrefetchArgs) -> Result<()> {
    parts::prefetch(&args.part.spec_on_source()?, &Shutdown::install()?)
}

/// Apply the changes that are in files, until none is left
#[derive(Args)]
#[command(after_help = "\
Example: pgcopydb stream catchup --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --plugin pgoutput")]
pub struct CatchupArgs {
    #[command(flatten)]
    part: PartArgs,
}

pub fn catchup(args: CatchupArgs) -> Result<()> {
    parts::catchup(&args.part.spec()?, &Shutdown::install()?)
}

/// Receive, transform and apply changes at once, joined by pipes
#[derive(Args)]
#[command(after_help = "\
Example: pgcopydb stream replay --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --plugin pgoutput --endpos 0/1A2B3C8")]
pub struct ReplayArgs {
    #[command(flatten)]
    part: PartArgs,
}

pub fn replay(args: ReplayArgs) -> Result<()> {
    parts::replay(&args.part.spec()?, &Shutdown::install()?)
}

/// Receive changes into files
#[derive(Args)]
#[command(after_help = MESSAGES)]
pub struct ReceiveArgs {
    #[command(flatten)]
    part: PartArgs,
    /// Also print the messages, one JSON object a line
    #[arg(long)]
    to_stdout: bool,
}

const MESSAGES: &str = "\
Each message is one line of JSON. action B begins a transaction (xid), C commits it (xid, lsn: the end of the commit record, \
timestamp); R describes a relation that the lines after it name by its number; I, U and D are rows (old, new: the columns' \
values in the order of the relation's columns, false for one that was not sent); T is TRUNCATE; K says that everything up to \
lsn has come; F names the file that the lines are from; X takes back the transaction under way.

Example: pgcopydb stream receive --source postgres://me@old/shop --dir /var/tmp/shop --plugin pgoutput --endpos 0/1A2B3C8";

pub fn receive(args: ReceiveArgs) -> Result<()> {
    let stdout = match args.to_stdout {
        true => Some(stdout_pipe()?),
        false => None,
    };
    parts::receive(&args.part.spec_on_source()?, stdout, &Shutdown::install()?)
}

/// Our own descriptor for standard output, which never blocks.
fn stdout_pipe() -> Result<OwnedFd> {
    let fd = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .context("could not use standard output")?;
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )
    .map_err(std::io::Error::from)
    .context("could not use standard output")?;
    Ok(fd)
}

/// Make the script of messages
#[derive(Args)]
#[command(after_help = SCRIPT)]
pub struct TransformArgs {
    /// File of messages, or - for standard input
    #[arg(value_name = "JSON")]
    input: PathBuf,
    /// File to write the script to, or - for standard output
    #[arg(value_name = "SQL")]
    output: PathBuf,
    /// Also replay updates that change nothing
    #[arg(long)]
    replay_no_op_updates: bool,
}

const SCRIPT: &str = "\
A script has one statement a line: PREPARE (a number, the statement, and what it does as JSON), EXECUTE (the number and the \
values as a JSON array), BEGIN and COMMIT (xid, commit_lsn and timestamp as JSON), TRUNCATE, KEEPALIVE, ABORT for a \
transaction that is taken back, SWITCH at the end of a complete file.

Examples: pgcopydb stream transform 000000010000000000000002.json 000000010000000000000002.sql
  pgcopydb stream receive --source postgres://me@old/shop --dir /var/tmp/shop --plugin pgoutput --endpos 0/1A2B3C8 --to-stdout | pgcopydb stream transform - - | \
pgcopydb stream apply - --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --plugin pgoutput";

pub fn transform(args: TransformArgs) -> Result<()> {
    let shutdown = Shutdown::install()?;
    let open = |path: &Path| -> Result<OwnedFd> {
        if is_standard(path) {
            return std::io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .context("could not use standard input");
        }
        std::fs::File::open(path)
            .map(OwnedFd::from)
            .with_context(|| format!("could not read file \"{}\"", path.display()))
    };
    let create = |path: &Path| -> Result<OwnedFd> {
        if is_standard(path) {
            return std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .context("could not use standard output");
        }
        std::fs::File::create(path)
            .map(OwnedFd::from)
            .with_context(|| format!("could not write file \"{}\"", path.display()))
    };
    let (input, output) = (open(&args.input)?, create(&args.output)?);
    match transform_process::run_stream(input, output, args.replay_no_op_updates, &shutdown)? {
        true => Ok(()),
        false => Err(Error::new(
            crate::error::ErrorKind::Io,
            "nobody reads the script any more",
        )),
    }
}

/// Apply a script
#[derive(Args)]
#[command(after_help = "\
Example: pgcopydb stream apply 000000010000000000000002.sql --source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop --plugin pgoutput")]
pub struct ApplyScriptArgs {
    #[command(flatten)]
    part: PartArgs,
    /// File with the script, or - for standard input
    #[arg(value_name = "SQL")]
    script: PathBuf,
}

pub fn apply(args: ApplyScriptArgs) -> Result<()> {
    let spec = args.part.spec()?;
    let shutdown = Shutdown::install()?;
    if !is_standard(&args.script) {
        return parts::apply(&spec, Script::File(&args.script), &shutdown);
    }
    let input = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("could not use standard input")?;
    parts::apply(&spec, Script::Pipe(input), &shutdown)
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}
