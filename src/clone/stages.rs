//! A clone in its stages, for whoever runs several at a time: open, start (which takes the snapshot), prepare, copy, finish.
//! Runs in the parent, which holds the snapshot. What does not need the holder's own connection may run in a child, so that
//! several databases are prepared and finished at once: what comes of it is in the work directory.

use super::again::again;
use super::begin::{self, Run};
use super::phases::Phase;
use super::summary::Clock;
use super::{Clone, CloneSpec, after_data, before_data, data, reach, unlogged};
use crate::catalog::Catalog;
use crate::check;
use crate::copy::{CopyContext, End, Jobs};
use crate::error::{Error, Result, Side};
use crate::pg::session::RunName;
use crate::snapshot::Snapshot;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, location};

/// A clone whose work directory is open, and whose run has begun there.
pub struct Job {
    spec: CloneSpec,
    pub(super) workdir: WorkDir,
    run: Run,
}

impl Job {
    pub fn open(spec: &CloneSpec) -> Result<Job> {
        let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Clone)?;
        let mut spec = spec.clone();
        let run = begin::begin(&mut spec, &workdir)?;
        Ok(Job { spec, workdir, run })
    }

    /// Reach the servers, check them, and take the snapshot; `None` when everything is copied already.
    pub fn start<'a>(&'a self, shutdown: &'a Shutdown) -> Result<Option<Started<'a>>> {
        let (spec, run) = (&self.spec, &self.run);
        begin::check_predecessors(spec, &self.workdir)?;
        let clock = Clock::start();
        let clone = again("the checks", shutdown, || {
            reach::reach(spec, &self.workdir, run, shutdown)
        })?;
        if let Some(earlier) = &run.earlier {
            begin::end_backends(spec, &[earlier]);
        }
        if begin::is_all_done(&clone)? {
            return Ok(None);
        }
        unlogged::forget_lost(&clone)?;
        if let (Some(begun), true) = (&clone.checked, spec.follow.is_some() && !run.is_resumed) {
            // A slot that nobody will read must not be made.
            again("the checks", shutdown, || {
                check::objects_now(&clone.check_spec, begun, shutdown)
            })?;
        }
        let snapshot = begin::snapshot(&clone)?;
        if spec.phases.has(Phase::Dump) {
            reach::note_source(&clone)?;
        }
        Ok(Some(Started {
            clone,
            snapshot,
            clock,
        }))
    }

    /// By which its sessions are known.
    pub fn run_name(&self) -> &RunName {
        &self.run.name
    }

    /// End what this run may have left on the servers. Best effort.
    pub fn end_backends(&self) {
        begin::end_backends(&self.spec, &[&self.run.name]);
    }

    /// The same for several databases of the same two servers, which `spec` says how to reach.
    pub fn end_backends_of<'j>(spec: &CloneSpec, jobs: impl Iterator<Item = &'j Job>) {
        let runs: Vec<&RunName> = jobs.map(|job| &job.run.name).collect();
        if !runs.is_empty() {
            begin::end_backends(spec, &runs);
        }
    }

    /// The clone is over, though this process goes on: the directory is free for others.
    pub fn release(&self) -> Result<()> {
        self.workdir.release()
    }
}

/// A clone that may begin.
pub struct Started<'a> {
    pub(super) clone: Clone<'a>,
    /// `None`: nothing is left to read.
    snapshot: Option<Snapshot>,
    clock: Clock,
}

impl<'a> Started<'a> {
    /// Everything before the rows.
    pub fn prepare(&mut self) -> Result<Catalog> {
        before_data(&mut self.clone, self.snapshot.as_mut(), &mut self.clock)
    }

    /// The same in a child of the process that holds the snapshot.
    pub fn prepare_in_child(&mut self) -> Result<()> {
        if let Some(held) = &self.snapshot {
            let (source, process) = (self.clone.source()?, self.clone.run.of("clone"));
            let own = Snapshot::import(source, held.id(), &process, self.clone.shutdown)?;
            self.snapshot = Some(own);
        }
        self.prepare().map(drop)
    }

    /// What such a child has found out.
    pub fn prepared(&mut self) -> Result<Catalog> {
        reach::recall_target(&mut self.clone)?;
        self.clock.lap("before data");
        self.clone.fetch_catalog(None)
    }

    /// Hold the snapshot on one connection only, whichever way it was made.
    pub fn hold_on_its_own(&mut self) -> Result<()> {
        if let Some(snapshot) = self.snapshot.take() {
            self.snapshot = Some(snapshot.on_its_own()?);
        }
        Ok(())
    }

    /// Everything after the rows, for a command that copies none.
    pub(super) fn finish(self, catalog: &Catalog) -> Result<()> {
        // It goes when the last of the source is read, which is now.
        drop(self.snapshot);
        let jobs = self.clone.spec.restore_jobs;
        after_data(&self.clone, catalog, jobs, self.clock)
    }

    /// Look at what is to be copied, and what of it is. The snapshot is the caller's to release, once it is read.
    pub fn ready(mut self, catalog: Catalog) -> Result<(Ready<'a>, Option<Snapshot>)> {
        let section = data::prepare(&self.clone, &catalog, self.snapshot.as_mut())?;
        let ready = Ready {
            clone: self.clone,
            catalog,
            section,
            clock: self.clock,
        };
        Ok((ready, self.snapshot))
    }
}

/// A clone whose rows may be copied.
pub struct Ready<'a> {
    pub(super) clone: Clone<'a>,
    catalog: Catalog,
    section: data::Section,
    clock: Clock,
}

impl Ready<'_> {
    /// For the workers.
    pub fn context(&self) -> CopyContext<'_> {
        self.section.context(&self.clone, &self.catalog)
    }

    pub fn jobs(&self) -> Jobs {
        let spec = self.clone.spec;
        Jobs {
            table: spec.table_jobs,
            index: spec.index_jobs,
            vacuum: spec.vacuum_jobs,
            large_objects: spec.large_objects_jobs,
        }
    }

    /// Nothing is left to read from the source.
    pub fn read(&self, snapshot: Option<Snapshot>, end: End) -> Result<()> {
        if end == End::Tried {
            // Noted before the snapshot goes: from here on a resume needs none.
            data::finish_reading(&self.clone, &self.catalog, &self.section)?;
        }
        if let Some(snapshot) = snapshot {
            log::info!("everything is read: releasing snapshot {}", snapshot.id());
            failpoint("snapshot.before_release")?;
            if let Err(error) = snapshot.release() {
                log::info!("{error}; nothing needs it any more");
            }
        }
        Ok(())
    }

    /// Why the workers gave the database up.
    pub fn loss(&self) -> Error {
        let failures = self.clone.workdir.failures().unwrap_or_default();
        let loss = failures
            .into_iter()
            .rfind(|failure| failure.kind == "database");
        match loss {
            Some(loss) => Error::on(loss.side.unwrap_or(Side::Source), loss.message),
            None => Error::internal("it was given up, and nobody said why"),
        }
    }

    /// Everything after the workers. May run in a child.
    pub fn finish(&self, restore_jobs: u32) -> Result<()> {
        let mut clock = self.clock.clone();
        data::finish(&self.clone, &self.section)?;
        clock.lap("data");
        after_data(&self.clone, &self.catalog, restore_jobs, clock)
    }
}
