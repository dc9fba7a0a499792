//! `clone --follow`: the online migration. The parent of both has nothing of its own to do: one child makes the slot and
//! clones in the snapshot that comes with it, another follows; when the clone is done, changes may be applied.

use std::time::{Duration, Instant};

use super::FollowSpec;
use crate::clone::{self, CloneSpec};
use crate::error::Result;
use crate::pg::session::open_source;
use crate::sentinel::Sentinel;
use crate::stream::setup;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::WorkerSet;
use crate::workdir::{Service, WorkDir, cdc_location, location};

const CLONE: &str = "clone";
const FOLLOW: &str = "follow";

/// How often the parent looks for the slot; a child's end wakes it earlier.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct OnlineSpec {
    pub clone: CloneSpec,
    pub follow: FollowSpec,
}

/// Clone and follow until the end position.
pub fn run(spec: &OnlineSpec, shutdown: &Shutdown) -> Result<()> {
    let workdir = WorkDir::open(&location(spec.clone.dir.as_deref()), Service::Online)?;
    let dir = cdc_location(spec.clone.dir.as_deref());
    if spec.clone.restart {
        let follow = spec.follow.setup(&dir);
        setup::cleanup(&follow, shutdown)?;
    }
    let mut workers = WorkerSet::new();
    workers.start_one(CLONE, |shutdown| clone::run(&spec.clone, &shutdown))?;
    let mut is_following = false;
    loop {
        shutdown.poll(&[], Some(Instant::now() + TICK))?;
        // Written when slot, origin and sentinel are all there.
        if !is_following && setup::noted(&dir)?.is_some() {
            is_following = true;
            failpoint("online.before_follow")?;
            let follow = FollowSpec {
                resume: true,
                restart: false,
                ..spec.follow.clone()
            };
            workers.start_one(FOLLOW, move |shutdown| super::run(&follow, &shutdown))?;
        }
        let ended = workers.reap();
        if let Some(failed) = ended.iter().position(|ended| !ended.reason.is_success()) {
            for other in ended.iter().skip(failed + 1) {
                if other.last_error.is_some() {
                    other.error().log("");
                }
            }
            return Err(ended[failed].error());
        }
        for ended in ended {
            match ended.group {
                CLONE => enable_apply(spec, &dir, shutdown)?,
                // Its end position can only be reached once it may apply, which is after the clone.
                _ => {
                    drop(workdir);
                    return Ok(());
                }
            }
        }
    }
}

/// The copy is there, indexes and constraints included: from here on changes may be applied.
fn enable_apply(spec: &OnlineSpec, dir: &std::path::Path, shutdown: &Shutdown) -> Result<()> {
    let source = open_source(&spec.follow.source, "pgcopydb clone", shutdown)?;
    Sentinel::open(source, dir)?.set_apply(true)
}
