//! JSON lines to script lines. Pure: the transform process reads and writes around it (`transform_process`).
//!
//! A transaction is held back until its end is known, so that BEGIN can tell its commit LSN and apply can decide at once
//! whether it is applied already or beyond the end position. One that grows larger than `HELD_BYTES` is passed on as it
//! comes, and apply decides at its end.

use std::borrow::Cow;
use std::collections::HashMap;

use super::left_out::LeftOutTables;
use super::message::{LogicalMessage, Relation, RelationId, Tuple, Value};
use super::script::{CommitIs, Operation, ScriptLine, StatementId, write_execute_raw};
use super::statement::{Shape, describe, sql};
use crate::error::{Error, ErrorKind, Result};
use crate::ident::QualifiedName;
use crate::lsn::Lsn;

/// How much of one transaction is held back: far above what a transaction of an application writes, and little memory.
const HELD_BYTES: usize = 4 << 20;

/// In what pieces the rest of a larger one goes: enough for one write, and still in the processor's cache.
const PASSED_BYTES: usize = 64 << 10;

/// A statement that was prepared, by what tells it from the others of its relation.
struct Prepared {
    operation: Operation,
    shape: Shape,
    id: StatementId,
}

struct Known {
    relation: Relation,
    prepared: Vec<Prepared>,
    /// The base copy left the table out: there is nothing to replay, and nothing that must be found.
    is_left_out: bool,
}

/// The transaction under way.
struct Transaction {
    xid: u32,
    /// Its EXECUTE and TRUNCATE lines, as far as they were not passed on.
    lines: Vec<u8>,
    is_passed_on: bool,
}

/// Turns the lines of one stream, in their order.
pub struct Transform {
    relations: HashMap<RelationId, Known>,
    next: StatementId,
    transaction: Option<Transaction>,
    /// Used again and again, so that no change costs an allocation for it.
    shape: Shape,
    keep_no_op: bool,
    /// Script lines that are ready.
    out: Vec<u8>,
    /// Where the stream stands: the last commit or keepalive.
    position: Lsn,
    left_out: LeftOutTables,
}

impl Transform {
    /// `keep_no_op`: also pass on updates that change nothing.
    pub fn new(keep_no_op: bool) -> Transform {
        Transform {
            relations: HashMap::new(),
            next: 1,
            transaction: None,
            shape: Shape::default(),
            keep_no_op,
            out: Vec::new(),
            position: Lsn::INVALID,
            left_out: LeftOutTables::new(),
        }
    }

    /// Replay nothing of these tables.
    pub fn leaving_out(self, left_out: LeftOutTables) -> Transform {
        Transform { left_out, ..self }
    }

    /// Begin a script, in a new file or at a place from which a file goes on: nothing is prepared in it yet.
    pub fn begin_script(&mut self) {
        for known in self.relations.values_mut() {
            known.prepared.clear();
        }
        self.next = 1;
        ScriptLine::Header.write(&mut self.out);
    }

    /// Everything that was committed at or before this position comes before the script.
    pub fn begin_after(&mut self, lsn: Lsn) {
        self.position = self.position.max(lsn);
        ScriptLine::After { lsn }.write(&mut self.out);
    }

    /// End a complete file.
    pub fn end_script(&mut self, json_bytes: u64) {
        let lsn = self.position;
        ScriptLine::Switch { lsn, json_bytes }.write(&mut self.out);
    }

    /// The last commit or keepalive.
    pub fn position(&self) -> Lsn {
        self.position
    }

    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// What is ready; to be cleared by the caller once it is written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What was ready is written. The memory of a very long line goes with it.
    pub fn clear_output(&mut self) {
        self.out.clear();
        if self.out.capacity() > 2 * HELD_BYTES {
            self.out.shrink_to(HELD_BYTES);
        }
    }

    /// Forget the transaction under way: its end will not come.
    pub fn abort(&mut self) {
        let passed_on = self.transaction.take().is_some_and(|it| it.is_passed_on);
        if passed_on {
            ScriptLine::Abort.write(&mut self.out);
        }
    }

