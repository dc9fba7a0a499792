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
//! ABORT;
//! AFTER; -- {"lsn":"0/1A2A000"}
//! KEEPALIVE; -- {"lsn":"0/1A2B400"}
//! SWITCH; -- {"lsn":"0/1A2B400","json_bytes":123456}
//! ```
//!
//! The header stands at the start of a file and of a pipe: the numbers of statements mean nothing across it. A statement
//! is prepared before its first use in each file. BEGIN has commit_lsn and timestamp when the transaction was small
//! enough for transform to have seen its end; COMMIT always has them. SWITCH is the last line of a complete file; on the
//! pipe it does not end anything. AFTER begins a file: the position that the file before it ended with. Parameters are JSON strings or null, coded as values in `message` are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::json_text;
use crate::error::{Error, ErrorKind, Result};
use crate::ident::quote_ident;
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
    /// The transaction under way is not complete: forget it. It comes again, whole.
    Abort,
    /// Everything committed at or before it came before this file: who has not seen that much has missed a file.
    After {
        lsn: Lsn,
    },
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

#[derive(Serialize, Deserialize)]
struct BeginNote<'a> {
    xid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_lsn: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct TruncateNote {
    tables: Vec<(String, String)>,
    restart_identity: bool,
}

#[derive(Serialize, Deserialize)]
struct PositionNote {
    lsn: Lsn,
}

#[derive(Serialize, Deserialize)]
struct SwitchNote {
    lsn: Lsn,
    json_bytes: u64,
}

/// Append the line `EXECUTE statement[..];`: by far the most frequent one, so it needs no `ScriptLine`.
pub fn write_execute<'a>(
    statement: StatementId,
    parameters: impl IntoIterator<Item = Option<&'a [u8]>>,
    out: &mut Vec<u8>,
) {
    write_values(statement, parameters, json_text::write, out);
}

/// The same with values that are written as JSON already.
pub fn write_execute_raw<'a>(
    statement: StatementId,
    parameters: impl IntoIterator<Item = Option<&'a [u8]>>,
    out: &mut Vec<u8>,
) {
    write_values(statement, parameters, json_text::write_raw, out);
}

fn write_values<'a>(
    statement: StatementId,
    parameters: impl IntoIterator<Item = Option<&'a [u8]>>,
    write: fn(&[u8], &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"EXECUTE ");
    json_text::write_number(statement, out);
    let mut before = b'[';
    for parameter in parameters {
        out.push(before);
        before = b',';
        match parameter {
            Some(text) => write(text, out),
            None => out.extend_from_slice(b"null"),
        }
    }
    if before == b'[' {
        out.push(b'[');
    }
    out.extend_from_slice(b"];\n");
}

impl ScriptLine<'_> {
    /// Append the line with its line break.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            ScriptLine::Header => {
                out.extend_from_slice(HEADER.as_bytes());
                out.push(b'\n');
            }
            ScriptLine::Prepare { statement, sql, is } => {
                let beginning = format!("PREPARE {statement} AS {sql}");
                write_noted(&beginning, is.as_ref(), out);
            }
            ScriptLine::Begin { xid, commit } => {
                let note = BeginNote {
                    xid: *xid,
                    commit_lsn: commit.as_ref().map(|commit| commit.commit_lsn),
                    timestamp: commit.as_ref().map(|commit| commit.timestamp.clone()),
                };
                write_noted("BEGIN", &note, out);
            }
            ScriptLine::Execute {
                statement,
                parameters,
            } => write_execute(*statement, parameters.iter().map(Option::as_deref), out),
            ScriptLine::Truncate {
                tables,
                restart_identity,
            } => {
                let note = TruncateNote {
                    tables: tables.clone(),
                    restart_identity: *restart_identity,
                };
                write_noted("TRUNCATE", &note, out);
            }
            ScriptLine::Commit(commit) => write_noted("COMMIT", commit, out),
            ScriptLine::Abort => out.extend_from_slice(b"ABORT;\n"),
            ScriptLine::After { lsn } => write_noted("AFTER", &PositionNote { lsn: *lsn }, out),
            ScriptLine::Keepalive { lsn } => {
                write_noted("KEEPALIVE", &PositionNote { lsn: *lsn }, out);
            }
            ScriptLine::Switch { lsn, json_bytes } => {
                let note = SwitchNote {
                    lsn: *lsn,
                    json_bytes: *json_bytes,
                };
                write_noted("SWITCH", &note, out);
            }
        }
    }
}

