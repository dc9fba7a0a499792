//! Writes an archive back to bytes, exactly as pg_dump would have. Refuses what would leave data offsets pointing to
//! the wrong place.

use std::io::Write;

use crate::dump::archive::read::{CUSTOM_FORMAT, INT_SIZE, MAGIC};
use crate::dump::archive::{Archive, Compression, DataPosition, Entry, FormatVersion, Text};
use crate::error::{Error, Result};

impl Archive {
    /// The whole file.
    pub fn write(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write_to(&mut out)?;
        Ok(out)
    }

    /// The whole file, an entry at a time. Errors: `Io`; `State`.
    pub fn write_to(&self, file: &mut dyn Write) -> Result<()> {
        let mut written = 0;
        let mut put = |out: &mut Vec<u8>| {
            written += out.len() as u64;
            let result = file.write_all(out);
            out.clear();
            result.map_err(|error| Error::io("could not write", error))
        };
        let mut out = self.header()?;
        for entry in &self.entries {
            self.put_entry(&mut out, entry)?;
            put(&mut out)?;
        }
        put(&mut out)?;
        self.check_offsets(written)?;
        file.write_all(&self.tail)
            .map_err(|error| Error::io("could not write", error))
    }

    /// What comes before the entries.
    fn header(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        let version = self.version;
        out.extend_from_slice(&[version.major, version.minor, version.revision]);
        out.extend_from_slice(&[INT_SIZE, self.offset_size, CUSTOM_FORMAT]);
        match self.compression {
            Compression::Level(level) => put_int(&mut out, level),
            Compression::Algorithm(algorithm) => out.push(algorithm),
        }
        for field in self.created {
            put_int(&mut out, field);
        }
        for text in [&self.dbname, &self.server_version, &self.dump_version] {
            put_text(&mut out, text)?;
        }
        put_int(&mut out, to_int(self.entries.len(), "number of entries")?);
        Ok(out)
    }

    fn put_entry(&self, out: &mut Vec<u8>, entry: &Entry) -> Result<()> {
        put_int(out, entry.dump_id);
        put_int(out, i32::from(entry.had_dumper));
        put_text(out, &number_text(entry.catalog_id.tableoid))?;
        put_text(out, &number_text(entry.catalog_id.oid))?;
        put_text(out, &entry.tag)?;
        put_text(out, &entry.desc)?;
        put_int(out, entry.section.code());
        for text in [
            &entry.defn,
            &entry.drop_stmt,
            &entry.copy_stmt,
            &entry.namespace,
            &entry.tablespace,
        ] {
            put_text(out, text)?;
        }
        if self.version >= FormatVersion::TABLE_AM {
            put_text(out, &entry.tableam)?;
        }
        if self.version >= FormatVersion::RELKIND {
            put_int(out, entry.relkind);
        }
        put_text(out, &entry.owner)?;
        put_text(out, &entry.with_oids)?;
        for dep in &*entry.deps {
            put_text(out, &number_text(dep))?;
        }
        put_text(out, &Text::NULL)?;
        let (state, offset) = match entry.data {
            DataPosition::NotSet(offset) => (1, offset),
            DataPosition::At(offset) => (2, offset),
            DataPosition::NoData(offset) => (3, offset),
        };
        out.push(state);
        out.extend_from_slice(&offset.to_le_bytes()[..usize::from(self.offset_size)]);
        Ok(())
    }

    /// Offsets count from the start of the file, so they hold only while the table of contents keeps its length.
    fn check_offsets(&self, tail_start: u64) -> Result<()> {
        let has_offset = |entry: &&Entry| matches!(entry.data, DataPosition::At(_));
        match self.entries.iter().find(has_offset) {
            Some(entry) if tail_start != self.tail_start => Err(Error::state(format!(
                "cannot change the archive: {} has a data block",
                entry.describe()
            ))),
            _ => Ok(()),
        }
    }
}

fn number_text(number: impl ToString) -> Text {
    Text::from(number.to_string().into_bytes())
}

fn to_int(length: usize, what: &str) -> Result<i32> {
    i32::try_from(length)
        .map_err(|_| Error::state(format!("{what} {length} does not fit into an archive")))
}

fn put_text(out: &mut Vec<u8>, text: &Text) -> Result<()> {
    if text.is_null() {
        put_int(out, -1);
    } else {
        let bytes = text.as_bytes();
        put_int(out, to_int(bytes.len(), "string length")?);
        out.extend_from_slice(bytes);
    }
    Ok(())
}

/// A sign byte, then the magnitude, least significant byte first.
fn put_int(out: &mut Vec<u8>, number: i32) {
    out.push(u8::from(number < 0));
    out.extend_from_slice(&number.unsigned_abs().to_le_bytes());
}
