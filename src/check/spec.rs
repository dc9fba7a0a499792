//! What is to be checked: the parts of a clone's options that decide whether it can work. Pure.

use std::path::PathBuf;

use crate::pg::conninfo::ConnInfo;
use crate::stream::setup::SetupSpec;

#[derive(Debug, Clone)]
pub struct CheckSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    /// None: `$TMPDIR/pgcopydb`.
    pub dir: Option<PathBuf>,
    pub jobs: Jobs,
    pub scope: Scope,
    /// What follows the copy, if anything does.
    pub follow: Option<SetupSpec>,
}

impl CheckSpec {
    /// Once a restore was begun, what is there is the run's own.
    pub fn after_begun(&self, is_begun: bool) -> CheckSpec {
        let mut changed = self.clone();
        changed.scope.drop_if_exists |= is_begun;
        changed
    }
}

/// Processes of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jobs {
    pub table: u32,
    pub index: u32,
    pub restore: u32,
    pub large_objects: u32,
    pub vacuum: u32,
}

/// What need not be there, or may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope {
    pub drop_if_exists: bool,
    pub no_owner: bool,
    pub no_acl: bool,
    pub no_tablespaces: bool,
    pub skip_extensions: bool,
    /// The roles of the source are made first.
    pub copies_roles: bool,
    pub skip_large_objects: bool,
}
