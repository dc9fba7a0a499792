//! Carrying out a chunk on the target: by sets where the plan says so, row by row when a set is refused. Runs in the apply
//! process. Every statement's result is read and counted before anything is committed.

mod send;

use std::borrow::Cow;
use std::collections::HashMap;

use postgres::error::SqlState;

use send::Expected;

use super::chunk::{Change, Chunk, Place};
use super::plan::{Knowledge, StatementPlan, Step, TableId, plan};
use super::session::Session;
use super::sql;
use super::target::{RESUME, Target, TargetTable};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::ident::QualifiedName;
use crate::pg::wire::{Outcome, Outcomes};
use crate::stream::script::{Operation, StatementId, StatementIs};

/// After a set of a table was refused, so many of its changes go row by row; doubled each time.
const BY_ROWS_FIRST: u64 = 1000;

/// Statements that the target keeps prepared for us; beyond that all are forgotten and prepared again when needed.
const MOST_PREPARED: usize = 2000;

/// A statement of the script.
struct Statement {
    /// As the script has it.
    script_sql: String,
    is: StatementIs,
    /// What it is on the target; made when it is used first, as a table may have gone since.
    resolved: Option<Resolved>,
}

struct Resolved {
    sql: String,
    plan: StatementPlan,
}

/// A table that changes go to.
struct Table {
    name: QualifiedName,
    only: bool,
    target: TargetTable,
    key: Option<Vec<usize>>,
    by_rows: u64,
    by_rows_next: u64,
}

/// What was prepared on the target, under which name.
#[derive(Default)]
struct Prepared {
    names: HashMap<String, String>,
    next: u64,
}

/// Statements and tables, as far as the script has named them.
pub struct Executor {
    target: Target,
    tables: Vec<Table>,
    places: HashMap<QualifiedName, TableId>,
    statements: HashMap<StatementId, Statement>,
    prepared: Prepared,
    always_by_rows: bool,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes that went in sets.
    pub grouped: u64,
    /// Updates and deletes that met no row: table, and where in the chunk.
    pub missed: Vec<String>,
}

impl Statement {
    fn plan(&self) -> Option<&StatementPlan> {
        self.resolved.as_ref().map(|resolved| &resolved.plan)
    }
}

impl Knowledge for Executor {
    fn statement(&self, statement: StatementId) -> Option<&StatementPlan> {
        self.statements.get(&statement)?.plan()
    }

    fn width(&self, table: TableId) -> usize {
        self.tables[table].target.columns.len()
    }

    fn key(&self, table: TableId) -> Option<&[usize]> {
        self.tables[table].key.as_deref()
    }

    fn is_by_rows(&self, table: TableId) -> bool {
        self.always_by_rows || self.tables[table].by_rows > 0
    }
}

impl Executor {
    pub fn new(session: &mut Session, always_by_rows: bool) -> Result<Executor> {
        Ok(Executor {
            target: Target::fetch(&mut session.connection)?,
            tables: Vec::new(),
            places: HashMap::new(),
            statements: HashMap::new(),
            prepared: Prepared::default(),
            always_by_rows,
        })
    }

