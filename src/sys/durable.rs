//! Files that survive a crash, whole or not at all: atomic writes, exclusive creation, locks. Runs in every process.
//! Knows no file's meaning.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};

/// When a file has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before the call returns.
    Now,
    /// Whenever the kernel likes: losing it must only cost repeated work. The reader checks that it is whole.
    Later,
}

/// Write a file so that its name always shows either the old content or all of the new.
pub fn write_atomic(path: &Path, bytes: &[u8], sync: Sync) -> Result<()> {
    let temporary = temporary_name(path);
    let write = || -> std::io::Result<()> {
        let mut file = create(&temporary)?;
        file.write_all(bytes)?;
        if sync == Sync::Now {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if sync == Sync::Now {
            sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        }
        Ok(())
    };
    write().with_context(|| {
        // A half-written file must not take the space that is missing.
        let _ = std::fs::remove_file(&temporary);
        format!("could not write file \"{}\"", path.display())
    })
}

/// Create a file with this content unless it exists; whether it was us who made it. Complete from the moment its name
/// exists: it is written under another name and then linked, and link(2) never replaces.
pub fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<bool> {
    let temporary = temporary_name(path);
    let write = || -> std::io::Result<bool> {
        create(&temporary)?.write_all(bytes)?;
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    };
    write().with_context(|| format!("could not create file \"{}\"", path.display()))
}

/// Put everything written below a directory's file system on disk, in one call for a whole group of files.
pub fn sync_file_system(directory: &Path) -> Result<()> {
    let sync = || -> std::io::Result<()> { Ok(nix::unistd::syncfs(File::open(directory)?)?) };
    sync().with_context(|| format!("could not sync directory \"{}\"", directory.display()))
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Unique among live processes; a leftover of a dead one is overwritten.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// A file locked with flock: the lock ends with the process, however it ends, so a stale pid means nothing. Never
/// unlinked, or two processes could hold locks on two files of one name.
#[derive(Debug)]
pub struct LockFile {
    _file: Flock<File>,
}

/// Who holds a lock that we wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldBy(pub Option<u32>);

impl LockFile {
    /// Take the lock and write our pid into it, or say who has it.
    pub fn take(path: &Path) -> Result<std::result::Result<LockFile, HeldBy>> {
        let what = || format!("could not lock file \"{}\"", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .with_context(what)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let write = |file: &mut File| -> std::io::Result<()> {
                    file.set_len(0)?;
                    file.rewind()?;
                    writeln!(file, "{}", std::process::id())
                };
                write(&mut file).with_context(what)?;
                Ok(Ok(LockFile { _file: file }))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Ok(Err(HeldBy(text.trim().parse().ok())))
            }
            Err((_, errno)) => Err(Error::io(what(), errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HeldBy, LockFile, Sync, create_exclusive, write_atomic};

    #[test]
    fn writes_whole_files_and_leaves_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one", Sync::Now).unwrap();
        write_atomic(&path, b"two", Sync::Later).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let missing = dir.path().join("no/such");
        assert!(
            write_atomic(&missing, b"", Sync::Now)
                .unwrap_err()
                .to_string()
                .contains("no/such")
        );
    }

    #[test]
    fn exactly_one_creates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claim");
        assert!(create_exclusive(&path, b"first").unwrap());
        assert!(!create_exclusive(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_names_its_holder_and_a_stale_file_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "999999").unwrap();
        let held = LockFile::take(&path).unwrap().unwrap();
        assert_eq!(
            LockFile::take(&path).unwrap().unwrap_err(),
            HeldBy(Some(std::process::id()))
        );
        drop(held);
        assert!(LockFile::take(&path).unwrap().is_ok());
    }
}
