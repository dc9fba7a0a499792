//! `list progress`: how far a run is, from its work directory and, where they answer at once, from the two servers. Made to
//! be called again and again beside a run: it takes no lock, waits for no server, and leaves everything as it is.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::progress_text::{render, render_instance, render_instance_summary, render_summary};
use crate::cli::options::{ConnectionArgs, DirArgs};
use crate::cli::stdout;
use crate::error::{Result, Side};
use crate::pg::connect::connect_once;
use crate::pg::conninfo::ConnInfo;
use crate::pg::wire::Connection;
use crate::report::instance::{self, InstanceProgress, InstanceSummary};
use crate::report::summary::Summary;
use crate::report::{Answer, Progress, fetch_builds, fetch_replication, follow_pid};
use crate::sys::signal::Shutdown;
use crate::workdir::done::now_ms;
use crate::workdir::paths::Paths;
use crate::workdir::{cdc_location, location};

/// A server that does not answer at once is reported as such: whoever polls wants the rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// Show how far a run is
#[derive(Args)]
#[command(after_help = "\
Works beside a run and after it. Read from the work directory; with --source and --target (or their environment \
variables) the servers are asked too: the target about indexes under way, the source about the lag of a follow. A server \
that does not answer within 5 s is left out. On the directory of clone --all-databases all databases are shown together and \
one by one.

JSON: an object with the keys
  state (not-started, running, complete or incomplete), pid, run, table-jobs, index-jobs, elapsed-ms,
  steps: an array of step, duration_ms, finished_at_ms;
  tables: total, done, bytes (on the source's disk), bytes-done, copied-rows, copied-bytes, bytes-per-second,
    seconds-left; in-progress, an array of oid, schema, name, part, reltuples, bytes, copied-rows, copied-bytes,
    fraction, rows-per-second, bytes-per-second, seconds-left, elapsed-ms, process (pid, worker, start-time-epoch);
    all, an array of oid, schema, name, state (waiting, copying or done), parts, parts-done, reltuples, bytes,
    copied-rows, copied-bytes;
  indexes: total, done; in-progress, an array of oid, schema, name, table, elapsed-ms, process and build (phase,
    blocks-done, blocks-total, tuples-done, tuples-total, fraction and seconds-left of the whole build);
  constraints, vacuum: total, done; large-objects: total, done, copied-bytes;
  failures: an array of kind, name, side, sqlstate, message;
  replication (null without follow): slot-name, origin, pid, sentinel (as stream sentinel get prints it), source
    (current-lsn, is-active, received-lsn, flushed-lsn, replayed-lsn, lag-bytes, lag-seconds, retained-bytes); \
lag-seconds is the time since the commit of the oldest transaction that is not replayed;
  servers: source and target: not-asked, answered, or an object failed with the reason.
On the directory of clone --all-databases, together: state, pid, table-jobs, index-jobs, elapsed-ms, tables (without \
in-progress and all), indexes, constraints, vacuum (total, done), large-objects; databases, an array of database (its name) \
and all the keys above.
What is not known is null; rates and times left are estimates. With --summary: an object as in the file summary.json: \
version, is_complete, duration_ms, phases, tables (name, rows, bytes, copy_ms, indexes, index_ms, vacuum_ms), \
large_objects, large_objects_bytes, sequences, failures; of an instance: version, is_complete, duration_ms, databases \
(database, summary).

Examples: pgcopydb list progress --dir /var/tmp/shop --target postgres://me@new/shop
  pgcopydb list progress --summary")]
pub struct ProgressArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    /// Show what was done to each table, and in which time
    #[arg(long)]
    summary: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ProgressArgs) -> Result<()> {
    let top = location(args.dir.dir.as_deref());
    let paths = Paths::new(&top);
    if let Some(folders) = instance::databases(&paths)? {
        return run_instance(args, &paths, &folders);
    }
    if args.summary {
        let summary = Summary::read(&paths)?;
        return match (args.json, &summary) {
            (true, summary) => stdout::print_json(summary),
            (false, Some(summary)) => stdout::print(&render_summary(summary)),
            (false, None) => stdout::print(&nothing(&top)),
        };
    }
    let shutdown = Shutdown::install()?;
    let mut progress = Progress::read(&paths, now_ms())?;
    let (source, target) = args.servers()?;
    if let Some(target) = target {
        ask_target(&mut progress, &target, &shutdown)?;
    }
    let cdc_dir = cdc_location(args.dir.dir.as_deref());
    ask_source(&mut progress, source.as_ref(), &top, &cdc_dir, &shutdown)?;
    if args.json {
        return stdout::print_json(&progress);
    }
    stdout::print(
        &match progress.run.is_some() || progress.replication.is_some() {
            true => render(&progress),
            false => nothing(&top),
        },
    )
}

