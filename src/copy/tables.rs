//! A copy worker: takes tables and parts of tables, largest first, and relays them. Runs in its own process with one
//! connection to each server. It commits, it queues the indexes of a table that is complete, and it writes
//! done-files; it builds nothing itself.

use std::time::Instant;

use super::CopyContext;
use super::ledger::Made;
use super::relay::{Relayed, relay};
use super::work::Work;
use super::worker::{Fate, Worker};
use crate::catalog::{CopyFormat, Part, Table, TargetKind, copy_encoding};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::ident::quote_literal;
use crate::pg::wire::Row;
use crate::snapshot::begin_sql;
use crate::sys::failpoint::failpoint;
use crate::workdir::done::{PartDone, TableDone};
use crate::workdir::live::Task;

/// The body of a copy worker.
pub fn run(mut worker: Worker<'_>) -> Result<()> {
    worker.does_again(|worker, made| match made {
        Made::Rows(number) => copy(worker, number, Turn::Again),
        other => Err(Error::internal(format!("a copy worker has made {other:?}"))),
    });
    worker.serve(|worker, work| match work {
        Work::Copy(number) => copy(worker, number, Turn::First),
        other => Err(Error::internal(format!(
            "a copy worker was given {other:?}"
        ))),
    })
}

/// A table is copied a second time when the target may have lost what it had committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Again,
}

const RESUME_LOOKS: &str =
    "Run again with --resume, which looks, and copies the table again if need be.";

fn copy(worker: &mut Worker<'_>, number: u32, turn: Turn) -> Result<()> {
    let context = worker.context;
    let Some(item) = context.plan.items.get(number as usize) else {
        return Err(Error::internal(format!(
            "no item number {number} in the plan"
        )));
    };
    let table = context.table(item.table)?;
    let name = item_name(table, item.part.as_ref());
    if turn == Turn::Again && !is_repeatable(context, table, item.part.as_ref()) {
        return Err(Error::on(
            Side::Target,
            format!(
                "the target was started anew, and it is not known whether it has kept the rows of {name}"
            ),
        )
        .with_hint(RESUME_LOOKS));
    }
    let started = Instant::now();
    let result = worker.retry(&name, |worker| {
        let part = item.part.as_ref().map_or(0, |part| part.number);
        worker.seat.begin(Task::Copy, table.oid, part, item.bytes);
        copy_rows(worker, table, item.part.as_ref())
    });
    match result {
        Ok(relayed) => {
            worker.seat.done(relayed.rows, relayed.bytes);
            copied(worker, number, turn, relayed, started)
        }
        Err(error) => {
            worker.seat.over();
            let error = context.explain(error, worker.source_left());
            let error = error.context(format!("could not copy {name}"));
            let name = name.strip_prefix("table ").unwrap_or(&name);
            context.object_failed("table", name, error)
        }
    }
}

/// One COPY from socket to socket, committed on the target.
fn copy_rows(worker: &mut Worker<'_>, table: &Table, part: Option<&Part>) -> Result<Relayed> {
    let context = worker.context;
    let (source, target, seat) = worker.both()?;
    let encodings = [&*source, &*target].map(|server| {
        server
            .parameter("server_encoding")
            .unwrap_or("UTF8")
            .to_string()
    });
    let format = CopyFormat {
        is_binary: context.spec.use_copy_binary
            && table.is_binary_safe(encodings[0] == encodings[1]),
        encoding: Some(copy_encoding(&encodings[0], &encodings[1])),
    };
    let is_first = part.is_none_or(|part| part.number == 1);
    if context.spec.use_copy_binary && !format.is_binary && is_first {
        log::info!(
            "table {} is copied as text: a type of it is not safe in binary",
            table.qualified_name()
        );
    }
    let copy_out = format!(
        "{begin}; {guard}; {copy}; COMMIT",
        begin = begin_sql(context.snapshot),
        guard = guard_sql(table),
        copy = table.copy_out_sql(part, format),
    );
    let copy_in = copy_in_sql(context, table, part, format)?;
    let way_out = context.spec.way_out();
    let from = source.copy_out(&copy_out, &mut |row| check_guard(table, row, way_out))?;
    failpoint("copy.started")?;
    let mut xid = String::new();
    let to = target.copy_in(&copy_in, &mut |row| {
        xid = row.text(0)?.to_owned();
        Ok(())
    })?;
    let relayed = relay(from, to, Some(seat))?;
    failpoint("copy.before_commit")?;
    if let Err(error) = target.commit() {
        find_out(worker, table, part, &xid, error)?;
    }
    failpoint("copy.after_commit")?;
    Ok(relayed)
}

