//! How to reach one of the two servers: everything libpq accepts as a connection string, completed from the service
//! file, the environment and libpq's defaults. Used by every process that connects or starts a child. It opens no
//! connection, and no form of printing it shows a password.

mod child;
mod display;
mod environment;
mod hosts;
mod keyword;
mod options;
mod password;
mod pgpass;
mod policy;
mod resolve;
mod service;
mod uri;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::child::ChildConnection;
pub use self::environment::Environment;
pub use self::hosts::{DEFAULT_PORT, HostSpec};
pub use self::password::Password;
pub use self::policy::{
    AuthMethod, ChannelBinding, Keepalives, LoadBalanceHosts, RequireAuth, TargetSessionAttrs,
};

use self::pgpass::{PasswordFile, Wanted};
use crate::error::{Result, Side};
use crate::pg::tls::TlsSettings;

/// A complete connection string. `Debug` and `Display` are `redacted`.
#[derive(Clone)]
pub struct ConnInfo {
    side: Side,
    hosts: Vec<HostSpec>,
    user: String,
    dbname: String,
    password: Option<Password>,
    /// Empty when `password` is there.
    password_file: Arc<PasswordFile>,
    /// `passfile` as given, for a child that may have to look itself.
    password_path: Option<String>,
    socket_dir: String,
    options: Option<String>,
    application_name: Option<String>,
    connect_timeout: Option<Duration>,
    keepalives: Keepalives,
    tls: TlsSettings,
    channel_binding: ChannelBinding,
    require_auth: RequireAuth,
    requirepeer: Option<String>,
    target_session_attrs: TargetSessionAttrs,
    load_balance_hosts: LoadBalanceHosts,
    /// Whether the connection speaks the replication protocol, as a walsender of its database.
    is_replication: bool,
    /// The other parameters as given, for children and for display. No secrets.
    passed: Vec<(&'static str, String)>,
}

impl ConnInfo {
    /// Read a connection string in the real environment.
    pub fn parse(side: Side, text: &str) -> Result<ConnInfo> {
        ConnInfo::parse_with(side, text, &Environment::of_process())
    }

    /// Read a connection string in a given environment.
    pub fn parse_with(side: Side, text: &str, environment: &Environment) -> Result<ConnInfo> {
        resolve::resolve(side, text, environment).map_err(|error| {
            error
                .context(format!("cannot use the {side} connection string"))
                .with_side(side)
        })
    }

    /// The password for one of the hosts: given, or in the password file.
    pub fn password_for(&self, host: &HostSpec) -> Option<Password> {
        if self.password.is_some() {
            return self.password.clone();
        }
        let name = host.name();
        // The password file knows the default socket directory as "localhost".
        let name = if name == self.socket_dir {
            "localhost".to_string()
        } else {
            name
        };
        self.password_file
            .find(&Wanted {
                host: &name,
                port: host.port,
                dbname: &self.dbname,
                user: &self.user,
            })
            .filter(|password| !password.expose().is_empty())
    }

    /// Only the host that answered: a snapshot belongs to one server, so nobody may be sent to another one. An index
    /// out of range keeps the last host.
    pub fn pinned(&self, host_index: usize) -> ConnInfo {
        let host = self.hosts.get(host_index).or(self.hosts.last()).cloned();
        ConnInfo {
            hosts: host.into_iter().collect(),
            ..self.clone()
        }
    }

    /// Like `pinned`, for a name with several addresses.
    pub fn pinned_to_address(&self, host_index: usize, address: IpAddr) -> ConnInfo {
        let mut pinned = self.pinned(host_index);
        for host in &mut pinned.hosts {
            host.hostaddr = Some(address);
        }
        pinned
    }

    pub fn with_dbname(&self, dbname: &str) -> ConnInfo {
        ConnInfo {
            dbname: dbname.to_string(),
            ..self.clone()
        }
    }

    pub fn with_application_name(&self, name: &str) -> ConnInfo {
        ConnInfo {
            application_name: Some(name.to_string()),
            ..self.clone()
        }
    }

    /// The same connection, given up after this long.
    pub fn with_connect_timeout(&self, timeout: Duration) -> ConnInfo {
        ConnInfo {
            connect_timeout: Some(timeout),
            ..self.clone()
        }
    }

    /// The same connection with more command line options for the server (`-c name=value`), behind the user's own.
    pub fn with_more_options(&self, more: &str) -> ConnInfo {
        let options = match &self.options {
            Some(options) => format!("{options} {more}"),
            None => more.to_string(),
        };
        let mut changed = self.clone();
        changed.passed.retain(|(keyword, _)| *keyword != "options");
        changed.passed.push(("options", options.clone()));
        changed.options = Some(options);
        changed
    }

    /// The same connection to a walsender of the database.
    pub fn for_replication(&self) -> ConnInfo {
        ConnInfo {
            is_replication: true,
            ..self.clone()
        }
    }

    pub fn is_replication(&self) -> bool {
        self.is_replication
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// Never empty.
    pub fn hosts(&self) -> &[HostSpec] {
        &self.hosts
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// `options` or `PGOPTIONS`: the backend's command line options, for the startup message.
    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// `application_name`, else `fallback_application_name`.
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// For each host. None waits for as long as the system does.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    pub fn keepalives(&self) -> Keepalives {
        self.keepalives
    }

    pub fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    pub fn require_auth(&self) -> &RequireAuth {
        &self.require_auth
    }

    /// The system user that the server behind a Unix socket must run as.
    pub fn requirepeer(&self) -> Option<&str> {
        self.requirepeer.as_deref()
    }

    pub fn target_session_attrs(&self) -> TargetSessionAttrs {
        self.target_session_attrs
    }

    pub fn load_balance_hosts(&self) -> LoadBalanceHosts {
        self.load_balance_hosts
    }
}
