//! `clone --follow` that is interrupted before all rows are read, and resumed in another snapshot: tables stand at different
//! positions for a while, and in the end the target is the source. Trap 47.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcopydb::stream::meeting;
use pgcopydb::workdir::done::{TableDone, read_directory};
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::cmd::{Outcome, Running, Scene};
use crate::support::following::{Following, SOON, shared, start};
use crate::support::version::Version;
use crate::support::workload::{self, Workload};
use crate::support::{leftovers, wait_until};

/// What an interruption leaves in a log.
const TOLD: &[&str] = &[" WARN "];

/// Tables of each kind. The COPY of a gated one waits on the target as long as somebody holds its lock there: a constraint
/// asks for it. Foreign keys go from tables that are copied late to tables that are copied early, and back.
const TABLES: &str = "
    create function public.gate(int, int) returns bool immutable language plpgsql as
      $$ begin perform pg_advisory_xact_lock_shared($1); return true; end $$;
    create table public.marks (mark int primary key);
    create table public.early (id int primary key, v text);
    create table public.late (id int primary key check (public.gate(41, id)), early_id int references public.early, v text);
    create table public.last (id int primary key check (public.gate(42, id)), late_id int references public.late, v text);
    create table public.doomed (id int primary key check (public.gate(42, id)), v text);
    alter table public.early add column last_id int references public.last deferrable;
    create table public.moving (id int, part text, v int, primary key (id, part)) partition by list (part);
    create table public.moving_a partition of public.moving for values in ('a');
    create table public.moving_b partition of public.moving (check (public.gate(41, id))) for values in ('b');
    create materialized view public.counted as
        select e.v, count(l.id) from public.early e left join public.late l on l.early_id = e.id group by e.v;
    create unique index on public.counted (v);
    create function public.stamp() returns trigger language plpgsql as $$ begin new.v := new.v || '!'; return new; end $$;
    create trigger stamp before insert or update on public.early for each row execute function public.stamp();
    alter table public.early enable always trigger stamp;
    insert into public.early select g, 'v' || g % 7 from generate_series(1, 50) g;
    insert into public.late select g, g, 'late' from generate_series(1, 50) g;
    insert into public.last select g, g, 'last' from generate_series(1, 50) g;
    insert into public.doomed select g, 'doomed' from generate_series(1, 50) g;
    insert into public.moving select g, case g % 2 when 0 then 'a' else 'b' end, g from generate_series(1, 50) g;
    refresh materialized view public.counted;
    select lo_from_bytea(800000 + g, decode(repeat('ab', g), 'hex')) from generate_series(1, 5) g;";

/// Changes of every kind to all of them, `round` by round.
fn change(following: &Following, round: i32) {
    let id = 1000 * round;
    following.source.psql(
        &following.db,
        &format!(
            "begin;
             insert into early values ({id}, 'new', null);
             insert into late values ({id}, {id}, 'new');
             insert into last values ({id}, {id}, 'new');
             update early set last_id = {id} where id in ({id}, {round});
             commit;
             update late set v = 'changed', early_id = {id} where id = {round};
             update last set id = {id} + 1, v = 'moved' where id = {round};
             delete from last where id = {round} + 10;
             delete from late where id = {round} + 20 and not exists (select from last where late_id = late.id);
             update moving set part = case part when 'a' then 'b' else 'a' end, v = v + 1 where id % 5 = {round} % 5;
             insert into moving values ({id}, 'a', 1), ({id} + 1, 'b', 2);
             insert into doomed values ({id}, 'new'); update doomed set v = 'changed' where id = {round};
             delete from doomed where id = {round} + 10;
             refresh materialized view counted;"
        ),
    );
}

/// Materialized views are refreshed where the tables meet; what comes after is the user's to refresh.
fn refresh_both(following: &Following) {
    let sql = "refresh materialized view public.counted";
    following.source.psql(&following.db, sql);
    following.target.psql(&following.copy, sql);
}

