//! A large-object worker: contents, owner, ACL and comment of large objects, a batch of them at a time. Runs in its own
//! process with one connection to each server. pg_dump has no part in it, since before and after 17 it writes them
//! differently; `lo_get` and `lo_put` are the same everywhere and need no superuser.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::CopyContext;
use super::ledger::Made;
use super::work::Work;
use super::worker::Worker;
use crate::error::{Context, Error, Result};
use crate::ident::{Oid, quote_ident, quote_literal};
use crate::pg::wire::{Connection, Row};
use crate::snapshot::begin_sql;
use crate::sys::failpoint::failpoint;
use crate::workdir::done::{BlobsDone, now_ms};
use crate::workdir::live::Task;

/// Large objects of one batch: few enough to repeat after a crash, enough that round trips do not matter.
const BATCH_OBJECTS: u32 = 1000;

/// Bytes read of each object with the batch; what is longer is fetched piece by piece.
const HEAD_BYTES: usize = 64 * 1024;

/// Bytes of one piece of a long object.
const PIECE_BYTES: usize = 1 << 20;

/// A statement for the target is sent when it has grown to this.
const STATEMENT_BYTES: usize = 1 << 20;

/// A range of object ids, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub first: Oid,
    pub last: Oid,
}

/// Cut the large objects of the snapshot into batches; one query, one row a batch.
pub fn fetch_batches(source: &mut Connection) -> Result<Vec<Batch>> {
    let rows = source
        .query(&format!(
            "SELECT min(oid), max(oid) FROM ( \
                 SELECT oid, (row_number() OVER (ORDER BY oid) - 1) / {BATCH_OBJECTS} AS batch \
                 FROM pg_catalog.pg_largeobject_metadata) AS numbered \
             GROUP BY batch ORDER BY batch"
        ))
        .context("could not list large objects")?;
    rows.iter()
        .map(|row| {
            Ok(Batch {
                first: row.parse(0)?,
                last: row.parse(1)?,
            })
        })
        .collect()
}

/// The body of a large-object worker.
pub fn run(mut worker: Worker<'_>) -> Result<()> {
    // Doing a batch again is the same as doing it once.
    worker.does_again(|worker, made| match made {
        Made::LargeObjects(number) => copy(worker, number),
        other => Err(Error::internal(format!(
            "a large-object worker has made {other:?}"
        ))),
    });
    worker.serve(|worker, work| {
        let Work::CopyLargeObjects(number) = work else {
            return Err(Error::internal(format!(
                "a large-object worker was given {work:?}"
            )));
        };
        copy(worker, number)?;
        worker.seat.over();
        Ok(())
    })
}

/// What was copied of a batch.
#[derive(Debug, Default)]
struct Copied {
    objects: u64,
    bytes: u64,
    /// Objects of which the target refused an owner, a privilege or a comment.
    refused: Vec<(Oid, Error)>,
}

fn copy(worker: &mut Worker<'_>, number: u32) -> Result<()> {
    let context = worker.context;
    let Some(batch) = context.plan.batches.get(number as usize) else {
        return Err(Error::internal(format!(
            "no batch number {number} in the plan"
        )));
    };
    let started = Instant::now();
    let name = format!("large objects {} to {}", batch.first, batch.last);
    worker.seat.begin(Task::LargeObjects, number, 0, 0);
    let copied = match worker.retry(&name, |worker| copy_batch(worker, batch)) {
        Ok(copied) if copied.refused.is_empty() => copied,
        // The objects are there; the batch does not count as done, so that a resume tries again.
        Ok(copied) => {
            let mut refused = copied.refused.into_iter();
            return refused.try_for_each(|(oid, error)| {
                let name = format!("large object {oid}");
                let error = error.context(format!("could not set a property of {name}"));
                context.object_failed("large objects", &name, error)
            });
        }
        Err(error) => {
            let error = context.explain(error, worker.source_left());
            let error = error.context(format!("could not copy {name}"));
            return context.object_failed("large objects", &name, error);
        }
    };
    worker.seat.items(copied.objects);
    let done = BlobsDone {
        batch: number,
        snapshot: context.snapshot_content.to_string(),
        first: batch.first,
        last: batch.last,
        count: copied.objects,
        bytes: copied.bytes,
        duration_ms: started.elapsed().as_millis() as u64,
        finished_at_ms: now_ms(),
    };
    log::info!(
        "copied {name}: {} objects, {} bytes in {} ms",
        done.count,
        done.bytes,
        done.duration_ms
    );
    worker
        .ledger
        .committed(Made::LargeObjects(number), move || {
            context.workdir.write_blobs_done(&done)
        });
    // A batch is a second's work: it pays its own flush.
    worker.flush()
}

