//! A vacuum worker: VACUUM and ANALYZE of tables that are complete with their indexes. Runs in its own process with one
//! connection to the target. Small tables share a statement, because each VACUUM command has a cost of its own
//! (before 16 it reads all of pg_class at its end).

use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::work::Work;
use super::{CopyContext, with_retry};
use crate::catalog::is_name_not_found;
use crate::error::{Error, Result};
use crate::pg::wire::Connection;
use crate::sys::msgq::{MessageQueue, Received};
use crate::sys::signal::Shutdown;
use crate::workdir::done::{VacuumDone, now_ms};
use crate::workdir::live::{Seat, Task};

/// Tables of one statement at most.
const BATCH_TABLES: usize = 64;

/// Tables in one statement together hold at most this much, so that a worker is never busy while others idle.
const BATCH_BYTES: u64 = 16 << 20;

/// How long a batch that is not full waits for company. Vacuum is the last step of a table: nobody waits for it.
const GATHER: Duration = Duration::from_millis(300);

struct Worker<'a> {
    context: &'a CopyContext<'a>,
    process: String,
    shutdown: Shutdown,
    target: Option<Connection>,
    ledger: Ledger<'a, ()>,
    seat: Seat<'a>,
}

/// The body of a vacuum worker.
pub fn run(
    context: &CopyContext<'_>,
    queue: &MessageQueue<Work>,
    process: String,
    seat: Seat<'_>,
    shutdown: &Shutdown,
) -> Result<()> {
    let mut worker = Worker {
        context,
        process,
        shutdown: *shutdown,
        target: None,
        ledger: Ledger::new(),
        seat,
    };
    loop {
        let (batch, is_last) = worker.gather(queue)?;
        if let Some(first) = batch.first() {
            worker.seat.begin(Task::Vacuum, *first, 0, 0);
            worker.vacuum(&batch)?;
            worker.seat.items(batch.len() as u64);
            worker.seat.over();
        }
        if is_last {
            return worker.settle();
        }
    }
}

impl Worker<'_> {
    /// Tables for the next statement; whether it is the last. Waits for the first one only.
    fn gather(&mut self, queue: &MessageQueue<Work>) -> Result<(Vec<u32>, bool)> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut since = Instant::now();
        loop {
            let received = match queue.try_recv()? {
                Received::Empty if batch.is_empty() => {
                    self.settle()?;
                    let received = queue.recv(&self.shutdown)?;
                    since = Instant::now();
                    received
                }
                Received::Empty if since.elapsed() < GATHER => {
                    self.shutdown.sleep(Duration::from_millis(20))?;
                    continue;
                }
                Received::Empty => return Ok((batch, false)),
                received => received,
            };
            match received {
                Received::Item(Work::Vacuum(table)) => {
                    batch.push(table);
                    bytes += self.context.table(table)?.bytes;
                    if batch.len() >= BATCH_TABLES || bytes >= BATCH_BYTES {
                        return Ok((batch, false));
                    }
                }
                Received::Item(Work::Stop) | Received::Closed => return Ok((batch, true)),
                Received::Item(other) => {
                    return Err(Error::internal(format!(
                        "a vacuum worker was given {other:?}"
                    )));
                }
                Received::Empty => {}
            }
        }
    }

    fn vacuum(&mut self, batch: &[u32]) -> Result<()> {
        match self.run_sql(batch) {
            Ok(duration) => self.vacuumed(batch, duration),
            Err(error) if error.is_interrupted() || error.is_connection_lost() => Err(error),
            // One table of the batch failed: find out which.
            Err(_) if batch.len() > 1 => batch
                .iter()
                .try_for_each(|table| self.vacuum(std::slice::from_ref(table))),
            Err(error) => {
                let name = self.context.table(batch[0])?.qualified_name().to_string();
                let error = error.context(format!("could not vacuum table {name}"));
                self.context.object_failed("vacuum", &name, error)
            }
        }?;
        if self.ledger.is_due() {
            self.settle()
        } else {
            Ok(())
        }
    }

    fn run_sql(&mut self, batch: &[u32]) -> Result<Duration> {
        let started = Instant::now();
        with_retry(
            self,
            "vacuum",
            |worker| {
                if worker.target.is_none() {
                    worker.settle()?;
                    worker.target = Some(
                        worker
                            .context
                            .open_target(&worker.process, &worker.shutdown)?,
                    );
                }
                let Some(target) = &mut worker.target else {
                    return Err(Error::internal("a connection vanished"));
                };
                let sql = vacuum_sql(worker.context, batch, target.server_version())?;
                match target.execute(&sql) {
                    Err(error) if batch.len() == 1 && is_name_not_found(&error) => {
                        run_with_search_path(worker.context, target, &sql, error)
                    }
                    result => result.map(drop),
                }
            },
            |worker| {
                worker.target.take_if(|target| !target.recover());
            },
        )?;
        Ok(started.elapsed())
    }

    fn vacuumed(&mut self, batch: &[u32], duration: Duration) -> Result<()> {
        let context = self.context;
        for table in batch {
            let table = context.table(*table)?;
            let done = VacuumDone {
                oid: table.oid,
                duration_ms: duration.as_millis() as u64 / batch.len() as u64,
                finished_at_ms: now_ms(),
            };
            log::debug!("vacuumed table {}", table.qualified_name());
            self.ledger
                .committed((), move || context.workdir.write_vacuum_done(&done));
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        match &mut self.target {
            Some(target) => self.ledger.settle(target),
            // What a crash of the target took from a VACUUM is made good by autovacuum: no reason to end the run.
            None => {
                self.ledger.forget();
                Ok(())
            }
        }
    }
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
