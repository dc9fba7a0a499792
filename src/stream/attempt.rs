//! A setup that may be killed at any moment. A slot carries no mark of who made it, so before one is made a token is noted in
//! the directory, and on the source in the sentinel's comment: where both agree, what is there was made by the attempt of
//! this directory, and by nobody who has begun since. Runs in the process that sets up.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::wire::Connection;
use crate::sentinel::{Mark, Sentinel};
use crate::sys::durable::Sync;
use crate::workdir::done;

/// The file's name in the directory of the follow.
pub const ATTEMPT: &str = "attempt.json";

#[derive(Debug, Serialize, Deserialize)]
struct Attempt {
    slot_name: String,
    token: String,
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join(ATTEMPT)
}

/// Say that a slot of this name is about to be made. On a source that cannot hold the sentinel nothing is proven later: a slot
/// that is there is somebody else's then.
pub fn begin(source: &mut Connection, dir: &Path, slot_name: &str) -> Result<()> {
    let attempt = Attempt {
        slot_name: slot_name.to_owned(),
        token: new_token()?,
    };
    done::write(&file_in(dir), &attempt, Sync::Now)?;
    let mark = Mark {
        slot_name: attempt.slot_name,
        token: Some(attempt.token),
    };
    Sentinel::prepare(source, dir, &mark)
}

/// Whether a slot of this name that is there can only be of the attempt that was begun in this directory.
pub fn was_begun(source: &mut Connection, dir: &Path, slot_name: &str) -> Result<bool> {
    let Some(attempt) = done::read::<Attempt>(&file_in(dir))? else {
        return Ok(false);
    };
    let mark = Sentinel::mark_of(source)?;
    Ok(attempt.slot_name == slot_name
        && mark.is_some_and(|mark| {
            mark.slot_name == slot_name && mark.token.as_deref() == Some(&attempt.token)
        }))
}

/// 64 random bits in hexadecimal.
fn new_token() -> Result<String> {
    let mut bytes = [0u8; 8];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|error| Error::internal(format!("could not make a token: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
