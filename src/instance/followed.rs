//! The databases of an instance that are, or were, followed from its work directory: for the commands that steer the
//! follows of all of them, or clean up after them.

use std::path::{Path, PathBuf};

use super::NAME;
use crate::error::{Context, Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::report::instance::databases;
use crate::stream::setup::{self, SetUp, SetupSpec};
use crate::sys::signal::Shutdown;
use crate::workdir::paths::Paths;
use crate::workdir::{Service, WorkDir, cdc_location};

/// One database with its folder.
#[derive(Debug)]
pub struct Followed {
    pub database: String,
    pub dir: PathBuf,
    /// None: nothing was set up, or not to its end.
    set_up: Option<SetUp>,
}

impl Followed {
    /// Where its changes are kept.
    pub fn cdc_dir(&self) -> PathBuf {
        cdc_location(Some(&self.dir))
    }
}

/// The databases below this directory; an error if it is not that of an instance.
fn folders(top: &Path) -> Result<Vec<Followed>> {
    let Some(found) = databases(&Paths::new(top))? else {
        return Err(Error::state(format!(
            "\"{}\" is not the work directory of a clone of all databases",
            top.display()
        ))
        .with_hint("Use the --dir of \"pgcopydb clone --all-databases\"."));
    };
    found
        .into_iter()
        .map(|(database, paths)| {
            let dir = paths.top().to_path_buf();
            Ok(Followed {
                set_up: setup::noted(&cdc_location(Some(&dir)))?,
                database,
                dir,
            })
        })
        .collect()
}

/// The databases that are followed from this directory.
pub fn followed(top: &Path) -> Result<Vec<Followed>> {
    let mut found = folders(top)?;
    found.retain(|it| it.set_up.is_some());
    match found.is_empty() {
        true => Err(Error::state(format!(
            "no database is followed from work directory \"{}\"",
            top.display()
        ))),
        false => Ok(found),
    }
}

/// The databases that are not followed: those whose turn has not come, and those that failed before.
pub fn not_followed(top: &Path) -> Result<Vec<String>> {
    let found = folders(top)?.into_iter();
    let not = found.filter(|it| it.set_up.is_none());
    Ok(not.map(|it| it.database).collect())
}

/// What all follows of an instance have made.
#[derive(Debug, Clone)]
pub struct CleanupSpec {
    pub top: PathBuf,
    /// Of one database; the names are those without the databases' numbers.
    pub of_one: SetupSpec,
}

/// Remove what the follow of each database has made. One that fails does not keep the others from being cleaned.
pub fn cleanup(spec: &CleanupSpec, shutdown: &Shutdown) -> Result<()> {
    let found = folders(&spec.top)?;
    // An instance that is under way would lose its slots.
    let _top = WorkDir::open(&spec.top, Service::Instance)?;
    let oids = fetch_oids(&spec.of_one.source, shutdown)?;
    let mut failures: Vec<Error> = Vec::new();
    for it in &found {
        match clean_one(spec, it, &oids, shutdown) {
            Ok(()) => {}
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => {
                let error = error.context(format!("database \"{}\"", it.database));
                error.log("");
                failures.push(error);
            }
        }
    }
    let count = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(first.context(format!(
            "{count} of {} databases could not be cleaned up",
            found.len()
        ))),
    }
}

fn fetch_oids(source: &ConnInfo, shutdown: &Shutdown) -> Result<Vec<(String, u32)>> {
    let mut source = open_source(source, NAME, shutdown)?;
    let rows = source
        .query("SELECT datname, oid FROM pg_catalog.pg_database")
        .context("could not list the databases of the source")?;
    rows.iter()
        .map(|row| Ok((row.text(0)?.to_owned(), row.parse(1)?)))
        .collect()
}

fn clean_one(
    spec: &CleanupSpec,
    it: &Followed,
    oids: &[(String, u32)],
    shutdown: &Shutdown,
) -> Result<()> {
    let of_one = &spec.of_one;
    let oid = oids.iter().find(|(name, _)| *name == it.database);
    let names = match (&it.set_up, oid) {
        (Some(set_up), _) => Some((set_up.slot_name.clone(), set_up.origin.clone())),
        (None, Some((_, oid))) => Some((
            format!("{}_{oid}", of_one.slot_name),
            format!("{}_{oid}", of_one.origin),
        )),
        (None, None) => None,
    };
    let Some((slot_name, origin)) = names else {
        log::info!(
            "database \"{}\" is not on the source any more, and nothing was set up for it",
            it.database
        );
        return Ok(());
    };
    let _workdir = WorkDir::open(&it.dir, Service::Follow)?;
    let of_it = SetupSpec {
        source: of_one.source.with_dbname(&it.database),
        target: of_one.target.with_dbname(&it.database),
        slot_name,
        origin,
        dir: it.cdc_dir(),
        ..of_one.clone()
    };
    log::info!("cleaning up database \"{}\"", it.database);
    setup::cleanup(&of_it, shutdown)
}
