//! The sentinel: the remote control of a follow, and where others see how far it is. One row in table
//! `pgcopydb.sentinel` on the source; a file in the work directory where the source cannot be written to. The only place
//! with its SQL. Used by the follow parent and by `stream sentinel`.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::ident::quote_literal;
use crate::lsn::Lsn;
use crate::pg::wire::Connection;
use crate::sys::durable::{LockFile, Sync, write_atomic};
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;

/// How far a follow is. The meaning of each is the server's, in pg_stat_replication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    pub write_lsn: Lsn,
    pub flush_lsn: Lsn,
    pub replay_lsn: Lsn,
}

/// What the operator wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    pub startpos: Lsn,
    /// `None` goes on for ever.
    pub endpos: Option<Lsn>,
    pub apply: bool,
}

/// The row, in the order and with the names that users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentinelRow {
    pub startpos: Lsn,
    pub endpos: Lsn,
    pub apply: bool,
    pub write_lsn: Lsn,
    pub flush_lsn: Lsn,
    pub replay_lsn: Lsn,
}

impl SentinelRow {
    pub fn wishes(&self) -> Wishes {
        Wishes {
            startpos: self.startpos,
            endpos: Some(self.endpos).filter(|lsn| *lsn != Lsn::INVALID),
            apply: self.apply,
        }
    }
}

/// Where the sentinel is.
pub enum Sentinel {
    Table(Connection),
    File {
        path: PathBuf,
        /// The source, which says where its log stands.
        connection: Connection,
    },
}

const SCHEMA: &str = "pgcopydb";

/// The table, if it is there. One that a standby shows belongs to a follow of its primary, whose slot is not here.
const TABLE: &str = "(SELECT to_regclass('pgcopydb.sentinel') WHERE NOT pg_is_in_recovery())";

/// The comment of the table: up to the name of the slot, and between that and the token.
const MARK: &str = "follow of replication slot ";
const SET_UP_BY: &str = ", set up by ";

/// Whose the table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub slot_name: String,
    /// Which attempt to set up has made the slot, if that was said.
    pub token: Option<String>,
}

impl Mark {
    fn parse(comment: &str) -> Option<Mark> {
        let text = comment.strip_prefix(MARK)?;
        let (slot_name, token) = match text.split_once(SET_UP_BY) {
            Some((slot_name, token)) => (slot_name, Some(token)),
            None => (text, None),
        };
        Some(Mark {
            slot_name: slot_name.to_owned(),
            token: token.map(str::to_owned),
        })
    }

    fn words(&self) -> String {
        let token = self.token.as_ref();
        let token = token.map_or_else(String::new, |token| format!("{SET_UP_BY}{token}"));
        format!("{MARK}{}{token}", self.slot_name)
    }
}

/// How long another process may take to change the file.
const LOCK_WAIT: Duration = Duration::from_secs(10);

fn file_in(dir: &Path) -> PathBuf {
    dir.join("sentinel.json")
}

