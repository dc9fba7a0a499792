//! The changes that go to the target together: gathered as script lines, taken apart when they are sent. Pure.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::stream::script::{ScriptLine, StatementId};

/// Where a change comes from, for the words of an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    pub xid: u32,
    /// Where it was known.
    pub commit_lsn: Option<Lsn>,
    /// In the script.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xid {}", self.xid)?;
        if let Some(lsn) = self.commit_lsn {
            write!(f, ", commit LSN {lsn}")?;
        }
        write!(f, ", line {} of the script", self.line)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum EntryIs {
    /// An EXECUTE line in `lines`.
    Execute { start: usize, end: usize },
    Truncate {
        tables: Vec<(String, String)>,
        restart_identity: bool,
    },
}

/// What a place in a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    is: EntryIs,
    place: Place,
}

/// Changes in their order.
#[derive(Debug, Default)]
pub struct Chunk {
    lines: Vec<u8>,
    entries: Vec<Entry>,
}

/// One change, taken apart.
#[derive(Debug)]
pub enum Change<'a> {
    Execute {
        statement: StatementId,
        parameters: Vec<Option<Cow<'a, [u8]>>>,
        place: Place,
    },
    Truncate {
        tables: &'a [(String, String)],
        restart_identity: bool,
        place: Place,
    },
}

impl Change<'_> {
    pub fn place(&self) -> Place {
        match self {
            Change::Execute { place, .. } | Change::Truncate { place, .. } => *place,
        }
    }
}

impl Chunk {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    pub fn clear(&mut self) {
        // A row of a gigabyte must not keep its memory.
        if self.lines.capacity() > 64 << 20 {
            self.lines = Vec::new();
        }
        self.lines.clear();
        self.entries.clear();
    }

    /// Add an EXECUTE line.
    pub fn add_execute(&mut self, line: &[u8], place: Place) {
        let start = self.lines.len();
        self.lines.extend_from_slice(line);
        let end = self.lines.len();
        self.entries.push(Entry {
            is: EntryIs::Execute { start, end },
            place,
        });
    }

    pub fn add_truncate(
        &mut self,
        tables: Vec<(String, String)>,
        restart_identity: bool,
        place: Place,
    ) {
        self.entries.push(Entry {
            is: EntryIs::Truncate {
                tables,
                restart_identity,
            },
            place,
        });
    }

    /// Everything, in order.
    pub fn changes(&self) -> Result<Vec<Change<'_>>> {
        self.entries
            .iter()
            .map(|entry| self.change(entry))
            .collect()
    }

    fn change<'a>(&'a self, entry: &'a Entry) -> Result<Change<'a>> {
        let place = entry.place;
        match &entry.is {
            EntryIs::Execute { start, end } => {
                match ScriptLine::parse(&self.lines[*start..*end])? {
                    ScriptLine::Execute {
                        statement,
                        parameters,
                    } => Ok(Change::Execute {
                        statement,
                        parameters,
                        place,
                    }),
                    _ => Err(Error::new(
                        ErrorKind::Protocol,
                        "a script line is not what it was",
                    )),
                }
            }
            EntryIs::Truncate {
                tables,
                restart_identity,
            } => Ok(Change::Truncate {
                tables,
                restart_identity: *restart_identity,
                place,
            }),
        }
    }
}