/// Hold a gate of the target.
fn close_gates(following: &Following, locks: &[i32]) -> Client {
    let mut gate = following.target.client(&following.copy);
    for lock in locks {
        gate.batch_execute(&format!("select pg_advisory_lock({lock})"))
            .unwrap();
    }
    gate
}

/// Until every table is copied but those that wait at this many gates.
#[track_caller]
fn wait_at_gates(following: &Following, run: &mut Running, gates: &str, tables_done: usize) {
    wait_until(SOON, "the copy to wait at its gates", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                       and database = (select oid from pg_database where datname = current_database())";
        following.on_target(waiting) == gates && tables(following).len() >= tables_done
    });
}

/// Done-files of whole tables.
fn tables(following: &Following) -> Vec<TableDone> {
    let folder = following.scene.work_dir().join("run/tables");
    let done = read_directory::<TableDone>(&folder, ".done").unwrap_or_default();
    let mut done: Vec<TableDone> = done.into_values().filter(|it| it.part.is_none()).collect();
    done.sort_by_key(|table| table.oid);
    done
}

/// kill -9 of every process of the run, all at once.
#[track_caller]
fn kill_all(following: &Following, run: Running) -> Outcome {
    for process in run.processes() {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    let outcome = run.wait_deadline(SOON);
    outcome.assert_signalled(Signal::SIGKILL);
    // Queues are the next run's to remove.
    leftovers::assert_no_process(|| following.scene.processes());
    outcome
}

fn cdc(following: &Following) -> PathBuf {
    following.scene.work_dir().join("cdc")
}

/// Resume, and end at this fault point.
#[track_caller]
fn resume_until(following: &Following, failpoint: &str) -> Outcome {
    let run = following
        .command(&["clone", "--follow", "--resume"], &["--table-jobs", "4"])
        .env("PGCOPYDB_FAILPOINT", failpoint)
        .spawn();
    let outcome = run.wait_deadline(SOON);
    assert!(
        !outcome.status.success(),
        "{failpoint} was not reached:\n{}",
        outcome.stderr
    );
    leftovers::assert_no_process(|| following.scene.processes());
    outcome
}

/// A copy that was killed with two gated tables and a gated partition left, while they and all others were changed.
fn killed_at_the_gates<'a>(
    pair: (&'a Cluster, &'a Cluster),
    plugin: &'static str,
) -> Following<'a> {
    let following = Following::of(pair, plugin, TABLES);
    let gates = close_gates(&following, &[41, 42]);
    let mut run = following.clone_follow(&["--table-jobs", "6"]);
    wait_at_gates(&following, &mut run, "4", 3);
    for round in 1..4 {
        change(&following, round);
    }
    kill_all(&following, run);
    drop(gates);
    following
}

#[track_caller]
fn assert_no_temporary_slot(following: &Following) {
    let sql = "select count(*) from pg_replication_slots where database = current_database() and slot_name like 'pgcopydb_resume%'";
    wait_until(SOON, "the temporary slot to be gone", || {
        following.on_source(sql) == "0"
    });
}

