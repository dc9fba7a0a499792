//! What a follow needs on both servers: set up, steered, cleaned up, refused with all reasons at once, and never taken from
//! another run.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::{Cluster, StopMode};
use crate::support::cmd::{Outcome, Scene};
use crate::support::following::{Following, SETTINGS, SOON, shared, start};
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

const TABLE: &str =
    "create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')";

fn of(version: Version, plugin: &'static str) -> Following<'static> {
    Following::of(shared(version), plugin, TABLE)
}

/// A `stream` command of this migration, with its plugin.
fn stream(following: &Following, words: &[&str]) -> Outcome {
    let command: Vec<&str> = ["stream"].iter().chain(words).copied().collect();
    following
        .command(&command, &["--plugin", following.plugin])
        .run()
}

fn set_up(following: &Following) {
    stream(following, &["setup"]).assert_success(&[]);
}

/// A second directory that is told the same names, or others.
fn in_another_dir(following: &Following, command: &[&str], name: &str) -> (Scene, Outcome) {
    let scene = Scene::new();
    let dir = scene.work_dir();
    let (source, target) = (&following.source_uri, &following.target_uri);
    let mut args = command.to_vec();
    args.extend(["--source", source, "--target", target, "--slot-name", name]);
    args.extend(["--origin", name, "--plugin", following.plugin]);
    args.extend(["--dir", dir.to_str().unwrap()]);
    let outcome = scene.command(args).run();
    (scene, outcome)
}

#[test]
fn set_up_steered_and_cleaned_up() {
    for version in [Version::Debian15, Version::Pg17] {
        for plugin in ["test_decoding", "pgoutput"] {
            let following = of(version, plugin);
            set_up(&following);
            assert_eq!(following.slot("plugin"), plugin);
            let publications = following.on_source("select count(*) from pg_publication_tables");
            assert_eq!(publications == "1", plugin == "pgoutput");
            let startpos = following.on_source("select startpos from pgcopydb.sentinel");
            let name = &following.name;
            let progress = format!("select pg_replication_origin_progress('{name}', true)");
            assert_eq!(following.on_target(&progress), startpos);
            // What is there already is used.
            set_up(&following);

            let get = following.sentinel_command(&["get"]);
            let wanted = format!(
                "startpos   {startpos}\nendpos     0/0\napply      disabled\nwrite_lsn  0/0\nflush_lsn  0/0\n\
                 replay_lsn 0/0\n"
            );
            assert_eq!(get.stdout, wanted);
            let set = following.sentinel_command(&["set", "endpos", "1/8D173AF8"]);
            assert_eq!(set.stdout, "1/8D173AF8\n");
            following.sentinel_command(&["set", "startpos", "0/10"]);
            following.sentinel_command(&["set", "apply"]);
            let json = following.sentinel_command(&["get", "--json"]).stdout;
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let wanted = serde_json::json!({
                "startpos": "0/10", "endpos": "1/8D173AF8", "apply": true,
                "write_lsn": "0/0", "flush_lsn": "0/0", "replay_lsn": "0/0"
            });
            assert_eq!(json, wanted);
            following.sentinel_command(&["set", "prefetch"]);
            assert!(!following.sentinel().apply);
            let before = following.current_lsn();
            let current = following.sentinel_command(&["set", "endpos", "--current"]);
            let covers = format!("select '{}'::pg_lsn >= '{before}'", current.stdout.trim());
            assert_eq!(following.on_source(&covers), "t");
            following.clean_up();
        }
    }
}

/// The objects one by one, and a cleanup of what is left of them (trap 51).
#[test]
fn halves_are_cleaned_up_too() {
    let following = of(Version::Debian15, "pgoutput");
    stream(&following, &["create", "slot"]).assert_success(&[]);
    assert_eq!(
        following.on_source("select count(*) from pg_publication"),
        "1"
    );
    let command = ["stream", "create", "origin"];
    let run = following.command(&command, &["--startpos", "0/10"]).run();
    run.assert_success(&[]);
    stream(&following, &["drop", "slot"]).assert_success(&[]);
    assert_eq!(
        following.on_source("select count(*) from pg_publication"),
        "0"
    );
    following.clean_up();
    set_up(&following);
    stream(&following, &["drop", "origin"]).assert_success(&[]);
    let outcome = stream(&following, &["setup"]);
    outcome.assert_last_error(7, &["is gone from the target"]);
    following.clean_up();
    set_up(&following);
    following.sentinel_command(&["drop"]);
    stream(&following, &["drop", "slot"]).assert_success(&[]);
    let outcome = stream(&following, &["setup"]);
    outcome.assert_last_error(6, &["is gone from the source"]);
    following.clean_up();
    // The sentinel alone, with positions of the user's.
    following.sentinel_command(&["create", "0/20", "0/30"]);
    assert_eq!(following.sentinel().endpos, "0/30");
    set_up(&following);
    assert_eq!(following.sentinel().endpos, "0/30");
    let startpos = following.on_source("select startpos > '0/20' from pgcopydb.sentinel");
    assert_eq!(startpos, "t");
    following.clean_up();
}

/// Trap 51: a slot that waits says for whom, and one that is given up leaves nothing.
#[test]
fn a_running_transaction_is_named_while_the_slot_waits_for_it() {
    // A server of its own: the slots of other tests would wait too.
    let source = start(Version::Debian15);
    let pair = (&source, shared(Version::Debian15).1);
    let following = Following::of(pair, "pgoutput", TABLE);
    let mut other = following.source.client(&following.db);
    other
        .batch_execute("begin; insert into t values (3, 'open')")
        .unwrap();
    let pid = following.on_source(
        "select pid from pg_stat_activity where state = 'idle in transaction' and datname = current_database()",
    );
    let command = ["stream", "setup"];
    let plugin = ["--plugin", "pgoutput"];
    let mut run = following.command(&command, &plugin).spawn();
    wait_until(SOON, "the transaction to be named", || {
        assert!(run.is_running(), "{}", run.stderr());
        run.stderr()
            .contains("waits for a transaction on the source")
    });
    for text in [format!("pid {pid}"), "running for 00:00:".to_owned()] {
        assert!(run.stderr().contains(&text), "{}", run.stderr());
    }
    assert!(run.stderr().contains("insert into t values (3, 'open')"));
    run.term();
    let outcome = run.wait_deadline(Duration::from_secs(10));
    outcome.assert_signalled(Signal::SIGTERM);
    following.scene.assert_nothing_left(&outcome);
    following.assert_nothing_left();
    // A prepared transaction has no process. When it ends, the slot is made.
    other.batch_execute("prepare transaction 'held'").unwrap();
    let mut run = following.command(&command, &plugin).spawn();
    wait_until(SOON, "the prepared transaction to be named", || {
        assert!(run.is_running(), "{}", run.stderr());
        run.stderr().contains("prepared transaction 'held'")
    });
    other.batch_execute("commit prepared 'held'").unwrap();
    run.wait_deadline(SOON).assert_success(&["waits for"]);
    drop(other);
    following.clean_up();
}

/// Trap 56 among them: all that is in the way is told at once, and nothing is made.
#[test]
fn all_that_is_in_the_way_is_told_at_once() {
    let settings = [
        ("wal_level", "replica"),
        ("max_replication_slots", "1"),
        ("max_wal_senders", "1"),
    ];
    let source = Cluster::start(Version::Debian15, &settings);
    source.psql(
        "postgres",
        "select pg_create_physical_replication_slot('taken');
         create role plain login in role pg_read_all_settings",
    );
    let target = shared(Version::Debian15).1;
    target.psql(
        "postgres",
        "do $$ begin create role weak login; exception when duplicate_object then end $$",
    );
    let mut following = Following::of(
        (&source, target),
        "wal2json",
        "create table keyless (id int); create table \"Unique\" (id int not null unique)",
    );
    following.source_uri = following.source_uri.replace("user=postgres", "user=plain");
    following.target_uri = following.target_uri.replace("user=postgres", "user=weak");
    let outcome = stream(&following, &["setup"]);
    outcome.assert_last_error(
        6,
        &[
            "cannot follow the source's changes",
            "things are in the way",
        ],
    );
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    for text in [
        "source: wal_level is \"replica\"",
        "source: no replication slot is free, of 1",
        "source: role plain has no right to replicate: ALTER ROLE plain REPLICATION",
        "source: output_plugin_libraries is",
        "source: 2 tables have no usable replica identity",
        "ALTER TABLE \"public\".\"keyless\" REPLICA IDENTITY FULL;",
        "ALTER TABLE \"public\".\"Unique\" REPLICA IDENTITY USING INDEX \"Unique_id_key\";",
        "target: role weak may not set session_replication_role",
        "GRANT SET ON PARAMETER session_replication_role TO weak",
        "target: role weak may neither use replication origins nor create a table",
    ] {
        let count = lines.iter().filter(|line| line.contains(text)).count();
        assert_eq!(count, 1, "{text} in {}", outcome.stderr);
    }
    following.assert_nothing_left();
}

/// Roles with the least rights: the sentinel is a file, as nothing may be created on the source; a table keeps the position,
/// as origins may not be used, and the rights for these are printed.
#[test]
fn roles_with_few_rights_have_a_file_and_a_table() {
    let mut following = of(Version::Debian15, "test_decoding");
    let (from, to) = (
        format!("sender_{}", following.name),
        format!("owner_{}", following.name),
    );
    let (db, copy) = (&following.db, &following.copy);
    following
        .source
        .psql(db, &format!("create role {from} login replication"));
    following.target.psql(
        "postgres",
        &format!(
            "create role {to} login; grant set on parameter session_replication_role to {to}; \
             alter database \"{copy}\" owner to {to}"
        ),
    );
    let as_role = |uri: &str, role: &str| uri.replace("user=postgres", &format!("user={role}"));
    following.source_uri = as_role(&following.source_uri, &from);
    following.target_uri = as_role(&following.target_uri, &to);
    // A role that may not read the setting learns it from the server, and nothing is left either.
    let outcome = following
        .command(&["stream", "setup"], &["--plugin", "no_such"])
        .run();
    outcome.assert_last_error(1, &["--plugin"]);
    let outcome = stream(&following, &["setup"]);
    outcome.assert_success(&["may not use replication origins"]);
    let grant =
        format!("GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup(text) TO {to};");
    assert!(outcome.stderr.contains(&grant), "{}", outcome.stderr);
    let json = following.sentinel_command(&["get", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let position = following.on_target("select lsn from pgcopydb.progress");
    assert_eq!(json["startpos"], position);
    let has_schema = "select count(*) from pg_namespace where nspname = 'pgcopydb'";
    assert_eq!(following.on_source(has_schema), "0");
    let before = following.current_lsn();
    following.set_endpos_current();
    let covers = format!(
        "select '{}'::pg_lsn >= '{before}'",
        following.sentinel().endpos
    );
    assert_eq!(following.on_source(&covers), "t");
    following.clean_up();
    following.source.psql(db, &format!("drop role {from}"));
    following.target.psql(
        "postgres",
        &format!(
            "alter database \"{copy}\" owner to postgres; \
             revoke set on parameter session_replication_role from {to}; drop role {to}"
        ),
    );
}

/// A plugin that cannot be loaded, told by the server when the slot is made: what was made before it is taken back.
#[test]
fn a_setup_that_fails_takes_back_what_it_made() {
    let source = Cluster::start(Version::Debian15, &[]);
    source.psql("postgres", "create role sender login replication");
    let target = shared(Version::Debian15).1;
    let mut following = Following::of(
        (&source, target),
        "wal2json",
        "create table k (id int primary key)",
    );
    following.source_uri = following.source_uri.replace("user=postgres", "user=sender");
    let outcome = stream(&following, &["setup"]);
    assert!(!outcome.status.success());
    let told = outcome.stderr.contains("could not create replication slot");
    assert!(
        told && outcome.stderr.contains("wal2json"),
        "{}",
        outcome.stderr
    );
    following.scene.assert_nothing_left(&outcome);
    following.assert_nothing_left();
}

/// Set up in one step, followed in another, to an end position on the boundary of a page: the insert position is then behind
/// a header, where no record ever ends (issue 3).
#[test]
fn the_current_position_is_one_that_is_reached() {
    let quiet = [
        ("autovacuum", "off"),
        ("bgwriter_delay", "10s"),
        ("checkpoint_timeout", "1d"),
    ];
    let settings: Vec<_> = SETTINGS.iter().chain(&quiet).copied().collect();
    let source = Cluster::start(Version::Pg17, &settings);
    let target = shared(Version::Pg17).1;
    let following = Following::of((&source, target), "test_decoding", "select 1");
    set_up(&following);
    // Reading a page for the first time may write to the log.
    following.sentinel_command(&["set", "endpos", "0/0"]);
    following.sentinel_command(&["get"]);
    let mut client = source.client(&following.db);
    let mut value = |sql: &str| -> i64 {
        let row = client.query_one(sql, &[]).unwrap();
        row.get(0)
    };
    let at = "select (pg_current_wal_insert_lsn() - '0/0')::int8";
    let endpos = (0..50).find_map(|_| {
        let emit = |bytes: i64| {
            format!(
                "select (pg_logical_emit_message(false, '', repeat('x', {bytes})) - '0/0')::int8"
            )
        };
        // What one message takes besides its bytes.
        let before = value(at);
        value(&emit(800));
        let besides = value(at) - before - 800;
        let left = 8192 - value(at) % 8192;
        if !(0..200).contains(&besides) || left < besides + 8 {
            return None;
        }
        value(&emit(left - besides));
        if value(at) % 8192 != 24 {
            return None;
        }
        let outcome = following.sentinel_command(&["set", "endpos", "--current"]);
        let lsn = outcome.stdout.trim().to_owned();
        let offset = format!("select (('{lsn}'::pg_lsn - '0/0') % 8192)::int8");
        (value(&offset) == 0).then_some(lsn)
    });
    let endpos = endpos.expect("the log's position was brought behind a page header");
    following.sentinel_command(&["set", "apply"]);
    let run = following.command(&["follow"], &[]).spawn();
    let outcome = run.wait_deadline(SOON);
    outcome.assert_success(&[]);
    assert_eq!(following.sentinel().endpos, endpos);
    following.clean_up();
}

/// The snapshot that came with a slot, for others to copy in and for a clone that follows.
#[test]
fn a_snapshot_with_a_slot_is_where_the_changes_begin() {
    for plugin in ["test_decoding", "pgoutput"] {
        let following = of(Version::Debian15, plugin);
        let dir = following.scene.work_dir();
        let (dir, name) = (dir.to_str().unwrap(), following.name.as_str());
        let uri = following.source_uri.as_str();
        let args = [
            "snapshot",
            "--follow",
            "--source",
            uri,
            "--dir",
            dir,
            "--slot-name",
            name,
            "--plugin",
            plugin,
        ];
        let mut holder = following.scene.command(args).spawn();
        wait_until(SOON, "the snapshot to be held", || {
            assert!(holder.is_running(), "{}", holder.stderr());
            holder.stderr().contains("holding it until a signal")
        });
        following.source.psql(
            &following.db,
            "insert into t values (3, 'later'); delete from t where id = 1",
        );
        let note = std::fs::read_to_string(following.scene.work_dir().join("snapshot")).unwrap();
        let (id, json) = note.trim().split_once('\n').unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["slot"], name);
        assert_eq!(json["lsn"], following.slot("confirmed_flush_lsn"));
        // Somebody else copies in it.
        let (scene, copy) = (Scene::new(), following.target.new_db("snapshot"));
        let more = ["--snapshot", id];
        let outcome = scene
            .clone_db(uri, &following.target.uri(&copy), &more)
            .run();
        outcome.assert_success(&["pg_attver", "is not ours"]);
        let rows = "select string_agg(id::text, ',' order by id) from t";
        assert_eq!(following.target.value(&copy, rows), "1,2");
        // Another directory does not know of it, and takes nothing of it.
        let (_, outcome) = in_another_dir(&following, &["clone", "--follow"], name);
        outcome.assert_last_error(6, &["is on the source already", "is not known here"]);
        // The clone that follows begins there.
        let mut run = following.clone_and_apply(&[]);
        following.wait_on_target(&mut run, rows, "2,3");
        holder.term();
        let outcome = holder.wait_deadline(SOON);
        outcome.assert_success(&[]);
        assert_eq!(outcome.stdout.trim(), id);
        following.cut_over(run, &["pg_attver"]);
    }
    let args = ["snapshot", "--source", "dbname=x", "--slot-name", "y"];
    let outcome = Scene::new().command(args).run();
    outcome.assert_last_error(1, &["--slot-name needs --follow"]);
}

#[test]
fn nothing_is_taken_from_another_run() {
    let following = of(Version::Debian15, "test_decoding");
    set_up(&following);
    let name = following.name.as_str();
    let (_, outcome) = in_another_dir(&following, &["clone", "--follow"], name);
    outcome.assert_last_error(6, &["replication slot", "is on the source already"]);
    // Two follows would share one sentinel.
    let other = format!("{name}_b");
    let (_, outcome) = in_another_dir(&following, &["stream", "setup"], &other);
    outcome.assert_last_error(6, &["sentinel", "belongs to the follow of", name]);
    let (_, outcome) = in_another_dir(&following, &["stream", "cleanup"], &other);
    outcome.assert_success(&[]);
    assert!(outcome.stderr.contains("it stays"), "{}", outcome.stderr);
    assert_eq!(
        following.on_source("select count(*) from pgcopydb.sentinel"),
        "1"
    );
    // Names other than those that were set up would leave these behind.
    let mistaken = following.scene.command([
        "stream",
        "cleanup",
        "--source",
        &following.source_uri,
        "--target",
        &following.target_uri,
        "--dir",
        following.scene.work_dir().to_str().unwrap(),
    ]);
    let outcome = mistaken.run();
    outcome.assert_last_error(3, &["was set up with --slot-name", name]);
    // Changes that the source was told to be safe are in the other directory.
    following.source.psql(
        &following.db,
        &format!(
            "insert into t values (7, 'x'); select pg_replication_slot_advance('{name}', pg_current_wal_lsn())"
        ),
    );
    let (_, outcome) = in_another_dir(&following, &["stream", "setup"], name);
    outcome.assert_last_error(
        7,
        &["belongs to another run", "are in that run's directory"],
    );
    // A slot of another database, with the same default name, and its origin.
    let db = following.source.new_db("other");
    let mut elsewhere = Following::of(shared(Version::Debian15), "test_decoding", "select 1");
    elsewhere.source_uri = following.source.uri(&db);
    let (_, outcome) = in_another_dir(&elsewhere, &["stream", "cleanup"], name);
    outcome.assert_success(&[]);
    assert!(
        outcome.stderr.contains("belongs to database"),
        "{}",
        outcome.stderr
    );
    assert_ne!(following.slot("slot_name"), "");
    following.clean_up();
}

/// Somebody's own publication is neither used nor dropped, and one for all tables keeps our table away.
#[test]
fn publications_of_the_users_stay() {
    let following = of(Version::Debian15, "pgoutput");
    let name = &following.name;
    following.source.psql(
        &following.db,
        &format!("create publication {name} for table t"),
    );
    let outcome = stream(&following, &["setup"]);
    outcome.assert_last_error(6, &["was not made by pgcopydb"]);
    let outcome = stream(&following, &["cleanup"]);
    outcome.assert_success(&[]);
    assert_eq!(
        following.on_source("select count(*) from pg_publication"),
        "1"
    );
    following.source.psql(
        &following.db,
        &format!("drop publication {name}; create publication everything for all tables"),
    );
    set_up(&following);
    let has_table = "select to_regclass('pgcopydb.sentinel') is not null";
    assert_eq!(following.on_source(has_table), "f");
    following.set_endpos("0/AB");
    assert_eq!(following.sentinel().endpos, "0/AB");
    let current = following.sentinel_command(&["set", "endpos", "--current"]);
    assert_eq!(following.sentinel().endpos, current.stdout.trim());
    following
        .source
        .psql(&following.db, "drop publication everything");
    following.clean_up();
}

/// A slot that nobody reads fills the source's disk: it goes even when the target is away.
#[test]
fn the_source_is_cleaned_when_the_target_is_away() {
    let source = shared(Version::Debian15).0;
    let target = start(Version::Debian15);
    let following = Following::of((source, &target), "test_decoding", TABLE);
    set_up(&following);
    target.stop(StopMode::Fast);
    let cleanup = following
        .command(&["stream", "cleanup"], &[])
        .env("PGCOPYDB_TEST_PATIENCE_MS", "300");
    let outcome = cleanup.run();
    outcome.assert_last_error(7, &["could not connect to target"]);
    assert_eq!(following.slot("slot_name"), "");
    target.start_again();
    following.clean_up();
    leftovers::assert_no_backend(source, &following.db);
}

/// Triggers and rules that fire for changes too are off while changes are applied, and on again after a cleanup.
#[test]
fn triggers_are_as_they_were_after_a_cleanup() {
    let following = Following::of(
        shared(Version::Debian15),
        "test_decoding",
        "create table public.marks (mark int primary key);
         create table p (id int primary key) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20);
         create table gone (id int primary key);
         create function f() returns trigger language plpgsql as $$ begin return new; end $$;
         create trigger a before insert on p for each row execute function f();
         create trigger b before insert on gone for each row execute function f();
         alter table p enable always trigger a;
         alter table p2 disable trigger a;
         alter table gone enable replica trigger b;
         create rule r as on delete to gone do instead nothing;
         alter table gone enable always rule r",
    );
    let states = "select string_agg(concat_ws(' ', tgrelid::regclass, tgname, tgenabled), ', ') from
                  (select * from pg_trigger where not tgisinternal order by tgrelid::regclass::text) t";
    let before = following.on_source(states);
    assert_eq!(before, "gone b R, p a A, p1 a A, p2 a D");
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    assert_eq!(
        following.on_target(states),
        "gone b D, p a D, p1 a D, p2 a D"
    );
    run.kill9();
    run.wait_deadline(SOON).assert_signalled(Signal::SIGKILL);
    following
        .target
        .psql(&following.copy, "drop trigger b on gone");
    following.clean_up();
    assert_eq!(following.on_target(states), "p a A, p1 a A, p2 a D");
    assert_eq!(
        following.on_target("select ev_enabled from pg_rewrite where rulename = 'r'"),
        "A"
    );
}
