//! The data section: tables, indexes, constraints, vacuum, large objects, sequences. The parent plans and supervises;
//! everything that takes time runs in forked workers that take work from System V queues. Knows nothing of change data
//! capture, and never talks to pg_dump.

mod bars;
mod committer;
mod indexes;
mod large_objects;
mod ledger;
mod plan;
mod relay;
mod sequences;
mod supervise;
mod tables;
mod vacuum;
mod work;

use std::time::Duration;

use crate::catalog::{Catalog, Table, Target, TargetKind};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::ident::Oid;
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::Remedy;
use crate::pg::session::{RunName, TargetSettings, open_source, open_target};
use crate::pg::wire::Connection;
use crate::snapshot::{begin_sql, is_gone};
use crate::sys::signal::Shutdown;
use crate::workdir::WorkDir;
use crate::workdir::done::Failure;

pub use large_objects::{Batch as LargeObjectBatch, fetch_batches};
pub use plan::{CopyPlan, CopyProgress, Wanted, plan};
pub use relay::{Relayed, relay};
pub use sequences::copy_sequences;
pub use supervise::run;

/// The groups of workers, in the order in which a table passes through them; the names of their processes begin so.
pub const COPY: &str = "copy worker";
pub const LARGE_OBJECTS: &str = "large-object worker";
pub const INDEX: &str = "index worker";
pub const VACUUM: &str = "vacuum worker";

/// What the data section was asked to do.
#[derive(Debug, Clone)]
pub struct CopySpec {
    /// None when nothing is read from it.
    pub source: Option<ConnInfo>,
    pub target: ConnInfo,
    pub run: RunName,
    pub target_settings: TargetSettings,
    pub table_jobs: u32,
    pub index_jobs: u32,
    pub vacuum_jobs: u32,
    pub large_objects_jobs: u32,
    pub use_copy_binary: bool,
    pub no_owner: bool,
    pub no_acl: bool,
    pub no_comments: bool,
    pub no_tablespaces: bool,
    pub skip_analyze: bool,
    pub fail_fast: bool,
    /// An index that the user made on a table before its turn stays, though its definition is another than the source's.
    pub keeps_indexes: bool,
}

/// Everything a worker reads; made by the parent, inherited across fork, never changed.
pub struct CopyContext<'a> {
    pub spec: &'a CopySpec,
    pub catalog: &'a Catalog,
    /// The target as it was before the first worker started.
    pub target: &'a Target,
    pub workdir: &'a WorkDir,
    /// Empty when nothing is left to read from the source.
    pub snapshot: &'a str,
    /// What the snapshot sees: done-files carry it, since an id may be given twice.
    pub snapshot_content: &'a str,
    pub snapshot_lsn: Option<crate::lsn::Lsn>,
    pub plan: &'a CopyPlan,
}

impl CopyContext<'_> {
    fn open_source(&self, process: &str, shutdown: &Shutdown) -> Result<Connection> {
        let source = self.spec.source.as_ref();
        let source = source.ok_or_else(|| Error::internal("a worker knows no source"))?;
        open_source(source, &self.spec.run.of(process), shutdown)
    }

    fn open_target(&self, process: &str, shutdown: &Shutdown) -> Result<Connection> {
        open_target(
            &self.spec.target,
            &self.spec.run.of(process),
            &self.spec.target_settings,
            shutdown,
        )
    }

    /// What a failure to copy means: when the snapshot is gone, no other object can be copied either, and one error
    /// says so instead of one for each object.
    fn explain(&self, error: Error, source: Option<&mut Connection>) -> Error {
        let Some(source) = source.filter(|_| is_gone(&error)) else {
            return error;
        };
        match source.execute(&begin_sql(self.snapshot)) {
            Err(again) if is_gone(&again) => Error::connection_lost(
                Side::Source,
                format!("snapshot {} does not exist any more", self.snapshot),
            )
            .with_server_of(&again)
            .with_kind(ErrorKind::Source)
            .with_hint(
                "The source was restarted, or the connection that held the snapshot was lost: run again with \
                 --resume --not-consistent, or --restart.",
            ),
            _ => {
                source.recover();
                error
            }
        }
    }

    /// Whether the user has put a partitioned table in the place of this one, which is none on the source.
    fn is_partitioned_there(&self, table: &Table) -> bool {
        let target = self.target.table(&table.schema, &table.name);
        target.is_some_and(|target| target.kind == TargetKind::Partitioned)
    }

    fn table(&self, oid: Oid) -> Result<&Table> {
        self.catalog
            .table(oid)
            .ok_or_else(|| Error::internal(format!("no table with oid {oid} in the catalog")))
    }

    /// One object failed. It is listed and the rest goes on, unless the user asked otherwise or the failure is not
    /// the object's own: a stop request, a lost server.
    fn object_failed(&self, kind: &str, name: &str, error: Error) -> Result<()> {
        if error.is_interrupted() || error.is_connection_lost() || self.spec.fail_fast {
            return Err(error);
        }
        error.log("");
        self.workdir
            .record_failure(&Failure::new(kind, name, &error))
    }
}

/// How often an item is tried when a connection breaks under it. Opening the next connection waits for a server that
/// is restarting, and every attempt comes later than the one before: about a quarter of a minute in all.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Between one attempt and the next, the first being 1.
fn pause_after(attempt: u32) -> Duration {
    FIRST_PAUSE * 2u32.pow(attempt.saturating_sub(1).min(8))
}

/// Run one piece of work, again with fresh connections when a connection was lost. `reset` drops the old ones.
fn with_retry<W, T>(
    worker: &mut W,
    what: &str,
    mut work: impl FnMut(&mut W) -> Result<T>,
    mut reset: impl FnMut(&mut W),
) -> Result<T> {
    let mut attempt = 1;
    loop {
        let error = match work(worker) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // Whatever happened, the protocol state of both connections is not worth guessing at.
        reset(worker);
        let may_pass = matches!(Remedy::of(&error), Remedy::Connection | Remedy::Attempt);
        if !may_pass || attempt == ATTEMPTS || error.was_waited_for() {
            return Err(error);
        }
        // Its statement was cancelled because of the signal: what broke after that is no news.
        Shutdown::handle().check()?;
        let pause = pause_after(attempt);
        attempt += 1;
        log::warn!(
            "{error}; trying again ({what}, attempt {attempt} of {ATTEMPTS}, in {} ms)",
            pause.as_millis()
        );
        Shutdown::handle().sleep(pause)?;
    }
}
