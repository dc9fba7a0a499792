//! Where the value of an option came from. Needed where a typed option and an environment variable must not weigh the
//! same: `--jobs` against `PGCOPYDB_TABLE_JOBS`, `--not-consistent` against `PGCOPYDB_SNAPSHOT`. Pure.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// What clap found for one command.
pub struct Given {
    matches: ArgMatches,
}

impl Given {
    /// Of the innermost command on the line: for `copy db` that is `db`.
    pub fn of_innermost(matches: &ArgMatches) -> Given {
        let mut innermost = matches;
        while let Some((_, deeper)) = innermost.subcommand() {
            innermost = deeper;
        }
        Given {
            matches: innermost.clone(),
        }
    }

    /// The user said it, by the option or by its variable.
    pub fn is_set(&self, id: &str) -> bool {
        let source = self.matches.value_source(id);
        source.is_some_and(|source| source != ValueSource::DefaultValue)
    }

    /// The option stood on the command line.
    pub fn is_typed(&self, id: &str) -> bool {
        self.matches.value_source(id) == Some(ValueSource::CommandLine)
    }
}
