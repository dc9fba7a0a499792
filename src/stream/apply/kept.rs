//! A transaction so large that its end was not known at its begin, at a place where only its end tells whether it is to be
//! applied at all: it may be on the target already, or its tables may have been copied with it. It waits in a file without a
//! name. Runs in the apply process. Elsewhere such a transaction is sent as it comes.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::stream::script::{CommitIs, ScriptLine};

pub struct Kept {
    pub xid: u32,
    /// Its first line in the script.
    pub line: u64,
    file: BufWriter<File>,
}

/// What becomes of it with a line that is not one of its changes.
pub enum Next {
    /// The line is none of its business.
    Beside,
    Complete(CommitIs<'static>),
    /// It comes again, whole.
    Aborted,
}

impl Kept {
    pub fn begin(dir: &Path, xid: u32, line: u64) -> Result<Kept> {
        let file = tempfile::tempfile_in(dir)
            .with_context(|| format!("could not make a file in \"{}\"", dir.display()))?;
        Ok(Kept {
            xid,
            line,
            file: BufWriter::new(file),
        })
    }

    /// Keep one of its changes.
    pub fn add(&mut self, line: &[u8]) -> Result<()> {
        self.file
            .write_all(line)
            .and_then(|()| self.file.write_all(b"\n"))
            .context("could not keep a large transaction in a file")
    }

    pub fn next(&self, line: &ScriptLine<'_>) -> Result<Next> {
        match line {
            ScriptLine::Commit(commit) => Ok(Next::Complete(CommitIs {
                xid: commit.xid,
                commit_lsn: commit.commit_lsn,
                timestamp: commit.timestamp.clone().into_owned().into(),
            })),
            ScriptLine::Abort => Ok(Next::Aborted),
            ScriptLine::Header | ScriptLine::Begin { .. } | ScriptLine::Keepalive { .. } => {
                Err(Error::new(
                    ErrorKind::Protocol,
                    "the script is not in order: a transaction has no end",
                ))
            }
            _ => Ok(Next::Beside),
        }
    }

    /// Its changes, from the first.
    pub fn rewind(self) -> Result<File> {
        let rewound = || -> std::io::Result<File> {
            let mut file = self.file.into_inner()?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        rewound().context("could not read a large transaction back from its file")
    }
}