/// L0, L1 and L2: what is complete is not touched again, all else is copied as of later positions, and the end is the source.
#[track_caller]
fn survives_two_kills<'a>(pair: (&'a Cluster, &'a Cluster), plugin: &'static str) {
    let following = killed_at_the_gates(pair, plugin);
    let complete = tables(&following);
    change(&following, 4);
    let gate = close_gates(&following, &[42]);
    let mut run = following.resume(&["--table-jobs", "6"]);
    wait_at_gates(&following, &mut run, "2", complete.len() + 2);
    assert_no_temporary_slot(&following);
    for round in 5..8 {
        change(&following, round);
    }
    // Tables of three positions, each alone or with others.
    following.source.psql(
        &following.db,
        "truncate early, late, last; insert into early values (1, 'after', null); insert into late values (1, 1, 'after');
         insert into last values (1, 1, 'after'); truncate moving; insert into moving values (1, 'a', 1), (2, 'b', 2)",
    );
    change(&following, 8);
    kill_all(&following, run);
    drop(gate);
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    change(&following, 9);
    following.wait_for_mark(&mut run);
    let done = tables(&following);
    assert!(complete.iter().all(|table| done.contains(table)));
    let mut positions: Vec<_> = done.iter().map(|table| table.snapshot_lsn).collect();
    positions.sort();
    positions.dedup();
    assert_eq!(positions.len(), 3, "{done:#?}");
    assert_no_temporary_slot(&following);
    refresh_both(&following);
    following.cut_over(run, TOLD);
    assert!(meeting::is_over(&cdc(&following)).unwrap());
}

#[test]
fn killed_twice_with_test_decoding() {
    survives_two_kills(shared(Version::Debian15), "test_decoding");
}

#[test]
fn killed_twice_with_pgoutput() {
    survives_two_kills(shared(Version::Pg17), "pgoutput");
}

/// Its TRUNCATE of several tables comes table by table.
#[test]
fn killed_twice_with_wal2json() {
    survives_two_kills(shared(Version::Debian15), "wal2json");
}

#[test]
fn killed_twice_from_15_to_18() {
    let target = start(Version::Pg18);
    survives_two_kills((shared(Version::Debian15).0, &target), "pgoutput");
}

/// Without the skip rule rows would be applied twice; with foreign keys at once they would be refused. Shown by taking away
/// what the clone has noted, and by giving it back.
#[test]
fn neither_rule_can_be_done_without() {
    let following = killed_at_the_gates(shared(Version::Debian15), "test_decoding");
    resume_until(&following, "clone.before_waiting=kill");
    let dir = cdc(&following);
    let noted: Vec<(PathBuf, Vec<u8>)> = [meeting::MEETING, meeting::TABLES]
        .map(|name| dir.join(name))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .to_vec();
    let give_back = || {
        for (path, bytes) in &noted {
            std::fs::write(path, bytes).unwrap();
        }
    };
    // Table "late" refers to rows of "early" that came after its position.
    meeting::forget(&dir).unwrap();
    let outcome = following.resume(&[]).wait_deadline(SOON);
    outcome.assert_failure(4, &["late_early_id_fkey", "23503"]);
    assert!(!following.is_apply_enabled());
    give_back();
    meeting::note_tables(&dir, &[]).unwrap();
    let outcome = following.resume(&[]).wait_deadline(SOON);
    outcome.assert_failure(4, &["duplicate key", "23505"]);
    give_back();
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    following.cut_over(run, TOLD);
}

/// Fault points of a resume, in the order in which a run comes by.
const STEPS: [&str; 12] = [
    "clone.resume_slot",
    "clone.resume_noted",
    "copy.after_commit",
    "copy.after_done_file",
    "clone.noted_tables",
    "clone.before_waiting",
    "apply.before_commit",
    "apply.after_commit",
    "clone.before_restore_post",
    "clone.after_restore_post",
    "clone.before_summary",
    "online.before_forget",
];

/// At each durable step of the resume, one after the other, with changes between them.
#[test]
fn killed_at_each_step_of_the_resume_it_goes_on() {
    let following = killed_at_the_gates(shared(Version::Debian15), "pgoutput");
    let complete = tables(&following);
    for (round, point) in STEPS.iter().enumerate() {
        change(&following, 4 + round as i32);
        resume_until(&following, &format!("{point}=kill"));
        assert_no_temporary_slot(&following);
        let done = tables(&following);
        assert!(complete.iter().all(|table| done.contains(table)), "{point}");
    }
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    refresh_both(&following);
    following.cut_over(run, TOLD);
}

