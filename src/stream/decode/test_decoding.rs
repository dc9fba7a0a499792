//! test_decoding: text made for people, which says all that is needed. `table public.t: UPDATE: old-key: id[integer]:1
//! new-tuple: id[integer]:2 v[text]:'it''s'`. Source: contrib/test_decoding/test_decoding.c, PostgreSQL 10 to 18. The session
//! must have TimeZone UTC.
//!
//! What it does not send: NULL columns of an old tuple; which columns are the key.

use std::borrow::Cow;

use super::by_name::{Pairs, found_by, tuple};
use super::{Decoder, Sink, truncate};
use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::stream::message::{LogicalMessage, Value};
use crate::stream::relations::{Known, Relations};

#[derive(Debug, Default)]
pub struct TestDecoding {}

impl Decoder for TestDecoding {
    fn options(&self) -> Vec<(String, String)> {
        [
            ("include-xids", "1"),
            ("include-timestamp", "1"),
            ("skip-empty-xacts", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn decode(
        &mut self,
        relations: &mut Relations,
        start: Lsn,
        payload: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        if let Some(rest) = payload.strip_prefix(b"table ") {
            return match change(rest) {
                Some(change) => pass_on(change, relations, sink),
                None => Err(malformed(payload)),
            };
        }
        if let Some(rest) = payload.strip_prefix(b"BEGIN ") {
            let xid = number(rest).ok_or_else(|| malformed(payload))?;
            return sink(&LogicalMessage::Begin { xid }, relations);
        }
        if let Some(rest) = payload.strip_prefix(b"COMMIT ") {
            let (xid, timestamp) = commit(rest).ok_or_else(|| malformed(payload))?;
            let message = LogicalMessage::Commit {
                xid,
                lsn: start,
                timestamp: Cow::Borrowed(timestamp),
            };
            return sink(&message, relations);
        }
        // Other tools' messages, and sequences, which are set at the end.
        if payload.starts_with(b"message: ") || payload.starts_with(b"sequence ") {
            return Ok(());
        }
        Err(malformed(payload))
    }
}

fn malformed(payload: &[u8]) -> Error {
    // Only the beginning: values do not belong into a log.
    let end = payload.iter().position(|byte| *byte == b'[');
    let start = String::from_utf8_lossy(&payload[..end.unwrap_or(payload.len()).min(80)]);
    Error::new(
        ErrorKind::Protocol,
        format!(
            "cannot read what test_decoding sent: \"{}\"",
            start.escape_debug()
        ),
    )
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `748 (at 2022-06-27 13:49:17.123456+00)`.
fn commit(text: &[u8]) -> Option<(u32, &str)> {
    let text = std::str::from_utf8(text).ok()?;
    let (xid, rest) = text.split_once(" (at ")?;
    Some((xid.parse().ok()?, rest.strip_suffix(')')?))
}

enum Operation<'a> {
    Insert(Pairs<'a>),
    Update(Option<Pairs<'a>>, Pairs<'a>),
    Delete(Pairs<'a>),
    Truncate { restart_identity: bool },
}

struct Change<'a> {
    /// One, but for TRUNCATE.
    tables: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    operation: Operation<'a>,
}

/// What comes after `table `.
fn change(text: &[u8]) -> Option<Change<'_>> {
    let mut tables = Vec::with_capacity(1);
    let mut rest = text;
    loop {
        let (schema, after) = identifier(rest)?;
        let (table, after) = identifier(after.strip_prefix(b".")?)?;
        tables.push((schema, table));
        match after.strip_prefix(b", ") {
            Some(after) => rest = after,
            None => {
                rest = after.strip_prefix(b": ")?;
                break;
            }
        }
    }
    let operation = if let Some(rest) = rest.strip_prefix(b"INSERT:") {
        Operation::Insert(pairs(rest)?.0)
    } else if let Some(rest) = rest.strip_prefix(b"UPDATE:") {
        match rest.strip_prefix(b" old-key:") {
            Some(rest) => {
                let (old, rest) = pairs(rest)?;
                Operation::Update(Some(old), pairs(rest.strip_prefix(b" new-tuple:")?)?.0)
            }
            None => Operation::Update(None, pairs(rest)?.0),
        }
    } else if let Some(rest) = rest.strip_prefix(b"DELETE:") {
        Operation::Delete(pairs(rest)?.0)
    } else {
        let flags = rest.strip_prefix(b"TRUNCATE:")?;
        let restart = b" restart_seqs";
        Operation::Truncate {
            restart_identity: flags.windows(restart.len()).any(|flag| flag == restart),
        }
    };
    Some(Change { tables, operation })
}

/// An identifier as quote_identifier() writes it, and what comes after.
fn identifier(text: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    if text.first() != Some(&b'"') {
        let end = text
            .iter()
            .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80))?;
        let name = std::str::from_utf8(&text[..end]).ok()?;
        return (!name.is_empty()).then_some((Cow::Borrowed(name), &text[end..]));
    }
    let body = &text[1..];
    let mut from = 0;
    let mut has_quotes = false;
    loop {
        let end = from + body[from..].iter().position(|byte| *byte == b'"')?;
        if body.get(end + 1) == Some(&b'"') {
            has_quotes = true;
            from = end + 2;
            continue;
        }
        let name = std::str::from_utf8(&body[..end]).ok()?;
        let name = match has_quotes {
            true => Cow::Owned(name.replace("\"\"", "\"")),
            false => Cow::Borrowed(name),
        };
        return Some((name, &body[end + 1..]));
    }
}

/// ` name[type]:value` as often as it comes; also what comes after, at the end or before ` new-tuple:`.
fn pairs(text: &[u8]) -> Option<(Pairs<'_>, &[u8])> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        // The words that are no column have a character that an identifier without quotes cannot have.
        if rest.is_empty() || rest.starts_with(b" new-tuple:") {
            return Some((found, rest));
        }
        if rest == b" (no-tuple-data)" {
            return Some((found, &rest[rest.len()..]));
        }
        let (name, after) = identifier(rest.strip_prefix(b" ")?)?;
        let after = after_type(after.strip_prefix(b"[")?)?;
        let (value, after) = value(after)?;
        found.push((name, value));
        rest = after;
    }
}

