//! What one change does to one row of the target: identities, unchanged values, keys that move, triggers, tables that are
//! not there. Each with every plugin where the plugin makes the difference.

use crate::support::cmd::{Outcome, Running};
use crate::support::following::{Following, SOON, shared};
use crate::support::version::Version;
use crate::support::wait_until;
use crate::support::workload::{self, Workload};

const PLUGINS: [&str; 3] = ["test_decoding", "wal2json", "pgoutput"];
const MARKS: &str = "create table public.marks (mark int primary key);";

fn of(plugin: &'static str, sql: &str) -> Following<'static> {
    Following::of(shared(Version::Debian15), plugin, &format!("{MARKS}{sql}"))
}

/// Copy `before`, follow `changes` (one transaction), cut over, compare. Debian's wal2json 2.5 is refused for tables with
/// float or numeric columns.
#[track_caller]
fn replicates(before: &str, changes: &str) {
    let is_ambiguous = before.contains("float") || before.contains("numeric");
    let plugins = PLUGINS
        .into_iter()
        .filter(|plugin| !(is_ambiguous && *plugin == "wal2json"));
    for plugin in plugins {
        let following = of(plugin, before);
        let mut run = following.clone_and_apply(&[]);
        following.source.psql(&following.db, changes);
        following.wait_for_mark(&mut run);
        following.cut_over(run, &[]);
    }
}

/// The run ended with a failure and left no process; the log has all of `texts`.
#[track_caller]
fn fails(following: &Following, run: Running, texts: &[&str]) -> Outcome {
    let outcome = run.wait_deadline(SOON);
    let log = &outcome.stderr;
    assert!(!outcome.status.success(), "{log}");
    for text in texts {
        assert!(log.contains(text), "no \"{text}\" in the log:\n{log}");
    }
    following.scene.assert_nothing_left(&outcome);
    outcome
}

/// Traps 16, 17.
#[test]
fn values_out_of_line_that_did_not_change_stay() {
    replicates(
        "create table t (id int primary key, n int, big text, other text);
         alter table t alter big set storage external, alter other set storage external;
         insert into t select g, 0, repeat(md5(g::text), 500), repeat('o', 9000) from generate_series(1, 9) g;
         create table f (id int, n int, big text); alter table f replica identity full;
         alter table f alter big set storage external;
         insert into f select g / 2, 0, repeat(md5(g::text), 500) from generate_series(1, 9) g",
        "update t set n = 1 where id < 3; update t set id = 100 where id = 3; update t set big = null where id = 4;
         update t set n = 1, other = 'short' where id = 5; update t set n = 2 where id = 5;
         update t set big = 'unchanged-toast-datum' where id = 6; update t set id = id where id = 7;
         update f set n = 1 where ctid in (select ctid from f where id = 1 limit 1);
         delete from f where ctid in (select ctid from f where id = 2 limit 1)",
    );
}

/// Traps 18, 19, 20, 21: keys that change, NULLs and equal rows under FULL, types without equality.
#[test]
fn rows_are_found_by_every_identity() {
    replicates(
        "create table composite (a int, b text, v int, primary key (b, a));
         insert into composite select g % 3, 'b' || g, 0 from generate_series(1, 9) g;
         create table by_index (a int not null, v text); create unique index by_index_a on by_index (a);
         alter table by_index replica identity using index by_index_a; insert into by_index values (1, 'x'), (2, null);
         create table twins (a int, b text, f float, j json, p point, x xml); alter table twins replica identity full;
         insert into twins select 1, null, '-0', '{\"a\": 1}', '(1,2)', '<a/>' from generate_series(1, 5);
         insert into twins values (1, null, '0', '{\"a\": 1}', '(1,2)', '<a/>'), (1, 'null', 'NaN', null, null, null)",
        "update composite set a = a + 10 where b = 'b1'; update composite set b = 'b2 it''s' where b = 'b2';
         update composite set v = v where true; delete from composite where b = 'b3';
         update by_index set a = 3 where a = 1; update by_index set v = 'y' where a = 2; delete from by_index where a = 3;
         insert into by_index values (3, 'again');
         delete from twins where ctid = (select max(ctid) from twins where f::text = '-0');
         update twins set b = 'one' where ctid = (select max(ctid) from twins where f::text = '-0');
         update twins set f = 1 where f = 'NaN'; delete from twins where f::text = '0'",
    );
}

/// Traps 21, 25: order counts where the same key comes again, and unique values change places.
#[test]
fn changes_of_one_key_keep_their_order() {
    replicates(
        "create table t (id int primary key, v text); insert into t select g, 'old' from generate_series(1, 20) g;
         create table places (id int primary key, pos int unique deferrable initially deferred);
         insert into places select g, g from generate_series(1, 9) g;
         create table numbers (k numeric primary key, v int); insert into numbers values (1, 0), (2, 0)",
        "delete from t where id < 9; insert into t select g, 'new' from generate_series(1, 9) g on conflict do nothing;
         update t set v = v || '!' where id < 5; update t set v = v || '?' where id < 3; delete from t where id = 2;
         insert into t values (2, 'third'); update t set id = -1 where id = 10; update t set id = 10 where id = 11;
         update t set id = 11 where id = -1; update places set pos = 10 - pos;
         update numbers set k = 1.00 where k = 1; update numbers set v = 1 where k = 1.0; delete from numbers where k = 2.0;
         insert into numbers values (2.000, 7)",
    );
}

/// Traps 23, 24, 26: columns that the server fills in; TRUNCATE of just the tables named; rows that change partition.
#[test]
fn generated_columns_truncates_and_partitions() {
    replicates(
        "create table g (id int generated always as identity primary key, a int, b int generated always as (a + 1) stored);
         insert into g (a) select generate_series(1, 9);
         create table a (id serial primary key); create table b (id int primary key references a); insert into a default values;
         create table kept (id serial primary key); insert into kept default values; create table kid (primary key (id)) inherits (kept);
         insert into kid default values;
         create table p (k int, v text, primary key (k)) partition by range (k);
         create table p1 partition of p for values from (0) to (10); create table p2 partition of p default;
         insert into p select n, 'v' from generate_series(1, 20) n",
        "insert into g (a) values (100); update g set a = 5 where id = 1; insert into g overriding system value values (77, 1);
         delete from g where id = 2; insert into a default values; truncate a, b restart identity; insert into a default values;
         truncate only kept; update p set k = k + 100 where k = 3; update p set k = 3 where k = 15; truncate p2;
         insert into p values (200, 'after')",
    );
}

/// Traps 14, 40: a trigger that fires always does not while we apply, and is as it was afterwards.
#[test]
fn triggers_that_fire_always_wait_for_the_end() {
    let following = of(
        "pgoutput",
        "create table t (id int primary key); create table log (id serial primary key, what int);
         create function note() returns trigger language plpgsql as
           $$ begin insert into public.log (what) values (new.id); return null; end $$;
         create trigger always after insert on t for each row execute function note();
         alter table t enable always trigger always;
         create rule also as on insert to marks do also insert into log (what) values (-1);
         alter table marks enable always rule also",
    );
    let mut run = following.clone_and_apply(&[]);
    following
        .source
        .psql(&following.db, "insert into t select generate_series(1, 10)");
    following.wait_for_mark(&mut run);
    assert_eq!(
        following.on_target("select count(*) from log where what > 0"),
        "10"
    );
    // Both sides are compared with their triggers' and rules' states.
    following.cut_over(run, &[]);
}

/// The way that a failed batch falls back to gives the same as any other.
#[test]
fn row_by_row_gives_the_same() {
    let following = Following::new(shared(Version::Pg17), "test_decoding", |source, db| {
        workload::create(source, db, true);
    });
    let load = Workload::start(following.source, &following.db);
    let mut run = following.clone_and_apply(&["--apply-mode", "rows"]);
    load.allow_truncate();
    load.wait_for(300);
    load.finish();
    following.wait_for_mark(&mut run);
    following.cut_over(run, &[]);
}

/// Somebody has changed the target: that is told with the key, and the exit code says so too. What else was changed is
/// applied all the same.
#[test]
fn changes_that_meet_no_row_are_told_with_their_key() {
    for plugin in PLUGINS {
        let following = of(
            plugin,
            "create table t (id int primary key, v text); insert into t select generate_series(1, 9)",
        );
        let mut run = following.clone_and_apply(&[]);
        following
            .target
            .psql(&following.copy, "delete from t where id in (4, 5)");
        following.source.psql(
            &following.db,
            "update t set v = 'new'; delete from t where id = 5",
        );
        following.wait_for_mark(&mut run);
        assert_eq!(
            following.on_target("select count(*) from t where v = 'new'"),
            "7"
        );
        following.set_endpos_current();
        let outcome = fails(&following, run, &["3 updates or deletes met no row"]);
        for key in ["4", "5"] {
            let names_it = |line: &str| {
                line.contains(" WARN ") && line.contains("\"t\"") && line.contains(key)
            };
            assert!(
                outcome.stderr.lines().any(names_it),
                "no key {key} in {}",
                outcome.stderr
            );
        }
        // Whoever resumes is told again, though nothing is left to be applied.
        let again = following.resume(&[]).wait_deadline(SOON);
        again.assert_last_error(7, &["3 updates or deletes met no row"]);
        following.clean_up();
    }
}

/// A kill does not make them forgotten, whether it comes before the commit that passes them or after it.
#[test]
fn changes_that_met_no_row_are_remembered() {
    for point in ["apply.before_commit=kill:2", "apply.after_commit=kill:2"] {
        let following = of(
            "pgoutput",
            "create table t (id int primary key, v text); insert into t select generate_series(1, 9)",
        );
        let mut run = following.clone_and_apply(&[]);
        following.wait_for_mark(&mut run);
        run.term();
        run.wait_deadline(SOON);
        following
            .target
            .psql(&following.copy, "delete from t where id = 4");
        let mut run = following
            .command(&["clone", "--follow", "--resume"], &[])
            .env("PGCOPYDB_FAILPOINT", point)
            .spawn();
        following.wait_for_mark(&mut run);
        following
            .source
            .psql(&following.db, "update t set v = 'new' where id = 4");
        let outcome = run.wait_deadline(SOON);
        outcome.assert_failure(12, &["apply", "was terminated by SIGKILL"]);
        let mut run = following.resume(&[]);
        following.wait_for_mark(&mut run);
        following.set_endpos_current();
        let outcome = run.wait_deadline(SOON);
        outcome.assert_failure(
            7,
            &["1 updates or deletes met no row", "compare data --rows"],
        );
        following.clean_up();
    }
}

/// Trap 28: DDL is not replicated; nothing is lost until somebody has done it by hand.
#[test]
fn a_new_table_or_column_stops_the_run_with_its_name() {
    let table = "create table later (id int primary key, v text)";
    let column = "alter table t add column later int";
    for (plugin, ddl, change) in [
        ("test_decoding", table, "insert into later values (1, 'a')"),
        ("test_decoding", column, "insert into t values (1, 'a', 2)"),
        ("wal2json", table, "insert into later values (1, 'a')"),
        ("pgoutput", column, "insert into t values (1, 'a', 2)"),
    ] {
        let following = of(plugin, "create table t (id int primary key, v text)");
        let run = following.clone_and_apply(&[]);
        following.source.psql(&following.db, ddl);
        following.source.psql(&following.db, change);
        fails(&following, run, &["\"later\"", "--resume"]);
        following.target.psql(&following.copy, ddl);
        let mut run = following.resume(&[]);
        following.wait_for_mark(&mut run);
        following.cut_over(run, &[" WARN "]);
    }
}

/// A publication lists the tables that it began with: a new one is not decoded, which must not end with 0.
#[test]
fn a_new_table_that_is_not_published_is_noticed() {
    let following = of("pgoutput", "create table t (id int primary key)");
    let run = following.clone_and_apply(&[]);
    // The application's own statements go on working.
    let sql = "create table later (id int); insert into later values (1); update later set id = 2";
    following.source.psql(&following.db, sql);
    following.set_endpos_current();
    fails(&following, run, &["later"]);
    following.clean_up();
}

/// Trap 21: without an identity only inserts can be replicated, and only by test_decoding. Refused before anything is
/// made, since a publication would make the application's own UPDATE fail.
#[test]
fn tables_without_identity() {
    for plugin in ["wal2json", "pgoutput"] {
        let following = of(plugin, "create table nameless (a int)");
        let run = following.clone_follow(&[]);
        fails(
            &following,
            run,
            &["nameless", "REPLICA IDENTITY", "test_decoding"],
        );
        following.assert_nothing_left();
    }
    let following = of("test_decoding", "create table nameless (a int)");
    let mut run = following.clone_and_apply(&[]);
    following
        .source
        .psql(&following.db, "insert into nameless values (1), (null)");
    following.wait_for_mark(&mut run);
    following
        .source
        .psql(&following.db, "update nameless set a = 2 where a = 1");
    fails(&following, run, &["nameless"]);
    assert_eq!(following.on_target("select count(*) from nameless"), "2");
    following.clean_up();
}

/// Trap 27: matviews, unlogged and temporary tables never reach apply.
#[test]
fn what_is_no_table_of_the_application_is_left_out() {
    let following = of(
        "test_decoding",
        "create table t (id int primary key); create materialized view m as select count(*) from generate_series(1, 3);
         create unlogged table u (id int primary key)",
    );
    let mut run = following.clone_and_apply(&[]);
    let sql =
        "create temp table x as select 1; insert into x values (2); refresh materialized view m;
        insert into u values (1); delete from u; insert into t values (1)";
    following.source.psql(&following.db, sql);
    following.wait_for_mark(&mut run);
    wait_until(SOON, "the row of the only table", || {
        following.on_target("select count(*) from t") == "1"
    });
    following.cut_over(run, &[]);
}

/// Two rows may have one key for a while, and the server takes such a key for no identity: with FULL all of the old row finds it.
#[test]
fn keys_that_are_swapped_under_a_deferred_constraint() {
    for plugin in ["test_decoding", "pgoutput", "wal2json"] {
        let following = Following::of(
            shared(Version::Debian15),
            plugin,
            "create table t (id int primary key deferrable initially deferred, v text);
             alter table t replica identity full;
             insert into t select i, 'v' || i from generate_series(1, 10) i",
        );
        let mut run = following.clone_and_apply(&[]);
        following.source.psql(
            &following.db,
            "begin; update t set id = 11 - id where id in (1, 10); update t set v = v || '!' where id = 10; commit",
        );
        following.wait_on_target(&mut run, "select v from t where id = 10", "v1!");
        following.cut_over(run, &[]);
    }
}
