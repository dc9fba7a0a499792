//! One database of an instance: its names, its folder, and what its clone and its follow are to do. Pure.

use std::path::PathBuf;

use super::InstanceSpec;
use super::databases::Database;
use crate::check::CheckSpec;
use crate::clone::CloneSpec;
use crate::follow::FollowSpec;
use crate::ident::quote_ident;
use crate::pg::conninfo::ConnInfo;
use crate::stream::setup::SetupSpec;
use crate::workdir::cdc_location;
use crate::workdir::paths::Paths;

pub struct Site {
    pub database: Database,
    /// Of the processes that prepare and finish its copy, and of every line about it.
    pub name: &'static str,
    /// Of the process that follows it.
    pub follow_name: &'static str,
    pub dir: PathBuf,
    pub clone: CloneSpec,
    pub follow: Option<FollowSpec>,
}

impl Site {
    /// The same work for one database, in its own folder and under its own names.
    pub fn new(spec: &InstanceSpec, top: &Paths, database: Database) -> Site {
        let dir = top.database(&database.name);
        let source = spec.source.with_dbname(&database.name);
        let target = spec.target.with_dbname(&database.name);
        let follow = spec.follow.as_ref().map(|follow| FollowSpec {
            source: source.clone(),
            target: target.clone(),
            dir: Some(dir.clone()),
            slot_name: numbered(&follow.slot_name, &database),
            origin: numbered(&follow.origin, &database),
            ..follow.clone()
        });
        let clone = CloneSpec {
            source: Some(source),
            target: Some(target),
            dir: Some(dir.clone()),
            // They are there already.
            roles: None,
            follow: follow
                .as_ref()
                .map(|follow| follow.setup(&cdc_location(Some(&dir)))),
            ..spec.clone.clone()
        };
        let name = format!("database {}", quote_ident(&database.name));
        Site {
            // They live as long as this program: there are as many as databases.
            follow_name: format!("follow of {name}").leak(),
            name: name.leak(),
            database,
            dir,
            clone,
            follow,
        }
    }

    /// Where the changes are kept.
    pub fn cdc_dir(&self) -> PathBuf {
        cdc_location(Some(&self.dir))
    }
}

/// The check of one database, as that of the whole was asked for.
pub fn check(spec: &CheckSpec, top: &Paths, database: &Database) -> CheckSpec {
    let of_it = |info: &Option<ConnInfo>| {
        let info = info.as_ref();
        info.map(|info| info.with_dbname(&database.name))
    };
    let dir = top.database(&database.name);
    let (source, target) = (of_it(&spec.source), of_it(&spec.target));
    let follow = match (&spec.follow, &source, &target) {
        (Some(follow), Some(source), Some(target)) => Some(SetupSpec {
            source: source.clone(),
            target: target.clone(),
            slot_name: numbered(&follow.slot_name, database),
            origin: numbered(&follow.origin, database),
            dir: cdc_location(Some(&dir)),
            ..follow.clone()
        }),
        _ => None,
    };
    CheckSpec {
        source,
        target,
        dir: Some(dir),
        follow,
        ..spec.clone()
    }
}

/// The name that a database has of its own: oids stay when databases are renamed.
fn numbered(name: &str, database: &Database) -> String {
    format!("{name}_{}", database.oid)
}
