//! Sources of a follow that are not what one expects: a hot standby, and databases in other encodings than UTF-8.

use std::fs;
use std::time::Duration;

use crate::support::cluster::{Cluster, StopMode};
use crate::support::cmd::{RUN_DEADLINE, Running, Scene};
use crate::support::compare::differences;
use crate::support::following::{Following, SOON, shared};
use crate::support::version::Version;
use crate::support::wait_until;

const TABLES: &str = "create table public.marks (mark int primary key);
    create table t (id int primary key, v text); insert into t select g, 'old' from generate_series(1, 100) g;
    create table big (id int primary key, v text); alter table big alter v set storage external;
    insert into big select g, repeat('x', 8000) from generate_series(1, 2000) g;
    create unlogged table scratch (id serial primary key); insert into scratch select from generate_series(1, 9)";

/// A database on a standby, followed to another server.
struct Standby<'a> {
    primary: &'a Cluster,
    following: Following<'a>,
}

impl<'a> Standby<'a> {
    fn new(
        primary: &'a Cluster,
        standby: &'a Cluster,
        target: &'a Cluster,
        sql: &str,
    ) -> Standby<'a> {
        let db = primary.new_db("on_standby");
        primary.psql(&db, sql);
        let copy = target.new_db("off_standby");
        let it = Standby {
            primary,
            following: Following {
                source_uri: standby.uri(&db),
                target_uri: target.uri(&copy),
                scene: Scene::new(),
                source: standby,
                target,
                name: db.clone(),
                db,
                copy,
                plugin: "test_decoding",
            },
        };
        it.catch_up();
        it
    }

    /// Until the standby has replayed what its primary has done.
    fn catch_up(&self) {
        let lsn = self
            .primary
            .value("postgres", "select pg_current_wal_insert_lsn()");
        let sql = format!("select pg_last_wal_replay_lsn() >= '{lsn}'");
        wait_until(SOON, "the standby to replay", || {
            self.following.source.value("postgres", &sql) == "t"
        });
    }

    fn change(&self, sql: &str) {
        self.primary.psql(&self.following.db, sql);
    }

    fn wait_for(&self, run: &mut Running, table: &str) {
        let sql = format!("select count(*), max(v) from {table} group by ()")
            .replace("count(*), ", "count(*) || ' ' || ");
        let wanted = self.primary.value(&self.following.db, &sql);
        self.following.wait_on_target(run, &sql, &wanted);
    }

    /// Until changes are applied: the sentinel is a file.
    fn wait_for_apply(&self, run: &mut Running) {
        let path = self.following.scene.work_dir().join("cdc/sentinel.json");
        wait_until(RUN_DEADLINE, "the base copy to be done", || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            fs::read_to_string(&path).is_ok_and(|text| text.contains("\"apply\": true"))
        });
    }
}

/// Trap 52, and all that is different on a server that cannot be written to.
#[test]
fn a_hot_standby_is_cloned_and_followed() {
    let settings = [
        ("hot_standby_feedback", "on"),
        ("max_standby_streaming_delay", "0"),
    ];
    let primary = Cluster::start(Version::Pg16, &[]);
    let standby = Cluster::standby_of(&primary, &settings);
    let target = shared(Version::Pg17).1;
    let it = Standby::new(&primary, &standby, target, TABLES);
    let following = &it.following;
    // A follow of the primary has its sentinel there, which the standby shows.
    let own = Following::of((&primary, target), "test_decoding", "select");
    let on_primary = Scene::new();
    let words = [
        "stream",
        "sentinel",
        "create",
        "--source",
        &primary.uri(&following.db),
        "--dir",
    ];
    on_primary
        .command(
            words
                .into_iter()
                .chain([on_primary.work_dir().to_str().unwrap()]),
        )
        .run()
        .assert_success(&[]);
    drop(own);
    it.catch_up();
    // The COPY of the large table waits with its lock, which the standby breaks to replay another.
    let mut run = following
        .command(&["clone", "--follow"], &["--table-jobs", "1"])
        .env("PGCOPYDB_FAILPOINT", "copy.started=sleep:700")
        .spawn();
    wait_until(
        SOON,
        "a word about the slot that waits, or the slot",
        || {
            run.stderr().contains("pg_log_standby_snapshot")
                || !following.slot("confirmed_flush_lsn").is_empty()
        },
    );
    primary.psql("postgres", "select pg_log_standby_snapshot()");
    let is_copied = "select count(*) from pg_stat_activity where query like '%COPY%\"big\"%' and state = 'active'
        and pid <> pg_backend_pid()";
    wait_until(SOON, "the COPY of the large table", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        following.on_source(is_copied) != "0"
    });
    it.change("begin; lock table big in access exclusive mode; commit");
    it.wait_for_apply(&mut run);
    assert!(
        run.stderr().contains("conflict with recovery"),
        "{}",
        run.stderr()
    );
    it.change("update t set v = 'new' where id < 50; delete from t where id = 60; insert into t values (1000, null)");
    it.wait_for(&mut run, "t");
    it.change("insert into big values (0, 'late'); delete from scratch");
    it.wait_for(&mut run, "big");
    following.terminate_walsender();
    it.change("insert into t select g from generate_series(2000, 2100) g");
    it.catch_up();
    following.set_endpos_current();
    let outcome = run.wait_deadline(Duration::from_secs(30));
    outcome.assert_success(&[
        "pg_log_standby_snapshot",
        "conflict with recovery",
        "\"public\".\"scratch\"",
        "connecting again",
        "waiting for the source",
    ]);
    following.scene.assert_nothing_left(&outcome);
    for _ in 0..2 {
        following
            .command(&["stream", "cleanup"], &[])
            .run()
            .assert_success(&[]);
    }
    assert_eq!(following.slot("slot_name"), "");
    assert_eq!(
        it.primary
            .value(&following.db, "select count(*) from pgcopydb.sentinel"),
        "1"
    );
    it.change("drop schema pgcopydb cascade");
    let found = differences((&primary, &following.db), (target, &following.copy), &[]);
    assert!(
        found.iter().all(|line| line.contains("scratch_id_seq")),
        "{found:#?}"
    );
    becomes_the_primary(&primary, &standby);
}

