//! The logical messages, the same whichever output plugin sent them. Pure.
//!
//! Made by `decode` in the receive process, one JSON line each in a segment file and on the pipe to transform, which
//! parses them again. Values are the server's text output, exact to the byte.
//!
//! ```json
//! {"action":"S","lsn":"0/1A2A000"}
//! {"action":"R","relation":1,"schema":"public","table":"t","only":false,"columns":[{"name":"id","type":"bigint","equality":"bytes"}],"key":[0],"full":false}
//! {"action":"B","xid":740}
//! {"action":"I","relation":1,"new":["1","text",null]}
//! {"action":"U","relation":1,"old":["1",false,false],"new":["2",false,null]}
//! {"action":"D","relation":1,"old":["1",false,false]}
//! {"action":"T","relations":[1,2],"restart_identity":true}
//! {"action":"C","xid":740,"lsn":"0/1A2B3C8","timestamp":"2026-11-21 07:36:18.123456+00"}
//! {"action":"K","lsn":"0/1A2B400"}
//! ```
//!
//! On the pipe only: which file the lines that follow are from, and that the transaction under way must be forgotten.
//!
//! ```json
//! {"action":"F","file":"000000010000000000000001","offset":1234,"lsn":"0/1A2B3C8"}
//! {"action":"X"}
//! ```
//!
//! A value is a JSON string, `null`, or `false` for one that was not sent. A byte that is not UTF-8 (a SQL_ASCII
//! database) is written as the lone surrogate `\udc80` .. `\udcff`, and read back as that byte.
//! S is the first line of a file: the position that the file before it ends with, so that a file that is missing is noticed.
//! "old" is there only when the plugin sent an old tuple. In a file, each relation is described (R) before its first use
//! in that file; a later R with the same number replaces it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::json_text;
use crate::error::{Error, ErrorKind, Result};
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
    /// As format_type(oid, -1) writes it with an empty search_path: "bpchar", where "character" would mean one character.
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
    /// Indexes into `columns`: what finds a row. The replica identity's columns; under FULL, where all old values are sent,
    /// those of the primary key or of another unique key. Empty when there is none.
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
    },
    /// A file begins, after this position.
    Start {
        lsn: Lsn,
    },
    /// The lines that follow are from this segment file (its name without ending), from this byte on. In the middle of a file,
    /// everything that was committed at or before this position comes before them.
    File {
        name: Cow<'a, str>,
        offset: u64,
        lsn: Lsn,
    },
    /// The transaction under way is not complete: it comes again, whole.
    Abort,
}

/// The lines that are rare enough for a general parser.
#[derive(Serialize, Deserialize)]
#[serde(tag = "action")]
enum Rare<'a> {
    R {
        relation: RelationId,
        #[serde(flatten)]
        is: Cow<'a, Relation>,
    },
    T {
        relations: Vec<RelationId>,
        restart_identity: bool,
    },
    C {
        xid: u32,
        lsn: Lsn,
        timestamp: Cow<'a, str>,
    },
    K {
        lsn: Lsn,
    },
    S {
        lsn: Lsn,
    },
    F {
        file: Cow<'a, str>,
        offset: u64,
        lsn: Lsn,
    },
    X,
}

impl LogicalMessage<'_> {
    /// Append the message as one line, with its line break.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            LogicalMessage::Begin { xid } => {
                out.extend_from_slice(b"{\"action\":\"B\",\"xid\":");
                json_text::write_number(*xid, out);
            }
            LogicalMessage::Insert { relation, new } => {
                write_change(b'I', *relation, out);
                write_tuple("new", new, out);
            }
            LogicalMessage::Update { relation, old, new } => {
                write_change(b'U', *relation, out);
                if let Some(old) = old {
                    write_tuple("old", old, out);
                }
                write_tuple("new", new, out);
            }
            LogicalMessage::Delete { relation, old } => {
                write_change(b'D', *relation, out);
                write_tuple("old", old, out);
            }
            rare => {
                let text = serde_json::to_vec(&rare.as_rare())
                    .expect("names and numbers always make JSON");
                out.extend_from_slice(&text);
                out.push(b'\n');
                return;
            }
        }
        out.extend_from_slice(b"}\n");
    }

    fn as_rare(&self) -> Rare<'_> {
        match self {
            LogicalMessage::Relation { relation, is } => Rare::R {
                relation: *relation,
                is: Cow::Borrowed(is),
            },
            LogicalMessage::Truncate {
                relations,
                restart_identity,
            } => Rare::T {
                relations: relations.clone(),
                restart_identity: *restart_identity,
            },
            LogicalMessage::Commit {
                xid,
                lsn,
                timestamp,
            } => Rare::C {
                xid: *xid,
                lsn: *lsn,
                timestamp: Cow::Borrowed(timestamp),
            },
            LogicalMessage::Keepalive { lsn } => Rare::K { lsn: *lsn },
            LogicalMessage::Start { lsn } => Rare::S { lsn: *lsn },
            LogicalMessage::File { name, offset, lsn } => Rare::F {
                file: Cow::Borrowed(name),
                offset: *offset,
                lsn: *lsn,
            },
            LogicalMessage::Abort
            | LogicalMessage::Begin { .. }
            | LogicalMessage::Insert { .. }
            | LogicalMessage::Update { .. }
            | LogicalMessage::Delete { .. } => Rare::X,
        }
    }
}

