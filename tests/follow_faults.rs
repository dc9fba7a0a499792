//! What breaks while the tool follows: processes are killed, sessions ended, connections cut, servers restarted. It goes
//! on by itself or after --resume; in the end nothing is lost and nothing is there twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::Cluster;
use crate::support::cmd::Running;
use crate::support::following::{Following, SOON, shared, start};
use crate::support::proxy::Proxy;
use crate::support::version::Version;
use crate::support::wait_until;
use crate::support::workload::{self, Workload};

/// A fault is told as a warning; an error would mean that it was not overcome.
const TOLD: &[&str] = &[" WARN "];

fn loaded<'a>(pair: (&'a Cluster, &'a Cluster), plugin: &'static str) -> Following<'a> {
    Following::new(pair, plugin, |source, db| {
        workload::create(source, db, false)
    })
}

/// Follow under load, let `fault` happen, and go on.
#[track_caller]
fn survives(following: &Following, fault: impl Fn(&Following, &mut Running)) {
    let load = Workload::start(following.source, &following.db);
    let mut run = following.clone_and_apply(&[]);
    load.allow_truncate();
    following.wait_for_mark(&mut run);
    for _ in 0..3 {
        load.wait_for(60);
        fault(following, &mut run);
        // A mark is inserted on the source, which must be up again.
        following.wait_for_mark(&mut run);
    }
    load.wait_for(60);
    load.finish();
    following.cut_over(run, TOLD);
}

/// Trap 6: after a kill -9 the origin's position alone says what was applied. The others stop, the cause is told.
#[track_caller]
fn resumes_after_kill_of(role: &str, plugin: &'static str) {
    let following = loaded(shared(Version::Debian15), plugin);
    let load = Workload::start(following.source, &following.db);
    let mut run = following.clone_and_apply(&[]);
    load.allow_truncate();
    following.wait_for_mark(&mut run);
    for _ in 0..3 {
        load.wait_for(80);
        following.kill_role(&mut run, role);
        let outcome = run.wait_deadline(SOON);
        assert!(!outcome.status.success(), "{}", outcome.stderr);
        if role != "parent" {
            let log = &outcome.stderr;
            assert!(
                log.contains(role) && log.contains("was terminated by SIGKILL"),
                "{log}"
            );
        }
        following.scene.assert_nothing_left(&outcome);
        load.wait_for(40);
        run = following.resume(&[]);
        following.wait_for_mark(&mut run);
    }
    load.finish();
    following.cut_over(run, TOLD);
}

#[test]
fn receive_is_killed() {
    resumes_after_kill_of("receive", "test_decoding");
}

#[test]
fn transform_is_killed() {
    resumes_after_kill_of("transform", "pgoutput");
}

#[test]
fn apply_is_killed() {
    resumes_after_kill_of("apply", "pgoutput");
}

#[test]
fn the_parent_is_killed() {
    resumes_after_kill_of("parent", "test_decoding");
}

/// A target that fails over to a replica between two modes has lost what was applied in the first: the pipe of live replay
/// begins after that, so that the files are read again.
#[test]
fn a_target_that_loses_changes_before_live_replay_gets_them_again() {
    let following = loaded(shared(Version::Debian15), "pgoutput");
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    following.sentinel_command(&["set", "prefetch"]);
    run.term();
    run.wait_deadline(SOON);
    let origin = format!("pg_replication_origin_progress('{}', true)", following.name);
    let before = following.on_target(&format!("select {origin}"));
    let run = following.resume(&[]);
    following
        .source
        .psql(&following.db, "insert into marks values (-1), (-2)");
    following.wait_for_slot(&following.current_lsn());
    run.term();
    run.wait_deadline(SOON);
    following.sentinel_command(&["set", "apply"]);
    let mut run = following
        .command(&["clone", "--follow", "--resume"], &[])
        .env("PGCOPYDB_FAILPOINT", "follow.before_mode/Live=sleep:3000")
        .spawn();
    following.wait_on_target(&mut run, "select count(*) from marks where mark < 0", "2");
    wait_until(SOON, "apply to have ended", || {
        following.process(&run, "apply").is_none()
    });
    following.target.psql(
        &following.copy,
        &format!(
            "delete from marks where mark < 0; select pg_replication_origin_advance('{}', '{before}')",
            following.name
        ),
    );
    following.wait_for_mark(&mut run);
    let log = run.stderr();
    assert!(
        log.contains("the target has lost what it had not flushed"),
        "{log}"
    );
    following.cut_over(run, TOLD);
}

/// Trap 46: a stop by a signal is no end position, and the run dies by that signal.
#[test]
fn a_stop_is_resumed() {
    let following = loaded(shared(Version::Debian15), "test_decoding");
    let load = Workload::start(following.source, &following.db);
    let mut run = following.clone_and_apply(&[]);
    load.allow_truncate();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        following.wait_for_mark(&mut run);
        run.signal(signal);
        let outcome = run.wait_deadline(Duration::from_secs(20));
        outcome.assert_signalled(signal);
        following.scene.assert_nothing_left(&outcome);
        load.wait_for(50);
        run = following.resume(&[]);
    }
    following.wait_for_mark(&mut run);
    load.finish();
    following.cut_over(run, TOLD);
}

