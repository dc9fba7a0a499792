//! What the answers come to, table by table. Pure.

use serde::Serialize;

use super::answer::{Answer, Found, Row, Sum};
use super::pairs::{Obstacle, Pair};
use super::plan::totals;

/// How a table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Equal,
    Differs,
    MissingOnTarget,
    OnlyOnTarget,
    /// It could not be compared, for the reason given.
    Failed,
}

/// One side of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideReport {
    pub rows: u64,
    pub checksum: String,
}

impl From<&Sum> for SideReport {
    fn from(sum: &Sum) -> SideReport {
        SideReport {
            rows: sum.rows,
            checksum: sum.checksum(),
        }
    }
}

/// The rows that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Located {
    pub key_columns: Vec<Box<str>>,
    /// How many were found; there are more if it is not complete.
    pub count: u64,
    pub complete: bool,
    pub first_key: Vec<String>,
    pub last_key: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableReport {
    pub schema: String,
    pub table: String,
    pub status: Status,
    pub source: Option<SideReport>,
    pub target: Option<SideReport>,
    pub reason: Option<String>,
    pub differing: Option<Located>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataReport {
    pub equal: bool,
    pub tables: Vec<TableReport>,
}

impl DataReport {
    /// Say that a table could not be compared after all.
    pub fn withdraw(&mut self, at: usize, reason: String) {
        if let Some(table) = self.tables.get_mut(at) {
            table.status = Status::Failed;
            table.reason = Some(reason);
            table.differing = None;
        }
    }

    pub fn count(&self, is: impl Fn(Status) -> bool) -> usize {
        self.tables.iter().filter(|table| is(table.status)).count()
    }
}

pub fn make(pairs: &[Pair], answers: Vec<Answer>, names_rows: bool) -> DataReport {
    let totals = totals(&answers);
    let mut tables: Vec<TableReport> = pairs
        .iter()
        .enumerate()
        .map(|(number, pair)| table(pair, totals.get(&(number as u32))))
        .collect();
    for answer in answers {
        let at = answer.pair as usize;
        if let (Some(table), Some(pair)) = (tables.get_mut(at), pairs.get(at)) {
            add(table, pair, answer.found);
        }
    }
    if !names_rows {
        for found in tables
            .iter_mut()
            .filter_map(|table| table.differing.as_mut())
        {
            found.rows = Vec::new();
        }
    }
    DataReport {
        equal: tables.iter().all(|table| table.status == Status::Equal),
        tables,
    }
}

fn table(pair: &Pair, total: Option<&(Sum, Sum)>) -> TableReport {
    let (status, reason) = match (&pair.obstacle, total) {
        (Some(Obstacle::MissingOnTarget), _) => (Status::MissingOnTarget, None),
        (Some(Obstacle::OnlyOnTarget), _) => (Status::OnlyOnTarget, None),
        (Some(Obstacle::Columns(words)), _) => (Status::Differs, Some(words.clone())),
        (None, Some((ours, theirs))) if ours == theirs => (Status::Equal, None),
        (None, Some(_)) => (Status::Differs, None),
        (None, None) => (Status::Failed, None),
    };
    TableReport {
        schema: pair.name.schema.clone(),
        table: pair.name.name.clone(),
        status,
        source: total.map(|(ours, _)| ours.into()),
        target: total.map(|(_, theirs)| theirs.into()),
        reason,
        differing: None,
    }
}

fn add(table: &mut TableReport, pair: &Pair, found: Found) {
    match found {
        Found::Sums { .. } => {}
        Found::Failed { message } | Found::NotLocated { message } => {
            table.reason.get_or_insert(message);
        }
        Found::Rows { rows, is_complete } => {
            let key = |row: Option<&Row>| row.map_or(Vec::new(), |row| row.key.clone());
            table.differing = Some(Located {
                key_columns: pair.key.clone(),
                count: rows.len() as u64,
                complete: is_complete,
                first_key: key(rows.first()),
                last_key: key(rows.last()),
                rows,
            });
        }
    }
}
