//! The apply process on scripts made by hand: what reaches the target, what is skipped, what stops it, and what it survives.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use pgcopydb::error::{Error, Side};
use pgcopydb::lsn::Lsn;
use pgcopydb::pg::conninfo::ConnInfo;
use pgcopydb::stream::apply::{Applied, Applier, ApplyMode, ApplySpec, PositionKeeper};
use pgcopydb::stream::positions::Positions;
use pgcopydb::sys::signal::Shutdown;
use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::script::{Pair, Script, lsn_of};
use crate::support::version::Version;
use crate::support::wait_until;

const SCHEMA: &str = "
    create table t (id bigint primary key, v text, w text, n numeric, a int[], j jsonb);
    create table u (id int primary key, code text unique);
    create table k (k text, l int, v text, primary key (k, l));";

/// What these tests share: with room for an origin in use by each of them, and for those not in use.
fn target() -> &'static Cluster {
    static TARGET: OnceLock<Cluster> = OnceLock::new();
    TARGET.get_or_init(|| Cluster::start(Version::Pg17, &[("max_replication_slots", "200")]))
}

/// A database to apply to, with an origin of its own.
struct Place<'c> {
    cluster: &'c Cluster,
    db: String,
    positions: Positions,
    dir: TempDir,
    spec: ApplySpec,
}