#[test]
fn the_walsender_is_terminated() {
    let following = loaded(shared(Version::Debian15), "test_decoding");
    survives(&following, |following, _| {
        wait_until(SOON, "a walsender of ours", || {
            following.terminate_walsender() != "0"
        });
    });
}

/// Trap 11: the old session may hold the origin for a while.
#[test]
fn the_apply_session_is_terminated() {
    let following = loaded(shared(Version::Debian15), "pgoutput");
    survives(&following, |following, _| {
        wait_until(SOON, "a session of apply", || {
            following.terminate_apply() != "0"
        });
    });
}

#[test]
fn the_source_restarts() {
    let source = start(Version::Debian15);
    let following = loaded((&source, shared(Version::Debian15).1), "test_decoding");
    survives(&following, |following, _| {
        following.source.restart_immediate()
    });
}

/// Trap 7: the target loses what it had committed asynchronously; the slot must not have passed that.
#[test]
fn the_target_restarts() {
    let target = start(Version::Debian15);
    let slow_flush = &[("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    target.configure(slow_flush);
    target.restart_immediate();
    let following = loaded((shared(Version::Debian15).0, &target), "pgoutput");
    survives(&following, |following, _| {
        following.target.restart_immediate()
    });
}

/// The connections of all processes break in the middle of a message, some thousand bytes later each time.
fn cuts(proxy: &Proxy) -> impl Fn(&Following, &mut Running) {
    let next = AtomicU64::new(1);
    move |following: &Following, run: &mut Running| {
        let (_, before) = proxy.bytes();
        proxy.cut_after(next.fetch_add(3_001, Ordering::Relaxed));
        wait_until(SOON, "bytes to pass the proxy, or the cut", || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            following.source.psql(
                &following.db,
                "insert into w.emptied_b (v) select 'x' from generate_series(1, 50)",
            );
            proxy.bytes().1 > before + 20_000
        });
        proxy.cut();
    }
}

#[test]
fn the_connection_to_the_source_is_cut() {
    let mut following = loaded(shared(Version::Debian15), "test_decoding");
    let proxy = Proxy::start(following.source.port());
    following.source_uri = following.source.tcp_uri(&following.db, proxy.port());
    survives(&following, cuts(&proxy));
}

/// Receive asks for the catalog when a mode begins: the source may be away just then, for longer than a start waits.
#[test]
fn a_source_that_is_away_when_a_mode_begins_is_waited_for() {
    let mut following = Following::of(
        shared(Version::Pg17),
        "pgoutput",
        "create table public.marks (mark int primary key)",
    );
    let proxy = Proxy::start(following.source.port());
    following.source_uri = following.source.tcp_uri(&following.db, proxy.port());
    let mut run = following
        .command(&["clone", "--follow"], &[])
        .env("PGCOPYDB_FAILPOINT", "follow.before_mode=sleep:700")
        .env("PGCOPYDB_TEST_PATIENCE_MS", "400")
        .spawn();
    wait_until(SOON, "live replay to be about to begin", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr().contains("replaying changes live")
    });
    proxy.refuse(true);
    proxy.cut();
    wait_until(SOON, "receive to wait", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr()
            .contains("waiting for the source: could not connect")
    });
    proxy.refuse(false);
    following.wait_for_mark(&mut run);
    following.cut_over(run, TOLD);
}

#[test]
fn the_connection_to_the_target_is_cut() {
    let mut following = loaded(shared(Version::Debian15), "pgoutput");
    let proxy = Proxy::start(following.target.port());
    following.target_uri = following.target.tcp_uri(&following.copy, proxy.port());
    survives(&following, |following, run| {
        let (_, before) = proxy.bytes();
        proxy.cut_after(500);
        wait_until(SOON, "the connections to be cut", || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            following
                .source
                .psql(&following.db, "insert into w.emptied_b (v) values ('x')");
            proxy.bytes().1 >= before + 500
        });
    });
}

/// As long as it takes: the target refuses connections for a while, the source must not notice.
#[test]
fn a_target_that_is_away_is_waited_for() {
    let mut following = loaded(shared(Version::Debian15), "test_decoding");
    let proxy = Proxy::start(following.target.port());
    following.target_uri = following.target.tcp_uri(&following.copy, proxy.port());
    survives(&following, |following, _| {
        proxy.refuse(true);
        proxy.cut();
        let lsn = following.current_lsn();
        // Receive goes on, and confirms what is on our disk.
        following.wait_for_slot(&lsn);
        proxy.refuse(false);
    });
}

