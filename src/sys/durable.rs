//! Files that survive a crash, whole or not at all: atomic writes, exclusive creation, locks. Runs in every process.
//! Knows no file's meaning.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::failpoint::{failpoint, failpoint_at, kind_of_file};
use crate::error::{Error, Result};

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
    write_atomic_with(path, sync, &mut |file| {
        file.write_all(bytes)
            .map_err(|error| refused("write file", path, error))
    })
}

/// The same for what is too large to be had at once: `fill` writes it.
pub fn write_atomic_with(
    path: &Path,
    sync: Sync,
    fill: &mut dyn FnMut(&mut File) -> Result<()>,
) -> Result<()> {
    let temporary = temporary_name(path);
    let refused = |error| refused("write file", path, error);
    let mut write = || -> Result<()> {
        let mut file = create(&temporary).map_err(refused)?;
        fill(&mut file)?;
        match sync {
            Sync::Now => file.sync_all().map_err(refused),
            Sync::Later => Ok(()),
        }
    };
    let put_in_place = || -> std::io::Result<()> {
        std::fs::rename(&temporary, path)?;
        if sync == Sync::Now {
            sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        }
        Ok(())
    };
    write()
        .and_then(|()| failpoint_at("file.before_rename", || kind_of_file(path)))
        .and_then(|()| put_in_place().map_err(refused))
        .inspect_err(|_| {
            // A half-written file must not take the space that is missing.
            let _ = std::fs::remove_file(&temporary);
        })?;
    failpoint_at("file.after_rename", || kind_of_file(path))
}

/// Create a file with this content unless it exists; whether it was us who made it. Complete from the moment its name
/// exists: it is written under another name and then linked, and link(2) never replaces.
pub fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<bool> {
    let temporary = temporary_name(path);
    let write = || create(&temporary)?.write_all(bytes);
    let link = || -> std::io::Result<bool> {
        match std::fs::hard_link(&temporary, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    };
    let refused = |error| refused("create file", path, error);
    let written = write()
        .map_err(refused)
        .and_then(|()| failpoint_at("file.before_link", || kind_of_file(path)))
        .and_then(|()| link().map_err(refused));
    // Linked or not, this name has had its use. Should it stay, a later run removes it.
    let _ = std::fs::remove_file(&temporary);
    if written.as_ref().is_ok_and(|is_ours| *is_ours) {
        failpoint_at("file.after_link", || kind_of_file(path))?;
    }
    written
}

/// Remove a file that may be gone already.
pub fn remove_file(path: &Path) -> Result<()> {
    failpoint_at("file.before_remove", || kind_of_file(path))?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(
            format!("could not remove file \"{}\"", path.display()),
            error,
        )),
        Ok(()) => failpoint_at("file.after_remove", || kind_of_file(path)),
    }
}