impl<'c> Place<'c> {
    fn new(cluster: &'c Cluster) -> Place<'c> {
        let db = cluster.new_db("apply");
        cluster.psql(&db, SCHEMA);
        let origin = format!("origin_{db}");
        cluster.psql(
            &db,
            &format!("select pg_replication_origin_create('{origin}')"),
        );
        let spec = ApplySpec {
            target: ConnInfo::parse(Side::Target, &cluster.uri(&db)).unwrap(),
            application_name: format!("pgcopydb[{db}] apply"),
            origin,
            keeper: PositionKeeper::Origin,
            mode: ApplyMode::Auto,
        };
        Place {
            cluster,
            db,
            positions: Positions::create().unwrap(),
            dir: TempDir::new().unwrap(),
            spec,
        }
    }

    fn applier(&self) -> Applier {
        Applier::connect(&self.spec, &self.positions, &Shutdown::deaf()).unwrap()
    }

    fn save(&self, script: Script, name: &str) -> PathBuf {
        script.save(self.dir.path(), name)
    }

    /// Apply one script to its end, over a connection of its own.
    fn apply(&self, script: Script) -> Result<Applied, Error> {
        let path = self.save(script, "one.sql");
        let mut applier = self.applier();
        let applied = applier.run_file(&path)?;
        applier.finish()?;
        Ok(applied)
    }

    fn rows(&self, table: &str) -> String {
        let sql = format!(
            "select coalesce(string_agg(x::text, ' ' order by x::text), '') from {table} x"
        );
        self.cluster.value(&self.db, &sql)
    }

    fn progress(&self) -> Lsn {
        let sql = format!(
            "select coalesce(pg_replication_origin_progress('{}', true), '0/0')",
            self.spec.origin
        );
        self.cluster.value(&self.db, &sql).parse().unwrap()
    }
}

fn some(value: &str) -> Option<&str> {
    Some(value)
}

fn id(number: &str) -> [Pair<'_>; 1] {
    [("id", Some(number))]
}

fn insert_u(script: &mut Script, ids: std::ops::Range<u32>) -> u32 {
    script.transaction(|changes| {
        for number in ids {
            let (number, code) = (number.to_string(), format!("code {number}"));
            changes.insert("u", &[("id", some(&number)), ("code", some(&code))]);
        }
    })
}

/// Changes that exercise every kind of set: values that need quoting, arrays, NULLs, some columns only, rows that come and go.
fn workload() -> Script {
    let mut script = Script::new();
    script.transaction(|changes| {
        for number in 1..40 {
            let number = number.to_string();
            changes.insert(
                "t",
                &[
                    ("id", some(&number)),
                    ("v", some("a\tb\\c\n\"q\" {x,NULL}")),
                    ("w", (number.len() == 1).then_some("NULL")),
                    ("n", some("1.50")),
                    ("a", some("{1,NULL,3}")),
                    ("j", some("{\"a\": \"\\\\ \\\"é\"}")),
                ],
            );
            changes.insert(
                "k",
                &[("k", some("é \\")), ("l", some(&number)), ("v", None)],
            );
        }
    });
    for number in 1..30 {
        script.transaction(|changes| {
            let (number, half) = (number.to_string(), (number / 2 + 1).to_string());
            changes.update("t", &[("v", some("")), ("w", None)], &id(&number));
            // An unchanged TOASTed value is not among the columns (trap 16).
            changes.update(
                "t",
                &[("a", some("{{1,2},{3,4}}")), ("j", some("null"))],
                &id(&half),
            );
            let key = [("k", some("é \\")), ("l", some(&number))];
            changes.update("k", &[("v", some("\\N"))], &key);
        });
    }
    script.transaction(|changes| {
        for number in 10..20 {
            let number = number.to_string();
            changes.delete("t", &id(&number));
            changes.delete("k", &[("k", some("é \\")), ("l", some(&number))]);
        }
        for number in 15..60 {
            let number = number.to_string();
            if number.as_str() < "20" || number.as_str() >= "40" {
                changes.insert("t", &[("id", some(&number)), ("v", some("again"))]);
            }
        }
        for number in 41..50 {
            changes.delete("t", &id(&number.to_string()));
        }
    });
    script
}

#[test]
fn sets_come_to_the_same_as_rows() {
    let by_sets = Place::new(target());
    by_sets.apply(workload()).unwrap();
    let mut by_rows = Place::new(target());
    by_rows.spec.mode = ApplyMode::Rows;
    by_rows.apply(workload()).unwrap();
    for table in ["t", "k"] {
        assert_eq!(by_sets.rows(table), by_rows.rows(table));
        assert!(by_sets.rows(table).len() > 200);
    }
    let (transactions, changes, grouped) = by_sets.positions.applied();
    assert_eq!(transactions, 31);
    assert!(grouped > changes / 4, "{grouped} of {changes} went in sets");
    assert_eq!(by_rows.positions.applied(), (transactions, changes, 0));
    for place in [by_sets, by_rows] {
        assert_eq!(place.progress(), lsn_of(31));
        assert_eq!(place.positions.replayed(), lsn_of(31));
        assert_eq!(place.positions.replayed_flushed(), lsn_of(31));
        assert_eq!(place.positions.missed(), 0);
    }
}

/// Any target version, as settings and catalogs differ.
#[test]
fn every_target_version_takes_changes() {
    for version in Version::ALL {
        let cluster = Cluster::start(version, &[]);
        let place = Place::new(&cluster);
        place.apply(workload()).unwrap();
        assert_eq!(place.progress(), lsn_of(31), "{version:?}");
        assert!(
            place.positions.applied().2 > 0,
            "{version:?}: nothing went in sets"
        );
    }
}

#[test]
fn what_is_applied_is_skipped() {
    let place = Place::new(target());
    for _ in 0..2 {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        insert_u(&mut script, 10..20);
        place.apply(script).unwrap();
    }
    for ends_unknown in [true, false] {
        let mut script = Script::new();
        script.ends_unknown = ends_unknown;
        for first in [1, 10, 20] {
            insert_u(&mut script, first..first + 10 - u32::from(first == 1));
        }
        place.apply(script).unwrap();
        assert_eq!(
            place.cluster.value(&place.db, "select count(*) from u"),
            "29"
        );
    }
    assert_eq!(place.progress(), lsn_of(3));
    assert_eq!(place.positions.applied().0, 3);
}

/// Traps 3 and 4: every transaction up to the end position, none after it.
#[test]
fn the_end_position_is_exact() {
    for ends_unknown in [true, false] {
        for (endpos, rows) in [
            (Lsn(lsn_of(2).0 - 1), "1"),
            (lsn_of(2), "2"),
            (Lsn(lsn_of(2).0 + 1), "2"),
        ] {
            let place = Place::new(target());
            let script = |script: &mut Script| {
                script.ends_unknown = ends_unknown;
                for first in 1..4 {
                    insert_u(script, first..first + 1);
                }
            };
            place.positions.set_endpos(Some(endpos));
            let mut first = Script::new();
            script(&mut first);
            assert_eq!(place.apply(first).unwrap(), Applied::EndPos);
            assert_eq!(
                place.cluster.value(&place.db, "select count(*) from u"),
                rows
            );
            assert_eq!(place.positions.reached(), Some(endpos));
            // What comes after it is applied by the next run.
            place.positions.set_endpos(None);
            let mut second = Script::new();
            script(&mut second);
            assert_eq!(place.apply(second).unwrap(), Applied::EndOfInput);
            assert_eq!(
                place.cluster.value(&place.db, "select count(*) from u"),
                "3"
            );
        }
    }
}

#[test]
fn a_keepalive_past_the_end_position_is_enough() {
    let place = Place::new(target());
    place.positions.set_endpos(Some(lsn_of(5)));
    let mut script = Script::new();
    insert_u(&mut script, 1..3);
    script.keepalive(lsn_of(9));
    assert_eq!(place.apply(script).unwrap(), Applied::EndPos);
    // It moves no position of what is applied (trap 2).
    assert_eq!(place.progress(), lsn_of(1));
    assert_eq!(place.positions.committed(), lsn_of(1));
}

/// An update that changed nothing is left out by transform: its transaction is empty.
#[test]
fn an_empty_transaction_moves_the_position() {
    let place = Place::new(target());
    let mut script = Script::new();
    script.transaction(|_| {});
    place.apply(script).unwrap();
    assert_eq!(place.progress(), lsn_of(1));
}

#[test]
fn a_transaction_that_does_not_end_leaves_nothing() {
    let place = Place::new(target());
    let mut script = Script::new();
    insert_u(&mut script, 1..3);
    script.ends_unknown = true;
    script.torn(|changes| {
        for number in 10..30_000 {
            changes.insert("u", &[("id", some(&number.to_string()))]);
        }
    });
    let (read, write) = nix::unistd::pipe().unwrap();
    let bytes = script.bytes().to_vec();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        std::fs::File::from(write).write_all(&bytes).unwrap();
    });
    let mut applier = place.applier();
    assert_eq!(applier.run_pipe(read).unwrap(), Applied::EndOfInput);
    sender.join().unwrap();
    assert_eq!(
        place.cluster.value(&place.db, "select count(*) from u"),
        "2"
    );
    assert_eq!(place.progress(), lsn_of(1));
}

