//! pgoutput, protocol version 1: binary messages to logical messages. Runs in the receive process; reads nothing but what
//! it is given. The server describes a table (Relation) before its first change on a connection and again whenever it
//! changed, so one of these lives as long as its connection.
//!
//! Every length is checked against the bytes that are there before anything is allocated. Message formats: "Logical
//! Replication Message Formats" of PostgreSQL's documentation.

use std::borrow::Cow;
use std::collections::HashMap;

use super::binary::Reader;
use super::by_name::found_by;
use super::timestamp::timestamptz_text;
use super::{Decoder, Sink, malformed, truncate};
use crate::error::Result;
use crate::ident::quote_ident;
use crate::lsn::Lsn;
use crate::stream::message::{Column, LogicalMessage, RelationId, Tuple, Value};
use crate::stream::relations::{Known, Relations};

/// Bits of a Truncate message; the other one is CASCADE, whose tables the message lists.
const TRUNCATE_RESTART_IDENTITY: u8 = 2;

/// Kinds of replica identity in a Relation message, for which the flagged columns are the key. This is how it was when the
/// change was made; the catalog may be ahead.
const IDENTITY_DEFAULT: u8 = b'd';
const IDENTITY_INDEX: u8 = b'i';

/// Bit of a column in a Relation message: part of the replica identity. All columns have it under FULL.
const COLUMN_IS_KEY: u8 = 1;

pub struct Pgoutput {
    publication: String,
    /// What the server said of its tables on this connection, by oid.
    described: HashMap<u32, Described>,
    /// Of the transaction under way: Commit does not repeat it.
    xid: Option<u32>,
}

/// A table as the last Relation message has it.
struct Described {
    name: String,
    known: Known,
    /// For each column that is sent, whether it is part of the replica identity.
    is_key: Vec<bool>,
    /// For each column that is sent, where it stands in our relation. `None` when both are the same.
    places: Option<Vec<usize>>,
    /// How many columns our relation has.
    width: usize,
}

/// Where a message goes, with what is known of tables.
struct Out<'a, 's> {
    relations: &'a mut Relations,
    sink: &'a mut Sink<'s>,
}

impl Out<'_, '_> {
    fn send(self, message: &LogicalMessage<'_>) -> Result<()> {
        (self.sink)(message, self.relations)
    }
}

/// What an old tuple holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// The columns of the replica identity; the others are sent as NULL, which means nothing.
    KeyOnly,
}

impl Pgoutput {
    pub fn new(publication: &str) -> Pgoutput {
        Pgoutput {
            publication: publication.to_owned(),
            described: HashMap::new(),
            xid: None,
        }
    }

    fn relation(&mut self, mut message: Reader<'_>, relations: &mut Relations) -> Result<()> {
        let oid = message.u32()?;
        let schema = match message.name()? {
            // The server's abbreviation.
            "" => "pg_catalog",
            schema => schema,
        };
        let table = message.name()?;
        let identity = message.u8()?;
        let count = message.u16()?;
        let mut columns = Vec::new();
        let mut is_key = Vec::new();
        for _ in 0..count {
            is_key.push(message.u8()? & COLUMN_IS_KEY != 0);
            columns.push(message.name()?);
            // Type and modifier: of the types in our relation only the catalog knows enough.
            message.take(8)?;
        }
        message.end()?;
        let name = format!("\"{schema}\".\"{table}\"");
        let mut known = relations.resolve(schema, table, &columns)?;
        let (mut places, mut width) = (None, 0);
        if let Known::Table(id) = &mut known {
            let ours = &relations.relation(*id).columns;
            width = ours.len();
            let same = ours.iter().map(|column| column.name.as_str());
            if !same.eq(columns.iter().copied()) {
                places = Some(places_of(&columns, ours, &name)?);
            }
            if matches!(identity, IDENTITY_DEFAULT | IDENTITY_INDEX) {
                let key = is_key.iter().enumerate().filter(|(_, is_key)| **is_key);
                let place = |sent: usize| places.as_ref().map_or(sent, |places| places[sent]);
                let key: Vec<usize> = key.map(|(sent, _)| place(sent)).collect();
                if !key.is_empty() {
                    *id = relations.with_key(*id, key);
                }
            }
        }
        let described = Described {
            name,
            known,
            is_key,
            places,
            width,
        };
        self.described.insert(oid, described);
        Ok(())
    }

    fn described(&self, oid: u32) -> Result<&Described> {
        self.described.get(&oid).ok_or_else(|| {
            malformed(format!(
                "a change of a table (oid {oid}) that it did not describe"
            ))
        })
    }

