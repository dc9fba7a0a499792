//! An index worker: builds indexes, attaches their constraints when the last index of a table stands, and hands the
//! table on to vacuum. Runs in its own process with one connection to the target; it never talks to the source.
//!
//! A large table's indexes are separate items, so that they are built at the same time; the worker that finishes the
//! last one (decided by creating a claim file) does what needs the table alone: constraints, CLUSTER ON, REPLICA
//! IDENTITY. A small table's indexes and constraints are one item and one transaction.

use std::time::Instant;

use postgres::error::SqlState;

use super::CopyContext;
use super::ledger::Made;
use super::work::Work;
use super::worker::Worker;
use crate::catalog::{Index, Table, is_name_not_found};
use crate::error::{Error, Result};
use crate::ident::{Oid, quote_literal};
use crate::sys::failpoint::failpoint;
use crate::workdir::done::{ConstraintDone, IndexDone, now_ms};
use crate::workdir::live::Task;

/// The body of an index worker.
pub fn run(mut worker: Worker<'_>) -> Result<()> {
    worker.does_again(|worker, made| Builder { worker }.redo(made));
    worker.serve(|worker, work| {
        let mut builder = Builder { worker };
        match work {
            Work::BuildIndex(index) => {
                builder.worker.seat.begin(Task::Index, index, 0, 0);
                builder.build_one(index)?;
            }
            Work::BuildIndexesOf(table) => {
                builder.worker.seat.begin(Task::IndexesOf, table, 0, 0);
                builder.build_all(table)?;
            }
            other => {
                return Err(Error::internal(format!(
                    "an index worker was given {other:?}"
                )));
            }
        }
        builder.worker.seat.over();
        Ok(())
    })
}

/// A worker at work on one item.
struct Builder<'w, 'a> {
    worker: &'w mut Worker<'a>,
}

