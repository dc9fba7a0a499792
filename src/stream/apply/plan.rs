//! How the changes of one chunk are carried out: which rows go one by one in their order, and what becomes of those that
//! may be grouped by their key. Pure.
//!
//! Nothing fires and no foreign key is checked while changes are applied, so the order matters only within a table. There,
//! changes to different rows do not depend on each other, and those to one row are merged into what they come to. A unique
//! index beside the key may see rows in another order than the source did: the set is then refused and its rows go one by one.

use std::borrow::Cow;
use std::collections::HashMap;

use super::chunk::Change;
use crate::stream::script::{Operation, StatementId};

/// A table by its number in the applier.
pub type TableId = usize;

/// What the plan has to know of a statement.
#[derive(Debug, Clone)]
pub struct StatementPlan {
    pub table: TableId,
    pub operation: Operation,
    /// Places of the columns in the target's table, in the order of the parameters.
    pub set: Vec<usize>,
    pub find: Vec<usize>,
    /// Whether its rows may be grouped with others of the table.
    pub may_group: bool,
}

/// Fewer changes of a table than this go one by one: a set costs a plan of its own.
const FEWEST: usize = 5;

/// A row of more bytes than this goes alone, so that it is not copied into a set: an array or a COPY holds all of it again,
/// and the server can hold a gigabyte of either.
const LONG_ROW: usize = 8 << 20;

/// A value in a row that is being put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    Unset,
    Null,
    Text(&'a [u8]),
}

impl<'a> Cell<'a> {
    pub fn value(self) -> Option<&'a [u8]> {
        match self {
            Cell::Text(text) => Some(text),
            Cell::Unset | Cell::Null => None,
        }
    }
}

/// A row of the target's table: one cell for each column.
pub type Cells<'a> = Vec<Cell<'a>>;

/// What is sent to the target, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The change with this number, by its own statement.
    Row(usize),
    /// The TRUNCATE with this number.
    Truncate(usize),
    Delete {
        table: TableId,
        key: Vec<usize>,
        rows: Vec<Cells<'a>>,
    },
    Update {
        table: TableId,
        set: Vec<usize>,
        key: Vec<usize>,
        rows: Vec<Cells<'a>>,
    },
    Copy {
        table: TableId,
        columns: Vec<usize>,
        rows: Vec<Cells<'a>>,
    },
}

/// What the applier knows.
pub trait Knowledge {
    fn statement(&self, statement: StatementId) -> Option<&StatementPlan>;
    /// How many columns the target's table has.
    fn width(&self, table: TableId) -> usize;
    /// The columns that rows of the table are grouped by, in the order of statements' `find`.
    fn key(&self, table: TableId) -> Option<&[usize]>;
    /// Whether the table's changes go one by one for now.
    fn is_by_rows(&self, table: TableId) -> bool;
}

/// Make the plan. `None` when a statement is not known, which is a mistake in the script.
pub fn plan<'a>(changes: &'a [Change<'a>], knows: &impl Knowledge) -> Option<Vec<Step<'a>>> {
    let mut steps = Vec::new();
    let mut tables = Tables::default();
    for (number, change) in changes.iter().enumerate() {
        match change {
            Change::Execute { statement, .. } => {
                tables.add(knows.statement(*statement)?.table, number);
            }
            Change::Truncate { .. } => {
                tables.flush(changes, knows, &mut steps)?;
                steps.push(Step::Truncate(number));
            }
        }
    }
    tables.flush(changes, knows, &mut steps)?;
    Some(steps)
}

/// The numbers of the changes of each table, in the order in which tables were first met.
#[derive(Default)]
struct Tables {
    order: Vec<(TableId, Vec<usize>)>,
    places: HashMap<TableId, usize>,
}

impl Tables {
    fn add(&mut self, table: TableId, number: usize) {
        let place = *self.places.entry(table).or_insert_with(|| {
            self.order.push((table, Vec::new()));
            self.order.len() - 1
        });
        self.order[place].1.push(number);
    }

    fn flush<'a>(
        &mut self,
        changes: &'a [Change<'a>],
        knows: &impl Knowledge,
        steps: &mut Vec<Step<'a>>,
    ) -> Option<()> {
        self.places.clear();
        for (table, numbers) in self.order.drain(..) {
            if numbers.len() < FEWEST || knows.is_by_rows(table) {
                steps.extend(numbers.into_iter().map(Step::Row));
            } else {
                plan_table(table, &numbers, changes, knows, steps)?;
            }
        }
        Some(())
    }
}

