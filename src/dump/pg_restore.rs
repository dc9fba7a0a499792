//! The arguments of pg_restore. Pure.

use std::ffi::OsString;
use std::path::Path;

use crate::dump::pg_dump::join;

/// One run of pg_restore for the entries of a list.
#[derive(Clone, Copy)]
pub struct RestoreSpec<'a> {
    /// Without password.
    pub conninfo: &'a str,
    pub archive: &'a Path,
    /// Decides what is restored; no section is named beside it.
    pub list: &'a Path,
    pub jobs: u32,
    pub options: RestoreOptions,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    pub drop_if_exists: bool,
    pub no_owner: bool,
    pub no_acl: bool,
    pub no_comments: bool,
    pub no_tablespaces: bool,
    pub exit_on_error: bool,
}

impl RestoreSpec<'_> {
    pub fn arguments(&self) -> Vec<OsString> {
        // Without --verbose pg_restore does not say which entry a failure is about.
        let mut arguments: Vec<OsString> = ["--format=custom", "--verbose", "--no-password"]
            .map(OsString::from)
            .to_vec();
        let options = self.options;
        for (is_wanted, option) in [
            (options.drop_if_exists, "--clean"),
            (options.drop_if_exists, "--if-exists"),
            (options.no_owner, "--no-owner"),
            (options.no_acl, "--no-acl"),
            (options.no_comments, "--no-comments"),
            (options.no_tablespaces, "--no-tablespaces"),
            (options.exit_on_error, "--exit-on-error"),
        ] {
            if is_wanted {
                arguments.push(option.into());
            }
        }
        arguments.push(format!("--jobs={}", self.jobs.max(1)).into());
        arguments.push(join("--use-list=", self.list));
        arguments.push(format!("--dbname={}", self.conninfo).into());
        // Behind "--", a name that starts with a dash is a name.
        arguments.push("--".into());
        arguments.push(self.archive.into());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{RestoreOptions, RestoreSpec};

    #[test]
    fn arguments() {
        let mut spec = RestoreSpec {
            conninfo: "host=h dbname=d",
            archive: Path::new("-odd.dump"),
            list: Path::new("/w/pre.list"),
            jobs: 0,
            options: RestoreOptions::default(),
        };
        assert_eq!(
            spec.arguments(),
            [
                "--format=custom",
                "--verbose",
                "--no-password",
                "--jobs=1",
                "--use-list=/w/pre.list",
                "--dbname=host=h dbname=d",
                "--",
                "-odd.dump",
            ]
        );
        spec.jobs = 4;
        spec.options = RestoreOptions {
            drop_if_exists: true,
            no_owner: true,
            no_acl: true,
            no_comments: true,
            no_tablespaces: true,
            exit_on_error: true,
        };
        assert_eq!(
            spec.arguments()[3..11],
            [
                "--clean",
                "--if-exists",
                "--no-owner",
                "--no-acl",
                "--no-comments",
                "--no-tablespaces",
                "--exit-on-error",
                "--jobs=4",
            ]
        );
    }
}