    /// A new script begins: its numbers mean something else.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
    }

    /// Take note of a statement.
    pub fn prepare(&mut self, id: StatementId, sql: &str, is: &StatementIs) {
        let statement = Statement {
            script_sql: sql.to_owned(),
            is: is.clone(),
            resolved: None,
        };
        self.statements.insert(id, statement);
    }

    /// Find the tables and columns of everything that these changes use. What the target lacks is looked for once more,
    /// then an error. To be called before anything is gathered, as it may ask the target.
    fn resolve(&mut self, session: &mut Session, changes: &[Change<'_>]) -> Result<()> {
        for change in changes {
            match change {
                Change::Execute {
                    statement, place, ..
                } => {
                    let found = self
                        .statements
                        .get(statement)
                        .ok_or_else(unknown_statement)?;
                    if found.resolved.is_none() {
                        let is = found.is.clone();
                        let columns = is.set.iter().chain(&is.find).cloned().collect();
                        let name = QualifiedName::new(&is.schema, &is.table);
                        self.check(session, &name, columns, *place)?;
                        self.resolve_statement(*statement, &is, &name);
                    }
                }
                Change::Truncate { tables, place, .. } => {
                    for (schema, table) in *tables {
                        let name = QualifiedName::new(schema, table);
                        self.check(session, &name, Vec::new(), *place)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn check(
        &mut self,
        session: &mut Session,
        name: &QualifiedName,
        columns: Vec<String>,
        place: Place,
    ) -> Result<()> {
        if self.target.check(name, &columns).is_ok() {
            return Ok(());
        }
        self.target = Target::fetch(&mut session.connection)?;
        // Columns may stand in other places now: whatever was made of the old ones is made again.
        for table in &mut self.tables {
            let target = self.target.table(&table.name).cloned().unwrap_or_default();
            if table.target != target {
                table.target = target;
                table.key = None;
                for statement in self.statements.values_mut() {
                    if (&statement.is.schema, &statement.is.table)
                        == (&table.name.schema, &table.name.name)
                    {
                        statement.resolved = None;
                    }
                }
            }
        }
        self.target
            .check(name, &columns)
            .map_err(|error| error.context(format!("stopped at {place}")))
    }

    fn resolve_statement(&mut self, id: StatementId, is: &StatementIs, name: &QualifiedName) {
        let table = self.table(name, is.only);
        let known = &self.tables[table];
        let target = &known.target;
        let places = |names: &[String]| -> Vec<usize> {
            names
                .iter()
                .filter_map(|name| target.column(name))
                .collect()
        };
        let (set, find) = (places(&is.set), places(&is.find));
        let is_insert = is.operation == Operation::Insert;
        let sets_identity = set
            .iter()
            .any(|index| target.columns[*index].is_always_identity);
        let has_columns = !(set.is_empty() && find.is_empty());
        let may_group = !target.has_deferrable
            && has_columns
            && (is_insert
                || is.is_key
                    && !is.changes_key
                    && !sets_identity
                    && target.has_unique(&is.find)
                    && known.key.as_ref().is_none_or(|key| *key == find));
        if may_group && !is_insert {
            self.tables[table].key = Some(find.clone());
        }
        let Some(statement) = self.statements.get_mut(&id) else {
            return;
        };
        statement.resolved = Some(Resolved {
            sql: sql::for_target(&statement.script_sql, is, &self.tables[table].target),
            plan: StatementPlan {
                table,
                operation: is.operation,
                set,
                find,
                may_group,
            },
        });
    }

    fn table(&mut self, name: &QualifiedName, only: bool) -> TableId {
        if let Some(id) = self.places.get(name) {
            return *id;
        }
        let target = self.target.table(name).cloned().unwrap_or_default();
        self.tables.push(Table {
            name: name.clone(),
            only: only && !target.is_partitioned,
            target,
            key: None,
            by_rows: 0,
            by_rows_next: BY_ROWS_FIRST,
        });
        let id = self.tables.len() - 1;
        self.places.insert(name.clone(), id);
        id
    }

    /// Carry out a chunk inside a transaction that is open, or that `begins` opens. `Ok(None)`: a set was refused, nothing of
    /// the chunk stays once the caller has rolled back, and it has to go by rows.
    pub fn run_sets(
        &mut self,
        session: &mut Session,
        chunk: &Chunk,
        begins: bool,
    ) -> Result<Option<Applied>> {
        let changes = chunk.changes()?;
        self.resolve(session, &changes)?;
        let steps = plan(&changes, self).ok_or_else(unknown_statement)?;
        self.forget_if_many(session)?;
        if begins {
            session.add_begin()?;
        }
        let mut expected = Vec::with_capacity(steps.len());
        for step in &steps {
            expected.push(self.add_step(session, step, &changes)?);
        }
        let outcomes = session.connection.run_pipeline()?;
        let done = match begins {
            true => outcomes.done.get(1..).unwrap_or(&[]),
            false => &outcomes.done[..],
        };
        let mut applied = Applied::default();
        let mut refused = None;
        for (place, expected) in expected.iter().enumerate() {
            match (done.get(place), expected) {
                (Some(Outcome::Done(rows)), Expected::Set { rows: wanted, .. })
                    if rows == wanted => {}
                // A row of its own that meets nothing is looked at row by row, to name it.
                (Some(Outcome::Done(rows)), Expected::Row { number })
                    if *rows == 1 || self.is_free(&changes, *number) => {}
                (Some(Outcome::Done(_)), Expected::Truncate) => {}
                (_, expected) => {
                    refused = Some(expected);
                    break;
                }
            }
        }
        match refused {
            None => {
                self.count_down(&changes);
                // What several changes to one row come to counts for all of them.
                let is_single = |step: &&Step<'_>| matches!(step, Step::Row(_) | Step::Truncate(_));
                let singles = steps.iter().filter(is_single).count();
                applied.grouped = (changes.len() - singles) as u64;
                Ok(Some(applied))
            }
            Some(expected) => {
                if outcomes.failure.is_some() {
                    // What comes after the failure was not prepared either.
                    self.prepared.names.clear();
                }
                if let (Expected::Set { table, .. }, Some(error)) = (expected, &outcomes.failure) {
                    log::debug!("{}: {error}; going on row by row", self.tables[*table].name);
                }
                if let Some(error) = outcomes.failure.filter(is_hopeless) {
                    return Err(error);
                }
                if let Expected::Set { table, .. } = expected {
                    self.slow_down(*table);
                }
                Ok(None)
            }
        }
    }

    /// Whether the number of rows that a change meets says nothing.
    fn is_free(&self, changes: &[Change<'_>], number: usize) -> bool {
        match changes.get(number) {
            Some(Change::Execute { statement, .. }) => self
                .statements
                .get(statement)
                .is_some_and(|found| found.is.operation == Operation::Insert),
            _ => true,
        }
    }

    fn slow_down(&mut self, table: TableId) {
        let table = &mut self.tables[table];
        table.by_rows = table.by_rows_next;
        table.by_rows_next = table.by_rows_next.saturating_mul(2);
    }

    fn count_down(&mut self, changes: &[Change<'_>]) {
        for change in changes {
            if let Change::Execute { statement, .. } = change
                && let Some(plan) = self.statements.get(statement).and_then(Statement::plan)
            {
                let table = &mut self.tables[plan.table];
                table.by_rows = table.by_rows.saturating_sub(1);
            }
        }
    }

    /// The chunk row by row, in the source's order: what fails is then known exactly.
    pub fn run_rows(
        &mut self,
        session: &mut Session,
        chunk: &Chunk,
        begins: bool,
    ) -> Result<Applied> {
        let changes = chunk.changes()?;
        self.resolve(session, &changes)?;
        self.forget_if_many(session)?;
        if begins {
            session.add_begin()?;
        }
        for (number, change) in changes.iter().enumerate() {
            let step = match change {
                Change::Execute { .. } => Step::Row(number),
                Change::Truncate { .. } => Step::Truncate(number),
            };
            self.add_step(session, &step, &changes)?;
        }
        let outcomes = session.connection.run_pipeline()?;
        let skipped = usize::from(begins);
        let mut applied = Applied::default();
        for (number, change) in changes.iter().enumerate() {
            match outcomes.done.get(number + skipped) {
                Some(Outcome::Done(rows)) => {
                    if let Some(missed) = self.judge(change, *rows)? {
                        applied.missed.push(missed);
                    }
                }
                _ => {
                    self.prepared.names.clear();
                    return Err(self.refused(change, &outcomes));
                }
            }
        }
        self.count_down(&changes);
        Ok(applied)
    }

    /// Whether a change met the row that it was meant for; the words about it when it met none.
    fn judge(&self, change: &Change<'_>, rows: u64) -> Result<Option<String>> {
        let Change::Execute {
            statement,
            parameters,
            place,
        } = change
        else {
            return Ok(None);
        };
        let Some(found) = self.statements.get(statement) else {
            return Err(unknown_statement());
        };
        if rows == 1 || found.is.operation == Operation::Insert {
            return Ok(None);
        }
        let key = key_words(&found.is, parameters);
        let word = word(found.is.operation);
        let name = QualifiedName::new(&found.is.schema, &found.is.table);
        if rows == 0 {
            return Ok(Some(format!(
                "{word} on target table {name} met no row with {key} ({place})"
            )));
        }
        Err(Error::new(
            ErrorKind::Target,
            format!("could not apply {word} on target table {name} ({place}): it met {rows} rows with {key}"),
        )
        .with_side(Side::Target))
    }

    fn refused(&self, change: &Change<'_>, outcomes: &Outcomes) -> Error {
        let error = outcomes
            .failure
            .clone()
            .unwrap_or_else(|| Error::on(Side::Target, "the target gave no result"));
        if is_hopeless(&error) {
            return error;
        }
        // The catalog that we know is older than this: somebody has changed the table since.
        let is_ddl = error.is_any_of(&[SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_TABLE]);
        let error = match is_ddl && error.hint().is_none() {
            true => error.with_hint(format!(
                "Add what is missing on the target (DDL is not replicated), {RESUME}"
            )),
            false => error,
        };
        let (word, names) = match change {
            Change::Execute { statement, .. } => match self.statements.get(statement) {
                Some(found) => (
                    word(found.is.operation),
                    vec![QualifiedName::new(&found.is.schema, &found.is.table)],
                ),
                None => return error,
            },
            Change::Truncate { tables, .. } => {
                let names = tables.iter();
                let names = names.map(|(schema, table)| QualifiedName::new(schema, table));
                ("TRUNCATE", names.collect())
            }
        };
        let names: Vec<String> = names.iter().map(QualifiedName::to_string).collect();
        error.context(format!(
            "could not apply {word} on target table {} ({})",
            names.join(", "),
            change.place()
        ))
    }
}

/// Errors that are not about the rows: trying them one by one would not help.
fn is_hopeless(error: &Error) -> bool {
    error.is_interrupted()
        || error.is_connection_lost()
        || error.is_any_of(&[
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::DISK_FULL,
            SqlState::OUT_OF_MEMORY,
            SqlState::QUERY_CANCELED,
        ])
}

fn unknown_statement() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "the script executes a statement that it has not prepared",
    )
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "INSERT",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
    }
}

/// The key of a row, for the warning about one that was not met.
fn key_words(is: &StatementIs, parameters: &[Option<Cow<'_, [u8]>>]) -> String {
    let values = parameters.get(is.set.len()..).unwrap_or(&[]);
    let words: Vec<String> = is
        .find
        .iter()
        .zip(values)
        .map(|(name, value)| match value {
            Some(value) => format!("\"{name}\" = '{}'", String::from_utf8_lossy(value)),
            None => format!("\"{name}\" is null"),
        })
        .collect();
    words.join(", ")
}
