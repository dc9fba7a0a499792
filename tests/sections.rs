//! The commands that do one section of a clone each, in a work directory that they share: in order they are a clone, each
//! can be killed and resumed, each says which command is missing before it, and what the user changes in between stays.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::{shared_source, shared_target};
use crate::support::cmd::{Invocation, Outcome, Running, Scene};
use crate::support::compare::assert_same;
use crate::support::interrupted::{Pair, SPLIT, new_work};
use crate::support::{leftovers, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// Each section alone, in the order of a clone.
const IN_ORDER: [&str; 8] = [
    "dump schema",
    "restore pre-data",
    "copy table-data",
    "copy blobs",
    "copy sequences",
    "copy indexes",
    "copy constraints",
    "restore post-data",
];

/// One database, its copy to be, and the work directory that the commands share.
struct Steps {
    pair: Pair<'static>,
    scene: Scene,
}

impl Steps {
    fn new(sql: &str) -> Steps {
        Steps::of(Pair::new(sql))
    }

    fn of_work() -> Steps {
        let db = new_work(shared_source());
        Steps::of(Pair::to_new_copy(shared_source(), shared_target(), &db))
    }

    fn of(pair: Pair<'static>) -> Steps {
        Steps {
            pair,
            scene: Scene::new(),
        }
    }

    fn command(&self, command: &str, more: &[&str]) -> Invocation {
        let dir = self.scene.work_dir();
        let args = command.split(' ').chain(["--dir", dir.to_str().unwrap()]);
        self.scene
            .command(args.chain(more.iter().copied()))
            .env("PGCOPYDB_SOURCE_PGURI", self.pair.from())
            .env("PGCOPYDB_TARGET_PGURI", self.pair.to())
    }

    #[track_caller]
    fn run(&self, command: &str, more: &[&str]) -> Outcome {
        let outcome = self.command(command, more).run();
        let log = &outcome.stderr;
        assert!(outcome.status.success(), "{command} {more:?}\n{log}");
        outcome.assert_no_unexpected(&[]);
        outcome
    }

    /// `pgcopydb snapshot` for the same directory.
    fn hold_snapshot(&self) -> Running {
        let mut holder = self.command("snapshot", &[]).spawn();
        wait_until(SOON, "the snapshot to be held", || {
            assert!(holder.is_running(), "{}", holder.stderr());
            holder.stderr().contains("holding it until a signal")
        });
        holder
    }

    #[track_caller]
    fn let_go(&self, holder: Running) {
        holder.term();
        let outcome = holder.wait_deadline(SOON);
        outcome.assert_success(&[]);
        self.scene.assert_nothing_left(&outcome);
        self.pair.assert_no_backend();
    }

    #[track_caller]
    fn assert_same(&self) {
        let pair = &self.pair;
        assert_same(pair.source, &pair.db, pair.target, &pair.copy);
    }

    fn on_source(&self, sql: &str) {
        self.pair.source.psql(&self.pair.db, sql);
    }

    fn on_target(&self, sql: &str) {
        self.pair.target.psql(&self.pair.copy, sql);
    }

    fn summary(&self) -> serde_json::Value {
        let text = std::fs::read(self.scene.work_dir().join("summary.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

const INDEXES: &str = "select count(*) from pg_index i join pg_class c on c.oid = i.indrelid
    where c.relname in ('big', 'small')";

#[test]
fn one_by_one_they_are_a_clone() {
    let steps = Steps::of_work();
    let holder = steps.hold_snapshot();
    for command in IN_ORDER {
        steps.run(command, &["--resume"]);
        match command {
            "restore pre-data" => steps.on_source(
                "insert into big values (100000, 'after the snapshot', 1);
                 insert into small values (100000, 100000)",
            ),
            "copy table-data" => {
                assert_eq!(steps.pair.copied(INDEXES), "0");
                assert_eq!(steps.pair.copied("select count(*) from big"), "30000");
                let large = steps
                    .pair
                    .copied("select count(*) from pg_largeobject_metadata");
                assert_eq!(large, "0");
            }
            "copy indexes" => {
                assert_eq!(steps.pair.copied(INDEXES), "5");
                let constraints =
                    "select count(*) from pg_constraint where conrelid = 'big'::regclass";
                assert_eq!(steps.pair.copied(constraints), "0");
            }
            _ => {}
        }
        assert_eq!(
            steps.summary()["is_complete"],
            command == "restore post-data"
        );
    }
    steps.let_go(holder);
    steps.on_source("delete from small where id = 100000; delete from big where id = 100000");
    steps.assert_same();
    let phases = steps.summary()["phases"].to_string();
    for phase in ["dump", "pre-data", "data", "post-data"] {
        assert!(phases.contains(phase), "{phases}");
    }
    // Everything is done: neither a section nor a clone has anything left to do, or needs the source for it.
    for command in ["dump schema", "restore schema", "copy data"] {
        let again = steps.run(command, &["--resume"]);
        assert!(!again.stderr.contains("exported"), "{}", again.stderr);
    }
    let clone = steps.run("clone", &["--resume"]);
    assert!(clone.stderr.contains("nothing to do"), "{}", clone.stderr);
    steps.assert_same();
}

/// What is killed in the middle of each section, and where.
const KILLED: [(&str, &[&str]); 8] = [
    ("dump schema", &["clone.after_dump"]),
    (
        "restore pre-data",
        &["clone.before_restore_pre", "clone.after_restore_pre"],
    ),
    (
        "copy table-data",
        &["copy.started", "copy.after_commit", "copy.before_done_file"],
    ),
    ("copy blobs", &["blobs.before_commit"]),
    ("copy sequences", &["clone.before_sequences"]),
    ("copy indexes", &["index.before_build", "index.after_build"]),
    ("copy constraints", &["copy.before_done_file"]),
    (
        "restore post-data",
        &["clone.before_restore_post", "clone.after_restore_post"],
    ),
];

#[test]
fn killed_in_the_middle_of_each_they_resume() {
    let steps = Steps::of_work();
    let holder = steps.hold_snapshot();
    for (command, points) in KILLED {
        let split: &[&str] = if command == "copy table-data" {
            &SPLIT
        } else {
            &[]
        };
        for point in points {
            let killed = steps
                .command(command, &[split, &["--resume"]].concat())
                .env("PGCOPYDB_FAILPOINT", format!("{point}=kill"))
                .run();
            assert!(!killed.status.success(), "{point}: {}", killed.stderr);
            leftovers::assert_no_process(|| {
                let mut processes = steps.scene.processes();
                processes.retain(|process| !process.title.contains(" snapshot "));
                processes
            });
        }
        // Without the options of the first time, which hold.
        let resumed = steps.command(command, &["--resume"]).run();
        resumed.assert_success(&["was terminated", "is not whole"]);
    }
    steps.let_go(holder);
    steps.assert_same();
    let parts = std::fs::read_dir(steps.scene.work_dir().join("run/tables")).unwrap();
    assert!(parts.count() > 10, "the table was copied in parts");
}

#[test]
fn killed_in_the_data_section_it_resumes() {
    let steps = Steps::of_work();
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &[]);
    steps.run("restore pre-data", &[]);
    for point in [
        "copy.before_commit",
        "index.after_build",
        "constraint.before_attach",
    ] {
        let killed = steps
            .command("copy data", &["--resume", SPLIT[0], SPLIT[1]])
            .env("PGCOPYDB_FAILPOINT", format!("{point}=kill"))
            .run();
        assert!(!killed.status.success(), "{point}: {}", killed.stderr);
    }
    let early = steps.command("restore post-data", &["--resume"]).run();
    early.assert_failure(3, &["\"copy indexes\" was not finished", "--resume"]);
    let resumed = steps.command("copy data", &["--resume"]).run();
    resumed.assert_success(&["was terminated"]);
    let analyzed =
        "select count(*) from pg_class where relname in ('big', 'small') and reltuples > 0";
    assert_eq!(steps.pair.copied(analyzed), "2");
    steps.run("restore post-data", &["--resume"]);
    steps.let_go(holder);
    steps.assert_same();
}

#[test]
fn the_command_that_is_missing_is_named() {
    let steps = Steps::new("create table t (id int primary key); insert into t values (1)");
    for (command, missing) in [
        ("restore pre-data", "\"dump schema\" was not run"),
        ("restore post-data", "\"dump schema\" was not run"),
        ("restore parse-list", "\"dump schema\" was not run"),
        ("copy data", "\"restore pre-data\" was not run"),
        ("copy table-data", "\"restore pre-data\" was not run"),
        ("copy indexes", "\"copy table-data\" was not run"),
        ("copy constraints", "\"copy table-data\" was not run"),
    ] {
        let outcome = steps.command(command, &[]).run();
        outcome.assert_failure(3, &[missing, "HINT: Run \"pgcopydb "]);
    }
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &[]);
    let again = steps.command("dump schema", &[]).run();
    again.assert_failure(3, &["holds an earlier run", "--resume"]);
    steps.run("restore pre-data", &[]);
    steps.run("copy table-data", &["--resume"]);
    let early = steps.command("copy constraints", &["--resume"]).run();
    early.assert_failure(3, &["\"copy indexes\" was not run"]);
    steps.run("copy indexes", &["--resume"]);
    let early = steps.command("restore post-data", &["--resume"]).run();
    early.assert_failure(3, &["\"copy constraints\" was not run"]);
    steps.let_go(holder);
}

/// The rows that are left must be those of the dump; whoever wants others has to say so.
#[test]
fn without_its_snapshot_a_run_does_not_go_on_unasked() {
    let steps = Steps::new("create table t (id int primary key); insert into t values (1)");
    steps.run("dump schema", &[]);
    steps.run("restore pre-data", &["--resume", "--not-consistent"]);
    steps.on_source("insert into t values (2)");
    let refused = steps.command("copy data", &["--resume"]).run();
    refused.assert_failure(3, &["cannot resume consistently", "pgcopydb snapshot"]);
    let holder = steps.hold_snapshot();
    let refused = steps.command("copy data", &["--resume"]).run();
    refused.assert_failure(3, &["is not the one", "--not-consistent"]);
    steps.run("copy data", &["--resume", "--not-consistent"]);
    steps.run("restore post-data", &["--resume"]);
    steps.let_go(holder);
    steps.assert_same();
}

#[test]
fn what_one_command_was_given_holds_for_the_next() {
    let steps = Steps::new(
        "create table t (id int primary key, v text); insert into t select g from generate_series(1, 9) g;
         comment on table t is 'said'; create function f() returns int language sql return 1;
         comment on function f is 'said'; create index i on t (v); comment on index i is 'said';",
    );
    let holder = steps.hold_snapshot();
    let scope = ["--no-comments", "--no-owner"];
    steps.run("dump schema", &[]);
    let elsewhere = shared_target().uri(&shared_target().new_db("elsewhere"));
    steps.run("restore pre-data", &scope);
    let other = steps
        .command("copy data", &["--resume", "--source", &elsewhere])
        .run();
    other.assert_failure(3, &["cannot resume: --source was"]);
    let other = steps
        .command("restore post-data", &["--target", &elsewhere])
        .run();
    other.assert_failure(3, &["cannot resume: --target was"]);
    steps.run(
        "copy data",
        &["--resume", "--jobs", "2", "--split-at", "1GB"],
    );
    let other = steps
        .command("copy data", &["--resume", "--split-at", "2GB"])
        .run();
    other.assert_failure(3, &["--split-tables-larger-than was"]);
    steps.run("restore post-data", &[]);
    steps.let_go(holder);
    let comments = "select count(*) from pg_description where description = 'said'";
    assert_eq!(steps.pair.copied(comments), "0");
}

/// Between pre-data and data: a foreign key, an index and a primary key of the user's own, a trigger, a new column.
#[test]
fn what_the_user_changes_in_between_stays() {
    let steps = Steps::new(
        "create table parent (id int primary key, v text);
         create table child (id int primary key, parent int);
         create index child_parent on child (parent);
         create table tenant (id int primary key, company int);
         insert into parent select g, 'v' from generate_series(1, 100) g;
         insert into child select g, g from generate_series(1, 100) g;
         insert into tenant select g, g % 7 from generate_series(1, 100) g;",
    );
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &["--resume"]);
    steps.run("restore pre-data", &["--resume"]);
    steps.on_target(
        "alter table parent add unique (id), add column added text default 'new';
         alter table child add foreign key (parent) references parent (id);
         create index child_parent on child (parent desc, id);
         alter table tenant add primary key (company, id);
         create function fail() returns trigger language plpgsql as 'begin raise exception ''fired''; end';
         create trigger fail before insert on parent for each row execute function fail();",
    );
    // The tables cannot be truncated any more, and are filled all the same, also a second time.
    let killed = steps
        .command("copy data", &["--resume"])
        .env(
            "PGCOPYDB_FAILPOINT",
            "copy.before_done_file@copy worker=kill",
        )
        .run();
    assert!(!killed.status.success(), "{}", killed.stderr);
    let outcome = steps.command("copy data", &["--resume"]).run();
    outcome.assert_success(&["stays", "was terminated"]);
    assert!(
        outcome
            .stderr
            .contains("index \"public\".\"child_parent\" stays")
    );
    steps.run("restore post-data", &["--resume"]);
    steps.let_go(holder);
    for (sql, wanted) in [
        ("select count(*) || min(added) from parent", "100new"),
        (
            "select count(*) from child join parent p on p.id = parent",
            "100",
        ),
        (
            "select pg_get_indexdef('child_parent'::regclass) ~ 'DESC'",
            "t",
        ),
        (
            "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'tenant'::regclass and contype = 'p'",
            "PRIMARY KEY (company, id)",
        ),
        (
            "select count(*) from pg_constraint where contype = 'p' and connamespace = 'public'::regnamespace",
            "3",
        ),
    ] {
        assert_eq!(steps.pair.copied(sql), wanted, "{sql}");
    }
}

/// A table that cannot be copied keeps the post-data back, unless the user says otherwise; then everything else is restored,
/// the table is told, and both commands can be run again once the cause is mended.
#[test]
fn post_data_can_do_without_a_table_that_fails() {
    let steps = Steps::of_work();
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &["--resume"]);
    steps.run("restore pre-data", &["--resume"]);
    steps.on_target("alter table small add constraint mine check (id <> 7)");
    let failed = steps.command("copy data", &["--resume"]).run();
    failed.assert_failure(4, &["\"public\".\"small\"", "SQLSTATE 23514"]);
    let refused = steps.command("restore post-data", &["--resume"]).run();
    refused.assert_failure(3, &["was not finished", "--despite-failures does without"]);
    let foreign_keys = "select count(*) from pg_constraint where contype = 'f'";
    assert_eq!(steps.pair.copied(foreign_keys), "0");
    for _ in 0..2 {
        let more = ["--resume", "--despite-failures"];
        let without = steps.command("restore post-data", &more).run();
        without.assert_last_error(4, &["1 objects could not be copied", "was not copied"]);
        assert!(
            without.stderr.contains("table \"public\".\"small\""),
            "{}",
            without.stderr
        );
        assert_eq!(steps.pair.copied(foreign_keys), "1");
        let rows = steps.pair.copied("select count(*) from summed");
        assert_eq!(rows, "97", "the materialized view is filled");
        assert_eq!(steps.summary()["is_complete"], false);
    }
    steps.on_target("alter table small drop constraint mine");
    let mended = steps.command("copy data", &["--resume"]).run();
    assert!(mended.status.success(), "{}", mended.stderr);
    let done = steps.command("restore post-data", &["--resume"]).run();
    assert!(done.status.success(), "{}", done.stderr);
    assert_eq!(steps.summary()["is_complete"], true);
    steps.let_go(holder);
    steps.assert_same();
}

/// `copy schema` makes the whole schema, with foreign keys and indexes; the data section fits into it afterwards.
#[test]
fn a_schema_first_and_its_data_later() {
    let steps = Steps::of_work();
    let holder = steps.hold_snapshot();
    steps.run("copy schema", &[]);
    assert_eq!(steps.pair.copied(INDEXES), "5");
    assert_eq!(steps.pair.copied("select count(*) from big"), "0");
    steps.run("copy data", &["--resume"]);
    steps.let_go(holder);
    steps.on_target("refresh materialized view summed");
    steps.assert_same();
    // Restored from a dump without a source, in one go.
    let other = Steps::of(Pair::to_new_copy(
        shared_source(),
        shared_target(),
        &steps.pair.db,
    ));
    other.run("dump schema", &[]);
    let restored = other
        .command("restore schema", &[])
        .env("PGCOPYDB_SOURCE_PGURI", "")
        .run();
    restored.assert_success(&[]);
    assert_eq!(other.pair.copied(INDEXES), "5");
    other.scene.assert_nothing_left(&restored);
}

/// A target that was prepared with other tools is filled too, but only where nothing is in the way.
#[test]
fn rows_go_into_tables_made_by_other_means() {
    let sql = "create table t (id serial primary key, v text)";
    let steps = Steps::new(sql);
    steps.on_source("insert into t (v) select g from generate_series(1, 50) g");
    steps.on_target(sql);
    steps.on_target("insert into t values (1, 'mine')");
    let refused = steps.command("copy data", &[]).run();
    refused.assert_failure(7, &["target not empty", "\"public\".\"t\""]);
    assert_eq!(steps.pair.copied("select v from t"), "mine");
    steps.on_target("delete from t");
    steps.run("copy data", &["--resume"]);
    steps.assert_same();
}

#[test]
fn large_objects_can_follow_later() {
    let steps = Steps::new("select lo_from_bytea(700000 + g, 'x') from generate_series(1, 20) g");
    let count = "select count(*) from pg_largeobject_metadata";
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &[]);
    steps.run("restore pre-data", &[]);
    steps.run("copy data", &["--resume", "--skip-blobs"]);
    assert_eq!(steps.pair.copied(count), "0");
    steps.on_target("select lo_from_bytea(700005, 'mine')");
    let refused = steps.command("copy blobs", &["--resume"]).run();
    refused.assert_failure(7, &["large objects exist there already: 700005"]);
    steps.run("copy blobs", &["--resume", "--drop-if-exists"]);
    steps.run("restore post-data", &["--resume"]);
    steps.let_go(holder);
    steps.assert_same();
}

