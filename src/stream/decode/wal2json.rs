//! wal2json, format version 2: one JSON object a message to logical messages. Runs in the receive process.
//!
//! What it sends and what that means (seen with 2.5; 2.6 adds numeric-data-types-as-string):
//! - A new tuple lacks the columns whose TOASTed value did not change. An old tuple ("identity") has the columns of the
//!   replica identity only. Both are `NotSent` here. NULLs are always written.
//! - Every UPDATE has an old tuple, made from the new one when the key did not change: then it says nothing and is left
//!   out, except for tables where all columns find the row.
//! - A TRUNCATE of several tables comes as one message each, at the same position: they are put together again, since
//!   tables with foreign keys between them can only be emptied together. RESTART IDENTITY is not sent.
//! - bytea has no `\x` (an array or a domain of it has). boolean is JSON's. Numbers are printed as the server does, and
//!   never pass through a double here; but without numeric-data-types-as-string, which we always ask for where it is
//!   known, NaN and the infinities are sent as null. Then a null in such a column is an error: it could be either.
//! - An UPDATE or DELETE of a table without replica identity is left out by the plugin with a warning in the server's log:
//!   setup must refuse such tables.

use std::borrow::Cow;

use super::by_name::{self, Pairs};
use super::json_scan::{Scalar, Scan};
use super::{Decoder, Sink, malformed, truncate};
use crate::error::{Error, Result, ServerError, Side};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::wire::Connection;
use crate::stream::message::{LogicalMessage, RelationId, Tuple, Value};
use crate::stream::relations::{Known, Relations};

/// The option that keeps NaN and the infinities apart from NULL. An older plugin refuses to start with it.
const NUMERIC_AS_STRING: &str = "numeric-data-types-as-string";

/// What an older plugin answers to it: invalid_parameter_value.
const UNKNOWN_OPTION: &str = "22023";

/// Whether NULL and NaN look the same in a column of this type (as format_type() names it) when numbers are not sent as
/// strings. Domains over these types, arrays and ranges of them are sent as strings by every version.
pub fn is_ambiguous_without_strings(type_name: &str) -> bool {
    matches!(type_name, "real" | "double precision" | "numeric")
}

/// Ask the plugin behind an existing slot that nobody uses. Reads one WAL record and moves nothing.
pub fn supports_numeric_as_string(connection: &mut Connection, slot: &str) -> Result<bool> {
    let slot = quote_literal(slot);
    // A limit in the past ends the decoding after the first record.
    let peek = format!(
        "SELECT FROM pg_catalog.pg_logical_slot_peek_binary_changes({slot}, '0/1', NULL, \
         'format-version', '2', '{NUMERIC_AS_STRING}', '1')"
    );
    match connection.execute(&peek) {
        Ok(_) => Ok(true),
        Err(error) if is_unknown_option(&error) => Ok(false),
        Err(error) => Err(error.context(format_args!(
            "could not ask output plugin \"wal2json\" of slot {slot} for its options"
        ))),
    }
}

/// Whether a server's error says that its wal2json does not know how to send numbers as strings.
pub fn is_unknown_option(error: &Error) -> bool {
    let says_so = |server: &ServerError| {
        server.sqlstate == UNKNOWN_OPTION && server.message.contains(NUMERIC_AS_STRING)
    };
    error.server_error().is_some_and(says_so)
}

pub struct Wal2json {
    is_numeric_as_string: bool,
    /// Tables of a TRUNCATE whose last message may not have come yet, and its position.
    truncated: Option<(Lsn, Vec<RelationId>)>,
    /// For the option filter-tables.
    left_out: String,
}

/// More than this is not told to the plugin, which compares each change with each name; it is skipped here all the same.
const MOST_LEFT_OUT: usize = 1000;

/// One message as it came.
#[derive(Default)]
struct Sent<'a> {
    action: Cow<'a, str>,
    xid: Option<u32>,
    timestamp: Option<Cow<'a, str>>,
    schema: Cow<'a, str>,
    table: Cow<'a, str>,
    columns: Option<Pairs<'a>>,
    identity: Option<Pairs<'a>>,
    /// A column whose null may be NaN.
    ambiguous: Option<Cow<'a, str>>,
}

