//! `copy roles`, `dump roles`, `restore roles`, and the step of `clone --roles`: the roles of the whole source instance.
//! `fetch` reads them, `script` writes `schema/roles.sql`, `parse` reads that file (or one of pg_dumpall), `plan` decides
//! what of it the target needs, `restore` runs it there. Runs in the parent.
//!
//! Must not: change a role that exists on the target, other than by adding memberships; show a password to anybody.

mod fetch;
pub mod parse;
mod plan;
mod provider;
mod restore;
mod script;

use std::path::{Path, PathBuf};

use postgres::error::SqlState;

use crate::error::{Context, Error, Result};
use crate::pg::connect::connect_and_pin;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{TargetSettings, open_source, open_target};
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::sys::durable::{Sync, write_atomic};
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, location};
use parse::Statement;

const APPLICATION_NAME: &str = "pgcopydb roles";

/// What to read, from where, and where to keep it.
#[derive(Debug, Clone)]
pub struct RolesSpec {
    pub source: ConnInfo,
    /// None: `$TMPDIR/pgcopydb`.
    pub dir: Option<PathBuf>,
    pub no_passwords: bool,
    /// A snapshot of the source, held elsewhere.
    pub snapshot: Option<String>,
    /// Forget the file that an earlier run has written.
    pub restart: bool,
    /// Go on with it.
    pub resume: bool,
}

/// Roles as a file has them.
pub struct Script {
    statements: Vec<Statement>,
}

impl Script {
    /// The roles that will be there after a restore, or are there already.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        plan::created(&self.statements)
    }
}

/// `copy roles`.
pub fn copy(spec: &RolesSpec, target: &ConnInfo, shutdown: &Shutdown) -> Result<()> {
    let workdir = open_workdir(spec.dir.as_deref())?;
    let path = workdir.paths.roles();
    if spec.resume && path.exists() {
        log::info!("using the roles in \"{}\"", path.display());
    } else {
        dump_into(spec, &workdir, shutdown)?;
    }
    restore_from(&path, target, shutdown)
}

/// `dump roles`.
pub fn dump(spec: &RolesSpec, shutdown: &Shutdown) -> Result<()> {
    let workdir = open_workdir(spec.dir.as_deref())?;
    dump_into(spec, &workdir, shutdown)
}

/// `restore roles`.
pub fn restore(target: &ConnInfo, dir: Option<&Path>, shutdown: &Shutdown) -> Result<()> {
    let workdir = open_workdir(dir)?;
    restore_from(&workdir.paths.roles(), target, shutdown)
}

fn open_workdir(dir: Option<&Path>) -> Result<WorkDir> {
    let workdir = WorkDir::open(&location(dir), Service::Clone)?;
    workdir.prepare_run()?;
    Ok(workdir)
}

fn dump_into(spec: &RolesSpec, workdir: &WorkDir, shutdown: &Shutdown) -> Result<()> {
    if spec.restart {
        // Even if nothing new can be read.
        workdir.forget_roles()?;
    }
    let (connection, source) = connect_and_pin(&spec.source, APPLICATION_NAME, shutdown)?;
    drop(connection);
    let mut snapshot = snapshot_if_held(spec, &source, workdir, shutdown)?;
    match &mut snapshot {
        Some(snapshot) => write(snapshot.connection(), workdir, spec.no_passwords),
        None => {
            let mut connection = open_source(&source, APPLICATION_NAME, shutdown)?;
            write(&mut connection, workdir, spec.no_passwords)
        }
    }
}

/// The snapshot that the other commands of this work directory share, if it can be used here. Roles belong to no
/// database, so a user may name another one of the instance; a snapshot is of its own database only.
fn snapshot_if_held(
    spec: &RolesSpec,
    source: &ConnInfo,
    workdir: &WorkDir,
    shutdown: &Shutdown,
) -> Result<Option<Snapshot>> {
    let id = match &spec.snapshot {
        Some(id) => Some(id.clone()),
        None => workdir.noted_snapshot()?,
    };
    let Some(id) = id else {
        return Ok(None);
    };
    match Snapshot::import(source, &id, APPLICATION_NAME, shutdown) {
        Ok(snapshot) => Ok(Some(snapshot)),
        // Of another database, or of a holder that was killed: roles are as good without it.
        Err(error)
            if error.is_any_of(&[SqlState::FEATURE_NOT_SUPPORTED]) || spec.snapshot.is_none() =>
        {
            if error.is_interrupted() || error.is_connection_lost() {
                return Err(error);
            }
            log::info!("reading roles as they are now: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Read the roles of an instance and write them down.
pub fn write(source: &mut Connection, workdir: &WorkDir, no_passwords: bool) -> Result<()> {
    let roles = fetch::fetch(source, no_passwords)?;
    let path = workdir.paths.roles();
    // Mode 0600: it may hold passwords.
    write_atomic(&path, script::write(&roles).as_bytes(), Sync::Now)?;
    log::info!(
        "wrote {} roles and {} memberships to \"{}\"",
        roles.roles.len(),
        roles.memberships.len(),
        path.display()
    );
    Ok(())
}

/// The roles that were written.
pub fn read(path: &Path) -> Result<Script> {
    let text = std::fs::read(path).map_err(|error| {
        let is_missing = error.kind() == std::io::ErrorKind::NotFound;
        let error = Error::io(format!("could not read file \"{}\"", path.display()), error);
        match is_missing {
            true => error.with_hint("Run \"pgcopydb dump roles\" first, in the same --dir."),
            false => error,
        }
    })?;
    let statements = parse::parse(&text)
        .with_context(|| format!("could not read the roles in \"{}\"", path.display()))?;
    Ok(Script { statements })
}

/// Create what the target lacks. An error at the end names the roles that could not be created; the others are there.
pub fn create(script: &Script, target: &mut Connection) -> Result<()> {
    restore::run(&script.statements, target)
}

fn restore_from(path: &Path, target: &ConnInfo, shutdown: &Shutdown) -> Result<()> {
    let script = read(path)?;
    let (connection, target) = connect_and_pin(target, APPLICATION_NAME, shutdown)?;
    drop(connection);
    let settings = TargetSettings {
        // No index is built here.
        maintenance_work_mem: "64kB".to_string(),
        ..TargetSettings::default()
    };
    let mut connection = open_target(&target, APPLICATION_NAME, &settings, shutdown)?;
    create(&script, &mut connection)
}
