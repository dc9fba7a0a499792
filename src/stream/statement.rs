//! The statement that a change becomes: which columns get a value and which ones find the row. Pure; used by transform.
//! What differs only in its values shares a statement, which the target prepares once.

use super::message::{Column, Equality, Relation, Tuple, Value};
use super::script::{Operation, StatementIs, quote_on_one_line};

/// What becomes of one change. The values go with it in the order of `set`, then `find`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Indexes of the columns that get a value.
    pub set: Vec<usize>,
    /// Indexes of the columns that find the row.
    pub find: Vec<usize>,
    /// Columns that are NULL in the row to find: they take no parameter. Only for rows without a key.
    pub find_null: Vec<usize>,
    pub changes_key: bool,
}

impl Shape {
    /// As `==` says, for a shape that was written a moment ago. Element by element: a comparison of whole lists loads wider
    /// than they were stored, which waits for every store before it, and cost a quarter of transform's time.
    pub fn is(&self, other: &Shape) -> bool {
        let same = |mine: &[usize], other: &[usize]| mine.iter().eq(other.iter());
        self.changes_key == other.changes_key
            && same(&self.set, &other.set)
            && same(&self.find, &other.find)
            && same(&self.find_null, &other.find_null)
    }

    fn clear(&mut self) {
        self.set.clear();
        self.find.clear();
        self.find_null.clear();
        self.changes_key = false;
    }

    /// For an insert: every column that was sent.
    pub fn of_insert(&mut self, new: &Tuple<'_>) {
        self.clear();
        self.set.extend(sent(new));
    }

    /// For a delete. `false` when the old tuple has nothing to find the row by.
    pub fn of_delete(&mut self, relation: &Relation, old: &Tuple<'_>) -> bool {
        self.clear();
        self.find_by(relation, old)
    }

    /// For an update; without an old tuple the key has not changed. `false` when there is nothing to find the row by. With
    /// an empty `set`, nothing has changed.
    pub fn of_update(
        &mut self,
        relation: &Relation,
        old: Option<&Tuple<'_>>,
        new: &Tuple<'_>,
        keep_no_op: bool,
    ) -> bool {
        self.clear();
        // Without an old tuple only a key that has not changed can find the row.
        if old.is_none() && relation.full || !self.find_by(relation, old.unwrap_or(new)) {
            return false;
        }
        let is_same = |column: &usize| old.is_none_or(|old| old.get(*column) == new.get(*column));
        self.changes_key = !relation.full
            && relation
                .key
                .iter()
                .any(|column| new.get(*column) != Some(&Value::NotSent) && !is_same(column));
        // A column of the key that stays is not set again: it would cost an index entry. The others are, as what the row
        // holds on the source is the truth, unless the old tuple tells that they stayed too.
        let is_key = |column: &usize| relation.key.contains(column);
        let may_skip = |column: &usize| match old {
            Some(old) => !keep_no_op && old.get(*column) == new.get(*column),
            None => false,
        };
        self.set.extend(sent(new).filter(|column| {
            if is_key(column) {
                !is_same(column)
            } else {
                !may_skip(column)
            }
        }));
        if self.set.is_empty() && keep_no_op {
            self.set.extend(sent(new).filter(is_key));
        }
        true
    }

    fn find_by(&mut self, relation: &Relation, tuple: &Tuple<'_>) -> bool {
        if !relation.full {
            self.find.extend(&relation.key);
            let is_value = |column: &usize| matches!(tuple.get(*column), Some(Value::Text(_)));
            return !self.find.is_empty() && self.find.iter().all(is_value);
        }
        for (column, value) in tuple.iter().enumerate() {
            match value {
                Value::Text(_) => self.find.push(column),
                Value::Null => self.find_null.push(column),
                Value::NotSent => {}
            }
        }
        !self.find.is_empty() || !self.find_null.is_empty()
    }
}

