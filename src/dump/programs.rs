//! Finds the pg_dump and pg_restore to use: of `PG_CONFIG` alone when it is set, else the lowest major version that is
//! at least that of both servers (a newer one may write what an older target does not know), of that the newest minor.
//! Runs in the parent before anything starts; it runs nothing but `pg_dump --version`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::dump::run::use_plain_messages;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::child_program::{self, Output};
use crate::sys::signal::Shutdown;

/// Where Debian and its relatives keep one directory per major version, none of them in the PATH.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";
/// Debian's /usr/bin/pg_dump is a link to this, which picks a version by its own rules.
const DEBIAN_WRAPPER: &str = "pg_wrapper";
/// `--version` prints one line; longer means that the file system or the program hangs.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// `major.minor` of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProgramVersion {
    pub major: u32,
    /// 0 for a development version.
    pub minor: u32,
}

impl ProgramVersion {
    /// From `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`, `... 18beta1`, `... 19devel`.
    fn parse(line: &str) -> Option<ProgramVersion> {
        let text = line.split_whitespace().nth(2)?;
        let (major, rest) = leading_number(text)?;
        let minor = rest
            .strip_prefix('.')
            .and_then(leading_number)
            .map_or(0, |(minor, _)| minor);
        Some(ProgramVersion { major, minor })
    }
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl fmt::Display for ProgramVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The programs that were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub pg_dump: PathBuf,
    pub pg_restore: PathBuf,
    pub version: ProgramVersion,
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct SearchPlaces {
    pg_config: Option<OsString>,
    path: OsString,
    debian_root: PathBuf,
}

impl SearchPlaces {
    pub fn from_environment() -> SearchPlaces {
        SearchPlaces {
            pg_config: std::env::var_os("PG_CONFIG").filter(|value| !value.is_empty()),
            path: std::env::var_os("PATH").unwrap_or_default(),
            debian_root: PathBuf::from(DEBIAN_ROOT),
        }
    }

    /// Choose for two servers, by their `server_version_num`.
    pub fn find(
        &self,
        source_version: u32,
        target_version: u32,
        shutdown: &Shutdown,
    ) -> Result<Programs> {
        let needed = source_version.max(target_version) / 10_000;
        let found = match &self.pg_config {
            Some(pg_config) => vec![self.of_pg_config(pg_config, shutdown)?],
            None => self.installed(shutdown)?,
        };
        choose(&found, needed).cloned().ok_or_else(|| {
            let error = Error::new(
                ErrorKind::Config,
                format!(
                    "cannot find pg_dump and pg_restore of PostgreSQL {needed} or later: {}",
                    describe(&found)
                ),
            );
            error
                .with_detail(format!(
                    "The source server has version {}, the target server version {}.",
                    source_version / 10_000,
                    target_version / 10_000
                ))
                .with_hint(match self.pg_config {
                    Some(_) => "PG_CONFIG is set, so that no other place is looked at.",
                    None => "Install the client programs, or set PG_CONFIG to a pg_config.",
                })
        })
    }

    /// What PG_CONFIG names, usable or an error: the user asked for exactly this one.
    fn of_pg_config(&self, pg_config: &OsString, shutdown: &Shutdown) -> Result<Programs> {
        let shown = pg_config.to_string_lossy();
        let asked = format!("could not find the programs of PG_CONFIG \"{shown}\"");
        let bindir = first_line(Path::new(pg_config), "--bindir", shutdown)
            .map_err(as_configuration)
            .context(&asked)?;
        let directory = PathBuf::from(bindir);
        programs_in(&directory, shutdown)
            .map_err(as_configuration)
            .context(&asked)
    }