fn write_change(action: u8, relation: RelationId, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"action\":\"");
    out.push(action);
    out.extend_from_slice(b"\",\"relation\":");
    json_text::write_number(relation, out);
}

fn write_tuple(name: &str, tuple: &Tuple<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":[");
    for (index, value) in tuple.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::NotSent => out.extend_from_slice(b"false"),
            Value::Text(text) => json_text::write(text, out),
        }
    }
    out.push(b']');
}

fn malformed(line: &[u8]) -> Error {
    let start = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
    Error::new(
        ErrorKind::Protocol,
        format!("malformed message \"{}\"", start.escape_debug()),
    )
}

impl<'a> LogicalMessage<'a> {
    /// Read one line, given without its line break. Errors: `Protocol`, with the beginning of the line.
    pub fn parse_json(line: &'a [u8]) -> Result<LogicalMessage<'a>> {
        LogicalMessage::parse(line, read_value)
    }

    /// The same, with values as they are written there, escapes and all: for transform, which only passes them on. That saves a
    /// copy of each value, which may be most of a gigabyte.
    pub fn parse_json_raw(line: &'a [u8]) -> Result<LogicalMessage<'a>> {
        LogicalMessage::parse(line, read_raw_value)
    }

    fn parse(line: &'a [u8], read: ReadValue) -> Result<LogicalMessage<'a>> {
        let frequent = line.strip_prefix(b"{\"action\":\"").and_then(|rest| {
            let (action, rest) = rest.split_first()?;
            let rest = rest.strip_prefix(b"\",")?;
            match action {
                b'I' | b'U' | b'D' => Some(parse_change(*action, rest, read)),
                b'B' => Some(parse_begin(rest)),
                _ => None,
            }
        });
        match frequent {
            Some(message) => message.ok_or_else(|| malformed(line)),
            None => parse_rare(line).ok_or_else(|| malformed(line)),
        }
    }
}

/// How a string is read: the value, and what comes after it.
type ReadValue = fn(&[u8]) -> Option<(Value<'_>, &[u8])>;

fn read_value(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (value, after) = json_text::read(text).ok()?;
    Some((Value::Text(value), after))
}

fn read_raw_value(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (raw, after) = json_text::read_raw(text).ok()?;
    Some((Value::Text(Cow::Borrowed(raw)), after))
}

fn parse_begin(rest: &[u8]) -> Option<LogicalMessage<'_>> {
    let (xid, rest) = json_text::read_number(rest.strip_prefix(b"\"xid\":")?)?;
    (rest == b"}").then_some(LogicalMessage::Begin { xid })
}

fn parse_change(action: u8, rest: &[u8], read: ReadValue) -> Option<LogicalMessage<'_>> {
    let (relation, rest) = json_text::read_number(rest.strip_prefix(b"\"relation\":")?)?;
    let (old, rest) = match rest.strip_prefix(b",\"old\":[") {
        Some(rest) => {
            let (old, rest) = parse_tuple(rest, read)?;
            (Some(old), rest)
        }
        None => (None, rest),
    };
    let (new, rest) = match rest.strip_prefix(b",\"new\":[") {
        Some(rest) => {
            let (new, rest) = parse_tuple(rest, read)?;
            (Some(new), rest)
        }
        None => (None, rest),
    };
    if rest != b"}" {
        return None;
    }
    match (action, old, new) {
        (b'I', None, Some(new)) => Some(LogicalMessage::Insert { relation, new }),
        (b'U', old, Some(new)) => Some(LogicalMessage::Update { relation, old, new }),
        (b'D', Some(old), None) => Some(LogicalMessage::Delete { relation, old }),
        _ => None,
    }
}

const USUAL_COLUMNS: usize = 8;

/// What comes after `[`, up to and with `]`.
fn parse_tuple(rest: &[u8], read: ReadValue) -> Option<(Tuple<'_>, &[u8])> {
    // As many columns as most tables have: growing step by step would cost as much as parsing.
    let mut tuple = Vec::with_capacity(USUAL_COLUMNS);
    if let Some(rest) = rest.strip_prefix(b"]") {
        return Some((tuple, rest));
    }
    let mut rest = rest;
    loop {
        let (value, after) = match rest.first()? {
            b'"' => read(rest)?,
            b'n' => (Value::Null, rest.strip_prefix(b"null")?),
            _ => (Value::NotSent, rest.strip_prefix(b"false")?),
        };
        tuple.push(value);
        match after.split_first()? {
            (b',', after) => rest = after,
            (b']', after) => return Some((tuple, after)),
            _ => return None,
        }
    }
}

fn parse_rare(line: &[u8]) -> Option<LogicalMessage<'_>> {
    let message = match serde_json::from_slice(line).ok()? {
        Rare::R { relation, is } => LogicalMessage::Relation { relation, is },
        Rare::T {
            relations,
            restart_identity,
        } => LogicalMessage::Truncate {
            relations,
            restart_identity,
        },
        Rare::C {
            xid,
            lsn,
            timestamp,
        } => LogicalMessage::Commit {
            xid,
            lsn,
            timestamp,
        },
        Rare::K { lsn } => LogicalMessage::Keepalive { lsn },
        Rare::S { lsn } => LogicalMessage::Start { lsn },
        Rare::F { file, offset, lsn } => LogicalMessage::File {
            name: file,
            offset,
            lsn,
        },
        Rare::X => LogicalMessage::Abort,
    };
    Some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(message: &LogicalMessage<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        message.write_json(&mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[test]
    fn lines_look_as_documented() {
        let relation = Relation {
            schema: "public".into(),
            table: "t".into(),
            only: false,
            columns: vec![Column {
                name: "id".into(),
                type_name: "bigint".into(),
                equality: Equality::Bytes,
            }],
            key: vec![0],
            full: false,
        };
        let text = r#"{"action":"R","relation":1,"schema":"public","table":"t","only":false,"columns":[{"name":"id","type":"bigint","equality":"bytes"}],"key":[0],"full":false}"#;
        let described = LogicalMessage::Relation {
            relation: 1,
            is: Cow::Owned(relation),
        };
        assert_eq!(String::from_utf8(line(&described)).unwrap(), text);
        let update = LogicalMessage::Update {
            relation: 1,
            old: Some(vec![Value::Text(Cow::Borrowed(b"1")), Value::NotSent]),
            new: vec![Value::Text(Cow::Borrowed(b"2")), Value::Null],
        };
        let text = r#"{"action":"U","relation":1,"old":["1",false],"new":["2",null]}"#;
        assert_eq!(String::from_utf8(line(&update)).unwrap(), text);
        assert_eq!(line(&LogicalMessage::Abort), br#"{"action":"X"}"#);
    }

    fn tuples() -> impl Strategy<Value = Tuple<'static>> {
        let value = prop_oneof![
            Just(Value::Null),
            Just(Value::NotSent),
            any::<Vec<u8>>().prop_map(|bytes| Value::Text(Cow::Owned(bytes))),
        ];
        proptest::collection::vec(value, 0..4)
    }

    fn messages() -> impl Strategy<Value = LogicalMessage<'static>> {
        let id = any::<u32>;
        let text = || ".*".prop_map(Cow::<str>::Owned);
        let lsn = || any::<u64>().prop_map(Lsn);
        let relations = proptest::collection::vec(id(), 0..3);
        prop_oneof![
            id().prop_map(|xid| LogicalMessage::Begin { xid }),
            (id(), tuples()).prop_map(|(relation, new)| LogicalMessage::Insert { relation, new }),
            (id(), proptest::option::of(tuples()), tuples())
                .prop_map(|(relation, old, new)| LogicalMessage::Update { relation, old, new }),
            (id(), tuples()).prop_map(|(relation, old)| LogicalMessage::Delete { relation, old }),
            (relations, any::<bool>()).prop_map(|(relations, restart_identity)| {
                LogicalMessage::Truncate {
                    relations,
                    restart_identity,
                }
            }),
            (id(), lsn(), text()).prop_map(|(xid, lsn, timestamp)| LogicalMessage::Commit {
                xid,
                lsn,
                timestamp
            }),
            lsn().prop_map(|lsn| LogicalMessage::Keepalive { lsn }),
            lsn().prop_map(|lsn| LogicalMessage::Start { lsn }),
            (text(), any::<u64>(), lsn()).prop_map(|(name, offset, lsn)| LogicalMessage::File {
                name,
                offset,
                lsn
            }),
            Just(LogicalMessage::Abort),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in messages()) {
            let text = line(&message);
            prop_assert!(!text.contains(&b'\n'));
            prop_assert!(std::str::from_utf8(&text).is_ok());
            prop_assert_eq!(LogicalMessage::parse_json(&text).unwrap(), message);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, action in "[BIUDRTCKSFX]") {
            let _ = LogicalMessage::parse_json(&bytes);
            let beginning = format!("{{\"action\":\"{action}\",\"relation\":1,\"new\":[");
            let _ = LogicalMessage::parse_json(&[beginning.as_bytes(), &bytes].concat());
        }
    }
}
