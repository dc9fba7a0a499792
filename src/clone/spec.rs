//! What one run of `clone`, or of a command for a section of it, has to do: the validated form of the command line, the
//! only one that reaches the engine. Made by `cli` in the parent, inherited by every worker. Nothing here is read from the
//! environment or from a server, and nothing is checked again later.

use std::path::PathBuf;
use std::time::Duration;

use super::phases::{Phase, Phases};
use super::prerequisites::RolesOptions;
use crate::check::{CheckSpec, Jobs, Scope};
use crate::extensions::Requirements;
use crate::filter::Filters;
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::WhenFull;
use crate::stream::setup::SetupSpec;

/// Everything the clone engine needs to know. Contradictions and impossible numbers were refused before.
#[derive(Debug, Clone)]
pub struct CloneSpec {
    /// What of a clone this command is.
    pub phases: Phases,
    /// Names of the options that were given, for a command that takes over the others from the earlier commands of its run;
    /// `None` when the options are meant as a whole.
    pub said: Option<Vec<&'static str>>,

    /// None: the command does without it, as `restore` does.
    pub source: Option<ConnInfo>,
    /// None: the command does without it, as `dump` does.
    pub target: Option<ConnInfo>,
    /// None: `$TMPDIR/pgcopydb`, decided by the work directory.
    pub dir: Option<PathBuf>,

    pub table_jobs: u32,
    pub index_jobs: u32,
    pub restore_jobs: u32,
    pub large_objects_jobs: u32,
    pub vacuum_jobs: u32,
    pub split: SplitOptions,
    pub use_copy_binary: bool,
    /// As PostgreSQL reads it in SET, with a unit: `524288kB`.
    pub maintenance_work_mem: String,

    /// What is copied; `None`: everything.
    pub filters: Option<Filters>,
    pub drop_if_exists: bool,
    pub no_owner: bool,
    pub no_acl: bool,
    pub no_comments: bool,
    pub no_tablespaces: bool,
    pub skip_large_objects: bool,
    pub skip_extensions: bool,
    pub skip_ext_comments: bool,
    pub skip_collations: bool,
    /// Copy the roles of the source instance first.
    pub roles: Option<RolesOptions>,
    pub requirements: Requirements,
    pub skip_vacuum: bool,
    pub skip_analyze: bool,
    pub skip_db_properties: bool,
    pub fail_fast: bool,
    pub when_full: WhenFull,
    /// How long nothing may move before it is told; zero: never told.
    pub stall_timeout: Duration,
    /// How long a statement on the target may wait for a lock; zero: as long as it takes.
    pub lock_timeout: Duration,

    /// Forget what an earlier run did. Never together with `resume`.
    pub restart: bool,
    pub resume: bool,
    pub not_consistent: bool,
    /// Restore the post-data although "copy data" has left tables out; they are told as failures.
    pub despite_failures: bool,
    /// A snapshot that another process exported and holds.
    pub snapshot: Option<String>,
    /// What follows the copy: its slot is made first, and its snapshot is the one that is copied.
    pub follow: Option<SetupSpec>,
}

impl CloneSpec {
    /// What has to be there for it, on the servers that answered.
    pub fn to_check(&self, source: Option<&ConnInfo>, target: Option<&ConnInfo>) -> CheckSpec {
        CheckSpec {
            source: source.cloned(),
            target: target.cloned(),
            dir: self.dir.clone(),
            jobs: Jobs {
                table: self.table_jobs,
                index: self.index_jobs,
                restore: self.restore_jobs,
                large_objects: self.large_objects_jobs,
                vacuum: self.vacuum_jobs,
            },
            scope: Scope {
                drop_if_exists: self.drop_if_exists,
                no_owner: self.no_owner,
                no_acl: self.no_acl,
                no_tablespaces: self.no_tablespaces,
                skip_extensions: self.skip_extensions,
                copies_roles: self.roles.is_some(),
                skip_large_objects: self.skip_large_objects
                    || !self.phases.has(Phase::LargeObjects),
            },
            filters: self.filters.clone(),
            follow: self.follow.clone(),
        }
    }
}

/// How large tables are cut into parts that several workers copy at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitOptions {
    /// Tables of more bytes than this (heap and TOAST) are split. None: no table is.
    pub larger_than: Option<u64>,
    /// None: as many parts as the size asks for.
    pub max_parts: Option<u32>,
    /// Take relpages from the catalog instead of asking the file system for each table.
    pub estimate_sizes: bool,
    /// Split by integer key only; a table without one is copied whole.
    pub skip_ctid: bool,
}