    /// Every pair of programs in the PATH and in Debian's directories.
    fn installed(&self, shutdown: &Shutdown) -> Result<Vec<Programs>> {
        let mut directories: Vec<PathBuf> = std::env::split_paths(&self.path).collect();
        if let Ok(majors) = std::fs::read_dir(&self.debian_root) {
            directories.extend(majors.flatten().map(|major| major.path().join("bin")));
        }
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for directory in directories {
            let pg_dump = directory.join("pg_dump");
            // The same program through another link is not looked at twice.
            let Ok(real) = pg_dump.canonicalize() else {
                continue;
            };
            if real.ends_with(DEBIAN_WRAPPER) || !seen.insert(real) {
                continue;
            }
            match programs_in(&directory, shutdown) {
                Ok(programs) => found.push(programs),
                Err(error) if error.is_interrupted() => return Err(error),
                Err(error) => log::debug!("{error}"),
            }
        }
        Ok(found)
    }
}

/// What the user set is wrong, unless the user also pressed Ctrl-C.
fn as_configuration(error: Error) -> Error {
    if error.is_interrupted() {
        error
    } else {
        error.with_kind(ErrorKind::Config)
    }
}

/// The lowest major that will do, of that the newest minor; the first found among equals.
fn choose(found: &[Programs], needed: u32) -> Option<&Programs> {
    let usable = found
        .iter()
        .filter(|programs| programs.version.major >= needed);
    usable.min_by_key(|programs| {
        let version = programs.version;
        (version.major, std::cmp::Reverse(version.minor))
    })
}

fn describe(found: &[Programs]) -> String {
    if found.is_empty() {
        return "none were found".to_owned();
    }
    let each: Vec<String> = found
        .iter()
        .map(|programs| {
            let directory = programs.pg_dump.parent().unwrap_or(Path::new("/"));
            format!("{} in \"{}\"", programs.version, directory.display())
        })
        .collect();
    format!("found only {}", each.join(", "))
}

/// Both programs of one directory, of one version.
fn programs_in(directory: &Path, shutdown: &Shutdown) -> Result<Programs> {
    let pg_dump = directory.join("pg_dump");
    let pg_restore = directory.join("pg_restore");
    let version = version_of(&pg_dump, shutdown)?;
    let restore_version = version_of(&pg_restore, shutdown)?;
    if version != restore_version {
        return Err(Error::config(format!(
            "program \"{}\" has version {restore_version}, pg_dump beside it has {version}",
            pg_restore.display()
        )));
    }
    Ok(Programs {
        pg_dump,
        pg_restore,
        version,
    })
}

fn version_of(program: &Path, shutdown: &Shutdown) -> Result<ProgramVersion> {
    let line = first_line(program, "--version", shutdown)?;
    ProgramVersion::parse(&line).ok_or_else(|| {
        Error::config(format!(
            "program \"{}\" tells no version: {line:?}",
            program.display()
        ))
    })
}

fn first_line(program: &Path, argument: &str, shutdown: &Shutdown) -> Result<String> {
    let mut command = Command::new(program);
    command.arg(argument);
    use_plain_messages(&mut command);
    let deadline = Some(Instant::now() + VERSION_TIMEOUT);
    let mut first = None;
    let reason = child_program::run(command, Output::Stdout, shutdown, deadline, &mut |line| {
        first.get_or_insert_with(|| String::from_utf8_lossy(line).trim().to_owned());
    })?;
    match first {
        Some(line) if reason.is_success() => Ok(line),
        _ => Err(Error::new(
            ErrorKind::Child,
            format!("program \"{}\" {argument} {reason}", program.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::{ProgramVersion, SearchPlaces};
    use crate::error::{ErrorKind, Result};
    use crate::sys::signal::Shutdown;

    fn script(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn install(directory: &Path, version: &str) {
        for name in ["pg_dump", "pg_restore"] {
            let line = format!("echo '{name} (PostgreSQL) {version}'");
            script(&directory.join(name), &line);
        }
    }

    struct Host {
        directory: tempfile::TempDir,
        places: SearchPlaces,
    }

    /// A host with programs in a directory of the PATH, and in Debian's.
    fn host(in_path: &[&str], in_debian: &[&str]) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut path = vec![root.join("empty")];
        for version in in_path {
            let bin = root.join(format!("path-{version}"));
            install(&bin, version);
            path.push(bin);
        }
        for version in in_debian {
            let major = version.split('.').next().unwrap();
            install(&root.join(format!("debian/{major}/bin")), version);
        }
        let places = SearchPlaces {
            pg_config: None,
            path: std::env::join_paths(path).unwrap(),
            debian_root: root.join("debian"),
        };
        Host { directory, places }
    }

    fn found(host: &Host, source: u32, target: u32) -> Result<String> {
        let programs = host.places.find(source, target, &Shutdown::deaf())?;
        Ok(programs.version.to_string())
    }

    #[test]
    fn parses_versions() {
        for (line, expected) in [
            (
                "pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)",
                Some("15.20"),
            ),
            ("pg_dump (PostgreSQL) 18beta1", Some("18.0")),
            ("pg_dump (PostgreSQL) 19devel", Some("19.0")),
            ("pg_dump", None),
            ("", None),
            ("pg_dump (PostgreSQL) x", None),
        ] {
            let version = ProgramVersion::parse(line).map(|version| version.to_string());
            assert_eq!(version.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_lowest_sufficient_major_wins() {
        let host = host(&["18.6", "14.23"], &["15.20", "16.15", "17.11"]);
        assert_eq!(found(&host, 100_023, 140_001).unwrap(), "14.23");
        assert_eq!(found(&host, 150_020, 140_023).unwrap(), "15.20");
        assert_eq!(found(&host, 150_020, 170_011).unwrap(), "17.11");
        assert_eq!(found(&host, 180_000, 100_000).unwrap(), "18.6");
    }

    #[test]
    fn of_one_major_the_newest_minor_wins() {
        let host = host(&["17.1", "17.11", "17.2"], &[]);
        assert_eq!(found(&host, 150_000, 170_000).unwrap(), "17.11");
    }

    #[test]
    fn none_is_an_error_that_names_what_was_found() {
        let some = host(&["14.23"], &["15.20"]);
        let error = found(&some, 150_020, 170_011).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(message.contains("PostgreSQL 17 or later"), "{message}");
        assert!(message.contains("14.23 in \"") && message.contains("15.20 in \""));
        let message = found(&host(&[], &[]), 150_020, 170_011).unwrap_err();
        assert!(message.to_string().contains("none were found"));
    }

    #[test]
    fn debians_wrapper_and_broken_programs_are_passed_over() {
        let host = host(&["15.3"], &["15.20"]);
        let root = host.directory.path();
        let wrapper = root.join("share/pg_wrapper");
        script(&wrapper, "echo 'pg_dump (PostgreSQL) 15.99'");
        let bin = root.join("path-15.3");
        for name in ["pg_dump", "pg_restore"] {
            fs::remove_file(bin.join(name)).unwrap();
            symlink(&wrapper, bin.join(name)).unwrap();
        }
        script(&root.join("empty/pg_dump"), "exit 1");
        assert_eq!(found(&host, 150_000, 150_000).unwrap(), "15.20");
    }

    #[test]
    fn pg_config_alone_is_asked() {
        let mut host = host(&["18.6"], &["15.20"]);
        let root = host.directory.path().to_owned();
        let pg_config = root.join("pg_config");
        let bin = root.join("debian/15/bin");
        script(
            &pg_config,
            &format!("test \"$1\" = --bindir && echo '{}'", bin.display()),
        );
        host.places.pg_config = Some(pg_config.clone().into());
        assert_eq!(found(&host, 150_000, 140_000).unwrap(), "15.20");
        let error = found(&host, 150_000, 180_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().unwrap().contains("PG_CONFIG is set"));
        script(&pg_config, "exit 2");
        let message = found(&host, 150_000, 140_000).unwrap_err().to_string();
        assert!(message.contains("exited with code 2"), "{message}");
        host.places.pg_config = Some(root.join("missing").into());
        let error = found(&host, 150_000, 140_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
