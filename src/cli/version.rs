//! `pgcopydb version`, also `-V` and `--version`: which build this is and which servers it works with, on stdout.

use clap::Args;
use serde::Serialize;

use super::stdout;
use crate::check::{NEWEST_MAJOR, OLDEST_MAJOR};
use crate::error::{Error, Result};

/// Print the version
#[derive(Args, Default)]
#[command(after_help = "Example: pgcopydb version --json")]
pub struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Version {
    pgcopydb: &'static str,
    oldest_postgres: u32,
    newest_postgres: u32,
}

pub fn run(args: VersionArgs) -> Result<()> {
    let version = Version {
        pgcopydb: env!("CARGO_PKG_VERSION"),
        oldest_postgres: OLDEST_MAJOR,
        newest_postgres: NEWEST_MAJOR,
    };
    if args.json {
        let json = serde_json::to_string_pretty(&version).map_err(|error| {
            Error::internal(format!("could not write the version as JSON: {error}"))
        })?;
        return stdout::print_line(&json);
    }
    stdout::print_line(&format!("pgcopydb version {}", version.pgcopydb))?;
    stdout::print_line(&format!(
        "works with PostgreSQL {} to {}",
        version.oldest_postgres, version.newest_postgres
    ))
}
