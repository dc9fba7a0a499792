//! The work directory: what is on disk, who may use it, what of it belongs to which step. The parent opens and locks
//! it; workers inherit it and write done-files. Knows no server.

pub mod done;
pub mod live;
mod lock;
mod ours;
pub mod paths;
mod queues;
mod records;
mod snapshot_note;
pub mod state;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::sys::durable::{
    LockFile, Sync, remove_file, remove_file_now, remove_unfinished, sync_file_system, write_atomic,
};
use done::{StepDone, now_ms};
pub use lock::{SETUP_LOCK, Service, holder, take as take_lock};
use paths::Paths;
pub use queues::QueuesOf;

/// An open work directory, locked for one service.
#[derive(Debug)]
pub struct WorkDir {
    pub paths: Paths,
    lock: LockFile,
}

/// `--dir`, else `$TMPDIR/pgcopydb`, else `/tmp/pgcopydb`.
pub fn location(dir: Option<&Path>) -> PathBuf {
    match dir {
        Some(dir) => dir.to_path_buf(),
        None => {
            let top = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
            top.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
                .join("pgcopydb")
        }
    }
}

/// Where the changes are kept: below `--dir` if it is given, else where the user's data belongs.
pub fn cdc_location(dir: Option<&Path>) -> PathBuf {
    if let Some(dir) = dir {
        return dir.join("cdc");
    }
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    };
    let data = from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")));
    match data {
        Some(data) => data.join("pgcopydb"),
        None => location(None).join("cdc"),
    }
}

impl WorkDir {
    /// Open the directory, making it if need be.
    pub fn open(dir: &Path, service: Service) -> Result<WorkDir> {
        ours::check_way(dir)?;
        // Whatever is there already is for the check to judge.
        if std::fs::symlink_metadata(dir).is_err() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| {
                    format!("could not create work directory \"{}\"", dir.display())
                })?;
        }
        ours::check(dir)?;
        let lock = lock::take(dir, service)?;
        let workdir = WorkDir {
            paths: Paths::new(dir),
            lock,
        };
        if matches!(service, Service::Clone | Service::Online | Service::Follow) {
            workdir.remove_unfinished();
        }
        Ok(workdir)
    }

    /// Files that a process was writing when it was killed.
    fn remove_unfinished(&self) {
        let paths = &self.paths;
        for directory in [
            paths.top().to_path_buf(),
            paths.schema(),
            paths.run(),
            paths.tables(),
            paths.indexes(),
            paths.vacuum(),
            paths.blobs(),
            paths.failures(),
            cdc_location(Some(paths.top())),
        ] {
            remove_unfinished(&directory);
        }
    }

    /// Let others use it, though this process and children of it live on.
    pub fn release(&self) -> Result<()> {
        self.lock.release()
    }

    /// Make the directories of a run.
    pub fn prepare_run(&self) -> Result<()> {
        for directory in [
            self.paths.schema(),
            self.paths.run(),
            self.paths.tables(),
            self.paths.indexes(),
            self.paths.vacuum(),
            self.paths.blobs(),
            self.paths.failures(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .with_context(|| {
                    format!("could not create directory \"{}\"", directory.display())
                })?;
        }
        Ok(())
    }

    /// Forget an earlier run: everything it made, nothing else. The snapshot file stays, since the process that
    /// exported it may be alive.
    pub fn remove_run(&self) -> Result<()> {
        ours::remove_run(&self.paths)
    }

    /// What only the run before this one meant: failures, claims on constraints.
    pub fn forget_last_attempt(&self) -> Result<()> {
        for (directory, endings) in [
            (self.paths.failures(), &[".json"][..]),
            (self.paths.indexes(), &[".failed", ".claim"][..]),
        ] {
            let what = || format!("could not read directory \"{}\"", directory.display());
            for entry in std::fs::read_dir(&directory).with_context(what)? {
                let entry = entry.with_context(what)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if endings.iter().any(|ending| name.ends_with(ending)) || name.ends_with(".tmp") {
                    remove_file(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Write a file that must be there after a crash.
    pub fn write_json<T: Serialize>(&self, path: &Path, data: &T) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(data).map_err(|error| {
            Error::internal(format!("could not encode \"{}\": {error}", path.display()))
        })?;
        bytes.push(b'\n');
        write_atomic(path, &bytes, Sync::Now)
    }

    pub fn is_step_done(&self, step: &str) -> Result<bool> {
        Ok(done::read::<StepDone>(&self.paths.step_done(step))?.is_some())
    }

    pub fn is_step_begun(&self, step: &str) -> bool {
        self.paths.step_begun(step).exists()
    }

    /// Whether any step was ever begun here.
    pub fn has_begun_step(&self) -> Result<bool> {
        let what = || {
            format!(
                "could not read directory \"{}\"",
                self.paths.run().display()
            )
        };
        match std::fs::read_dir(self.paths.run()) {
            Ok(mut entries) => Ok(entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".lock"))
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(what(), error)),
        }
    }

    pub fn begin_step(&self, step: &str) -> Result<()> {
        write_atomic(&self.paths.step_begun(step), b"", Sync::Now)
    }

    /// Put the done-files that workers wrote on disk, before a step that stands for all of them is called done. It flushes
    /// the whole file system, which a server may share: not for steps that gather nothing.
    pub fn sync_done_files(&self) -> Result<()> {
        sync_file_system(self.paths.top())
    }

    /// A step is done: on disk before anybody relies on it.
    pub fn finish_step(&self, step: &str, duration: Duration) -> Result<()> {
        let data = StepDone {
            step: step.to_string(),
            duration_ms: duration.as_millis() as u64,
            finished_at_ms: now_ms(),
        };
        done::write(&self.paths.step_done(step), &data, Sync::Now)
    }

    /// What the step has done does not hold any more: not believed after a crash either.
    pub fn undo_step(&self, step: &str) -> Result<()> {
        remove_file_now(&self.paths.step_done(step))
    }

    /// Make the directory of a comparison.
    pub fn prepare_compare(&self) -> Result<()> {
        let directory = self.paths.compare();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("could not create directory \"{}\"", directory.display()))
    }

    pub fn forget_roles(&self) -> Result<()> {
        remove_file(&self.paths.roles())
    }
}
