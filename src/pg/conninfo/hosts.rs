//! The list of servers that `host`, `hostaddr` and `port` make together. Pure. Source: "Specifying Multiple Hosts" in
//! the libpq documentation.

use std::net::IpAddr;
use std::path::Path;

use super::keyword::is_blank;
use super::options::RawOptions;
use crate::error::{Error, Result};

pub const DEFAULT_PORT: u16 = 5432;

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// A name, an address, or a socket directory (see `is_unix_socket`). None only if there is a `hostaddr`.
    pub host: Option<String>,
    /// Where to connect to, whatever the name resolves to.
    pub hostaddr: Option<IpAddr>,
    pub port: u16,
}

impl HostSpec {
    /// Whether the connection goes through a Unix socket: a directory, or "@" for Linux's abstract names.
    pub fn is_unix_socket(&self) -> bool {
        self.hostaddr.is_none()
            && self
                .host
                .as_deref()
                .is_some_and(|host| host.starts_with(['/', '@']))
    }

    /// The name for messages, certificates and password files.
    pub fn name(&self) -> String {
        match (&self.host, self.hostaddr) {
            (Some(host), _) => host.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        }
    }

    /// The path of the Unix socket, with "@" for a leading zero byte.
    pub fn socket_path(&self) -> Option<String> {
        let directory = self.host.as_deref().filter(|_| self.is_unix_socket())?;
        Some(format!("{directory}/.s.PGSQL.{}", self.port))
    }
}

/// Combine the three lists.
pub(super) fn resolve(options: &RawOptions, socket_dir: &Path) -> Result<Vec<HostSpec>> {
    let split = |keyword: &str| -> Option<Vec<&str>> {
        Some(options.non_empty(keyword)?.split(',').collect())
    };
    let (names, addresses, ports) = (split("host"), split("hostaddr"), split("port"));
    let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
    if let Some(names) = names.as_ref().filter(|names| names.len() != count) {
        return Err(Error::usage(format!(
            "could not match {} host names to {count} \"hostaddr\" values",
            names.len()
        )));
    }
    if let Some(ports) = ports.as_ref().filter(|p| p.len() != 1 && p.len() != count) {
        return Err(Error::usage(format!(
            "could not match {} port numbers to {count} hosts",
            ports.len()
        )));
    }
    let mut hosts = Vec::with_capacity(count);
    for index in 0..count {
        let item = |list: &Option<Vec<&str>>| -> Option<String> {
            let text = *list.as_ref()?.get(index)?;
            (!text.is_empty()).then(|| text.to_string())
        };
        let hostaddr = item(&addresses)
            .map(|address| parse_address(&address))
            .transpose()?;
        let host = match item(&names) {
            None if hostaddr.is_none() => Some(socket_dir.display().to_string()),
            host => host,
        };
        // One port stands for all hosts.
        let port = ports.as_ref().and_then(|p| p.get(index).or(p.first()));
        let port = port.map_or(Ok(DEFAULT_PORT), |port| parse_port(port))?;
        hosts.push(HostSpec {
            host,
            hostaddr,
            port,
        });
    }
    Ok(hosts)
}

fn parse_address(text: &str) -> Result<IpAddr> {
    text.trim_matches(is_blank).parse().map_err(|_| {
        Error::usage(format!(
            "invalid \"hostaddr\": \"{text}\" is not an IP address"
        ))
    })
}

/// The text is not shown unless it is a number: in a URI whose password has an unencoded "@", ":" or "/" it is a part
/// of the password.
fn parse_port(text: &str) -> Result<u16> {
    let text = text.trim_matches(is_blank);
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    match text.parse() {
        Ok(0) => Err(Error::usage("invalid port number: \"0\"")),
        Ok(port) => Ok(port),
        Err(_) => Err(
            Error::usage("invalid port number: expected 1 to 65535").with_hint(
                "In a URI, the characters @ : / of a user name or password must be percent-encoded, as in %40 for @.",
            ),
        ),
    }
}
