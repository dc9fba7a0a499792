//! A phase whose connection was lost is done again: each begins by asking what is done already, as it does after a
//! `--resume`. Runs in the parent. Not for the data section, whose workers try again piece by piece.

use std::time::Duration;

use crate::error::Result;
use crate::pg::remedy::Remedy;
use crate::sys::signal::Shutdown;

/// How often a phase is tried; each pause is twice as long as the one before. Connecting waits for a server that is
/// restarting, so a few attempts are enough.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

pub fn again<T>(
    what: &str,
    shutdown: &Shutdown,
    mut phase: impl FnMut() -> Result<T>,
) -> Result<T> {
    let (mut attempt, mut pause) = (1, FIRST_PAUSE);
    loop {
        let error = match phase() {
            Err(error) if Remedy::of(&error) == Remedy::Connection => error,
            other => return other,
        };
        if attempt == ATTEMPTS || error.was_waited_for() {
            return Err(error);
        }
        // What broke because of a signal is no news.
        shutdown.check()?;
        attempt += 1;
        log::warn!(
            "{error}; trying again ({what}, attempt {attempt} of {ATTEMPTS}, in {} ms)",
            pause.as_millis()
        );
        shutdown.sleep(pause)?;
        pause *= 2;
    }
}
