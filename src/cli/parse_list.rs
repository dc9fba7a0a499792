//! `pgcopydb restore parse-list`: prints which objects a restore would make, and which not and why.

use std::path::PathBuf;

use clap::Args;

use super::options::DirArgs;
use super::stdout;
use crate::clone::parse_list::{ParseListSpec, list};
use crate::error::Result;

/// Print the list of objects that a restore would make, filtered
#[derive(Args)]
#[command(after_help = "\
Without FILE, lists what restore pre-data and restore post-data would do in the work directory as it is now. What is left out \
is commented, with the reason above it: the output is a list that pg_restore --use-list takes.

Example: pgcopydb restore parse-list --dir /var/tmp/shop --skip-extensions")]
pub struct ParseListArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Leave out CREATE EXTENSION and comments on extensions
    #[arg(long)]
    skip_extensions: bool,
    /// Leave out comments on extensions
    #[arg(long)]
    skip_ext_comments: bool,
    /// Leave out collations
    #[arg(long)]
    skip_collations: bool,
    /// An archive of pg_dump --format=custom, or a list of pg_restore --list
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

pub fn run(args: ParseListArgs) -> Result<()> {
    let spec = ParseListSpec {
        dir: args.dir.dir,
        file: args.file,
        skip_extensions: args.skip_extensions,
        skip_ext_comments: args.skip_ext_comments,
        skip_collations: args.skip_collations,
    };
    stdout::print(&list(&spec)?)
}
