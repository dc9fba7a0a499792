//! `clone --all-databases`: every database of an instance, one clone after the other, the largest first; with `--follow`
//! each goes on being followed while the next is copied. Runs in a parent of its own, which makes roles and databases, and
//! forks the parent of each database's clone. There is no moment that all databases are copied at: each has its own
//! snapshot, slot, origin, sentinel and folder of the work directory.

mod databases;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clone::{self, CloneSpec};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::follow::{self, FollowSpec, OnlineSpec};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::roles::{self, RolesSpec};
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::{Ended, WorkerSet};
use crate::workdir::{cdc_location, location};
use databases::Database;

const NAME: &str = "pgcopydb instance";

/// How often it is looked whether a copy is complete, while it is followed; a child's end wakes the parent earlier.
const TICK: Duration = Duration::from_millis(100);

/// What to clone, as for one database; the databases named in source and target are only where to ask.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    pub clone: CloneSpec,
    pub follow: Option<FollowSpec>,
    pub no_role_passwords: bool,
}

/// One database on its way.
struct Job {
    database: Database,
    dir: PathBuf,
    clone: CloneSpec,
    follow: Option<FollowSpec>,
}

/// Clone every database. A failure of one is listed, and does not keep the others from being cloned.
pub fn run(spec: &InstanceSpec, shutdown: &Shutdown) -> Result<()> {
    let mut source = open_source(&spec.source, NAME, shutdown)?;
    let found = databases::fetch(&mut source)?;
    if spec.follow.is_some() {
        databases::check_slots(&mut source, found.len())?;
    }
    drop(source);
    copy_roles(spec, shutdown)?;
    let names: Vec<&str> = found.iter().map(|database| &*database.name).collect();
    log::info!("cloning {} databases: {}", found.len(), names.join(", "));
    let mut instance = Instance {
        spec,
        shutdown,
        workers: WorkerSet::new(),
        failures: Vec::new(),
        done: 0,
    };
    for database in &found {
        instance.clone_one(instance.job(database.clone()))?;
    }
    instance.wait_for_all()?;
    instance.finish(found.len())
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

struct Instance<'a> {
    spec: &'a InstanceSpec,
    shutdown: &'a Shutdown,
    workers: WorkerSet,
    failures: Vec<Error>,
    done: usize,
}

impl Instance<'_> {
    /// The same work for one database, in its own folder and under its own names.
    fn job(&self, database: Database) -> Job {
        let top = location(self.spec.clone.dir.as_deref());
        let dir = top.join("databases").join(folder(&database.name));
        let source = self.spec.source.with_dbname(&database.name);
        let target = self.spec.target.with_dbname(&database.name);
        let mut clone = CloneSpec {
            source: Some(source.clone()),
            target: Some(target.clone()),
            dir: Some(dir.clone()),
            // They are there already.
            roles: None,
            ..self.spec.clone.clone()
        };
        let follow = self.spec.follow.as_ref().map(|follow| FollowSpec {
            source,
            target,
            dir: Some(dir.clone()),
            slot_name: format!("{}_{}", follow.slot_name, database.oid),
            origin: format!("{}_{}", follow.origin, database.oid),
            ..follow.clone()
        });
        clone.follow = follow
            .as_ref()
            .map(|follow| follow.setup(&cdc_location(Some(&dir))));
        Job {
            database,
            dir,
            clone,
            follow,
        }
    }

    /// Make the database and copy it; returns when its copy is complete, or has failed.
    fn clone_one(&mut self, job: Job) -> Result<()> {
        let name = job.database.name.clone();
        let made = databases::create(
            &job.database,
            &self.spec.target,
            &self.spec.clone,
            self.shutdown,
        );
        if let Err(error) = made {
            return self.failed(error.context(format!("database \"{name}\"")));
        }
        log::info!("cloning database \"{name}\" in \"{}\"", job.dir.display());
        let Job {
            clone, follow, dir, ..
        } = job;
        let group = group_of(&name);
        self.workers
            .start_one(group, move |shutdown| match follow {
                None => clone::run(&clone, &shutdown),
                Some(follow) => follow::run_online(&OnlineSpec { clone, follow }, &shutdown),
            })?;
        loop {
            self.wait()?;
            let is_followed = self.spec.follow.is_some() && clone::is_complete(&dir);
            if self.workers.count(group) == 0 || is_followed {
                return Ok(());
            }
        }
    }

    /// Those that are followed, until their end positions.
    fn wait_for_all(&mut self) -> Result<()> {
        while !self.workers.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.shutdown.poll(&[], Some(Instant::now() + TICK))?;
        for ended in self.workers.reap() {
            self.take(&ended)?;
        }
        Ok(())
    }

    fn take(&mut self, ended: &Ended) -> Result<()> {
        if ended.reason.is_success() {
            log::info!("{} is done", ended.name);
            self.done += 1;
            return Ok(());
        }
        self.failed(ended.error())
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        if self.spec.clone.fail_fast || error.is_interrupted() {
            return Err(error);
        }
        error.log("");
        self.failures.push(error);
        Ok(())
    }

    fn finish(self, count: usize) -> Result<()> {
        let Some(first) = self.failures.first() else {
            log::info!("all {count} databases are done");
            return Ok(());
        };
        for failure in &self.failures {
            log::error!("{failure}");
        }
        let message = format!(
            "{} of {count} databases could not be cloned, {} are done; the first: {first}",
            self.failures.len(),
            self.done
        );
        let kind = match first.kind() {
            kind @ (ErrorKind::Source | ErrorKind::Target | ErrorKind::Sql) => kind,
            _ => ErrorKind::Child,
        };
        Err(Error::new(kind, message)
            .with_hint("Mend the cause and run again with --resume: complete databases stay."))
    }
}

/// A name for the process that clones this database. It lives as long as this program: there are as many as databases.
fn group_of(name: &str) -> &'static str {
    format!("database \"{name}\"").leak()
}

/// A file name for any database's name: what is not harmless is written as its bytes.
fn folder(name: &str) -> String {
    let mut folder = String::new();
    for byte in name.bytes() {
        let is_harmless = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        match is_harmless {
            true => folder.push(char::from(byte)),
            false => folder.push_str(&format!("%{byte:02X}")),
        }
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::folder;

    #[test]
    fn a_folder_for_each_name() {
        assert_eq!(folder("shop_1-b"), "shop_1-b");
        assert_eq!(folder("../x y"), "%2E%2E%2Fx%20y");
        assert_eq!(folder("é"), "%C3%A9");
    }
}