    /// Take one message, its values as `parse_json_raw` gives them.
    pub fn step(&mut self, message: &LogicalMessage<'_>) -> Result<()> {
        match message {
            LogicalMessage::Relation { relation, is } => {
                self.describe(*relation, is);
                Ok(())
            }
            LogicalMessage::Begin { xid } => self.begin(*xid),
            LogicalMessage::Insert { relation, new } => {
                self.change(Operation::Insert, *relation, None, Some(new))
            }
            LogicalMessage::Update { relation, old, new } => {
                self.change(Operation::Update, *relation, old.as_ref(), Some(new))
            }
            LogicalMessage::Delete { relation, old } => {
                self.change(Operation::Delete, *relation, Some(old), None)
            }
            LogicalMessage::Truncate {
                relations,
                restart_identity,
            } => self.truncate(relations, *restart_identity),
            LogicalMessage::Commit {
                xid,
                lsn,
                timestamp,
            } => self.commit(CommitIs {
                xid: *xid,
                commit_lsn: *lsn,
                timestamp: Cow::Borrowed(timestamp),
            }),
            LogicalMessage::Keepalive { lsn } => self.keepalive(*lsn),
            LogicalMessage::Start { lsn } => {
                self.begin_after(*lsn);
                Ok(())
            }
            // Files are the process's business, which begins a script for each; what goes on in the middle of one does not tell
            // where that is.
            LogicalMessage::File { offset, lsn, .. } => {
                if *offset > 0 {
                    self.begin_after(*lsn);
                }
                Ok(())
            }
            LogicalMessage::Abort => {
                self.abort();
                Ok(())
            }
        }
    }

    fn describe(&mut self, id: RelationId, relation: &Relation) {
        // Described again at the start of each file: what is prepared stays, unless the table has changed.
        if self
            .relations
            .get(&id)
            .is_none_or(|known| known.relation != *relation)
        {
            let name = QualifiedName::new(&relation.schema, &relation.table);
            let known = Known {
                relation: relation.clone(),
                prepared: Vec::new(),
                is_left_out: self.left_out.contains(&name),
            };
            self.relations.insert(id, known);
        }
    }

    fn begin(&mut self, xid: u32) -> Result<()> {
        if self.transaction.is_some() {
            return Err(out_of_order("BEGIN inside a transaction"));
        }
        self.transaction = Some(Transaction {
            xid,
            lines: Vec::new(),
            is_passed_on: false,
        });
        Ok(())
    }

