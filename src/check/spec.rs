//! What is to be checked: the parts of a clone's options that decide whether it can work. Pure.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::filter::Filters;
use crate::pg::conninfo::ConnInfo;
use crate::stream::setup::SetupSpec;

#[derive(Debug, Clone)]
pub struct CheckSpec {
    /// None: what is checked does not ask it.
    pub source: Option<ConnInfo>,
    pub target: Option<ConnInfo>,
    /// None: `$TMPDIR/pgcopydb`.
    pub dir: Option<PathBuf>,
    pub jobs: Jobs,
    pub scope: Scope,
    /// What is not meant need not be possible.
    pub filters: Option<Filters>,
    /// What follows the copy, if anything does.
    pub follow: Option<SetupSpec>,
}

impl CheckSpec {
    pub fn source(&self) -> Result<&ConnInfo> {
        let source = self.source.as_ref();
        source.ok_or_else(|| Error::internal("the checks know no source"))
    }

    pub fn target(&self) -> Result<&ConnInfo> {
        let target = self.target.as_ref();
        target.ok_or_else(|| Error::internal("the checks know no target"))
    }

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
