//! `follow`: the changes of the source, replayed on the target until the end position, readable from top to bottom. Runs
//! in the follow parent, which forks receive, transform and apply, and moves no data itself.
//!
//! ```text
//! source ── receive ──> JSON file ──> transform ──> script file ──> apply ──> target
//!              └──────── pipe ──────────┘  └────────── pipe ─────────┘            (live replay)
//! ```

mod finish;
mod meet;
mod modes;
mod online;
pub mod parts;
mod patience;
mod remote;
mod retention;
mod spec;
mod spool;
mod stages;
mod trio;

pub use online::{OnlineSpec, enable_apply, run as run_online};
pub use spec::FollowSpec;
pub use stages::{Action, Event, Stages};

use std::path::PathBuf;

use crate::check;
use crate::error::{Context, Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{RunName, TargetSettings, open_and_pin, open_source, open_target};
use crate::pg::wire::Connection;
use crate::sentinel::Sentinel;
use crate::stream::apply::ApplySpec;
use crate::stream::decode::Plugin;
use crate::stream::positions::Positions;
use crate::stream::receive::ReceiveSpec;
use crate::stream::setup::{self, SetUp, SetupSpec, publication_of};
use crate::stream::transform_process::TransformSpec;
use crate::stream::{after_crash, segment, slot, triggers};
use crate::sys::signal::Shutdown;
use crate::watch::{self, WatchSpec};
use crate::workdir::{QueuesOf, Service, WorkDir, cdc_location, location};
use modes::StreamMode;
use patience::patiently;
use remote::Remote;
use retention::Retention;
use spool::Spool;
use trio::Trio;

/// What every part of a follow needs; made once the servers were reached.
struct Follow<'a> {
    spec: &'a FollowSpec,
    set_up: SetUp,
    /// The servers that answered.
    source: ConnInfo,
    target: ConnInfo,
    run: RunName,
    dir: PathBuf,
    shutdown: &'a Shutdown,
}

/// Follow until the end position. `Ok` means that everything up to it is on the target and flushed there.
pub fn run(spec: &FollowSpec, shutdown: &Shutdown) -> Result<()> {
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Follow)?;
    let _applies = WorkDir::open(&location(spec.dir.as_deref()), Service::Apply)?;
    workdir.remove_noted_queues(QueuesOf::Follow)?;
    let dir = cdc_location(spec.dir.as_deref());
    check_beginning(spec, &dir)?;
    let _watch = watch::start(WatchSpec {
        source: Some(spec.source.clone()),
        target: Some(spec.target.clone()),
        runs: vec![RunName::new(&run_id(&spec.slot_name))],
        paths: None,
        after: spec.stall_timeout,
    });
    begin(spec, shutdown)?.run(&workdir)
}

/// Reach the servers, and set up what is missing.
fn begin<'a>(spec: &'a FollowSpec, shutdown: &'a Shutdown) -> Result<Follow<'a>> {
    let dir = cdc_location(spec.dir.as_deref());
    let run = RunName::new(&run_id(&spec.slot_name));
    let (mut on_source, source) = open_and_pin(&spec.source, &run.of("follow"), shutdown)?;
    let (mut on_target, target) = open_and_pin(&spec.target, &run.of("follow"), shutdown)?;
    // Once it is set up, somebody has looked; a resume goes on whatever a look would say.
    if setup::noted(&dir)?.is_none() {
        check::begin_follow(&mut on_source, &mut on_target)?;
    }
    drop((on_source, on_target));
    let setup_spec = SetupSpec {
        application_name: run.of("follow"),
        ..spec.setup(&dir)
    };
    let (set_up, new) = setup::run(&setup_spec, shutdown)?;
    // Its snapshot is nobody's: a follow alone copies nothing.
    drop(new);
    Ok(Follow {
        spec,
        set_up,
        source,
        target,
        run,
        dir,
        shutdown,
    })
}

/// The same for what does not talk to the target: what was set up before is taken as it is noted.
fn begin_on_source<'a>(spec: &'a FollowSpec, shutdown: &'a Shutdown) -> Result<Follow<'a>> {
    let dir = cdc_location(spec.dir.as_deref());
    let Some(set_up) = setup::noted_for(&spec.setup(&dir))? else {
        return begin(spec, shutdown);
    };
    let run = RunName::new(&run_id(&spec.slot_name));
    let (_, source) = open_and_pin(&spec.source, &run.of("follow"), shutdown)?;
    Ok(Follow {
        spec,
        set_up,
        source,
        target: spec.target.clone(),
        run,
        dir,
        shutdown,
    })
}

/// Short enough for application_name, and the same for every process of one follow.
fn run_id(slot_name: &str) -> String {
    slot_name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(16)
        .collect()
}

/// May it begin, with what is in the directory?
fn check_beginning(spec: &FollowSpec, dir: &std::path::Path) -> Result<()> {
    if spec.restart && setup::noted(dir)?.is_some() {
        return Err(Error::state(format!(
            "cannot start over in \"{}\": the source has been told that its changes are safe here",
            dir.display()
        ))
        .with_hint(
            "Use --resume to go on, or \"pgcopydb stream cleanup\" and a new clone to start over.",
        ));
    }
    let has_files = dir.is_dir() && !segment::json_files(dir)?.is_empty();
    if has_files && !spec.resume {
        return Err(Error::state(format!(
            "directory \"{}\" holds changes of an earlier run",
            dir.display()
        ))
        .with_hint("Use --resume to go on with it."));
    }
    Ok(())
}