/// Skip a type's name, which may hold quotes and brackets, and the `]:` after it.
fn after_type(text: &[u8]) -> Option<&[u8]> {
    let mut is_quoted = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b']' if !is_quoted && text.get(at + 1) == Some(&b':') => return Some(&text[at + 2..]),
            _ => {}
        }
    }
    None
}

fn value(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    match text {
        [b'\'', rest @ ..] => quoted(rest),
        [b'B', b'\'', rest @ ..] => quoted(rest),
        _ => {
            let end = text
                .iter()
                .position(|byte| *byte == b' ')
                .unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            let value = match word {
                b"" => return None,
                b"null" => Value::Null,
                b"unchanged-toast-datum" => Value::NotSent,
                // The type's own output is one letter.
                b"true" => Value::Text(Cow::Borrowed(b"t")),
                b"false" => Value::Text(Cow::Borrowed(b"f")),
                word => Value::Text(Cow::Borrowed(word)),
            };
            Some((value, rest))
        }
    }
}

/// What comes after a quote, up to its end; inside, quotes are doubled and nothing else is changed.
fn quoted(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let mut from = 0;
    let mut owned: Option<Vec<u8>> = None;
    loop {
        let end = from + text[from..].iter().position(|byte| *byte == b'\'')?;
        let is_doubled = text.get(end + 1) == Some(&b'\'');
        if !is_doubled {
            let value = match owned {
                Some(mut value) => {
                    value.extend_from_slice(&text[from..end]);
                    Cow::Owned(value)
                }
                None => Cow::Borrowed(&text[..end]),
            };
            return Some((Value::Text(value), &text[end + 1..]));
        }
        owned
            .get_or_insert_default()
            .extend_from_slice(&text[from..=end]);
        from = end + 2;
    }
}

