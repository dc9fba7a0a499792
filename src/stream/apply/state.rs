//! What a line of the script calls for: skip, gather, commit, stop. Pure; decided by commit LSN alone.

use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::stream::script::{CommitIs, ScriptLine};

/// What has to be done because of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    None,
    /// A script begins: the numbers of statements mean something else from here on.
    BeginScript,
    /// A transaction whose end is not known begins: it needs a target transaction of its own.
    BeginAlone,
    /// A transaction is complete; it may share a target transaction with others.
    Complete(CommitIs<'static>),
    /// A transaction that has a target transaction of its own is complete, and to be committed.
    CommitAlone(CommitIs<'static>),
    /// Nothing of the transaction under way may stay.
    Discard,
    /// Everything that was committed at or before this position has come.
    PassedPosition(Lsn),
    /// The end position lies behind us: everything before it is complete.
    End,
    CompleteAndEnd(CommitIs<'static>),
    PassedPositionAndEnd(Lsn),
    DiscardAndEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// Between transactions.
    No,
    /// Applied already.
    Skipping,
    /// Its end is known, and that it is to be applied.
    Known { xid: u32 },
    /// Decided at its end.
    Unknown { xid: u32 },
}

#[derive(Debug)]
pub struct ApplyState {
    /// Of the last transaction that is committed on the target.
    progress: Lsn,
    /// Of the last one that was complete here, committed or still gathered. Decides what is skipped, so no keepalive moves it.
    taken: Lsn,
    /// Where the scripts were read to, keepalives included. Decides nothing but which file comes next.
    seen: Lsn,
    inside: Inside,
}

impl ApplyState {
    pub fn new(progress: Lsn) -> ApplyState {
        ApplyState {
            progress,
            taken: progress,
            seen: progress,
            inside: Inside::No,
        }
    }

    pub fn progress(&self) -> Lsn {
        self.progress
    }

    pub fn seen(&self) -> Lsn {
        self.seen.max(self.taken)
    }

    pub fn is_inside(&self) -> bool {
        self.inside != Inside::No
    }

    /// Whether changes are to be applied now, and of which transaction.
    pub fn takes_changes(&self) -> Option<u32> {
        match self.inside {
            Inside::Known { xid } | Inside::Unknown { xid } => Some(xid),
            Inside::No | Inside::Skipping => None,
        }
    }

    /// The target has committed everything up to this transaction.
    pub fn applied(&mut self, lsn: Lsn) {
        self.progress = self.progress.max(lsn);
        self.taken = self.taken.max(lsn);
    }

    /// What was not committed is forgotten.
    pub fn forget(&mut self) {
        self.inside = Inside::No;
        self.taken = self.progress;
        self.seen = self.progress;
    }

    /// Take a line that is neither a change nor a PREPARE.
    pub fn step(&mut self, line: &ScriptLine<'_>, endpos: Option<Lsn>) -> Result<Action> {
        match line {
            ScriptLine::Header => match self.is_inside() {
                true => Err(out_of_order("a script begins inside a transaction")),
                false => Ok(Action::BeginScript),
            },
            ScriptLine::Begin { xid, commit } => self.begin(*xid, commit.as_ref(), endpos),
            ScriptLine::Commit(commit) => self.commit(commit, endpos),
            ScriptLine::Abort => {
                let was = std::mem::replace(&mut self.inside, Inside::No);
                Ok(match was {
                    Inside::Unknown { .. } => Action::Discard,
                    Inside::Known { .. } => {
                        return Err(out_of_order("ABORT of a complete transaction"));
                    }
                    Inside::No | Inside::Skipping => Action::None,
                })
            }
            ScriptLine::Keepalive { lsn } => {
                if self.is_inside() {
                    return Err(out_of_order("KEEPALIVE inside a transaction"));
                }
                self.seen = self.seen.max(*lsn);
                // At the end position is enough: a commit there comes before the keepalive.
                Ok(match endpos.is_some_and(|endpos| *lsn >= endpos) {
                    true => Action::PassedPositionAndEnd(*lsn),
                    false => Action::PassedPosition(*lsn),
                })
            }
            ScriptLine::Switch { lsn, .. } => {
                self.seen = self.seen.max(*lsn);
                Ok(Action::None)
            }
            ScriptLine::Prepare { .. }
            | ScriptLine::Execute { .. }
            | ScriptLine::Truncate { .. } => Ok(Action::None),
        }
    }

    fn begin(
        &mut self,
        xid: u32,
        commit: Option<&CommitIs<'_>>,
        endpos: Option<Lsn>,
    ) -> Result<Action> {
        if self.is_inside() {
            return Err(out_of_order("BEGIN inside a transaction"));
        }
        let Some(commit) = commit else {
            self.inside = Inside::Unknown { xid };
            return Ok(Action::BeginAlone);
        };
        // Applied already iff at or before the progress: the origin holds the end of the commit record, as this does.
        if commit.commit_lsn <= self.taken {
            self.inside = Inside::Skipping;
            return Ok(Action::None);
        }
        if endpos.is_some_and(|endpos| commit.commit_lsn > endpos) {
            return Ok(Action::End);
        }
        self.inside = Inside::Known { xid };
        Ok(Action::None)
    }

    fn commit(&mut self, commit: &CommitIs<'_>, endpos: Option<Lsn>) -> Result<Action> {
        let lsn = commit.commit_lsn;
        let own = CommitIs {
            xid: commit.xid,
            commit_lsn: lsn,
            timestamp: commit.timestamp.clone().into_owned().into(),
        };
        let is_at_end = endpos.is_some_and(|endpos| lsn >= endpos);
        match std::mem::replace(&mut self.inside, Inside::No) {
            Inside::No => Err(out_of_order("COMMIT outside of a transaction")),
            Inside::Skipping => Ok(match is_at_end {
                true => Action::End,
                false => Action::None,
            }),
            Inside::Known { .. } => {
                self.taken = lsn;
                Ok(match is_at_end {
                    true => Action::CompleteAndEnd(own),
                    false => Action::Complete(own),
                })
            }
            Inside::Unknown { .. } if lsn <= self.taken => Ok(Action::Discard),
            Inside::Unknown { .. } if endpos.is_some_and(|endpos| lsn > endpos) => {
                Ok(Action::DiscardAndEnd)
            }
            Inside::Unknown { .. } => {
                self.taken = lsn;
                Ok(match is_at_end {
                    true => Action::CompleteAndEnd(own),
                    false => Action::CommitAlone(own),
                })
            }
        }
    }
}

fn out_of_order(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the script is not in order: {what}"),
    )
}
