//! The children of an instance's parent, but for the workers: those that prepare the copy of a database, or finish it, a
//! few at a time, and one for each database that is followed. Decides what a failure means to the databases beside it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::site::Site;
use super::{InstanceSpec, NAME};
use crate::clone::{self, Job, Ready, Started};
use crate::error::{Error, Result, Side};
use crate::follow::{self, Action, Event, FollowSpec, Stages};
use crate::logging;
use crate::pg::connect::is_there;
use crate::stream::{meeting, setup};
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::{Ended, WorkerSet};

/// How often the parent looks around; a child's end wakes it earlier.
const TICK: Duration = Duration::from_millis(100);

/// How far a database is. Its follow goes on beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of it is under way, or the workers are at it.
    Copying,
    /// A child makes what rows need.
    Preparing,
    /// A child makes what needs the rows.
    Finishing,
    /// Its tables were copied as of different positions: changes are applied up to where they meet.
    Meeting,
    Copied,
    Failed,
}

pub struct Crew<'i> {
    spec: &'i InstanceSpec,
    sites: &'i [Site],
    shutdown: &'i Shutdown,
    workers: WorkerSet,
    stages: Vec<Stage>,
    /// What comes when of copy and changes.
    online: Vec<Stages>,
    /// Whose follow was started.
    are_followed: Vec<bool>,
    /// Databases whose rows are there.
    to_finish: VecDeque<usize>,
    failures: Vec<(usize, Error)>,
}

