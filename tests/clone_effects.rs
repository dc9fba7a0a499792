//! What the options of clone do, each seen on the target, and how large tables are cut. Traps 33, 35, 48.

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;
use crate::support::version::Version;

const OBJECTS: &str = "
    create extension hstore;
    create table t (id int primary key, v text);
    insert into t select g, repeat('v', 50) from generate_series(1, 2000) g;
    comment on table t is 'a comment';
    grant select on t to public;
    select lo_from_bytea(4711, 'large');
    create sequence s; select setval('s', 42);";

fn run(source: &Cluster, db: &str, target: &Cluster, copy: &str, more: &[&str]) -> Outcome {
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(db), &target.uri(copy), more)
        .run();
    outcome.assert_success(&["the target does not know option"]);
    scene.assert_nothing_left(&outcome);
    outcome
}

#[test]
fn each_option_has_its_effect_and_no_other() {
    let (source, target) = (shared_source(), shared_target());
    let db = source.new_db("options");
    source.psql(&db, OBJECTS);
    source.psql(&db, &format!("alter database {db} set work_mem = '9MB'"));
    let look = "select concat_ws(' ',
        (select count(*) from t),
        'owner=' || (select relowner::regrole from pg_class where relname = 't'),
        'acl=' || coalesce((select relacl is not null from pg_class where relname = 't')::text, ''),
        'comment=' || coalesce(obj_description('t'::regclass), ''),
        'blobs=' || (select count(*) from pg_largeobject_metadata),
        'hstore=' || (select count(*) from pg_extension where extname = 'hstore'),
        'analyzed=' || (select count(*) > 0 from pg_stats where tablename = 't'),
        'work_mem=' || coalesce((select unnest(setconfig) from pg_db_role_setting s join pg_database d
            on d.oid = s.setdatabase where datname = current_database()), ''),
        's=' || (select last_value from s))";
    let all = "2000 owner=postgres acl=true comment=a comment blobs=1 hstore=1 analyzed=true \
               work_mem=work_mem=9MB s=42";
    for (option, without, with) in [
        ("--jobs=2", "", ""),
        ("--no-owner", "", ""),
        ("--no-acl", "acl=true", "acl=false"),
        ("--no-comments", "comment=a comment", "comment="),
        ("--no-tablespaces", "", ""),
        ("--skip-large-objects", "blobs=1", "blobs=0"),
        ("--skip-blobs", "blobs=1", "blobs=0"),
        ("--skip-extensions", "hstore=1", "hstore=0"),
        ("--skip-ext-comments", "", ""),
        ("--skip-vacuum", "analyzed=true", "analyzed=false"),
        ("--skip-analyze", "analyzed=true", "analyzed=false"),
        ("--skip-db-properties", "work_mem=work_mem=9MB", "work_mem="),
        ("--use-copy-binary", "", ""),
        ("--estimate-table-sizes", "", ""),
    ] {
        let copy = target.new_db("options");
        run(source, &db, target, &copy, &[option]);
        assert_eq!(
            target.value(&copy, look),
            all.replace(without, with),
            "{option}"
        );
    }
}

/// Every row once, whatever the keys are, by CTID and by key, and no table is cut that need not be.
#[test]
fn tables_are_cut_into_parts_that_hold_every_row_once() {
    let (source, target) = (shared_source(), shared_target());
    let db = source.new_db("split");
    source.psql(
        &db,
        "create table extremes (id bigint primary key, v text);
         insert into extremes values (-9223372036854775808, 'min'), (9223372036854775807, 'max'), (0, 'zero');
         insert into extremes select g::bigint * 1000003, repeat('e', 80) from generate_series(-3000, 3000) g where g <> 0;
         create table gaps (id int primary key, v text);
         insert into gaps select case when g < 3000 then g else g * 600 end, repeat('g', 80) from generate_series(1, 6000) g;
         delete from gaps where id % 3 = 0;
         create table no_key (v text); insert into no_key select repeat('n', 90) from generate_series(1, 5000);
         create table toasted (id int primary key, v text);
         alter table toasted alter v set storage external;
         insert into toasted select g, repeat(md5(g::text), 100) from generate_series(1, 1500) g;
         create table little (id int primary key); insert into little select generate_series(1, 10);",
    );
    for more in [
        &["--split-tables-larger-than", "200kB"][..],
        &["--split-at", "200kB", "--skip-split-by-ctid"],
        &[
            "--split-tables-larger-than",
            "200 kB",
            "--split-max-parts",
            "3",
            "--use-copy-binary",
        ],
        &[
            "--split-tables-larger-than",
            "200kB",
            "--estimate-table-sizes",
        ],
    ] {
        let copy = target.new_db("split");
        source.psql(&db, "analyze");
        let outcome = run(source, &db, target, &copy, more);
        assert_same(source, &db, target, &copy);
        let is_cut = |table: &str| {
            outcome.stderr.contains(&format!("\"{table}\" ")) && {
                let mut lines = outcome.stderr.lines();
                lines.any(|line| {
                    line.contains(&format!("copied table \"public\".\"{table}\""))
                        && line.contains(", part ")
                })
            }
        };
        assert!(
            is_cut("extremes") && is_cut("gaps"),
            "{more:?}: {}",
            outcome.stderr
        );
        // Most of its bytes are not in its heap; an estimate knows TOAST only once it was vacuumed.
        assert!(
            is_cut("toasted") || more.contains(&"--estimate-table-sizes"),
            "{more:?}: {}",
            outcome.stderr
        );
        assert!(!is_cut("little"), "{more:?}: {}", outcome.stderr);
        let by_key = more.contains(&"--skip-split-by-ctid");
        assert_eq!(is_cut("no_key"), !by_key, "{more:?}");
        if more.contains(&"--split-max-parts") {
            assert!(!outcome.stderr.contains("of 4:"), "{}", outcome.stderr);
        }
    }
}

