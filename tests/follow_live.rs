//! Positions: where the end is, what an idle source sees of us, transactions that overlap, are empty, huge or cut by an end
//! position.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cmd::Running;
use crate::support::following::{Following, SOON, shared, start};
use crate::support::version::Version;
use crate::support::wait_until;
use crate::support::workload::{self, Workload};

const TABLES: &str =
    "create table public.marks (mark int primary key); create table t (id int primary key, v text)";
/// On an idle source the end position is reached within this time.
const AT_ONCE: Duration = Duration::from_secs(10);

fn new(plugin: &'static str) -> Following<'static> {
    Following::of(shared(Version::Debian15), plugin, TABLES)
}

/// `follow --resume` after an end position, to the next one.
fn follow(following: &Following, more: &[&str]) -> Running {
    following.command(&["follow", "--resume"], more).spawn()
}

/// The run ended with 0 and nothing to tell; the objects of the migration stay.
#[track_caller]
fn reaches_end(following: &Following, run: Running) {
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(&[]);
    following.scene.assert_nothing_left(&outcome);
}

fn insert(following: &Following, ids: std::ops::Range<u32>) {
    for id in ids {
        following
            .source
            .psql(&following.db, &format!("insert into t values ({id})"));
    }
}

fn count(following: &Following) -> String {
    following.on_target("select count(*) || ' to ' || coalesce(max(id), 0) from t")
}

/// Nothing happens on the source, so that no change ever comes after the end position.
#[test]
fn an_idle_source_ends_at_once() {
    for plugin in ["test_decoding", "wal2json", "pgoutput"] {
        let following = new(plugin);
        let mut run = following.clone_and_apply(&[]);
        following.wait_for_mark(&mut run);
        let set = Instant::now();
        following.cut_over(run, &[]);
        assert!(
            set.elapsed() < AT_ONCE + Duration::from_secs(5),
            "{:?}",
            set.elapsed()
        );
    }
}

/// Where the server says that its log ends may be just behind a page header, at which no record ever ends. Set by hand, by
/// command or by whoever writes the table himself.
#[test]
fn an_end_in_a_page_header_is_reached_on_an_idle_source() {
    for (plugin, is_by_sql) in [("test_decoding", false), ("pgoutput", true)] {
        let following = new(plugin);
        let mut run = following.clone_and_apply(&[]);
        following.wait_for_mark(&mut run);
        following
            .source
            .psql(&following.db, "select pg_switch_wal()");
        let lsn = following.current_lsn();
        let set = Instant::now();
        match is_by_sql {
            true => following.source.psql(
                &following.db,
                &format!("update pgcopydb.sentinel set endpos = '{lsn}'"),
            ),
            false => following.set_endpos(&lsn),
        }
        following.ends_well(run, &[]);
        assert!(set.elapsed() < AT_ONCE + Duration::from_secs(5), "{lsn}");
    }
}

/// The end position stands before the start, and what was in the snapshot is copied all the same.
#[test]
fn an_end_before_the_start() {
    let following = new("test_decoding");
    insert(&following, 1..4);
    let lsn = following.current_lsn();
    insert(&following, 4..6);
    let run = following.clone_follow(&["--endpos", &lsn]);
    following.ends_well(run, &[]);
    assert_eq!(count(&following), "5 to 5");
}

/// Exactly the transactions with commit LSN <= endpos; then those up to the next one, and none twice. The later ones are
/// on our disk already when the end position is set, and nothing is applied yet.
#[test]
fn an_end_between_two_transactions() {
    for plugin in ["test_decoding", "pgoutput"] {
        let following = new(plugin);
        stop_after_copy(&following);
        following.sentinel_command(&["set", "prefetch"]);
        assert!(!following.sentinel().apply);
        insert(&following, 1..6);
        let first = following.current_lsn();
        insert(&following, 6..11);
        let last = following.current_lsn();
        let run = follow(&following, &[]);
        following.wait_for_slot(&last);
        following.set_endpos(&first);
        assert_eq!(following.sentinel().endpos, first);
        following.sentinel_command(&["set", "apply"]);
        reaches_end(&following, run);
        assert_eq!(count(&following), "5 to 5");
        following.set_endpos_current();
        following.ends_well(follow(&following, &[]), &[]);
        assert_eq!(count(&following), "10 to 10");
    }
}

/// `clone --follow` until changes are applied, then stopped.
fn stop_after_copy(following: &Following) {
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    run.term();
    let outcome = run.wait_deadline(SOON);
    outcome.assert_signalled(Signal::SIGTERM);
    following.scene.assert_nothing_left(&outcome);
}

/// Known from the start, so nothing after it may ever be applied (traps 3, 4, 166 of the original).
#[test]
fn an_end_that_is_known_before_its_transactions_come() {
    let following = new("pgoutput");
    stop_after_copy(&following);
    insert(&following, 1..6);
    let first = following.current_lsn();
    insert(&following, 6..11);
    reaches_end(&following, follow(&following, &["--endpos", &first]));
    assert_eq!(count(&following), "5 to 5");
    let position = following.on_source(&format!(
        "select '{}'::pg_lsn <= '{first}'",
        following.sentinel().replay_lsn
    ));
    assert_eq!(
        position, "t",
        "the position is that of what was applied (trap 3)"
    );
    following.set_endpos_current();
    following.ends_well(follow(&following, &[]), &[]);
}

/// Trap 4: begun before the end position, committed after it: not applied now, whole the next time.
#[test]
fn an_end_within_a_transaction() {
    for plugin in ["test_decoding", "wal2json", "pgoutput"] {
        let following = new(plugin);
        let mut run = following.clone_and_apply(&[]);
        following.wait_for_mark(&mut run);
        let mut open = following.source.client(&following.db);
        open.batch_execute("begin; insert into t select generate_series(1, 100)")
            .unwrap();
        let lsn = following.current_lsn();
        following.set_endpos(&lsn);
        reaches_end(&following, run);
        open.batch_execute("insert into t select generate_series(101, 200); commit")
            .unwrap();
        assert_eq!(count(&following), "0 to 0");
        following.set_endpos_current();
        following.ends_well(follow(&following, &[]), &[]);
        assert_eq!(count(&following), "200 to 200");
    }
}

/// A position that was passed long ago is reached.
#[test]
fn an_end_that_has_passed() {
    let following = new("test_decoding");
    let lsn = following.current_lsn();
    let mut run = following.clone_and_apply(&[]);
    insert(&following, 1..6);
    following.wait_for_mark(&mut run);
    following.set_endpos(&lsn);
    let outcome = run.wait_deadline(AT_ONCE + Duration::from_secs(5));
    outcome.assert_success(&[]);
    following.clean_up();
    following.assert_same();
}

/// Somebody moves the end position on just when it is reached, or after that: either the new one is reached too, or the run
/// does not end well.
#[test]
fn an_end_that_is_moved_on_at_the_last_moment() {
    let following = new("pgoutput");
    stop_after_copy(&following);
    let mut id = 1;
    for point in [
        "apply.before_flush",
        "follow.before_finish",
        "follow.before_done",
    ] {
        insert(&following, id..id + 3);
        following.set_endpos_current();
        let first = following.sentinel().endpos;
        let mut run = following
            .command(&["follow", "--resume"], &[])
            .env("PGCOPYDB_FAILPOINT", format!("{point}=sleep:2500"))
            .spawn();
        following.wait_on_target(
            &mut run,
            "select count(*) || ' to ' || max(id) from t",
            &format!("{0} to {0}", id + 2),
        );
        let (step, before) = match point {
            "apply.before_flush" => ("", true),
            "follow.before_finish" => ("applied everything up to the end position", false),
            _ => ("set 0 sequences", false),
        };
        wait_until(SOON, step, || run.stderr().contains(step));
        insert(&following, id + 3..id + 6);
        following.set_endpos_current();
        assert_ne!(following.sentinel().endpos, first);
        let outcome = run.wait_deadline(SOON);
        outcome.assert_success(&[]);
        let words = "the end was moved on: following further";
        assert!(
            outcome.stderr.contains(words),
            "{point}: {}",
            outcome.stderr
        );
        if before {
            let claim = format!("applied everything up to the end position {first}");
            assert!(outcome.stderr.contains(&claim), "{}", outcome.stderr);
        }
        id += 6;
        assert_eq!(count(&following), format!("{0} to {0}", id - 1));
    }
    following.clean_up();
    following.assert_same();
}

/// The file with the position that reaches it was passed and removed; what is left of a killed receive is the next one, with
/// nothing but its first line and a transaction that does not end.
#[test]
fn an_end_behind_the_files() {
    let following = new("pgoutput");
    stop_after_copy(&following);
    following
        .source
        .psql(&following.db, "checkpoint; select pg_switch_wal()");
    let lsn = following.current_lsn();
    for file in [following.cdc_files("json"), following.cdc_files("sql")].concat() {
        std::fs::remove_file(file).unwrap();
    }
    let name = following.on_source(&format!("select pg_walfile_name('{lsn}')"));
    let torn = format!("{{\"action\":\"S\",\"lsn\":\"{lsn}\"}}\n{{\"action\":\"B\",\"xid\":7}}\n");
    let cdc = following.scene.work_dir().join("cdc");
    std::fs::write(cdc.join(format!("{name}.json")), torn).unwrap();
    let run = follow(&following, &["--endpos", &lsn]);
    following.ends_well(run, &[]);
}

/// Traps 2, 9: our own writes must not make us write again. No other session is on this server.
#[test]
fn an_idle_source_sees_no_wal_of_ours() {
    let source = start(Version::Debian15);
    let following = Following::of(
        (&source, shared(Version::Debian15).1),
        "test_decoding",
        TABLES,
    );
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    let (mut lsn, mut since) = (following.current_lsn(), Instant::now());
    // The server itself notes running transactions up to 15 s after the last activity.
    wait_until(Duration::from_secs(90), "ten seconds without WAL", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        let now = following.current_lsn();
        if now != lsn {
            (lsn, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(10)
    });
    following.cut_over(run, &[]);
}

/// Trap 8: their position must move on, and nothing is written for them.
#[test]
fn a_hundred_thousand_empty_transactions() {
    let following = Following::of(
        shared(Version::Debian15),
        "test_decoding",
        &format!(
            "{TABLES}; create materialized view m as select 1; create unlogged table u (id int)"
        ),
    );
    let mut run = following.clone_and_apply(&[]);
    let sql =
        "do $$ begin for i in 1 .. 100000 loop perform txid_current(); commit; end loop; end $$";
    following.source.psql(&following.db, sql);
    let lsn = following.current_lsn();
    following.wait_for_mark(&mut run);
    following.wait_for_slot(&lsn);
    let bytes: u64 = following
        .cdc_files("json")
        .iter()
        .map(|path| path.metadata().map_or(0, |file| file.len()))
        .sum();
    assert!(bytes < 1_000_000, "{bytes} bytes for nothing");
    following.cut_over(run, &[]);
}

/// Trap 1: begin A, begin B, commit B, commit A; a third one that is rolled back, a fourth that is prepared.
#[test]
fn transactions_that_overlap() {
    for plugin in ["test_decoding", "wal2json", "pgoutput"] {
        let following = new(plugin);
        let mut run = following.clone_and_apply(&[]);
        let mut clients: Vec<_> = (0..4)
            .map(|_| following.source.client(&following.db))
            .collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client
                .batch_execute(&format!("begin; insert into t values ({number}, 'a')"))
                .unwrap();
        }
        clients[3]
            .batch_execute("prepare transaction 'overlap'")
            .unwrap();
        clients[1]
            .batch_execute("insert into t values (11); commit; update t set v = 'b' where id = 1")
            .unwrap();
        clients[2]
            .batch_execute("savepoint s; insert into t values (12); rollback to s; rollback")
            .unwrap();
        clients[0]
            .batch_execute("update t set v = 'c' where id = 1; commit")
            .unwrap();
        following.wait_for_mark(&mut run);
        assert_eq!(count(&following), "3 to 11");
        clients[3]
            .batch_execute("commit prepared 'overlap'")
            .unwrap();
        following.wait_for_mark(&mut run);
        assert_eq!(count(&following), "4 to 11");
        following.cut_over(run, &[]);
    }
}

/// Traps 4, 8, 15: one transaction over several WAL files, with subtransactions.
#[test]
fn a_transaction_over_several_files() {
    let following = new("pgoutput");
    let mut run = following.clone_and_apply(&[]);
    let sql = "begin; insert into t select g, repeat('x', 100) from generate_series(1, 150000) g; select pg_switch_wal();
        savepoint a; update t set v = 'gone' where id < 1000; rollback to a; select pg_switch_wal();
        savepoint b; delete from t where id % 3 = 0; release b; select pg_switch_wal();
        update t set id = -id where id between 100 and 5000; commit";
    following.source.psql(&following.db, sql);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &[]);
}

/// Prefetching without applying, by remote control; then both.
#[test]
fn applying_is_switched_off_and_on() {
    let following = Following::new(shared(Version::Debian15), "test_decoding", |source, db| {
        workload::create(source, db, false);
    });
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    following.sentinel_command(&["set", "prefetch"]);
    assert!(!following.sentinel().apply);
    let load = Workload::start(following.source, &following.db);
    load.wait_for(200);
    load.finish();
    let lsn = following.current_lsn();
    following.wait_for_slot(&lsn);
    following.sentinel_command(&["set", "apply"]);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &[]);
}
