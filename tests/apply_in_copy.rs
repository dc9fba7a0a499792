//! Changes that a resumed copy has already, on scripts made by hand: which of them are skipped, in every mode.

use std::os::fd::OwnedFd;
use std::time::Duration;

use pgcopydb::ident::QualifiedName;
use pgcopydb::lsn::Lsn;
use pgcopydb::stream::apply::{Applied, Applier, ApplyMode};
use pgcopydb::stream::meeting::{self, TableAsOf};
use pgcopydb::sys::signal::Shutdown;

use crate::support::applying::{Place, id, insert_u, some, target};
use crate::support::script::{Script, lsn_of};
use crate::support::wait_until;

fn as_of(table: &str, lsn: Lsn) -> TableAsOf {
    (QualifiedName::new("public", table), lsn)
}

/// Two tables, one copied as of the third transaction. Each transaction changes a row of both; the rows of `t` that the
/// first three made are there already, with what came after that in it.
fn script(ends_unknown: bool) -> Script {
    let mut script = Script::new();
    script.ends_unknown = ends_unknown;
    for number in 1..6 {
        script.transaction(|changes| {
            let number = number.to_string();
            changes.insert("t", &[("id", some(&number)), ("v", some("applied"))]);
            changes.insert("u", &[("id", some(&number)), ("code", some(&number))]);
            // Of a row that the copy has without it, as it was deleted in between.
            changes.update("t", &[("v", some("gone"))], &id("77"));
            changes.delete("t", &id("78"));
        });
    }
    script
}

fn place(mode: ApplyMode, copied_as_of: Lsn) -> Place<'static> {
    let mut place = Place::new(target());
    place.spec.mode = mode;
    place.cluster.psql(
        &place.db,
        "insert into t (id, v) select g, 'copied' from generate_series(1, 3) g; insert into t (id) values (77), (78)",
    );
    meeting::note_tables(place.dir.path(), &[as_of("t", copied_as_of)]).unwrap();
    place
}

/// One below and one above the commit of the third transaction, and the commit itself.
#[test]
fn a_change_up_to_the_position_of_its_table_is_skipped() {
    for mode in [ApplyMode::Auto, ApplyMode::Rows] {
        for ends_unknown in [false, true] {
            for copied_as_of in [lsn_of(3), Lsn(lsn_of(3).0 + 1), Lsn(lsn_of(4).0 - 1)] {
                let place = place(mode, copied_as_of);
                place.apply(script(ends_unknown)).unwrap();
                let values = "select string_agg(id || ' ' || v, ', ' order by id) from t";
                assert_eq!(
                    place.cluster.value(&place.db, values),
                    "1 copied, 2 copied, 3 copied, 4 applied, 5 applied, 77 gone",
                    "{mode:?} {ends_unknown} {copied_as_of}"
                );
                assert_eq!(
                    place.cluster.value(&place.db, "select count(*) from u"),
                    "5"
                );
                assert_eq!(place.progress(), lsn_of(5));
                // The second DELETE of a row, in the fifth transaction; what was skipped is not missed.
                assert_eq!(place.positions.missed(), 1);
            }
            let before = place(mode, Lsn(lsn_of(3).0 - 1));
            let error = before.apply(script(ends_unknown)).unwrap_err();
            assert!(error.to_string().contains("duplicate key"), "{error}");
        }
    }
}

#[test]
fn a_pipe_is_no_different() {
    for ends_unknown in [false, true] {
        let place = place(ApplyMode::Auto, lsn_of(3));
        let path = place.save(script(ends_unknown), "pipe.sql");
        let file = std::fs::File::open(path).unwrap();
        let mut applier = place.applier();
        let applied = applier.run_pipe(OwnedFd::from(file)).unwrap();
        assert_eq!(applied, Applied::EndOfInput);
        applier.finish().unwrap();
        assert_eq!(
            place
                .cluster
                .value(&place.db, "select count(*) from t where id < 9"),
            "5"
        );
        assert_eq!(place.progress(), lsn_of(5));
    }
}