fn plan_table<'a>(
    table: TableId,
    numbers: &[usize],
    changes: &'a [Change<'a>],
    knows: &impl Knowledge,
    steps: &mut Vec<Step<'a>>,
) -> Option<()> {
    let mark = steps.len();
    let mut group = Group::new(table, knows);
    for number in numbers {
        let Change::Execute {
            statement,
            parameters,
            ..
        } = &changes[*number]
        else {
            return None;
        };
        let statement = knows.statement(*statement)?;
        let may_group = statement.may_group
            && parameters.len() == statement.set.len() + statement.find.len()
            && !is_long(parameters);
        if !may_group {
            // A barrier: what came before it stays before it.
            group.flush(steps);
            steps.push(Step::Row(*number));
        } else if group.add(statement, parameters).is_none() {
            // What cannot be, such as an insert of a row that is there: one by one tells exactly which.
            steps.truncate(mark);
            steps.extend(numbers.iter().copied().map(Step::Row));
            return Some(());
        }
    }
    group.flush(steps);
    Some(())
}

fn is_long(parameters: &[Option<Cow<'_, [u8]>>]) -> bool {
    let bytes: usize = parameters.iter().flatten().map(|text| text.len()).sum();
    bytes > LONG_ROW
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    /// It was not there before, and is not there after.
    Nothing,
    Insert,
    Update,
    Delete,
    /// Deleted, then inserted again.
    Replace,
}

/// Rows of one table on their way to what they come to.
struct Group<'a, 'k> {
    table: TableId,
    width: usize,
    key: Option<&'k [usize]>,
    rows: Vec<(Net, Cells<'a>)>,
    places: HashMap<Vec<&'a [u8]>, usize>,
}

impl<'a, 'k> Group<'a, 'k> {
    fn new(table: TableId, knows: &'k impl Knowledge) -> Group<'a, 'k> {
        Group {
            table,
            width: knows.width(table),
            key: knows.key(table),
            rows: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// Merge a change into its row; `None` when the two cannot follow each other.
    fn add(
        &mut self,
        statement: &StatementPlan,
        parameters: &'a [Option<Cow<'a, [u8]>>],
    ) -> Option<()> {
        let (set, find) = parameters.split_at(statement.set.len());
        let key = self.key_of(statement, set, find)?;
        let place = match key {
            Some(key) => *self.places.entry(key).or_insert_with(|| {
                self.rows.push((Net::Nothing, Vec::new()));
                self.rows.len() - 1
            }),
            None => {
                self.rows.push((Net::Nothing, Vec::new()));
                self.rows.len() - 1
            }
        };
        let (net, cells) = &mut self.rows[place];
        // A row that was not met in this group before has no cells.
        let is_new = cells.is_empty();
        let (next, keeps) = match (statement.operation, *net) {
            (Operation::Insert, Net::Nothing) => (Net::Insert, false),
            (Operation::Insert, Net::Delete) => (Net::Replace, false),
            (Operation::Update, Net::Nothing) if is_new => (Net::Update, false),
            (Operation::Update, Net::Insert | Net::Update | Net::Replace) => (*net, true),
            (Operation::Delete, Net::Nothing) if is_new => (Net::Delete, false),
            (Operation::Delete, Net::Update | Net::Replace) => (Net::Delete, true),
            (Operation::Delete, Net::Insert) => (Net::Nothing, true),
            _ => return None,
        };
        *net = next;
        if !keeps {
            cells.clear();
            cells.resize(self.width.max(1), Cell::Unset);
        }
        let columns = statement.set.iter().chain(&statement.find);
        for (column, parameter) in columns.zip(parameters) {
            *cells.get_mut(*column)? = match parameter {
                Some(text) => Cell::Text(text),
                None => Cell::Null,
            };
        }
        Some(())
    }

    /// The key's values in this change; `Some(None)` for an insert into a table whose rows are not grouped.
    fn key_of(
        &self,
        statement: &StatementPlan,
        set: &'a [Option<Cow<'a, [u8]>>],
        find: &'a [Option<Cow<'a, [u8]>>],
    ) -> Option<Option<Vec<&'a [u8]>>> {
        let Some(key) = self.key else {
            return (statement.operation == Operation::Insert).then_some(None);
        };
        let values = key.iter().map(|column| {
            let (columns, parameters) = match statement.operation {
                Operation::Insert => (&statement.set, set),
                Operation::Update | Operation::Delete => (&statement.find, find),
            };
            let place = columns.iter().position(|other| other == column)?;
            parameters.get(place)?.as_deref()
        });
        values.collect::<Option<Vec<_>>>().map(Some)
    }

    /// Put what was gathered into steps: rows that go make room for rows that come.
    fn flush(&mut self, steps: &mut Vec<Step<'a>>) {
        self.places.clear();
        let table = self.table;
        let key = self.key.map(<[usize]>::to_vec).unwrap_or_default();
        let mut deleted = Vec::new();
        // By the columns that they set.
        let mut updated: Vec<(Vec<usize>, Vec<Cells<'a>>)> = Vec::new();
        let mut copied: Vec<(Vec<usize>, Vec<Cells<'a>>)> = Vec::new();
        for (net, cells) in self.rows.drain(..) {
            match net {
                Net::Nothing => {}
                Net::Delete => deleted.push(cells),
                Net::Update => put(&mut updated, &key, cells),
                Net::Insert => put(&mut copied, &[], cells),
                Net::Replace => {
                    deleted.push(cells.clone());
                    put(&mut copied, &[], cells);
                }
            }
        }
        if !deleted.is_empty() {
            steps.push(Step::Delete {
                table,
                key: key.clone(),
                rows: deleted,
            });
        }
        steps.extend(updated.into_iter().map(|(set, rows)| Step::Update {
            table,
            set,
            key: key.clone(),
            rows,
        }));
        steps.extend(copied.into_iter().map(|(columns, rows)| Step::Copy {
            table,
            columns,
            rows,
        }));
    }
}

/// Put a row to those that set the same columns, leaving out `except`.
fn put<'a>(groups: &mut Vec<(Vec<usize>, Vec<Cells<'a>>)>, except: &[usize], cells: Cells<'a>) {
    let is_set = |column: &usize| cells[*column] != Cell::Unset && !except.contains(column);
    let same = groups
        .iter_mut()
        .find(|(columns, _)| (0..cells.len()).filter(is_set).eq(columns.iter().copied()));
    match same {
        Some((_, rows)) => rows.push(cells),
        None => {
            let columns = (0..cells.len()).filter(is_set).collect();
            groups.push((columns, vec![cells]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Known {
        statements: Vec<StatementPlan>,
        key: Vec<usize>,
    }

    impl Knowledge for Known {
        fn statement(&self, statement: StatementId) -> Option<&StatementPlan> {
            self.statements.get(statement as usize)
        }
        fn width(&self, _: TableId) -> usize {
            3
        }
        fn key(&self, _: TableId) -> Option<&[usize]> {
            Some(&self.key)
        }
        fn is_by_rows(&self, _: TableId) -> bool {
            false
        }
    }

    /// Columns: 0 the key, 1 and 2. Statements: insert; update of 1; update of 1 and 2; delete; update of the key.
    fn known() -> Known {
        let statement = |operation, set: &[usize], find: &[usize], may_group| StatementPlan {
            table: 0,
            operation,
            set: set.to_vec(),
            find: find.to_vec(),
            may_group,
        };
        Known {
            statements: vec![
                statement(Operation::Insert, &[0, 1, 2], &[], true),
                statement(Operation::Update, &[1], &[0], true),
                statement(Operation::Update, &[1, 2], &[0], true),
                statement(Operation::Delete, &[], &[0], true),
                statement(Operation::Update, &[0, 1], &[0], false),
            ],
            key: vec![0],
        }
    }

    /// Trap 13: by itself, in its place between the others.
    #[test]
    fn a_long_row_goes_alone() {
        let change = |number: usize| {
            let bytes = if number == 10 { LONG_ROW } else { 1 };
            let values = [number.to_string().into_bytes(), vec![b'x'; bytes], vec![]];
            Change::Execute {
                statement: 0,
                parameters: values.map(|value| Some(Cow::Owned(value))).to_vec(),
                place: Default::default(),
            }
        };
        let changes: Vec<Change<'_>> = (0..20).map(change).collect();
        let steps = plan(&changes, &known()).unwrap();
        assert!(matches!(
            &steps[..],
            [Step::Copy { rows: before, .. }, Step::Row(10), Step::Copy { rows: after, .. }]
                if before.len() == 10 && after.len() == 9
        ));
    }

    type Table = BTreeMap<String, [Option<String>; 2]>;

    fn text(cell: Cell<'_>) -> Option<String> {
        cell.value()
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// What the target does with a statement; `false` when it is refused or meets no row.
    fn execute(
        table: &mut Table,
        statement: &StatementPlan,
        parameters: &[Option<String>],
    ) -> bool {
        let (set, find) = parameters.split_at(statement.set.len());
        let mut row = match statement.operation {
            Operation::Insert => [None, None],
            _ => match table.get(find[0].as_ref().unwrap()) {
                Some(row) => row.clone(),
                None => return false,
            },
        };
        let mut key = find.first().cloned().flatten().unwrap_or_default();
        for (column, value) in statement.set.iter().zip(set) {
            match column {
                0 => key = value.clone().unwrap(),
                column => row[column - 1] = value.clone(),
            }
        }
        if statement.operation != Operation::Insert {
            table.remove(find[0].as_ref().unwrap());
        }
        statement.operation == Operation::Delete || table.insert(key, row).is_none()
    }

    fn run(table: &mut Table, steps: Vec<Step<'_>>, changes: &[Change<'_>], known: &Known) {
        for step in steps {
            match step {
                Step::Row(number) => {
                    let Change::Execute {
                        statement,
                        parameters,
                        ..
                    } = &changes[number]
                    else {
                        panic!("rows are executions");
                    };
                    let parameters: Vec<_> = parameters
                        .iter()
                        .map(|value| {
                            value
                                .as_ref()
                                .map(|v| String::from_utf8(v.to_vec()).unwrap())
                        })
                        .collect();
                    assert!(execute(
                        table,
                        &known.statements[*statement as usize],
                        &parameters
                    ));
                }
                Step::Truncate(_) => table.clear(),
                Step::Delete { rows, .. } => {
                    for row in rows {
                        table.remove(&text(row[0]).unwrap()).unwrap();
                    }
                }
                Step::Update { set, rows, .. } => {
                    for row in rows {
                        let found = table.get_mut(&text(row[0]).unwrap()).unwrap();
                        for column in &set {
                            found[column - 1] = text(row[*column]);
                        }
                    }
                }
                Step::Copy { rows, .. } => {
                    for row in rows {
                        let values = [text(row[1]), text(row[2])];
                        assert!(table.insert(text(row[0]).unwrap(), values).is_none());
                    }
                }
            }
        }
    }

    proptest! {
        /// Only changes that can follow each other on a source are tried; what they come to is the same either way.
        #[test]
        fn sets_do_what_rows_do(
            tried in proptest::collection::vec((0u32..6, 0u8..4, 0u8..4, proptest::option::of(0u8..9)), 0..60),
            there in proptest::collection::btree_set(0u8..4, 0..4),
        ) {
            let known = known();
            let mut expected: Table = there.iter().map(|key| (key.to_string(), [None, None])).collect();
            let mut target = expected.clone();
            let mut changes: Vec<Change<'static>> = Vec::new();
            let tables = [("s".to_owned(), "t".to_owned())];
            for (statement, key, other, value) in tried {
                let value = value.map(|value| value.to_string());
                let key = Some(key.to_string());
                let parameters = match statement {
                    0 => vec![key, value, Some("x".into())],
                    1 => vec![value, key],
                    2 => vec![value, None, key],
                    3 => vec![key],
                    4 => vec![Some(other.to_string()), value, key],
                    _ => {
                        expected.clear();
                        let tables: &'static [(String, String)] = Box::leak(Box::new(tables.clone()));
                        changes.push(Change::Truncate { tables, restart_identity: false, place: Default::default() });
                        continue;
                    }
                };
                let mut after = expected.clone();
                if !execute(&mut after, &known.statements[statement as usize], &parameters) {
                    continue;
                }
                expected = after;
                let parameters = parameters.into_iter().map(|v| v.map(|v| Cow::Owned(v.into_bytes()))).collect();
                changes.push(Change::Execute { statement, parameters, place: Default::default() });
            }
            let steps = plan(&changes, &known).unwrap();
            run(&mut target, steps, &changes, &known);
            prop_assert_eq!(target, expected);
        }
    }
}