/// Interleaved transactions of an application, and every process killed twice at some moment of the copy.
#[test]
fn killed_under_load_it_loses_nothing() {
    let following = Following::new(shared(Version::Debian15), "test_decoding", |source, db| {
        source.psql(
            db,
            &TABLES.replace("create table public.marks (mark int primary key);", ""),
        );
        workload::create(source, db, true);
    });
    let load = Workload::start(following.source, &following.db);
    for (locks, gates) in [(&[41, 42][..], "4"), (&[42], "2")] {
        let held = close_gates(&following, locks);
        let mut run = following
            .command(&["clone", "--follow", "--resume"], &["--table-jobs", "8"])
            .spawn();
        wait_at_gates(&following, &mut run, gates, 0);
        load.wait_for(60);
        change(&following, gates.parse().unwrap());
        kill_all(&following, run);
        drop(held);
    }
    let mut run = following.resume(&[]);
    following.wait_for_apply(&mut run);
    load.allow_truncate();
    following.wait_for_mark(&mut run);
    load.wait_for(100);
    load.finish();
    following.wait_for_mark(&mut run);
    refresh_both(&following);
    following.cut_over(run, TOLD);
}

/// A transaction whose end is not known at its begin, on tables of two positions, and one more that is rolled back.
#[test]
fn a_large_transaction_is_decided_at_its_end() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", TABLES);
    let gates = close_gates(&following, &[41, 42]);
    let mut run = following.clone_follow(&["--table-jobs", "6"]);
    wait_at_gates(&following, &mut run, "4", 3);
    let mut open = following.source.client(&following.db);
    open.batch_execute(
        "begin; insert into early select g, repeat('x', 1000) from generate_series(10001, 15000) g;
         insert into late select g, g, repeat('y', 1000) from generate_series(10001, 15000) g",
    )
    .unwrap();
    following.source.psql(
        &following.db,
        "begin; insert into late select g, 1, repeat('z', 1000) from generate_series(20001, 26000) g;
         delete from late where id between 20001 and 20100; commit",
    );
    kill_all(&following, run);
    drop(gates);
    // It waits for this transaction, and says so.
    let mut run = following.resume(&[]);
    wait_until(SOON, "a word about who is waited for", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr()
            .contains("the replication slot waits for a transaction on the source")
    });
    open.batch_execute("truncate moving; commit").unwrap();
    following.wait_for_mark(&mut run);
    refresh_both(&following);
    following.cut_over(run, TOLD);
}

/// A restart of the source takes the snapshot away in the middle of the copy.
#[test]
fn the_source_restarts_in_the_middle_of_the_copy() {
    let source = start(Version::Debian15);
    let following = Following::of((&source, shared(Version::Debian15).1), "pgoutput", TABLES);
    let gates = close_gates(&following, &[41, 42]);
    let run = &mut following.clone_follow(&["--table-jobs", "2"]);
    wait_until(SOON, "the copy to wait", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                       and database = (select oid from pg_database where datname = current_database())";
        following.on_target(waiting) == "2"
    });
    source.restart_immediate();
    change(&following, 1);
    drop(gates);
    wait_until(SOON, "the run to end", || !run.is_running());
    let log = run.stderr();
    assert!(log.contains("does not exist any more"), "{log}");
    assert!(
        log.contains("run again with --resume,") && !log.contains("--not-consistent"),
        "{log}"
    );
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    refresh_both(&following);
    following.cut_over(run, TOLD);
}