impl<'a> Builder<'_, 'a> {
    fn context(&self) -> &'a CopyContext<'a> {
        self.worker.context
    }

    fn run_sql(&mut self, what: &str, sql: &str) -> Result<()> {
        self.worker.run_sql(what, sql)
    }

    /// What the target may have lost is made again as after a resume: what it has kept is found to be there.
    fn redo(&mut self, made: Made) -> Result<()> {
        let context = self.context();
        let (Made::Index(oid) | Made::Constraint(oid)) = made else {
            return Err(Error::internal(format!(
                "an index worker has made {made:?}"
            )));
        };
        let Some(index) = context.catalog.index(oid) else {
            return Err(Error::internal(format!(
                "no index with oid {oid} in the catalog"
            )));
        };
        let table = context.table(index.table)?;
        match made {
            Made::Constraint(_) => self.attach_one(table, index),
            _ => self.build(table, index),
        }
    }

    /// A small table: everything in one transaction and one round trip; item by item only if that fails, so that one
    /// bad index does not take the others with it.
    fn build_all(&mut self, table: Oid) -> Result<()> {
        let (context, started) = (self.context(), Instant::now());
        let table = context.table(table)?;
        let indexes = context.plan.indexes_to_build(context.catalog, table);
        let attachments = context.plan.indexes_to_attach(context.catalog, table);
        let mut statements: Vec<String> = indexes
            .iter()
            .map(|index| self.create_sql(table, index))
            .collect();
        statements.extend(
            attachments
                .iter()
                .flat_map(|index| self.attach_sql(table, index)),
        );
        let what = format!("indexes of table {}", table.qualified_name());
        match self.run_sql(&what, &statements.join("; ")) {
            Ok(()) => {
                indexes
                    .iter()
                    .for_each(|index| self.built(table, index, started));
                attachments
                    .iter()
                    .for_each(|index| self.attached(table, index, started));
            }
            Err(error) if error.is_interrupted() || error.is_connection_lost() => {
                return Err(error);
            }
            Err(error) => {
                log::debug!("building the {what} one by one: {error}");
                for index in indexes {
                    self.build(table, index)?;
                }
                self.attach_all(table)?;
            }
        }
        self.queue_vacuum(table)
    }

    /// One index of a large table; the last one to be ready brings the rest with it.
    fn build_one(&mut self, index: Oid) -> Result<()> {
        let context = self.context();
        let Some(index) = context.catalog.index(index) else {
            return Err(Error::internal(format!(
                "no index with oid {index} in the catalog"
            )));
        };
        let table = context.table(index.table)?;
        self.build(table, index)?;
        // Others decide by our done-file whether they are the last, so it cannot wait.
        self.worker.flush()?;
        let mut siblings = context.catalog.indexes_of(table.oid).iter();
        let is_last = siblings.all(|sibling| context.workdir.is_index_settled(sibling.oid));
        if is_last && context.workdir.claim_constraints(table.oid)? {
            self.attach_all(table)?;
            self.worker.flush()?;
            self.queue_vacuum(table)?;
        }
        Ok(())
    }

    fn build(&mut self, table: &Table, index: &Index) -> Result<()> {
        let started = Instant::now();
        let name = index.qualified_name(table).to_string();
        failpoint("index.before_build")?;
        let result = match self.run_sql(&name, &self.create_sql(table, index)) {
            Err(error) if error.is_any_of(&[SqlState::DUPLICATE_TABLE]) => {
                self.adopt(&name, table, index, error)
            }
            Err(error) if is_name_not_found(&error) => {
                self.build_with_search_path(&name, table, index, error)
            }
            // On a partitioned table the key is made at once, and a second one is refused before its name is looked at.
            Err(error)
                if index.is_primary && error.is_any_of(&[SqlState::INVALID_TABLE_DEFINITION]) =>
            {
                match self.adopt(&name, table, index, error) {
                    Err(error) if self.keeps_primary_key(table, index, &error) => Ok(()),
                    result => result,
                }
            }
            result => result,
        };
        failpoint("index.after_build")?;
        match result {
            Ok(()) => {
                self.built(table, index, started);
                Ok(())
            }
            Err(error) => {
                self.context().workdir.mark_index_failed(index.oid)?;
                let what = format!(
                    "could not build index {name} on target table {}",
                    table.qualified_name()
                );
                self.context()
                    .object_failed("index", &name, error.context(what))
            }
        }
    }

    /// An index of that name stands already: from a run that was killed between commit and done-file, or left invalid.
    fn adopt(&mut self, name: &str, table: &Table, index: &Index, error: Error) -> Result<()> {
        let Some(target) = self.worker.target_left() else {
            return Err(error);
        };
        let rows = target.query(&format!(
            "SELECT i.indisvalid, pg_catalog.pg_get_indexdef(i.indexrelid), c.relkind = 'I', \
             coalesce(i.indrelid = pg_catalog.to_regclass({}), false) \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             WHERE i.indexrelid = pg_catalog.to_regclass({})",
            quote_literal(&table.qualified_name().to_string()),
            quote_literal(name)
        ))?;
        let Some(row) = rows.first() else {
            return Err(error);
        };
        // The user made the table partitioned, and the index with it: that one covers the partitions all the same.
        let definition = match row.bool(2)? {
            true => row.text(1)?.replacen(" ON ONLY ", " ON ", 1),
            false => row.text(1)?.to_string(),
        };
        if row.bool(0)? && *definition == *index.definition {
            log::info!("index {name} is there already, as it should be");
            return Ok(());
        }
        if row.bool(0)? && row.bool(3)? && self.context().spec.keeps_indexes {
            log::warn!(
                "index {name} stays as it is on the target, which is not as on the source: {}",
                row.text(1)?
            );
            return Ok(());
        }
        if row.bool(0)? {
            return Err(error.with_detail(format!("the target's index is: {}", row.text(1)?)));
        }
        log::info!("index {name} was left invalid: building it again");
        let again = format!("DROP INDEX {name}; {}", self.create_sql(table, index));
        self.run_sql(name, &again)
    }

    /// pg_restore's empty search_path is right, unless a function of the index relies on the database's own: then the
    /// index exists on the source only because of that setting.
    fn build_with_search_path(
        &mut self,
        name: &str,
        table: &Table,
        index: &Index,
        error: Error,
    ) -> Result<()> {
        let Some(path) = self.context().catalog.search_path_sql() else {
            return Err(error);
        };
        log::debug!("index {name}: {error}; trying with the source's search_path {path}");
        let sql = format!(
            "BEGIN; SET LOCAL search_path = {path}; {}; COMMIT",
            self.create_sql(table, index)
        );
        self.run_sql(name, &sql).map_err(|_| error)
    }

    fn create_sql(&self, table: &Table, index: &Index) -> String {
        let create = match self.context().is_partitioned_there(table) {
            true => index.on_partitioned(table).create,
            false => index.create_sql().to_string(),
        };
        if self.context().spec.no_tablespaces {
            return create;
        }
        format!("{}; {create}", index.tablespace_sql())
    }

    fn attach_sql(&self, table: &Table, index: &Index) -> Vec<String> {
        match self.context().is_partitioned_there(table) {
            true => index.on_partitioned(table).attach,
            false => index.attach_sql(table),
        }
    }

    /// The user gave the table another primary key before its turn came: then that is the one it is to have.
    fn keeps_primary_key(&self, table: &Table, index: &Index, error: &Error) -> bool {
        let keeps = self.context().spec.keeps_indexes
            && index.is_primary
            && error.is_any_of(&[SqlState::INVALID_TABLE_DEFINITION]);
        if keeps {
            log::warn!(
                "table {} has another primary key on the target: it stays",
                table.qualified_name()
            );
        }
        keeps
    }

    fn built(&mut self, table: &Table, index: &Index, started: Instant) {
        let done = IndexDone {
            oid: index.oid,
            name: index.qualified_name(table).to_string(),
            table_oid: table.oid,
            duration_ms: started.elapsed().as_millis() as u64,
            finished_at_ms: now_ms(),
        };
        log::info!("built index {} in {} ms", done.name, done.duration_ms);
        self.worker.seat.items(1);
        let workdir = self.context().workdir;
        self.worker
            .ledger
            .committed(Made::Index(index.oid), move || {
                workdir.write_index_done(&done)
            });
    }

    fn attach_all(&mut self, table: &Table) -> Result<()> {
        let context = self.context();
        for index in context.plan.indexes_to_attach(context.catalog, table) {
            if context.workdir.is_index_failed(index.oid) {
                continue;
            }
            self.attach_one(table, index)?;
        }
        Ok(())
    }

    fn attach_one(&mut self, table: &Table, index: &Index) -> Result<()> {
        let started = Instant::now();
        let name = index.qualified_name(table).to_string();
        match self.attach(table, index, &name) {
            Ok(()) => {
                self.attached(table, index, started);
                Ok(())
            }
            Err(error) => {
                let what = format!(
                    "could not attach constraint {name} to target table {}",
                    table.qualified_name()
                );
                self.context()
                    .object_failed("constraint", &name, error.context(what))
            }
        }
    }

    /// The statements one by one: the first makes the constraint, which an earlier run may have done.
    fn attach(&mut self, table: &Table, index: &Index, name: &str) -> Result<()> {
        failpoint("constraint.before_attach")?;
        for sql in self.attach_sql(table, index) {
            match self.run_sql(name, &sql) {
                Err(error) if self.keeps_primary_key(table, index, &error) => {}
                Err(error) if self.is_attached(index, name, &error)? => {
                    log::info!("constraint {name} was attached by an earlier run");
                }
                result => result?,
            }
        }
        failpoint("constraint.after_attach")
    }

    /// Whether the constraint stands already, on this very index.
    fn is_attached(&mut self, index: &Index, name: &str, error: &Error) -> Result<bool> {
        let (Some(constraint), Some(target)) = (&index.constraint, self.worker.target_left())
        else {
            return Ok(false);
        };
        if error.is_interrupted() || error.is_connection_lost() {
            return Ok(false);
        }
        let row = target.query_one(&format!(
            "SELECT count(*) FROM pg_catalog.pg_constraint \
             WHERE conindid = pg_catalog.to_regclass({}) AND conname = {} AND contype IN ('p', 'u')",
            quote_literal(name),
            quote_literal(&constraint.name),
        ))?;
        Ok(row.text(0)? == "1")
    }

    fn attached(&mut self, table: &Table, index: &Index, started: Instant) {
        let done = ConstraintDone {
            index_oid: index.oid,
            name: index.qualified_name(table).to_string(),
            duration_ms: started.elapsed().as_millis() as u64,
            finished_at_ms: now_ms(),
        };
        let workdir = self.context().workdir;
        self.worker
            .ledger
            .committed(Made::Constraint(index.oid), move || {
                workdir.write_constraint_done(&done)
            });
    }

    fn queue_vacuum(&self, table: &Table) -> Result<()> {
        if self.context().plan.wants_vacuum(table) {
            let queue = &self.worker.pool.vacuum;
            self.worker.hand_on(queue, Work::Vacuum(table.oid))?;
        }
        Ok(())
    }
}

/// What the plan needs to know of a table to choose between one item and several.
pub fn is_small(table: &Table) -> bool {
    table.bytes < SMALL_TABLE_BYTES
}

/// Below this, building an index takes less time than handing it to another worker.
const SMALL_TABLE_BYTES: u64 = 8 << 20;