/// The COMMIT had no good answer: `Ok` when it took place all the same. Rows that may be there or not must not be copied a
/// second time, unless the copy empties the table first.
fn find_out(
    worker: &mut Worker<'_>,
    table: &Table,
    part: Option<&Part>,
    xid: &str,
    error: Error,
) -> Result<()> {
    if !error.is_connection_lost() {
        return Err(error);
    }
    worker.keep_what_works();
    let asked = worker.fate(xid);
    match asked {
        Ok(Fate::Committed) => {
            log::warn!("{error}; the rows were committed all the same");
            Ok(())
        }
        Ok(Fate::RolledBack) => Err(error),
        Ok(Fate::Unknown) if is_repeatable(worker.context, table, part) => Err(error),
        Ok(Fate::Unknown) => Err(fate_unknown(&error)),
        Err(asked) if asked.is_interrupted() => Err(asked),
        Err(asked) if is_repeatable(worker.context, table, part) => Err(asked),
        // Not the lost connection that it is: the caller would connect once more and copy the rows a second time.
        Err(asked) => Err(fate_unknown(&error).with_detail(asked.to_string())),
    }
}

fn fate_unknown(error: &Error) -> Error {
    Error::on(
        Side::Target,
        format!("it is not known whether the rows were committed: {error}"),
    )
    .with_hint(RESUME_LOOKS)
}

fn copied(
    worker: &mut Worker<'_>,
    number: u32,
    turn: Turn,
    relayed: Relayed,
    started: Instant,
) -> Result<()> {
    let context = worker.context;
    let item = &context.plan.items[number as usize];
    let table = context.table(item.table)?;
    let done = TableDone {
        oid: table.oid,
        name: table.qualified_name().to_string(),
        rows: relayed.rows,
        bytes: relayed.bytes,
        duration_ms: started.elapsed().as_millis() as u64,
        finished_at_ms: crate::workdir::done::now_ms(),
        worker_pid: std::process::id(),
        snapshot: context.snapshot_content.to_string(),
        snapshot_lsn: context.snapshot_lsn,
        part: item.part.as_ref().map(|part| PartDone {
            number: part.number,
            count: part.count,
        }),
    };
    log::info!(
        "copied {}: {} rows, {} bytes in {} ms",
        item_name(table, item.part.as_ref()),
        done.rows,
        done.bytes,
        done.duration_ms
    );
    let workdir = context.workdir;
    let Some(part) = &item.part else {
        worker
            .ledger
            .committed(Made::Rows(number), move || workdir.write_table_done(&done));
        return match turn {
            // The rows are visible, so the indexes may be built; what is announced later is only that they are durable.
            Turn::First => queue_indexes(worker, table),
            // They were queued with the rows that are lost; who builds them does them again.
            Turn::Again => Ok(()),
        };
    };
    // A part is large by definition: it pays its own flush, and only announced parts make a table complete.
    worker
        .ledger
        .committed(Made::Rows(number), move || workdir.write_part_done(&done));
    worker.flush()?;
    match workdir.complete_parts(table.oid, part.count, context.snapshot_content)? {
        true => queue_indexes(worker, table),
        false => Ok(()),
    }
}