/// An update or delete without its row: counted, said with the key, and everything else is applied.
#[test]
fn a_missing_row_is_counted_once() {
    let place = Place::new(target());
    let mut script = Script::new();
    insert_u(&mut script, 1..20);
    script.transaction(|changes| {
        for number in 15..25 {
            changes.update(
                "u",
                &[("code", some(&format!("new {number}")))],
                &id(&number.to_string()),
            );
        }
        changes.delete("u", &id("99"));
    });
    place.apply(script).unwrap();
    assert_eq!(place.positions.missed(), 6);
    assert_eq!(
        place
            .cluster
            .value(&place.db, "select count(*) from u where code like 'new%'"),
        "5"
    );
    assert_eq!(place.progress(), lsn_of(2));
}

/// The error names the row's table, transaction and line; nothing is lost, and the run after the fix goes on.
#[test]
fn a_duplicate_key_stops_with_its_place() {
    let place = Place::new(target());
    place
        .cluster
        .psql(&place.db, "insert into u values (25, 'mine')");
    let make = || {
        let mut script = Script::new();
        insert_u(&mut script, 1..20);
        insert_u(&mut script, 20..40);
        script
    };
    let error = place.apply(make()).unwrap_err();
    let message = error.to_string();
    for part in [
        "INSERT",
        "\"public\".\"u\"",
        "xid 2",
        "u_pkey",
        "23505",
        "line 30",
        "0/200",
    ] {
        assert!(message.contains(part), "\"{part}\" is missing: {message}");
    }
    place.cluster.psql(&place.db, "delete from u where id = 25");
    place.apply(make()).unwrap();
    assert_eq!(
        place.cluster.value(&place.db, "select count(*) from u"),
        "39"
    );
    assert_eq!(place.progress(), lsn_of(2));
}

