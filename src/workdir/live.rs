//! How far the workers of a run are at this moment: one record each, in a file of the work directory that any process
//! may read. The parent makes the file before it forks; each worker overwrites its own record and nobody else's.
//!
//! A write is one pwrite(2) of a fixed length to the page cache, a few microseconds, so it can be done for every table
//! and several times a second within one. Never synced and never trusted: a record that is torn or missing only means
//! that less is shown, and a failure to write one is no reason to stop a copy. Done-files alone say what is done.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::done::now_ms;
use super::paths::Paths;
use crate::error::{Error, Result};
use crate::ident::Oid;

/// Room for one record, with its newline. The longest has a dozen numbers of at most 20 digits.
const RECORD_BYTES: usize = 512;

/// How often a worker says how far it is within one table. Bars are drawn five times a second.
const EVERY: Duration = Duration::from_millis(200);

/// The run that the workers belong to; the first record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRun {
    /// The copy supervisor.
    pub pid: u32,
    /// Since 1970.
    pub started_at_ms: u64,
    pub table_jobs: u32,
    pub index_jobs: u32,
    pub skips_vacuum: bool,
    /// On the source's disk: what earlier runs have copied already.
    pub size_done_before: u64,
    /// The workers are those of an instance, and noted in its directory; this is the database's number there.
    #[serde(default)]
    pub database: Option<u32>,
}

/// What a worker is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A table, or a part of it.
    Copy,
    Index,
    /// All indexes of a small table; the number is the table's.
    IndexesOf,
    Vacuum,
    /// The number is the batch's.
    LargeObjects,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    pub task: Task,
    /// Its number among those of the run.
    #[serde(default)]
    pub database: u32,
    pub oid: Oid,
    /// Of a table in parts, from 1; else 0.
    pub part: u32,
    /// How large it is on the source's disk.
    pub size: u64,
    pub since_ms: u64,
    pub rows: u64,
    /// COPY data that passed through.
    pub bytes: u64,
}

impl Current {
    /// Which share of it has passed through, from 0 to 1. Rows against those that the last ANALYZE counted; for a table
    /// that was never analyzed, bytes against its size on disk, which is a guess. Never quite 1: it is not over.
    pub fn share(&self, table_rows: Option<u64>, table_size: u64) -> f64 {
        const NEARLY: f64 = 0.99;
        let expected_rows = match table_rows {
            // A part has its share of them.
            Some(rows) if table_size > 0 => rows as f64 * self.size as f64 / table_size as f64,
            _ => 0.0,
        };
        let share = if expected_rows > 0.0 {
            self.rows as f64 / expected_rows
        } else if self.size > 0 {
            self.bytes as f64 / self.size as f64
        } else {
            0.0
        };
        share.min(NEARLY)
    }
}

/// What one worker has done in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// As in the log: "copy worker 3". Empty before it began.
    pub worker: String,
    pub pid: u32,
    /// Tables, parts, indexes or batches.
    pub items: u64,
    /// Of these items, on the source's disk.
    pub size: u64,
    pub rows: u64,
    pub bytes: u64,
    pub current: Option<Current>,
}

/// The file, open in the parent and in every worker.
#[derive(Debug)]
pub struct Live {
    /// `None` when it could not be made: nothing is shown then.
    file: Option<File>,
    workers: u32,
}

impl Live {
    /// Make the file for a run with so many workers. What an earlier run left of it is gone.
    pub fn create(path: &Path, run: &LiveRun, workers: u32) -> Live {
        let file = make(path, run, workers);
        Live { file, workers }
    }

    /// The place of one worker, numbered from 1 over all of them.
    pub fn seat(&self, number: u32, worker: String) -> Seat<'_> {
        Seat {
            live: self,
            number,
            database: 0,
            record: WorkerRecord {
                worker,
                ..WorkerRecord::default()
            },
            written: Instant::now(),
        }
    }

    /// What all workers say.
    pub fn records(&self) -> Vec<WorkerRecord> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        (1..=self.workers)
            .filter_map(|number| read_record(file, number))
            .collect()
    }
}

