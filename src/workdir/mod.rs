//! The work directory: what is on disk, who may use it, what of it belongs to which step. The parent opens and locks
//! it; workers inherit it and write done-files. Knows no server.

pub mod done;
pub mod live;
mod ours;
pub mod paths;
pub mod state;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::ident::Oid;
use crate::lsn::Lsn;
use crate::sys::durable::{
    HeldBy, LockFile, Sync, create_exclusive, remove_file, remove_unfinished, sync_file_system,
    write_atomic,
};
use crate::sys::msgq::{QueueNote, remove_noted};
use crate::sys::signal::Shutdown;
use done::{
    BlobsDone, ConstraintDone, Failure, IndexDone, StepDone, TableDone, VacuumDone, now_ms,
};
use paths::Paths;

/// Workers whose parent died are gone within 10 s, also in the middle of CREATE INDEX; a little more for a busy machine.
const ORPHANS_END: Duration = Duration::from_secs(15);

/// Which of the programs that may share a directory; one live process of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Clone,
    Snapshot,
    Follow,
    /// Whoever applies changes: "stream apply" may run beside "stream receive" and beside no other.
    Apply,
    /// The parent of a clone and a follow.
    Online,
    Compare,
    /// The parent of the clones of all databases.
    Instance,
}

impl Service {
    fn pid_file(self) -> &'static str {
        match self {
            Service::Clone => "pgcopydb.pid",
            Service::Snapshot => "pgcopydb.snapshot.pid",
            Service::Follow => "pgcopydb.service.pid",
            Service::Apply => "pgcopydb.apply.pid",
            Service::Online => "pgcopydb.aux.pid",
            Service::Compare => "pgcopydb.compare.pid",
            Service::Instance => "pgcopydb.instance.pid",
        }
    }
}

