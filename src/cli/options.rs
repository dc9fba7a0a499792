//! The groups of options that several commands share, as the user types them, with the environment variable and the
//! default of each. Precedence: option, then environment, then default (clap does it). Pure: nothing is opened here.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::given::Given;
use crate::check::Jobs;
use crate::error::{Error, Result, Side};
use crate::filter::Filters;
use crate::logging::Severity;
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::WhenFull;
use crate::size::parse_size;

/// More workers than this are a typing mistake: each one is a process and a connection on both servers.
const MOST_JOBS: u32 = 128;

/// How much is logged. Accepted before and after the command's name.
#[derive(Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Log more; repeat for DEBUG and again for TRACE
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log down to level NOTICE
    #[arg(long, global = true)]
    pub notice: bool,
    /// Log down to level DEBUG
    #[arg(long, global = true)]
    pub debug: bool,
    /// Log down to level TRACE
    #[arg(long, global = true)]
    pub trace: bool,
    /// Log errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The lowest level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    Quiet,
    Info,
    Notice,
    Debug,
    Trace,
}

impl Verbosity {
    pub fn level(self) -> Severity {
        match self {
            Verbosity::Quiet => Severity::Error,
            Verbosity::Info => Severity::Info,
            Verbosity::Notice => Severity::Notice,
            Verbosity::Debug => Severity::Debug,
            Verbosity::Trace => Severity::Trace,
        }
    }
}

impl LogArgs {
    pub fn verbosity(&self) -> Result<Verbosity> {
        let asked = match (self.trace, self.debug, self.notice, self.verbose) {
            (true, ..) | (.., 3..) => Verbosity::Trace,
            (_, true, ..) | (.., 2) => Verbosity::Debug,
            (_, _, true, _) | (.., 1) => Verbosity::Notice,
            (false, false, false, 0) => Verbosity::Info,
        };
        match (self.quiet, asked) {
            (false, asked) => Ok(asked),
            (true, Verbosity::Info) => Ok(Verbosity::Quiet),
            (true, _) => Err(Error::usage(
                "option --quiet cannot be used with an option that logs more",
            )),
        }
    }
}

/// The two servers. Which ones are needed is the command's business.
#[derive(Args)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArgs {
    /// Database to copy from: a postgres:// URI or keyword=value pairs
    #[arg(
        short = 'S',
        long,
        value_name = "CONNINFO",
        env = "PGCOPYDB_SOURCE_PGURI",
        hide_env_values = true
    )]
    source: Option<String>,
    /// Database to copy to, in the same forms
    #[arg(
        short = 'T',
        long,
        value_name = "CONNINFO",
        env = "PGCOPYDB_TARGET_PGURI",
        hide_env_values = true
    )]
    target: Option<String>,
}

impl ConnectionArgs {
    /// The connection of a side that the command cannot do without.
    pub fn required(&self, side: Side) -> Result<ConnInfo> {
        self.optional(side)?.ok_or_else(|| missing(side))
    }

    pub fn optional(&self, side: Side) -> Result<Option<ConnInfo>> {
        let text = match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        };
        text.as_deref()
            .map(|text| ConnInfo::parse(side, text))
            .transpose()
    }
}

/// The source alone, for commands that never touch the target.
#[derive(Args)]
#[command(next_help_heading = "Connections")]
pub struct SourceArgs {
    /// Database to read from: a postgres:// URI or keyword=value pairs
    #[arg(
        short = 'S',
        long,
        value_name = "CONNINFO",
        env = "PGCOPYDB_SOURCE_PGURI",
        hide_env_values = true
    )]
    source: Option<String>,
}

impl SourceArgs {
    pub fn required(&self) -> Result<ConnInfo> {
        let text = self
            .source
            .as_deref()
            .ok_or_else(|| missing(Side::Source))?;
        ConnInfo::parse(Side::Source, text)
    }
}

fn missing(side: Side) -> Error {
    let variable = format!("PGCOPYDB_{}_PGURI", side.to_string().to_uppercase());
    Error::usage(format!("no {side} database given")).with_hint(format!(
        "Use --{side} or set the environment variable {variable}."
    ))
}

/// What a full disk of the target means.
#[derive(Args)]
#[command(next_help_heading = "Work")]
pub struct RoomArgs {
    /// When the target has no room left: wait until it has some, saying so once a minute, or stop, to be resumed
    #[arg(long, value_name = "wait|stop", value_parser = parse_when_full, default_value = "wait")]
    on_disk_full: WhenFull,
}

impl RoomArgs {
    pub fn when_full(&self) -> WhenFull {
        self.on_disk_full
    }
}

fn parse_when_full(text: &str) -> std::result::Result<WhenFull, String> {
    match text {
        "wait" => Ok(WhenFull::Wait),
        "stop" => Ok(WhenFull::Stop),
        _ => Err("wait or stop is needed".to_owned()),
    }
}

/// A snapshot that another process holds.
#[derive(Args)]
pub struct SnapshotIdArgs {
    /// Read the source in this snapshot, exported and held elsewhere
    #[arg(
        short = 'N',
        long,
        value_name = "ID",
        env = "PGCOPYDB_SNAPSHOT",
        hide_env_values = true
    )]
    pub snapshot: Option<String>,
}

/// Where the state of the run is kept.
#[derive(Args)]
pub struct DirArgs {
    /// Work directory [default: $TMPDIR/pgcopydb or /tmp/pgcopydb]
    #[arg(short = 'D', long, value_name = "DIR", value_parser = parse_dir)]
    pub dir: Option<PathBuf>,
}

