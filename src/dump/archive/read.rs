//! Reads an archive, from bytes or from a file as it comes. A length that the bytes claim is compared with what is left
//! before anything is allocated, and an encoding that pg_dump never writes is refused, since it could not be written back as
//! it was.

use std::collections::HashSet;
use std::io::Read;
use std::rc::Rc;

use crate::dump::archive::{
    Archive, CatalogId, Compression, DataPosition, Entry, FormatVersion, Section, Text,
};
use crate::error::{Context, Error, Result};

/// The first bytes of every custom-format (and tar, and directory) archive.
pub(super) const MAGIC: &[u8; 5] = b"PGDMP";
/// The code of the custom format in the header; the others keep the same table of contents in another file.
pub(super) const CUSTOM_FORMAT: u8 = 1;
/// The size of an integer: that of a C `int` where pg_dump ran.
pub(super) const INT_SIZE: u8 = 4;

impl Archive {
    /// Parse a whole file.
    pub fn read(bytes: &[u8]) -> Result<Archive> {
        Archive::read_from(bytes, bytes.len() as u64)
    }

    /// Parse what comes, of which there are `length` bytes. Errors: `Io`; `State`.
    pub fn read_from(source: impl Read, length: u64) -> Result<Archive> {
        let mut reader = Reader {
            source,
            position: 0,
            length,
            shared: HashSet::new(),
        };
        reader
            .archive()
            .with_context(|| format!("cannot read archive, at byte {}", reader.position))
    }
}

struct Reader<R> {
    source: R,
    position: u64,
    length: u64,
    /// Strings that many entries have.
    shared: HashSet<Rc<[u8]>>,
}

fn refused(what: impl Into<String>) -> Error {
    Error::state(what)
}

impl<R: Read> Reader<R> {
    fn archive(&mut self) -> Result<Archive> {
        if self.array()? != *MAGIC {
            return Err(refused("not a pg_dump custom-format archive"));
        }
        let version = self.version()?;
        let int_size = self.byte()?;
        if int_size != INT_SIZE {
            return Err(refused(format!("unsupported integer size {int_size}")));
        }
        let offset_size = self.byte()?;
        if !matches!(offset_size, 4 | 8) {
            return Err(refused(format!("unsupported offset size {offset_size}")));
        }
        let format = self.byte()?;
        if format != CUSTOM_FORMAT {
            return Err(refused(format!(
                "archive format {format} is not pg_dump's custom format"
            )));
        }
        let compression = if version >= FormatVersion::COMPRESSION_ALGORITHM {
            Compression::Algorithm(self.byte()?)
        } else {
            Compression::Level(self.int()?)
        };
        let mut created = [0; 7];
        for field in &mut created {
            *field = self.int()?;
        }
        let dbname = self.text()?;
        let server_version = self.text()?;
        let dump_version = self.text()?;
        let entries = self.entries(version, offset_size)?;
        let tail_start = self.position;
        let mut tail = Vec::new();
        self.source
            .by_ref()
            .take(self.length - self.position)
            .read_to_end(&mut tail)
            .map_err(|error| Error::io("could not read", error))?;
        Ok(Archive {
            version,
            offset_size,
            compression,
            created,
            dbname,
            server_version,
            dump_version,
            entries,
            tail,
            tail_start,
        })
    }

    fn version(&mut self) -> Result<FormatVersion> {
        let version = FormatVersion {
            major: self.byte()?,
            minor: self.byte()?,
            revision: self.byte()?,
        };
        let is_known = version.revision == 0
            && (FormatVersion::OLDEST..=FormatVersion::NEWEST).contains(&version);
        if is_known {
            Ok(version)
        } else {
            Err(refused(format!(
                "archive version {version} is not supported: versions {} to {} are (pg_dump 10 to 18)",
                FormatVersion::OLDEST,
                FormatVersion::NEWEST
            )))
        }
    }

