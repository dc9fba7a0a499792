//! Scripts for the apply process, put together by hand.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pgcopydb::lsn::Lsn;
use pgcopydb::stream::script::{CommitIs, Operation, ScriptLine, StatementIs, write_execute};

/// The commit LSN of the transaction with this number.
pub fn lsn_of(transaction: u32) -> Lsn {
    Lsn(u64::from(transaction) * 0x100)
}

/// A script under construction. Transactions have the numbers 1, 2, ... as xid, and `lsn_of` them as commit LSN.
pub struct Script {
    lines: Vec<u8>,
    statements: HashMap<(String, String), u32>,
    transactions: u32,
    /// BEGIN does not tell the end.
    pub ends_unknown: bool,
}

/// The changes of one transaction, in lines of their own.
pub struct Changes<'s> {
    script: &'s mut Script,
    lines: Vec<u8>,
}

impl Script {
    /// One whose first transaction has this number.
    pub fn from(first: u32) -> Script {
        let mut lines = Vec::new();
        ScriptLine::Header.write(&mut lines);
        Script {
            lines,
            statements: HashMap::new(),
            transactions: first - 1,
            ends_unknown: false,
        }
    }

    pub fn new() -> Script {
        Script::from(1)
    }

    fn commit(&self) -> CommitIs<'static> {
        CommitIs {
            xid: self.transactions,
            commit_lsn: lsn_of(self.transactions),
            timestamp: Cow::Borrowed("2026-11-21 07:36:18.123456+00"),
        }
    }

    /// Add a transaction; returns its number.
    pub fn transaction(&mut self, make: impl FnOnce(&mut Changes<'_>)) -> u32 {
        self.begin();
        let mut changes = Changes {
            script: self,
            lines: Vec::new(),
        };
        make(&mut changes);
        let lines = changes.lines;
        self.lines.extend_from_slice(&lines);
        ScriptLine::Commit(self.commit()).write(&mut self.lines);
        self.transactions
    }

    fn begin(&mut self) {
        self.transactions += 1;
        let begin = ScriptLine::Begin {
            xid: self.transactions,
            commit: (!self.ends_unknown).then(|| self.commit()),
        };
        begin.write(&mut self.lines);
    }

    /// The beginning of a transaction that never ends here.
    pub fn torn(&mut self, make: impl FnOnce(&mut Changes<'_>)) {
        self.begin();
        let mut changes = Changes {
            script: self,
            lines: Vec::new(),
        };
        make(&mut changes);
        let lines = changes.lines;
        self.lines.extend_from_slice(&lines);
    }

    pub fn keepalive(&mut self, lsn: Lsn) {
        ScriptLine::Keepalive { lsn }.write(&mut self.lines);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.lines
    }

    /// As a complete file.
    pub fn save(mut self, dir: &Path, name: &str) -> PathBuf {
        let end = ScriptLine::Switch {
            lsn: lsn_of(self.transactions),
            json_bytes: 0,
        };
        end.write(&mut self.lines);
        let path = dir.join(name);
        std::fs::write(&path, &self.lines).unwrap();
        path
    }

    fn statement(&mut self, sql: String, is: StatementIs, lines: &mut Vec<u8>) -> u32 {
        let next = self.statements.len() as u32 + 1;
        let known = (sql, format!("{is:?}"));
        if let Some(id) = self.statements.get(&known) {
            return *id;
        }
        let prepare = ScriptLine::Prepare {
            statement: next,
            sql: Cow::Borrowed(&known.0),
            is: Cow::Owned(is),
        };
        prepare.write(lines);
        self.statements.insert(known, next);
        next
    }
}

pub type Pair<'a> = (&'a str, Option<&'a str>);

fn names(pairs: &[Pair<'_>]) -> Vec<String> {
    pairs.iter().map(|pair| pair.0.to_owned()).collect()
}

impl Changes<'_> {
    fn add(
        &mut self,
        sql: String,
        operation: Operation,
        table: &str,
        set: &[Pair<'_>],
        find: &[Pair<'_>],
        is_key: bool,
    ) {
        let is = StatementIs {
            operation,
            schema: "public".to_owned(),
            table: table.to_owned(),
            only: sql.contains(" ONLY "),
            set: names(set),
            find: names(find),
            is_key,
            changes_key: set
                .iter()
                .any(|(name, _)| find.iter().any(|(other, _)| name == other)),
        };
        let statement = self.script.statement(sql, is, &mut self.lines);
        let values = set.iter().chain(find).map(|pair| pair.1.map(str::as_bytes));
        write_execute(statement, values, &mut self.lines);
    }

    pub fn insert(&mut self, table: &str, set: &[Pair<'_>]) {
        let columns: Vec<String> = set.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let places: Vec<String> = (1..=set.len()).map(|place| format!("${place}")).collect();
        let sql = format!(
            "INSERT INTO \"public\".\"{table}\" ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            columns.join(", "),
            places.join(", ")
        );
        self.add(sql, Operation::Insert, table, set, &[], false);
    }

    pub fn update(&mut self, table: &str, set: &[Pair<'_>], find: &[Pair<'_>]) {
        self.update_in("", table, set, find);
    }

    /// `only` is "ONLY " or nothing.
    pub fn update_in(&mut self, only: &str, table: &str, set: &[Pair<'_>], find: &[Pair<'_>]) {
        let sets: Vec<String> = set
            .iter()
            .enumerate()
            .map(|(place, (name, _))| format!("\"{name}\" = ${}", place + 1))
            .collect();
        let sql = format!(
            "UPDATE {only}\"public\".\"{table}\" SET {} WHERE {}",
            sets.join(", "),
            conditions(find, set.len())
        );
        self.add(sql, Operation::Update, table, set, find, true);
    }

    pub fn delete(&mut self, table: &str, find: &[Pair<'_>]) {
        let sql = format!(
            "DELETE FROM \"public\".\"{table}\" WHERE {}",
            conditions(find, 0)
        );
        self.add(sql, Operation::Delete, table, &[], find, true);
    }

    pub fn truncate(&mut self, tables: &[&str], restart_identity: bool) {
        let truncate = ScriptLine::Truncate {
            tables: tables
                .iter()
                .map(|table| ("public".to_owned(), (*table).to_owned()))
                .collect(),
            restart_identity,
        };
        truncate.write(&mut self.lines);
    }
}

fn conditions(find: &[Pair<'_>], before: usize) -> String {
    let conditions: Vec<String> = find
        .iter()
        .enumerate()
        .map(|(place, (name, _))| format!("\"{name}\" = ${}", before + place + 1))
        .collect();
    conditions.join(" AND ")
}
