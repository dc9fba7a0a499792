//! The data section: tables, indexes, constraints, vacuum, large objects, sequences, of one database or of many at once.
//! The parent plans and supervises; everything that takes time runs in one pool of forked workers that take work from
//! System V queues. Knows nothing of change data capture, and never talks to pg_dump.

mod bars;
mod indexes;
mod large_objects;
mod ledger;
mod order;
mod plan;
mod relay;
mod sequences;
mod supervise;
mod tables;
mod tally;
mod vacuum;
mod work;
mod worker;

use crate::catalog::{Catalog, Table, Target, TargetKind};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::ident::{Oid, quote_ident};
use crate::pg::conninfo::ConnInfo;
use crate::pg::remedy::WhenFull;
use crate::pg::session::{RunName, TargetSettings, open_source, open_target};
use crate::pg::wire::Connection;
use crate::snapshot::{begin_sql, is_gone};
use crate::sys::msgq::{MessageQueue, QueueNote};
use crate::sys::signal::Shutdown;
use crate::workdir::WorkDir;
use crate::workdir::done::Failure;
use indexes::is_small;
use order::LARGE_BYTES;
use tally::Tally;
use work::{Item, Work};

pub use large_objects::{Batch as LargeObjectBatch, fetch_batches};
pub use plan::{CopyPlan, CopyProgress, Wanted, plan};
pub use relay::{Relayed, relay};
pub use sequences::copy_sequences;
pub use supervise::{End, Jobs, Watch, run};

/// The groups of workers, in the order in which a table passes through them; the names of their processes begin so.
pub const COPY: &str = "copy worker";
pub const LARGE_OBJECTS: &str = "large-object worker";
pub const INDEX: &str = "index worker";
pub const VACUUM: &str = "vacuum worker";

/// What the data section of a database was asked to do.
#[derive(Debug, Clone)]
pub struct CopySpec {
    /// None when nothing is read from it.
    pub source: Option<ConnInfo>,
    pub target: ConnInfo,
    pub run: RunName,
    pub target_settings: TargetSettings,
    pub use_copy_binary: bool,
    pub no_owner: bool,
    pub no_acl: bool,
    pub no_comments: bool,
    pub no_tablespaces: bool,
    pub skip_analyze: bool,
    pub fail_fast: bool,
    pub when_full: WhenFull,
    /// An index that the user made on a table before its turn stays, though its definition is another than the source's.
    pub keeps_indexes: bool,
    /// Changes follow: what is left can be copied later, as of another position.
    pub is_followed: bool,
}

impl CopySpec {
    /// What to do when rows of the snapshot cannot be had any more.
    fn way_out(&self) -> &'static str {
        match self.is_followed {
            true => {
                "run again with --resume, which copies what is left in a new snapshot and skips the changes that it holds"
            }
            false => "run again with --resume --not-consistent, or --restart",
        }
    }
}

/// Everything a worker reads of a database; made by the parent, inherited across fork, never changed.
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

/// An instance, whose databases come and go while the server stays.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// Where a server that has lost one database is asked whether it is still there.
    pub source: &'a ConnInfo,
    pub target: &'a ConnInfo,
}

/// What all workers share.
pub struct Pool<'a> {
    /// At least one.
    databases: &'a [CopyContext<'a>],
    /// None: the only database stands for its servers.
    instance: Option<Instance<'a>>,
    tables: MessageQueue<Item>,
    large_objects: MessageQueue<Item>,
    indexes: MessageQueue<Item>,
    vacuum: MessageQueue<Item>,
    tally: Tally,
}

impl<'a> Pool<'a> {
    fn create(
        databases: &'a [CopyContext<'a>],
        instance: Option<Instance<'a>>,
        [tables, large_objects, indexes, vacuum]: &[QueueNote; 4],
    ) -> Result<Pool<'a>> {
        Ok(Pool {
            databases,
            instance,
            tables: MessageQueue::create(tables)?,
            large_objects: MessageQueue::create(large_objects)?,
            indexes: MessageQueue::create(indexes)?,
            vacuum: MessageQueue::create(vacuum)?,
            tally: Tally::create(databases.len())?,
        })
    }

    fn context(&self, database: u32) -> Result<&'a CopyContext<'a>> {
        let context = self.databases.get(database as usize);
        context.ok_or_else(|| Error::internal(format!("no database number {database} in the run")))
    }

    /// A piece of work of a database, as it travels.
    fn item(&self, database: u32, work: Work) -> Item {
        let context = self.databases.get(database as usize);
        Item {
            database,
            work,
            is_large: context.is_some_and(|context| context.is_large(work)),
        }
    }
}

impl CopyContext<'_> {
    fn quoted_name(&self) -> String {
        quote_ident(&self.catalog.database.name)
    }

    /// Whether it is worth going to another database for.
    fn is_large(&self, work: Work) -> bool {
        match work {
            Work::Copy(item) => {
                let item = self.plan.items.get(item as usize);
                item.is_some_and(|item| item.bytes >= LARGE_BYTES)
            }
            Work::BuildIndex(_) => true,
            Work::BuildIndexesOf(table) => {
                let table = self.catalog.table(table);
                table.is_some_and(|table| !is_small(table))
            }
            Work::Vacuum(_) | Work::CopyLargeObjects(_) | Work::Stop => false,
        }
    }

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
            .with_hint(format!(
                "The source was restarted, or the connection that held the snapshot was lost: {}.",
                self.spec.way_out()
            )),
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