impl Default for Wal2json {
    fn default() -> Wal2json {
        Wal2json {
            is_numeric_as_string: true,
            truncated: None,
            left_out: "pgcopydb.*".to_owned(),
        }
    }
}

/// What the plugin's list syntax would read as something else has a backslash before it.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if matches!(character, ' ' | '\'' | ',' | '.' | '*' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

impl Wal2json {
    /// `skipped` tables, by schema and name, need not be sent.
    pub fn new(skipped: &[(&str, &str)]) -> Wal2json {
        let mut decoder = Wal2json::default();
        if skipped.len() <= MOST_LEFT_OUT {
            for (schema, table) in skipped {
                let name = format!(",{}.{}", escaped(schema), escaped(table));
                decoder.left_out.push_str(&name);
            }
        }
        decoder
    }

    fn pass_on(
        &mut self,
        sent: Sent<'_>,
        start: Lsn,
        relations: &mut Relations,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        if sent.action == "T" {
            return self.truncate(&sent, start, relations, sink);
        }
        self.flush_truncate(relations, sink)?;
        let xid = sent.xid.ok_or_else(|| malformed("no xid"));
        match sent.action.as_ref() {
            "B" => sink(&LogicalMessage::Begin { xid: xid? }, relations),
            "C" => {
                let timestamp = sent.timestamp.ok_or_else(|| malformed("no timestamp"))?;
                let message = LogicalMessage::Commit {
                    xid: xid?,
                    lsn: start,
                    timestamp,
                };
                sink(&message, relations)
            }
            "I" | "U" | "D" => self.change(sent, relations, sink),
            // pg_logical_emit_message().
            "M" => Ok(()),
            _ => Err(malformed(format_args!(
                "unknown action \"{}\"",
                sent.action.escape_debug()
            ))),
        }
    }

    fn change(&self, sent: Sent<'_>, relations: &mut Relations, sink: &mut Sink<'_>) -> Result<()> {
        let (schema, table) = (&sent.schema, &sent.table);
        let pairs = sent.columns.as_ref().or(sent.identity.as_ref());
        let names = pairs.into_iter().flatten().map(|(name, _)| name.as_ref());
        let names: Vec<&str> = names.collect();
        let Known::Table(id) = relations.resolve(schema, table, &names)? else {
            return Ok(());
        };
        if let Some(column) = &sent.ambiguous {
            return Err(null_or_nan(schema, table, column));
        }
        let new = sent.columns.as_ref();
        let new = new.map(|pairs| by_name::tuple(relations, id, pairs, &Value::NotSent));
        let old = sent.identity.as_ref();
        let old = old.map(|pairs| by_name::tuple(relations, id, pairs, &Value::NotSent));
        let message = match (sent.action.as_ref(), old, new) {
            ("I", _, Some(new)) => LogicalMessage::Insert { relation: id, new },
            ("U", old, Some(new)) => {
                let key = &relations.relation(id).key;
                let old = old.filter(|old| !is_repeated_key(key, old, &new));
                let relation = old
                    .as_ref()
                    .map_or(id, |old| by_name::found_by(relations, id, old));
                LogicalMessage::Update { relation, old, new }
            }
            ("D", Some(old), _) => LogicalMessage::Delete {
                relation: by_name::found_by(relations, id, &old),
                old,
            },
            _ => return Err(malformed("a change without its row")),
        };
        sink(&message, relations)
    }

    /// Gather the tables of one TRUNCATE, which have one position in the log.
    fn truncate(
        &mut self,
        sent: &Sent<'_>,
        start: Lsn,
        relations: &mut Relations,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        if self.truncated.as_ref().is_some_and(|(at, _)| *at != start) {
            self.flush_truncate(relations, sink)?;
        }
        let (_, gathered) = self.truncated.get_or_insert((start, Vec::new()));
        if let Known::Table(id) = relations.resolve(&sent.schema, &sent.table, &[])? {
            gathered.push(id);
        }
        Ok(())
    }

    fn flush_truncate(&mut self, relations: &Relations, sink: &mut Sink<'_>) -> Result<()> {
        match self.truncated.take() {
            Some((_, tables)) => truncate(tables, false, relations, sink),
            None => Ok(()),
        }
    }

