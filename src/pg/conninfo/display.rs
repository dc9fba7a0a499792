//! The ways to print a `ConnInfo`: for people, and to recognise a database again. Pure; neither shows a password.

use std::fmt;

use super::hosts::{DEFAULT_PORT, HostSpec};
use super::uri::encode;
use super::{ConnInfo, keyword};

impl ConnInfo {
    /// A URI without secrets, for messages. It cannot be connected to when a password was needed.
    pub fn redacted(&self) -> String {
        let mut text = format!("postgres://{}", encode(&self.user, ""));
        if self.password.is_some() {
            text.push_str(":****");
        }
        text.push('@');
        let hosts: Vec<String> = self.hosts.iter().map(uri_host).collect();
        text.push_str(&hosts.join(","));
        text.push('/');
        text.push_str(&encode(&self.dbname, ""));
        for (index, (keyword, value)) in self.passed.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(keyword);
            text.push('=');
            text.push_str(&encode(value, "/:@,"));
        }
        text
    }

    /// Which database this is, to be compared when work is resumed: host, port, dbname and user. Other parameters, and
    /// the address that a name was pinned to, may change between two runs.
    pub fn identity(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(HostSpec::name).collect();
        let ports: Vec<String> = self
            .hosts
            .iter()
            .map(|host| host.port.to_string())
            .collect();
        let mut text = String::new();
        keyword::append(&mut text, "host", &hosts.join(","));
        keyword::append(&mut text, "port", &ports.join(","));
        keyword::append(&mut text, "dbname", &self.dbname);
        keyword::append(&mut text, "user", &self.user);
        text
    }
}

fn uri_host(host: &HostSpec) -> String {
    let name = host.name();
    let name = if name.contains(':') && !host.is_unix_socket() {
        format!("[{name}]")
    } else {
        encode(&name, "")
    };
    if host.port == DEFAULT_PORT {
        name
    } else {
        format!("{name}:{}", host.port)
    }
}

impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({}, {})", self.side, self.redacted())
    }
}