/// `beginning; -- {note}`.
fn write_noted(beginning: &str, note: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(beginning.as_bytes());
    out.extend_from_slice(NOTE.as_bytes());
    let text = serde_json::to_vec(note).expect("strings and numbers always make JSON");
    out.extend_from_slice(&text);
    out.push(b'\n');
}

/// Between a statement and the JSON that says what it is.
const NOTE: &str = "; -- ";

fn malformed(line: &[u8]) -> Error {
    let start = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
    Error::new(
        ErrorKind::Protocol,
        format!("malformed script line \"{}\"", start.escape_debug()),
    )
}

impl<'a> ScriptLine<'a> {
    /// Read one line, given without its line break. Errors: `Protocol`, with the beginning of the line.
    pub fn parse(line: &'a [u8]) -> Result<ScriptLine<'a>> {
        if let Some(rest) = line.strip_prefix(b"EXECUTE ") {
            return parse_execute(rest).ok_or_else(|| malformed(line))?;
        }
        let text = std::str::from_utf8(line).map_err(|_| malformed(line))?;
        parse_other(text).ok_or_else(|| malformed(line))
    }
}

/// The statement of an EXECUTE line, without a look at its parameters.
pub fn statement_of(line: &[u8]) -> Option<StatementId> {
    let (statement, _) = json_text::read_number(line.strip_prefix(b"EXECUTE ")?)?;
    Some(statement)
}

fn parse_execute(rest: &[u8]) -> Option<Result<ScriptLine<'_>>> {
    let (statement, mut rest) = json_text::read_number(rest)?;
    let mut parameters = Vec::new();
    rest = rest.strip_prefix(b"[")?;
    if rest != b"];" {
        loop {
            if let Some(after) = rest.strip_prefix(b"null") {
                parameters.push(None);
                rest = after;
            } else {
                match json_text::read(rest) {
                    Ok((value, after)) => {
                        parameters.push(Some(value));
                        rest = after;
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            match rest {
                b"];" => break,
                [b',', after @ ..] => rest = after,
                _ => return None,
            }
        }
    }
    Some(Ok(ScriptLine::Execute {
        statement,
        parameters,
    }))
}

fn parse_other(text: &str) -> Option<ScriptLine<'_>> {
    if text == HEADER {
        return Some(ScriptLine::Header);
    }
    if text == "ABORT;" {
        return Some(ScriptLine::Abort);
    }
    if let Some(rest) = text.strip_prefix("PREPARE ") {
        let (statement, rest) = rest.split_once(" AS ")?;
        let (sql, note) = split_note(rest)?;
        return Some(ScriptLine::Prepare {
            statement: statement.parse().ok()?,
            sql: Cow::Borrowed(sql),
            is: Cow::Owned(serde_json::from_str(note).ok()?),
        });
    }
    let (word, note) = text.split_once(NOTE)?;
    match word {
        "BEGIN" => {
            let note: BeginNote<'_> = serde_json::from_str(note).ok()?;
            let commit = match (note.commit_lsn, note.timestamp) {
                (Some(commit_lsn), Some(timestamp)) => Some(CommitIs {
                    xid: note.xid,
                    commit_lsn,
                    timestamp,
                }),
                (None, None) => None,
                _ => return None,
            };
            Some(ScriptLine::Begin {
                xid: note.xid,
                commit,
            })
        }
        "COMMIT" => Some(ScriptLine::Commit(serde_json::from_str(note).ok()?)),
        "TRUNCATE" => {
            let note: TruncateNote = serde_json::from_str(note).ok()?;
            Some(ScriptLine::Truncate {
                tables: note.tables,
                restart_identity: note.restart_identity,
            })
        }
        "AFTER" => {
            let note: PositionNote = serde_json::from_str(note).ok()?;
            Some(ScriptLine::After { lsn: note.lsn })
        }
        "KEEPALIVE" => {
            let note: PositionNote = serde_json::from_str(note).ok()?;
            Some(ScriptLine::Keepalive { lsn: note.lsn })
        }
        "SWITCH" => {
            let note: SwitchNote = serde_json::from_str(note).ok()?;
            Some(ScriptLine::Switch {
                lsn: note.lsn,
                json_bytes: note.json_bytes,
            })
        }
        _ => None,
    }
}

/// Split before the note: the first `; -- ` outside of quoted identifiers. Our statements hold no other quotes.
fn split_note(text: &str) -> Option<(&str, &str)> {
    let mut is_quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b';' if !is_quoted => {
                let note = text[at..].strip_prefix(NOTE)?;
                return Some((&text[..at], note));
            }
            _ => {}
        }
    }
    None
}