impl<'i> Crew<'i> {
    pub fn new(spec: &'i InstanceSpec, sites: &'i [Site], shutdown: &'i Shutdown) -> Crew<'i> {
        Crew {
            spec,
            sites,
            shutdown,
            workers: WorkerSet::new(),
            stages: vec![Stage::Copying; sites.len()],
            online: vec![Stages::new(); sites.len()],
            are_followed: vec![false; sites.len()],
            to_finish: VecDeque::new(),
            failures: Vec::new(),
        }
    }

    pub fn has_failed(&self, at: usize) -> bool {
        self.stages[at] == Stage::Failed
    }

    pub fn failures(&self) -> &[(usize, Error)] {
        &self.failures
    }

    fn count(&self, stage: Stage) -> usize {
        self.stages.iter().filter(|it| **it == stage).count()
    }

    /// Do something for one database in this process. `None` when that failed, which is listed.
    pub fn attempt<T>(&mut self, at: usize, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        logging::about(self.sites[at].name);
        let result = work();
        logging::about("");
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) => {
                self.failed(at, error.context(self.sites[at].name))?;
                Ok(None)
            }
        }
    }

    /// A database is out of the run. `Err` ends the run: a signal, a lost server, or the user's own wish.
    pub fn failed(&mut self, at: usize, error: Error) -> Result<()> {
        if self.spec.clone.fail_fast || error.is_interrupted() {
            return Err(error);
        }
        if error.is_connection_lost() && !self.answers(error.side())? {
            return Err(error);
        }
        error.log("");
        self.stages[at] = Stage::Failed;
        self.failures.push((at, error));
        // What it has received is kept, and the slot too: a resume goes on with them.
        self.workers.stop_group(self.sites[at].follow_name);
        Ok(())
    }

    /// Whether the server is there for the database that was named on the command line.
    fn answers(&self, side: Option<Side>) -> Result<bool> {
        let info = match side {
            Some(Side::Source) => &self.spec.source,
            Some(Side::Target) => &self.spec.target,
            None => return Ok(false),
        };
        is_there(info, NAME, self.shutdown)
    }

    /// Fork the process that makes what the rows of a database need, once fewer than `lanes` others do.
    pub fn prepare(&mut self, at: usize, started: &mut Started<'_>, lanes: usize) -> Result<()> {
        while self.count(Stage::Preparing) >= lanes {
            self.wait()?;
        }
        let name = self.sites[at].name;
        self.workers.start_one(name, |_| {
            logging::about(name);
            started.prepare_in_child()
        })?;
        self.stages[at] = Stage::Preparing;
        Ok(())
    }

    pub fn wait_until_prepared(&mut self) -> Result<()> {
        while self.count(Stage::Preparing) > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Everything that the workers can do for it is done.
    pub fn rows_are_there(&mut self, at: usize) {
        if !self.has_failed(at) {
            self.to_finish.push_back(at);
        }
    }

    /// Fork processes that make what needs the rows, as long as fewer than `lanes` do; they share the jobs that there are
    /// for restores.
    pub fn finish(&mut self, readies: &[(usize, Ready<'_>)], lanes: usize) -> Result<()> {
        self.take_ended()?;
        while self.count(Stage::Finishing) < lanes {
            let Some(at) = self.to_finish.pop_front() else {
                return Ok(());
            };
            let Some((_, ready)) = readies.iter().find(|(site, _)| *site == at) else {
                // Its copy was complete when the run began: all that it waited for was that its tables meet.
                self.finished(at)?;
                continue;
            };
            let sharing = (self.count(Stage::Finishing) + self.to_finish.len() + 1).min(lanes);
            let jobs = (self.spec.clone.restore_jobs / sharing as u32).max(1);
            let name = self.sites[at].name;
            self.workers.start_one(name, |_| {
                logging::about(name);
                ready.finish(jobs)
            })?;
            self.stages[at] = Stage::Finishing;
        }
        Ok(())
    }

    /// All that is left to finish, also what waits for changes to be applied first.
    pub fn finish_all(&mut self, readies: &[(usize, Ready<'_>)], lanes: usize) -> Result<()> {
        loop {
            self.finish(readies, lanes)?;
            let is_left = [Stage::Finishing, Stage::Meeting]
                .iter()
                .any(|stage| self.count(*stage) > 0);
            if !is_left && self.to_finish.is_empty() {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Begin to receive the changes of a database, once what that needs is set up.
    pub fn follow(&mut self, at: usize) -> Result<()> {
        let site = &self.sites[at];
        let Some(follow) = &site.follow else {
            return Ok(());
        };
        // Written when slot, origin and sentinel are all there.
        if self.are_followed[at] || self.has_failed(at) || setup::noted(&site.cdc_dir())?.is_none()
        {
            return Ok(());
        }
        let spec = FollowSpec {
            resume: true,
            restart: false,
            ..follow.clone()
        };
        self.are_followed[at] = true;
        self.workers.start_one(site.follow_name, move |shutdown| {
            logging::about(site.name);
            follow::run(&spec, &shutdown)
        })?;
        Ok(())
    }

    /// The child that finishes the copy has ended, or found that there was nothing left of it.
    pub fn finished(&mut self, at: usize) -> Result<()> {
        let site = &self.sites[at];
        // Also when post-data was made by an earlier run, in which tables failed: what they hold by now is skipped.
        let waits = site.follow.is_some()
            && (clone::left_post_data(&site.dir)? || !meeting::is_over(&site.cdc_dir())?);
        self.stages[at] = match waits {
            true => Stage::Meeting,
            false => Stage::Copied,
        };
        if !waits {
            log::info!("{} is copied", site.name);
        }
        self.step(at, Event::CloneEnded { waits })
    }

    /// Do what comes next of the copy and the changes of a database.
    fn step(&mut self, at: usize, event: Event) -> Result<()> {
        let (site, shutdown) = (&self.sites[at], self.shutdown);
        let Some(follow) = &site.follow else {
            return Ok(());
        };
        for action in self.online[at].step(event) {
            match action {
                Action::EnableApply => {
                    self.attempt(at, || {
                        follow::enable_apply(follow, &site.cdc_dir(), shutdown)
                    })?;
                }
                Action::FinishClone => self.to_finish.push_back(at),
                Action::ForgetMeeting => meeting::forget(&site.cdc_dir())?,
                // Others go on.
                Action::End => {}
            }
        }
        Ok(())
    }

    /// Those that are followed, until their end positions.
    pub fn wait_for_all(&mut self) -> Result<()> {
        while !self.workers.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.shutdown.poll(&[], Some(Instant::now() + TICK))?;
        self.take_ended()
    }

    fn take_ended(&mut self) -> Result<()> {
        for ended in self.workers.reap() {
            self.take(&ended)?;
        }
        for at in 0..self.sites.len() {
            if self.stages[at] == Stage::Meeting
                && self.online[at].awaits_meeting()
                && meeting::is_over(&self.sites[at].cdc_dir())?
            {
                self.step(at, Event::Met)?;
            }
        }
        Ok(())
    }

    /// Whatever ends the run ends its children.
    pub fn stop(&mut self) {
        self.workers.stop();
    }

    fn take(&mut self, ended: &Ended) -> Result<()> {
        let is_its = |site: &Site| [site.name, site.follow_name].contains(&ended.group);
        let Some(at) = self.sites.iter().position(is_its) else {
            return Ok(());
        };
        if !ended.reason.is_success() {
            return self.failed(at, ended.error());
        }
        match self.stages[at] {
            _ if ended.group == self.sites[at].follow_name => {
                log::info!("{} has ended at its end position", ended.name);
                self.step(at, Event::FollowEnded)
            }
            Stage::Preparing => {
                self.stages[at] = Stage::Copying;
                Ok(())
            }
            Stage::Finishing => self.finished(at),
            Stage::Copying | Stage::Meeting | Stage::Copied | Stage::Failed => Ok(()),
        }
    }
}

/// End what the children and workers of failed databases, or of all, may have left on the servers.
pub fn end_backends(spec: &InstanceSpec, crew: &Crew<'_>, jobs: &[Option<Job>], is_all: bool) {
    let jobs = jobs.iter().enumerate();
    let jobs = jobs.filter(|(at, _)| is_all || crew.has_failed(*at));
    Job::end_backends_of(&spec.clone, jobs.filter_map(|(_, job)| job.as_ref()));
}