/// The table is complete: hand it to whoever works on it next.
fn queue_indexes(worker: &Worker<'_>, table: &Table) -> Result<()> {
    let (context, pool) = (worker.context, worker.pool);
    for work in context.plan.after_copy(context.catalog, table) {
        let queue = match work {
            Work::Vacuum(_) => &pool.vacuum,
            _ => &pool.indexes,
        };
        worker.hand_on(queue, work)?;
    }
    Ok(())
}

fn item_name(table: &Table, part: Option<&Part>) -> String {
    match part {
        None => format!("table {} (oid {})", table.qualified_name(), table.oid),
        Some(part) => format!(
            "table {} (oid {}), part {} of {}",
            table.qualified_name(),
            table.oid,
            part.number,
            part.count
        ),
    }
}

/// TRUNCATE and table rewrites are not MVCC-safe: after one, an older snapshot sees an empty table and no error. So
/// the table is locked first (a SELECT takes ACCESS SHARE and needs no right but to read), and then the file it has now
/// must be the one it had in the snapshot. `pg_relation_filenode` looks at the present, `pg_class` at the snapshot.
fn guard_sql(table: &Table) -> String {
    format!(
        "SELECT FROM ONLY {name} LIMIT 0; \
         SELECT c.relfilenode = pg_catalog.pg_relation_filenode(c.oid) \
             AND c.oid = pg_catalog.to_regclass({literal}) \
         FROM pg_catalog.pg_class c WHERE c.oid = {oid}",
        name = table.qualified_name(),
        literal = quote_literal(&table.qualified_name().to_string()),
        oid = table.oid,
    )
}

fn check_guard(table: &Table, row: &Row, way_out: &str) -> Result<()> {
    if row.opt_text(0)? == Some("t") {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Source,
        format!(
            "table {} was truncated, rewritten or replaced on the source after the snapshot was taken",
            table.qualified_name()
        ),
    )
    .with_side(Side::Source)
    .with_hint(format!("Its rows in the snapshot are gone: {way_out}.")))
}

/// By which a transaction can be asked for when its COMMIT is not answered.
const XID: &str = "SELECT pg_catalog.pg_current_xact_id()";

/// COPY FROM with what must happen in the same transaction before it.
fn copy_in_sql(
    context: &CopyContext<'_>,
    table: &Table,
    part: Option<&Part>,
    format: CopyFormat<'_>,
) -> Result<String> {
    let name = table.qualified_name();
    if context.target.table(&table.schema, &table.name).is_none() {
        return Err(Error::on(
            Side::Target,
            format!("table {name} does not exist on the target"),
        ));
    }
    // Functions of CHECK constraints, domains and generated columns run as they do for the source's own users.
    let begin = match context.catalog.search_path_sql() {
        Some(path) => format!("BEGIN; SET LOCAL search_path = {path}; {XID}; "),
        None => format!("BEGIN; {XID}; "),
    };
    // An extension made the table and may have rows of its own in it: only those of the condition are the user's.
    if let Some(condition) = &table.extension_config {
        return Ok(format!(
            "{begin}DELETE FROM ONLY {name} {condition}; {}",
            table.copy_in_sql(false, format)
        ));
    }
    let can_truncate = empties_table(context, table, part);
    let truncate = if can_truncate {
        format!("TRUNCATE ONLY {name}; ")
    } else {
        String::new()
    };
    Ok(format!(
        "{begin}{truncate}{}",
        table.copy_in_sql(can_truncate, format)
    ))
}

/// Whether a second COPY gives the same as one.
fn is_repeatable(context: &CopyContext<'_>, table: &Table, part: Option<&Part>) -> bool {
    table.extension_config.is_some() || empties_table(context, table, part)
}

/// Whether the COPY is preceded by TRUNCATE in its own transaction. A part shares its table with others, which TRUNCATE
/// and FREEZE would not allow.
fn empties_table(context: &CopyContext<'_>, table: &Table, part: Option<&Part>) -> bool {
    let target = context.target.table(&table.schema, &table.name);
    part.is_none()
        && table.extension_config.is_none()
        && target.is_some_and(|target| target.kind == TargetKind::Ordinary && target.can_truncate)
}
