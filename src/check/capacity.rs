//! Whether there is room for what the run will take: connections, locks, transaction ids, disk. Pure, but for the one
//! question to the file system.

use std::path::{Path, PathBuf};

use super::finding::{Finding, Group};
use super::server::Server;
use super::spec::Jobs;
use crate::error::Side;
use crate::ident::quote_ident;

const GROUP: Group = Group::Capacity;

/// While a snapshot is held nothing can be frozen; from half of the 2 billion on a long copy may use up the rest, and
/// autovacuum should have begun at 200 million.
const MUCH_XID_AGE: u64 = 1_000_000_000;

/// Room for catalog, dump and done-files of any database.
const LITTLE_DISK: u64 = 64 << 20;
/// While changes are received and not applied yet they are files, as many as the source's WAL has changes.
const LITTLE_DISK_FOR_CHANGES: u64 = 1 << 30;

/// The connections that a run holds at its busiest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    pub source: u64,
    pub target: u64,
}

impl Needed {
    /// Each worker is a process with a connection to each server that it needs. The parent holds the snapshot; pg_dump
    /// comes before the workers and pg_restore with its jobs after them, so these only count where they are more.
    pub fn of(jobs: &Jobs, follows: bool) -> Needed {
        let [table, index, restore, large_objects, vacuum] = [
            jobs.table,
            jobs.index,
            jobs.restore,
            jobs.large_objects,
            jobs.vacuum,
        ]
        .map(u64::from);
        // Follow parent and sentinel; receive has a WAL sender, which is counted elsewhere since 12.
        let following = if follows { 2 } else { 0 };
        Needed {
            source: table + large_objects + 1 + following,
            target: (table + index + large_objects + vacuum).max(restore) + 1 + following,
        }
    }

    /// Of all databases of an instance together. The workers are shared; each database has the holder of its snapshot, and
    /// what follows it. A few are prepared at a time, each with a pg_dump and a transaction in its snapshot, and one is
    /// restored beside the workers.
    pub fn of_instance(jobs: &Jobs, databases: u64, follows: bool) -> Needed {
        let alone = Needed::of(jobs, false);
        let restore = u64::from(jobs.restore);
        let lanes = restore.min(databases);
        let following = if follows { 2 * databases } else { 0 };
        Needed {
            source: (alone.source - 1).max(2 * lanes) + databases + 2 + following,
            target: alone.target + restore + 1 + following,
        }
    }
}

pub fn decide(source: &Server, target: &Server, needed: Needed) -> Vec<Finding> {
    vec![
        connections(source, needed),
        connections(target, needed),
        xid_age(source),
    ]
}

pub fn connections(server: &Server, needed: Needed) -> Finding {
    let (id, side) = ("connections", server.side);
    let needed = match side {
        Side::Source => needed.source,
        Side::Target => needed.target,
    };
    let has = &server.connections;
    let user = quote_ident(&server.user);
    let database = quote_ident(&server.database);
    // What limits, how many it allows, how many are taken, and what raises it.
    let mut limits = vec![(
        "max_connections".to_owned(),
        (has.most, has.used),
        "ALTER SYSTEM SET max_connections = N on it and restart it".to_owned(),
    )];
    limits.extend(has.role.map(|limit| {
        (
            format!("the connection limit of role {user}"),
            limit,
            format!("ALTER ROLE {user} CONNECTION LIMIT -1"),
        )
    }));
    limits.extend(has.database.map(|limit| {
        (
            format!("the connection limit of database {database}"),
            limit,
            format!("ALTER DATABASE {database} CONNECTION LIMIT -1"),
        )
    }));
    let free = |(most, used): (u64, u64)| most.saturating_sub(used);
    // There is always the first; the session that asked is given back before the workers begin.
    let tightest = limits.into_iter().min_by_key(|(_, limit, _)| free(*limit));
    let Some((name, limit, raise)) = tightest else {
        return Finding::pass(GROUP, id, side, "connections are not limited");
    };
    let free_now = free(limit) + 1;
    let fix = format!("Use fewer --jobs, or {raise}.");
    if needed > limit.0 {
        let reason = format!(
            "up to {needed} connections to the {side} are needed, and {name} allows {}",
            limit.0
        );
        Finding::fail(GROUP, id, side, reason).with_fix(fix)
    } else if needed > free_now {
        let reason = format!(
            "up to {needed} connections to the {side} are needed, and {free_now} of the {} that {name} allows are free \
             now",
            limit.0
        );
        Finding::warn(GROUP, id, side, reason).with_fix(fix)
    } else {
        Finding::pass(
            GROUP,
            id,
            side,
            format!("up to {needed} connections to the {side} are needed, {free_now} are free"),
        )
    }
}

fn xid_age(server: &Server) -> Finding {
    let (id, side) = ("transaction-ids", server.side);
    for (what, age) in [
        ("transaction ids", server.xid_age),
        ("multixact ids", server.multixact_age),
    ] {
        if age >= MUCH_XID_AGE {
            return Finding::warn(
                GROUP,
                id,
                side,
                format!(
                    "{what} of the {side} database are {age} old, of 2147483648 before the server stops: while the copy \
                     runs none can be freed"
                ),
            )
            .with_fix("VACUUM (FREEZE) as the owner of all tables, before the copy");
        }
    }
    Finding::pass(
        GROUP,
        id,
        side,
        format!("transaction ids of the {side} are {} old", server.xid_age),
    )
}