/// Trap 25: values of a unique column move between rows, and keys swap; sets refuse, rows pass.
#[test]
fn swaps_pass_row_by_row() {
    let place = Place::new(target());
    let mut script = Script::new();
    insert_u(&mut script, 1..10);
    script.transaction(|changes| {
        for (code, number) in [
            ("x", "1"),
            ("code 1", "2"),
            ("code 2", "1"),
            ("p", "3"),
            ("code 3", "4"),
            ("code 4", "3"),
        ] {
            changes.update("u", &[("code", some(code))], &id(number));
        }
        for (new, old) in [("100", "5"), ("5", "6"), ("6", "100")] {
            changes.update("u", &[("id", some(new))], &id(old));
        }
        changes.delete("u", &id("7"));
        changes.insert(
            "u",
            &[("id", some("7")), ("code", some("code 8"))].map(|pair| match pair {
                ("code", _) => ("code", some("seven")),
                other => other,
            }),
        );
    });
    place.apply(script).unwrap();
    assert_eq!(
        place.rows("u"),
        "(1,\"code 2\") (2,\"code 1\") (3,\"code 4\") (4,\"code 3\") (5,\"code 6\") (6,\"code 5\") (7,seven) (8,\"code 8\") (9,\"code 9\")"
    );
}

/// Traps 14, 15 and 24.
#[test]
fn truncate_empties_what_it_names() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create table child (id int primary key, u int references u);
         create table parted (id int primary key, v text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (10);
         create table parted_2 partition of parted for values from (10) to (20);
         create table parent (id serial primary key);
         create table heir () inherits (parent);
         insert into heir values (5);
         insert into parent default values",
    );
    let mut script = Script::new();
    insert_u(&mut script, 1..10);
    script.transaction(|changes| {
        changes.insert("child", &[("id", some("1")), ("u", some("3"))]);
        changes.insert("parted", &[("id", some("3")), ("v", None)]);
        changes.insert("parted", &[("id", some("13")), ("v", None)]);
        // Referenced by a table that is not among them: it was filtered out on the source.
        changes.truncate(&["u"], false);
        changes.insert("u", &[("id", some("50"))]);
        changes.truncate(&["parent"], true);
    });
    place.apply(script).unwrap();
    assert_eq!(place.rows("u"), "(50,)");
    assert_eq!(place.rows("child"), "(1,3)");
    assert_eq!(place.rows("parent"), "(5)", "the heir keeps its row");
    assert_eq!(
        place
            .cluster
            .value(&place.db, "select nextval('parent_id_seq')"),
        "1"
    );
    // Of a partition alone; then a plain table of the source that is partitioned here, beside another.
    let mut script = Script::from(3);
    script.transaction(|changes| changes.truncate(&["parted_2"], false));
    place.apply(script).unwrap();
    assert_eq!(place.rows("parted"), "(3,)");
    let mut script = Script::from(4);
    script.transaction(|changes| changes.truncate(&["parted", "parent"], false));
    place.apply(script).unwrap();
    assert_eq!(place.rows("parted"), "");
}

/// Trap 26: the source's table has children and is addressed with ONLY; here it is partitioned.
#[test]
fn only_does_not_hide_the_rows_of_a_partitioned_table() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create table parted (id int primary key, v text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (1000)",
    );
    let mut script = Script::new();
    script.transaction(|changes| {
        for number in 0..20 {
            changes.insert(
                "parted",
                &[("id", some(&number.to_string())), ("v", some("old"))],
            );
        }
    });
    place.apply(script).unwrap();
    let mut script = Script::from(2);
    for numbers in [0..1, 1..20] {
        script.transaction(|changes| {
            for number in numbers {
                changes.update_in(
                    "ONLY ",
                    "parted",
                    &[("v", some("new"))],
                    &id(&number.to_string()),
                );
            }
        });
    }
    place.apply(script).unwrap();
    assert_eq!(place.positions.missed(), 0);
    assert_eq!(
        place
            .cluster
            .value(&place.db, "select count(*) from parted where v = 'new'"),
        "20"
    );
}

/// Trap 23: an identity column that is not the key is set to the source's value all the same.
#[test]
fn identity_columns_take_the_sources_values() {
    for count in [1, 20] {
        let place = Place::new(target());
        place.cluster.psql(
            &place.db,
            "create table i (id int primary key, seq int generated always as identity, v text,
                g int generated always as (id * 2) stored)",
        );
        let mut script = Script::new();
        script.transaction(|changes| {
            for number in 0..count {
                let number = number.to_string();
                changes.insert(
                    "i",
                    &[
                        ("id", some(&number)),
                        ("seq", some("7")),
                        ("v", some("old")),
                    ],
                );
            }
        });
        script.transaction(|changes| {
            for number in 0..count {
                let number = number.to_string();
                changes.update("i", &[("seq", some("8")), ("v", some("new"))], &id(&number));
            }
            changes.update("i", &[("id", some("77"))], &id("0"));
        });
        place.apply(script).unwrap();
        let sql = "select count(*) from i where seq = 8 and v = 'new' and g = id * 2";
        assert_eq!(place.cluster.value(&place.db, sql), count.to_string());
    }
}

