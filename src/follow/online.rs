//! `clone --follow`: the online migration. The parent of both has nothing of its own to do: one child makes the slot and
//! clones in the snapshot that comes with it, another follows; when the clone is done, changes may be applied. `stages`
//! decides what comes when, also for a copy that was resumed in another snapshot.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::FollowSpec;
use super::patience::patiently;
use super::stages::{Action, Event, Stages};
use crate::clone::{self, CloneSpec};
use crate::error::Result;
use crate::pg::session::open_source;
use crate::sentinel::Sentinel;
use crate::stream::{meeting, setup};
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::{Ended, WorkerSet};
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
    let mut online = Online {
        spec,
        dir: &dir,
        top: workdir.paths.top().to_path_buf(),
        workers: WorkerSet::new(),
        stages: Stages::new(),
        is_following: false,
        shutdown,
    };
    online.start_clone(spec.clone.clone())?;
    while !online.tick()? {}
    drop(online);
    drop(workdir);
    Ok(())
}

struct Online<'a> {
    spec: &'a OnlineSpec,
    /// Where the files of the changes are.
    dir: &'a Path,
    top: PathBuf,
    workers: WorkerSet,
    stages: Stages,
    is_following: bool,
    shutdown: &'a Shutdown,
}

impl Online<'_> {
    /// Wait a moment and see what has happened; whether all is done.
    fn tick(&mut self) -> Result<bool> {
        self.shutdown.poll(&[], Some(Instant::now() + TICK))?;
        // Written when slot, origin and sentinel are all there.
        if !self.is_following && setup::noted(self.dir)?.is_some() {
            self.is_following = true;
            failpoint("online.before_follow")?;
            self.start_follow()?;
        }
        let ended = self.workers.reap();
        check(&ended)?;
        let mut events = Vec::new();
        for ended in ended {
            events.push(match ended.group {
                // Also when post-data was made by an earlier run, in which tables failed: what they hold by now is skipped.
                CLONE => Event::CloneEnded {
                    waits: clone::left_post_data(&self.top)? || !meeting::is_over(self.dir)?,
                },
                _ => Event::FollowEnded,
            });
        }
        if self.stages.awaits_meeting() && meeting::is_over(self.dir)? {
            events.push(Event::Met);
        }
        let mut is_done = false;
        for event in events {
            for action in self.stages.step(event) {
                is_done |= self.act(action)?;
            }
        }
        Ok(is_done)
    }

    fn act(&mut self, action: Action) -> Result<bool> {
        match action {
            Action::EnableApply => patiently(self.shutdown, || {
                enable_apply(&self.spec.follow, self.dir, self.shutdown)
            })?,
            Action::FinishClone => self.start_clone(CloneSpec {
                restart: false,
                resume: true,
                ..self.spec.clone.clone()
            })?,
            Action::ForgetMeeting => {
                failpoint("online.before_forget")?;
                meeting::forget(self.dir)?;
            }
            Action::End => return Ok(true),
        }
        Ok(false)
    }

    fn start_clone(&mut self, clone: CloneSpec) -> Result<()> {
        self.workers
            .start_one(CLONE, move |shutdown| clone::run(&clone, &shutdown))?;
        Ok(())
    }

    fn start_follow(&mut self) -> Result<()> {
        let follow = FollowSpec {
            resume: true,
            restart: false,
            ..self.spec.follow.clone()
        };
        self.workers
            .start_one(FOLLOW, move |shutdown| super::run(&follow, &shutdown))?;
        Ok(())
    }
}

/// The copy is there, indexes and constraints included: from here on changes may be applied. Said once, as from then on
/// it is for the user to say.
pub fn enable_apply(spec: &FollowSpec, dir: &Path, shutdown: &Shutdown) -> Result<()> {
    let source = open_source(&spec.source, "pgcopydb clone", shutdown)?;
    let mut sentinel = Sentinel::open(source, dir)?;
    if !setup::has_enabled_apply(dir) {
        sentinel.set_apply(true)?;
        return setup::note_enabled_apply(dir);
    }
    if !sentinel.get()?.apply {
        log::info!(
            "applying changes was disabled before: \"pgcopydb stream sentinel set apply\" enables it"
        );
    }
    Ok(())
}

/// A child that failed is the run's error; others that failed with it are in the log.
fn check(ended: &[Ended]) -> Result<()> {
    let Some(failed) = ended.iter().position(|ended| !ended.reason.is_success()) else {
        return Ok(());
    };
    for other in ended.iter().skip(failed + 1) {
        if other.last_error.is_some() {
            other.error().log("");
        }
    }
    Err(ended[failed].error())
}
