//! A pause of apply at one position, asked for by another process on the same work directory: whoever compares both sides
//! exactly needs the target as it is when everything up to there is applied, and nothing after it.
//!
//! Three files beside the changes. The asker holds a lock (`pause.lock`) as long as it lives and writes its wish
//! (`pause.json`); the follow parent carries the wish to apply through the shared positions, and apply's word back into
//! the answer (`paused.json`). The lock ends with its process, so that nobody who died leaves apply paused; and a pause
//! that lasts too long is ended from this side. Every wish has a number of its own: an old answer is never taken for a new one.
//!
//! `Asker` runs in the process that compares, `Carrier` in the follow parent.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::positions::Positions;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::sys::durable::{LockFile, Sync, write_atomic};
use crate::sys::signal::Shutdown;

pub const WISH: &str = "pause.json";
pub const ANSWER: &str = "paused.json";
pub const LOCK: &str = "pause.lock";

/// Before any transaction that is not applied yet: every commit ends after it.
pub const AT_ONCE: Lsn = Lsn::INVALID;

/// How long apply may stand still for one wish. A slot waits for the source's transactions to end meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The answer is written again this often, so that the asker knows that somebody is there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// No answer for this long means that nobody follows. The parent may be busy for seconds with a server that is away.
const PATIENCE: Duration = Duration::from_secs(20);

/// The parent learns from the sentinel within a second or two that it may apply, such as at the end of the copy.
const ENABLING: Duration = Duration::from_secs(5);

/// How often the asker looks.
const TICK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    number: u64,
    at: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Apply has not come to the position yet.
    Waiting,
    /// Everything that committed at or before the position is on the target, and nothing else will be.
    Paused,
    /// Changes are collected, not applied.
    ApplyDisabled,
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    number: u64,
    state: State,
    /// Counts up with each writing.
    beat: u64,
}

/// The parent's part.
#[derive(Debug)]
pub struct Carrier {
    dir: PathBuf,
    wish: Option<Wish>,
    paused_since: Option<Instant>,
    answer: Option<(Answer, Instant)>,
    /// The number of a wish that took too long.
    given_up: Option<u64>,
}

impl Carrier {
    pub fn new(dir: &Path) -> Carrier {
        Carrier {
            dir: dir.to_path_buf(),
            wish: None,
            paused_since: None,
            answer: None,
            given_up: None,
        }
    }

    /// Carry the wish to apply, and its word back. To be called before apply starts and all the time it runs.
    pub fn carry(&mut self, positions: &Positions, applies: bool) -> Result<()> {
        let Some(wish) = self.take_wish()? else {
            positions.set_pause(None);
            return Ok(());
        };
        let is_paused = positions.paused() == Some(wish.number);
        let since = is_paused.then(|| *self.paused_since.get_or_insert_with(Instant::now));
        let state = match (applies, is_paused) {
            (false, _) => State::ApplyDisabled,
            _ if self.given_up == Some(wish.number) => State::TooLong,
            // It went on after an earlier wish had taken too long.
            _ if wish.at != AT_ONCE && positions.committed() > wish.at => State::TooLong,
            (true, true) if since.is_some_and(|since| since.elapsed() > LONGEST_PAUSE) => {
                log::warn!("a comparison holds up apply for too long: going on");
                self.given_up = Some(wish.number);
                State::TooLong
            }
            (true, true) => State::Paused,
            (true, false) => State::Waiting,
        };
        // Whoever believes in the pause must be told before it ends.
        self.write_answer(wish.number, state)?;
        let is_wished = matches!(state, State::Waiting | State::Paused);
        positions.set_pause(is_wished.then_some((wish.number, wish.at)));
        Ok(())
    }

    /// Somebody else holds apply back: the wish is not passed on, and its owner told so.
    pub fn decline(&mut self) -> Result<()> {
        match self.take_wish()? {
            Some(wish) => self.write_answer(wish.number, State::ApplyDisabled),
            None => Ok(()),
        }
    }

    /// The wish there is; without one there is no answer either.
    fn take_wish(&mut self) -> Result<Option<Wish>> {
        let wish = self.read_wish()?;
        if wish != self.wish {
            self.wish = wish;
            self.paused_since = None;
        }
        if wish.is_none() && self.answer.take().is_some() {
            let _ = std::fs::remove_file(self.dir.join(ANSWER));
        }
        Ok(wish)
    }