/// The target is no copy of any moment before its tables meet. And what the user says about applying is his to say.
#[test]
fn an_end_before_the_tables_meet_is_refused() {
    let following = killed_at_the_gates(shared(Version::Debian15), "test_decoding");
    following.set_endpos_current();
    let outcome = following.resume(&[]).wait_deadline(SOON);
    outcome.assert_last_error(3, &["cannot end at", "consistent from there on only"]);
    assert!(
        outcome.stderr.contains("set endpos --current"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("set a later one"),
        "{}",
        outcome.stderr
    );
    following.scene.assert_nothing_left(&outcome);
    following.sentinel_command(&["set", "prefetch"]);
    following.set_endpos_current();
    following
        .source
        .psql(&following.db, "update late set v = 'later' where id < 9");
    let mut run = following.resume(&[]);
    wait_until(SOON, "a word that nothing is applied", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr()
            .contains("applying changes was disabled before")
    });
    let foreign_keys = "select count(*) from pg_constraint where contype = 'f'";
    assert_eq!(following.on_target(foreign_keys), "0");
    following.set_endpos_current();
    following.sentinel_command(&["set", "apply"]);
    // The end position is reached before the clone is complete.
    let outcome = following.ends_well(run, TOLD);
    let log = &outcome.stderr;
    let (met, post) = (
        log.find("where all tables meet: applying waits"),
        log.find("restoring post "),
    );
    assert!(met.is_some() && met < post, "{log}");
}

/// Room for the slot that a resume needs is looked for at the start, and asked for when it is needed.
#[test]
fn without_a_spare_slot_it_warns_and_later_refuses() {
    let source = Cluster::start(
        Version::Debian15,
        &[("max_replication_slots", "1"), ("wal_level", "logical")],
    );
    let following = Following::of(
        (&source, shared(Version::Debian15).1),
        "test_decoding",
        TABLES,
    );
    let gates = close_gates(&following, &[41, 42]);
    let mut run = following.clone_follow(&["--table-jobs", "6"]);
    wait_at_gates(&following, &mut run, "4", 3);
    let outcome = kill_all(&following, run);
    assert!(
        outcome
            .stderr
            .contains("no replication slot is free beside our own, of 1"),
        "{}",
        outcome.stderr
    );
    drop(gates);
    let outcome = following.resume(&[]).wait_deadline(SOON);
    outcome.assert_last_error(
        6,
        &[
            "cannot take another snapshot",
            "no replication slot is free, of 1",
            "max_replication_slots",
        ],
    );
    source.configure(&[("max_replication_slots", "2")]);
    source.restart_immediate();
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    following.cut_over(run, TOLD);
}

/// A slot that is gone has taken changes with it.
#[test]
fn without_its_slot_a_copy_is_not_resumed() {
    let following = killed_at_the_gates(shared(Version::Debian15), "test_decoding");
    wait_until(SOON, "the slot to be free", || {
        following.slot("active") == "false"
    });
    following.on_source(&format!(
        "select pg_drop_replication_slot('{}')",
        following.name
    ));
    let outcome = following.resume(&[]).wait_deadline(SOON);
    outcome.assert_last_error(6, &["is gone from the source: changes may be lost"]);
    assert!(outcome.stderr.contains("--restart"), "{}", outcome.stderr);
    following.clean_up();
}

/// Nothing of it can be copied any more, and nobody misses its rows.
#[test]
fn a_table_that_is_dropped_before_it_is_copied_does_no_harm() {
    let following = killed_at_the_gates(shared(Version::Debian15), "pgoutput");
    following.source.psql(
        &following.db,
        "update doomed set v = 'in vain'; drop table doomed",
    );
    let mut run = following.resume(&[]);
    let foreign_keys = "select count(*) from pg_constraint where contype = 'f'";
    following.wait_on_target(&mut run, foreign_keys, "3");
    following.wait_for_mark(&mut run);
    following.target.psql(&following.copy, "drop table doomed");
    let outcome = following.cut_over(run, TOLD);
    let told = "table \"public\".\"doomed\" was dropped or renamed on the source";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
}

