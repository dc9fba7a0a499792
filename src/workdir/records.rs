//! What is done of each table, index, constraint and large object, and what failed: a file each, written by the worker that
//! did it and read by whoever decides what is left.

use super::WorkDir;
use super::done::{
    self, BlobsDone, ConstraintDone, Failure, IndexDone, TableDone, VacuumDone, now_ms,
};
use crate::error::Result;
use crate::ident::Oid;
use crate::sys::durable::{Sync, create_exclusive, remove_file, write_atomic};

impl WorkDir {
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

    /// The table is copied again, and wants its VACUUM again.
    pub fn remove_vacuum_done(&self, oid: Oid) -> Result<()> {
        remove_file(&self.paths.vacuum_done(oid))
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
}

#[cfg(test)]
mod tests {
    use crate::workdir::done::{self, PartDone, TableDone};
    use crate::workdir::{Service, WorkDir};

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
            part: Some(PartDone { number, count: 2 }),
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
        let whole: TableDone = done::read(&workdir.paths.table_done(7)).unwrap().unwrap();
        assert_eq!((whole.rows, whole.part), (20, None));
    }
}