/// Trap 28: DDL is not replicated. What was applied already asks for nothing; what is missing stops, and goes on later.
#[test]
fn a_missing_column_or_table_stops_with_its_name() {
    let place = Place::new(target());
    let make = || {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        script.transaction(|changes| {
            changes.insert("u", &[("id", some("50")), ("added", some("x"))]);
        });
        script.transaction(|changes| changes.insert("new", &[("id", some("1"))]));
        script.transaction(|changes| changes.truncate(&["newer"], false));
        script
    };
    for (missing, fix, applied) in [
        (
            "column \"added\" of table \"public\".\"u\"",
            "alter table u add added text",
            1,
        ),
        (
            "table \"public\".\"new\"",
            "create table new (id int primary key)",
            2,
        ),
        (
            "table \"public\".\"newer\"",
            "create table newer (id int)",
            3,
        ),
    ] {
        let error = place.apply(make()).unwrap_err();
        assert!(error.to_string().contains(missing), "{missing}: {error}");
        assert!(error.hint().unwrap().contains("--resume"));
        assert!(place.progress() <= lsn_of(applied));
        place.cluster.psql(&place.db, fix);
    }
    place.apply(make()).unwrap();
    assert_eq!(place.progress(), lsn_of(4));
    // Dropped since: nobody asks for it.
    place
        .cluster
        .psql(&place.db, "drop table new; alter table u drop added");
    place.apply(make()).unwrap();
}

/// Columns move when one before them is dropped; values must not.
#[test]
fn a_column_dropped_under_way_shifts_no_value() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create table d (gone text, id int primary key, v text, w text)",
    );
    let mut applier = place.applier();
    let row = |number: &str, changes: &mut crate::support::script::Changes<'_>| {
        changes.insert(
            "d",
            &[("id", Some(number)), ("v", some("v")), ("w", some("w"))],
        );
    };
    let mut script = Script::new();
    script.transaction(|changes| (1..20).for_each(|number: u32| row(&number.to_string(), changes)));
    applier.run_file(&place.save(script, "1.sql")).unwrap();
    place
        .cluster
        .psql(&place.db, "alter table d drop gone, add x text");
    let mut script = Script::from(2);
    script
        .transaction(|changes| (20..40).for_each(|number: u32| row(&number.to_string(), changes)));
    script.transaction(|changes| {
        changes.insert(
            "d",
            &[
                ("id", some("99")),
                ("v", some("v")),
                ("w", some("w")),
                ("x", None),
            ],
        );
        (40..60).for_each(|number: u32| row(&number.to_string(), changes));
    });
    applier.run_file(&place.save(script, "2.sql")).unwrap();
    let sql = "select count(*) from d where v = 'v' and w = 'w'";
    assert_eq!(place.cluster.value(&place.db, sql), "60");
}

/// Trap 11: the backend is ended in the middle of a large transaction; the next connection begins it again.
#[test]
fn a_killed_backend_loses_and_doubles_nothing() {
    let place = Place::new(target());
    let make = || {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        insert_u(&mut script, 10..300_000);
        script
    };
    let path = place.save(make(), "large.sql");
    let (spec, positions) = (place.spec.clone(), place.positions);
    let applier = std::thread::spawn(move || {
        Applier::connect(&spec, &positions, &Shutdown::deaf())?.run_file(&path)
    });
    wait_until(Duration::from_secs(30), "the large transaction", || {
        // Rows under way are seen by their space only.
        place
            .cluster
            .value(&place.db, "select pg_relation_size('u') > 2000000")
            == "t"
    });
    place.cluster.psql(
        &place.db,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '% apply' and datname = current_database()",
    );
    let error = applier.join().unwrap().unwrap_err();
    assert!(error.is_connection_lost(), "{error}");
    place.apply(make()).unwrap();
    assert_eq!(
        place.cluster.value(&place.db, "select count(*) from u"),
        "299999"
    );
    assert_eq!(place.progress(), lsn_of(2));
}

