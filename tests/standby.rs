//! A hot standby as the source of a clone: with filters and tables in parts, and with recovery that is in the way.

use std::fs;

use crate::support::cluster::{Cluster, shared_target};
use crate::support::cmd::{Outcome, RUN_DEADLINE, Running, Scene};
use crate::support::following::SOON;
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

const TABLES: &str = "
    create table big (id int primary key, v text); alter table big alter v set storage external;
    insert into big select g, repeat('x', 6000) from generate_series(1, 2500) g;
    create table keyed (id int primary key, v text) with (fillfactor = 50);
    insert into keyed select g, repeat('y', 100) from generate_series(1, 4000) g;
    create table refers (id int primary key references keyed); insert into refers select generate_series(1, 100);
    create schema audit; create table audit.log (id int primary key, v text); create table left_out (id int);
    create view audited as select * from audit.log; insert into audit.log values (1, 'x');
    create sequence counted; select setval('counted', 77); select lo_from_bytea(0, 'large')";

const FILTERS: &str = "[exclude-schema]\naudit\n[exclude-table]\npublic.left_out\n";

/// A database on the primary, and its standby, which gives no session a moment before it goes on with recovery.
struct Story<'a> {
    primary: &'a Cluster,
    standby: &'a Cluster,
    db: String,
    copy: String,
    scene: Scene,
}

impl<'a> Story<'a> {
    fn new(primary: &'a Cluster, standby: &'a Cluster) -> Story<'a> {
        let db = primary.new_db("standby");
        primary.psql(&db, TABLES);
        let story = Story {
            primary,
            standby,
            copy: shared_target().new_db("standby"),
            db,
            scene: Scene::new(),
        };
        story.catch_up();
        story
    }

    fn change(&self, sql: &str) {
        self.primary.psql(&self.db, sql);
    }

    fn catch_up(&self) {
        let now = "select pg_current_wal_insert_lsn()";
        let lsn = self.primary.value("postgres", now);
        let sql = format!("select pg_last_wal_replay_lsn() >= '{lsn}'");
        wait_until(SOON, "the standby to replay", || {
            self.standby.value("postgres", &sql) == "t"
        });
    }

    /// In parts of a megabyte, by two workers, each of which waits a little with its lock.
    fn start(&self, more: &[&str]) -> Running {
        let filters = self.scene.path("filters.ini");
        fs::write(&filters, FILTERS).unwrap();
        let ours = [
            "--filters",
            filters.to_str().unwrap(),
            "--split-tables-larger-than",
            "1MB",
            "--table-jobs",
            "2",
        ];
        let (from, to) = (self.standby.uri(&self.db), shared_target().uri(&self.copy));
        self.scene
            .clone_db(&from, &to, &[&ours, more].concat())
            .env("PGCOPYDB_FAILPOINT", "copy.started=sleep:100")
            .spawn()
    }

    /// Until a part of the large table is under way.
    fn wait_for_copy(&self, run: &mut Running) {
        let sql = "select count(*) from pg_stat_activity where query like '%COPY%\"big\"%' and state = 'active'
            and pid <> pg_backend_pid()";
        wait_until(RUN_DEADLINE, "the COPY of the large table", || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            self.standby.value(&self.db, sql) != "0"
        });
    }

    fn end(&self, run: Running) -> Outcome {
        let outcome = run.wait_deadline(RUN_DEADLINE);
        self.scene.assert_nothing_left(&outcome);
        leftovers::assert_no_backend(self.standby, &self.db);
        leftovers::assert_no_backend(shared_target(), &self.copy);
        outcome
    }

    /// As the source was when the snapshot was taken, and nothing of what the filters leave out.
    fn assert_copied(&self) {
        for (sql, wanted) in [
            ("select count(*) || md5(string_agg(v, '' order by id)) from big", None),
            ("select count(*) from refers", None),
            ("select last_value from counted", None),
            ("select count(*) from pg_largeobject_metadata", None),
            ("select count(*) from pg_constraint where contype in ('p', 'f') and connamespace = 'public'::regnamespace", Some("4")),
            ("select string_agg(relname, ' ' order by relname) from pg_class where relkind in ('r', 'v')
                  and relnamespace in ('public'::regnamespace) ", Some("big keyed refers")),
            ("select count(*) from pg_namespace where nspname = 'audit'", Some("0")),
        ] {
            let wanted = match wanted {
                Some(wanted) => wanted.to_owned(),
                None => self.standby.value(&self.db, sql),
            };
            assert_eq!(shared_target().value(&self.copy, sql), wanted, "{sql}");
        }
    }
}

/// Trap 52. Recovery takes the lock of a table that is copied: those COPY are cancelled, and done again in the same snapshot.
/// Without feedback, recovery removes rows that the snapshot sees, and with them the sessions that hold it: then there is
/// nothing to go on with, which is said, and a new snapshot is the user's to allow.
#[test]
fn a_standby_is_cloned_with_filters_and_parts_while_it_recovers() {
    let settings = [
        ("hot_standby_feedback", "on"),
        ("max_standby_streaming_delay", "0"),
        ("max_standby_archive_delay", "0"),
        ("wal_receiver_status_interval", "1"),
    ];
    let primary = Cluster::start(Version::Debian15, &[("autovacuum", "off")]);
    let standby = Cluster::standby_of(&primary, &settings);

    let story = Story::new(&primary, &standby);
    let mut run = story.start(&[]);
    story.wait_for_copy(&mut run);
    story.change("begin; lock table big in access exclusive mode; commit");
    story.change("drop table left_out; update keyed set v = 'after the snapshot'");
    story.change("vacuum keyed");
    let outcome = story.end(run);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    outcome.assert_no_unexpected(&["conflict with recovery", "hot_standby_feedback"]);
    let log = &outcome.stderr;
    assert!(log.contains("conflict with recovery"), "{log}");
    assert!(log.contains("part 2 of"), "{log}");
    story.assert_copied();
    let old = "select count(*) from keyed where v <> 'after the snapshot'";
    assert_eq!(shared_target().value(&story.copy, old), "4000");

    standby.psql("postgres", "alter system set hot_standby_feedback = off");
    standby.psql("postgres", "select pg_reload_conf()");
    let story = Story::new(&primary, &standby);
    let mut run = story.start(&[]);
    story.wait_for_copy(&mut run);
    story.change("update keyed set v = 'after the snapshot'; delete from keyed where id > 3000");
    story.change("vacuum keyed");
    let outcome = story.end(run);
    assert!(!outcome.status.success(), "{}", outcome.stderr);
    let log = &outcome.stderr;
    for words in ["hot_standby_feedback off", "does not exist any more"] {
        assert!(log.contains(words), "{log}");
    }
    let refused = story.end(story.start(&["--resume"]));
    refused.assert_last_error(3, &["cannot resume consistently", "snapshot"]);
    let outcome = story.end(story.start(&["--resume", "--not-consistent"]));
    assert!(outcome.status.success(), "{}", outcome.stderr);
    story.assert_copied();
}