    /// A wish counts as long as its process holds the lock.
    fn read_wish(&self) -> Result<Option<Wish>> {
        let path = self.dir.join(WISH);
        let Ok(bytes) = std::fs::read(&path) else {
            return Ok(None);
        };
        match LockFile::take(&self.dir.join(LOCK))? {
            Err(held) if !held.is_orphaned() => Ok(serde_json::from_slice(&bytes).ok()),
            _ => {
                log::info!("whoever asked for a pause of apply is gone");
                let _ = std::fs::remove_file(&path);
                Ok(None)
            }
        }
    }

    fn write_answer(&mut self, number: u64, state: State) -> Result<()> {
        let beat = match &self.answer {
            Some((last, at))
                if (last.number, last.state) == (number, state) && at.elapsed() < HEARTBEAT =>
            {
                return Ok(());
            }
            last => last.map_or(1, |(last, _)| last.beat + 1),
        };
        let answer = Answer {
            number,
            state,
            beat,
        };
        write(&self.dir.join(ANSWER), &answer)?;
        self.answer = Some((answer, Instant::now()));
        Ok(())
    }
}

/// The part of whoever needs the pause. Dropped, it ends the pause.
#[derive(Debug)]
pub struct Asker {
    dir: PathBuf,
    number: u64,
    _lock: LockFile,
}

impl Asker {
    /// Pause apply where it stands.
    pub fn begin(dir: &Path, shutdown: &Shutdown) -> Result<Asker> {
        let lock = take_lock(dir, shutdown)?;
        let mut asker = Asker {
            dir: dir.to_path_buf(),
            number: 0,
            _lock: lock,
        };
        asker.move_to(AT_ONCE, shutdown)?;
        Ok(asker)
    }

    /// Let apply go on to this position, and wait until it is there.
    pub fn move_to(&mut self, at: Lsn, shutdown: &Shutdown) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(1, |now| now.as_nanos() as u64);
        self.number = now.max(self.number + 1);
        let wish = Wish {
            number: self.number,
            at,
        };
        write(&self.dir.join(WISH), &wish)?;
        let started = Instant::now();
        let mut last_beat = (0, started);
        loop {
            shutdown.sleep(TICK)?;
            let Some(answer) = self.answer() else {
                if last_beat.1.elapsed() > PATIENCE {
                    return Err(self.nobody());
                }
                continue;
            };
            match answer.state {
                State::Paused => return Ok(()),
                State::Waiting => {}
                State::ApplyDisabled if started.elapsed() < ENABLING => {}
                State::ApplyDisabled => {
                    return Err(Error::state(
                        "cannot compare exactly: the follow collects changes and applies none",
                    )
                    .with_hint(
                        "Wait for the end of the copy, or see \"pgcopydb stream sentinel set apply\".",
                    ));
                }
                State::TooLong => return Err(too_long()),
            }
            if answer.beat != last_beat.0 {
                last_beat = (answer.beat, Instant::now());
            } else if last_beat.1.elapsed() > PATIENCE {
                return Err(self.nobody());
            }
        }
    }

    /// That apply has stood still from the end of `move_to` until now. Another apply process may have begun meanwhile, which
    /// has nothing to say yet: the wish stands, so that it goes no further than the last one.
    pub fn confirm(&self) -> Result<()> {
        match self.answer().map(|answer| answer.state) {
            Some(State::Paused | State::Waiting) => Ok(()),
            _ => Err(too_long()),
        }
    }

    /// The answer to the last wish.
    fn answer(&self) -> Option<Answer> {
        let bytes = std::fs::read(self.dir.join(ANSWER)).ok()?;
        let answer: Answer = serde_json::from_slice(&bytes).ok()?;
        (answer.number == self.number).then_some(answer)
    }

    fn nobody(&self) -> Error {
        Error::state(format!(
            "cannot compare exactly: no follow answers in \"{}\"",
            self.dir.display()
        ))
        .with_hint("Give the --dir of the follow that runs, or compare without --follow when nobody writes.")
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // Should it stay, the lock tells that nobody wishes it any more.
        let _ = std::fs::remove_file(self.dir.join(WISH));
    }
}

