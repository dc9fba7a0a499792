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
    /// Where the scripts were read to, keepalives included. Decides nothing but which file comes next, and whether one is
    /// missing.
    seen: Lsn,
    /// A file was read already: the next one must begin where it ended. What was before the first one the target has.
    has_read: bool,
    /// Where the script under way stands: what comes next in it was committed after that. A script may begin with what the
    /// target has.
    read: Lsn,
    inside: Inside,
}

impl ApplyState {
    pub fn new(progress: Lsn) -> ApplyState {
        ApplyState {
            progress,
            taken: progress,
            seen: progress,
            has_read: false,
            read: Lsn::INVALID,
            inside: Inside::No,
        }
    }

    /// Whether a transaction that begins here may end at or before `lsn`, or be applied already: only its end can tell.
    pub fn may_end_before(&self, lsn: Lsn) -> bool {
        self.read < self.taken.max(lsn)
    }

    pub fn progress(&self) -> Lsn {
        self.progress
    }

    /// Nothing up to here is missing.
    pub fn pass(&mut self, lsn: Lsn) {
        self.seen = self.seen.max(lsn);
    }

    pub fn seen(&self) -> Lsn {
        self.seen.max(self.taken)
    }

    pub fn is_inside(&self) -> bool {
        self.inside != Inside::No
    }

    /// Where we stand, if the first script begins after that: the target has what was before it, unless somebody has left
    /// files out.
    pub fn begins_later(&self, line: &ScriptLine<'_>) -> Option<(Lsn, Lsn)> {
        match line {
            ScriptLine::After { lsn } if !self.has_read && *lsn > self.seen() => {
                Some((self.seen(), *lsn))
            }
            _ => None,
        }
    }

    /// Whether changes are to be applied now, and of which transaction.
    pub fn takes_changes(&self) -> Option<u32> {
        match self.inside {
            Inside::Known { xid } | Inside::Unknown { xid } => Some(xid),
            Inside::No | Inside::Skipping => None,
        }
    }

    /// Where the transaction ends that this line would add to the target: at its begin where that is known, else at its
    /// commit. What is applied already or given up adds nothing.
    pub fn adds(&self, line: &ScriptLine<'_>) -> Option<Lsn> {
        let end = match (line, self.inside) {
            (ScriptLine::Begin { commit, .. }, Inside::No) => commit.as_ref()?.commit_lsn,
            (ScriptLine::Commit(commit), Inside::Unknown { .. }) => commit.commit_lsn,
            _ => return None,
        };
        (end > self.taken).then_some(end)
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
        self.has_read = false;
        self.read = Lsn::INVALID;
    }