#[test]
fn the_list_of_a_restore_is_printed() {
    let steps = Steps::new(
        "create extension hstore; create table t (id int primary key, h hstore); create view v as select * from t",
    );
    steps.run("dump schema", &[]);
    let list = |more: &[&str]| steps.run("restore parse-list", more).stdout;
    let whole = list(&[]);
    for line in [
        " COMMENT - EXTENSION hstore",
        " TABLE public t ",
        " CONSTRAINT public t t_pkey ",
    ] {
        assert!(
            whole
                .lines()
                .any(|entry| !entry.starts_with(';') && entry.contains(line)),
            "{whole}"
        );
    }
    let filtered = list(&["--skip-extensions"]);
    let skipped =
        |line: &str| line.starts_with(';') && line.contains(" COMMENT - EXTENSION hstore");
    assert!(filtered.lines().any(skipped), "{filtered}");
    let file = steps.scene.path("pre.list");
    std::fs::write(&file, &filtered).unwrap();
    let reread = list(&[file.to_str().unwrap()]);
    assert!(
        !reread.contains("EXTENSION hstore") && reread.contains("TABLE public t"),
        "{reread}"
    );
    let archive = steps.scene.work_dir().join("schema/schema.dump");
    assert_eq!(list(&[archive.to_str().unwrap()]), whole);
}