fn too_long() -> Error {
    Error::state("the follow went on before the comparison had its snapshots").with_hint(
        "Long transactions on the source keep it from showing its state at one point: try again when they have ended.",
    )
}

/// The parent takes the lock for a moment too, to see whether it is free.
fn take_lock(dir: &Path, shutdown: &Shutdown) -> Result<LockFile> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match LockFile::take(&dir.join(LOCK))? {
            Ok(lock) => return Ok(lock),
            Err(_) if Instant::now() < deadline => shutdown.sleep(TICK)?,
            Err(held) => {
                let pid = held.0.map_or("unknown".to_owned(), |pid| pid.to_string());
                return Err(Error::state(format!(
                    "cannot compare exactly: a process with pid {pid} is doing so"
                )));
            }
        }
    }
}

fn write(path: &Path, data: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(data)
        .map_err(|error| Error::internal(format!("could not encode a pause: {error}")))?;
    // It means nothing after a crash of the machine.
    write_atomic(path, &bytes, Sync::Later)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parent and its apply, which is always at once where it shall be.
    fn carry(carrier: &mut Carrier, positions: &Positions) -> Option<(u64, Lsn)> {
        carrier.carry(positions, true).unwrap();
        if let Some((number, _)) = positions.pause() {
            positions.set_paused(number);
        }
        carrier.carry(positions, true).unwrap();
        positions.pause()
    }

    fn asker(dir: &Path) -> Asker {
        Asker {
            dir: dir.to_path_buf(),
            number: 0,
            _lock: take_lock(dir, &Shutdown::deaf()).unwrap(),
        }
    }

    fn wish(asker: &mut Asker, number: u64, at: u64) {
        asker.number = number;
        let wish = Wish {
            number,
            at: Lsn(at),
        };
        write(&asker.dir.join(WISH), &wish).unwrap();
    }

    #[test]
    fn a_wish_is_carried_and_ends_with_its_asker() {
        let dir = tempfile::tempdir().unwrap();
        let positions = Positions::create().unwrap();
        let mut carrier = Carrier::new(dir.path());
        assert_eq!(carry(&mut carrier, &positions), None);
        let mut asker = asker(dir.path());
        wish(&mut asker, 7, 0);
        assert!(asker.confirm().is_err());
        assert_eq!(carry(&mut carrier, &positions), Some((7, AT_ONCE)));
        asker.confirm().unwrap();
        // An answer to another wish is none.
        wish(&mut asker, 8, 99);
        assert!(asker.confirm().is_err());
        carrier.carry(&positions, true).unwrap();
        assert_eq!(asker.answer().unwrap().state, State::Waiting);
        assert_eq!(carry(&mut carrier, &positions), Some((8, Lsn(99))));
        asker.confirm().unwrap();
        positions.advance_committed(Lsn(100));
        carrier.carry(&positions, true).unwrap();
        assert!(asker.confirm().is_err());
        assert_eq!(positions.pause(), None);
        wish(&mut asker, 9, 0);
        assert!(carry(&mut carrier, &positions).is_some());
        carrier.carry(&positions, false).unwrap();
        assert!(asker.confirm().is_err());
        assert_eq!(positions.pause(), None);
        drop(asker);
        assert_eq!(carry(&mut carrier, &positions), None);
        assert!(!dir.path().join(ANSWER).exists());
    }

    #[test]
    fn nobody_who_is_gone_keeps_apply_paused() {
        let dir = tempfile::tempdir().unwrap();
        let positions = Positions::create().unwrap();
        let mut carrier = Carrier::new(dir.path());
        let mut asker = asker(dir.path());
        wish(&mut asker, 7, 0);
        assert!(carry(&mut carrier, &positions).is_some());
        // As if it was killed: the wish stays, the lock does not.
        let wish = std::fs::read(dir.path().join(WISH)).unwrap();
        drop(asker);
        std::fs::write(dir.path().join(WISH), wish).unwrap();
        assert_eq!(carry(&mut carrier, &positions), None);
        assert!(!dir.path().join(WISH).exists());
    }
}
