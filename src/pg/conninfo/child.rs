//! A connection for a child process of PostgreSQL (`pg_dump`, `pg_restore`, `psql`): what goes to its command line,
//! where everybody can read it, and what goes to its environment. Used by the process that starts the child.
//!
//! The command line gets every parameter but the secrets, so the environment cannot contradict it; `PGPASSWORD` has the
//! password. libpq has no variable for `sslpassword`, so that one goes through a service file which exists only in
//! memory and is read through this process's `/proc/PID/fd`: nothing to see in `ps`, nothing left on a disk.

use std::ffi::{CStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::options::{OPTIONS, OTHER_VARIABLES};
use super::{ConnInfo, keyword};
use crate::error::{Context, Error, Result};
use crate::pg::tls::Negotiation;

/// The name of the only service in the file, and of the file.
const SERVICE: &str = "pgcopydb";
const SERVICE_FILE: &CStr = c"pgcopydb-service";

/// What a child needs to connect. Keep it until the child has ended: it holds the service file.
pub struct ChildConnection {
    /// For `--dbname`: keyword/value, no secrets.
    pub dbname_argument: String,
    /// May hold the password. Set after removing `env_remove`.
    pub env_set: Vec<(OsString, OsString)>,
    /// Variables that would change what the child does.
    pub env_remove: Vec<&'static str>,
    _service_file: Option<OwnedFd>,
}

impl fmt::Debug for ChildConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not `env_set`, which may hold the password.
        f.debug_struct("ChildConnection")
            .field("dbname_argument", &self.dbname_argument)
            .finish_non_exhaustive()
    }
}

impl ConnInfo {
    /// What a child needs to connect as we do.
    pub fn child(&self) -> Result<ChildConnection> {
        let mut env_set = Vec::new();
        let mut argument = String::new();
        let service_file = match &self.tls.key_passphrase {
            Some(passphrase) => {
                let file = service_file(passphrase.expose())?;
                let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
                env_set.push(("PGSERVICEFILE".into(), path.into()));
                keyword::append(&mut argument, "service", SERVICE);
                Some(file)
            }
            None => None,
        };
        self.append_server(&mut argument);
        // With several hosts each may have its own password, and only the child knows which host answered.
        let password = match self.hosts.as_slice() {
            [host] => self.password_for(host),
            _ => self.password.clone(),
        };
        match (password, &self.password_path) {
            (Some(password), _) => {
                env_set.push(("PGPASSWORD".into(), password.expose().into()));
            }
            (None, Some(path)) => keyword::append(&mut argument, "passfile", path),
            (None, None) => {}
        }
        if let Some(name) = &self.application_name {
            keyword::append(&mut argument, "application_name", name);
        }
        for (keyword, value) in &self.passed {
            // Clients before 16 do not know the first, and with one host there is nothing to balance; those before 17 do
            // not know the second, and always ask before they begin with TLS.
            let is_moot = match *keyword {
                "load_balance_hosts" => self.hosts.len() == 1,
                "sslnegotiation" => self.tls.negotiation == Negotiation::Postgres,
                _ => false,
            };
            if !is_moot {
                keyword::append(&mut argument, keyword, value);
            }
        }
        Ok(ChildConnection {
            dbname_argument: argument,
            env_set,
            env_remove: OPTIONS
                .iter()
                .filter_map(|option| option.variable)
                .chain(OTHER_VARIABLES.iter().copied())
                .collect(),
            _service_file: service_file,
        })
    }

    /// Always all of it, so that a libpq with other defaults meets the same server.
    fn append_server(&self, argument: &mut String) {
        let list = |item: &dyn Fn(&super::HostSpec) -> String| -> String {
            let items: Vec<String> = self.hosts.iter().map(item).collect();
            items.join(",")
        };
        if self.hosts.iter().any(|host| host.host.is_some()) {
            let hosts = list(&|host| host.host.clone().unwrap_or_default());
            keyword::append(argument, "host", &hosts);
        }
        if self.hosts.iter().any(|host| host.hostaddr.is_some()) {
            let addresses = list(&|host| {
                host.hostaddr
                    .map(|address| address.to_string())
                    .unwrap_or_default()
            });
            keyword::append(argument, "hostaddr", &addresses);
        }
        keyword::append(argument, "port", &list(&|host| host.port.to_string()));
        keyword::append(argument, "user", &self.user);
        keyword::append(argument, "dbname", &self.dbname);
    }
}

/// The file is closed on exec: the child opens it by its path in our `/proc` directory, each of its connections anew.
fn service_file(passphrase: &str) -> Result<OwnedFd> {
    // The file knows no quotes: a line end would end the value, and libpq drops blanks at the end of a line.
    if passphrase.contains(['\n', '\r']) || passphrase.trim_end() != passphrase {
        return Err(Error::usage(
            "cannot give \"sslpassword\" to a child process: it contains a line end or ends with a blank",
        ));
    }
    let what = "could not create a service file in memory";
    let fd = memfd_create(SERVICE_FILE, MFdFlags::MFD_CLOEXEC)
        .map_err(std::io::Error::from)
        .context(what)?;
    let mut file = File::from(fd);
    file.write_all(format!("[{SERVICE}]\nsslpassword={passphrase}\n").as_bytes())
        .context(what)?;
    Ok(OwnedFd::from(file))
}