/// Before live replay what is on disk is applied, and nothing is received: that must not wait for a target that is away.
#[test]
fn a_target_that_is_away_does_not_keep_what_is_received_waiting() {
    let mut following = Following::of(
        shared(Version::Pg17),
        "pgoutput",
        "create table public.marks (mark int primary key)",
    );
    let proxy = Proxy::start(following.target.port());
    following.target_uri = following.target.tcp_uri(&following.copy, proxy.port());
    let mut run = following
        .command(&["clone", "--follow"], &[])
        .env("PGCOPYDB_FAILPOINT", "follow.before_mode=sleep:1000")
        .spawn();
    wait_until(SOON, "what was received to be about to be applied", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr()
            .contains("applying what was received before live replay")
    });
    proxy.refuse(true);
    proxy.cut();
    let refused = std::time::Instant::now();
    wait_until(SOON, "receiving to go on", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr().contains("receiving meanwhile")
    });
    // A server that refuses is waited for a minute elsewhere.
    assert!(
        refused.elapsed() < Duration::from_secs(40),
        "{}",
        run.stderr()
    );
    proxy.refuse(false);
    following.wait_for_mark(&mut run);
    following.cut_over(run, TOLD);
}

/// Trap 9 and a full pipe: receive answers keepalives whatever apply does.
#[test]
fn a_blocked_target_does_not_cost_the_connection_to_the_source() {
    let source = start(Version::Debian15);
    source.configure(&[("wal_sender_timeout", "3s")]);
    source.restart_immediate();
    let following = Following::of(
        (&source, shared(Version::Debian15).1),
        "pgoutput",
        "create table public.marks (mark int primary key); create table t (id bigserial primary key, v text)",
    );
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    // Between two modes nobody receives.
    let mut sender = String::new();
    wait_until(SOON, "the slot to be in use", || {
        sender = following.slot("active_pid");
        !sender.is_empty()
    });
    let mut lock = following.target.client(&following.copy);
    lock.batch_execute("begin; lock table t in share mode")
        .unwrap();
    let blocked = std::time::Instant::now();
    wait_until(
        SOON,
        "three times the timeout, and more changes than a pipe holds",
        || {
            assert!(run.is_running(), "it ended:\n{}", run.stderr());
            source.psql(
                &following.db,
                "insert into t (v) select repeat('x', 1000) from generate_series(1, 1000)",
            );
            blocked.elapsed() > Duration::from_secs(9)
        },
    );
    let lsn = following.current_lsn();
    following.wait_for_slot(&lsn);
    assert_eq!(following.slot("active_pid"), sender, "{}", run.stderr());
    drop(lock);
    following.wait_for_mark(&mut run);
    following.cut_over(run, TOLD);
}

/// Trap 53: what the server says of a full disk comes from a constraint here, in the same words and with the same SQLSTATE;
/// a file system of our own would take root.
const ROOM: &str = "
    create table public.marks (mark int primary key); create table public.no_room (since timestamptz primary key);
    create function public.has_room() returns bool volatile language plpgsql as $$ begin
        if exists (select from public.no_room) then
            raise exception 'could not extend file \"base/1/2\": No space left on device'
                using errcode = 'disk_full', hint = 'Check free disk space.';
        end if;
        return true; end $$;
    create table t (id int primary key, v text, check (public.has_room()))";

/// Receiving goes on, so that the source can recycle its WAL; applying goes on by itself when there is room again.
#[test]
fn a_target_without_room_is_waited_for() {
    let following = Following::of(shared(Version::Pg17), "pgoutput", ROOM);
    let mut run = following.clone_and_apply(&[]);
    following.wait_for_mark(&mut run);
    following
        .target
        .psql(&following.copy, "insert into public.no_room values (now())");
    for first in 0..5 {
        let sql = format!(
            "insert into t select {first}00 + g, 'v' from generate_series(1, 50) g; update t set v = 'w' where id % 7 = 0"
        );
        following.source.psql(&following.db, &sql);
    }
    following.wait_for_slot(&following.current_lsn());
    wait_until(SOON, "a word about it", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr()
            .contains("trying again until the target has room")
    });
    assert_eq!(following.on_target("select count(*) from t"), "0");
    following
        .target
        .psql(&following.copy, "truncate public.no_room");
    following.wait_for_mark(&mut run);
    following.cut_over(run, &["No space left on device"]);
}

/// The same for who does not want to wait: the run ends with the cause, and goes on when it is asked to.
#[test]
fn a_target_without_room_ends_the_run_that_is_to_stop() {
    let following = Following::of(shared(Version::Pg17), "pgoutput", ROOM);
    let mut run = following.clone_and_apply(&["--on-disk-full", "stop"]);
    following.wait_for_mark(&mut run);
    following
        .target
        .psql(&following.copy, "insert into public.no_room values (now())");
    following.source.psql(
        &following.db,
        "insert into t select g, 'v' from generate_series(1, 50) g",
    );
    let outcome = run.wait_deadline(SOON);
    outcome.assert_last_error(4, &["No space left on device", "SQLSTATE 53100"]);
    following.scene.assert_nothing_left(&outcome);
    following
        .target
        .psql(&following.copy, "truncate public.no_room");
    let mut run = following.resume(&["--on-disk-full", "stop"]);
    following.wait_for_mark(&mut run);
    following.cut_over(run, &[]);
}