    fn insert(&self, mut message: Reader<'_>, out: Out<'_, '_>) -> Result<()> {
        let described = self.described(message.u32()?)?;
        let Known::Table(relation) = described.known else {
            return Ok(());
        };
        message.tag(b'N')?;
        let new = described.tuple(&mut message, Sent::All)?;
        message.end()?;
        out.send(&LogicalMessage::Insert { relation, new })
    }

    fn update(&self, mut message: Reader<'_>, out: Out<'_, '_>) -> Result<()> {
        let described = self.described(message.u32()?)?;
        let Known::Table(relation) = described.known else {
            return Ok(());
        };
        let old = match message.u8()? {
            b'N' => None,
            tag => {
                let old = described.old_tuple(&mut message, tag)?;
                message.tag(b'N')?;
                Some(old)
            }
        };
        let new = described.tuple(&mut message, Sent::All)?;
        message.end()?;
        let relation = match &old {
            Some(old) => found_by(out.relations, relation, old),
            None => relation,
        };
        out.send(&LogicalMessage::Update { relation, old, new })
    }

    fn delete(&self, mut message: Reader<'_>, out: Out<'_, '_>) -> Result<()> {
        let described = self.described(message.u32()?)?;
        let Known::Table(relation) = described.known else {
            return Ok(());
        };
        let tag = message.u8()?;
        let old = described.old_tuple(&mut message, tag)?;
        message.end()?;
        let relation = found_by(out.relations, relation, &old);
        out.send(&LogicalMessage::Delete { relation, old })
    }

    fn truncate(&self, mut message: Reader<'_>, out: Out<'_, '_>) -> Result<()> {
        let count = message.u32()?;
        let flags = message.u8()?;
        let mut relations: Vec<RelationId> = Vec::new();
        for _ in 0..count {
            if let Known::Table(relation) = self.described(message.u32()?)?.known {
                relations.push(relation);
            }
        }
        message.end()?;
        let restart_identity = flags & TRUNCATE_RESTART_IDENTITY != 0;
        truncate(relations, restart_identity, out.relations, out.sink)
    }

    fn commit(&mut self, mut message: Reader<'_>, out: Out<'_, '_>) -> Result<()> {
        // Flags, all unused, and the start of the commit record.
        message.take(1 + 8)?;
        let lsn = Lsn(message.u64()?);
        let timestamp = Cow::Owned(timestamptz_text(message.u64()? as i64));
        message.end()?;
        let xid = self
            .xid
            .take()
            .ok_or_else(|| malformed("a Commit without a Begin"))?;
        out.send(&LogicalMessage::Commit {
            xid,
            lsn,
            timestamp,
        })
    }

    fn begin(&mut self, mut message: Reader<'_>, out: Out<'_, '_>) -> Result<()> {
        // Start of the commit record and commit time: Commit has them too.
        message.take(8 + 8)?;
        let xid = message.u32()?;
        message.end()?;
        self.xid = Some(xid);
        out.send(&LogicalMessage::Begin { xid })
    }
}

impl Decoder for Pgoutput {
    fn options(&self) -> Vec<(String, String)> {
        // The value is a list of identifiers.
        let publication = quote_ident(&self.publication);
        // Binary values, streaming of transactions under way and messages are off unless asked for. Older servers do not
        // know these options, so they must not be named.
        vec![
            ("proto_version".to_owned(), "1".to_owned()),
            ("publication_names".to_owned(), publication),
        ]
    }

    fn decode(
        &mut self,
        relations: &mut Relations,
        _start: Lsn,
        payload: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let mut message = Reader::new(payload);
        let tag = message.u8()?;
        let out = Out { relations, sink };
        match tag {
            b'I' => self.insert(message, out),
            b'U' => self.update(message, out),
            b'D' => self.delete(message, out),
            b'T' => self.truncate(message, out),
            b'B' => self.begin(message, out),
            b'C' => self.commit(message, out),
            b'R' => self.relation(message, out.relations),
            // Type names, the origin of a transaction, pg_logical_emit_message().
            b'Y' | b'O' | b'M' => Ok(()),
            _ => Err(malformed(format_args!(
                "a message of pgoutput of unknown kind '{}'",
                tag.escape_ascii()
            ))),
        }
    }
}