/// The user may replace a table by a partitioned one between pre-data and data: FREEZE is not allowed there.
#[test]
fn a_table_that_the_user_made_partitioned_is_filled() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("replaced"), target.new_db("replaced"));
    source.psql(
        &db,
        "create table t (id int, v text); insert into t select g, 'x' from generate_series(1, 1000) g;
         create table other_order (a int, b text); insert into other_order values (1, 'one')",
    );
    let scene = Scene::new();
    let stopped = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
        .run();
    assert!(!stopped.status.success());
    target.psql(
        &copy,
        "drop table t; create table t (id int, v text) partition by range (id);
         create table t_1 partition of t for values from (0) to (500);
         create table t_2 partition of t for values from (500) to (5000);
         drop table other_order; create table other_order (b text, c int default 7, a int)",
    );
    let again = ["--resume", "--not-consistent"];
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &again)
        .run();
    outcome.assert_success(&[]);
    assert_eq!(target.value(&copy, "select count(*) from t"), "1000");
    assert_eq!(target.value(&copy, "select count(*) from t_1"), "499");
    // Columns go by name, not by place.
    assert_eq!(
        target.value(&copy, "select a || b || c from other_order"),
        "1one7"
    );
}

/// Values travel exactly whatever databases and roles have for defaults, and no timeout ends anything. Trap 48.
#[test]
fn defaults_of_databases_and_roles_change_no_value() {
    let (source, target) = (
        Cluster::start(Version::Pg17, &[]),
        Cluster::start(Version::Pg17, &[]),
    );
    let (db, copy) = (source.new_db("settings"), target.new_db("settings"));
    source.psql(
        &db,
        "create table t (id int primary key, f4 real, f8 double precision, d date, ts timestamptz, i interval,
                         b bytea, m money, x xml, n numeric);
         insert into t values
         (1, 0.1, 0.1::float8 + 0.2::float8, '2024-02-03', '2024-07-01 12:34:56.789012+02', '1 year 2 mons -3 days 04:05:06.789',
          '\\x00ff5c27', '1234.56', '<a>b</a>', 'NaN'),
         (2, 3.4028235e38, 1e-307, '0044-03-15 BC', 'infinity', '-1 day', '', '-0.01', 'plain <b/> text',
          12345678901234567890.123456789);",
    );
    for (cluster, name) in [(&source, &db), (&target, &copy)] {
        for setting in [
            "extra_float_digits = -10",
            "DateStyle = 'SQL, DMY'",
            "IntervalStyle = iso_8601",
            "TimeZone = 'Asia/Kathmandu'",
            "bytea_output = escape",
            "xmloption = document",
            "search_path = nowhere",
            "lock_timeout = 1000",
            "statement_timeout = 2000",
            "idle_in_transaction_session_timeout = 50",
            "idle_session_timeout = 300",
            "transaction_timeout = 3000",
            "default_transaction_read_only = on",
            "default_transaction_isolation = serializable",
            "row_security = on",
            "synchronous_commit = remote_apply",
        ] {
            cluster.psql("postgres", &format!("alter database {name} set {setting}"));
        }
    }
    let scene = Scene::new();
    let outcome = scene
        .clone_db(
            &source.uri(&db),
            &target.uri(&copy),
            &["--skip-db-properties"],
        )
        .tools(Version::Pg17)
        // Longer than each of the timeouts.
        .env("PGCOPYDB_FAILPOINT", "copy.before_commit=sleep:3500")
        .run();
    outcome.assert_success(&[]);
    scene.assert_nothing_left(&outcome);
    let exact = "set extra_float_digits = 3; set DateStyle = ISO; set TimeZone = 'UTC'; set bytea_output = hex;
                 set IntervalStyle = postgres; set search_path = public; select string_agg(t::text, ' ' order by id) from t";
    let last = |cluster: &Cluster, name: &str| {
        let mut client = cluster.client(name);
        client
            .simple_query(exact)
            .unwrap()
            .iter()
            .rev()
            .find_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
                _ => None,
            })
    };
    assert!(last(&source, &db).is_some());
    assert_eq!(last(&source, &db), last(&target, &copy));
}