/// One batch in one transaction on the target. What an earlier run left of it is removed first, so that doing it
/// again is the same as doing it once.
fn copy_batch(worker: &mut Worker<'_>, batch: &Batch) -> Result<Copied> {
    let context = worker.context;
    let (source, target, _) = worker.both()?;
    source.execute(&begin_sql(context.snapshot))?;
    let there = target.query_one(&format!(
        "BEGIN; SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata WHERE oid BETWEEN {} AND {})",
        batch.first, batch.last
    ))?;
    let mut writer = Writer::new(target, there.bool(0)?);
    let mut long = Vec::new();
    let heads = format!(
        "SELECT oid, pg_catalog.lo_get(oid, 0, {HEAD_BYTES}) FROM pg_catalog.pg_largeobject_metadata \
         WHERE oid BETWEEN {} AND {} ORDER BY oid",
        batch.first, batch.last
    );
    source.query_each(&heads, &mut |row| {
        let (oid, hex) = (row.parse::<Oid>(0)?, row.text(1)?);
        // Two digits a byte after "\x": a full head may have more behind it.
        if hex.len() >= 2 + 2 * HEAD_BYTES {
            long.push(oid);
        }
        writer.create(oid, hex)
    })?;
    writer.send()?;
    for oid in long {
        copy_rest(source, &mut writer, oid)?;
    }
    let statements = property_statements(context, source, writer.target, batch)?;
    let mut copied = writer.copied;
    copied.refused = set_properties(target, &statements)?;
    failpoint("blobs.before_commit")?;
    target.commit()?;
    failpoint("blobs.after_commit")?;
    source.execute("COMMIT")?;
    Ok(copied)
}

/// Collects the statements of a batch and sends them in pieces of bounded size.
struct Writer<'a> {
    target: &'a mut Connection,
    /// Objects with the numbers of ours may be there: from an earlier run, or to be replaced as the user said.
    replaces: bool,
    oids: Vec<Oid>,
    values: String,
    copied: Copied,
}

impl<'a> Writer<'a> {
    fn new(target: &'a mut Connection, replaces: bool) -> Writer<'a> {
        Writer {
            target,
            replaces,
            oids: Vec::new(),
            values: String::new(),
            copied: Copied::default(),
        }
    }

    fn create(&mut self, oid: Oid, hex: &str) -> Result<()> {
        let separator = if self.values.is_empty() { "" } else { ", " };
        self.values
            .push_str(&format!("{separator}({oid}, '{hex}')"));
        self.oids.push(oid);
        self.copied.objects += 1;
        self.copied.bytes += (hex.len() as u64).saturating_sub(2) / 2;
        if self.values.len() >= STATEMENT_BYTES {
            self.send()
        } else {
            Ok(())
        }
    }

    fn send(&mut self) -> Result<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        if self.replaces {
            let oids: Vec<String> = self.oids.iter().map(Oid::to_string).collect();
            self.target.execute(&format!(
                "SELECT count(pg_catalog.lo_unlink(oid)) FROM pg_catalog.pg_largeobject_metadata \
                 WHERE oid IN ({})",
                oids.join(", ")
            ))?;
        }
        self.oids.clear();
        let sql = format!(
            "SELECT count(pg_catalog.lo_from_bytea(v.oid, v.content::pg_catalog.bytea)) \
             FROM (VALUES {}) AS v (oid, content)",
            self.values
        );
        self.values.clear();
        self.target.execute(&sql).map(|_| ())
    }

    fn append(&mut self, oid: Oid, offset: usize, hex: &str) -> Result<usize> {
        let length = hex.len().saturating_sub(2) / 2;
        if length > 0 {
            self.target.execute(&format!(
                "SELECT pg_catalog.lo_put({oid}, {offset}, '{hex}')"
            ))?;
            self.copied.bytes += length as u64;
        }
        Ok(length)
    }
}

/// The rest of an object that is longer than what came with the batch.
fn copy_rest(source: &mut Connection, writer: &mut Writer<'_>, oid: Oid) -> Result<()> {
    let mut offset = HEAD_BYTES;
    loop {
        let row = source.query_one(&format!(
            "SELECT pg_catalog.lo_get({oid}, {offset}, {PIECE_BYTES})"
        ))?;
        let length = writer.append(oid, offset, row.text(0)?)?;
        offset += length;
        if length < PIECE_BYTES {
            return Ok(());
        }
    }
}

/// A statement about one object.
type Statement = (Oid, String);

