//! `clone --follow` that is interrupted before all rows are read, and resumed in another snapshot: tables stand at different
//! positions for a while, and in the end the target is the source. Trap 47.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcopydb::stream::meeting;
use pgcopydb::workdir::done::{TableDone, read_directory};
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::cmd::{Outcome, Running};
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
    insert into public.moving select g, case g % 2 when 0 then 'a' else 'b' end, g from generate_series(1, 50) g;
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
             refresh materialized view counted;"
        ),
    );
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
    following.scene.assert_nothing_left(&outcome);
    outcome
}

/// A copy that was killed with two gated tables and a gated partition left, while they and all others were changed.
fn killed_at_the_gates(
    pair: (&'static Cluster, &'static Cluster),
    plugin: &'static str,
) -> Following<'static> {
    let following = Following::of(pair, plugin, TABLES);
    let gates = close_gates(&following, &[41, 42]);
    let mut run = following.clone_follow(&["--table-jobs", "6"]);
    wait_at_gates(&following, &mut run, "3", 3);
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
fn survives_two_kills(pair: (&'static Cluster, &'static Cluster), plugin: &'static str) {
    let following = killed_at_the_gates(pair, plugin);
    let complete = tables(&following);
    change(&following, 4);
    let gate = close_gates(&following, &[42]);
    let mut run = following.resume(&["--table-jobs", "6"]);
    wait_at_gates(&following, &mut run, "1", complete.len() + 2);
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
    following
        .source
        .psql(&following.db, "refresh materialized view counted");
    // Matviews are refreshed where the tables meet; then they are the user's to refresh.
    following.wait_for_mark(&mut run);
    following
        .target
        .psql(&following.copy, "refresh materialized view counted");
    following.cut_over(run, TOLD);
    assert!(meeting::is_over(&cdc(&following)).unwrap());
}

#[test]
fn killed_twice_with_test_decoding() {
    survives_two_kills(shared(Version::Debian15), "test_decoding");
}
