//! `pgcopydb stream ..`: the parts of follow, one at a time.

mod objects;
mod parts;
mod prune;
mod reference;
mod sentinel;

use clap::{Args, Subcommand};

use crate::error::Result;

/// Set up, steer and clean up the following of changes
#[derive(Args)]
#[command(after_long_help = reference::REFERENCE)]
pub struct StreamArgs {
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Subcommand)]
enum StreamCommand {
    Setup(objects::SetupArgs),
    Cleanup(objects::CleanupArgs),
    /// Create one of the objects of a follow
    Create(objects::CreateArgs),
    /// Drop one of the objects of a follow
    Drop(objects::DropArgs),
    Sentinel(sentinel::SentinelArgs),
    Receive(Box<parts::ReceiveArgs>),
    Transform(parts::TransformArgs),
    Apply(Box<parts::ApplyScriptArgs>),
    Prefetch(Box<parts::PrefetchArgs>),
    Catchup(Box<parts::CatchupArgs>),
    Replay(Box<parts::ReplayArgs>),
    Prune(prune::PruneArgs),
}

pub fn run(args: StreamArgs) -> Result<()> {
    match args.command {
        StreamCommand::Setup(args) => objects::setup(args),
        StreamCommand::Cleanup(args) => objects::cleanup(args),
        StreamCommand::Create(args) => objects::create(args),
        StreamCommand::Drop(args) => objects::drop(args),
        StreamCommand::Sentinel(args) => sentinel::run(args),
        StreamCommand::Receive(args) => parts::receive(*args),
        StreamCommand::Transform(args) => parts::transform(args),
        StreamCommand::Apply(args) => parts::apply(*args),
        StreamCommand::Prefetch(args) => parts::prefetch(*args),
        StreamCommand::Catchup(args) => parts::catchup(*args),
        StreamCommand::Replay(args) => parts::replay(*args),
        StreamCommand::Prune(args) => prune::run(args),
    }
}
