//! Connection service files: named groups of parameters, as in `service=prod`. Reads files, only when a service is
//! named. Source: "The Connection Service File" in the libpq documentation, `parseServiceInfo` in `fe-connect.c`.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::keyword::is_blank;
use super::options::{Origin, RawOptions};
use crate::error::{Context, Error, Result};

/// Fill what was not given from the service that `service` or `PGSERVICE` names, if any.
pub(super) fn apply(options: &mut RawOptions, environment: &Environment) -> Result<()> {
    let service = match options.get("service") {
        Some(service) => service.to_string(),
        None => match environment.var("PGSERVICE")? {
            Some(service) => service.to_string(),
            None => return Ok(()),
        },
    };
    let given_file = match options.get("servicefile") {
        Some(file) => Some(PathBuf::from(file)),
        None => environment.var("PGSERVICEFILE")?.map(PathBuf::from),
    };
    // A file that was named must be there; the user's own and the system's need not.
    let user_file = match given_file {
        Some(file) if !file.exists() => {
            return Err(Error::usage(format!(
                "service file \"{}\" not found",
                file.display()
            )));
        }
        Some(file) => Some(file),
        None => environment.home_file(".pg_service.conf"),
    };
    let system_file = match environment.var("PGSYSCONFDIR")? {
        Some(dir) => Path::new(dir).join("pg_service.conf"),
        None => environment.sysconf_dir.join("pg_service.conf"),
    };
    for file in user_file.into_iter().chain([system_file]) {
        if file.exists() && apply_file(&file, &service, options)? {
            return Ok(());
        }
    }
    Err(Error::usage(format!(
        "definition of service \"{service}\" not found"
    )))
}

/// Whether the file has the service.
fn apply_file(file: &Path, service: &str, options: &mut RawOptions) -> Result<bool> {
    let shown = file.display();
    let content = std::fs::read(file)
        .with_context(|| format!("could not read service file \"{shown}\""))
        .map_err(|error| error.with_kind(crate::error::ErrorKind::Usage))?;
    let content = String::from_utf8(content)
        .map_err(|_| Error::usage(format!("service file \"{shown}\" is not valid UTF-8")))?;
    let mut is_in_group = false;
    let mut is_found = false;
    for (index, line) in content.lines().enumerate() {
        let line = line.trim_matches(is_blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            // The first group of that name counts, whatever follows it.
            if is_found {
                return Ok(true);
            }
            is_in_group = header
                .strip_prefix(service)
                .is_some_and(|rest| rest.starts_with(']'));
            is_found = is_in_group;
            continue;
        }
        if is_in_group {
            let place = || format!("service file \"{shown}\", line {}", index + 1);
            apply_line(line, options).with_context(place)?;
        }
    }
    Ok(is_found)
}

fn apply_line(line: &str, options: &mut RawOptions) -> Result<()> {
    if line.starts_with("ldap://") {
        return Err(Error::usage(
            "services defined by an \"ldap:\" URL are not supported",
        ));
    }
    // The line is not shown: it may be the password.
    let Some((keyword, value)) = line.split_once('=') else {
        return Err(Error::usage("syntax error: missing \"=\""));
    };
    if keyword == "service" || keyword == "servicefile" {
        return Err(Error::usage("a service cannot name another service"));
    }
    if !options.set_default(keyword, value.to_string(), Origin::Service)? {
        return Err(Error::usage(format!("unknown parameter \"{keyword}\"")));
    }
    Ok(())
}