impl Described {
    fn old_tuple<'a>(&self, message: &mut Reader<'a>, tag: u8) -> Result<Tuple<'a>> {
        match tag {
            b'O' => self.tuple(message, Sent::All),
            b'K' => self.tuple(message, Sent::KeyOnly),
            _ => Err(malformed(format!(
                "a tuple of unknown kind '{}'",
                tag.escape_ascii()
            ))),
        }
    }

    fn tuple<'a>(&self, message: &mut Reader<'a>, sent: Sent) -> Result<Tuple<'a>> {
        let count = usize::from(message.u16()?);
        if count != self.is_key.len() {
            return Err(malformed(format!(
                "a row of table {} with {count} columns instead of {}",
                self.name,
                self.is_key.len()
            )));
        }
        let mut tuple = Vec::with_capacity(self.width.max(count));
        for is_key in &self.is_key {
            let value = message.value()?;
            tuple.push(match sent {
                Sent::KeyOnly if !is_key => Value::NotSent,
                _ => value,
            });
        }
        let Some(places) = &self.places else {
            return Ok(tuple);
        };
        let mut ours = vec![Value::NotSent; self.width];
        for (value, place) in tuple.into_iter().zip(places) {
            ours[*place] = value;
        }
        Ok(ours)
    }
}

/// Where the sent columns stand among ours.
fn places_of(sent: &[&str], ours: &[Column], table: &str) -> Result<Vec<usize>> {
    let place = |name: &&str| {
        let found = ours.iter().position(|column| column.name == **name);
        found.ok_or_else(|| {
            malformed(format!(
                "column \"{name}\" of table {table}, which is not among its known columns"
            ))
        })
    };
    sent.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::message::{Equality, Relation};

    fn relations(full: bool) -> Relations {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_name: "text".to_owned(),
            equality: Equality::Bytes,
        };
        Relations::for_test(vec![Relation {
            schema: "public".into(),
            table: "t".into(),
            only: false,
            columns: vec![column("id"), column("v"), column("later")],
            key: if full { Vec::new() } else { vec![0] },
            full,
        }])
    }

    fn name(text: &str) -> Vec<u8> {
        [text.as_bytes(), b"\0"].concat()
    }

    /// A Relation message: oid 5, columns with their flags.
    fn relation(columns: &[(&str, u8)]) -> Vec<u8> {
        let mut message = [b"R\0\0\0\x05", &name("public")[..], &name("t"), b"d"].concat();
        message.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for (column, flags) in columns {
            message.push(*flags);
            message.extend_from_slice(&name(column));
            message.extend_from_slice(&[0, 0, 0, 25, 255, 255, 255, 255]);
        }
        message
    }

    fn tuple(values: &[&str]) -> Vec<u8> {
        let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
        for value in values {
            match *value {
                "NULL" => bytes.push(b'n'),
                "UNCHANGED" => bytes.push(b'u'),
                text => {
                    bytes.push(b't');
                    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
        bytes
    }

    fn change(tag: &[u8], parts: &[(&[u8], &[&str])]) -> Vec<u8> {
        let mut message = [tag, b"\0\0\0\x05"].concat();
        for (kind, values) in parts {
            message.extend_from_slice(kind);
            message.extend_from_slice(&tuple(values));
        }
        message
    }

    fn run(full: bool, messages: &[Vec<u8>]) -> Result<String> {
        let mut relations = relations(full);
        let mut decoder = Pgoutput::new("pub");
        let mut out = Vec::new();
        for message in messages {
            decoder.decode(&mut relations, Lsn(1), message, &mut |message, _| {
                message.write_json(&mut out);
                Ok(())
            })?;
        }
        Ok(String::from_utf8(out).unwrap())
    }

    /// One of each, as the server writes them.
    fn transaction() -> Vec<Vec<u8>> {
        let begin = [&b"B"[..], &[0; 16], &740u32.to_be_bytes()].concat();
        let micros = 848_561_778_123_400u64.to_be_bytes();
        let commit = [&b"C\0"[..], &[0; 8], &0x1A2B3C8u64.to_be_bytes(), &micros].concat();
        vec![
            begin,
            relation(&[("id", 1), ("v", 0), ("later", 0)]),
            change(b"I", &[(b"N", &["1", "it's \"x\"", "NULL"])]),
            change(b"U", &[(b"N", &["1", "UNCHANGED", "NULL"])]),
            change(
                b"U",
                &[(b"K", &["1", "NULL", "NULL"]), (b"N", &["2", "", "x"])],
            ),
            change(b"D", &[(b"K", &["2", "NULL", "NULL"])]),
            b"T\0\0\0\x01\x02\0\0\0\x05".to_vec(),
            commit,
        ]
    }

    #[test]
    fn a_transaction_of_everything() {
        let json = r#"{"action":"B","xid":740}
{"action":"I","relation":1,"new":["1","it's \"x\"",null]}
{"action":"U","relation":1,"new":["1",false,null]}
{"action":"U","relation":1,"old":["1",false,false],"new":["2","","x"]}
{"action":"D","relation":1,"old":["2",false,false]}
{"action":"T","relations":[1],"restart_identity":true}
{"action":"C","xid":740,"lsn":"0/1A2B3C8","timestamp":"2026-11-21 07:36:18.1234+00"}
"#;
        assert_eq!(run(false, &transaction()).unwrap(), json);
    }

    /// Trap 19: in a whole old tuple NULL is a value.
    #[test]
    fn a_whole_old_tuple_has_nulls() {
        let messages = [
            relation(&[("id", 1), ("v", 1), ("later", 1)]),
            change(b"D", &[(b"O", &["1", "NULL", "a"])]),
        ];
        assert!(
            run(true, &messages)
                .unwrap()
                .contains(r#""old":["1",null,"a"]"#)
        );
    }

    /// The catalog may know of columns that came later, and may have another order after a refetch.
    #[test]
    fn columns_stand_where_the_relation_has_them() {
        let messages = [
            relation(&[("v", 0), ("id", 1)]),
            change(b"I", &[(b"N", &["text", "7"])]),
        ];
        assert!(
            run(false, &messages)
                .unwrap()
                .contains(r#""new":["7","text",false]"#)
        );
    }

    #[test]
    fn what_was_not_described_is_refused() {
        let insert = change(b"I", &[(b"N", &["1", "a", "b"])]);
        assert!(run(false, &[insert]).is_err());
        let described = relation(&[("id", 1)]);
        let too_many = change(b"I", &[(b"N", &["1", "2"])]);
        assert!(run(false, &[described.clone(), too_many]).is_err());
        let binary = [&b"I\0\0\0\x05N\0\x01b\0\0\0\x01"[..], b"x"].concat();
        assert!(run(false, &[described, binary]).is_err());
        assert!(run(false, &[b"X".to_vec()]).is_err());
        assert!(run(false, &[Vec::new()]).is_err());
    }

    /// Trap 21: the catalog says of now what it may not have been then.
    #[test]
    fn the_key_is_the_one_of_the_change() {
        let messages = [
            relation(&[("id", 0), ("v", 1), ("later", 0)]),
            change(b"U", &[(b"N", &["1", "a", "b"])]),
            relation(&[("id", 1), ("v", 0), ("later", 0)]),
            change(b"U", &[(b"N", &["1", "a", "b"])]),
            relation(&[("v", 1), ("later", 0), ("id", 0)]),
            change(b"D", &[(b"K", &["a", "NULL", "NULL"])]),
        ];
        let json = r#"{"action":"U","relation":2,"new":["1","a","b"]}
{"action":"U","relation":1,"new":["1","a","b"]}
{"action":"D","relation":2,"old":[false,"a",false]}
"#;
        assert_eq!(run(false, &messages).unwrap(), json);
    }

    /// A length of four billion takes no memory.
    #[test]
    fn a_claimed_length_is_not_believed() {
        let described = relation(&[("id", 1)]);
        let huge = b"I\0\0\0\x05N\0\x01t\xff\xff\xff\xffx".to_vec();
        assert!(run(false, &[described, huge]).is_err());
        assert!(run(false, &[b"T\xff\xff\xff\xff\0".to_vec()]).is_err());
        assert!(run(false, &[b"R\0\0\0\x05a\0b\0d\xff\xff".to_vec()]).is_err());
    }

    #[test]
    fn a_part_of_a_message_is_no_message() {
        for (index, message) in transaction().iter().enumerate() {
            for length in 0..message.len() {
                let mut messages = transaction();
                messages[index].truncate(length);
                assert!(run(false, &messages[..=index]).is_err(), "{index} {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, tag in "[IUDTBCRYOM]", full: bool) {
            let described = relation(&[("id", 1), ("v", 0), ("later", 0)]);
            let message = [tag.as_bytes(), &bytes].concat();
            let change = [tag.as_bytes(), b"\0\0\0\x05", &bytes].concat();
            let _ = run(full, &[described.clone(), message]);
            let _ = run(full, &[described, change]);
        }

        #[test]
        fn changed_bytes_never_panic(changes in proptest::collection::vec(
            (any::<usize>(), any::<usize>(), any::<u8>()), 1..5))
        {
            let mut messages = transaction();
            for (index, at, byte) in changes {
                let count = messages.len();
                let message = &mut messages[index % count];
                let length = message.len();
                message[at % length] = byte;
            }
            let _ = run(false, &messages);
        }
    }
}
