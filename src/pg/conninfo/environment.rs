//! What the process around us says about connections: variables, home directory, system user, default directories.
//! Read once per connection string; parsing itself only sees this struct, so that tests need no real environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where Debian's libpq looks for sockets, and where everybody else's does.
const DEBIAN_SOCKET_DIR: &str = "/var/run/postgresql";
const SOCKET_DIR: &str = "/tmp";

/// Debian's `SYSCONFDIR`, for `pg_service.conf` when `PGSYSCONFDIR` is not set.
const SYSCONF_DIR: &str = "/etc/postgresql-common";

/// The surroundings of one parse.
#[derive(Clone)]
pub struct Environment {
    pub vars: BTreeMap<String, OsString>,
    pub home: Option<PathBuf>,
    pub os_user: Option<String>,
    /// The directory of Unix sockets when no host is given.
    pub socket_dir: PathBuf,
    pub sysconf_dir: PathBuf,
}

impl Environment {
    /// The real one.
    pub fn of_process() -> Environment {
        let vars: BTreeMap<String, OsString> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("PG"))
            .collect();
        // An unknown uid is normal in containers; it only matters when a name is needed and not given.
        let account = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten();
        let home = std::env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .or_else(|| account.as_ref().map(|account| account.dir.clone()));
        let socket_dir = if Path::new(DEBIAN_SOCKET_DIR).is_dir() {
            DEBIAN_SOCKET_DIR
        } else {
            SOCKET_DIR
        };
        Environment {
            vars,
            home,
            os_user: account.map(|account| account.name),
            socket_dir: PathBuf::from(socket_dir),
            sysconf_dir: PathBuf::from(SYSCONF_DIR),
        }
    }

    /// One variable. An empty one is set, as for libpq.
    pub(super) fn var(&self, name: &str) -> Result<Option<&str>> {
        match self.vars.get(name) {
            None => Ok(None),
            Some(value) => value.to_str().map(Some).ok_or_else(|| {
                Error::usage(format!(
                    "environment variable \"{name}\" is not valid UTF-8"
                ))
            }),
        }
    }

    /// A file in the user's home directory.
    pub(super) fn home_file(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(name))
    }
}