impl Sentinel {
    /// Make a sentinel, or use the one that is there. `dir` is where the files of the follow are.
    pub fn create(mut connection: Connection, dir: &Path, startpos: Lsn) -> Result<Sentinel> {
        if let Some(found) = find(&mut connection, dir)? {
            return Ok(found.with(connection));
        }
        if !may_create(&mut connection)? {
            let path = file_in(dir);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("could not create directory \"{}\"", dir.display()))?;
            let row = SentinelRow {
                startpos,
                endpos: Lsn::INVALID,
                apply: false,
                write_lsn: Lsn::INVALID,
                flush_lsn: Lsn::INVALID,
                replay_lsn: Lsn::INVALID,
            };
            write_file(&path, &row)?;
            log::info!(
                "the sentinel is in file \"{}\", as the source may not be written to or has a publication for all tables",
                path.display()
            );
            return Ok(Sentinel::File { path, connection });
        }
        create_table(&mut connection, startpos)?;
        Ok(Sentinel::Table(connection))
    }

    /// Before a slot is made: the table with this mark, where the source may have it. Its startpos follows with the slot.
    pub fn prepare(connection: &mut Connection, dir: &Path, mark: &Mark) -> Result<()> {
        match find(connection, dir)? {
            Some(Found::Table) => {}
            None if may_create(connection)? => create_table(connection, Lsn::INVALID)?,
            Some(Found::File(_)) | None => return Ok(()),
        }
        set_mark(connection, mark)
    }

    /// Use the sentinel that is there.
    pub fn open(mut connection: Connection, dir: &Path) -> Result<Sentinel> {
        match find(&mut connection, dir)? {
            Some(found) => Ok(found.with(connection)),
            None => Err(Error::state(
                "there is no sentinel on the source, nor in the work directory",
            )
            .with_hint("Run \"pgcopydb stream setup\" first, or give the --dir of the run.")),
        }
    }

    /// Say which follow it belongs to: one database may be followed under several slots. No attempt to set up is known by it
    /// any more.
    pub fn mark(&mut self, slot_name: &str) -> Result<()> {
        let Sentinel::Table(connection) = self else {
            // The file is in the directory of its follow.
            return Ok(());
        };
        let mark = Mark {
            slot_name: slot_name.to_owned(),
            token: None,
        };
        match Sentinel::mark_of(connection)?.as_ref() == Some(&mark) {
            true => Ok(()),
            false => set_mark(connection, &mark),
        }
    }

    /// It is nobody's: what a user has made stays, what was made for a setup goes with the next one.
    pub fn unmark(connection: &mut Connection) -> Result<()> {
        connection
            .execute(&format!("COMMENT ON TABLE {SCHEMA}.sentinel IS NULL"))
            .context("could not mark table \"pgcopydb\".\"sentinel\" on the source")?;
        failpoint("sentinel.after_mark")
    }

    /// The slot that the table on the source is marked with.
    pub fn marked_slot(connection: &mut Connection) -> Result<Option<String>> {
        Ok(Sentinel::mark_of(connection)?.map(|mark| mark.slot_name))
    }

    /// What the table on the source is marked with.
    pub fn mark_of(connection: &mut Connection) -> Result<Option<Mark>> {
        let comment = connection
            .query_one(&format!("SELECT obj_description({TABLE}, 'pg_class')"))
            .context("could not look for the sentinel on the source")?;
        Ok(comment.opt_text(0)?.and_then(Mark::parse))
    }

    /// Whether it is in a table.
    pub fn has_table(connection: &mut Connection) -> Result<bool> {
        connection
            .query_one(&format!("SELECT {TABLE} IS NOT NULL"))
            .context("could not look for the sentinel on the source")?
            .bool(0)
    }

    /// Remove it, wherever it is; whether it was there.
    pub fn drop(connection: &mut Connection, dir: &Path) -> Result<bool> {
        let path = file_in(dir);
        let had_file = path.exists();
        if had_file {
            std::fs::remove_file(&path)
                .with_context(|| format!("could not remove file \"{}\"", path.display()))?;
        }
        let had_table = Sentinel::has_table(connection)?;
        if had_table {
            connection
                .execute(&format!("DROP TABLE IF EXISTS {SCHEMA}.sentinel"))
                .context("could not drop table \"pgcopydb\".\"sentinel\" on the source")?;
            failpoint("sentinel.after_drop")?;
        }
        Ok(had_file || had_table)
    }

    /// The connection to the source.
    pub fn connection(&mut self) -> &mut Connection {
        match self {
            Sentinel::Table(connection) | Sentinel::File { connection, .. } => connection,
        }
    }

    pub fn get(&mut self) -> Result<SentinelRow> {
        match self {
            Sentinel::File { path, .. } => read_file(path),
            Sentinel::Table(connection) => {
                let rows = connection
                    .query(&format!(
                        "SELECT startpos, endpos, apply, write_lsn, flush_lsn, replay_lsn FROM {SCHEMA}.sentinel"
                    ))
                    .context("could not read the sentinel")?;
                let Some(row) = rows.first() else {
                    return Err(Error::state(
                        "table \"pgcopydb\".\"sentinel\" on the source has no row",
                    ));
                };
                Ok(SentinelRow {
                    startpos: row.parse(0)?,
                    endpos: row.parse(1)?,
                    apply: row.bool(2)?,
                    write_lsn: row.parse(3)?,
                    flush_lsn: row.parse(4)?,
                    replay_lsn: row.parse(5)?,
                })
            }
        }
    }

    pub fn set_startpos(&mut self, lsn: Lsn) -> Result<()> {
        self.change(&format!("startpos = '{lsn}'"), |row| row.startpos = lsn)
    }

    /// Returns the position that was set: the same for every transaction, and one that an idle source reaches.
    pub fn set_endpos(&mut self, lsn: Lsn) -> Result<Lsn> {
        let lsn = self.reachable(lsn)?;
        self.change(&format!("endpos = '{lsn}'"), |row| row.endpos = lsn)?;
        self.flush_log()?;
        Ok(lsn)
    }

    /// The end position that means the same, where records can end.
    pub fn reachable(&mut self, lsn: Lsn) -> Result<Lsn> {
        let row = self
            .connection()
            .query_one(&format!("SELECT {LOG_SIZES}"))
            .context("could not learn how the source's log is laid out")?;
        let reachable = without_page_header(lsn, row.parse(0)?, row.parse(1)?);
        if reachable != lsn {
            log::info!("end position {lsn} lies in a page header of the log: {reachable} it is");
        }
        Ok(reachable)
    }

    pub fn set_apply(&mut self, apply: bool) -> Result<()> {
        failpoint("sentinel.before_apply")?;
        self.change(&format!("apply = {apply}"), |row| row.apply = apply)?;
        failpoint("sentinel.after_apply")
    }

    pub fn set_reached(&mut self, reached: &Reached) -> Result<()> {
        failpoint("sentinel.before_reached")?;
        let Reached {
            write_lsn,
            flush_lsn,
            replay_lsn,
        } = *reached;
        // Before apply has asked the target, what was said last is still so.
        let is_replay_known = replay_lsn != Lsn::INVALID;
        let replay_sql = match is_replay_known {
            true => format!(", replay_lsn = '{replay_lsn}'"),
            false => String::new(),
        };
        let sql = format!("write_lsn = '{write_lsn}', flush_lsn = '{flush_lsn}'{replay_sql}");
        self.change(&sql, |row| {
            (row.write_lsn, row.flush_lsn) = (write_lsn, flush_lsn);
            if is_replay_known {
                row.replay_lsn = replay_lsn;
            }
        })?;
        failpoint("sentinel.after_reached")
    }

    fn change(&mut self, sql: &str, in_file: impl FnOnce(&mut SentinelRow)) -> Result<()> {
        match self {
            Sentinel::File { path, .. } => {
                // The follow writes positions while an operator sets the end: neither may undo the other.
                let _lock = lock_file(path)?;
                let mut row = read_file(path)?;
                in_file(&mut row);
                write_file(path, &row)
            }
            Sentinel::Table(connection) => {
                // Flushed when it returns: the log is then flushed beyond any position that was asked for before.
                let changed = connection
                    .execute(&format!(
                        "SET synchronous_commit = on; UPDATE {SCHEMA}.sentinel SET {sql}"
                    ))
                    .context("could not write the sentinel")?;
                match changed {
                    1 => Ok(()),
                    _ => Err(Error::state(
                        "table \"pgcopydb\".\"sentinel\" on the source has no row",
                    )),
                }
            }
        }
    }

    /// The position that covers every commit acknowledged until now, asynchronous ones too: setting it as the end flushes them.
    pub fn current(&mut self) -> Result<Lsn> {
        let row = self
            .connection()
            .query_one(&format!(
                "SELECT {LOG_SIZES}, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                 ELSE pg_current_wal_insert_lsn() END"
            ))
            .context("could not learn where the source's log stands")?;
        Ok(without_page_header(
            row.parse(2)?,
            row.parse(0)?,
            row.parse(1)?,
        ))
    }

    /// WAL that nobody flushes is never sent. With the sentinel in a table our own writes are flushed, and all before them.
    fn flush_log(&mut self) -> Result<()> {
        let Sentinel::File { connection, .. } = self else {
            return Ok(());
        };
        if connection
            .query_one("SELECT pg_is_in_recovery()")?
            .bool(0)?
        {
            return Ok(());
        }
        connection
            .execute(
                "BEGIN; SET LOCAL synchronous_commit = on; \
                 SELECT pg_logical_emit_message(true, 'pgcopydb', 'endpos'); COMMIT",
            )
            .context("could not flush the source's log")?;
        Ok(())
    }
}