/// Trap 7: commits that the target had not flushed are gone, its origin says so, and they come again.
#[test]
fn commits_that_a_crash_took_back_come_again() {
    let cluster = Cluster::start(
        Version::Pg17,
        &[("wal_writer_delay", "10s"), ("autovacuum", "off")],
    );
    let place = Place::new(&cluster);
    cluster.psql(&place.db, "checkpoint");
    let mut applier = place.applier();
    let make = |last: u32| {
        let mut script = Script::new();
        for first in 1..last {
            insert_u(&mut script, first * 10..first * 10 + 9);
        }
        script
    };
    applier.run_file(&place.save(make(3), "1.sql")).unwrap();
    applier.finish().unwrap();
    applier.run_file(&place.save(make(30), "2.sql")).unwrap();
    assert_eq!(place.positions.committed(), lsn_of(29));
    let flushed = place.positions.replayed_flushed();
    cluster.restart_immediate();
    assert!(place.progress() >= flushed);
    place.apply(make(30)).unwrap();
    assert_eq!(cluster.value(&place.db, "select count(*) from u"), "261");
    assert_eq!(place.progress(), lsn_of(29));
}

/// Somebody else's apply process, for another source, is left alone; a dead one of ours is ended.
#[test]
fn the_origin_of_a_dead_run_is_taken_over() {
    let place = Place::new(target());
    let mut other = Place::new(target());
    other.spec.target = place.spec.target.clone();
    place.cluster.psql(
        &place.db,
        &format!(
            "select pg_replication_origin_create('{}_too')",
            other.spec.origin
        ),
    );
    other.spec.origin += "_too";
    let mut bystander = other.applier();
    let hanging = place.applier();
    let mut script = Script::new();
    insert_u(&mut script, 1..10);
    place.apply(script).unwrap();
    assert_eq!(place.progress(), lsn_of(1));
    bystander.finish().unwrap();
    drop(hanging);
}

#[test]
fn the_position_may_be_a_row_of_a_table() {
    let mut place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create schema pgcopydb;
         create table pgcopydb.progress (origin text primary key, lsn pg_lsn not null, committed_at timestamptz);
         insert into pgcopydb.progress values ('mine', '0/0')",
    );
    place.spec.keeper = PositionKeeper::Table;
    place.spec.origin = "mine".to_owned();
    for _ in 0..2 {
        let mut script = Script::new();
        insert_u(&mut script, 1..10);
        insert_u(&mut script, 10..20);
        place.apply(script).unwrap();
    }
    assert_eq!(
        place
            .cluster
            .value(&place.db, "select lsn from pgcopydb.progress"),
        "0/200"
    );
    assert_eq!(place.positions.replayed_flushed(), lsn_of(2));
    // The first one still holds it.
    let first = place.applier();
    let (spec, positions) = (place.spec.clone(), place.positions);
    let second = std::thread::spawn(move || {
        Applier::connect(&spec, &positions, &Shutdown::deaf()).map(drop)
    });
    std::thread::sleep(Duration::from_millis(500));
    assert!(!second.is_finished(), "two must not apply at a time");
    drop(first);
    second.join().unwrap().unwrap();
}

/// Extensions' operators are found: a key of citext is met by its index, and in any case.
#[test]
fn keys_of_extension_types_use_their_operators() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create extension citext; create table c (id citext primary key, v int)",
    );
    let mut script = Script::new();
    script.transaction(|changes| changes.insert("c", &[("id", some("Key")), ("v", some("1"))]));
    script.transaction(|changes| changes.update("c", &[("v", some("2"))], &id("KEY")));
    place.apply(script).unwrap();
    assert_eq!(place.rows("c"), "(Key,2)");
}

/// Trap 13: a row far larger than any buffer.
#[test]
fn a_row_of_many_megabytes_passes() {
    let place = Place::new(target());
    let value = "0123456789\\\"é".repeat(3 << 20);
    let mut script = Script::new();
    insert_u(&mut script, 1..10);
    script.transaction(|changes| {
        changes.insert("t", &[("id", some("1")), ("v", some(&value))]);
        changes.update("t", &[("w", some(&value))], &id("1"));
    });
    place.apply(script).unwrap();
    let sql = "select length(v) || ' ' || (v = w) || ' ' || right(v, 3) from t";
    assert_eq!(
        place.cluster.value(&place.db, sql),
        format!("{} true \\\"é", 13 * (3 << 20))
    );
}