/// Note in the directory of one database that its workers are those of an instance.
pub fn note(path: &Path, run: &LiveRun) {
    make(path, run, 0);
}

fn make(path: &Path, run: &LiveRun, workers: u32) -> Option<File> {
    let make = || -> std::io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        write_record(&file, 0, run)?;
        for number in 1..=workers {
            write_record(&file, number, &WorkerRecord::default())?;
        }
        Ok(file)
    };
    make()
        .inspect_err(|error| {
            log::debug!("could not write file \"{}\": {error}", path.display());
        })
        .ok()
}

/// What a run and its workers say of a work directory, from any process; `None` when nobody says anything. Of the workers
/// of an instance, only those that are busy with the database of this directory count, and only with what they do now.
pub fn read(paths: &Paths) -> Result<Option<(LiveRun, Vec<WorkerRecord>)>> {
    let Some((run, records)) = read_file(&paths.workers())? else {
        return Ok(None);
    };
    let Some(database) = run.database else {
        return Ok(Some((run, records)));
    };
    let instance = paths.instance().map(|paths| read_file(&paths.workers()));
    let of_instance = match instance.transpose()?.flatten() {
        Some((other, records)) if other.pid == run.pid => records,
        _ => Vec::new(),
    };
    let is_here = |record: &WorkerRecord| {
        let current = record.current.as_ref();
        current.is_some_and(|current| current.database == database)
    };
    let records = of_instance.into_iter().filter(is_here);
    Ok(Some((run, records.collect())))
}

fn read_file(path: &Path) -> Result<Option<(LiveRun, Vec<WorkerRecord>)>> {
    let failed = |error| Error::io(format!("could not read file \"{}\"", path.display()), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let length = file.metadata().map_err(failed)?.len();
    let Some(run) = read_record(&file, 0) else {
        return Ok(None);
    };
    // More workers than this are not ours.
    let count = (length / RECORD_BYTES as u64).min(10_000) as u32;
    let records = (1..count)
        .filter_map(|number| read_record::<WorkerRecord>(&file, number))
        .filter(|record| !record.worker.is_empty());
    Ok(Some((run, records.collect())))
}

fn offset(number: u32) -> u64 {
    u64::from(number) * RECORD_BYTES as u64
}

fn write_record<T: Serialize>(file: &File, number: u32, record: &T) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(record)?;
    // One that does not fit would run into its neighbour.
    if bytes.len() < RECORD_BYTES {
        bytes.resize(RECORD_BYTES - 1, b' ');
        bytes.push(b'\n');
        file.write_all_at(&bytes, offset(number))?;
    }
    Ok(())
}

fn read_record<T: DeserializeOwned>(file: &File, number: u32) -> Option<T> {
    let mut bytes = [0u8; RECORD_BYTES];
    file.read_exact_at(&mut bytes, offset(number)).ok()?;
    serde_json::from_slice(bytes.trim_ascii_end()).ok()
}

/// Where one worker writes.
#[derive(Debug)]
pub struct Seat<'a> {
    live: &'a Live,
    number: u32,
    database: u32,
    record: WorkerRecord,
    written: Instant,
}

impl Seat<'_> {
    /// What begins from here on is of this database.
    pub fn work_for(&mut self, database: u32) {
        self.database = database;
    }

    /// Something begins, or begins again.
    pub fn begin(&mut self, task: Task, oid: Oid, part: u32, size: u64) {
        self.record.current = Some(Current {
            task,
            database: self.database,
            oid,
            part,
            size,
            since_ms: now_ms(),
            rows: 0,
            bytes: 0,
        });
        self.write();
    }

    /// So much of it has passed through until now.
    pub fn reached(&mut self, rows: u64, bytes: u64) {
        if let Some(current) = &mut self.record.current {
            current.rows = rows;
            current.bytes = bytes;
        }
        if self.written.elapsed() >= EVERY {
            self.write();
        }
    }

    /// All of it has passed through; what is left is the servers' to do, which may take a while.
    pub fn passed(&mut self, rows: u64, bytes: u64) {
        self.reached(rows, bytes);
        self.write();
    }

    /// It is done.
    pub fn done(&mut self, rows: u64, bytes: u64) {
        if let Some(current) = self.record.current.take() {
            self.record.items += 1;
            self.record.size += current.size;
            self.record.rows += rows;
            self.record.bytes += bytes;
        }
        self.write();
    }

    /// So many items more are done, of what is under way.
    pub fn items(&mut self, count: u64) {
        self.record.items += count;
    }

    /// It is over, done or failed, and the worker goes on with something else.
    pub fn over(&mut self) {
        self.record.current = None;
        self.write();
    }

    fn write(&mut self) {
        let Some(file) = &self.live.file else {
            return;
        };
        self.written = Instant::now();
        // The seat is made before the fork.
        self.record.pid = std::process::id();
        // A full disk cannot refuse what was written once, on most file systems; where it does, less is shown.
        let _ = write_record(file, self.number, &self.record);
    }
}

