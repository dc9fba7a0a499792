//! Named fault points for the tests that prove recovery: `PGCOPYDB_FAILPOINT=copy.before_done_file=kill` kills the
//! process that comes by there. Read from the environment so that it crosses fork. Without the cargo feature
//! `failpoint` the call is empty.

use crate::error::Result;

/// Every fault point there is. A test walks this list, so a new one cannot be forgotten.
pub const ALL: &[&str] = &[
    "clone.after_dump",
    "clone.before_restore_pre",
    "clone.after_restore_pre",
    "copy.started",
    "copy.before_commit",
    "copy.after_commit",
    "copy.before_flush",
    "copy.before_done_file",
    "copy.after_done_file",
    "index.before_build",
    "index.after_build",
    "constraint.before_attach",
    "constraint.after_attach",
    "blobs.before_commit",
    "clone.before_sequences",
    "clone.after_sequences",
    "clone.before_restore_post",
    "clone.after_restore_post",
    "clone.before_summary",
];

#[cfg(not(feature = "failpoint"))]
pub fn failpoint(name: &'static str) -> Result<()> {
    debug_assert!(ALL.contains(&name), "fault point {name} is not listed");
    Ok(())
}

/// Do what the environment says for this point: `name=kill`, `name=kill:3` (the third time this process comes by), or
/// `name=error`; several with commas.
#[cfg(feature = "failpoint")]
pub fn failpoint(name: &'static str) -> Result<()> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSES: AtomicU32 = AtomicU32::new(0);
    debug_assert!(ALL.contains(&name), "fault point {name} is not listed");
    let Ok(wanted) = std::env::var("PGCOPYDB_FAILPOINT") else {
        return Ok(());
    };
    for (point, action) in wanted.split(',').filter_map(|entry| entry.split_once('=')) {
        if point != name {
            continue;
        }
        let (action, nth) = action.split_once(':').unwrap_or((action, "1"));
        if PASSES.fetch_add(1, Ordering::SeqCst) + 1 != nth.parse().unwrap_or(1) {
            continue;
        }
        match action {
            "kill" => {
                let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            }
            _ => return Err(crate::error::Error::internal(format!("fault point {name}"))),
        }
    }
    Ok(())
}
