//! The script: what the apply process runs, in `.sql` files and on the pipe from transform. One line each; the grammar
//! is ours, and this file alone writes and reads it. Pure.
//!
//! ```text
//! -- pgcopydb script 1
//! PREPARE 3 AS UPDATE "public"."t" SET "v" = $1 WHERE "id" = $2; -- {"op":"update","schema":"public","table":"t",..}
//! BEGIN; -- {"xid":740,"commit_lsn":"0/1A2B3C8","timestamp":"2026-11-21 07:36:18.123456+00"}
//! EXECUTE 3["text","1"];
//! TRUNCATE; -- {"tables":[["public","t"]],"restart_identity":false}
//! COMMIT; -- {"xid":740,"commit_lsn":"0/1A2B3C8","timestamp":"2026-11-21 07:36:18.123456+00"}
//! KEEPALIVE; -- {"lsn":"0/1A2B400"}
//! SWITCH; -- {"lsn":"0/1A2B400","json_bytes":123456}
//! ```
//!
//! The header stands at the start of a file and of a pipe: the numbers of statements mean nothing across it. A statement
//! is prepared before its first use in each file. BEGIN has commit_lsn and timestamp when the transaction was small
//! enough for transform to have seen its end; COMMIT always has them. SWITCH is the last line of a complete file; on the
//! pipe it does not end anything. Parameters are JSON strings or null, coded as values in `message` are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// The first line of every script.
pub const HEADER: &str = "-- pgcopydb script 1";

/// The number of a prepared statement within one script.
pub type StatementId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// What a statement does, so that rows can be regrouped without reading SQL. Its parameters are first the values of
/// `set` in this order, then those of `find` (for an insert there is no `find`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementIs {
    #[serde(rename = "op")]
    pub operation: Operation,
    pub schema: String,
    pub table: String,
    /// A table with inheritance children: statements must say ONLY.
    pub only: bool,
    /// Columns that get a value.
    pub set: Vec<String>,
    /// Columns that find the row.
    pub find: Vec<String>,
    /// Whether `find` is a key whose values are the same exactly when their bytes are, so that rows may be grouped by it. Not
    /// so under REPLICA IDENTITY FULL without a key.
    pub is_key: bool,
    /// An update that gives a column of `find` another value.
    pub changes_key: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitIs<'a> {
    pub xid: u32,
    /// The end of the commit record.
    pub commit_lsn: Lsn,
    pub timestamp: Cow<'a, str>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptLine<'a> {
    Header,
    Prepare {
        statement: StatementId,
        sql: Cow<'a, str>,
        is: Cow<'a, StatementIs>,
    },
    Begin {
        xid: u32,
        /// `None` for a transaction so large that its end was not known yet.
        commit: Option<CommitIs<'a>>,
    },
    /// `None` is NULL.
    Execute {
        statement: StatementId,
        parameters: Vec<Option<Cow<'a, [u8]>>>,
    },
    /// In the source's list; apply says ONLY where the target's table allows it.
    Truncate {
        tables: Vec<(String, String)>,
        restart_identity: bool,
    },
    Commit(CommitIs<'a>),
    /// Everything committed at or before it came before this line.
    Keepalive {
        lsn: Lsn,
    },
    /// The end of a complete file, made from so many bytes of JSON; its last position.
    Switch {
        lsn: Lsn,
        json_bytes: u64,
    },
}