/// Bytes of a segment of the log, and of a page of it.
const LOG_SIZES: &str =
    "pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_block_size')::int8";

/// A position in a page header, such as the insert position of a source that has begun a page and written nothing on it: no
/// record ever ends there, and an idle source would never reach it. The record before it ends where the page begins. Headers
/// are 24 bytes, 40 at the start of a segment (XLogPageHeaderData, XLogLongPageHeaderData in xlog_internal.h).
pub fn without_page_header(lsn: Lsn, segment_bytes: u64, page_bytes: u64) -> Lsn {
    let in_segment = lsn.0 % segment_bytes.max(1);
    let in_page = lsn.0 % page_bytes.max(1);
    match (in_segment, in_page) {
        (1..=40, _) => Lsn(lsn.0 - in_segment),
        (_, 1..=24) => Lsn(lsn.0 - in_page),
        _ => lsn,
    }
}

/// Where it was found.
enum Found {
    Table,
    File(PathBuf),
}

impl Found {
    fn with(self, connection: Connection) -> Sentinel {
        match self {
            Found::Table => Sentinel::Table(connection),
            Found::File(path) => Sentinel::File { path, connection },
        }
    }
}

fn find(connection: &mut Connection, dir: &Path) -> Result<Option<Found>> {
    let path = file_in(dir);
    if path.exists() {
        return Ok(Some(Found::File(path)));
    }
    Ok(Sentinel::has_table(connection)?.then_some(Found::Table))
}

