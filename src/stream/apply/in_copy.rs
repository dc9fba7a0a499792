//! Changes that a resumed copy has already: skipped, table by table (see `stream::meeting`). Runs in the apply process, until
//! everything up to the latest position is behind it; in every other run there is none of this.
//!
//! Whether a change is in the copy is decided by its transaction's commit LSN. A transaction so large that its end was not
//! known at its begin is kept in a file without a name until it is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ident::QualifiedName;
use crate::lsn::Lsn;
use crate::stream::json_text::read_number;
use crate::stream::meeting::{TablesAsOf, is_in_copy};
use crate::stream::script::{CommitIs, ScriptLine, StatementId, StatementIs};

/// What is done with a line.
pub enum Look {
    /// It is taken as ever.
    Take,
    /// It is in the copy, or waits for the end of its transaction.
    Leave,
    /// A TRUNCATE of which only these tables are meant, in the order of the list.
    TruncateOnly {
        tables: Vec<(String, String)>,
        restart_identity: bool,
    },
    /// A transaction that was kept is complete.
    Complete(Kept, CommitIs<'static>),
}

/// The lines of one transaction whose end is not known yet.
pub struct Kept {
    pub xid: u32,
    /// Its first line in the script.
    pub line: u64,
    file: BufWriter<File>,
}

impl Kept {
    fn new(dir: &Path, xid: u32, line: u64) -> Result<Kept> {
        let file = tempfile::tempfile_in(dir)
            .with_context(|| format!("could not make a file in \"{}\"", dir.display()))?;
        Ok(Kept {
            xid,
            line,
            file: BufWriter::new(file),
        })
    }

    fn add(&mut self, line: &[u8]) -> Result<()> {
        self.file
            .write_all(line)
            .and_then(|()| self.file.write_all(b"\n"))
            .context("could not keep a large transaction in a file")
    }

    /// From its first line.
    pub fn rewind(self) -> Result<File> {
        let rewound = || -> std::io::Result<File> {
            let mut file = self.file.into_inner()?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        rewound().context("could not read a large transaction back from its file")
    }
}

/// What is known of the copy.
pub struct InCopy {
    tables: TablesAsOf,
    /// Of the statements of this script, those on tables that were copied later than the first.
    statements: HashMap<StatementId, Lsn>,
    kept: Option<Kept>,
    dir: PathBuf,
    skipped: u64,
}

impl InCopy {
    /// `None` when nothing after `replayed` is in the copy.
    pub fn read(dir: &Path, replayed: Lsn) -> Result<Option<InCopy>> {
        let tables = TablesAsOf::read(dir)?.filter(|tables| replayed < tables.latest());
        Ok(tables.map(|tables| InCopy::new(dir, tables)))
    }

    fn new(dir: &Path, tables: TablesAsOf) -> InCopy {
        InCopy {
            tables,
            statements: HashMap::new(),
            kept: None,
            dir: dir.to_path_buf(),
            skipped: 0,
        }
    }

    /// Whether nothing that comes after this position can be in the copy.
    pub fn is_passed(&self, replayed: Lsn) -> bool {
        self.kept.is_none() && replayed >= self.tables.latest()
    }

    /// The last changes that were skipped lie behind us.
    pub fn tell(&self) {
        log::info!(
            "everything up to {} is applied: {} changes before it were in the copy already",
            self.tables.latest(),
            self.skipped
        );
    }

    /// A new script: its statements have other numbers.
    pub fn begin_script(&mut self) {
        self.statements.clear();
    }

    pub fn prepare(&mut self, id: StatementId, is: &StatementIs) {
        match self.tables.get(&QualifiedName::new(&is.schema, &is.table)) {
            Some(as_of) => self.statements.insert(id, as_of),
            None => self.statements.remove(&id),
        };
    }

    /// What is under way will not be completed here.
    pub fn forget_kept(&mut self) {
        self.kept = None;
    }

    /// Decide about a line. `commit_lsn` is where the transaction under way ends, `is_inside` whether there is one that was
    /// not kept; `number` is the line's.
    pub fn look(
        &mut self,
        line: &[u8],
        commit_lsn: Option<Lsn>,
        is_inside: bool,
        number: u64,
    ) -> Result<Look> {
        let is_truncate = line.starts_with(b"TRUNCATE;");
        if is_truncate || line.starts_with(b"EXECUTE ") {
            return match (&mut self.kept, is_truncate) {
                (Some(kept), _) => kept.add(line).map(|()| Look::Leave),
                (None, true) => self.look_at_truncate(line, commit_lsn),
                (None, false) => Ok(self.look_at_change(line, commit_lsn)),
            };
        }
        if line.starts_with(b"BEGIN;") && !is_inside {
            if let ScriptLine::Begin { xid, commit: None } = ScriptLine::parse(line)? {
                if self.kept.is_some() {
                    return Err(out_of_order("BEGIN"));
                }
                self.kept = Some(Kept::new(&self.dir, xid, number)?);
                return Ok(Look::Leave);
            }
        }
        let Some(kept) = self.kept.take() else {
            return Ok(Look::Take);
        };
        match ScriptLine::parse(line)? {
            ScriptLine::Commit(commit) => Ok(Look::Complete(
                kept,
                CommitIs {
                    timestamp: commit.timestamp.into_owned().into(),
                    ..commit
                },
            )),
            // It comes again, whole.
            ScriptLine::Abort => Ok(Look::Leave),
            ScriptLine::Header | ScriptLine::Begin { .. } | ScriptLine::Keepalive { .. } => {
                Err(out_of_order("another line than COMMIT"))
            }
            _ => {
                self.kept = Some(kept);
                Ok(Look::Take)
            }
        }
    }

    fn look_at_change(&mut self, line: &[u8], commit_lsn: Option<Lsn>) -> Look {
        let as_of = read_number(&line[b"EXECUTE ".len()..])
            .and_then(|(statement, _)| self.statements.get(&statement));
        match (as_of, commit_lsn) {
            (Some(as_of), Some(commit_lsn)) if is_in_copy(commit_lsn, *as_of) => {
                self.skipped += 1;
                Look::Leave
            }
            _ => Look::Take,
        }
    }

    fn look_at_truncate(&mut self, line: &[u8], commit_lsn: Option<Lsn>) -> Result<Look> {
        let (
            ScriptLine::Truncate {
                mut tables,
                restart_identity,
            },
            Some(commit_lsn),
        ) = (ScriptLine::parse(line)?, commit_lsn)
        else {
            return Ok(Look::Take);
        };
        let before = tables.len();
        tables.retain(|(schema, table)| {
            let as_of = self.tables.get(&QualifiedName::new(schema, table));
            as_of.is_none_or(|as_of| !is_in_copy(commit_lsn, as_of))
        });
        Ok(match (tables.len(), before) {
            (left, before) if left == before => Look::Take,
            (0, _) => {
                self.skipped += 1;
                Look::Leave
            }
            _ => Look::TruncateOnly {
                tables,
                restart_identity,
            },
        })
    }
}

fn out_of_order(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the script is not in order: {what} inside a transaction"),
    )
}