/// Beside the id of a snapshot that came with a slot.
#[derive(Serialize, Deserialize)]
struct SlotNote {
    lsn: Lsn,
    slot: String,
}

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
        let lock = take_lock(dir, service)?;
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
    pub fn finish_step(&self, step: &str, duration: std::time::Duration) -> Result<()> {
        let data = StepDone {
            step: step.to_string(),
            duration_ms: duration.as_millis() as u64,
            finished_at_ms: now_ms(),
        };
        done::write(&self.paths.step_done(step), &data, Sync::Now)
    }

    pub fn write_table_done(&self, data: &TableDone) -> Result<()> {
        done::write(&self.paths.table_done(data.oid), data, Sync::Later)
    }

    pub fn write_part_done(&self, data: &TableDone) -> Result<()> {
        let number = data.part.as_ref().map_or(0, |part| part.number);
        done::write(&self.paths.part_done(data.oid, number), data, Sync::Later)
    }

    /// When the done-files of all parts are there, copied under this snapshot: make the table's own, unless somebody else
    /// has. Whether it was us, which decides who queues the table's indexes.
    pub fn complete_parts(&self, oid: Oid, count: u32, snapshot: &str) -> Result<bool> {
        let mut whole: Option<TableDone> = None;
        for number in 1..=count {
            let Some(part) = done::read::<TableDone>(&self.paths.part_done(oid, number))? else {
                return Ok(false);
            };
            // One that an earlier run has left: its part is still to be copied again.
            if part.snapshot != snapshot {
                return Ok(false);
            }
            match &mut whole {
                None => whole = Some(TableDone { part: None, ..part }),
                Some(whole) => {
                    whole.rows += part.rows;
                    whole.bytes += part.bytes;
                    whole.duration_ms += part.duration_ms;
                    whole.finished_at_ms = whole.finished_at_ms.max(part.finished_at_ms);
                }
            }
        }
        match whole {
            Some(whole) => create_exclusive(&self.paths.table_done(oid), &done::encode(&whole)?),
            None => Ok(false),
        }
    }

    /// A torn done-file of a table in parts would keep the last part from making a whole one.
    pub fn remove_table_done(&self, oid: Oid) -> Result<()> {
        remove_file(&self.paths.table_done(oid))
    }

    /// The parts of a table that were copied under an old snapshot do not fit to new ones.
    pub fn remove_parts(&self, oid: Oid, parts: &[u32]) -> Result<()> {
        parts
            .iter()
            .try_for_each(|part| remove_file(&self.paths.part_done(oid, *part)))
    }

    pub fn write_index_done(&self, data: &IndexDone) -> Result<()> {
        done::write(&self.paths.index_done(data.oid), data, Sync::Later)
    }

    pub fn mark_index_failed(&self, oid: Oid) -> Result<()> {
        write_atomic(&self.paths.index_failed(oid), b"", Sync::Later)
    }

    pub fn is_index_failed(&self, oid: Oid) -> bool {
        self.paths.index_failed(oid).exists()
    }

    /// Built or given up in this run.
    pub fn is_index_settled(&self, oid: Oid) -> bool {
        self.paths.index_done(oid).exists() || self.is_index_failed(oid)
    }

    /// Whether we are the one who attaches the constraints of a table.
    pub fn claim_constraints(&self, table: Oid) -> Result<bool> {
        create_exclusive(&self.paths.constraints_claim(table), b"")
    }

    pub fn write_constraint_done(&self, data: &ConstraintDone) -> Result<()> {
        done::write(
            &self.paths.constraint_done(data.index_oid),
            data,
            Sync::Later,
        )
    }

    pub fn write_vacuum_done(&self, data: &VacuumDone) -> Result<()> {
        done::write(&self.paths.vacuum_done(data.oid), data, Sync::Later)
    }

    pub fn write_blobs_done(&self, data: &BlobsDone) -> Result<()> {
        done::write(&self.paths.blobs_done(data.batch), data, Sync::Later)
    }

    /// List an object that failed; the name is unique among the processes of a run.
    pub fn record_failure(&self, failure: &Failure) -> Result<()> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}.json", now_ms(), std::process::id());
        done::write(&self.paths.failures().join(name), failure, Sync::Later)
    }

    /// The failures of this run, in the order of their time.
    pub fn failures(&self) -> Result<Vec<Failure>> {
        let mut found: Vec<(String, Failure)> =
            done::read_directory(&self.paths.failures(), ".json")?
                .into_iter()
                .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found.into_iter().map(|(_, failure)| failure).collect())
    }

    /// Note System V queues, so that a later run can remove them should this one be killed.
    pub fn note_queues(&self, notes: &[QueueNote]) -> Result<()> {
        done::write(&self.paths.queues(), &notes, Sync::Now)
    }

    pub fn forget_queues(&self) -> Result<()> {
        remove_file(&self.paths.queues())
    }

    /// Remove the queues of a run that was killed.
    pub fn remove_noted_queues(&self) -> Result<()> {
        let notes: Vec<QueueNote> = done::read(&self.paths.queues())?.unwrap_or_default();
        for note in notes {
            if remove_noted(&note)? {
                log::info!(
                    "removed a message queue of an earlier run, with key {:#x}",
                    note.key
                );
            }
        }
        self.forget_queues()
    }

    /// The same for the queue of a follow.
    pub fn note_follow_queue(&self, note: &QueueNote) -> Result<()> {
        done::write(&self.paths.follow_queues(), &vec![note], Sync::Now)
    }

    pub fn forget_follow_queue(&self) -> Result<()> {
        remove_file(&self.paths.follow_queues())
    }

    pub fn remove_noted_follow_queue(&self) -> Result<()> {
        let notes: Vec<QueueNote> = done::read(&self.paths.follow_queues())?.unwrap_or_default();
        for note in notes {
            if remove_noted(&note)? {
                log::info!(
                    "removed a message queue of an earlier run, with key {:#x}",
                    note.key
                );
            }
        }
        self.forget_follow_queue()
    }

    /// The same for the queue of a comparison.
    pub fn note_compare_queue(&self, note: &QueueNote) -> Result<()> {
        done::write(&self.paths.compare_queues(), &vec![note], Sync::Now)
    }

    pub fn forget_compare_queue(&self) -> Result<()> {
        remove_file(&self.paths.compare_queues())
    }

    pub fn remove_noted_compare_queue(&self) -> Result<()> {
        let notes: Vec<QueueNote> = done::read(&self.paths.compare_queues())?.unwrap_or_default();
        for note in notes {
            if remove_noted(&note)? {
                log::info!(
                    "removed a message queue of an earlier run, with key {:#x}",
                    note.key
                );
            }
        }
        self.forget_compare_queue()
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

    /// The id of the snapshot that some process exported for this directory.
    pub fn noted_snapshot(&self) -> Result<Option<String>> {
        match std::fs::read_to_string(self.paths.snapshot()) {
            Ok(text) => Ok(text
                .lines()
                .next()
                .map(str::trim)
                .filter(|id| !id.is_empty())
                .map(str::to_string)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(
                format!(
                    "could not read file \"{}\"",
                    self.paths.snapshot().display()
                ),
                error,
            )),
        }
    }

    /// The snapshot that was exported together with a slot, and where its changes begin: the second line of the note.
    pub fn noted_slot_snapshot(&self) -> Result<Option<(String, Lsn)>> {
        let Some(id) = self.noted_snapshot()? else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(self.paths.snapshot()).unwrap_or_default();
        let lsn = text
            .lines()
            .nth(1)
            .and_then(|line| serde_json::from_str::<SlotNote>(line).ok());
        Ok(lsn.map(|note| (id, note.lsn)))
    }

    pub fn note_slot_snapshot(&self, id: &str, lsn: Lsn, slot: &str) -> Result<()> {
        let note = SlotNote {
            lsn,
            slot: slot.to_owned(),
        };
        let note = serde_json::to_string(&note)
            .map_err(|error| Error::internal(format!("could not encode a snapshot: {error}")))?;
        write_atomic(
            &self.paths.snapshot(),
            format!("{id}\n{note}\n").as_bytes(),
            Sync::Now,
        )
    }

    pub fn note_snapshot(&self, id: &str) -> Result<()> {
        write_atomic(
            &self.paths.snapshot(),
            format!("{id}\n").as_bytes(),
            Sync::Now,
        )
    }

    pub fn forget_roles(&self) -> Result<()> {
        remove_file(&self.paths.roles())
    }

    pub fn forget_snapshot(&self) -> Result<()> {
        remove_file(&self.paths.snapshot())
    }
}

