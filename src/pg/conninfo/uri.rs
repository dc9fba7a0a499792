//! The URI form of a connection string, `postgresql://user:password@host:port,host2/dbname?parameter=value`. Pure.
//! A URI holds the password, so no error shows a part of it. Source: "Connection URIs" in the libpq documentation,
//! `conninfo_uri_parse_options` in `fe-connect.c`.

use super::keyword::is_blank;
use super::options::{RawOptions, is_secret};
use crate::error::{Error, Result};

const ENCODE_HINT: &str = "In a URI, the characters @ : / ? & = % and blanks of a user name, password or other value \
                           must be percent-encoded, as in %40 for @.";

/// What follows `postgres://` or `postgresql://`, if the text is a URI.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
}

/// Read what follows the scheme.
pub(super) fn parse(text: &str, options: &mut RawOptions) -> Result<()> {
    let rest = parse_user(text, options)?;
    let rest = parse_hosts(rest, options)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if let Some(dbname) = path.strip_prefix('/').filter(|dbname| !dbname.is_empty()) {
        store(options, "dbname", dbname)?;
    }
    match query {
        Some(query) => parse_query(query, options),
        None => Ok(()),
    }
}

/// Read `user:password@`, which is there if an "@" comes before the first "/". Gives the rest.
fn parse_user<'a>(text: &'a str, options: &mut RawOptions) -> Result<&'a str> {
    let end = match text.find(['@', '/']) {
        Some(end) if text[end..].starts_with('@') => end,
        _ => return Ok(text),
    };
    let (user, password) = match text[..end].split_once(':') {
        Some((user, password)) => (user, password),
        None => (&text[..end], ""),
    };
    if !user.is_empty() {
        store(options, "user", user)?;
    }
    if !password.is_empty() {
        store(options, "password", password)?;
    }
    Ok(&text[end + 1..])
}

/// Read `host:port,host:port`. Gives the rest, which begins by "/" or "?" or is empty.
fn parse_hosts<'a>(text: &'a str, options: &mut RawOptions) -> Result<&'a str> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    let mut rest = text;
    loop {
        let (host, after_host) = take_host(rest)?;
        // The tail of a password with an "@" of its own would be taken for a host, and shown as one.
        if host.contains('@') && !host.starts_with('@') {
            return Err(
                Error::usage("a host name in a URI contains an \"@\"").with_hint(ENCODE_HINT)
            );
        }
        hosts.push(host);
        let (port, after_port) = match after_host.strip_prefix(':') {
            Some(text) => text.split_at(text.find(['/', '?', ',']).unwrap_or(text.len())),
            None => ("", after_host),
        };
        ports.push(port);
        match after_port.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                rest = after_port;
                break;
            }
        }
    }
    let hosts = hosts.join(",");
    if !hosts.is_empty() {
        store(options, "host", &hosts)?;
    }
    let ports = ports.join(",");
    if !ports.is_empty() {
        store(options, "port", &ports)?;
    }
    Ok(rest)
}

/// One host, or an IPv6 address in brackets, and what follows.
fn take_host(text: &str) -> Result<(&str, &str)> {
    let Some(text) = text.strip_prefix('[') else {
        return Ok(text.split_at(text.find([':', '/', '?', ',']).unwrap_or(text.len())));
    };
    let Some((address, rest)) = text.split_once(']') else {
        return Err(Error::usage("missing \"]\" after an IPv6 address in a URI"));
    };
    if address.is_empty() {
        return Err(Error::usage("empty IPv6 address in a URI"));
    }
    if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
        return Err(Error::usage(
            "unexpected character after an IPv6 address in a URI: expected \":\", \"/\", \"?\" or \",\"",
        )
        .with_hint(ENCODE_HINT));
    }
    Ok((address, rest))
}

fn parse_query(query: &str, options: &mut RawOptions) -> Result<()> {
    // What follows a password may be the rest of it, with a "&" that should have been encoded.
    let mut may_be_secret = false;
    // One "&" may end the list, as for libpq; an empty parameter elsewhere is an error.
    let query = query.strip_suffix('&').unwrap_or(query);
    if query.is_empty() {
        return Ok(());
    }
    for parameter in query.split('&') {
        let mut parts = parameter.split('=');
        let keyword = decode(parts.next().unwrap_or(""), "query parameter name")?;
        let shown = if may_be_secret {
            "after the password".to_string()
        } else {
            format!("\"{keyword}\"")
        };
        let Some(value) = parts.next() else {
            return Err(
                Error::usage(format!("missing \"=\" in URI query parameter {shown}"))
                    .with_hint(ENCODE_HINT),
            );
        };
        if parts.next().is_some() {
            return Err(Error::usage(format!(
                "more than one \"=\" in URI query parameter {shown}"
            ))
            .with_hint(ENCODE_HINT));
        }
        let value = decode(value, &format!("value of URI query parameter {shown}"))?;
        may_be_secret = is_secret(&keyword);
        // The JDBC driver's spelling.
        let (keyword, value) = match (keyword.as_str(), value.as_str()) {
            ("ssl", "true") => ("sslmode".to_string(), "require".to_string()),
            _ => (keyword, value),
        };
        if !options.set(&keyword, value)? {
            return Err(Error::usage(format!("unknown URI query parameter {shown}")));
        }
    }
    Ok(())
}

fn store(options: &mut RawOptions, keyword: &'static str, encoded: &str) -> Result<()> {
    let value = decode(encoded, keyword)?;
    options.set(keyword, value)?;
    Ok(())
}

/// Undo percent-encoding. Blanks around the text are dropped, and refused inside, as libpq 18 does.
fn decode(encoded: &str, part: &str) -> Result<String> {
    let encoded = encoded.trim_matches(is_blank);
    let invalid =
        |reason: &str| Error::usage(format!("invalid {part}: {reason}")).with_hint(ENCODE_HINT);
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if is_blank(char::from(byte)) {
            return Err(invalid("it contains a blank, which must be written as %20"));
        }
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        match (hex_digit(rest.next()), hex_digit(rest.next())) {
            (Some(0), Some(0)) => return Err(invalid("%00 is forbidden")),
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => {
                return Err(invalid("a \"%\" is not followed by two hexadecimal digits"));
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("the decoded text is not valid UTF-8"))
}

fn hex_digit(byte: Option<u8>) -> Option<u8> {
    let digit = char::from(byte?).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Percent-encode everything that has a meaning in a URI, and everything that is not printable ASCII.
pub(super) fn encode(text: &str, kept: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || (c.is_ascii() && ("-._~".contains(c) || kept.contains(c))) {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
