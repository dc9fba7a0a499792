//! `clone --all-databases`: every database of an instance, with one pool of workers over the tables of all of them; with
//! `--follow` each is followed from its own slot on. Runs in the parent of all, which makes roles and databases, holds a
//! snapshot of each database, and supervises the workers. There is no moment that all databases are copied at: each has its
//! own snapshot, slot, origin, sentinel and folder of the work directory.
//!
//! Every stage is done for all databases before the next one begins, but for the last: a database is finished, and its
//! changes may be applied, as soon as its own rows and indexes are there.

mod crew;
mod databases;
mod followed;
mod site;
mod summary;

use std::time::Instant;

use crate::check::{self, CheckSpec, InstanceNeeds, Report};
use crate::clone::{CloneSpec, Job, Ready};
use crate::copy::{self, CopyContext, End, Watch};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::follow::FollowSpec;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{open_and_pin, open_source};
use crate::roles::{self, RolesSpec};
use crate::snapshot::Snapshot;
use crate::stream::setup;
use crate::sys::signal::Shutdown;
use crate::watch::{self, WatchSpec};
use crate::workdir::paths::Paths;
use crate::workdir::{QueuesOf, Service, WorkDir, location};
use crew::Crew;
use databases::Database;
use site::Site;

pub use followed::{CleanupSpec, Followed, cleanup, followed, not_followed};

const NAME: &str = "pgcopydb instance";

/// What to clone, as for one database; the databases named in source and target are only where to ask.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    pub clone: CloneSpec,
    pub follow: Option<FollowSpec>,
    pub no_role_passwords: bool,
}

/// Clone every database. A failure of one is listed, and does not keep the others from being cloned.
pub fn run(spec: &InstanceSpec, shutdown: &Shutdown) -> Result<()> {
    let started = Instant::now();
    let top = WorkDir::open(&location(spec.clone.dir.as_deref()), Service::Instance)?;
    top.prepare_run()?;
    top.remove_noted_queues(QueuesOf::Copy)?;
    let found = look(spec, shutdown)?;
    copy_roles(spec, shutdown)?;
    let names: Vec<&str> = found.iter().map(|database| &*database.name).collect();
    log::info!("cloning {} databases: {}", found.len(), names.join(", "));
    let sites: Vec<Site> = found
        .into_iter()
        .map(|database| Site::new(spec, &top.paths, database))
        .collect();
    let mut crew = Crew::new(spec, &sites, shutdown);
    copy_all(spec, &top, &sites, &mut crew, shutdown)?;
    summary::write(&top, &sites, started.elapsed())?;
    crew.wait_for_all()?;
    finish(&crew, sites.len(), started)
}

/// The databases, once it is known that there is room for all of them.
fn look(spec: &InstanceSpec, shutdown: &Shutdown) -> Result<Vec<Database>> {
    let mut source = open_source(&spec.source, NAME, shutdown)?;
    let (mut target, _) = open_and_pin(&spec.target, NAME, shutdown)?;
    let found = databases::fetch(&mut source)?;
    let needs = InstanceNeeds {
        databases: found.len() as u64,
        jobs: spec.clone.to_check(None, None).jobs,
        follows: spec.follow.is_some(),
    };
    // What a run that goes on needs, it has made.
    if !spec.clone.resume {
        let report = check::instance(needs, &mut source, &mut target)?;
        report.log_warnings();
        check::refuse(&report)?;
    }
    Ok(found)
}

/// `check --all-databases`.
pub fn check(spec: &CheckSpec, shutdown: &Shutdown) -> Result<Report> {
    let mut source = open_source(spec.source()?, NAME, shutdown)?;
    let found = databases::fetch(&mut source)?;
    drop(source);
    let needs = InstanceNeeds {
        databases: found.len() as u64,
        jobs: spec.jobs,
        follows: spec.follow.is_some(),
    };
    let top = Paths::new(location(spec.dir.as_deref()));
    let specs: Vec<(String, CheckSpec)> = found
        .iter()
        .map(|database| (database.name.clone(), site::check(spec, &top, database)))
        .collect();
    check::run_instance(needs, spec, &specs, shutdown)
}

/// Once, before the first database that needs them.
fn copy_roles(spec: &InstanceSpec, shutdown: &Shutdown) -> Result<()> {
    let roles = RolesSpec {
        source: spec.source.clone(),
        dir: Some(location(spec.clone.dir.as_deref())),
        no_passwords: spec.no_role_passwords,
        snapshot: None,
        restart: spec.clone.restart,
        resume: spec.clone.resume,
    };
    roles::copy(&roles, &spec.target, shutdown).context("could not copy the roles")
}

/// Everything but the following. Afterwards the folders are free for others.
fn copy_all(
    spec: &InstanceSpec,
    top: &WorkDir,
    sites: &[Site],
    crew: &mut Crew<'_>,
    shutdown: &Shutdown,
) -> Result<()> {
    let mut jobs = Vec::with_capacity(sites.len());
    for at in 0..sites.len() {
        jobs.push(open(spec, sites, crew, at, shutdown)?);
    }
    let runs = jobs.iter().flatten().map(|job| job.run_name().clone());
    let watch = watch::start(WatchSpec {
        source: Some(spec.source.clone()),
        target: Some(spec.target.clone()),
        runs: runs.collect(),
        paths: Some(top.paths.clone()),
        after: spec.clone.stall_timeout,
    });
    let result = copy_jobs(spec, top, sites, &jobs, crew, shutdown);
    drop(watch);
    if result.is_err() {
        crew.stop();
    }
    crew::end_backends(spec, crew, &jobs, result.is_err());
    result?;
    jobs.iter().flatten().try_for_each(Job::release)
}