    fn change(
        &mut self,
        operation: Operation,
        id: RelationId,
        old: Option<&Tuple<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<()> {
        let Some(known) = self.relations.get_mut(&id) else {
            return Err(out_of_order(
                "a change of a relation that was not described",
            ));
        };
        let Some(transaction) = &mut self.transaction else {
            return Err(out_of_order("a change outside of a transaction"));
        };
        if known.is_left_out {
            return Ok(());
        }
        let shape = &mut self.shape;
        let relation = &known.relation;
        let has_way = match (operation, old, new) {
            (Operation::Insert, _, Some(new)) => {
                shape.of_insert(new);
                true
            }
            (Operation::Update, old, Some(new)) => {
                shape.of_update(relation, old, new, self.keep_no_op)
            }
            (Operation::Delete, Some(old), _) => shape.of_delete(relation, old),
            _ => false,
        };
        if !has_way {
            return Err(without_key(operation, relation));
        }
        // Trap 16: nothing but unchanged values.
        if operation == Operation::Update && shape.set.is_empty() {
            return Ok(());
        }
        let statement = prepare(known, operation, shape, &mut self.next, &mut self.out);
        let set = shape.set.iter().map(|column| value(new, *column));
        let find = shape.find.iter().map(|column| value(old.or(new), *column));
        write_execute_raw(statement, set.chain(find), &mut transaction.lines);
        pass_on_if_large(transaction, &mut self.out);
        Ok(())
    }

    fn truncate(&mut self, relations: &[RelationId], restart_identity: bool) -> Result<()> {
        let Some(transaction) = &mut self.transaction else {
            return Err(out_of_order("TRUNCATE outside of a transaction"));
        };
        let mut tables = Vec::with_capacity(relations.len());
        for id in relations {
            let Some(known) = self.relations.get(id) else {
                return Err(out_of_order(
                    "TRUNCATE of a relation that was not described",
                ));
            };
            if !known.is_left_out {
                tables.push((known.relation.schema.clone(), known.relation.table.clone()));
            }
        }
        if tables.is_empty() {
            return Ok(());
        }
        ScriptLine::Truncate {
            tables,
            restart_identity,
        }
        .write(&mut transaction.lines);
        Ok(())
    }

    fn commit(&mut self, commit: CommitIs<'_>) -> Result<()> {
        let Some(transaction) = self.transaction.take() else {
            return Err(out_of_order("COMMIT outside of a transaction"));
        };
        self.position = commit.commit_lsn;
        if !transaction.is_passed_on {
            ScriptLine::Begin {
                xid: transaction.xid,
                commit: Some(commit.clone()),
            }
            .write(&mut self.out);
        }
        self.out.extend_from_slice(&transaction.lines);
        ScriptLine::Commit(commit).write(&mut self.out);
        Ok(())
    }

    fn keepalive(&mut self, lsn: Lsn) -> Result<()> {
        if self.transaction.is_some() {
            return Err(out_of_order("a keepalive inside a transaction"));
        }
        self.position = lsn;
        ScriptLine::Keepalive { lsn }.write(&mut self.out);
        Ok(())
    }
}

fn pass_on_if_large(transaction: &mut Transaction, out: &mut Vec<u8>) {
    let most = match transaction.is_passed_on {
        true => PASSED_BYTES,
        false => HELD_BYTES,
    };
    if transaction.lines.len() < most {
        return;
    }
    if !transaction.is_passed_on {
        transaction.is_passed_on = true;
        ScriptLine::Begin {
            xid: transaction.xid,
            commit: None,
        }
        .write(out);
    }
    pass_on(&mut transaction.lines, out);
}

/// A large value is not copied once more.
fn pass_on(lines: &mut Vec<u8>, out: &mut Vec<u8>) {
    match out.is_empty() {
        true => std::mem::swap(lines, out),
        false => out.append(lines),
    }
}

/// The number of the statement, which is prepared now if it was not. The line goes ahead of the transaction, which may be
/// forgotten.
fn prepare(
    known: &mut Known,
    operation: Operation,
    shape: &Shape,
    next: &mut StatementId,
    out: &mut Vec<u8>,
) -> StatementId {
    let is_it = |prepared: &&Prepared| prepared.operation == operation && prepared.shape.is(shape);
    if let Some(prepared) = known.prepared.iter().find(is_it) {
        return prepared.id;
    }
    let id = *next;
    *next += 1;
    ScriptLine::Prepare {
        statement: id,
        sql: Cow::Owned(sql(operation, &known.relation, shape)),
        is: Cow::Owned(describe(operation, &known.relation, shape)),
    }
    .write(out);
    known.prepared.push(Prepared {
        operation,
        shape: shape.clone(),
        id,
    });
    id
}

fn value<'a>(tuple: Option<&'a Tuple<'_>>, column: usize) -> Option<&'a [u8]> {
    match tuple?.get(column)? {
        Value::Text(text) => Some(text),
        Value::Null | Value::NotSent => None,
    }
}

fn out_of_order(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the changes are not in order: {what}"),
    )
}