fn sent<'a>(tuple: &'a Tuple<'_>) -> impl Iterator<Item = usize> + 'a {
    let is_sent = |(_, value): &(usize, &Value<'_>)| **value != Value::NotSent;
    tuple
        .iter()
        .enumerate()
        .filter(is_sent)
        .map(|(column, _)| column)
}

/// What apply has to know of the statement.
pub fn describe(operation: Operation, relation: &Relation, shape: &Shape) -> StatementIs {
    let names = |columns: &[usize]| -> Vec<String> {
        columns
            .iter()
            .map(|column| column_name(relation, *column))
            .collect()
    };
    let is_exact = |column: &usize| {
        relation
            .columns
            .get(*column)
            .is_some_and(|column| column.equality == Equality::Bytes)
    };
    StatementIs {
        operation,
        schema: relation.schema.clone(),
        table: relation.table.clone(),
        only: relation.only,
        set: names(&shape.set),
        find: names(&shape.find),
        is_key: !relation.full && !relation.key.is_empty() && relation.key.iter().all(is_exact),
        changes_key: shape.changes_key,
    }
}

fn column_name(relation: &Relation, column: usize) -> String {
    relation
        .columns
        .get(column)
        .map_or_else(String::new, |column| column.name.clone())
}

/// The statement itself.
pub fn sql(operation: Operation, relation: &Relation, shape: &Shape) -> String {
    let table = format!(
        "{}{}.{}",
        if relation.only && operation != Operation::Insert {
            "ONLY "
        } else {
            ""
        },
        quote_on_one_line(&relation.schema),
        quote_on_one_line(&relation.table)
    );
    let name = |column: &usize| quote_on_one_line(&column_name(relation, *column));
    let place = |index: usize| format!("${}", index + 1);
    match operation {
        Operation::Insert if shape.set.is_empty() => {
            format!("INSERT INTO {table} DEFAULT VALUES")
        }
        // Identity columns get the source's values, also where the table is GENERATED ALWAYS.
        Operation::Insert => format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            list(shape.set.iter().map(name)),
            list((0..shape.set.len()).map(place))
        ),
        Operation::Update => {
            let set = shape.set.iter().enumerate();
            let set = set.map(|(index, column)| format!("{} = {}", name(column), place(index)));
            format!(
                "UPDATE {table} SET {} WHERE {}",
                list(set),
                condition(relation, shape, &table)
            )
        }
        Operation::Delete => format!(
            "DELETE FROM {table} WHERE {}",
            condition(relation, shape, &table)
        ),
    }
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn condition(relation: &Relation, shape: &Shape, table: &str) -> String {
    let first = shape.set.len() + 1;
    let finds = shape.find.iter().enumerate();
    if !relation.full {
        let by_key = finds.map(|(index, column)| {
            let name = quote_on_one_line(&column_name(relation, *column));
            format!("{name} = ${}", first + index)
        });
        return by_key.collect::<Vec<_>>().join(" AND ");
    }
    let mut all: Vec<String> = finds
        .filter_map(|(index, column)| Some((first + index, relation.columns.get(*column)?)))
        .map(|(place, column)| same_value(column, place))
        .collect();
    all.extend(shape.find_null.iter().map(|column| {
        let name = quote_on_one_line(&column_name(relation, *column));
        format!("{name} IS NULL")
    }));
    // Rows may be there twice: exactly one of them is meant. tableoid, as the target may be partitioned.
    format!(
        "(tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {} LIMIT 1)",
        all.join(" AND ")
    )
}

/// The same to the byte of the text output, by way of `=` where an index may serve it.
fn same_value(column: &Column, place: usize) -> String {
    let name = quote_on_one_line(&column.name);
    let type_name = &column.type_name;
    match column.equality {
        Equality::Bytes => format!("{name} = ${place}::{type_name}"),
        Equality::Loose => format!(
            "{name} = ${place}::{type_name} AND {name}::text = (${place}::{type_name})::text"
        ),
        Equality::None => format!("{name}::text = (${place}::{type_name})::text"),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn relation(key: &[usize], full: bool) -> Relation {
        let column = |name: &str, type_name: &str, equality| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            equality,
        };
        Relation {
            schema: "s".into(),
            table: "t\n\"".into(),
            only: false,
            columns: vec![
                column("id", "bigint", Equality::Bytes),
                column("n", "numeric", Equality::Loose),
                column("j", "json", Equality::None),
            ],
            key: key.to_vec(),
            full,
        }
    }

    fn text(value: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(value.as_bytes()))
    }

    fn update(relation: &Relation, old: Option<Tuple<'_>>, new: Tuple<'_>) -> (Shape, String) {
        let mut shape = Shape::default();
        assert!(shape.of_update(relation, old.as_ref(), &new, false));
        let sql = sql(Operation::Update, relation, &shape);
        (shape, sql)
    }

    #[test]
    fn an_update_by_key_leaves_the_key_alone() {
        let new = vec![text("1"), text("2.0"), Value::NotSent];
        let (shape, sql) = update(&relation(&[0], false), None, new);
        assert_eq!(
            sql,
            "UPDATE \"s\".U&\"t\\000A\"\"\" SET \"n\" = $1 WHERE \"id\" = $2"
        );
        assert_eq!((shape.set, shape.find), (vec![1], vec![0]));
    }

    /// Trap 18.
    #[test]
    fn an_update_of_the_key_finds_the_old_one() {
        let old = vec![text("1"), Value::NotSent, Value::NotSent];
        let new = vec![text("2"), text("2.0"), Value::Null];
        let (shape, sql) = update(&relation(&[0], false), Some(old), new);
        assert!(shape.changes_key);
        assert!(sql.ends_with("SET \"id\" = $1, \"n\" = $2, \"j\" = $3 WHERE \"id\" = $4"));
    }

    /// Trap 16: nothing is left to set.
    #[test]
    fn an_update_of_nothing_is_none() {
        let relation = relation(&[0], false);
        let new = vec![text("1"), Value::NotSent, Value::NotSent];
        let mut shape = Shape::default();
        assert!(shape.of_update(&relation, None, &new, false));
        assert!(shape.set.is_empty());
        assert!(shape.of_update(&relation, None, &new, true));
        assert_eq!(shape.set, [0]);
    }

    /// Traps 17, 19 and 20.
    #[test]
    fn a_row_without_key_is_found_by_all_its_values() {
        let relation = relation(&[], true);
        let old = vec![text("1"), text("2.0"), Value::Null];
        let new = vec![text("1"), text("3.0"), Value::Null];
        let (shape, sql) = update(&relation, Some(old.clone()), new);
        assert_eq!(shape.set, [1]);
        assert!(sql.contains(
            "WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM \"s\".U&\"t\\000A\"\"\" WHERE \
             \"id\" = $2::bigint AND \"n\" = $3::numeric AND \"n\"::text = ($3::numeric)::text \
             AND \"j\" IS NULL LIMIT 1)"
        ));
        let mut shape = Shape::default();
        assert!(shape.of_update(&relation, Some(&old), &old, false));
        assert!(shape.set.is_empty(), "trap 22: no change at all");
        assert!(shape.of_update(&relation, Some(&old), &old, true));
        assert_eq!(shape.set, [0, 1, 2]);
    }

    #[test]
    fn a_delete_needs_its_key() {
        let mut shape = Shape::default();
        let nothing = vec![Value::NotSent, Value::NotSent, Value::NotSent];
        assert!(!shape.of_delete(&relation(&[0], false), &nothing));
        assert!(!shape.of_delete(
            &relation(&[], false),
            &vec![text("1"), Value::Null, Value::Null]
        ));
        assert!(shape.of_delete(
            &relation(&[0], false),
            &vec![text("1"), Value::Null, Value::Null]
        ));
        assert!(
            sql(Operation::Delete, &relation(&[0], false), &shape).ends_with("WHERE \"id\" = $1")
        );
    }

    /// Trap 23 and zero-column tables.
    #[test]
    fn an_insert_overrides_identities() {
        let relation = relation(&[0], false);
        let mut shape = Shape::default();
        shape.of_insert(&vec![text("1"), Value::Null, Value::NotSent]);
        let sql_text = sql(Operation::Insert, &relation, &shape);
        assert!(sql_text.ends_with("(\"id\", \"n\") OVERRIDING SYSTEM VALUE VALUES ($1, $2)"));
        shape.of_insert(&Vec::new());
        assert!(sql(Operation::Insert, &relation, &shape).ends_with("DEFAULT VALUES"));
    }
}