/// The process that uses a directory, as far as can be seen without asking for its lock: whoever is named in the pid file
/// and holds a lock. A pid alone may have been given to somebody else since.
pub fn holder(dir: &Path, service: Service) -> Option<u32> {
    let text = std::fs::read_to_string(dir.join(service.pid_file())).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    if HeldBy(Some(pid)).is_orphaned() {
        return None;
    }
    // "1: FLOCK  ADVISORY  WRITE 4711 00:2f:1234 0 EOF", see proc(5). Without that file the pid has to do.
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else {
        return Some(pid);
    };
    let is_held = locks.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some("FLOCK") && words.nth(2) == Some(text.trim())
    });
    is_held.then_some(pid)
}

/// After kill -9 of the parent its workers hold the lock until they have noticed and cleaned up, which takes seconds: a
/// resume waits for them, so that the two never work on one table at once.
fn take_lock(dir: &Path, service: Service) -> Result<LockFile> {
    let deadline = Instant::now() + ORPHANS_END;
    let mut is_told = false;
    loop {
        let held = match LockFile::take(&dir.join(service.pid_file()))
            .with_context(|| format!("cannot use work directory \"{}\"", dir.display()))?
        {
            Ok(lock) => return Ok(lock),
            Err(held) => held,
        };
        let is_orphaned = held.is_orphaned();
        if !is_orphaned || Instant::now() >= deadline {
            return Err(in_use(dir, &held, is_orphaned));
        }
        if !is_told {
            log::info!(
                "waiting for the workers of an earlier run in \"{}\" to end",
                dir.display()
            );
            is_told = true;
        }
        Shutdown::handle().sleep(Duration::from_millis(50))?;
    }
}

fn in_use(dir: &Path, held: &HeldBy, is_orphaned: bool) -> Error {
    let pid = held
        .0
        .map_or_else(|| "unknown".to_string(), |pid| pid.to_string());
    let user = match is_orphaned {
        true => format!("workers of a pgcopydb with pid {pid}, which is gone, are using it"),
        false => format!("another pgcopydb with pid {pid} is using it"),
    };
    Error::state(format!(
        "cannot use work directory \"{}\": {user}",
        dir.display()
    ))
    .with_hint("Wait for it to end, stop it, or choose another --dir.")
}

#[cfg(test)]
mod tests {
    use super::done::TableDone;
    use super::{Service, WorkDir};

    fn part(number: u32) -> TableDone {
        TableDone {
            oid: 7,
            name: "t".into(),
            rows: 10,
            bytes: 100,
            duration_ms: 5,
            finished_at_ms: u64::from(number),
            worker_pid: 1,
            snapshot: "s".into(),
            snapshot_lsn: None,
            part: Some(super::done::PartDone { number, count: 2 }),
        }
    }

    #[test]
    fn the_last_part_completes_the_table_once() {
        let dir = tempfile::tempdir().unwrap();
        let workdir = WorkDir::open(&dir.path().join("w"), Service::Clone).unwrap();
        workdir.prepare_run().unwrap();
        workdir.write_part_done(&part(1)).unwrap();
        assert!(!workdir.complete_parts(7, 2, "s").unwrap());
        workdir.write_part_done(&part(2)).unwrap();
        // Copied again in another snapshot, where none of them is done yet.
        assert!(!workdir.complete_parts(7, 2, "later").unwrap());
        assert!(workdir.complete_parts(7, 2, "s").unwrap());
        assert!(!workdir.complete_parts(7, 2, "s").unwrap());
        let whole: TableDone = super::done::read(&workdir.paths.table_done(7))
            .unwrap()
            .unwrap();
        assert_eq!((whole.rows, whole.part), (20, None));
    }

    #[test]
    fn one_process_of_each_service() {
        let dir = tempfile::tempdir().unwrap();
        let _held = WorkDir::open(dir.path(), Service::Clone).unwrap();
        let _other = WorkDir::open(dir.path(), Service::Snapshot).unwrap();
        let error = WorkDir::open(dir.path(), Service::Clone).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn waits_for_workers_whose_parent_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let worker = WorkDir::open(&path, Service::Clone).unwrap();
        std::fs::write(path.join("pgcopydb.pid"), format!("{}\n", 1 << 23)).unwrap();
        let end = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            drop(worker);
        });
        WorkDir::open(&path, Service::Clone).unwrap();
        end.join().unwrap();
    }
}
