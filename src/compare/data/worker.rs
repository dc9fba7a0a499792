//! A compare worker: takes items, asks both servers at once, writes the answers into its file. Runs in a forked process
//! with one connection to each server.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::answer::{Answer, Found, Sum};
use super::checksum::sum_sql;
use super::plan::{Item, Task};
use super::work::Work;
use super::{Context, NAME, locate};
use crate::error::{Context as _, Error, Result};
use crate::pg::session::open_source;
use crate::pg::wire::{Connection, Row};
use crate::snapshot::begin_sql;
use crate::sys::msgq::{MessageQueue, Received};
use crate::sys::signal::Shutdown;

/// The two connections of a worker.
pub struct Sides<'a> {
    pub context: &'a Context<'a>,
    source: Connection,
    target: Connection,
}

pub fn run(
    context: &Context<'_>,
    items: &[Item],
    queue: &MessageQueue<Work>,
    number: u32,
    shutdown: &Shutdown,
) -> Result<()> {
    let mut file = open_file(context, number)?;
    let mut sides = Sides::open(context, shutdown)?;
    loop {
        let item = match queue.recv(shutdown)? {
            Received::Item(Work::Item(at)) => items
                .get(at as usize)
                .ok_or_else(|| Error::internal(format!("there is no item {at}")))?,
            Received::Item(Work::Stop) => return Ok(()),
            Received::Closed | Received::Empty => return Err(Error::interrupted()),
        };
        let found = match sides.answer(item) {
            Ok(found) => found,
            // A table that may not be read is told; a lost server, and with it the snapshot, is the end.
            Err(error) if error.is_interrupted() || error.is_connection_lost() => {
                return Err(error);
            }
            Err(error) => {
                let name = context
                    .pairs
                    .get(item.pair as usize)
                    .map_or(String::new(), |pair| pair.name.to_string());
                let message = error
                    .context(format!("could not compare table {name}"))
                    .to_string();
                match item.task {
                    Task::Sum { .. } => Found::Failed { message },
                    Task::Locate { .. } => Found::NotLocated { message },
                }
            }
        };
        write_answer(
            &mut file,
            &Answer {
                pair: item.pair,
                found,
            },
        )?;
    }
}

fn open_file(context: &Context<'_>, number: u32) -> Result<File> {
    let path = context.workdir.paths.compare_answers(number);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("could not create file \"{}\"", path.display()))
}

fn write_answer(file: &mut File, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)
        .map_err(|error| Error::internal(format!("could not encode an answer: {error}")))?;
    line.push(b'\n');
    file.write_all(&line).context("could not write an answer")
}

impl<'a> Sides<'a> {
    fn open(context: &'a Context<'a>, shutdown: &Shutdown) -> Result<Sides<'a>> {
        let open = |info| -> Result<Connection> {
            let mut connection = open_source(info, NAME, shutdown)?;
            let version = connection.server_version();
            connection.execute(&context.method.session_sql(version))?;
            Ok(connection)
        };
        Ok(Sides {
            context,
            source: open(&context.source)?,
            target: open(&context.target)?,
        })
    }

    fn answer(&mut self, item: &Item) -> Result<Found> {
        let pair = self
            .context
            .pairs
            .get(item.pair as usize)
            .ok_or_else(|| Error::internal(format!("there is no table {}", item.pair)))?;
        match &item.task {
            Task::Sum { source, target } => {
                let method = self.context.method;
                let sql = [
                    sum_sql(pair, method, true, source.as_deref()),
                    sum_sql(pair, method, false, target.as_deref()),
                ];
                let mut sums = [Sum::default(); 2];
                self.ask([&sql[0], &sql[1]], &mut |side, row| {
                    sums[side] = Sum {
                        rows: row.parse(0)?,
                        sum: row.parse(1)?,
                    };
                    Ok(())
                })?;
                let [source, target] = sums;
                Ok(Found::Sums { source, target })
            }
            Task::Locate { rows } => locate::rows(self, pair, *rows),
        }
    }

    /// Ask both servers, each in its snapshot; `on_row` gets the source's rows (0) and then the target's (1), while the
    /// target is at work from the start. Each question has a transaction of its own, which gives the locks back.
    pub fn ask(
        &mut self,
        sql: [&str; 2],
        on_row: &mut dyn FnMut(usize, &Row) -> Result<()>,
    ) -> Result<()> {
        let within = |snapshot: &str, sql: &str| format!("{}; {sql}; COMMIT", begin_sql(snapshot));
        let snapshots = (self.context.source_snapshot, self.context.target_snapshot);
        self.source.start_query(&within(snapshots.0, sql[0]))?;
        if let Err(error) = self.target.start_query(&within(snapshots.1, sql[1])) {
            self.source.abandon_query();
            return Err(error);
        }
        let ours = self.source.finish_query(&mut |row| on_row(0, row));
        if ours.as_ref().is_err_and(Error::is_interrupted) {
            self.target.abandon_query();
        }
        let theirs = match self.target.is_broken() {
            true => Ok(()),
            false => self.target.finish_query(&mut |row| on_row(1, row)),
        };
        let result = ours.and(theirs);
        if result.is_err() {
            // A failed statement leaves its transaction behind.
            self.source.recover();
            self.target.recover();
        }
        result
    }
}
