//! The logical messages, the same whichever output plugin sent them. Pure.
//!
//! Made by `decode` in the receive process, one JSON line each in a segment file and on the pipe to transform, which
//! parses them again. Values are the server's text output, exact to the byte.
//!
//! ```json
//! {"action":"R","relation":1,"schema":"public","table":"t","only":false,"columns":[{"name":"id","type":"bigint","equality":"bytes"}],"key":[0],"full":false}
//! {"action":"B","xid":740}
//! {"action":"I","relation":1,"new":["1","text",null]}
//! {"action":"U","relation":1,"old":["1",false,false],"new":["2",false,null]}
//! {"action":"D","relation":1,"old":["1",false,false]}
//! {"action":"T","relations":[1,2],"restart_identity":true}
//! {"action":"C","xid":740,"lsn":"0/1A2B3C8","timestamp":"2026-11-21 07:36:18.123456+00"}
//! {"action":"K","lsn":"0/1A2B400","timestamp":"2026-11-21 07:36:19+00"}
//! ```
//!
//! A value is a JSON string, `null`, or `false` for one that was not sent. A byte that is not UTF-8 (a SQL_ASCII
//! database) is written as the lone surrogate `\udc80` .. `\udcff`, and read back as that byte.
//! "old" is there only when the plugin sent an old tuple. In a file, each relation is described (R) before its first use
//! in that file; a later R with the same number replaces it.

use std::borrow::Cow;

use crate::lsn::Lsn;

/// The number of a relation within one receive process; means something only together with the R line before it.
pub type RelationId = u32;

/// One column's value as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// The type's text output.
    Text(Cow<'a, [u8]>),
    /// In a new tuple: an unchanged TOASTed value. In an old tuple: a column that is not part of the replica identity.
    NotSent,
}

/// The values in the order of the relation's columns.
pub type Tuple<'a> = Vec<Value<'a>>;

/// How two values of a column's type can be told to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Equality {
    /// `=` holds exactly when the text is the same: integers, text with a deterministic collation, uuid, ...
    Bytes,
    /// There is a `=`, but it takes different texts for equal: numeric 1.0 and 1.00, citext, ...
    Loose,
    /// No `=`: json, xml, point, ...
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Column {
    pub name: String,
    /// As format_type() writes it with an empty search_path, without the type modifier.
    #[serde(rename = "type")]
    pub type_name: String,
    pub equality: Equality,
}

/// A table as the changes that follow see it: its columns without dropped and generated ones.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Relation {
    pub schema: String,
    pub table: String,
    /// A table with inheritance children: statements must say ONLY.
    pub only: bool,
    pub columns: Vec<Column>,
    /// Indexes into `columns`: what finds a row. The primary key if there is one and the old tuple has it, else the replica
    /// identity's index. Empty when there is neither.
    pub key: Vec<usize>,
    /// REPLICA IDENTITY FULL without a key to use instead: all columns of the old tuple find the row.
    pub full: bool,
}

/// What receive writes and transform reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogicalMessage<'a> {
    Relation {
        relation: RelationId,
        is: Cow<'a, Relation>,
    },
    Begin {
        xid: u32,
    },
    Insert {
        relation: RelationId,
        new: Tuple<'a>,
    },
    Update {
        relation: RelationId,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: RelationId,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<RelationId>,
        restart_identity: bool,
    },
    Commit {
        xid: u32,
        /// The end of the commit record.
        lsn: Lsn,
        /// In UTC, as timestamptz writes it.
        timestamp: Cow<'a, str>,
    },
    /// Everything that was committed at or before this position has been sent. Moves no position of what is applied.
    Keepalive {
        lsn: Lsn,
        timestamp: Cow<'a, str>,
    },
}
