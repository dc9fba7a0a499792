//! A vacuum worker: VACUUM and ANALYZE of tables that are complete with their indexes. Runs in its own process with one
//! connection to the target. Small tables of one database share a statement, because each VACUUM command has a cost of its own
//! (before 16 it reads all of pg_class at its end).

use std::time::{Duration, Instant};

use super::CopyContext;
use super::ledger::Made;
use super::work::{Item, Work, try_next};
use super::worker::Worker;
use crate::catalog::is_name_not_found;
use crate::error::{Error, Result};
use crate::ident::Oid;
use crate::pg::wire::Connection;
use crate::sys::msgq::Received;
use crate::workdir::done::{VacuumDone, now_ms};
use crate::workdir::live::Task;

/// Tables of one statement at most.
const BATCH_TABLES: usize = 64;

/// Tables in one statement together hold at most this much, so that a worker is never busy while others idle.
const BATCH_BYTES: u64 = 16 << 20;

/// How long a batch that is not full waits for company. Vacuum is the last step of a table: nobody waits for it.
const GATHER: Duration = Duration::from_millis(300);

/// Tables of one database.
#[derive(Default)]
struct Batch {
    database: Option<u32>,
    tables: Vec<Oid>,
    bytes: u64,
    /// Nothing comes after it.
    is_last: bool,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.tables.len() >= BATCH_TABLES || self.bytes >= BATCH_BYTES
    }
}

/// The body of a vacuum worker.
pub fn run(mut worker: Worker<'_>) -> Result<()> {
    // What a crash of the target took from a VACUUM is made good by autovacuum: no reason to do it again, or to end the run.
    worker.does_again(|_, _| Ok(()));
    let mut next = None;
    loop {
        let batch = gather(&mut worker, &mut next)?;
        let items: Vec<Work> = batch.tables.iter().copied().map(Work::Vacuum).collect();
        if let (Some(database), Some(first)) = (batch.database, batch.tables.first()) {
            worker.handle(database, &items, |worker| {
                worker.seat.begin(Task::Vacuum, *first, 0, 0);
                vacuum(worker, &batch.tables)?;
                worker.seat.items(batch.tables.len() as u64);
                worker.seat.over();
                Ok(())
            })?;
        }
        if worker.ledger.is_due() || batch.is_last {
            worker.settle()?;
        }
        if batch.is_last {
            return Ok(());
        }
    }
}

/// Tables for the next statement, all of one database. Waits for the first one only; `next` is one of another database
/// that came instead of more.
fn gather(worker: &mut Worker<'_>, next: &mut Option<Item>) -> Result<Batch> {
    let mut batch = Batch::default();
    let mut since = Instant::now();
    loop {
        let received = match next.take() {
            Some(item) => Received::Item(item),
            None => try_next(worker.queue, batch.database.or(worker.here()))?,
        };
        let received = match received {
            Received::Empty if batch.tables.is_empty() => {
                worker.settle()?;
                let received = worker.queue.recv(&worker.shutdown)?;
                since = Instant::now();
                received
            }
            Received::Empty if since.elapsed() < GATHER => {
                worker.shutdown.sleep(Duration::from_millis(20))?;
                continue;
            }
            Received::Empty => return Ok(batch),
            received => received,
        };
        match received {
            Received::Item(Item {
                work: Work::Stop, ..
            })
            | Received::Closed => {
                batch.is_last = true;
                return Ok(batch);
            }
            Received::Item(item) if batch.database.is_some_and(|it| it != item.database) => {
                *next = Some(item);
                return Ok(batch);
            }
            Received::Item(Item {
                database,
                work: Work::Vacuum(table),
                ..
            }) => {
                batch.database = Some(database);
                batch.tables.push(table);
                batch.bytes += worker.pool.context(database)?.table(table)?.bytes;
                if batch.is_full() {
                    return Ok(batch);
                }
            }
            Received::Item(other) => {
                return Err(Error::internal(format!(
                    "a vacuum worker was given {other:?}"
                )));
            }
            Received::Empty => {}
        }
    }
}

fn vacuum(worker: &mut Worker<'_>, batch: &[Oid]) -> Result<()> {
    match run_sql(worker, batch) {
        Ok(duration) => vacuumed(worker, batch, duration),
        Err(error) if error.is_interrupted() || error.is_connection_lost() => Err(error),
        // One table of the batch failed: find out which.
        Err(_) if batch.len() > 1 => batch
            .iter()
            .try_for_each(|table| vacuum(worker, std::slice::from_ref(table))),
        Err(error) => {
            let name = worker.context.table(batch[0])?.qualified_name().to_string();
            let error = error.context(format!("could not vacuum table {name}"));
            worker.context.object_failed("vacuum", &name, error)
        }
    }
}

fn run_sql(worker: &mut Worker<'_>, batch: &[Oid]) -> Result<Duration> {
    let started = Instant::now();
    worker.retry("vacuum", |worker| {
        let context = worker.context;
        let target = worker.target()?;
        let sql = vacuum_sql(context, batch, target.server_version())?;
        match target.execute(&sql) {
            Err(error) if batch.len() == 1 && is_name_not_found(&error) => {
                run_with_search_path(context, target, &sql, error)
            }
            result => result.map(drop),
        }
    })?;
    Ok(started.elapsed())
}

fn vacuumed(worker: &mut Worker<'_>, batch: &[Oid], duration: Duration) -> Result<()> {
    let context = worker.context;
    for table in batch {
        let table = context.table(*table)?;
        let done = VacuumDone {
            oid: table.oid,
            duration_ms: duration.as_millis() as u64 / batch.len() as u64,
            finished_at_ms: now_ms(),
        };
        log::debug!("vacuumed table {}", table.qualified_name());
        worker.ledger.committed(Made::Vacuum(done.oid), move || {
            context.workdir.write_vacuum_done(&done)
        });
    }
    Ok(())
}

/// ANALYZE computes the expressions of indexes, whose functions may rely on the database's search_path. VACUUM must be a
/// message of its own.
fn run_with_search_path(
    context: &CopyContext<'_>,
    target: &mut Connection,
    sql: &str,
    error: Error,
) -> Result<()> {
    let Some(path) = context.catalog.search_path_sql() else {
        return Err(error);
    };
    target.execute(&format!("SET search_path = {path}"))?;
    let result = target.execute(sql).map(drop);
    target.execute("SET search_path = pg_catalog")?;
    result
}

/// SKIP_DATABASE_STATS (16+) leaves out the pass over pg_class; the parent does it once at the end.
fn vacuum_sql(context: &CopyContext<'_>, batch: &[u32], server_version: u32) -> Result<String> {
    let mut options = Vec::new();
    if !context.spec.skip_analyze {
        options.push("ANALYZE");
    }
    if server_version >= 160_000 {
        options.push("SKIP_DATABASE_STATS");
    }
    let options = if options.is_empty() {
        String::new()
    } else {
        format!(" ({})", options.join(", "))
    };
    let names = batch
        .iter()
        .map(|table| {
            let table = context.table(*table)?;
            // 18 would vacuum the children of an inheritance parent too; they have their own turn. Those of a table that the
            // user has made partitioned have none.
            let has_only = server_version >= 180_000 && !context.is_partitioned_there(table);
            let only = if has_only { "ONLY " } else { "" };
            Ok(format!("{only}{}", table.qualified_name()))
        })
        .collect::<Result<Vec<String>>>()?;
    Ok(format!("VACUUM{options} {}", names.join(", ")))
}