/// What is done about something that hangs.
#[derive(Args)]
#[command(next_help_heading = "Work")]
pub struct HangArgs {
    /// Say what is waited for, and who is in its way, when nothing moves for so long, and go on waiting; 0: never
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PGCOPYDB_STALL_TIMEOUT",
        hide_env_values = true,
        default_value_t = 60
    )]
    stall_timeout: u32,
    /// Give up a statement on the target that waits for a lock for so long; 0: wait as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=2_000_000))]
    lock_timeout: u32,
}

impl HangArgs {
    pub fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout.into())
    }

    pub fn lock_timeout(&self) -> Duration {
        Duration::from_secs(self.lock_timeout.into())
    }
}

fn parse_dir(text: &str) -> std::result::Result<PathBuf, String> {
    match text {
        "" => Err("the name of a directory is needed".to_owned()),
        text => Ok(PathBuf::from(text)),
    }
}

/// How many processes do each kind of work.
#[derive(Args)]
#[command(next_help_heading = "Concurrency")]
pub struct JobArgs {
    /// Processes that copy tables [default: 4]
    #[arg(short = 'J', long, value_name = "N", env = "PGCOPYDB_TABLE_JOBS", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_jobs)]
    pub table_jobs: Option<u32>,
    /// Processes that build indexes [default: 4]
    #[arg(short = 'I', long, value_name = "N", env = "PGCOPYDB_INDEX_JOBS", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_jobs)]
    pub index_jobs: Option<u32>,
    /// Both of the above
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_jobs)]
    pub jobs: Option<u32>,
    /// Jobs given to pg_restore [default: as --index-jobs]
    #[arg(long, value_name = "N", env = "PGCOPYDB_RESTORE_JOBS", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_jobs)]
    pub restore_jobs: Option<u32>,
    /// Processes that copy large objects
    #[arg(short = 'b', long, value_name = "N", env = "PGCOPYDB_LARGE_OBJECTS_JOBS", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_jobs, default_value_t = 4)]
    pub large_objects_jobs: u32,
    /// Processes that run VACUUM ANALYZE [default: as --table-jobs]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_jobs)]
    pub vacuum_jobs: Option<u32>,
}

const DEFAULT_JOBS: u32 = 4;

impl JobArgs {
    /// --jobs is typed, so it beats an environment variable; the option that names one kind of worker beats --jobs.
    pub fn resolve(&self, given: &Given) -> Jobs {
        let of = |specific: Option<u32>, name: &str| match self.jobs {
            Some(both) if !given.is_typed(name) => both,
            _ => specific.unwrap_or(DEFAULT_JOBS),
        };
        let table = of(self.table_jobs, "table_jobs");
        let index = of(self.index_jobs, "index_jobs");
        Jobs {
            table,
            index,
            restore: self.restore_jobs.unwrap_or(index),
            large_objects: self.large_objects_jobs,
            vacuum: self.vacuum_jobs.unwrap_or(table),
        }
    }
}

/// How one large table is shared by several processes.
#[derive(Args)]
#[command(next_help_heading = "Splitting large tables")]
pub struct SplitArgs {
    /// Copy tables above this size in parts, such as "10 GB"; 0 never does
    #[arg(long, visible_alias = "split-at", value_name = "SIZE", env = "PGCOPYDB_SPLIT_TABLES_LARGER_THAN", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_size, default_value = "0")]
    pub split_tables_larger_than: u64,
    /// Make no more parts than this of one table; 0 sets no limit
    #[arg(
        long,
        value_name = "N",
        env = "PGCOPYDB_SPLIT_MAX_PARTS",
        hide_env_values = true,
        allow_negative_numbers = true,
        default_value = "0"
    )]
    pub split_max_parts: u32,
    /// Take table sizes from the statistics of the last VACUUM or ANALYZE
    #[arg(long, env = "PGCOPYDB_ESTIMATE_TABLE_SIZES", hide_env_values = true, value_parser = parse_flag)]
    pub estimate_table_sizes: bool,
    /// Split by integer key only, never by CTID range
    #[arg(long, env = "PGCOPYDB_SKIP_CTID_SPLIT", hide_env_values = true, value_parser = parse_flag)]
    pub skip_split_by_ctid: bool,
}

/// Which objects are meant.
#[derive(Args)]
#[command(next_help_heading = "Scope")]
pub struct FilterArgs {
    /// Leave out what the sections of this file say, such as [exclude-table]
    #[arg(short = 'F', long, visible_alias = "filter", value_name = "FILE")]
    pub filters: Option<PathBuf>,
}

impl FilterArgs {
    /// Errors: `Config`, with file, line and reason. A file without any rule is no filter.
    pub fn read(&self) -> Result<Option<Filters>> {
        let filters = self.filters.as_deref().map(Filters::read).transpose()?;
        Ok(filters.filter(|filters| !filters.is_empty()))
    }
}

pub fn parse_jobs(text: &str) -> std::result::Result<u32, String> {
    match text.trim().parse() {
        Ok(jobs) if (1..=MOST_JOBS).contains(&jobs) => Ok(jobs),
        _ => Err(format!("a number from 1 to {MOST_JOBS} is needed")),
    }
}

/// A flag that the environment may set.
pub fn parse_flag(text: &str) -> std::result::Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err("a boolean is needed: 1, true, yes, on or 0, false, no, off".to_owned()),
    }
}