impl Follow<'_> {
    fn run(&self, workdir: &WorkDir) -> Result<()> {
        patiently(self.shutdown, || self.mend_files())?;
        let positions = Positions::create()?;
        let mut remote = patiently(self.shutdown, || {
            let mut remote = self.remote(&positions)?;
            self.set_endpos(&mut remote, &positions)?;
            finish::warn_of_large_objects(self, false)?;
            Ok(remote)
        })?;
        let trio = self.trio(positions, workdir);
        loop {
            self.follow_to_end(&trio, &mut remote)?;
            remote.reached_end(&positions)?;
            if patiently(self.shutdown, || {
                finish::finish(self, &positions, &mut remote)
            })? {
                return Ok(());
            }
        }
    }

    fn follow_to_end(&self, trio: &Trio<'_>, remote: &mut Remote) -> Result<()> {
        // What is on disk is applied first; receiving begins with what comes next, in live replay.
        let mut mode = match trio.applies(remote)? {
            true => StreamMode::Drain,
            false => StreamMode::Prefetch,
        };
        let mut are_triggers_off = false;
        while mode != StreamMode::Done {
            log::info!("{}", mode.words());
            // Once in a while: a later catchup may be waiting for a target that is away, and receive must not wait with it.
            if mode != StreamMode::Prefetch && !are_triggers_off {
                patiently(self.shutdown, || self.disable_triggers())?;
                are_triggers_off = true;
            }
            let event = trio.run(mode, remote)?;
            log::debug!("{mode:?}: {event:?}");
            mode = mode.next(event);
            // While nothing is applied the clone may make some.
            are_triggers_off &= mode != StreamMode::Prefetch;
        }
        Ok(())
    }

    fn trio<'t>(&'t self, positions: Positions, workdir: &'t WorkDir) -> Trio<'t> {
        Trio {
            receive: ReceiveSpec {
                source: self.source.clone(),
                application_name: self.run.of("receive"),
                slot_name: self.set_up.slot_name.clone(),
                plugin: self.set_up.plugin,
                publication: publication_of(&self.set_up.slot_name).to_owned(),
                filters: self.spec.filters.clone(),
                left_out: workdir.paths.left_out_tables(),
                dir: self.dir.clone(),
                startpos: self.set_up.startpos,
            },
            transform: TransformSpec {
                dir: self.dir.clone(),
                replay_no_op_updates: self.spec.replay_no_op_updates,
                left_out: workdir.paths.left_out_tables(),
            },
            apply: ApplySpec {
                target: self.target.clone(),
                application_name: self.run.of("apply"),
                origin: self.set_up.origin.clone(),
                keeper: self.set_up.keeper(),
                mode: self.spec.apply_mode,
                when_full: self.spec.when_full,
                lock_timeout: self.spec.lock_timeout,
                dir: self.dir.clone(),
                left_out: workdir.paths.left_out_tables(),
            },
            positions,
            workdir,
            keeps_files: self.spec.keep_files,
            may_apply: true,
            must_apply: false,
            shutdown: self.shutdown,
        }
    }

    /// To be called with the lock of a follow, before anybody reads the files of changes.
    fn mend_files(&self) -> Result<()> {
        after_crash::mend(&self.dir, self.set_up.startpos, || {
            let mut source = self.open_source()?;
            let slot = slot::find(&mut source, &self.set_up.slot_name)?;
            Ok(slot.and_then(|slot| slot.confirmed_flush))
        })
    }

    fn open_source(&self) -> Result<Connection> {
        open_source(&self.source, &self.run.of("follow"), self.shutdown)
    }

    fn open_target(&self) -> Result<Connection> {
        let settings = TargetSettings {
            lock_timeout: self.spec.lock_timeout,
            ..TargetSettings::default()
        };
        open_target(
            &self.target,
            &self.run.of("follow"),
            &settings,
            self.shutdown,
        )
    }

    fn open_sentinel(&self) -> Result<Sentinel> {
        Sentinel::open(self.open_source()?, &self.dir)
    }

    fn remote(&self, positions: &Positions) -> Result<Remote> {
        let name = self.run.of("follow");
        let sentinel = self.open_sentinel()?;
        let publication = (self.set_up.plugin == Plugin::Pgoutput)
            .then(|| publication_of(&self.set_up.slot_name).to_owned());
        let mut remote = Remote::new(&self.source, &name, &self.dir, sentinel, self.shutdown);
        remote.watch_publication(publication, self.spec.filters.clone());
        remote.watch_slot(Retention::new(&self.set_up.slot_name));
        remote.watch_files(Spool::new(&self.dir, self.spec.cdc_max_size));
        remote.exchange_now(positions)?;
        Ok(remote)
    }

    fn disable_triggers(&self) -> Result<()> {
        let mut target = self.open_target()?;
        triggers::disable(&mut target, &self.dir)
            .context("could not prepare the target for changes")
    }
}