/// The same of every database of an instance, and of all together.
fn run_instance(args: &ProgressArgs, top: &Paths, folders: &[(String, Paths)]) -> Result<()> {
    if args.summary {
        let summary = InstanceSummary::read(folders, InstanceSummary::written_duration(top))?;
        return match args.json {
            true => stdout::print_json(&summary),
            false => stdout::print(&render_instance_summary(&summary)),
        };
    }
    let shutdown = Shutdown::install()?;
    let mut progress = InstanceProgress::read(top, folders, now_ms())?;
    let (source, target) = args.servers()?;
    for (it, (name, paths)) in progress.databases.iter_mut().zip(folders) {
        if let Some(target) = &target {
            ask_target(&mut it.progress, &target.with_dbname(name), &shutdown)?;
        }
        let source = source.as_ref().map(|source| source.with_dbname(name));
        let cdc_dir = cdc_location(Some(paths.top()));
        ask_source(
            &mut it.progress,
            source.as_ref(),
            paths.top(),
            &cdc_dir,
            &shutdown,
        )?;
    }
    match args.json {
        true => stdout::print_json(&progress),
        false => stdout::print(&render_instance(&progress)),
    }
}

impl ProgressArgs {
    /// Both are only asked if they are given.
    fn servers(&self) -> Result<(Option<ConnInfo>, Option<ConnInfo>)> {
        Ok((
            self.connections.optional(Side::Source)?,
            self.connections.optional(Side::Target)?,
        ))
    }
}

fn nothing(top: &Path) -> String {
    format!("There is no run in \"{}\" yet.\n", top.display())
}

fn connect(info: &ConnInfo, shutdown: &Shutdown) -> Result<Connection> {
    let mut connection = connect_once(info, "pgcopydb list progress", shutdown, PATIENCE)?;
    connection.set_deadline(Some(PATIENCE));
    Ok(connection)
}

/// The target is asked when there is something to ask it.
fn ask_target(progress: &mut Progress, info: &ConnInfo, shutdown: &Shutdown) -> Result<()> {
    let Some(run) = progress
        .run
        .clone()
        .filter(|_| !progress.indexes.in_progress.is_empty())
    else {
        return Ok(());
    };
    let asked = connect(info, shutdown).and_then(|mut target| fetch_builds(&mut target, &run));
    match asked {
        Ok(builds) => {
            progress.servers.target = Answer::Answered;
            progress.add_builds(builds);
            Ok(())
        }
        Err(error) if error.is_interrupted() => Err(error),
        Err(error) => {
            progress.servers.target = Answer::Failed(error.to_string());
            Ok(())
        }
    }
}

/// The source is asked when something was set up to follow it.
fn ask_source(
    progress: &mut Progress,
    info: Option<&ConnInfo>,
    top: &Path,
    cdc_dir: &Path,
    shutdown: &Shutdown,
) -> Result<()> {
    let pid = follow_pid(top);
    progress.replication = fetch_replication(cdc_dir, pid, None)?;
    let Some(info) = info else {
        return Ok(());
    };
    if progress.replication.is_none() {
        return Ok(());
    }
    let asked =
        connect(info, shutdown).and_then(|source| fetch_replication(cdc_dir, pid, Some(source)));
    match asked {
        Ok(replication) => {
            progress.servers.source = Answer::Answered;
            progress.replication = replication;
            Ok(())
        }
        Err(error) if error.is_interrupted() => Err(error),
        Err(error) => {
            progress.servers.source = Answer::Failed(error.to_string());
            Ok(())
        }
    }
}
