//! Objects that cannot be copied: the rest goes on, each is listed at the end with its SQLSTATE, the exit code is not
//! 0, and once the cause is gone a resume completes the copy. With --fail-fast the run ends at once.

use std::time::Duration;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Running, Scene};
use crate::support::compare::{assert_same, differences};
use crate::support::{leftovers, wait_until};

const AGAIN: [&str; 2] = ["--resume", "--not-consistent"];

/// A migration that a test stops, changes and resumes.
struct Story {
    source: &'static Cluster,
    target: &'static Cluster,
    db: String,
    copy: String,
    scene: Scene,
}

impl Story {
    fn new(sql: &str) -> Story {
        let (source, target) = (shared_source(), shared_target());
        let (db, copy) = (source.new_db("failed"), target.new_db("failed"));
        source.psql(&db, sql);
        Story {
            source,
            target,
            db,
            copy,
            scene: Scene::new(),
        }
    }

    fn run(&self, more: &[&str]) -> Outcome {
        let (from, to) = (self.source.uri(&self.db), self.target.uri(&self.copy));
        let outcome = self.scene.clone_db(&from, &to, more).run();
        leftovers::assert_no_queue(&outcome.pids);
        leftovers::assert_no_backend(self.target, &self.copy);
        outcome
    }

    /// Run until `failpoint`.
    fn run_until(&self, failpoint: &str, more: &[&str]) {
        let (from, to) = (self.source.uri(&self.db), self.target.uri(&self.copy));
        self.scene
            .clone_db(&from, &to, more)
            .env("PGCOPYDB_FAILPOINT", format!("{failpoint}=error"))
            .run()
            .assert_last_error(12, &[failpoint]);
    }

    #[track_caller]
    fn assert_same(&self) {
        assert_same(self.source, &self.db, self.target, &self.copy);
    }

    /// What differs, without the details.
    fn differences(&self) -> Vec<String> {
        let both = ((self.source, &*self.db), (self.target, &*self.copy));
        differences(both.0, both.1, &[])
    }

    #[track_caller]
    fn resume_and_compare(&self, more: &[&str]) {
        let outcome = self.run(more);
        outcome.assert_success(&[]);
        self.scene.assert_nothing_left(&outcome);
        self.assert_same();
    }
}

/// `pgcopydb snapshot` for the story's directory, once it holds.
fn hold_snapshot(story: &Story) -> Running {
    let dir = story.scene.work_dir();
    let (from, dir) = (story.source.uri(&story.db), dir.to_str().unwrap());
    let mut holder = story
        .scene
        .command(["snapshot", "--source", &from, "--dir", dir])
        .spawn();
    wait_until(Duration::from_secs(10), "the snapshot", || {
        assert!(holder.is_running(), "{}", holder.stderr());
        story.scene.work_dir().join("snapshot").exists()
    });
    holder
}