/// Owners, privileges and comments, for the few objects where they are not what a fresh object has.
fn property_statements(
    context: &CopyContext<'_>,
    source: &mut Connection,
    target: &mut Connection,
    batch: &Batch,
) -> Result<Vec<Statement>> {
    let target_role = target
        .query_one("SELECT current_user")?
        .text(0)?
        .to_string();
    let spec = context.spec;
    let rows = format!(
        "SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner), m.lomacl IS NOT NULL, \
             pg_catalog.obj_description(m.oid, 'pg_largeobject'), \
             g.is_public, g.grantee, g.privilege_type, g.is_grantable, g.grantor \
         FROM pg_catalog.pg_largeobject_metadata m \
         LEFT JOIN LATERAL ( \
             SELECT a.grantee = 0 AS is_public, pg_catalog.pg_get_userbyid(a.grantee) AS grantee, \
                 a.privilege_type, a.is_grantable, pg_catalog.pg_get_userbyid(a.grantor) AS grantor, a.number \
             FROM pg_catalog.aclexplode(m.lomacl) \
                 WITH ORDINALITY AS a (grantor, grantee, privilege_type, is_grantable, number)) g ON true \
         WHERE m.oid BETWEEN {} AND {} ORDER BY m.oid, g.number",
        batch.first, batch.last
    );
    let (mut ours, mut owners, mut of_others) = (Vec::new(), Vec::new(), Vec::new());
    let mut previous = None;
    source.query_each(&rows, &mut |row| {
        let oid: Oid = row.parse(0)?;
        let owner = row.text(1)?;
        if previous.replace(oid) != Some(oid) {
            if !spec.no_acl && row.bool(2)? {
                // The stored list is the whole truth: what the owner may do by default is in it, or was taken away.
                let role = quote_ident(&target_role);
                ours.push((oid, format!("REVOKE ALL ON LARGE OBJECT {oid} FROM {role}")));
            }
            if let (false, Some(comment)) = (spec.no_comments, row.opt_text(3)?) {
                let comment = quote_literal(comment);
                ours.push((oid, format!("COMMENT ON LARGE OBJECT {oid} IS {comment}")));
            }
            if !spec.no_owner && owner != target_role {
                let owner = quote_ident(owner);
                owners.push((oid, format!("ALTER LARGE OBJECT {oid} OWNER TO {owner}")));
            }
        }
        if spec.no_acl || row.opt_text(6)?.is_none() {
            return Ok(());
        }
        let grant = grant_sql(oid, owner, &target_role, spec.no_owner, row)?;
        match row.text(8)? {
            grantor if grantor == owner => ours.push((oid, grant)),
            // Passed on by somebody with the grant option: it is theirs to take back.
            grantor => {
                let grantor = quote_ident(grantor);
                of_others.push((oid, format!("SET ROLE {grantor}; {grant}; RESET ROLE")));
            }
        }
        Ok(())
    })?;
    // Whoever gives an object away may not grant on it any more.
    ours.append(&mut owners);
    ours.append(&mut of_others);
    Ok(ours)
}

/// Run the statements; what was refused, once for each object. One that fails must not take the batch with it.
fn set_properties(target: &mut Connection, statements: &[Statement]) -> Result<Vec<(Oid, Error)>> {
    let mut refused: Vec<(Oid, Error)> = Vec::new();
    for chunk in statements.chunks(1000) {
        let together: Vec<&str> = chunk.iter().map(|(_, sql)| sql.as_str()).collect();
        if try_out(target, &together.join("; "))?.is_none() {
            continue;
        }
        for (oid, sql) in chunk {
            match try_out(target, sql)? {
                Some(error) if refused.iter().all(|(other, _)| other != oid) => {
                    refused.push((*oid, error));
                }
                _ => {}
            }
        }
    }
    Ok(refused)
}

/// Run a statement without losing the transaction to it; the error it was refused with.
fn try_out(target: &mut Connection, sql: &str) -> Result<Option<Error>> {
    target.execute("SAVEPOINT properties")?;
    match target.execute(sql) {
        Ok(_) => target.execute("RELEASE SAVEPOINT properties").map(|_| None),
        Err(error) if error.is_interrupted() || error.is_connection_lost() => Err(error),
        Err(error) => target
            .execute("ROLLBACK TO SAVEPOINT properties")
            .map(|_| Some(error)),
    }
}

/// One entry of an ACL. The owner's own entry is given to the role that owns the object now; ALTER OWNER passes it on.
fn grant_sql(
    oid: Oid,
    owner: &str,
    target_role: &str,
    no_owner: bool,
    row: &Row,
) -> Result<String> {
    let grantee = row.text(5)?;
    let grantee = if row.bool(4)? {
        "PUBLIC".to_string()
    } else if grantee == owner && !no_owner {
        quote_ident(target_role)
    } else {
        quote_ident(grantee)
    };
    let option = if row.bool(7)? {
        " WITH GRANT OPTION"
    } else {
        ""
    };
    Ok(format!(
        "GRANT {} ON LARGE OBJECT {oid} TO {grantee}{option}",
        row.text(6)?
    ))
}