/// Make a database on the target, and open its folder.
fn open(
    spec: &InstanceSpec,
    sites: &[Site],
    crew: &mut Crew<'_>,
    at: usize,
    shutdown: &Shutdown,
) -> Result<Option<Job>> {
    let site = &sites[at];
    crew.attempt(at, || {
        databases::create(&site.database, &spec.target, &spec.clone, shutdown)?;
        log::info!("cloning it in \"{}\"", site.dir.display());
        if let (Some(set_up), true) = (&site.clone.follow, spec.clone.restart) {
            setup::cleanup(set_up, shutdown)?;
        }
        Job::open(&site.clone)
    })
}

fn copy_jobs(
    spec: &InstanceSpec,
    top: &WorkDir,
    sites: &[Site],
    jobs: &[Option<Job>],
    crew: &mut Crew<'_>,
    shutdown: &Shutdown,
) -> Result<()> {
    let lanes = spec.clone.restore_jobs as usize;
    let mut started = Vec::with_capacity(sites.len());
    for (at, job) in jobs.iter().enumerate() {
        let Some(job) = job else {
            continue;
        };
        let clone = crew.attempt(at, || {
            let mut clone = job.start(shutdown)?;
            if let Some(clone) = &mut clone {
                clone.hold_on_its_own()?;
            }
            Ok(clone)
        })?;
        crew.follow(at)?;
        match clone {
            Some(Some(mut clone)) => {
                crew.prepare(at, &mut clone, lanes)?;
                started.push((at, clone));
            }
            Some(None) => crew.finished(at)?,
            None => {}
        }
    }
    crew.wait_until_prepared()?;
    let mut readies = Vec::with_capacity(started.len());
    let mut snapshots = Vec::with_capacity(started.len());
    for (at, mut clone) in started {
        if crew.has_failed(at) {
            continue;
        }
        let ready = crew.attempt(at, || {
            let catalog = clone.prepared()?;
            clone.ready(catalog)
        })?;
        if let Some((ready, snapshot)) = ready {
            readies.push((at, ready));
            snapshots.push(snapshot);
        }
    }
    let contexts: Vec<CopyContext<'_>> = readies.iter().map(|(_, ready)| ready.context()).collect();
    if let Some((_, first)) = readies.first() {
        let mut pool = Pool {
            crew,
            readies: &readies,
            snapshots,
        };
        let instance = copy::Instance {
            source: &spec.source,
            target: &spec.target,
        };
        let jobs = first.jobs();
        copy::run(&contexts, Some(instance), top, jobs, shutdown, &mut pool)?;
    }
    crew.finish_all(&readies, lanes)
}

/// The parent's part while the workers are at work.
struct Pool<'p, 'i, 'a> {
    crew: &'p mut Crew<'i>,
    /// With the positions of their sites.
    readies: &'p [(usize, Ready<'a>)],
    snapshots: Vec<Option<Snapshot>>,
}

impl Watch for Pool<'_, '_, '_> {
    fn read(&mut self, database: usize, end: End) -> Result<()> {
        let (at, ready) = &self.readies[database];
        let snapshot = self.snapshots[database].take();
        self.crew
            .attempt(*at, || ready.read(snapshot, end))
            .map(drop)
    }

    fn over(&mut self, database: usize, end: End) -> Result<()> {
        let (at, ready) = &self.readies[database];
        match end {
            End::Tried => self.crew.rows_are_there(*at),
            End::GivenUp => {
                // The worker has asked whether the server is there.
                self.crew.attempt(*at, || Err::<(), _>(ready.loss()))?;
            }
        }
        Ok(())
    }

    /// One database is finished beside the workers, which leaves the target to them.
    fn look(&mut self) -> Result<()> {
        self.crew.finish(self.readies, 1)
    }
}

fn finish(crew: &Crew<'_>, count: usize, started: Instant) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let Some((_, first)) = crew.failures().first() else {
        log::info!("all {count} databases are done, in {seconds:.1} s");
        return Ok(());
    };
    let mut failed: Vec<usize> = crew.failures().iter().map(|(at, _)| *at).collect();
    failed.sort_unstable();
    failed.dedup();
    for (_, failure) in crew.failures() {
        log::error!("{failure}");
    }
    let message = format!(
        "{} of {count} databases could not be cloned, {} are done; the first: {first}",
        failed.len(),
        count - failed.len(),
    );
    let kind = match first.kind() {
        kind @ (ErrorKind::Source | ErrorKind::Target | ErrorKind::Sql | ErrorKind::State) => kind,
        _ => ErrorKind::Child,
    };
    Err(Error::new(kind, message)
        .with_hint("Mend the cause and run again with --resume: complete databases stay."))
}