    /// Take a line that is neither a change nor a PREPARE.
    pub fn step(&mut self, line: &ScriptLine<'_>, endpos: Option<Lsn>) -> Result<Action> {
        match line {
            ScriptLine::Header => match self.is_inside() {
                true => Err(out_of_order("a script begins inside a transaction")),
                false => {
                    self.read = Lsn::INVALID;
                    Ok(Action::BeginScript)
                }
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
                Ok(self.pass_position(*lsn, endpos))
            }
            ScriptLine::After { lsn } => {
                // Less is possible: a file that has grown is read again from its beginning.
                if self.has_read && *lsn > self.seen() {
                    return Err(Error::state(format!(
                        "the changes between {} and {lsn} are missing: a file of changes is gone",
                        self.seen()
                    )));
                }
                if self.is_inside() {
                    return Err(out_of_order("AFTER inside a transaction"));
                }
                self.has_read = true;
                Ok(self.pass_position(*lsn, endpos))
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

    /// Everything that was committed at or before this position has come, here or in an earlier script: the beginning of a
    /// file says so as well as a keepalive, whose own file may be gone.
    fn pass_position(&mut self, lsn: Lsn, endpos: Option<Lsn>) -> Action {
        self.seen = self.seen.max(lsn);
        self.read = self.read.max(lsn);
        // At the end position is enough: a commit there comes before the keepalive.
        match endpos.is_some_and(|endpos| lsn >= endpos) {
            true => Action::PassedPositionAndEnd(lsn),
            false => Action::PassedPosition(lsn),
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
        self.read = self.read.max(lsn);
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
            Inside::Unknown { .. } if lsn <= self.taken => Ok(match is_at_end {
                true => Action::DiscardAndEnd,
                false => Action::Discard,
            }),
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn commit(lsn: u64) -> CommitIs<'static> {
        CommitIs {
            xid: lsn as u32,
            commit_lsn: Lsn(lsn),
            timestamp: Cow::Borrowed("2026-11-21 07:36:18+00"),
        }
    }

    #[test]
    fn a_file_that_is_missing_is_noticed() {
        let mut state = ApplyState::new(Lsn(5));
        state
            .step(&ScriptLine::After { lsn: Lsn(7) }, None)
            .unwrap();
        state
            .step(&ScriptLine::Keepalive { lsn: Lsn(9) }, None)
            .unwrap();
        state
            .step(&ScriptLine::After { lsn: Lsn(9) }, None)
            .unwrap();
        let error = state
            .step(&ScriptLine::After { lsn: Lsn(10) }, None)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("between 0/9 and 0/A are missing"),
            "{error}"
        );
        // Removed, as the target has it.
        state.pass(Lsn(10));
        state
            .step(&ScriptLine::After { lsn: Lsn(10) }, None)
            .unwrap();
    }

    #[test]
    fn the_beginning_of_a_file_passes_its_position() {
        let after = ScriptLine::After { lsn: Lsn(9) };
        for (endpos, expected) in [
            (None, Action::PassedPosition(Lsn(9))),
            (Some(Lsn(10)), Action::PassedPosition(Lsn(9))),
            (Some(Lsn(9)), Action::PassedPositionAndEnd(Lsn(9))),
        ] {
            let mut state = ApplyState::new(Lsn(5));
            assert_eq!(state.step(&after, endpos).unwrap(), expected);
            assert_eq!((state.progress(), state.seen()), (Lsn(5), Lsn(9)));
        }
    }

    #[test]
    fn a_transaction_is_added_where_its_end_is_known() {
        let mut state = ApplyState::new(Lsn(5));
        let begin = |commit| ScriptLine::Begin { xid: 1, commit };
        assert_eq!(state.adds(&begin(Some(commit(9)))), Some(Lsn(9)));
        assert_eq!(state.adds(&begin(Some(commit(5)))), None);
        assert_eq!(state.adds(&ScriptLine::Keepalive { lsn: Lsn(9) }), None);
        assert_eq!(state.adds(&begin(None)), None);
        state.step(&begin(None), None).unwrap();
        assert_eq!(state.adds(&ScriptLine::Commit(commit(9))), Some(Lsn(9)));
        assert_eq!(state.adds(&ScriptLine::Abort), None);
    }

    /// A transaction, with whether its end is known at its begin; or a keepalive.
    #[derive(Debug, Clone)]
    enum Piece {
        Transaction {
            is_known: bool,
        },
        /// The first part came alone, and is given up; then the transaction comes whole.
        TornTransaction,
        Keepalive,
    }

    /// Run a script from its beginning, as after a restart, and note what is committed. `stop` ends the process after so
    /// many lines; what is not committed is then lost.
    fn run(
        pieces: &[Piece],
        endpos: Option<Lsn>,
        stop: usize,
        batch: usize,
        committed: &mut Vec<u64>,
    ) -> bool {
        let progress = committed.last().copied().unwrap_or(0);
        let mut state = ApplyState::new(Lsn(progress));
        let (mut gathered, mut lines) = (Vec::new(), 0);
        for (number, piece) in pieces.iter().enumerate() {
            let lsn = (number as u64 + 1) * 10;
            let script = match piece {
                Piece::Keepalive => vec![ScriptLine::Keepalive { lsn: Lsn(lsn) }],
                Piece::TornTransaction => {
                    let begin = ScriptLine::Begin {
                        xid: 1,
                        commit: None,
                    };
                    let abort = ScriptLine::Abort;
                    let end = ScriptLine::Commit(commit(lsn));
                    vec![begin.clone(), abort, begin, end]
                }
                Piece::Transaction { is_known } => {
                    let known = is_known.then(|| commit(lsn));
                    vec![
                        ScriptLine::Begin {
                            xid: 1,
                            commit: known,
                        },
                        ScriptLine::Commit(commit(lsn)),
                    ]
                }
            };
            for line in script {
                lines += 1;
                if lines > stop {
                    return false;
                }
                let mut flush = |gathered: &mut Vec<u64>, state: &mut ApplyState| {
                    if let Some(last) = gathered.last() {
                        state.applied(Lsn(*last));
                    }
                    committed.append(gathered);
                };
                match state.step(&line, endpos).unwrap() {
                    Action::None | Action::BeginScript => {}
                    Action::BeginAlone | Action::PassedPosition(_) => {
                        flush(&mut gathered, &mut state)
                    }
                    Action::Complete(it) => {
                        gathered.push(it.commit_lsn.0);
                        if gathered.len() >= batch {
                            flush(&mut gathered, &mut state);
                        }
                    }
                    Action::CommitAlone(it) => {
                        gathered.push(it.commit_lsn.0);
                        flush(&mut gathered, &mut state);
                    }
                    // What is complete was committed before: a large transaction takes nothing along.
                    Action::Discard => assert!(gathered.is_empty()),
                    Action::End | Action::PassedPositionAndEnd(_) | Action::DiscardAndEnd => {
                        flush(&mut gathered, &mut state);
                        return true;
                    }
                    Action::CompleteAndEnd(it) => {
                        gathered.push(it.commit_lsn.0);
                        flush(&mut gathered, &mut state);
                        return true;
                    }
                }
            }
        }
        committed.append(&mut gathered);
        false
    }

    proptest! {
        /// Traps 1 to 6: wherever it is stopped and however it is batched, each transaction up to the end position is
        /// committed once, in order, and none after it.
        #[test]
        fn each_transaction_is_applied_once(
            kinds in proptest::collection::vec(0u8..4, 0..20),
            stops in proptest::collection::vec(0usize..40, 0..5),
            batch in 1usize..5,
            endpos in proptest::option::of(0u64..250),
        ) {
            let pieces: Vec<Piece> = kinds
                .iter()
                .map(|kind| match kind {
                    0 => Piece::Keepalive,
                    3 => Piece::TornTransaction,
                    kind => Piece::Transaction { is_known: *kind == 1 },
                })
                .collect();
            let endpos = endpos.filter(|endpos| *endpos > 0).map(Lsn);
            let mut committed = Vec::new();
            for stop in stops {
                run(&pieces, endpos, stop, batch, &mut committed);
            }
            let is_end = run(&pieces, endpos, usize::MAX, batch, &mut committed);
            let all = pieces.iter().enumerate();
            let expected: Vec<u64> = all
                .filter(|(_, piece)| !matches!(piece, Piece::Keepalive))
                .map(|(number, _)| (number as u64 + 1) * 10)
                .filter(|lsn| endpos.is_none_or(|endpos| Lsn(*lsn) <= endpos))
                .collect();
            prop_assert_eq!(committed, expected);
            let last = pieces.len() as u64 * 10;
            prop_assert_eq!(is_end, endpos.is_some_and(|endpos| last >= endpos.0));
        }
    }
}
