//! The apply process on scripts made by hand: what reaches the target, what is skipped, what stops it.

use pgcopydb::lsn::Lsn;
use pgcopydb::stream::apply::{Applied, ApplyMode};
use pgcopydb::stream::script::ScriptLine;

use crate::support::applying::{Place, id, insert_u, some, target};
use crate::support::cluster::Cluster;
use crate::support::script::{Script, lsn_of};
use crate::support::version::Version;

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

/// A script that begins after where the target stands is fine, as long as nothing was committed between: what is still in
/// files has to be applied first.
#[test]
fn a_script_that_leaves_out_a_file_is_refused() {
    let place = Place::new(target());
    let script_after = |lsn: Lsn| {
        let mut lines = Vec::new();
        ScriptLine::Header.write(&mut lines);
        ScriptLine::After { lsn }.write(&mut lines);
        let path = place.dir.path().join("script.sql");
        std::fs::write(&path, lines).unwrap();
        path
    };
    let json = place.dir.path().join("000000010000000000000001.json");
    let commit = |lsn: Lsn| {
        let start = "{\"action\":\"S\",\"lsn\":\"0/1\"}\n{\"action\":\"B\",\"xid\":7}\n";
        let end = "\"timestamp\":\"2026-11-21 07:36:18+00\"}\n";
        let lines = format!("{start}{{\"action\":\"C\",\"xid\":7,\"lsn\":\"{lsn}\",{end}");
        std::fs::write(&json, lines).unwrap();
    };
    commit(lsn_of(3));
    let mut applier = place.applier();
    let error = applier.run_file(&script_after(lsn_of(3))).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("are not applied yet"), "{error}");
    commit(lsn_of(4));
    applier.run_file(&script_after(lsn_of(3))).unwrap();
}
