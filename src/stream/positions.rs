//! What the processes of one follow know of each other's progress, in shared memory that their parent made. The parent
//! alone carries it to and from the sentinel. Each number has one writer, named here; all but the wishes only grow.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::sys::shared::SharedNumbers;

/// Which number; the slot in the page.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Endpos,
    Apply,
    Written,
    Flushed,
    Committed,
    Replayed,
    ReplayedFlushed,
    Activity,
    Transactions,
    Changes,
    Batched,
    Missed,
    Reached,
    ReceiveEnd,
    ApplyEnd,
    PauseAt,
    PauseNumber,
    PausedNumber,
    Held,
    /// None of them: stays the last, and so says how many there are.
    Count,
}

/// Why receive ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// Everything up to the end position is in the files, and on the pipe if there is one.
    EndPos,
    /// Nobody takes anything from the pipe; the files are complete.
    PipeStalled,
    /// Whoever read the pipe has gone, and says why himself.
    PipeClosed,
}

/// Why apply ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyEnd {
    /// Everything up to the end position is committed on the target, and flushed there.
    EndPos,
    /// There is nothing left to apply.
    EndOfInput,
    /// The connection was lost while reading from a pipe, which cannot be read again.
    LostTarget,
}

#[derive(Debug, Clone, Copy)]
pub struct Positions {
    page: SharedNumbers,
}

impl Positions {
    pub fn create() -> Result<Positions> {
        let page = SharedNumbers::create(Slot::Count as usize)
            .map_err(|error| Error::io("could not make shared memory", error))?;
        Ok(Positions { page })
    }

    fn slot(&self, slot: Slot) -> &AtomicU64 {
        &self.page.all()[slot as usize]
    }

    fn get(&self, slot: Slot) -> u64 {
        self.slot(slot).load(Ordering::Acquire)
    }

    fn advance(&self, slot: Slot, lsn: Lsn) {
        self.slot(slot).fetch_max(lsn.0, Ordering::AcqRel);
    }

    fn add(&self, slot: Slot, count: u64) {
        self.slot(slot).fetch_add(count, Ordering::AcqRel);
    }

    /// The end position that is wished for; `None` to go on for ever. Written by the parent, from the sentinel.
    pub fn endpos(&self) -> Option<Lsn> {
        Some(Lsn(self.get(Slot::Endpos))).filter(|lsn| *lsn != Lsn::INVALID)
    }

    pub fn set_endpos(&self, endpos: Option<Lsn>) {
        let lsn = endpos.unwrap_or(Lsn::INVALID);
        self.slot(Slot::Endpos).store(lsn.0, Ordering::Release);
    }

    /// Whether changes may be applied yet. Written by the parent, from the sentinel.
    pub fn is_apply_enabled(&self) -> bool {
        self.get(Slot::Apply) != 0
    }

    pub fn set_apply(&self, is_enabled: bool) {
        let value = u64::from(is_enabled);
        self.slot(Slot::Apply).store(value, Ordering::Release);
    }

    /// Whether receive is to take nothing more from the source for now. Written by the parent.
    pub fn is_held(&self) -> bool {
        self.get(Slot::Held) != 0
    }

    pub fn hold(&self, is_held: bool) {
        let value = u64::from(is_held);
        self.slot(Slot::Held).store(value, Ordering::Release);
    }

    /// Everything at or before it is in the JSON files. Written by receive.
    pub fn written(&self) -> Lsn {
        Lsn(self.get(Slot::Written))
    }

    pub fn advance_written(&self, lsn: Lsn) {
        self.advance(Slot::Written, lsn);
    }

    /// The same, and fsynced. Written by receive.
    pub fn flushed(&self) -> Lsn {
        Lsn(self.get(Slot::Flushed))
    }

    pub fn advance_flushed(&self, lsn: Lsn) {
        self.advance(Slot::Flushed, lsn);
    }

    /// The last transaction that was committed on the target. Written by apply.
    pub fn committed(&self) -> Lsn {
        Lsn(self.get(Slot::Committed))
    }

    pub fn advance_committed(&self, lsn: Lsn) {
        self.advance(Slot::Committed, lsn);
    }

    /// Every transaction committed at or before it is committed on the target. Written by apply.
    pub fn replayed(&self) -> Lsn {
        Lsn(self.get(Slot::Replayed))
    }

    pub fn advance_replayed(&self, lsn: Lsn) {
        self.advance(Slot::Replayed, lsn);
    }

    /// The same, and the target has flushed it: files that hold nothing after it may go. Written by apply.
    pub fn replayed_flushed(&self) -> Lsn {
        Lsn(self.get(Slot::ReplayedFlushed))
    }

    pub fn advance_replayed_flushed(&self, lsn: Lsn) {
        self.advance(Slot::ReplayedFlushed, lsn);
    }

    /// The target lost what it had not flushed: the positions start over from what its origin says. By apply.
    pub fn reset_replayed(&self, lsn: Lsn) {
        self.slot(Slot::Committed).store(lsn.0, Ordering::Release);
        self.slot(Slot::Replayed).store(lsn.0, Ordering::Release);
        self.slot(Slot::ReplayedFlushed)
            .store(lsn.0, Ordering::Release);
    }

    /// The last commit with a change that is somebody else's: our own writes to the source must never make us write again.
    /// Written by receive.
    pub fn activity(&self) -> Lsn {
        Lsn(self.get(Slot::Activity))
    }

