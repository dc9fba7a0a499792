//! The changes that go to the target together: gathered as script lines, taken apart when they are sent. Pure.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};
use crate::stream::script::{ScriptLine, StatementId};

/// What a place in a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// An EXECUTE line in `lines`, and the transaction that it belongs to.
    Execute { start: usize, end: usize, xid: u32 },
    Truncate {
        tables: Vec<(String, String)>,
        restart_identity: bool,
    },
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
        xid: u32,
    },
    Truncate {
        tables: &'a [(String, String)],
        restart_identity: bool,
    },
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
    pub fn add_execute(&mut self, line: &[u8], xid: u32) {
        let start = self.lines.len();
        self.lines.extend_from_slice(line);
        let end = self.lines.len();
        self.entries.push(Entry::Execute { start, end, xid });
    }

    pub fn add_truncate(&mut self, tables: Vec<(String, String)>, restart_identity: bool) {
        self.entries.push(Entry::Truncate {
            tables,
            restart_identity,
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
        match entry {
            Entry::Execute { start, end, xid } => {
                match ScriptLine::parse(&self.lines[*start..*end])? {
                    ScriptLine::Execute {
                        statement,
                        parameters,
                    } => Ok(Change::Execute {
                        statement,
                        parameters,
                        xid: *xid,
                    }),
                    _ => Err(Error::new(
                        ErrorKind::Protocol,
                        "a script line is not what it was",
                    )),
                }
            }
            Entry::Truncate {
                tables,
                restart_identity,
            } => Ok(Change::Truncate {
                tables,
                restart_identity: *restart_identity,
            }),
        }
    }
}
