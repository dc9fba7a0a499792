//! The follow parent's part in a copy that was read in several snapshots (see `stream::meeting`): apply goes on to the
//! point where all tables stand together, and is kept from going further until the clone has made what needs them
//! together. Runs in the follow parent.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::stream::meeting;
use crate::stream::positions::Positions;

/// The number of the wish for a pause there. Those of comparisons are times; while there is a point they are declined.
fn wish(at: Lsn) -> u64 {
    at.0
}

#[derive(Debug)]
pub struct Meet {
    dir: PathBuf,
    /// The point, as long as apply may not go beyond it.
    at: Option<Lsn>,
    is_met: bool,
}

impl Meet {
    pub fn new(dir: &Path) -> Meet {
        Meet {
            dir: dir.to_path_buf(),
            at: None,
            is_met: false,
        }
    }

    /// Look for a point, tell apply of it, and note when everything up to it is on the target. To be called before apply
    /// starts and all the time it runs; `applies` is whether it may. Whether there is a point.
    pub fn look(&mut self, positions: &Positions, applies: bool) -> Result<bool> {
        let at = meeting::noted(&self.dir)?.map(|meeting| meeting.at);
        if at != self.at {
            self.at = at;
            self.is_met = at.is_some() && meeting::is_over(&self.dir)?;
        }
        let Some(at) = at else {
            return Ok(false);
        };
        if applies {
            check_end(positions.endpos(), at)?;
        }
        // It stays also once the point is met, so that nothing is applied between here and the end of apply.
        positions.set_pause(Some((wish(at), at)));
        if !self.is_met && has_met(positions, at) {
            self.note_met(at)?;
        }
        Ok(true)
    }

    /// Whether apply has to wait for the clone.
    pub fn holds(&self) -> bool {
        self.at.is_some() && self.is_met
    }

    /// The end position is reached: the point is met, unless it lies behind. The end may have been set after the last look.
    pub fn reached_end(&mut self, positions: &Positions) -> Result<()> {
        match self.at {
            Some(at) if !self.is_met => {
                check_end(positions.reached(), at)?;
                self.note_met(at)
            }
            _ => Ok(()),
        }
    }

    fn note_met(&mut self, at: Lsn) -> Result<()> {
        meeting::note_met(&self.dir, at)?;
        self.is_met = true;
        log::info!(
            "everything up to {at} is on the target, where all tables meet: applying waits for the rest of the clone"
        );
        Ok(())
    }
}

/// Whether everything up to the point is on the target, and flushed there: apply stands still before what comes after it, or
/// has no more than that.
fn has_met(positions: &Positions, at: Lsn) -> bool {
    let flushed = positions.replayed_flushed();
    // What is committed is all that there is up to the point.
    let stands_still = positions.paused() == Some(wish(at)) && flushed >= positions.committed();
    flushed >= at || stands_still
}

/// Before the point the tables are as of different positions, whatever is applied.
fn check_end(endpos: Option<Lsn>, at: Lsn) -> Result<()> {
    match endpos.filter(|endpos| *endpos < at) {
        None => Ok(()),
        Some(endpos) => Err(Error::state(format!(
            "cannot end at {endpos}: the copy was resumed, and its last tables are as of {at}, so that the target is \
             consistent from there on only"
        ))
        .with_hint(
            "Set a later end position, such as with \"pgcopydb stream sentinel set endpos --current\", and run again with \
             --resume and without --endpos.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::meeting::Meeting;

    const AT: Lsn = Lsn(100);

    fn meeting_at(dir: &Path, at: Lsn) {
        let meeting = Meeting {
            at,
            ..Meeting::default()
        };
        meeting::note(dir, &meeting).unwrap();
    }

    #[test]
    fn the_point_is_met_once_all_before_it_is_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let positions = Positions::create().unwrap();
        let mut meet = Meet::new(dir.path());
        assert!(!meet.look(&positions, true).unwrap());
        meeting_at(dir.path(), AT);
        assert!(meet.look(&positions, true).unwrap());
        assert_eq!(positions.pause(), Some((wish(AT), AT)));
        assert!(!meet.holds());
        // Apply stands still before a transaction beyond it, with the last one before it not flushed yet.
        positions.advance_committed(Lsn(90));
        positions.set_paused(wish(AT));
        meet.look(&positions, true).unwrap();
        assert!(!meet.holds());
        positions.advance_replayed_flushed(Lsn(90));
        meet.look(&positions, true).unwrap();
        assert!(meet.holds());
        assert!(meeting::is_over(dir.path()).unwrap());
        // Another process goes on from there.
        let mut later = Meet::new(dir.path());
        later.look(&Positions::create().unwrap(), true).unwrap();
        assert!(later.holds());
        // A further snapshot was needed.
        meeting_at(dir.path(), Lsn(200));
        meet.look(&positions, false).unwrap();
        assert!(!meet.holds());
        meeting::forget(dir.path()).unwrap();
        assert!(!meet.look(&positions, true).unwrap());
        assert!(!meet.holds());
    }

    #[test]
    fn an_end_that_came_between_two_looks_is_refused_too() {
        let dir = tempfile::tempdir().unwrap();
        let positions = Positions::create().unwrap();
        let mut meet = Meet::new(dir.path());
        meeting_at(dir.path(), AT);
        meet.look(&positions, true).unwrap();
        positions.set_reached(Lsn(99));
        assert!(meet.reached_end(&positions).is_err());
        assert!(!meeting::is_over(dir.path()).unwrap());
        positions.set_reached(AT);
        meet.reached_end(&positions).unwrap();
        assert!(meeting::is_over(dir.path()).unwrap());
    }

    #[test]
    fn an_idle_source_meets_by_its_keepalives() {
        let positions = Positions::create().unwrap();
        for (flushed, is_met) in [(99, false), (100, true), (101, true)] {
            positions.advance_replayed_flushed(Lsn(flushed));
            assert_eq!(has_met(&positions, AT), is_met, "{flushed}");
        }
    }

    #[test]
    fn an_end_before_the_point_is_refused() {
        assert!(check_end(None, AT).is_ok());
        assert!(check_end(Some(Lsn(101)), AT).is_ok());
        assert!(check_end(Some(AT), AT).is_ok());
        let error = check_end(Some(Lsn(99)), AT).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("0/64"), "{error}");
        assert!(error.hint().unwrap().contains("set endpos --current"));
    }
}
