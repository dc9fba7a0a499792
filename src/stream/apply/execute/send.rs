//! One step of a plan into the pipeline: the statement, prepared once, and its rows. Runs in the apply process; what becomes of
//! it is read by the parent module.

use super::{Executor, MOST_PREPARED, Prepared, unknown_statement, word};
use crate::error::{Context, Result};
use crate::ident::QualifiedName;
use crate::stream::apply::chunk::Change;
use crate::stream::apply::plan::{Cells, Step, TableId};
use crate::stream::apply::session::Session;
use crate::stream::apply::sql;

/// What a step must come to.
pub(super) enum Expected {
    Row { number: usize },
    Truncate,
    Set { table: TableId, rows: u64 },
}

impl Prepared {
    /// The name of a statement, which is gathered to be prepared if it was not.
    pub(super) fn name(&mut self, session: &mut Session, sql: &str) -> Result<String> {
        if let Some(name) = self.names.get(sql) {
            return Ok(name.clone());
        }
        // Numbers, not hashes: two statements can never share a name (trap 12).
        self.next += 1;
        let name = format!("pgcopydb_{}", self.next);
        session.connection.add_parse(&name, sql)?;
        self.names.insert(sql.to_owned(), name.clone());
        Ok(name)
    }
}

impl Executor {
    pub(super) fn forget_if_many(&mut self, session: &mut Session) -> Result<()> {
        if self.prepared.names.len() < MOST_PREPARED {
            return Ok(());
        }
        let names: Vec<String> = self.prepared.names.drain().map(|(_, name)| name).collect();
        let sql: Vec<String> = names
            .iter()
            .map(|name| format!("DEALLOCATE {name}"))
            .collect();
        session.connection.execute(&sql.join("; "))?;
        Ok(())
    }

    /// Gather a step; what it must come to.
    pub(super) fn add_step(
        &mut self,
        session: &mut Session,
        step: &Step<'_>,
        changes: &[Change<'_>],
    ) -> Result<Expected> {
        match step {
            Step::Row(number) => {
                let Some(Change::Execute {
                    statement,
                    parameters,
                    place,
                }) = changes.get(*number)
                else {
                    return Err(unknown_statement());
                };
                let Some(found) = self.statements.get(statement) else {
                    return Err(unknown_statement());
                };
                let resolved = found.resolved.as_ref().ok_or_else(unknown_statement)?;
                let name = self.prepared.name(session, &resolved.sql)?;
                session
                    .connection
                    .add_execute(&name, parameters.iter().map(Option::as_deref))
                    .with_context(|| {
                        let table = QualifiedName::new(&found.is.schema, &found.is.table);
                        let word = word(found.is.operation);
                        format!("could not apply {word} on target table {table} ({place})")
                    })?;
                Ok(Expected::Row { number: *number })
            }
            Step::Truncate(number) => {
                let Some(Change::Truncate {
                    tables,
                    restart_identity,
                    ..
                }) = changes.get(*number)
                else {
                    return Err(unknown_statement());
                };
                let sql = self.truncate(tables, *restart_identity);
                let name = self.prepared.name(session, &sql)?;
                session.connection.add_execute(&name, [])?;
                Ok(Expected::Truncate)
            }
            Step::Delete { table, key, rows } => {
                let it = &self.tables[*table];
                let target = sql::table_name(&it.name.schema, &it.name.name, it.only);
                let text = sql::delete(&target, &it.target, key);
                self.add_set(session, &text, *table, key, rows)
            }
            Step::Update {
                table,
                set,
                key,
                rows,
            } => {
                let it = &self.tables[*table];
                let target = sql::table_name(&it.name.schema, &it.name.name, it.only);
                let text = sql::update(&target, &it.target, set, key);
                let columns: Vec<usize> = set.iter().chain(key).copied().collect();
                self.add_set(session, &text, *table, &columns, rows)
            }
            Step::Copy {
                table,
                columns,
                rows,
            } => {
                let it = &self.tables[*table];
                let target = sql::table_name(&it.name.schema, &it.name.name, false);
                let text = sql::copy(&target, &it.target, columns);
                let name = self.prepared.name(session, &text)?;
                session.connection.add_execute(&name, [])?;
                let mut data = Vec::new();
                for row in rows {
                    sql::add_row(&mut data, columns.iter().map(|column| row[*column].value()));
                }
                session.connection.add_copy_data(&data)?;
                Ok(Expected::Set {
                    table: *table,
                    rows: rows.len() as u64,
                })
            }
        }
    }

    fn add_set(
        &mut self,
        session: &mut Session,
        text: &str,
        table: TableId,
        columns: &[usize],
        rows: &[Cells<'_>],
    ) -> Result<Expected> {
        let name = self.prepared.name(session, text)?;
        let arrays: Vec<Vec<u8>> = columns
            .iter()
            .map(|column| {
                let mut array = b"{".to_vec();
                for row in rows {
                    sql::add_element(&mut array, row[*column].value());
                }
                array.push(b'}');
                array
            })
            .collect();
        session
            .connection
            .add_execute(&name, arrays.iter().map(|array| Some(&array[..])))?;
        Ok(Expected::Set {
            table,
            rows: rows.len() as u64,
        })
    }

    /// Exactly these tables. The source lists a partitioned table together with its partitions, less the filtered ones: only
    /// they are emptied then. One that is partitioned here alone is emptied with whatever partitions it has.
    fn truncate(&self, tables: &[(String, String)], restart_identity: bool) -> String {
        let named: Vec<QualifiedName> = tables
            .iter()
            .map(|(schema, table)| QualifiedName::new(schema, table))
            .collect();
        let mut targets = Vec::with_capacity(named.len());
        for name in &named {
            let found = self.target.table(name);
            let is_partitioned = found.is_some_and(|found| found.is_partitioned);
            let has_own = |other: &QualifiedName| self.target.is_partition_of(other, name);
            if !(is_partitioned && named.iter().any(has_own)) {
                targets.push(sql::table_name(&name.schema, &name.name, !is_partitioned));
            }
        }
        sql::truncate(&targets, restart_identity)
    }
}
