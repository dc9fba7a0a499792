//! A setup that may be killed at any moment. A slot carries no mark of who made it, so before one is made a token is noted in
//! the directory, and on the source in the sentinel's comment: where both agree, what is there was made by the attempt of
//! this directory. Whoever else makes or takes a slot of that name takes the token away first. Runs in the process that sets
//! up, which holds a lock meanwhile.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::wire::Connection;
use crate::sentinel::{Mark, Sentinel};
use crate::sys::durable::{LockFile, Sync, remove_file};
use crate::workdir::{Service, done, take_lock};

/// The file's name in the directory of the follow.
pub const ATTEMPT: &str = "attempt.json";

#[derive(Debug, Serialize, Deserialize)]
struct Attempt {
    slot_name: String,
    token: String,
    /// The sentinel was there before, made by the user: it stays when the rest is taken back.
    had_sentinel: bool,
}

impl Attempt {
    fn read(dir: &Path) -> Result<Option<Attempt>> {
        done::read(&file_in(dir))
    }

    fn is_marked_by(&self, mark: Option<&Mark>) -> bool {
        mark.is_some_and(|mark| {
            mark.slot_name == self.slot_name && mark.token.as_deref() == Some(&self.token)
        })
    }
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join(ATTEMPT)
}

/// One setup at a time: what another one is making must not be taken for left behind. Errors: `State` when one is under way.
pub fn lock(dir: &Path) -> Result<LockFile> {
    take_lock(dir, Service::Setup)
}

/// Say that a slot of this name is about to be made. On a source that cannot hold the sentinel nothing is proven later: a slot
/// that is there is somebody else's then.
pub fn begin(source: &mut Connection, dir: &Path, slot_name: &str) -> Result<()> {
    let mark = Sentinel::mark_of(source)?;
    let earlier = Attempt::read(dir)?.filter(|earlier| earlier.is_marked_by(mark.as_ref()));
    // What an interrupted setup of somebody else left, or a follow whose slot is gone.
    if mark.is_some() && earlier.is_none() {
        Sentinel::drop(source, dir)?;
    }
    // Our own stays: somebody may have said in it by now where the follow ends.
    let had_sentinel = match earlier {
        Some(earlier) => earlier.had_sentinel,
        None => Sentinel::has_table(source)?,
    };
    let attempt = Attempt {
        slot_name: slot_name.to_owned(),
        token: new_token()?,
        had_sentinel,
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
    let Some(attempt) = Attempt::read(dir)? else {
        return Ok(false);
    };
    let mark = Sentinel::mark_of(source)?;
    Ok(attempt.slot_name == slot_name && attempt.is_marked_by(mark.as_ref()))
}

/// Whether the sentinel is to stay when a setup is taken back.
pub fn had_sentinel(dir: &Path) -> Result<bool> {
    Ok(Attempt::read(dir)?.is_some_and(|attempt| attempt.had_sentinel))
}

/// A slot of this name is made for something else: from here on it is not of an attempt that was killed.
pub fn supersede(source: &mut Connection, slot_name: &str) -> Result<()> {
    let mark = Sentinel::mark_of(source)?;
    let is_begun = mark.is_some_and(|mark| mark.slot_name == slot_name && mark.token.is_some());
    match is_begun {
        true => Sentinel::unmark(source),
        false => Ok(()),
    }
}

/// The setup is complete and noted.
pub fn end(dir: &Path) -> Result<()> {
    remove_file(&file_in(dir))
}

/// 64 random bits in hexadecimal.
fn new_token() -> Result<String> {
    let mut bytes = [0u8; 8];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|error| Error::internal(format!("could not make a token: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
