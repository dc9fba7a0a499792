//! The last line of a segment file or a script, which says how much of the log the file holds. Read by every process of a
//! follow that works with files, while the parent removes those that the target has passed.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Context, Error, Result};

/// Lines that end a file are short: commits, keepalives, SWITCH.
const LONGEST: u64 = 512;

/// A complete last line, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub struct LastLine {
    /// Where it begins.
    pub start: u64,
    pub bytes: Vec<u8>,
}

/// `None` when the file is gone, is empty, or was cut in the middle of a line. Of a line longer than any that ends a file,
/// only the end is returned, which is none that a reader knows.
pub fn last_line(path: &Path) -> Result<Option<LastLine>> {
    let what = || format!("could not read file \"{}\"", path.display());
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what(), error)),
    };
    let length = file.metadata().with_context(what)?.len();
    let from = length.saturating_sub(LONGEST);
    file.seek(SeekFrom::Start(from)).with_context(what)?;
    let mut tail = Vec::new();
    // Not to the end of the file: it may grow by gigabytes while it is read.
    file.take(LONGEST)
        .read_to_end(&mut tail)
        .with_context(what)?;
    let Some(body) = tail.strip_suffix(b"\n") else {
        return Ok(None);
    };
    let start = body
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    Ok(Some(LastLine {
        start: from + start as u64,
        bytes: body[start..].to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::{LastLine, last_line};

    #[test]
    fn only_a_complete_line_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(last_line(&path).unwrap(), None);
        for (text, expected) in [
            ("", None),
            ("cut", None),
            ("one\ncut", None),
            ("one\n", Some((0, "one"))),
            ("one\ntwo\n", Some((4, "two"))),
        ] {
            std::fs::write(&path, text).unwrap();
            let expected = expected.map(|(start, line)| LastLine {
                start,
                bytes: line.as_bytes().to_vec(),
            });
            assert_eq!(last_line(&path).unwrap(), expected, "{text}");
        }
        std::fs::write(&path, format!("{}\nlast\n", "x".repeat(2000))).unwrap();
        assert_eq!(last_line(&path).unwrap().unwrap().start, 2001);
    }
}