fn pass_on(change: Change<'_>, relations: &mut Relations, sink: &mut Sink<'_>) -> Result<()> {
    let Change { tables, operation } = change;
    if let Operation::Truncate { restart_identity } = operation {
        let mut found = Vec::with_capacity(tables.len());
        for (schema, table) in &tables {
            if let Known::Table(id) = relations.resolve(schema, table, &[])? {
                found.push(id);
            }
        }
        return truncate(found, restart_identity, relations, sink);
    }
    let Some((schema, table)) = tables.first() else {
        return Ok(());
    };
    let (old, new) = match &operation {
        Operation::Insert(new) => (None, Some(new)),
        Operation::Update(old, new) => (old.as_ref(), Some(new)),
        Operation::Delete(old) => (Some(old), None),
        Operation::Truncate { .. } => (None, None),
    };
    let names: Vec<&str> = new
        .or(old)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_ref())
        .collect();
    let Known::Table(id) = relations.resolve(schema, table, &names)? else {
        return Ok(());
    };
    // NULLs of an old tuple are not sent: under FULL every column that is missing is one.
    let missing = match relations.relation(id).full {
        true => Value::Null,
        false => Value::NotSent,
    };
    let old = old.map(|old| tuple(relations, id, old, &missing));
    let new = new.map(|new| tuple(relations, id, new, &Value::NotSent));
    let id = match &old {
        Some(old) => found_by(relations, id, old),
        None => id,
    };
    let message = match (&operation, old, new) {
        (Operation::Insert(_), _, Some(new)) => LogicalMessage::Insert { relation: id, new },
        (Operation::Update(..), old, Some(new)) => LogicalMessage::Update {
            relation: id,
            old,
            new,
        },
        (_, Some(old), _) => LogicalMessage::Delete { relation: id, old },
        _ => return Ok(()),
    };
    sink(&message, relations)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::message::{Column, Equality, Relation};

    fn relations(full: bool) -> Relations {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_name: "text".to_owned(),
            equality: Equality::Bytes,
        };
        Relations::for_test(vec![Relation {
            schema: "public".into(),
            table: "t t".into(),
            only: false,
            columns: vec![column("id"), column("v"), column("\"x].y\"")],
            key: if full { Vec::new() } else { vec![0] },
            full,
        }])
    }

    fn decode(full: bool, lines: &[&str]) -> String {
        let mut relations = relations(full);
        let mut out = Vec::new();
        for line in lines {
            TestDecoding::default()
                .decode(
                    &mut relations,
                    Lsn(9),
                    line.as_bytes(),
                    &mut |message, _| {
                        message.write_json(&mut out);
                        Ok(())
                    },
                )
                .unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn changes() {
        let line = r#"table public."t t": INSERT: id[integer]:1 v[text]:'it''s "new-tuple:"' """x].y"""["a]:b"[]]:null"#;
        let json =
            "{\"action\":\"I\",\"relation\":1,\"new\":[\"1\",\"it's \\\"new-tuple:\\\"\",null]}\n";
        assert_eq!(decode(false, &[line]), json);
        let line = r#"table public."t t": UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 v[text]:unchanged-toast-datum """x].y"""[boolean]:true"#;
        let json = "{\"action\":\"U\",\"relation\":1,\"old\":[\"1\",false,false],\"new\":[\"2\",false,\"t\"]}\n";
        assert_eq!(decode(false, &[line]), json);
        let line = r#"table public."t t": DELETE: id[integer]:1"#;
        let json = "{\"action\":\"D\",\"relation\":1,\"old\":[\"1\",false,false]}\n";
        assert_eq!(decode(false, &[line]), json);
        assert_eq!(decode(true, &[line]), json.replace("false", "null"));
        let line = r#"table public."t t": DELETE: (no-tuple-data)"#;
        assert!(decode(false, &[line]).contains("[false,false,false]"));
        let line = r#"table public."t t", public."t t": TRUNCATE: restart_seqs cascade"#;
        assert!(decode(false, &[line]).contains("[1,1],\"restart_identity\":true"));
        let line = r#"table public."t t": TRUNCATE: (no-flags)"#;
        assert!(decode(false, &[line]).contains("\"restart_identity\":false"));
    }

    /// Trap 21: the identity was another one when the change was made.
    #[test]
    fn an_old_tuple_without_the_key_is_found_by_what_it_has() {
        let line = r#"table public."t t": DELETE: v[text]:'x'"#;
        assert!(decode(false, &[line]).contains("\"relation\":2,\"old\":[false,\"x\",false]"));
    }

    #[test]
    fn transactions_and_what_is_not_ours() {
        let text = decode(
            false,
            &[
                "BEGIN 748",
                "message: transactional: 1 prefix: x, sz: 1 content:x",
                "COMMIT 748 (at 2022-06-27 13:49:17.123456+00)",
            ],
        );
        assert_eq!(
            text,
            "{\"action\":\"B\",\"xid\":748}\n{\"action\":\"C\",\"xid\":748,\"lsn\":\"0/9\",\
             \"timestamp\":\"2022-06-27 13:49:17.123456+00\"}\n"
        );
    }

    proptest! {
        #[test]
        fn any_value_comes_through(value: String, column in "[a-z\"\\]\\[: ]{1,8}") {
            prop_assume!(!value.contains('\0'));
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let line = format!(
                "public.{}: INSERT: {}[text]:'{}' b[bit varying]:B'10' n[numeric]:1.50",
                quoted(&column), quoted(&column), value.replace('\'', "''")
            );
            let found = change(line.as_bytes()).unwrap();
            let Operation::Insert(pairs) = found.operation else { panic!("it is an insert") };
            prop_assert_eq!(pairs.len(), 3);
            prop_assert_eq!(pairs[0].0.as_ref(), column.as_str());
            prop_assert_eq!(&pairs[0].1, &Value::Text(Cow::Borrowed(value.as_bytes())));
            prop_assert_eq!(&pairs[1].1, &Value::Text(Cow::Borrowed(b"10")));
            prop_assert_eq!(&pairs[2].1, &Value::Text(Cow::Borrowed(b"1.50")));
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, word in "(table public\\.\"t t\": (INSERT|UPDATE|DELETE): |BEGIN |COMMIT )") {
            let payload = [word.as_bytes(), &bytes].concat();
            let _ = TestDecoding::default().decode(&mut relations(false), Lsn(1), &payload, &mut |_, _| Ok(()));
            let _ = TestDecoding::default().decode(&mut relations(true), Lsn(1), &bytes, &mut |_, _| Ok(()));
        }
    }
}
