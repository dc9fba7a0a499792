//! The work directory's files: each name stands here once. Pure.

use std::path::{Path, PathBuf};

use crate::ident::Oid;

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    top: PathBuf,
}

/// What may be found at the top of a directory of ours; anything else there means that it is somebody else's.
pub const TOP_NAMES: &[&str] = &[
    "pgcopydb.pid",
    "pgcopydb.service.pid",
    "pgcopydb.aux.pid",
    "pgcopydb.apply.pid",
    "pgcopydb.snapshot.pid",
    "pgcopydb.compare.pid",
    "pgcopydb.instance.pid",
    "snapshot",
    "follow-queues.json",
    "schema.json",
    "summary.json",
    "schema",
    "run",
    "cdc",
    "compare",
    "databases",
];

/// The name of the database whose folder this is; `None` for a folder that no database has.
pub fn database_of_folder(folder: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = folder.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

impl Paths {
    pub fn new(top: impl Into<PathBuf>) -> Paths {
        Paths { top: top.into() }
    }

    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Where an instance keeps its databases.
    pub fn databases(&self) -> PathBuf {
        self.top.join("databases")
    }

    /// The directory of one database of an instance. What is not harmless in a file name is written as its bytes.
    pub fn database(&self, name: &str) -> PathBuf {
        let mut folder = String::new();
        for byte in name.bytes() {
            let is_harmless = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            match is_harmless {
                true => folder.push(char::from(byte)),
                false => folder.push_str(&format!("%{byte:02X}")),
            }
        }
        self.databases().join(folder)
    }

    /// The instance that this is the directory of a database of, if its place says so.
    pub fn instance(&self) -> Option<Paths> {
        let databases = self.top.parent()?;
        let is_ours = databases.file_name()? == "databases";
        is_ours.then(|| databases.parent().map(Paths::new))?
    }

    pub fn snapshot(&self) -> PathBuf {
        self.top.join("snapshot")
    }

    pub fn schema_json(&self) -> PathBuf {
        self.top.join("schema.json")
    }

    pub fn summary_json(&self) -> PathBuf {
        self.top.join("summary.json")
    }

    pub fn schema(&self) -> PathBuf {
        self.top.join("schema")
    }

    /// What pg_dump wrote.
    pub fn dump(&self) -> PathBuf {
        self.schema().join("schema.dump")
    }

    /// What the filters leave out of it.
    pub fn omitted(&self) -> PathBuf {
        self.schema().join("filtered.json")
    }

    /// The tables among that, by their names: their changes are not followed.
    pub fn left_out_tables(&self) -> PathBuf {
        self.schema().join("left-out-tables.json")
    }

    /// The dump as the target gets it.
    pub fn restored_dump(&self) -> PathBuf {
        self.schema().join("restore.dump")
    }

    /// Entries of a section in pg_restore's list format: `pre.list`, `post.list`.
    pub fn list(&self, name: &str) -> PathBuf {
        self.schema().join(format!("{name}.list"))
    }

    /// The roles of the source instance, as SQL.
    pub fn roles(&self) -> PathBuf {
        self.schema().join("roles.sql")
    }

    pub fn run(&self) -> PathBuf {
        self.top.join("run")
    }

    /// The options that say what is copied, and the run's id.
    pub fn run_spec(&self) -> PathBuf {
        self.run().join("spec.json")
    }

    /// Dump ids of the pre-data that the target refused.
    pub fn refused(&self) -> PathBuf {
        self.run().join("restore-pre.refused")
    }

    /// The same of the post-data, at the end of the last run.
    pub fn refused_post(&self) -> PathBuf {
        self.run().join("restore-post.refused")
    }

    /// What of another role the restores leave alone on the target.
    pub fn left_alone(&self) -> PathBuf {
        self.run().join("left-alone.json")
    }

    /// What the dump found the source to be, for commands that do not talk to it.
    pub fn source_facts(&self) -> PathBuf {
        self.run().join("source.json")
    }

    /// The filters of the run, for its later commands.
    pub fn filters(&self) -> PathBuf {
        self.run().join("filters.ini")
    }

    /// What the snapshot of the run sees, in the server's words.
    pub fn snapshot_content(&self) -> PathBuf {
        self.run().join("snapshot.json")
    }

    /// How tables were cut into parts.
    pub fn cut(&self) -> PathBuf {
        self.run().join("cut.json")
    }

    /// How large objects were cut into batches.
    pub fn batches(&self) -> PathBuf {
        self.run().join("batches.json")
    }

    /// How far each worker is.
    pub fn workers(&self) -> PathBuf {
        self.run().join("workers.json")
    }

    pub fn queues(&self) -> PathBuf {
        self.run().join("queues.json")
    }

    /// The queue of a follow, beside those of a clone that runs at the same time.
    pub fn follow_queues(&self) -> PathBuf {
        self.top.join("follow-queues.json")
    }

    pub fn compare(&self) -> PathBuf {
        self.top.join("compare")
    }

    /// What a comparison has found: "schema" or "data".
    pub fn comparison(&self, what: &str) -> PathBuf {
        self.compare().join(format!("{what}.json"))
    }

    pub fn compare_queues(&self) -> PathBuf {
        self.compare().join("queues.json")
    }

    /// What one worker of a comparison has found so far.
    pub fn compare_answers(&self, worker: u32) -> PathBuf {
        self.compare().join(format!("worker-{worker}.json"))
    }

    /// A step of the whole run: `dump-pre`, `restore-pre`, `tables`, ...
    pub fn step_done(&self, step: &str) -> PathBuf {
        self.run().join(format!("{step}.done"))
    }

    /// A step that was begun, so that a resume knows that half of it may be there.
    pub fn step_begun(&self, step: &str) -> PathBuf {
        self.run().join(format!("{step}.lock"))
    }

    pub fn tables(&self) -> PathBuf {
        self.run().join("tables")
    }

    pub fn table_done(&self, oid: Oid) -> PathBuf {
        self.tables().join(format!("{oid}.done"))
    }

    pub fn part_done(&self, oid: Oid, part: u32) -> PathBuf {
        self.tables().join(format!("{oid}.{part}.done"))
    }

    pub fn indexes(&self) -> PathBuf {
        self.run().join("indexes")
    }

    pub fn index_done(&self, oid: Oid) -> PathBuf {
        self.indexes().join(format!("{oid}.done"))
    }

    /// This run could not build it; removed when the next one begins.
    pub fn index_failed(&self, oid: Oid) -> PathBuf {
        self.indexes().join(format!("{oid}.failed"))
    }

    /// By the oid of the table: who made it attaches the constraints.
    pub fn constraints_claim(&self, table: Oid) -> PathBuf {
        self.indexes().join(format!("{table}.claim"))
    }

    /// By the oid of the constraint's index.
    pub fn constraint_done(&self, index: Oid) -> PathBuf {
        self.indexes().join(format!("{index}.constraint"))
    }

    pub fn vacuum(&self) -> PathBuf {
        self.run().join("vacuum")
    }

    pub fn vacuum_done(&self, oid: Oid) -> PathBuf {
        self.vacuum().join(format!("{oid}.done"))
    }

    pub fn blobs(&self) -> PathBuf {
        self.run().join("blobs")
    }

    pub fn blobs_done(&self, batch: u32) -> PathBuf {
        self.blobs().join(format!("{batch}.done"))
    }

    pub fn failures(&self) -> PathBuf {
        self.run().join("failed")
    }
}

#[cfg(test)]
mod tests {
    use super::{Paths, database_of_folder};

    #[test]
    fn a_folder_for_each_database_and_back() {
        let top = Paths::new("/w");
        for (name, folder) in [
            ("shop_1-b", "shop_1-b"),
            ("../x y", "%2E%2E%2Fx%20y"),
            ("é", "%C3%A9"),
        ] {
            let dir = top.database(name);
            assert_eq!(dir, top.databases().join(folder));
            assert_eq!(database_of_folder(folder).as_deref(), Some(name));
            assert_eq!(Paths::new(dir).instance(), Some(top.clone()));
        }
        assert_eq!(top.instance(), None);
        assert_eq!(database_of_folder("%2"), None);
        assert_eq!(database_of_folder("%zz"), None);
    }
}
