//! What one `follow` has to do: the validated form of the command line, the only one that reaches the engine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::filter::Filters;
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::WhenFull;
use crate::stream::apply::ApplyMode;
use crate::stream::decode::Plugin;
use crate::stream::setup::SetupSpec;

#[derive(Debug, Clone)]
pub struct FollowSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    /// None: `$TMPDIR/pgcopydb`; then the changes are kept below XDG_DATA_HOME.
    pub dir: Option<PathBuf>,
    pub plugin: Plugin,
    pub slot_name: String,
    pub origin: String,
    pub endpos: Option<Lsn>,
    pub apply_mode: ApplyMode,
    /// Also replay updates that change nothing.
    pub replay_no_op_updates: bool,
    /// Keep the files of what the target has passed.
    pub keep_files: bool,
    /// Bytes of changes that may wait in files before receiving holds.
    pub cdc_max_size: Option<u64>,
    pub when_full: WhenFull,
    /// How long nothing may move before it is told; zero: never told.
    pub stall_timeout: Duration,
    /// How long a statement on the target may wait for a lock; zero: as long as it takes.
    pub lock_timeout: Duration,
    /// What is not followed.
    pub filters: Option<Filters>,
    pub restart: bool,
    pub resume: bool,
}

impl FollowSpec {
    /// What it needs on the servers; `dir` is where its files are.
    pub fn setup(&self, dir: &Path) -> SetupSpec {
        SetupSpec {
            source: self.source.clone(),
            target: self.target.clone(),
            plugin: self.plugin,
            slot_name: self.slot_name.clone(),
            origin: self.origin.clone(),
            dir: dir.to_path_buf(),
            application_name: "pgcopydb stream".to_owned(),
            filters: self.filters.clone(),
        }
    }
}
