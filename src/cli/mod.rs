//! The command line: from `argv` to one command's `run`, and from its result to the exit code.
//!
//! Each command is one file here with what the user types (`XxxArgs`); it validates that into what its engine needs and
//! calls the engine. Runs in the parent only. Nothing outside imports this module, and only `stdout` prints results.

mod check;
mod clone;
mod compare;
mod completion;
mod copy;
mod dump;
mod extensions;
mod follow;
mod follow_options;
mod given;
mod list;
mod options;
mod parse_list;
mod ping;
mod restore;
mod roles;
mod sections;
mod snapshot;
mod stdout;
mod stream;
mod text_table;
mod title;
mod usage;
mod version;

#[cfg(test)]
mod man;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{Error, ErrorKind, Result};
use crate::logging;
use crate::sys::process::die_by_signal;
use crate::sys::signal::Shutdown;
use given::Given;
use options::LogArgs;
use version::VersionArgs;

/// Copy a PostgreSQL database to another server
#[derive(Parser)]
#[command(
    name = "pgcopydb",
    disable_version_flag = true,
    // What getopt_long() accepted, so that scripts keep working: a repeated option (the last one counts) and an
    // unambiguous beginning of a long one.
    args_override_self = true,
    infer_long_args = true,
    max_term_width = 100
)]
struct Cli {
    /// Print the version
    #[arg(short = 'V', long, global = true)]
    version: bool,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(visible_aliases = ["fork", "copy-db"])]
    Clone(Box<clone::CloneArgs>),
    Compare(compare::CompareArgs),
    Copy(Box<copy::CopyArgs>),
    Dump(Box<dump::DumpArgs>),
    Restore(Box<restore::RestoreArgs>),
    Follow(Box<follow::FollowArgs>),
    Stream(Box<stream::StreamArgs>),
    List(list::ListArgs),
    Snapshot(snapshot::SnapshotArgs),
    Check(Box<check::CheckArgs>),
    Ping(ping::PingArgs),
    Completion(completion::CompletionArgs),
    Version(VersionArgs),
}

/// The whole program. An error is logged here, once.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    title::hide_secrets(&words);
    crate::sys::process::keep_private();
    let result = match parse(command(), &words) {
        Ok((cli, given)) => start(cli, &given),
        Err(usage::Refused::Help(text)) => stdout::print(&text),
        Err(usage::Refused::Mistake(error)) => {
            // The options that say how to log are part of what could not be read.
            logging::init(options::Verbosity::Info.level()).and(Err(error))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end_with(&error),
    }
}

fn parse(
    command: clap::Command,
    words: &[OsString],
) -> std::result::Result<(Cli, Given), usage::Refused> {
    let command = without_empty_variables(command);
    let matches = command
        .clone()
        .try_get_matches_from(words)
        .map_err(|error| usage::explain(&error, &command, words))?;
    let cli =
        Cli::from_arg_matches(&matches).map_err(|error| usage::explain(&error, &command, words))?;
    Ok((cli, Given::of_innermost(&matches)))
}

fn command() -> clap::Command {
    Cli::command()
}

/// `PGCOPYDB_TABLE_JOBS=` in a unit file or a container means "not set", as in libpq; clap would read an empty number.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let is_empty = arg
                .get_env()
                .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
            match is_empty {
                true => arg.env(None::<&'static str>),
                false => arg,
            }
        })
        .mut_subcommands(without_empty_variables)
}

fn start(cli: Cli, given: &Given) -> Result<()> {
    let verbosity = cli.log.verbosity();
    logging::init(
        verbosity
            .as_ref()
            .unwrap_or(&options::Verbosity::Info)
            .level(),
    )?;
    verbosity?;
    match cli.command {
        _ if cli.version => version::run(VersionArgs::default()),
        Some(Command::Clone(args)) => clone::run(*args, given),
        Some(Command::Compare(args)) => compare::run(args),
        Some(Command::Copy(args)) => copy::run(*args, given),
        Some(Command::Dump(args)) => dump::run(*args, given),
        Some(Command::Restore(args)) => restore::run(*args, given),
        Some(Command::Follow(args)) => follow::run(*args),
        Some(Command::Stream(args)) => stream::run(*args),
        Some(Command::List(args)) => list::run(args),
        Some(Command::Snapshot(args)) => snapshot::run(args, given),
        Some(Command::Check(args)) => check::run(*args, given),
        Some(Command::Ping(args)) => ping::run(args),
        Some(Command::Completion(args)) => completion::run(args),
        Some(Command::Version(args)) => version::run(args),
        None => Err(Error::usage("no command given").with_hint("See pgcopydb help.")),
    }
}

/// Log the error and give its exit code. A run that a signal ended dies by that signal, after everything was cleaned
/// up: a shell then sees an interrupted program and no caller takes it for done.
fn end_with(error: &Error) -> ExitCode {
    error.log("");
    if error.kind() == ErrorKind::Interrupted
        && let Some(signal) = Shutdown::handle().signal()
    {
        logging::flush();
        die_by_signal(signal);
    }
    ExitCode::from(error.exit_code())
}

/// The arguments of one command, read as `main` reads them.
#[cfg(test)]
fn parse_for_test<A: clap::Args>(words: &[&str]) -> Result<(A, Given)> {
    let words: Vec<OsString> = std::iter::once("pgcopydb")
        .chain(words.iter().copied())
        .map(OsString::from)
        .collect();
    let command = usage::without_environment(command());
    let matches = command
        .clone()
        .try_get_matches_from(&words)
        .map_err(|error| usage::explain(&error, &command, &words).into_error())?;
    let given = Given::of_innermost(&matches);
    let mut innermost = &matches;
    while let Some((_, deeper)) = innermost.subcommand() {
        innermost = deeper;
    }
    let args = A::from_arg_matches(innermost)
        .map_err(|error| usage::explain(&error, &command, &words).into_error())?;
    Ok((args, given))
}
