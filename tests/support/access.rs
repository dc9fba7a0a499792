//! Who may connect to a test server, and what everybody could read about those who do: pg_hba.conf, command lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cluster::{Cluster, StopMode};
use super::version::Version;

/// The first lines of every pg_hba.conf: the tests' own client always gets in.
const TESTS_THEMSELVES: &str = "local all postgres trust\n";

/// Replace pg_hba.conf. A restart and no reload, since that one takes effect some time later.
pub fn set_hba(cluster: &Cluster, rules: &str) {
    let path = cluster.data_dir().join("pg_hba.conf");
    fs::write(path, format!("{TESTS_THEMSELVES}{rules}")).unwrap();
    cluster.stop(StopMode::Fast);
    cluster.start_again();
}

/// Programs that stand before the real pg_dump and pg_restore and note, as any user of the machine could, all command
/// lines there are while they run.
pub struct Spies {
    dir: PathBuf,
    notes: PathBuf,
    path: String,
}

impl Spies {
    /// `dir` is made.
    pub fn new(dir: &Path, version: Version) -> Spies {
        fs::create_dir(dir).unwrap();
        let notes = dir.join("command-lines");
        for program in ["pg_dump", "pg_restore"] {
            let file = dir.join(program);
            let real = version.bindir().join(program);
            // `pg_dump --version` is of no interest.
            let script = format!(
                "#!/bin/sh\n\
                 \"{real}\" \"$@\" & child=$!\n\
                 [ \"$1\" = --version ] || cat /proc/[0-9]*/cmdline >>\"{notes}\" 2>/dev/null\n\
                 echo >>\"{notes}\"\n\
                 wait $child\n",
                real = real.display(),
                notes = notes.display()
            );
            fs::write(&file, script).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        Spies {
            dir: dir.to_owned(),
            notes,
            path,
        }
    }

    /// PATH for the run.
    pub fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), self.path)
    }

    /// Everything that was seen, arguments separated by spaces.
    pub fn command_lines(&self) -> String {
        let bytes = fs::read(&self.notes).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }
}

/// The files below a directory that hold this text.
pub fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
            {
                found.push(path);
            }
        }
    }
    found
}