    fn read<'a>(&self, payload: &'a [u8]) -> Result<Sent<'a>> {
        let mut sent = Sent::default();
        let mut ambiguous = None;
        let mut scan = Scan::new(payload);
        scan.object(&mut |field, scan| {
            match field {
                b"action" => sent.action = scan.text()?,
                b"xid" => sent.xid = scan.number()?,
                b"timestamp" => sent.timestamp = scan.text_or_null()?,
                b"schema" => sent.schema = scan.text()?,
                b"table" => sent.table = scan.text()?,
                b"columns" => sent.columns = Some(self.pairs(scan, &mut ambiguous)?),
                b"identity" => sent.identity = Some(self.pairs(scan, &mut ambiguous)?),
                _ => scan.skip()?,
            }
            Ok(())
        })?;
        scan.end()?;
        sent.ambiguous = ambiguous;
        Ok(sent)
    }

    fn pairs<'a>(
        &self,
        scan: &mut Scan<'a>,
        ambiguous: &mut Option<Cow<'a, str>>,
    ) -> Result<Pairs<'a>> {
        let mut pairs = Pairs::new();
        scan.array(&mut |scan| {
            let (mut name, mut type_name, mut value) = (None, Cow::Borrowed(""), None);
            scan.object(&mut |field, scan| {
                match field {
                    b"name" => name = Some(scan.text()?),
                    b"type" => type_name = scan.type_name()?,
                    b"value" => value = Some(scan.scalar()?),
                    _ => scan.skip()?,
                }
                Ok(())
            })?;
            let (Some(name), Some(value)) = (name, value) else {
                return Err(malformed("a column without name or value"));
            };
            let is_null = value == Scalar::Null;
            if is_null && !self.is_numeric_as_string && is_ambiguous_without_strings(&type_name) {
                ambiguous.get_or_insert_with(|| name.clone());
            }
            pairs.push((name, text_output(value, &type_name)));
            Ok(())
        })?;
        Ok(pairs)
    }
}

impl Decoder for Wal2json {
    fn options(&self) -> Vec<(String, String)> {
        let mut options = vec![
            ("format-version", "2"),
            ("include-transaction", "1"),
            ("include-xids", "1"),
            ("include-timestamp", "1"),
            ("include-schemas", "1"),
            // Only types tell bytea, which has to be completed, from text.
            ("include-types", "1"),
            ("include-typmod", "0"),
            ("filter-tables", &*self.left_out),
        ];
        if self.is_numeric_as_string {
            options.push((NUMERIC_AS_STRING, "1"));
        }
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        options.into_iter().map(owned).collect()
    }

    fn has_other_options(&mut self, error: &Error) -> bool {
        let has = self.is_numeric_as_string && is_unknown_option(error);
        self.is_numeric_as_string &= !has;
        has
    }

    fn decode(
        &mut self,
        relations: &mut Relations,
        start: Lsn,
        payload: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let sent = self
            .read(payload)
            .map_err(|error| error.context("could not read a message of wal2json"))?;
        if sent.action == "B" {
            // The connection was lost in the middle of a transaction, which comes again.
            self.truncated = None;
        }
        self.pass_on(sent, start, relations, sink)
    }
}

/// The value as the type's output function writes it.
fn text_output<'a>(value: Scalar<'a>, type_name: &str) -> Value<'a> {
    Value::Text(match value {
        Scalar::Null => return Value::Null,
        Scalar::Bool(true) => Cow::Borrowed(b"t"),
        Scalar::Bool(false) => Cow::Borrowed(b"f"),
        Scalar::Number(text) => Cow::Borrowed(text),
        Scalar::String(hex) if type_name == "bytea" => Cow::Owned([b"\\x", hex.as_ref()].concat()),
        Scalar::String(text) => text,
    })
}