/// Quote an identifier so that it stays on its line: control characters as Unicode escapes.
pub fn quote_on_one_line(name: &str) -> String {
    if !name.contains(|c: char| c.is_control()) {
        return quote_ident(name);
    }
    let mut quoted = String::from("U&\"");
    for c in name.chars() {
        match c {
            '"' => quoted.push_str("\"\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(line: &ScriptLine<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        line.write(&mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    fn commit(xid: u32, lsn: u64, timestamp: String) -> CommitIs<'static> {
        CommitIs {
            xid,
            commit_lsn: Lsn(lsn),
            timestamp: Cow::Owned(timestamp),
        }
    }

    #[test]
    fn lines_look_as_documented() {
        let line = ScriptLine::Execute {
            statement: 3,
            parameters: vec![Some(Cow::Borrowed(b"a\"b")), None],
        };
        assert_eq!(written(&line), br#"EXECUTE 3["a\"b",null];"#);
        assert_eq!(statement_of(&written(&line)), Some(3));
        let none = ScriptLine::Execute {
            statement: 4_294_967_295,
            parameters: Vec::new(),
        };
        assert_eq!(written(&none), b"EXECUTE 4294967295[];");
        let line = ScriptLine::Commit(commit(7, 0x1A2B, "2026-11-21 07:36:18+00".into()));
        let text =
            r#"COMMIT; -- {"xid":7,"commit_lsn":"0/1A2B","timestamp":"2026-11-21 07:36:18+00"}"#;
        assert_eq!(written(&line), text.as_bytes());
        assert_eq!(quote_on_one_line("a\nb\"\\"), "U&\"a\\000Ab\"\"\\\\\"");
    }

    fn lines() -> impl Strategy<Value = ScriptLine<'static>> {
        let parameter = proptest::option::of(any::<Vec<u8>>().prop_map(Cow::Owned));
        let execute = (any::<u32>(), proptest::collection::vec(parameter, 0..4)).prop_map(
            |(statement, parameters)| ScriptLine::Execute {
                statement,
                parameters,
            },
        );
        let prepare = (any::<u32>(), ".*", ".*", any::<bool>()).prop_map(
            |(statement, schema, table, only)| ScriptLine::Prepare {
                statement,
                sql: Cow::Owned(format!(
                    "DELETE FROM {}.{} WHERE {} = $1",
                    quote_on_one_line(&schema),
                    quote_on_one_line(&table),
                    quote_on_one_line(&table)
                )),
                is: Cow::Owned(StatementIs {
                    operation: Operation::Delete,
                    schema,
                    table: table.clone(),
                    only,
                    set: Vec::new(),
                    find: vec![table],
                    is_key: !only,
                    changes_key: only,
                }),
            },
        );
        let begin = (any::<u32>(), proptest::option::of((any::<u64>(), ".*"))).prop_map(
            |(xid, commit_is)| ScriptLine::Begin {
                xid,
                commit: commit_is.map(|(lsn, timestamp)| commit(xid, lsn, timestamp)),
            },
        );
        let end = (any::<u32>(), any::<u64>(), ".*")
            .prop_map(|(xid, lsn, timestamp)| ScriptLine::Commit(commit(xid, lsn, timestamp)));
        let tables = proptest::collection::vec((".*", ".*"), 0..3);
        let truncate =
            (tables, any::<bool>()).prop_map(|(tables, restart_identity)| ScriptLine::Truncate {
                tables,
                restart_identity,
            });
        let switch = any::<(u64, u64)>().prop_map(|(lsn, json_bytes)| ScriptLine::Switch {
            lsn: Lsn(lsn),
            json_bytes,
        });
        let keepalive = any::<u64>().prop_map(|lsn| ScriptLine::Keepalive { lsn: Lsn(lsn) });
        let after = any::<u64>().prop_map(|lsn| ScriptLine::After { lsn: Lsn(lsn) });
        let fixed = prop_oneof![Just(ScriptLine::Header), Just(ScriptLine::Abort)];
        prop_oneof![
            execute, prepare, begin, end, truncate, switch, after, keepalive, fixed
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(line in lines()) {
            let text = written(&line);
            prop_assert!(!text.contains(&b'\n'));
            prop_assert_eq!(ScriptLine::parse(&text).unwrap(), line);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, word in "(EXECUTE 1\\[|PREPARE 1 AS |BEGIN; -- |TRUNCATE; -- )") {
            let _ = ScriptLine::parse(&bytes);
            let _ = ScriptLine::parse(&[word.as_bytes(), &bytes].concat());
        }
    }
}