    fn entries(&mut self, version: FormatVersion, offset_size: u8) -> Result<Vec<Entry>> {
        let count = self.int()?;
        if count < 0 {
            return Err(refused(format!("negative number of entries {count}")));
        }
        // Not reserved ahead: the count is only a claim, the entries must be there.
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        for number in 0..count {
            let entry = self
                .entry(version, offset_size)
                .with_context(|| format!("entry {} of {count}", number + 1))?;
            if !seen.insert(entry.dump_id) {
                return Err(refused(format!("dump id {} occurs twice", entry.dump_id)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&mut self, version: FormatVersion, offset_size: u8) -> Result<Entry> {
        let dump_id = self.int()?;
        if dump_id <= 0 {
            return Err(refused(format!("dump id {dump_id} is out of range")));
        }
        let had_dumper = match self.int()? {
            0 => false,
            1 => true,
            other => return Err(refused(format!("unexpected data flag {other}"))),
        };
        let catalog_id = CatalogId {
            tableoid: self.number_text()?,
            oid: self.number_text()?,
        };
        let tag = self.text()?;
        let desc = self.shared_text()?;
        let section = self.int()?;
        let section = Section::from_code(section)
            .ok_or_else(|| refused(format!("unknown section {section}")))?;
        Ok(Entry {
            dump_id,
            had_dumper,
            catalog_id,
            tag,
            desc,
            section,
            defn: self.text()?,
            drop_stmt: self.text()?,
            copy_stmt: self.text()?,
            namespace: self.shared_text()?,
            tablespace: self.shared_text()?,
            tableam: if version >= FormatVersion::TABLE_AM {
                self.shared_text()?
            } else {
                Text::NULL
            },
            relkind: if version >= FormatVersion::RELKIND {
                self.int()?
            } else {
                0
            },
            owner: self.shared_text()?,
            with_oids: self.shared_text()?,
            deps: self.deps()?,
            data: self.data_position(offset_size)?,
        })
    }

    /// Dump ids as decimal strings, ended by a NULL string.
    fn deps(&mut self) -> Result<Box<[i32]>> {
        let mut deps = Vec::new();
        loop {
            let text = self.text()?;
            if text.is_null() {
                return Ok(deps.into());
            }
            deps.push(canonical_number(&text)?);
        }
    }

    fn data_position(&mut self, offset_size: u8) -> Result<DataPosition> {
        let state = self.byte()?;
        let mut offset = [0; 8];
        self.fill(&mut offset[..usize::from(offset_size)])?;
        let offset = u64::from_le_bytes(offset);
        match state {
            1 => Ok(DataPosition::NotSet(offset)),
            2 => Ok(DataPosition::At(offset)),
            3 => Ok(DataPosition::NoData(offset)),
            other => Err(refused(format!("unexpected data offset flag {other}"))),
        }
    }

    fn number_text(&mut self) -> Result<u32> {
        let text = self.text()?;
        canonical_number(&text)
    }

    /// A length, then as many bytes; the length -1 is NULL.
    fn text(&mut self) -> Result<Text> {
        match self.int()? {
            -1 => Ok(Text::NULL),
            length => {
                let length = usize::try_from(length)
                    .map_err(|_| refused(format!("negative string length {length}")))?;
                self.expect(length)?;
                let mut bytes = vec![0; length];
                self.fill(&mut bytes)?;
                Ok(Text::from(bytes))
            }
        }
    }

    /// One that other entries have too.
    fn shared_text(&mut self) -> Result<Text> {
        let text = self.text()?;
        let Some(bytes) = text.0 else {
            return Ok(Text::NULL);
        };
        if let Some(known) = self.shared.get(&bytes) {
            return Ok(Text(Some(Rc::clone(known))));
        }
        self.shared.insert(Rc::clone(&bytes));
        Ok(Text(Some(bytes)))
    }

    /// A sign byte, then the magnitude, least significant byte first.
    fn int(&mut self) -> Result<i32> {
        let sign = self.byte()?;
        let magnitude = i32::from_le_bytes(self.array::<{ INT_SIZE as usize }>()?);
        match sign {
            0 if magnitude >= 0 => Ok(magnitude),
            1 if magnitude > 0 => Ok(-magnitude),
            _ => Err(refused(format!(
                "malformed integer (sign {sign}, magnitude {magnitude})"
            ))),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.expect(bytes.len())?;
        self.source
            .read_exact(bytes)
            .map_err(|error| Error::io("could not read", error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// That so much is left: asked before it is allocated.
    fn expect(&self, length: usize) -> Result<()> {
        let left = self.length - self.position;
        match length as u64 <= left {
            true => Ok(()),
            false => Err(refused(format!(
                "unexpected end of archive: {length} bytes are needed, {left} are left"
            ))),
        }
    }
}

/// A decimal number written the one way that C's printf writes it.
fn canonical_number<T: std::str::FromStr + ToString>(text: &Text) -> Result<T> {
    std::str::from_utf8(text.as_bytes())
        .ok()
        .and_then(|digits| {
            let number = digits.parse::<T>().ok()?;
            (number.to_string() == digits).then_some(number)
        })
        .ok_or_else(|| refused(format!("malformed number {text:?}")))
}
