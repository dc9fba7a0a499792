//! The header and table of contents of pg_dump's custom format, as a value: `Archive::read` and `Archive::write` are
//! exact inverses. The clone parent uses it to take out what the target would refuse and to choose what is restored.
//! It knows the layout of the file (PostgreSQL's `src/bin/pg_dump/pg_backup_archiver.c`, `pg_backup_custom.c`), not
//! what the entries mean, and opens no file: callers hand it bytes. Nothing here may panic on foreign bytes.

mod read;
mod write;

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::ident::Oid;

/// A format version that pg_dump 9.0 to 18 writes: 1.12 (to 10.2), 1.13 (to 11), 1.14 (12 to 15), 1.15 (16),
/// 1.16 (17 and 18). The revision has been 0 in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FormatVersion {
    pub major: u8,
    pub minor: u8,
    pub revision: u8,
}

impl FormatVersion {
    const OLDEST: FormatVersion = FormatVersion::new(1, 12);
    const NEWEST: FormatVersion = FormatVersion::new(1, 16);
    /// Entries carry the table access method from here on.
    const TABLE_AM: FormatVersion = FormatVersion::new(1, 14);
    /// The header names the compression algorithm in one byte from here on, and holds an integer level before.
    const COMPRESSION_ALGORITHM: FormatVersion = FormatVersion::new(1, 15);
    /// Entries carry relkind from here on.
    const RELKIND: FormatVersion = FormatVersion::new(1, 16);

    const fn new(major: u8, minor: u8) -> FormatVersion {
        FormatVersion {
            major,
            minor,
            revision: 0,
        }
    }
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.major, self.minor, self.revision)
    }
}

/// How data blocks are compressed. Kept to be written back; our archives have no data blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Level(i32),
    Algorithm(u8),
}

/// A string of the archive: NULL is not the empty string, and the bytes are UTF-8, or anything when the source database is
/// SQL_ASCII. Shared, as an archive of many tables has the same names of schemas, owners and kinds again and again.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Option<Rc<[u8]>>);

impl Text {
    pub const NULL: Text = Text(None);

    /// The bytes; none when NULL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// For logs and lists only: what is not UTF-8 is replaced.
    pub fn lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Text {
        Text(Some(bytes.into()))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(Some(text.as_bytes().into()))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("NULL"),
            Some(_) => write!(f, "{:?}", self.lossy()),
        }
    }
}

/// Which catalog row an entry describes. An OID alone is ambiguous: an index and a constraint may share one (trap 38).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CatalogId {
    pub tableoid: Oid,
    pub oid: Oid,
}

impl CatalogId {
    /// `pg_class` has the same OID in every PostgreSQL.
    const PG_CLASS: Oid = 1259;
    /// `pg_constraint` has the same OID in every PostgreSQL.
    const PG_CONSTRAINT: Oid = 2606;

    /// A table, an index, a sequence, a view: whatever lives in `pg_class`.
    pub fn relation(oid: Oid) -> CatalogId {
        CatalogId {
            tableoid: CatalogId::PG_CLASS,
            oid,
        }
    }

    pub fn constraint(oid: Oid) -> CatalogId {
        CatalogId {
            tableoid: CatalogId::PG_CONSTRAINT,
            oid,
        }
    }
}

/// The section pg_dump sorted an entry into. `None` means "where the entry before it is" (comments, privileges).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    None,
    PreData,
    Data,
    PostData,
}

impl Section {
    fn from_code(code: i32) -> Option<Section> {
        match code {
            1 => Some(Section::None),
            2 => Some(Section::PreData),
            3 => Some(Section::Data),
            4 => Some(Section::PostData),
            _ => None,
        }
    }

    fn code(self) -> i32 {
        match self {
            Section::None => 1,
            Section::PreData => 2,
            Section::Data => 3,
            Section::PostData => 4,
        }
    }
}

/// Where the data block of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPosition {
    /// pg_dump could not seek back to note it. The eight bytes are meaningless, and kept.
    NotSet(u64),
    At(u64),
    NoData(u64),
}

/// One entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub dump_id: i32,
    /// There is a data block for it.
    pub had_dumper: bool,
    pub catalog_id: CatalogId,
    pub tag: Text,
    /// `TABLE`, `INDEX`, `FK CONSTRAINT`, ...
    pub desc: Text,
    pub section: Section,
    /// The SQL that creates it; may be several statements, which pg_restore sends as one string.
    pub defn: Text,
    pub drop_stmt: Text,
    pub copy_stmt: Text,
    pub namespace: Text,
    pub tablespace: Text,
    /// NULL before 1.14.
    pub tableam: Text,
    /// 0 before 1.16.
    pub relkind: i32,
    pub owner: Text,
    /// `true` in archives of tables WITH OIDS, before 12.
    pub with_oids: Text,
    /// Dump ids this entry needs first.
    pub deps: Box<[i32]>,
    pub data: DataPosition,
}

/// A whole archive. `write(read(x))` is `x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub version: FormatVersion,
    offset_size: u8,
    compression: Compression,
    /// Seconds, minutes, hours, day, month, year, is_dst: a C `struct tm`, local time of the dumping host.
    created: [i32; 7],
    pub dbname: Text,
    /// The version of the dumped server, as text.
    pub server_version: Text,
    /// The version of pg_dump, as text.
    pub dump_version: Text,
    pub entries: Vec<Entry>,
    /// Everything behind the table of contents: the data blocks.
    tail: Vec<u8>,
    /// Where the tail began when read: the data offsets of the entries count from the start of the file.
    tail_start: u64,
}

impl Archive {
    /// Are backslashes in plain literals ordinary characters? They are, unless the dumped database says otherwise:
    /// then pg_dump writes an entry that turns `standard_conforming_strings` off.
    pub fn has_standard_strings(&self) -> bool {
        !self
            .entries
            .iter()
            .any(|entry| entry.desc == "STDSTRINGS" && contains(entry.defn.as_bytes(), b"'off'"))
    }

    pub fn entry(&self, dump_id: i32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.dump_id == dump_id)
    }
}

impl Entry {
    /// For logs: `TABLE "public"."film"`, `EXTENSION "hstore"`, `CONSTRAINT "film film_pkey" in schema "public"`.
    /// Control characters do not reach the log.
    pub fn describe(&self) -> String {
        let quoted = |text: &Text| {
            let clean = text.lossy().replace(|c: char| c.is_control(), " ");
            crate::ident::quote_ident(&clean)
        };
        let desc = self.desc.lossy();
        let tag = quoted(&self.tag);
        if self.namespace.as_bytes().is_empty() {
            return format!("{desc} {tag}");
        }
        let schema = quoted(&self.namespace);
        // The tag of these is two names, or a kind and a name, so that it is not what a schema qualifies.
        let is_composed = matches!(
            &*desc,
            "ACL"
                | "CHECK CONSTRAINT"
                | "COMMENT"
                | "CONSTRAINT"
                | "DEFAULT"
                | "DEFAULT ACL"
                | "FK CONSTRAINT"
                | "POLICY"
                | "PUBLICATION TABLE"
                | "RULE"
                | "SECURITY LABEL"
                | "TRIGGER"
        );
        if is_composed {
            format!("{desc} {tag} in schema {schema}")
        } else {
            format!("{desc} {schema}.{tag}")
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
pub(crate) mod tests;