#[cfg(test)]
mod tests {
    use super::{Live, LiveRun, RECORD_BYTES, Task, WorkerRecord, note, read, read_file};
    use crate::workdir::paths::Paths;

    #[test]
    fn what_a_worker_writes_is_what_others_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workers.json");
        assert_eq!(read_file(&path).unwrap(), None);
        let run = LiveRun {
            pid: 7,
            ..LiveRun::default()
        };
        let live = Live::create(&path, &run, 2);
        let mut seat = live.seat(2, "copy worker 2".into());
        seat.begin(Task::Copy, 16_384, 0, 8192);
        let (found, records) = read_file(&path).unwrap().unwrap();
        assert_eq!((found, records.len()), (run, 1));
        let current = records[0].current.as_ref().unwrap();
        assert_eq!((current.oid, current.size), (16_384, 8192));
        seat.done(10, 100);
        let record = &live.records()[1];
        assert_eq!((record.items, record.size, record.rows), (1, 8192, 10));
        assert_eq!(record.current, None);
    }

    #[test]
    fn the_longest_record_fits_and_damage_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workers.json");
        let live = Live::create(&path, &LiveRun::default(), 2);
        let mut seat = live.seat(1, "large-object worker 128".into());
        seat.work_for(u32::MAX);
        seat.record = WorkerRecord {
            items: u64::MAX,
            size: u64::MAX,
            rows: u64::MAX,
            bytes: u64::MAX,
            ..seat.record
        };
        seat.begin(Task::LargeObjects, u32::MAX, u32::MAX, u64::MAX);
        seat.reached(u64::MAX, u64::MAX);
        seat.write();
        let (_, records) = read_file(&path).unwrap().unwrap();
        assert_eq!(records, [seat.record]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[RECORD_BYTES + 5] = 0xff;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_file(&path).unwrap().unwrap().1, []);
        std::fs::write(&path, "x").unwrap();
        assert_eq!(read_file(&path).unwrap(), None);
    }

    #[test]
    fn a_database_of_an_instance_sees_its_own_share() {
        let dir = tempfile::tempdir().unwrap();
        let top = Paths::new(dir.path());
        let [one, two] =
            ["one", "two"].map(|name| Paths::new(dir.path().join("databases").join(name)));
        for paths in [&top, &one, &two] {
            std::fs::create_dir_all(paths.run()).unwrap();
        }
        let run = LiveRun {
            pid: 7,
            ..LiveRun::default()
        };
        let live = Live::create(&top.workers(), &run, 2);
        for (number, paths) in [&one, &two].into_iter().enumerate() {
            let database = Some(number as u32);
            let run = LiveRun {
                database,
                ..run.clone()
            };
            note(&paths.workers(), &run);
        }
        let mut seat = live.seat(1, "copy worker 1".into());
        seat.work_for(1);
        seat.begin(Task::Copy, 16_384, 0, 8192);
        assert_eq!(read(&one).unwrap().unwrap().1, []);
        assert_eq!(read(&two).unwrap().unwrap().1.len(), 1);
        assert_eq!(read(&top).unwrap().unwrap().1.len(), 1);
    }
}