fn create_table(connection: &mut Connection, startpos: Lsn) -> Result<()> {
    failpoint("sentinel.before_create")?;
    // With a primary key, so that a publication for all tables that is made later does not refuse our updates.
    connection
        .execute(&format!(
            "BEGIN; CREATE SCHEMA IF NOT EXISTS {SCHEMA}; \
             CREATE TABLE {SCHEMA}.sentinel (id boolean PRIMARY KEY DEFAULT true CHECK (id), \
                 startpos pg_lsn NOT NULL, endpos pg_lsn NOT NULL DEFAULT '0/0', apply boolean NOT NULL DEFAULT false, \
                 write_lsn pg_lsn NOT NULL DEFAULT '0/0', flush_lsn pg_lsn NOT NULL DEFAULT '0/0', \
                 replay_lsn pg_lsn NOT NULL DEFAULT '0/0'); \
             INSERT INTO {SCHEMA}.sentinel (startpos) VALUES ('{startpos}'); COMMIT"
        ))
        .context("could not create table \"pgcopydb\".\"sentinel\" on the source")?;
    failpoint("sentinel.after_create")
}

fn set_mark(connection: &mut Connection, mark: &Mark) -> Result<()> {
    connection
        .execute(&format!(
            "COMMENT ON TABLE {SCHEMA}.sentinel IS {}",
            quote_literal(&mark.words())
        ))
        .context("could not mark table \"pgcopydb\".\"sentinel\" on the source")?;
    failpoint("sentinel.after_mark")
}

/// A publication for all tables would send our table to subscribers that do not have it, and stop them.
fn may_create(connection: &mut Connection) -> Result<bool> {
    connection
        .query_one(
            "SELECT NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_publication WHERE puballtables) \
                 AND (has_database_privilege(current_database(), 'CREATE') \
                 OR COALESCE((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'pgcopydb'), false))",
        )
        .context("could not look for rights on the source")?
        .bool(0)
}

fn lock_file(path: &Path) -> Result<LockFile> {
    let deadline = Instant::now() + LOCK_WAIT;
    let lock = path.with_extension("lock");
    loop {
        match LockFile::take(&lock)? {
            Ok(lock) => return Ok(lock),
            Err(_) if Instant::now() < deadline => {
                Shutdown::handle().sleep(Duration::from_millis(10))?;
            }
            Err(_) => {
                return Err(Error::state(format!(
                    "file \"{}\" is locked by another process",
                    lock.display()
                )));
            }
        }
    }
}

fn read_file(path: &Path) -> Result<SentinelRow> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("could not read file \"{}\"", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::state(format!(
            "file \"{}\" is not a sentinel: {error}",
            path.display()
        ))
    })
}

fn write_file(path: &Path, row: &SentinelRow) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(row)
        .map_err(|error| Error::internal(format!("could not encode the sentinel: {error}")))?;
    write_atomic(path, &bytes, Sync::Now)
}

#[cfg(test)]
mod tests {
    use super::{Mark, without_page_header};
    use crate::lsn::Lsn;

    #[test]
    fn a_mark_is_read_back() {
        for token in [None, Some("00ff".to_owned())] {
            let mark = Mark {
                slot_name: "s".to_owned(),
                token,
            };
            assert_eq!(Mark::parse(&mark.words()), Some(mark));
        }
        assert_eq!(Mark::parse("somebody's table"), None);
    }

    #[test]
    fn a_page_header_is_no_place_to_end() {
        let normal = |lsn: u64| without_page_header(Lsn(lsn), 16 << 20, 8192).0;
        assert_eq!(normal(0x100_2018), 0x100_2000);
        assert_eq!(normal(0x200_0028), 0x200_0000);
        // Anywhere in a header, the long one of a segment's first page too.
        assert_eq!(normal(0x200_0018), 0x200_0000);
        assert_eq!(normal(0x100_2008), 0x100_2000);
        assert_eq!(normal(0x200_0030), 0x200_0030);
        assert_eq!(normal(0), 0);
        assert_eq!(normal(0x100_2030), 0x100_2030);
        assert_eq!(normal(0x100_2000), 0x100_2000);
    }
}
