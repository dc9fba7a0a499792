//! Reads an archive from bytes. A length that the bytes claim is compared with what is left before anything is
//! allocated, and an encoding that pg_dump never writes is refused, since it could not be written back as it was.

use std::collections::HashSet;

use crate::dump::archive::{
    Archive, CatalogId, Compression, DataPosition, Entry, FormatVersion, Section, Text,
};
use crate::error::{Context, Error, Result};

/// The first bytes of every custom-format (and tar, and directory) archive.
pub(super) const MAGIC: &[u8] = b"PGDMP";
/// The code of the custom format in the header; the others keep the same table of contents in another file.
pub(super) const CUSTOM_FORMAT: u8 = 1;
/// The size of an integer: that of a C `int` where pg_dump ran.
pub(super) const INT_SIZE: u8 = 4;

impl Archive {
    /// Parse a whole file.
    pub fn read(bytes: &[u8]) -> Result<Archive> {
        let mut reader = Reader { bytes, position: 0 };
        reader
            .archive()
            .with_context(|| format!("cannot read archive, at byte {}", reader.position))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

fn refused(what: impl Into<String>) -> Error {
    Error::state(what)
}

impl<'a> Reader<'a> {
    fn archive(&mut self) -> Result<Archive> {
        if self.take(MAGIC.len())? != MAGIC {
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
        Ok(Archive {
            version,
            offset_size,
            compression,
            created,
            dbname,
            server_version,
            dump_version,
            entries,
            tail: self.bytes[self.position..].to_vec(),
            tail_start: self.position,
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
        let desc = self.text()?;
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
            namespace: self.text()?,
            tablespace: self.text()?,
            tableam: if version >= FormatVersion::TABLE_AM {
                self.text()?
            } else {
                Text::NULL
            },
            relkind: if version >= FormatVersion::RELKIND {
                self.int()?
            } else {
                0
            },
            owner: self.text()?,
            with_oids: self.text()?,
            deps: self.deps()?,
            data: self.data_position(offset_size)?,
        })
    }

    /// Dump ids as decimal strings, ended by a NULL string.
    fn deps(&mut self) -> Result<Vec<i32>> {
        let mut deps = Vec::new();
        loop {
            let text = self.text()?;
            if text.is_null() {
                return Ok(deps);
            }
            deps.push(canonical_number(&text)?);
        }
    }

    fn data_position(&mut self, offset_size: u8) -> Result<DataPosition> {
        let state = self.byte()?;
        let mut offset = [0; 8];
        let size = usize::from(offset_size);
        offset[..size].copy_from_slice(self.take(size)?);
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
                Ok(Text::from(self.take(length)?.to_vec()))
            }
        }
    }

    /// A sign byte, then the magnitude, least significant byte first.
    fn int(&mut self) -> Result<i32> {
        let sign = self.byte()?;
        let mut magnitude = [0; INT_SIZE as usize];
        magnitude.copy_from_slice(self.take(usize::from(INT_SIZE))?);
        let magnitude = i32::from_le_bytes(magnitude);
        match sign {
            0 if magnitude >= 0 => Ok(magnitude),
            1 if magnitude > 0 => Ok(-magnitude),
            _ => Err(refused(format!(
                "malformed integer (sign {sign}, magnitude {magnitude})"
            ))),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let left = &self.bytes[self.position..];
        let Some(taken) = left.get(..length) else {
            return Err(refused(format!(
                "unexpected end of archive: {length} bytes are needed, {} are left",
                left.len()
            )));
        };
        self.position += length;
        Ok(taken)
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