/// Trap 28.
#[test]
fn tables_that_change_on_the_source_are_named_and_the_others_copied() {
    let story = Story::new(
        "create table stays as select generate_series(1, 50) a;
         create table is_dropped as select 1 a;
         create table is_renamed as select generate_series(1, 20) a;
         create table is_truncated as select generate_series(1, 20) a;
         create table is_replaced as select generate_series(1, 20) a;
         create table is_rewritten as select generate_series(1, 20) a;
         create table loses_column as select 1 a, 2 b;
         create table gains_column as select generate_series(1, 20) a;
         create index on gains_column (a)",
    );
    let holder = hold_snapshot(&story);
    story.run_until("clone.after_restore_pre", &[]);
    story.source.psql(
        &story.db,
        "drop table is_dropped;
         alter table is_renamed rename to has_another_name;
         truncate is_truncated;
         drop table is_replaced; create table is_replaced as select 7 a;
         alter table is_rewritten alter a type bigint;
         alter table loses_column drop b;
         alter table gains_column add b int default 1; insert into gains_column values (77, 78)",
    );
    let outcome = story.run(&["--resume"]);
    outcome.assert_last_error(4, &["6 objects could not be copied"]);
    for (table, reason) in [
        ("is_dropped", "(source, SQLSTATE 42P01)"),
        ("is_renamed", "(source, SQLSTATE 42P01)"),
        (
            "is_truncated",
            "was truncated, rewritten or replaced on the source",
        ),
        (
            "is_replaced",
            "was truncated, rewritten or replaced on the source",
        ),
        (
            "is_rewritten",
            "was truncated, rewritten or replaced on the source",
        ),
        ("loses_column", "(source, SQLSTATE 42703)"),
    ] {
        let name = format!("\"public\".\"{table}\"");
        let listed = outcome
            .stderr
            .lines()
            .filter(|line| line.contains(" ERROR  table ") && line.contains(&name));
        let listed: Vec<&str> = listed.collect();
        assert_eq!(listed.len(), 1, "{table} in\n{}", outcome.stderr);
        assert!(listed[0].contains(reason), "{}", listed[0]);
        let count = format!("select count(*) from {table}");
        assert_eq!(story.target.value(&story.copy, &count), "0");
    }
    // What the snapshot sees: not the row that came later.
    for (table, rows) in [("stays", "50"), ("gains_column", "20")] {
        let count = format!("select count(*) from {table}");
        assert_eq!(story.target.value(&story.copy, &count), rows);
    }
    // What can be undone is copied by the next run, under the same snapshot.
    story.source.psql(
        &story.db,
        "alter table has_another_name rename to is_renamed",
    );
    story
        .run(&["--resume"])
        .assert_last_error(4, &["5 objects"]);
    let count = "select count(*) from is_renamed";
    assert_eq!(story.target.value(&story.copy, count), "20");
    holder.term();
    holder
        .wait_deadline(Duration::from_secs(10))
        .assert_success(&[]);
}

#[test]
fn a_row_that_the_target_refuses_costs_its_table_only() {
    let story = Story::new(
        "create table good as select generate_series(1, 50) a;
         create table bad (id int primary key, a int);
         insert into bad select g, g from generate_series(1, 50) g;
         create table child (id int references bad);
         insert into child values (3)",
    );
    story.run_until("clone.after_restore_pre", &[]);
    story.target.psql(
        &story.copy,
        "alter table bad add constraint below check (a < 50)",
    );
    let outcome = story.run(&AGAIN);
    let texts = [
        "\"public\".\"bad\"",
        "\"below\"",
        "(target, SQLSTATE 23514)",
    ];
    outcome.assert_last_error(4, &texts);
    assert_eq!(
        story.target.value(&story.copy, "select count(*) from good"),
        "50"
    );
    assert_eq!(
        story.target.value(&story.copy, "select count(*) from bad"),
        "0"
    );
    let summary = std::fs::read_to_string(story.scene.work_dir().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["is_complete"], false);
    assert_eq!(summary["failures"][0]["sqlstate"], "23514");
    assert_eq!(summary["failures"][0]["side"], "target");
    // Something is still to be read, and the snapshot is gone: that is said, not passed over.
    story
        .run(&["--resume"])
        .assert_last_error(3, &["cannot resume consistently"]);
    story
        .target
        .psql(&story.copy, "alter table bad drop constraint below");
    story.resume_and_compare(&AGAIN);
}

