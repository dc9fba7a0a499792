//! What the follow parent asks of a server between modes, at its beginning and at its end: a server that is away then is
//! waited for as long as it takes, as everywhere else while following. Runs in the follow parent.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::pg::remedy::Remedy;
use crate::sys::signal::Shutdown;

/// Between attempts; connecting waits for a server that is starting by itself.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often it is said that a server is still away.
const REPEAT: Duration = Duration::from_secs(30);

/// Ask until there is an answer, or an error that will not go away. What is asked for may be done twice.
pub fn patiently<T>(shutdown: &Shutdown, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    let mut told: Option<Instant> = None;
    loop {
        let error = match ask() {
            Err(error) if Remedy::of(&error).exists() => error,
            other => return other,
        };
        if told.is_none_or(|told| told.elapsed() > REPEAT) {
            log::warn!("{error}; trying again for as long as it takes");
            told = Some(Instant::now());
        }
        shutdown.sleep(pause)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