/// Remove a file so that a power cut does not bring it back; one that is missing is no error.
pub fn remove_file_now(path: &Path) -> Result<()> {
    remove_file(path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    sync_directory(directory).map_err(|error| refused("sync directory", directory, error))
}

/// Put everything written below a directory's file system on disk, in one call for a whole group of files.
pub fn sync_file_system(directory: &Path) -> Result<()> {
    let sync = || -> std::io::Result<()> { Ok(nix::unistd::syncfs(File::open(directory)?)?) };
    failpoint("disk.before_sync")?;
    sync().map_err(|error| refused("sync directory", directory, error))?;
    failpoint("disk.after_sync")
}

/// What the operating system said, and of what.
fn refused(what: &str, path: &Path, cause: std::io::Error) -> Error {
    Error::io(format!("could not {what} \"{}\"", path.display()), cause)
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

/// Remove what processes that were killed have not come to rename. Those of live ones are left to them. Best effort: such a
/// file does no harm but to a user who looks.
pub fn remove_unfinished(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let writer = name.to_str().and_then(writer_of);
        if writer.is_some_and(is_gone) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Who writes a file with a temporary name.
fn writer_of(name: &str) -> Option<i32> {
    let (_, pid) = name.strip_suffix(".tmp")?.rsplit_once('.')?;
    pid.parse().ok().filter(|pid| *pid > 0)
}

fn is_gone(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(Errno::ESRCH)
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// A file locked with flock: the lock ends with the last process that has it open, however that ends, so a stale pid
/// means nothing. Workers inherit it: until the last of them is gone, no other run gets in. It is let go by closing
/// alone, since LOCK_UN in one process would end the lock of all. Never unlinked, or two processes could hold locks on
/// two files of one name.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

/// Who holds a lock that we wanted: who took it, although only its workers may be left.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldBy(pub Option<u32>);

impl LockFile {
    /// Take the lock and write our pid into it, or say who has it.
    pub fn take(path: &Path) -> Result<std::result::Result<LockFile, HeldBy>> {
        let open_and_lock = || -> std::io::Result<std::result::Result<LockFile, HeldBy>> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(path)?;
            if !try_lock(&file)? {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Ok(Err(HeldBy(text.trim().parse().ok())));
            }
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Ok(LockFile { file }))
        };
        open_and_lock().map_err(|error| refused("lock file", path, error))
    }

    /// Give the lock back, also for every child that has inherited it.
    #[expect(unsafe_code, reason = "flock(2)")]
    pub fn release(&self) -> Result<()> {
        // SAFETY: a plain system call on a descriptor that is open as long as `self` is borrowed.
        match unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) } {
            0 => Ok(()),
            _ => Err(Error::io(
                "could not release a lock",
                std::io::Error::last_os_error(),
            )),
        }
    }
}

impl HeldBy {
    /// Whether the process that took the lock is gone, and only its workers hold it.
    pub fn is_orphaned(&self) -> bool {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok());
        // Zero and below would ask for a whole process group.
        pid.filter(|pid| *pid > 0).is_some_and(is_gone)
    }
}

/// Lock a whole file; `false` when somebody else has. Never waits.
#[expect(unsafe_code, reason = "flock(2); nix's guard would unlock on drop")]
fn try_lock(file: &File) -> std::io::Result<bool> {
    // SAFETY: a plain system call on a descriptor that is open as long as `file` is borrowed.
    match Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{HeldBy, LockFile, Sync, create_exclusive, write_atomic};

    #[test]
    fn writes_whole_files_and_leaves_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one", Sync::Now).unwrap();
        write_atomic(&path, b"two", Sync::Later).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
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

    #[test]
    fn a_full_disk_names_the_file_and_leaves_nothing() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = super::refused("write file", std::path::Path::new("/d/run/7.done"), full);
        assert!(
            error
                .to_string()
                .contains("\"/d/run/7.done\": No space left")
        );
        assert!(error.hint().unwrap().contains("--resume"));
        // A name that is a directory: the rename fails after the write.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::create_dir(&path).unwrap();
        write_atomic(&path, b"", Sync::Later).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_worker_that_drops_the_lock_leaves_it_to_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let worker = LockFile::take(&path).unwrap().unwrap();
        // What fork leaves in the parent: another descriptor of the same open file.
        let parent = worker.file.try_clone().unwrap();
        drop(worker);
        assert!(LockFile::take(&path).unwrap().is_err());
        drop(parent);
        assert!(LockFile::take(&path).unwrap().is_ok());
    }

    #[test]
    fn knows_when_only_workers_hold_it() {
        assert!(!HeldBy(Some(std::process::id())).is_orphaned());
        assert!(!HeldBy(None).is_orphaned());
        assert!(!HeldBy(Some(0)).is_orphaned());
        // Above the highest pid that Linux gives.
        assert!(HeldBy(Some(1 << 23)).is_orphaned());
    }

    #[test]
    fn what_a_killed_process_was_writing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!("schema.json.{}.tmp", std::process::id());
        // No process has such a number: the kernel's largest is 4194304.
        for name in ["schema.json.4999999.tmp", &own, "schema.json", "a.tmp"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        super::remove_unfinished(dir.path());
        assert!(!dir.path().join("schema.json.4999999.tmp").exists());
        for name in [&*own, "schema.json", "a.tmp"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }
}