/// Killed before the first row is copied, each time: nothing is as of the slot's own position then.
#[test]
fn killed_before_any_row_is_copied_it_goes_on() {
    let following = Following::of(shared(Version::Debian15), "test_decoding", TABLES);
    for (round, point) in [
        "clone.after_dump=kill",
        "clone.before_restore_pre=kill",
        "clone.after_restore_pre=kill",
        "copy.started@copy worker=kill",
    ]
    .iter()
    .enumerate()
    {
        resume_until(&following, point);
        change(&following, 1 + round as i32);
    }
    let mut run = following.resume(&[]);
    following.wait_for_mark(&mut run);
    refresh_both(&following);
    following.cut_over(run, TOLD);
}

const OF_INSTANCE: &str = "
    create table a (id int primary key, v text); create table b (id int primary key, a_id int references a);
    create table c (id int primary key, b_id int references b);
    insert into a select g, 'v' from generate_series(1, 100) g; insert into b select g, g from generate_series(1, 100) g;
    insert into c select g, g from generate_series(1, 100) g";

/// Each database has its own positions, and meets by itself.
#[test]
fn every_database_of_an_instance_is_resumed() {
    let (source, target) = (start(Version::Debian15), start(Version::Debian15));
    let databases = ["one", "two"];
    for db in databases {
        source.psql("postgres", &format!("create database {db}"));
        source.psql(db, OF_INSTANCE);
    }
    let scene = Scene::new();
    let dir = scene.work_dir();
    let (from, to) = (source.uri("postgres"), target.uri("postgres"));
    let clone = |more: &[&str]| {
        let mut args = vec!["clone", "--all-databases", "--follow", "--table-jobs", "2"];
        args.extend([
            "--source",
            &from,
            "--target",
            &to,
            "--dir",
            dir.to_str().unwrap(),
        ]);
        args.extend(more);
        scene.command(args)
    };
    // One worker is slow with its table; the other copies all that there are.
    let mut run = clone(&[])
        .env(
            "PGCOPYDB_FAILPOINT",
            "copy.before_commit@copy worker 1=sleep:60000",
        )
        .spawn();
    let done = || -> usize {
        let folders = databases.map(|db| dir.join("databases").join(db).join("run/tables"));
        let counts = folders.iter().map(|folder| {
            read_directory::<TableDone>(folder, ".done").map_or(0, |done| done.len())
        });
        counts.sum()
    };
    wait_until(SOON, "all tables but one", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        done() == 5
    });
    let change = |id: i32| {
        for db in databases {
            source.psql(
                db,
                &format!(
                    "begin; insert into a values ({id}, 'new'); insert into b values ({id}, {id}); insert into c values ({id}, {id});
                     commit; update a set v = 'changed' where id = {id} - 1000; delete from c where id = {id} - 999"
                ),
            );
        }
    };
    change(1001);
    for process in run.processes() {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    let killed = run.wait_deadline(SOON);
    leftovers::assert_no_process(|| scene.processes());
    change(1002);
    let mut run = clone(&["--resume"]).spawn();
    for db in databases {
        wait_until(SOON, "foreign keys", || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            target.value(db, "select count(*) from pg_constraint where contype = 'f'") == "2"
        });
    }
    change(1003);
    for db in ["one", "two", "postgres"] {
        let (uri, dir) = (source.uri(db), dir.join("databases").join(db));
        let words = ["stream", "sentinel", "set", "endpos", "--current"];
        let place = ["--source", &uri, "--dir", dir.to_str().unwrap()];
        scene
            .command(words.iter().chain(&place))
            .run()
            .assert_success(&[]);
    }
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(TOLD);
    assert!(
        outcome.stderr.contains("where all tables meet"),
        "{}",
        outcome.stderr
    );
    scene.assert_nothing_left(&outcome);
    leftovers::assert_no_queue(&killed.pids);
    for db in databases {
        // The sentinel of each is still there.
        let sum = "select (select sum(hashtext(t::text)) from a t), (select sum(hashtext(t::text)) from b t),
                   (select sum(hashtext(t::text)) from c t)";
        assert_eq!(source.rows(db, sum), target.rows(db, sum), "{db}");
    }
}
