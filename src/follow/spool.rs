//! How much of the changes waits in files: above --cdc-max-size receiving holds until some of it is applied. Runs in the
//! follow parent, which looks once a second; it removes no file and receives nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::size::pretty_size;
use crate::stream::positions::Positions;
use crate::stream::segment;

/// How often it is said that receiving still holds.
const REPEAT: Duration = Duration::from_secs(60);

/// Small rows that have no index take up to this many bytes in both files for each of their WAL.
const FILES_PER_WAL: u32 = 4;

/// The files of one follow, and their limit.
pub struct Spool {
    dir: PathBuf,
    limit: Option<u64>,
    said: Option<Instant>,
}

/// What is done with what was seen.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Receive,
    Hold,
}

/// Files of less than nine tenths of the limit are room enough to go on: without a gap between both, receiving would hold
/// and go on with each file.
fn judge(is_held: bool, waiting: u64, limit: u64) -> Verdict {
    let bound = if is_held { limit / 10 * 9 } else { limit };
    match waiting > bound {
        true => Verdict::Hold,
        false => Verdict::Receive,
    }
}

impl Spool {
    pub fn new(dir: &Path, limit: Option<u64>) -> Spool {
        Spool {
            dir: dir.to_path_buf(),
            limit,
            said: None,
        }
    }

    /// Look at the files, and tell receive whether it may go on.
    pub fn look(&mut self, positions: &Positions) -> Result<()> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let waiting = segment::waiting_bytes(&self.dir)?;
        match judge(positions.is_held(), waiting, limit) {
            Verdict::Hold => {
                positions.hold(true);
                self.say(positions, waiting, limit);
            }
            Verdict::Receive if positions.is_held() => {
                positions.hold(false);
                self.said = None;
                log::info!("receiving goes on: {} wait in files", pretty_size(waiting));
            }
            Verdict::Receive => {}
        }
        Ok(())
    }

    /// What a disk that is full holds, and what it would have to hold; nothing when it cannot be looked at.
    pub fn words(&self, left_on_source: Option<u64>) -> Option<String> {
        let waiting = segment::waiting_bytes(&self.dir).ok()?;
        let disk = nix::sys::statvfs::statvfs(&self.dir).ok()?;
        let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        let mut words = format!(
            "{} of changes wait in \"{}\", whose file system has {} free",
            pretty_size(waiting),
            self.dir.display(),
            pretty_size(free)
        );
        if let Some(bytes) = left_on_source {
            words.push_str(&format!(
                "; the source keeps {} of WAL that is still to come, and {} times that is room enough for it",
                pretty_size(bytes),
                FILES_PER_WAL
            ));
        }
        Some(words)
    }

    fn say(&mut self, positions: &Positions, waiting: u64, limit: u64) {
        if self.said.is_some_and(|said| said.elapsed() < REPEAT) {
            return;
        }
        self.said = Some(Instant::now());
        let until = match positions.is_apply_enabled() {
            true => "until some are applied",
            false => "until applying is enabled and some are applied",
        };
        log::warn!(
            "{} of changes wait in \"{}\", and --cdc-max-size is {}: receiving holds {until}; meanwhile the source keeps its WAL",
            pretty_size(waiting),
            self.dir.display(),
            pretty_size(limit)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, judge};

    #[test]
    fn it_holds_above_the_limit_and_goes_on_with_some_room() {
        assert_eq!(judge(false, 1000, 1000), Verdict::Receive);
        assert_eq!(judge(false, 1001, 1000), Verdict::Hold);
        assert_eq!(judge(true, 901, 1000), Verdict::Hold);
        assert_eq!(judge(true, 900, 1000), Verdict::Receive);
        // Nothing waits: whatever the limit, there is a way on.
        assert_eq!(judge(true, 0, 0), Verdict::Receive);
    }
}