    pub fn advance_activity(&self, commit_lsn: Lsn) {
        self.advance(Slot::Activity, commit_lsn);
    }

    /// Source transactions that were applied, and their changes; of these, how many went in sets (COPY, unnest). By apply.
    pub fn applied(&self) -> (u64, u64, u64) {
        (
            self.get(Slot::Transactions),
            self.get(Slot::Changes),
            self.get(Slot::Batched),
        )
    }

    pub fn add_applied(&self, transactions: u64, changes: u64, batched: u64) {
        self.add(Slot::Transactions, transactions);
        self.add(Slot::Changes, changes);
        self.add(Slot::Batched, batched);
    }

    /// Updates and deletes that met no row on the target in this run. Written by apply; see `missed` for all of them.
    pub fn missed(&self) -> u64 {
        self.get(Slot::Missed)
    }

    pub fn add_missed(&self, count: u64) {
        self.add(Slot::Missed, count);
    }

    /// The end position that apply has proven reached: everything committed at or before it is committed on the target,
    /// with its result read. Written by apply, at its end.
    pub fn reached(&self) -> Option<Lsn> {
        Some(Lsn(self.get(Slot::Reached))).filter(|lsn| *lsn != Lsn::INVALID)
    }

    /// Whether the end position is another one than was reached at `position`: later, or gone.
    pub fn is_end_after(&self, position: Lsn) -> bool {
        self.endpos().is_none_or(|endpos| endpos > position)
    }

    /// Before a mode begins. By the parent.
    pub fn clear_ends(&self) {
        self.slot(Slot::ReceiveEnd).store(0, Ordering::Release);
        self.slot(Slot::ApplyEnd).store(0, Ordering::Release);
        self.slot(Slot::PausedNumber).store(0, Ordering::Release);
    }

    /// Where apply is to pause, before the first transaction that commits after it, and the number of that wish. Written
    /// by the parent. Numbers are not zero.
    pub fn pause(&self) -> Option<(u64, Lsn)> {
        // The number first: with a position that is newer than it, the number says nothing to anybody.
        let number = self.get(Slot::PauseNumber);
        (number != 0).then(|| (number, Lsn(self.get(Slot::PauseAt))))
    }

    pub fn set_pause(&self, pause: Option<(u64, Lsn)>) {
        let (number, at) = pause.unwrap_or((0, Lsn::INVALID));
        self.slot(Slot::PauseAt).store(at.0, Ordering::SeqCst);
        self.slot(Slot::PauseNumber).store(number, Ordering::SeqCst);
    }

    /// The last wish that apply has fulfilled: as long as it stands, nothing is committed on the target. Written by apply.
    pub fn paused(&self) -> Option<u64> {
        Some(self.get(Slot::PausedNumber)).filter(|number| *number != 0)
    }

    pub fn set_paused(&self, number: u64) {
        self.slot(Slot::PausedNumber)
            .store(number, Ordering::SeqCst);
    }

    /// `None` while it runs, and when it failed or was told to stop. Written by receive.
    pub fn receive_end(&self) -> Option<ReceiveEnd> {
        match self.get(Slot::ReceiveEnd) {
            1 => Some(ReceiveEnd::EndPos),
            2 => Some(ReceiveEnd::PipeStalled),
            3 => Some(ReceiveEnd::PipeClosed),
            _ => None,
        }
    }

    pub fn set_receive_end(&self, end: ReceiveEnd) {
        let code = match end {
            ReceiveEnd::EndPos => 1,
            ReceiveEnd::PipeStalled => 2,
            ReceiveEnd::PipeClosed => 3,
        };
        self.slot(Slot::ReceiveEnd).store(code, Ordering::Release);
    }

    /// The same for apply.
    pub fn apply_end(&self) -> Option<ApplyEnd> {
        match self.get(Slot::ApplyEnd) {
            1 => Some(ApplyEnd::EndPos),
            2 => Some(ApplyEnd::EndOfInput),
            3 => Some(ApplyEnd::LostTarget),
            _ => None,
        }
    }

    pub fn set_apply_end(&self, end: ApplyEnd) {
        let code = match end {
            ApplyEnd::EndPos => 1,
            ApplyEnd::EndOfInput => 2,
            ApplyEnd::LostTarget => 3,
        };
        self.slot(Slot::ApplyEnd).store(code, Ordering::Release);
    }

    pub fn set_reached(&self, endpos: Lsn) {
        self.slot(Slot::Reached).store(endpos.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::Positions;
    use crate::lsn::Lsn;

    #[test]
    fn positions_only_grow_and_wishes_change() {
        let positions = Positions::create().unwrap();
        assert_eq!(positions.endpos(), None);
        positions.set_endpos(Some(Lsn(5)));
        positions.set_endpos(Some(Lsn(4)));
        assert_eq!(positions.endpos(), Some(Lsn(4)));
        positions.advance_written(Lsn(9));
        positions.advance_written(Lsn(8));
        assert_eq!(positions.written(), Lsn(9));
        positions.advance_replayed(Lsn(9));
        positions.reset_replayed(Lsn(3));
        assert_eq!(positions.replayed(), Lsn(3));
        assert!(!positions.is_apply_enabled() && !positions.is_held());
        positions.hold(true);
        assert!(positions.is_held());
        positions.add_applied(1, 4, 2);
        assert_eq!(positions.applied(), (1, 4, 2));
    }
}