fn without_key(operation: Operation, relation: &Relation) -> Error {
    let word = match operation {
        Operation::Insert => "INSERT",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
    };
    let name = QualifiedName::new(&relation.schema, &relation.table);
    Error::new(
        ErrorKind::Source,
        format!("cannot replay an {word} of table {name}: the source sent nothing that identifies the row"),
    )
    .with_hint(format!(
        "The table has neither a primary key nor another replica identity. For changes to come: ALTER TABLE {name} \
         REPLICA IDENTITY FULL (or USING INDEX); this change cannot be replayed: copy the table again."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::message::{Column, Equality};

    fn relation() -> LogicalMessage<'static> {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_name: "text".to_owned(),
            equality: Equality::Bytes,
        };
        LogicalMessage::Relation {
            relation: 1,
            is: Cow::Owned(Relation {
                schema: "public".into(),
                table: "t".into(),
                only: false,
                columns: vec![column("id"), column("v")],
                key: vec![0],
                full: false,
            }),
        }
    }

    fn row(id: &str, v: &str) -> Tuple<'static> {
        [id, v]
            .map(|text| Value::Text(Cow::Owned(text.as_bytes().to_vec())))
            .to_vec()
    }

    fn insert(v: &str) -> LogicalMessage<'static> {
        LogicalMessage::Insert {
            relation: 1,
            new: row("1", v),
        }
    }

    fn commit(lsn: u64) -> LogicalMessage<'static> {
        LogicalMessage::Commit {
            xid: 7,
            lsn: Lsn(lsn),
            timestamp: Cow::Borrowed("2026-11-21 07:36:18+00"),
        }
    }

    fn run(messages: &[LogicalMessage<'_>]) -> String {
        let mut transform = Transform::new(false);
        transform.begin_script();
        for message in messages {
            transform.step(message).unwrap();
        }
        String::from_utf8(std::mem::take(transform.output())).unwrap()
    }

    #[test]
    fn begin_knows_the_end_of_a_small_transaction() {
        let script = run(&[
            relation(),
            LogicalMessage::Begin { xid: 7 },
            insert("a"),
            insert("b"),
            commit(0x20),
        ]);
        let lines: Vec<&str> = script.lines().collect();
        assert!(lines[1].starts_with("PREPARE 1 AS INSERT INTO \"public\".\"t\""));
        assert_eq!(
            lines[2],
            r#"BEGIN; -- {"xid":7,"commit_lsn":"0/20","timestamp":"2026-11-21 07:36:18+00"}"#
        );
        assert_eq!(
            lines[3..5],
            [r#"EXECUTE 1["1","a"];"#, r#"EXECUTE 1["1","b"];"#]
        );
        assert!(lines[5].starts_with("COMMIT; -- "));
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn a_large_transaction_is_passed_on() {
        let large = "x".repeat(HELD_BYTES / 2);
        let script = run(&[
            relation(),
            LogicalMessage::Begin { xid: 7 },
            insert(&large),
            insert(&large),
            insert("end"),
            commit(0x20),
        ]);
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines[2], r#"BEGIN; -- {"xid":7}"#);
        assert_eq!(lines[5], r#"EXECUTE 1["1","end"];"#);
        assert!(lines[6].starts_with("COMMIT; -- {\"xid\":7,\"commit_lsn\":\"0/20\""));
    }

    #[test]
    fn a_forgotten_transaction_leaves_its_statements_prepared() {
        let mut transform = Transform::new(false);
        transform.begin_script();
        transform.step(&relation()).unwrap();
        transform.step(&LogicalMessage::Begin { xid: 6 }).unwrap();
        transform.step(&insert("lost")).unwrap();
        transform.abort();
        transform.step(&LogicalMessage::Begin { xid: 7 }).unwrap();
        transform.step(&insert("kept")).unwrap();
        transform.step(&commit(9)).unwrap();
        assert_eq!(transform.position(), Lsn(9));
        transform.end_script(100);
        let script = String::from_utf8(std::mem::take(transform.output())).unwrap();
        assert_eq!(script.matches("PREPARE").count(), 1);
        assert!(!script.contains("lost") && script.contains("kept"));
        assert!(script.ends_with("SWITCH; -- {\"lsn\":\"0/9\",\"json_bytes\":100}\n"));
        transform.begin_script();
        transform.step(&LogicalMessage::Begin { xid: 8 }).unwrap();
        transform.step(&insert("again")).unwrap();
        assert!(String::from_utf8_lossy(transform.output()).contains("PREPARE 1 AS"));
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let begin = LogicalMessage::Begin { xid: 7 };
        for messages in [
            &[commit(1)][..],
            &[relation(), insert("a")],
            &[begin.clone(), insert("a")],
            &[begin.clone(), begin.clone()],
        ] {
            let mut transform = Transform::new(false);
            let results: Vec<_> = messages.iter().map(|m| transform.step(m)).collect();
            assert!(results.last().unwrap().is_err());
        }
        let mut transform = Transform::new(false);
        transform.step(&relation()).unwrap();
        transform.step(&begin).unwrap();
        let nothing = vec![Value::NotSent, Value::NotSent];
        let delete = LogicalMessage::Delete {
            relation: 1,
            old: nothing,
        };
        let error = transform.step(&delete).unwrap_err();
        assert!(error.to_string().contains("\"public\".\"t\""), "{error}");
    }
}