/// Of several tables only those are emptied that have not been.
#[test]
fn a_truncate_leaves_the_tables_that_were_copied_after_it() {
    let place = Place::new(target());
    place.cluster.psql(
        &place.db,
        "create table p (k int, v int) partition by list (k); create table p1 partition of p for values in (1);
         create table p2 partition of p for values in (2); insert into p values (1, 1), (2, 2);
         insert into t (id) values (1); insert into u values (1, 'a'); insert into k values ('a', 1, 'v')",
    );
    let later = lsn_of(2);
    let tables = ["t", "p", "p1"].map(|table| as_of(table, later));
    meeting::note_tables(place.dir.path(), &tables).unwrap();
    let count = |table: &str| {
        place
            .cluster
            .value(&place.db, &format!("select count(*) from {table}"))
    };
    let mut script = Script::new();
    script.transaction(|changes| changes.truncate(&["t"], true));
    script.transaction(|changes| {
        changes.truncate(&["t", "u"], false);
        // The server lists the parent beside its partitions.
        changes.truncate(&["p", "p1", "p2"], false);
    });
    place.apply(script).unwrap();
    assert_eq!(
        ["t", "u", "k", "p1", "p2"].map(count),
        ["1", "0", "1", "1", "0"]
    );
    let mut script = Script::from(3);
    script.transaction(|changes| changes.truncate(&["t", "k"], false));
    script.transaction(|changes| changes.truncate(&["p", "p1", "p2"], false));
    place.apply(script).unwrap();
    assert_eq!(["t", "u", "k", "p1", "p2"].map(count), ["0"; 5]);
}

/// A transaction without an end is forgotten, as ever; one that the target has is not applied again, though its end is late.
#[test]
fn a_torn_transaction_is_forgotten() {
    let place = place(ApplyMode::Auto, lsn_of(9));
    for _ in 0..2 {
        let mut script = script(true);
        script.torn(|changes| changes.insert("u", &[("id", some("99")), ("code", some("99"))]));
        place.apply(script).unwrap();
        assert_eq!(
            place.cluster.value(&place.db, "select count(*) from u"),
            "5"
        );
        assert_eq!(place.progress(), lsn_of(5));
    }
}

/// Nobody may apply while rows are still read: tables that are left would get their changes twice.
#[test]
fn nothing_is_applied_before_the_copy_is_complete() {
    let place = Place::new(target());
    let meeting = meeting::Meeting {
        at: lsn_of(9),
        ..Default::default()
    };
    meeting::note(place.dir.path(), &meeting).unwrap();
    let connected = Applier::connect(&place.spec, &place.positions, &Shutdown::deaf());
    let error = connected.err().expect("it is refused");
    assert_eq!(error.exit_code(), 3);
    assert!(error.hint().unwrap().contains("clone --follow --resume"));
}

/// A file is read again from its beginning: a transaction in it that is larger than what is sent at once must not be applied
/// a second time before its end is seen. Its rows would meet themselves.
#[test]
fn a_large_transaction_that_is_applied_already_is_skipped() {
    let place = Place::new(target());
    let mut script = Script::new();
    script.ends_unknown = true;
    insert_u(&mut script, 1..45_000);
    let path = place.save(script, "large.sql");
    for _ in 0..2 {
        let mut applier = place.applier();
        applier.run_file(&path).unwrap();
        applier.finish().unwrap();
        assert_eq!(
            place.cluster.value(&place.db, "select count(*) from u"),
            "44999"
        );
        assert_eq!(place.progress(), lsn_of(1));
    }
}

/// Whoever waits for the tables to meet waits for a flush, and apply for him: before the end of a transaction that is too
/// large to be sent at once, it stands still with everything before it flushed.
#[test]
fn before_the_end_of_a_large_transaction_everything_is_flushed() {
    let place = Place::new(target());
    let at = Lsn(lsn_of(1).0 + 8);
    place.positions.set_pause(Some((7, at)));
    let mut script = Script::new();
    insert_u(&mut script, 1..2);
    script.keepalive(at);
    script.ends_unknown = true;
    insert_u(&mut script, 2..45_000);
    let path = place.save(script, "large.sql");
    std::thread::scope(|threads| {
        let applying = threads.spawn(|| {
            let mut applier = place.applier();
            applier.run_file(&path).unwrap();
            applier.finish().unwrap();
        });
        wait_until(Duration::from_secs(30), "apply to stand still", || {
            place.positions.paused() == Some(7)
        });
        // It has nothing more to do until it may go on.
        let flushed = place.positions.replayed_flushed();
        let visible = place.cluster.value(&place.db, "select count(*) from u");
        place.positions.set_pause(None);
        assert_eq!((flushed, &*visible), (at, "1"));
        applying.join().unwrap();
    });
    assert_eq!(place.progress(), lsn_of(2));
}