/// Said once, they hold for every command that follows.
#[test]
fn filters_hold_for_all_sections() {
    let steps = Steps::new(
        "create table kept (id int primary key); create table gone (id int primary key);
         create table empty (id int primary key); create view gone_too as select * from gone;
         create index on gone (id); alter table gone add foreign key (id) references kept;
         insert into kept values (1), (2); insert into gone values (1); insert into empty values (1)",
    );
    let file = steps.scene.path("filters.ini");
    std::fs::write(
        &file,
        "[exclude-table]\npublic.gone\n[exclude-table-data]\npublic.empty\n",
    )
    .unwrap();
    let filters = ["--filters", file.to_str().unwrap()];
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &filters);
    let listed = steps.run("restore parse-list", &[]).stdout;
    assert!(
        listed.contains("\n;") && !listed.contains("\n5; gone"),
        "{listed}"
    );
    std::fs::write(&file, "[exclude-table]\npublic.kept\n").unwrap();
    let more = [&filters[..], &["--resume"]].concat();
    let other = steps.command("copy data", &more).run();
    other.assert_failure(3, &["--filters was \"exclude-table public.gone"]);
    for command in ["restore pre-data", "copy data", "restore post-data"] {
        steps.run(command, &["--resume"]);
    }
    steps.let_go(holder);
    for (sql, wanted) in [
        (
            "select string_agg(relname, ' ' order by relname) from pg_class
          where relnamespace = 'public'::regnamespace",
            "empty empty_pkey kept kept_pkey",
        ),
        ("select count(*) from kept", "2"),
        ("select count(*) from empty", "0"),
    ] {
        assert_eq!(steps.pair.copied(sql), wanted, "{sql}");
    }
}

/// A holder that is killed takes the snapshot with it, and the next command says so.
#[test]
fn a_snapshot_that_is_gone_is_told() {
    let steps = Steps::new("create table t (id int)");
    let holder = steps.hold_snapshot();
    steps.run("dump schema", &[]);
    steps.run("restore pre-data", &[]);
    holder.kill9();
    holder.wait_deadline(SOON).assert_signalled(Signal::SIGKILL);
    leftovers::assert_no_backend(steps.pair.source, &steps.pair.db);
    let refused = steps.command("copy data", &["--resume"]).run();
    refused.assert_failure(3, &["the snapshot of the earlier run is gone"]);
}