/// Whether the old tuple is the key of the new one, as the plugin makes it when the key did not change. An old tuple with
/// all columns (REPLICA IDENTITY FULL) is always kept, and one with another key than the catalog's: it tells which.
fn is_repeated_key(key: &[usize], old: &Tuple<'_>, new: &Tuple<'_>) -> bool {
    let is_sent = |value: &Value<'_>| *value != Value::NotSent;
    let repeats = |(old, new): (&Value<'_>, &Value<'_>)| !is_sent(old) || old == new;
    let has_key = key
        .iter()
        .all(|column| old.get(*column).is_some_and(is_sent));
    has_key && !old.iter().all(is_sent) && old.iter().zip(new).all(repeats)
}

fn null_or_nan(schema: &str, table: &str, column: &str) -> Error {
    let what = format!(
        "cannot tell NULL from NaN and Infinity in column \"{column}\" of source table \"{schema}\".\"{table}\": \
         this wal2json does not know the option {NUMERIC_AS_STRING}"
    );
    Error::on(Side::Source, what)
        .with_hint("Use output plugin pgoutput or test_decoding, or install wal2json 2.6 or newer.")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::stream::message::{Column, Equality, Relation};

    fn relations() -> Relations {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_name: "text".to_owned(),
            equality: Equality::Bytes,
        };
        let relation = |table: &str| Relation {
            schema: "public".into(),
            table: table.into(),
            only: false,
            columns: vec![column("id"), column("v"), column("a\"b")],
            key: vec![0],
            full: false,
        };
        Relations::for_test(vec![relation("t"), relation("u")])
    }

    fn run(decoder: &mut Wal2json, lines: &[(u64, &str)]) -> Result<String> {
        let mut relations = relations();
        let mut out = Vec::new();
        for (start, line) in lines {
            decoder.decode(
                &mut relations,
                Lsn(*start),
                line.as_bytes(),
                &mut |message, _| {
                    message.write_json(&mut out);
                    Ok(())
                },
            )?;
        }
        Ok(String::from_utf8(out).unwrap())
    }

    fn change(action: &str, rest: &str) -> String {
        format!(r#"{{"action":"{action}","xid":7,"schema":"public","table":"t",{rest}}}"#)
    }

    fn decoded(line: &str) -> String {
        run(&mut Wal2json::default(), &[(1, line)]).unwrap()
    }

    #[test]
    fn values_are_what_the_type_prints() {
        let line = change(
            "I",
            r#""columns":[{"name":"a\"b","type":"bytea","value":"00ff"},{"name":"id","type":"numeric","value":1.50},
            {"name":"v","type":"boolean","value":true}]"#,
        );
        let new = r#""new":["1.50","t","\\x00ff"]"#;
        assert!(decoded(&line).contains(new), "{}", decoded(&line));
        let line = change(
            "I",
            r#""columns":[{"name":"id","type":"numeric","value":"NaN"},{"name":"v","type":"db","value":"\\x00"}]"#,
        );
        assert!(decoded(&line).contains(r#""new":["NaN","\\x00",false]"#));
    }

    #[test]
    fn an_old_tuple_that_repeats_the_key_says_nothing() {
        let update = |old: &str, new: &str| {
            change(
                "U",
                &format!(
                    r#""columns":[{{"name":"id","type":"integer","value":{new}}}],"identity":[{{"name":"id","type":"integer","value":{old}}}]"#
                ),
            )
        };
        assert!(!decoded(&update("1", "1")).contains("old"));
        assert!(decoded(&update("1", "2")).contains(r#""old":["1",false,false],"new":["2""#));
        // Trap 21: the replica identity was another one.
        let line = change(
            "U",
            r#""columns":[{"name":"id","type":"integer","value":1},{"name":"v","type":"text","value":"k"}],"identity":[{"name":"v","type":"text","value":"k"}]"#,
        );
        assert!(decoded(&line).contains(r#""relation":2,"old":[false,"k",false]"#));
        // Trap 16: the key is a TOASTed value that did not change.
        let line = change(
            "U",
            r#""columns":[{"name":"v","type":"text","value":null}],"identity":[{"name":"id","type":"text","value":"x"}]"#,
        );
        assert!(decoded(&line).contains(r#""old":["x",false,false],"new":[false,null,false]"#));
    }

    /// Trap 24.
    #[test]
    fn the_tables_of_one_truncate_are_one_message() {
        let truncate = |table: &str| {
            format!(r#"{{"action":"T","xid":7,"schema":"public","table":"{table}"}}"#)
        };
        let (t, u) = (truncate("t"), truncate("u"));
        let end = r#"{"action":"C","xid":7,"timestamp":"2026-11-21 07:36:18+00"}"#;
        let lines = [(1, t.as_str()), (1, &u), (2, &t), (9, end)];
        let json = r#"{"action":"T","relations":[1,2],"restart_identity":false}
{"action":"T","relations":[1],"restart_identity":false}
{"action":"C","xid":7,"lsn":"0/9","timestamp":"2026-11-21 07:36:18+00"}
"#;
        let mut decoder = Wal2json::default();
        assert_eq!(run(&mut decoder, &lines).unwrap(), json);
        // The connection was lost between the two.
        run(&mut decoder, &lines[..1]).unwrap();
        let begin = r#"{"action":"B","xid":8}"#;
        assert_eq!(
            run(&mut decoder, &[(3, begin), (4, end)])
                .unwrap()
                .lines()
                .count(),
            2
        );
    }

    /// Trap 29: a plugin that is too old writes NaN as null.
    #[test]
    fn a_null_that_may_be_nan_is_refused() {
        let refusal = ServerError {
            sqlstate: UNKNOWN_OPTION.to_owned(),
            message: format!("option \"{NUMERIC_AS_STRING}\" = \"1\" is unknown"),
            ..ServerError::default()
        };
        let refusal = Error::server(Side::Source, refusal);
        let mut decoder = Wal2json::default();
        let null = |type_name: &str| {
            change(
                "I",
                &format!(r#""columns":[{{"name":"v","type":"{type_name}","value":null}}]"#),
            )
        };
        assert!(run(&mut decoder, &[(1, &null("numeric"))]).is_ok());
        assert!(
            decoder
                .options()
                .iter()
                .any(|(name, _)| name == NUMERIC_AS_STRING)
        );
        assert!(decoder.has_other_options(&refusal));
        assert!(!decoder.has_other_options(&refusal));
        assert!(
            !decoder
                .options()
                .iter()
                .any(|(name, _)| name == NUMERIC_AS_STRING)
        );
        for type_name in ["numeric", "real", "double precision"] {
            let error = run(&mut decoder, &[(1, &null(type_name))]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source);
            assert!(
                error
                    .to_string()
                    .contains(r#"column "v" of source table "public"."t""#)
            );
        }
        assert!(run(&mut decoder, &[(1, &null("text"))]).is_ok());
    }

    #[test]
    fn messages_of_other_tools_are_passed_over() {
        let line =
            r#"{"action":"M","xid":7,"transactional":true,"prefix":"x","content":"a\u0001[{"}"#;
        assert_eq!(decoded(line), "");
        let line = r#"{"action":"M","xid":null,"timestamp":null,"transactional":false,"prefix":"","content":""}"#;
        assert_eq!(decoded(line), "");
    }

    #[test]
    fn a_part_of_a_message_is_no_message() {
        let line = change(
            "I",
            r#""columns":[{"name":"id","type":"integer","value":12}]"#,
        );
        for length in 0..line.len() {
            assert!(run(&mut Wal2json::default(), &[(1, &line[..length])]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_through(text: String) {
            let column = serde_json::json!({"name": "v", "type": "text", "value": text});
            let line = change("I", &format!(r#""columns":[{column}]"#));
            let json = run(&mut Wal2json::default(), &[(1, &line)]).unwrap();
            let message = LogicalMessage::parse_json(json.trim_end_matches('\n').as_bytes()).unwrap();
            let LogicalMessage::Insert { new, .. } = message else { panic!("{json}") };
            prop_assert_eq!(&new[1], &Value::Text(Cow::Borrowed(text.as_bytes())));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, cut in 0usize..200) {
            let mut relations = relations();
            let line = change("U", r#""columns":[{"name":"id","type":"bytea","value":"00"}],"identity":[]"#);
            let line = line.as_bytes();
            let mixed = [&line[..cut.min(line.len())], &bytes].concat();
            for payload in [&bytes, &mixed] {
                let _ = Wal2json::default().decode(&mut relations, Lsn(1), payload, &mut |_, _| Ok(()));
            }
        }
    }
}