/// pg_dump locks every table in one transaction.
pub fn locks(source: &Server, tables: u64) -> Finding {
    let (id, side) = ("locks", Side::Source);
    let places = source.lock_places;
    let reason =
        format!("{tables} tables are locked at a time, and the lock table has {places} places");
    let fix = "ALTER SYSTEM SET max_locks_per_transaction = N on the source, with N so that all tables find a place, \
               and restart it";
    // There is some slack behind the last place, and never as much again.
    if tables > places.saturating_mul(2) {
        Finding::fail(GROUP, id, side, reason).with_fix(fix)
    } else if tables > places {
        Finding::warn(GROUP, id, side, reason).with_fix(fix)
    } else {
        Finding::pass(GROUP, id, side, reason)
    }
}

/// A directory that is written to, and what is free where it is or will be; `None` where that cannot be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub free_bytes: Option<u64>,
    pub holds_changes: bool,
}

impl Disk {
    /// Ask the nearest directory that exists: the others are made by the run.
    pub fn look(path: &Path, holds_changes: bool) -> Disk {
        let there = path.ancestors().find(|ancestor| ancestor.exists());
        let free = there.and_then(|there| nix::sys::statvfs::statvfs(there).ok());
        Disk {
            path: path.to_path_buf(),
            free_bytes: free.map(|free| free.blocks_available() * free.fragment_size()),
            holds_changes,
        }
    }
}

pub fn disk(disk: &Disk) -> Finding {
    let id = "disk";
    let path = disk.path.display();
    let (wanted, use_of_it) = match disk.holds_changes {
        true => (LITTLE_DISK_FOR_CHANGES, "which is to hold the changes"),
        false => (LITTLE_DISK, "the work directory"),
    };
    let finding = match disk.free_bytes {
        Some(free) if free < wanted => Finding::warn(
            GROUP,
            id,
            Side::Source,
            format!(
                "{} MB are free for \"{path}\", {use_of_it}",
                free / (1 << 20)
            ),
        )
        .with_fix(format!(
            "Use --dir on a disk with at least {} MB.",
            wanted / (1 << 20)
        )),
        Some(free) => Finding::pass(
            GROUP,
            id,
            Side::Source,
            format!("{} MB are free for \"{path}\"", free / (1 << 20)),
        ),
        None => Finding::pass(
            GROUP,
            id,
            Side::Source,
            format!("how much is free for \"{path}\" cannot be told"),
        ),
    };
    finding.of_no_side()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Verdict;
    use crate::check::server::tests::server;

    const JOBS: Jobs = Jobs {
        table: 4,
        index: 4,
        restore: 4,
        large_objects: 4,
        vacuum: 4,
    };

    #[test]
    fn workers_are_counted_where_they_connect() {
        let needed = Needed::of(&JOBS, false);
        assert_eq!((needed.source, needed.target), (9, 17));
        let needed = Needed::of(
            &Jobs {
                restore: 64,
                ..JOBS
            },
            true,
        );
        assert_eq!((needed.source, needed.target), (11, 67));
        let needed = Needed::of_instance(&JOBS, 100, false);
        assert_eq!((needed.source, needed.target), (110, 22));
        let needed = Needed::of_instance(&JOBS, 100, true);
        assert_eq!((needed.source, needed.target), (310, 222));
    }

    #[test]
    fn the_tightest_limit_counts() {
        let needed = Needed::of(&JOBS, false);
        let mut server = server(Side::Target);
        let verdict = |server: &Server| connections(server, needed).verdict;
        assert_eq!(verdict(&server), Verdict::Pass);
        server.connections.used = 90;
        assert_eq!(verdict(&server), Verdict::Warn);
        server.connections.most = 10;
        assert_eq!(verdict(&server), Verdict::Fail);
        server.connections.most = 97;
        server.connections.used = 1;
        server.connections.database = Some((20, 1));
        assert_eq!(verdict(&server), Verdict::Pass);
        server.connections.role = Some((5, 1));
        let finding = connections(&server, needed);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(
            finding
                .fix
                .unwrap()
                .contains("ALTER ROLE \"owner\" CONNECTION LIMIT -1")
        );
    }

    #[test]
    fn old_transaction_ids_and_many_tables() {
        let mut server = server(Side::Source);
        assert_eq!(xid_age(&server).verdict, Verdict::Pass);
        server.multixact_age = MUCH_XID_AGE;
        let finding = xid_age(&server);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.reason.starts_with("multixact ids"));
        for (tables, verdict) in [
            (7_808, Verdict::Pass),
            (7_809, Verdict::Warn),
            (15_617, Verdict::Fail),
        ] {
            assert_eq!(locks(&server, tables).verdict, verdict);
        }
    }

    #[test]
    fn disks() {
        let mut here = Disk::look(Path::new("/nonexistent/a/b"), false);
        assert!(here.free_bytes.is_some(), "that of /");
        here.free_bytes = Some(100 << 20);
        assert_eq!(disk(&here).verdict, Verdict::Pass);
        here.holds_changes = true;
        assert_eq!(disk(&here).verdict, Verdict::Warn);
        here.free_bytes = None;
        assert_eq!(disk(&here).verdict, Verdict::Pass);
    }
}