/// What is made of the rows of all tables is not made before they are there, and what fires for rows not before either.
#[test]
fn post_data_waits_for_a_table_that_failed() {
    let story = Story::new(
        "create table seen (what text);
         create table bad as select generate_series(1, 40) a;
         create table small as select generate_series(1, 3) a;
         create materialized view summed as select sum(a) from bad;
         create materialized view twice as select 2 * sum from summed;
         create unique index on twice (\"?column?\");
         create function note() returns trigger language plpgsql as
           $$ begin insert into public.seen values (tg_name); return new; end $$;
         create trigger noted after insert on bad for each row execute function note()",
    );
    story.run_until("clone.after_restore_pre", &[]);
    let constraint = "alter table bad add constraint below check (a < 40)";
    story.target.psql(&story.copy, constraint);
    for _ in 0..2 {
        let outcome = story.run(&AGAIN);
        outcome.assert_last_error(4, &["1 objects could not be copied", "\"below\""]);
        let made = "select (select count(*) from pg_trigger) + \
                    (select count(*) from pg_class where relkind = 'm' and relispopulated)";
        assert_eq!(story.target.value(&story.copy, made), "0");
    }
    // For who has to do without the table.
    let dir = story.scene.work_dir();
    let to = story.target.uri(&story.copy);
    let despite = ["restore", "post-data", "--resume", "--despite-failures"];
    let common = ["--target", &to, "--dir", dir.to_str().unwrap()];
    let outcome = story.scene.command(despite.iter().chain(&common)).run();
    outcome.assert_last_error(4, &["\"public\".\"bad\"", "was not copied"]);
    story
        .target
        .psql(&story.copy, "alter table bad drop constraint below");
    // Its foreign keys and views were made of what was there; the resume makes them of all.
    story.resume_and_compare(&AGAIN);
}

/// Rows of different moments, as the user has allowed: what does not fit together is said, not marked as valid.
#[test]
fn a_foreign_key_of_a_table_that_came_later_is_checked() {
    let story = Story::new(
        "create table parent (id int primary key); insert into parent values (1);
         create table child (id int primary key references parent); insert into child values (1)",
    );
    story.run_until("clone.after_restore_pre", &[]);
    let constraint = "alter table child add constraint below check (id < 1)";
    story.target.psql(&story.copy, constraint);
    let outcome = story.run(&AGAIN);
    outcome.assert_last_error(4, &["1 objects could not be copied", "\"below\""]);
    story
        .target
        .psql(&story.copy, "alter table child drop constraint below");
    story.source.psql(
        &story.db,
        "insert into parent values (2); insert into child values (2)",
    );
    let outcome = story.run(&AGAIN);
    outcome.assert_last_error(4, &["child_id_fkey", "(target, SQLSTATE 23503)"]);
    story
        .target
        .psql(&story.copy, "insert into parent values (2)");
    story.resume_and_compare(&["--resume"]);
}

/// Whoever copies rows of a later moment forgets that the sequences were set before, also when he is killed.
#[test]
fn sequences_are_set_again_after_rows_of_a_later_moment() {
    let story = Story::new("create table t (id serial, v int); insert into t (v) values (1)");
    story.run_until("clone.after_restore_pre", &[]);
    let constraint = "alter table t add constraint below check (v < 1)";
    story.target.psql(&story.copy, constraint);
    story.run(&AGAIN).assert_last_error(4, &["\"below\""]);
    story
        .target
        .psql(&story.copy, "alter table t drop constraint below");
    story
        .source
        .psql(&story.db, "insert into t (v) select generate_series(1, 50)");
    story.run_until("clone.before_sequences", &AGAIN);
    story.resume_and_compare(&["--resume"]);
}

#[test]
fn with_fail_fast_the_first_failure_ends_everything() {
    let story = Story::new(
        "create table bad as select 1 a;
         create table slow as select generate_series(1, 5000) a",
    );
    story.run_until("clone.after_restore_pre", &[]);
    story.target.psql(
        &story.copy,
        "alter table bad add constraint below check (a < 1)",
    );
    // Copying this one would take forever.
    let mut lock = story.target.client(&story.copy);
    lock.batch_execute("begin; lock table slow in access share mode")
        .unwrap();
    let outcome = story.run(&["--resume", "--not-consistent", "--fail-fast"]);
    let texts = [
        "could not copy table \"public\".\"bad\"",
        "(target, SQLSTATE 23514)",
    ];
    outcome.assert_last_error(4, &texts);
    assert!(outcome.elapsed < Duration::from_secs(10));
    lock.batch_execute("rollback").unwrap();
    story
        .target
        .psql(&story.copy, "alter table bad drop constraint below");
    story.resume_and_compare(&["--resume", "--not-consistent", "--fail-fast"]);
}

/// A trigger that fires always is the user's will, also here; what it makes of the rows is told by the unique index.
#[test]
fn a_unique_index_that_cannot_be_built_is_built_by_a_resume() {
    let story = Story::new(
        "create table customer (id int primary key, name text not null, constraint one_name unique (name));
         create index plain on customer (id, name);
         create unique index on customer (lower(name));
         insert into customer select g, 'customer ' || g from generate_series(1, 50) g;
         create table invoice (customer text references customer (name));
         insert into invoice values ('customer 3');
         create table other (id int primary key);
         insert into other values (1)",
    );
    story.run_until("clone.after_restore_pre", &[]);
    story.target.psql(
        &story.copy,
        "create function spoil() returns trigger language plpgsql as
           $$ begin if new.id = 2 then new.name := 'customer 1'; end if; return new; end $$;
         create trigger spoil before insert on customer for each row execute function spoil();
         alter table customer enable always trigger spoil",
    );
    let outcome = story.run(&AGAIN);
    outcome.assert_last_error(4, &["objects could not be copied"]);
    for text in [
        "ERROR  index \"public\".\"one_name\": could not build index \"public\".\"one_name\" on target table \"public\".\"customer\"",
        "ERROR  index \"public\".\"customer_lower_idx\": could not build",
        "(target, SQLSTATE 23505)",
        "(target, SQLSTATE 42830)",
    ] {
        assert!(
            outcome.stderr.contains(text),
            "{text} in\n{}",
            outcome.stderr
        );
    }
    // All that could be made is there.
    let indexes =
        "select string_agg(relname, ' ' order by relname) from pg_class where relkind = 'i'
                   and relnamespace = 'public'::regnamespace";
    assert_eq!(
        story.target.value(&story.copy, indexes),
        "customer_pkey other_pkey plain"
    );
    story.target.psql(
        &story.copy,
        "drop trigger spoil on customer; drop function spoil;
         update customer set name = 'customer 2' where id = 2",
    );
    // Nothing is left to read, so no other snapshot is needed.
    story.resume_and_compare(&["--resume"]);
}

#[test]
fn what_pre_data_could_not_make_is_made_by_a_resume() {
    let story = Story::new(
        "create function twice(int) returns int language sql as 'select $1 * 2';
         create table t as select generate_series(1, 20) a;
         create view v as select twice(a) from t;
         comment on view v is 'a view';
         create view w as select * from v;
         create type mood as enum ('good', 'bad');
         create table of_mood (m mood, primary key (m)); insert into of_mood values ('good')",
    );
    story.target.psql(
        &story.copy,
        "create function refuse() returns event_trigger language plpgsql as
           $$ begin raise exception 'no % here', tg_tag using errcode = '0A000'; end $$;
         create event trigger refuse on ddl_command_start when tag in ('CREATE VIEW', 'CREATE TYPE')
           execute function refuse();
         alter event trigger refuse enable always",
    );
    let outcome = story.run(&[]);
    outcome.assert_last_error(4, &["objects could not be copied"]);
    for text in [
        "ERROR  schema object TYPE \"public\".\"mood\": could not restore TYPE \"public\".\"mood\": no CREATE TYPE here",
        "ERROR  schema object VIEW \"public\".\"v\"",
        "(target, SQLSTATE 0A000)",
    ] {
        assert!(
            outcome.stderr.contains(text),
            "{text} in\n{}",
            outcome.stderr
        );
    }
    assert_eq!(
        story.target.value(&story.copy, "select count(*) from t"),
        "20"
    );
    // As long as the cause is there, no resume ends with 0.
    story
        .run(&AGAIN)
        .assert_last_error(4, &["objects could not be copied"]);
    story.target.psql(
        &story.copy,
        "drop event trigger refuse; drop function refuse",
    );
    story.resume_and_compare(&AGAIN);
}

#[test]
fn what_post_data_could_not_make_is_made_by_a_resume() {
    let role = "needed by a view";
    let story = Story::new(&format!(
        "create table t (id int primary key); insert into t select generate_series(1, 20);
         create table child (id int references t); insert into child values (1);
         do $$ begin create role \"{role}\"; exception when duplicate_object then null; end $$;
         create function needs_role() returns int language plpgsql as $$ begin
           if not exists (select from pg_catalog.pg_roles where rolname = '{role}') then
             raise exception 'no role' using errcode = '28000';
           end if;
           return 1; end $$;
         create materialized view m as select public.needs_role() from t;
         create materialized view n as select count(*) from m;
         create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger keeps before insert on t for each row execute function f()"
    ));
    let outcome = story.run(&[]);
    outcome.assert_last_error(
        4,
        &["objects could not be copied", "(target, SQLSTATE 28000)"],
    );
    // The trigger and the foreign key are there, only the views are empty.
    let found = story.differences();
    let is_expected = |line: &String| {
        line.contains("rows of \"public\".\"m\"") || line.contains("rows of \"public\".\"n\"")
    };
    assert!(found.iter().all(is_expected), "{found:#?}");
    story
        .target
        .psql("postgres", &format!("create role \"{role}\""));
    story.resume_and_compare(&["--resume"]);
}

/// However many processes restore: what was there before is not taken for what one of them has made.
#[test]
fn an_object_of_somebody_else_is_not_taken_for_ours() {
    let story = Story::new(
        "create table t (id int primary key);
         create table child (id int references t);
         create publication news for table t, child",
    );
    story.target.psql(&story.copy, "create publication news");
    // Nor by any resume for what an earlier run has made.
    for more in [&[][..], &["--resume"], &["--resume"]] {
        let outcome = story.run(&[&["--restore-jobs", "4"], more].concat());
        outcome.assert_last_error(4, &["1 objects could not be copied", "news", "42710"]);
    }
    story.target.psql(&story.copy, "drop publication news");
    story.resume_and_compare(&["--resume"]);
}

#[test]
fn a_table_that_cannot_be_analyzed_is_named() {
    let story = Story::new(
        "create function picky(int) returns int language plpgsql immutable as $$ begin
           if current_setting('application_name') like '%vacuum%' then
             raise exception 'not today' using errcode = '0A000';
           end if;
           return $1; end $$;
         create table t as select generate_series(1, 20) a;
         create index on t (picky(a));
         create table u as select generate_series(1, 20) a",
    );
    let outcome = story.run(&[]);
    let texts = [
        "could not vacuum table \"public\".\"t\"",
        "not today (target, SQLSTATE 0A000)",
    ];
    outcome.assert_last_error(4, &texts);
    story.assert_same();
    story.resume_and_compare(&["--resume", "--skip-analyze"]);
}

/// Trap 42.
#[test]
fn circular_foreign_keys_and_many_constraints_do_not_deadlock() {
    let story = Story::new(
        "do $$ begin
           for i in 0..11 loop
             execute format('create table t%s (id int primary key, a int unique, b int, c int unique)', i);
             execute format('insert into t%s select g, g, g, g from generate_series(1, 30) g', i);
           end loop;
           for i in 0..11 loop
             execute format('alter table t%s add foreign key (a) references t%s', i, (i + 1) % 12);
             execute format('alter table t%s add foreign key (b) references t%s (a)', i, (i + 5) % 12);
             execute format('alter table t%s add foreign key (c) references t%s (c)', i, (i + 11) % 12);
             execute format('alter table t%s add foreign key (a) references t%s', i, i);
           end loop;
         end $$",
    );
    story.resume_and_compare(&["--jobs", "8", "--restore-jobs", "8"]);
}

/// Trap 40: neither the source's own triggers nor its event triggers see the copy.
#[test]
fn triggers_of_the_source_do_not_fire_on_the_target() {
    let story = Story::new(
        "create table log (what text);
         create table t (id int primary key, a int);
         insert into t select g, g from generate_series(1, 20) g;
         create unlogged table u as select generate_series(1, 30) a;
         create materialized view m as select count(*) from t;
         create function note() returns trigger language plpgsql as
           $$ begin insert into public.log values (tg_name); return new; end $$;
         create trigger plain after insert on t for each row execute function note();
         create trigger always after insert on t for each row execute function note();
         create trigger in_replica before insert on t for each row execute function note();
         alter table t enable always trigger always;
         alter table t enable replica trigger in_replica;
         create function note_ddl() returns event_trigger language plpgsql as
           $$ begin insert into public.log values (tg_tag); end $$;
         create event trigger a_ddl on ddl_command_end execute function note_ddl();
         create event trigger a_rewrite on table_rewrite execute function note_ddl();
         alter event trigger a_ddl enable always;
         truncate log",
    );
    story.resume_and_compare(&["--jobs", "4"]);
    assert_eq!(
        story.target.value(&story.copy, "select count(*) from log"),
        "0"
    );
    assert_eq!(
        story.target.value(&story.copy, "select count(*) from u"),
        "30"
    );
}
