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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn commit(number: u32) -> CommitIs<'static> {
        CommitIs {
            xid: number,
            commit_lsn: Lsn(u64::from(number) * 10),
            timestamp: Cow::Borrowed("2026-11-21 07:36:18+00"),
        }
    }

    /// One transaction of a script: whether BEGIN tells its end, whether it is given up once before it comes whole, whether
    /// a keepalive follows.
    type Shape = (bool, bool, bool);

    fn script(shapes: &[Shape]) -> Vec<ScriptLine<'static>> {
        let mut lines = vec![ScriptLine::Header];
        let change = || ScriptLine::Execute {
            statement: 1,
            parameters: Vec::new(),
        };
        for (number, (is_known, is_torn_first, has_keepalive)) in (1..).zip(shapes) {
            if *is_torn_first {
                let begin = ScriptLine::Begin {
                    xid: number,
                    commit: None,
                };
                lines.extend([begin, change(), ScriptLine::Abort]);
            }
            lines.push(ScriptLine::Begin {
                xid: number,
                commit: is_known.then(|| commit(number)),
            });
            lines.push(change());
            lines.push(ScriptLine::Commit(commit(number)));
            if *has_keepalive {
                let lsn = Lsn(u64::from(number) * 10 + 5);
                lines.push(ScriptLine::Keepalive { lsn });
            }
        }
        lines
    }

    /// A target, and an applier that follows the actions as `mod.rs` does: what is complete may be committed later, with others.
    #[derive(Default)]
    struct World {
        committed: Vec<u32>,
        gathered: Vec<u32>,
        under_way: Option<u32>,
    }

    impl World {
        fn progress(&self) -> Lsn {
            let last = self.committed.last();
            last.map_or(Lsn::INVALID, |xid| Lsn(u64::from(*xid) * 10))
        }

        fn commit(&mut self, state: &mut ApplyState) {
            self.committed.append(&mut self.gathered);
            state.applied(self.progress());
        }

        /// Run lines until the end position or the cut; whether the end was reached.
        fn run(
            &mut self,
            lines: &[ScriptLine<'_>],
            endpos: Option<Lsn>,
            flush_every: usize,
        ) -> bool {
            let mut state = ApplyState::new(self.progress());
            for (number, line) in lines.iter().enumerate() {
                if let ScriptLine::Execute { .. } = line {
                    self.under_way = state.takes_changes();
                    continue;
                }
                let action = state.step(line, endpos).unwrap();
                match action {
                    Action::None => {}
                    Action::BeginScript | Action::BeginAlone | Action::PassedPosition(_) => {
                        self.commit(&mut state);
                    }
                    Action::Complete(_) | Action::CommitAlone(_) | Action::CompleteAndEnd(_) => {
                        self.gathered.push(self.under_way.take().unwrap());
                        let is_alone = matches!(action, Action::CommitAlone(_));
                        if is_alone || number % flush_every == 0 {
                            self.commit(&mut state);
                        }
                        if matches!(action, Action::CompleteAndEnd(_)) {
                            self.commit(&mut state);
                            return true;
                        }
                    }
                    Action::Discard => {
                        assert!(
                            self.gathered.is_empty(),
                            "complete ones were committed before"
                        );
                        self.under_way = None;
                    }
                    Action::DiscardAndEnd => {
                        assert!(
                            self.gathered.is_empty(),
                            "complete ones were committed before"
                        );
                        self.under_way = None;
                        return true;
                    }
                    Action::End | Action::PassedPositionAndEnd(_) => {
                        self.commit(&mut state);
                        return true;
                    }
                }
            }
            // Cut here: what is not committed is gone.
            self.gathered.clear();
            self.under_way = None;
            false
        }
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let mut state = ApplyState::new(Lsn(0));
        assert!(state.step(&ScriptLine::Commit(commit(1)), None).is_err());
        let begin = ScriptLine::Begin {
            xid: 1,
            commit: Some(commit(1)),
        };
        state.step(&begin, None).unwrap();
        assert!(state.step(&begin, None).is_err());
        for line in [ScriptLine::Keepalive { lsn: Lsn(3) }, ScriptLine::Header] {
            assert!(state.step(&line, None).is_err());
        }
    }

    proptest! {
        /// Traps 3, 4, 6: cut at any lines and begun again, each transaction is applied once, in order, and none after the end.
        #[test]
        fn every_transaction_once_and_none_after_the_end(
            shapes in proptest::collection::vec(any::<Shape>(), 1..12),
            cuts in proptest::collection::vec(0usize..60, 0..5),
            endpos in proptest::option::of(1u64..130),
            flush_every in 1usize..9,
        ) {
            let lines = script(&shapes);
            let endpos = endpos.map(Lsn);
            let mut world = World::default();
            for cut in cuts {
                world.run(&lines[..cut.min(lines.len())], endpos, flush_every);
            }
            let is_reached = world.run(&lines, endpos, flush_every);
            // Nothing is left half done at the end of a whole script.
            if !is_reached {
                world.run(&lines, endpos, 1);
            }
            let wanted: Vec<u32> = (1..=shapes.len() as u32)
                .filter(|xid| endpos.is_none_or(|endpos| commit(*xid).commit_lsn <= endpos))
                .collect();
            prop_assert_eq!(&world.committed, &wanted);
            // Reached only if the script shows that nothing before it is missing.
            let last = lines.iter().map(|line| match line {
                ScriptLine::Commit(commit) => commit.commit_lsn,
                ScriptLine::Keepalive { lsn } => *lsn,
                _ => Lsn::INVALID,
            }).max();
            prop_assert_eq!(is_reached, endpos.is_some_and(|endpos| Some(endpos) <= last));
            // The next run applies the rest.
            world.run(&lines, None, 1);
            prop_assert_eq!(world.committed.len(), shapes.len());
        }
    }
}
