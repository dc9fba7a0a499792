//! What a worker says of its piece of work: one line of JSON in a file of its own, read by the parent when the worker has
//! ended.

use serde::{Deserialize, Serialize};

/// Rows and the sum of their hashes. Sums of 64-bit numbers over any number of rows fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub rows: u64,
    pub sum: i128,
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// As printed: the low 64 bits.
    pub fn checksum(&self) -> String {
        format!("{:016x}", self.sum as u64)
    }
}

/// In what way a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowIs {
    /// Only on the source.
    Missing,
    /// Only on the target.
    Extra,
    Different,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The values of the key's columns.
    pub key: Vec<String>,
    pub what: RowIs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub pair: u32,
    pub found: Found,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    Sums {
        source: Sum,
        target: Sum,
    },
    /// In the order of their keys; not all of them if there are very many.
    Rows {
        rows: Vec<Row>,
        is_complete: bool,
    },
    /// They differ, but which rows could not be told.
    NotLocated {
        message: String,
    },
    /// This table could not be read; others can.
    Failed {
        message: String,
    },
}
