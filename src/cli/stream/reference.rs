//! The reference of what the `stream` commands write and read: the end of the page of `stream`. Text only; the forms are
//! those of `stream::message`, `stream::script` and `sentinel`.

/// One paragraph a subject: the man page fills its lines.
pub const REFERENCE: &str = "\
THE SENTINEL: one row in table pgcopydb.sentinel on the source, marked by a comment with its slot. Where the source cannot be \
written to, or has a publication for all tables, it is the file sentinel.json beside the changes. startpos: where the \
changes begin. endpos: where to stop; 0/0 never. apply: whether changes may be applied. write_lsn, flush_lsn, replay_lsn: up \
to where changes are in files, safe there, and committed on the target; written at most once a second, and not at all while \
nobody else writes. A transaction belongs before endpos when the end of its commit record is at or before it.

THE DIRECTORY: DIR/cdc with --dir, else $XDG_DATA_HOME/pgcopydb, else ~/.local/share/pgcopydb. TTTTTTTTXXXXXXXXYYYYYYYY.json: \
whole transactions in commit order, in the file named after the WAL segment of the position before its first one. The same \
name with .sql: the script made from it, made again when it is missing. slot: what was set up. triggers.json: triggers and \
rules of the target that are disabled meanwhile. missed.json: that changes met no row on the target, for as long as the follow \
lasts. boot.json: since which start of this machine the files are known to be whole.

THE JSON LINES: an object each, \"action\" says which. R describes a relation before its first use in a file: relation (a \
number), schema, table, only, columns (name, type, equality), key (places of columns), full. B begins a transaction: xid. I, U, \
D: relation, new and old, which list values in the order of the columns: a string in the type's text form, null, or false for \
one that was not sent. T: relations, restart_identity. C commits: xid, lsn (the end of the commit record), timestamp. K: \
everything up to lsn was received.

THE SCRIPT: a statement each line, after the line \"-- pgcopydb script 1\". PREPARE n AS sql; -- {what it does, to which table, \
by which columns}. BEGIN; -- {xid, commit_lsn, timestamp}, of a large transaction the xid only. EXECUTE n[parameters as JSON \
strings or null]; TRUNCATE; -- {tables, restart_identity}. COMMIT; -- {xid, commit_lsn, timestamp}. KEEPALIVE; -- {lsn}. SWITCH; \
-- {lsn, json_bytes} ends a complete file.

THE SNAPSHOT FILE of \"snapshot --follow\", in the work directory: the id, and on the second line {lsn, slot}: the snapshot sees \
what was committed before lsn, the slot sends what comes after.

ON THE SERVERS: the replication slot and, for pgoutput, a publication of the same name on the source; the replication origin \
on the target, or its row in pgcopydb.progress. \"stream cleanup\" removes all of them.";