/// Trap 9: the slot goes on when the standby is promoted, on another timeline; the sentinel stays in its file.
fn becomes_the_primary(primary: &Cluster, standby: &Cluster) {
    let sql =
        "create table public.marks (mark int primary key); create unlogged table scratch (id int)";
    let it = Standby::new(primary, standby, shared(Version::Pg17).1, sql);
    let following = &it.following;
    let mut run = following.clone_follow(&[]);
    // No transaction is logged by itself on an idle primary, and a slot cannot begin without one.
    wait_until(SOON, "the slot", || {
        primary.psql("postgres", "select pg_log_standby_snapshot()");
        !following.slot("confirmed_flush_lsn").is_empty()
    });
    it.wait_for_apply(&mut run);
    it.change("insert into marks values (-1)");
    it.wait_for(&mut run, "(select mark as v from marks) m");
    standby.psql("postgres", "select pg_promote()");
    following.wait_for_mark(&mut run);
    following
        .source
        .psql(&following.db, "select pg_switch_wal()");
    following.wait_for_mark(&mut run);
    following.cut_over(
        run,
        &[
            "pg_log_standby_snapshot",
            "\"public\".\"scratch\"",
            "connecting again",
            "waiting for the source",
        ],
    );
}

/// Logical decoding came to standbys with 16.
#[test]
fn an_older_standby_is_refused_before_anything_is_made() {
    let standby = Cluster::start(Version::Pg14, &[]);
    standby.create_db("old");
    standby.stop(StopMode::Fast);
    fs::write(standby.data_dir().join("standby.signal"), "").unwrap();
    standby.start_again();
    let target = shared(Version::Pg17).1;
    let copy = target.new_db("of_old");
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&standby.uri("old"), &target.uri(&copy), &["--follow"])
        .tools(target.version())
        .run();
    outcome.assert_last_error(6, &["it is a standby", "from PostgreSQL 16 on"]);
    scene.assert_nothing_left(&outcome);
    assert_eq!(
        target.value(
            &copy,
            "select count(*) from pg_namespace where nspname = 'pgcopydb'"
        ),
        "0"
    );
}

/// A database of this encoding in the place of one that is there.
fn make_again(server: &Cluster, db: &str, encoding: &str) {
    server.psql("postgres", &format!("drop database {db}"));
    let sql = format!("create database {db} encoding '{encoding}' locale 'C' template template0");
    server.psql("postgres", &sql);
}

/// Tables with such names, and changes of such values; as UTF-8 from the client.
fn words(name: &str, alphabet: &str) -> [String; 2] {
    let table = format!("\"T {name}\"");
    [
        format!(
            "create table public.marks (mark int primary key);
             create table {table} (id int primary key, \"C {name}\" text, b bytea, c varchar(200)[]);
             insert into {table} values (1, 'before {alphabet}')"
        ),
        format!(
            "insert into {table} select g, g || '{alphabet}' || chr(10) || '\\', '\\xff00e4', array['{alphabet}', '\"'] \
             from generate_series(2, 40) g;
             update {table} set \"C {name}\" = upper(\"C {name}\") || '{alphabet}' where id < 9;
             delete from {table} where id = 9; update {table} set id = 100 where id = 10"
        ),
    ]
}

/// The stream comes in the client's encoding, which has to be asked for.
#[test]
fn characters_of_every_encoding_arrive() {
    let latin1 = ('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{d6}');
    for (encoding, copy_encoding, alphabet) in [
        ("LATIN1", "UTF8", latin1.collect()),
        ("WIN1252", "LATIN1", "äöüÄÖÜßéèñ£".to_owned()),
        ("EUC_JP", "UTF8", "日本語かなカナｱﾝ漢字".to_owned()),
        ("SQL_ASCII", "UTF8", "äöü 日本".to_owned()),
    ] {
        // A name has 63 bytes at most.
        let [tables, changes] = words(&alphabet.chars().take(20).collect::<String>(), &alphabet);
        let pair = shared(Version::Debian15);
        let following = Following::new(pair, "pgoutput", |source, db| {
            make_again(source, db, encoding);
            source.psql(db, &tables);
        });
        make_again(pair.1, &following.copy, copy_encoding);
        let mut run = following.clone_and_apply(&[]);
        following.source.psql(&following.db, &changes);
        following.wait_for_mark(&mut run);
        following.cut_over(run, &["encoding of the "]);
    }
}

/// Bytes that no encoding has, in a database that does not care: all plugins pass them on as they are.
#[test]
fn bytes_without_encoding_arrive() {
    for plugin in ["test_decoding", "wal2json", "pgoutput"] {
        let pair = shared(Version::Debian15);
        let following = Following::new(pair, plugin, |source, db| {
            make_again(source, db, "SQL_ASCII");
            source.psql(
                db,
                "create table public.marks (mark int primary key); create table t (id int primary key, v text)",
            );
        });
        make_again(pair.1, &following.copy, "SQL_ASCII");
        let mut run = following.clone_and_apply(&[]);
        let sql =
            "insert into t values (1, E'gr\\xf6\\xdfer'), (2, E'\\xff\\x80 \"\\\\'), (3, 'größer')";
        following.source.psql(&following.db, sql);
        following.wait_for_mark(&mut run);
        following.cut_over(run, &[]);
    }
}
