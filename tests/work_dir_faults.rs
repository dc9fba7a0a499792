//! A work directory that cannot be used: somebody else's, read-only, full. Nothing is ever written through a link or
//! into a directory that is not ours, and a full disk costs only a resume.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;
use crate::support::following::{Following, shared};
use crate::support::small_disk::SmallDisk;
use crate::support::version::Version;
use crate::support::wait_until;

fn shop(source: &Cluster) -> String {
    let db = source.new_db("disk");
    source.psql(
        &db,
        "create table customer (id int primary key, name text);
         insert into customer select g, 'customer ' || g from generate_series(1, 300) g;
         do $$ begin
           for i in 1..30 loop
             execute format('create table t%s as select generate_series(1, 20) a', i);
             execute format('create index on t%s (a)', i);
           end loop;
         end $$;",
    );
    db
}

#[track_caller]
fn assert_refused(scene: &Scene, outcome: &Outcome, code: i32, texts: &[&str]) {
    outcome.assert_last_error(code, texts);
    assert!(outcome.elapsed < Duration::from_secs(10));
    scene.assert_nothing_left(outcome);
}

#[test]
fn a_directory_of_somebody_else_is_not_touched() {
    let (source, target) = (shared_source(), shared_target());
    let (from, to) = (source.uri("postgres"), target.uri("postgres"));
    let run = |scene: &Scene| scene.clone_db(&from, &to, &[]).run();

    let scene = Scene::new();
    fs::create_dir(scene.work_dir()).unwrap();
    fs::write(scene.work_dir().join("thesis.tex"), "years").unwrap();
    let texts = [
        "cannot use work directory",
        "\"thesis.tex\" in it is not pgcopydb's",
    ];
    assert_refused(&scene, &run(&scene), 3, &texts);
    let there = fs::read_dir(scene.work_dir()).unwrap().count();
    assert_eq!(there, 1, "something was made in it");

    let scene = Scene::new();
    fs::create_dir(scene.work_dir()).unwrap();
    fs::create_dir(scene.path("precious")).unwrap();
    fs::write(scene.path("precious/file"), "").unwrap();
    symlink(scene.path("precious"), scene.work_dir().join("schema")).unwrap();
    let outcome = scene.clone_db(&from, &to, &["--restart"]).run();
    assert_refused(
        &scene,
        &outcome,
        3,
        &["\"schema\" in it is a symbolic link"],
    );
    assert!(scene.path("precious/file").exists());

    let scene = Scene::new();
    fs::create_dir(scene.path("elsewhere")).unwrap();
    symlink(scene.path("elsewhere"), scene.work_dir()).unwrap();
    assert_refused(&scene, &run(&scene), 3, &["cannot use work directory"]);

    let scene = Scene::new();
    fs::write(scene.work_dir(), "a file").unwrap();
    let outcome = run(&scene);
    assert!(outcome.status.code().is_some_and(|code| code != 0));
    assert!(outcome.stderr.contains(scene.work_dir().to_str().unwrap()));

    if geteuid().is_root() {
        let scene = Scene::new();
        fs::create_dir(scene.work_dir()).unwrap();
        chown(scene.work_dir(), Some(1), None).unwrap();
        assert_refused(&scene, &run(&scene), 3, &["it belongs to user id 1"]);
    } else {
        println!("not root: cannot make another user's directory");
    }
}

/// Whatever the user's umask says and whoever makes a file: pg_dump does, too. And no core, which would hold passwords.
#[test]
fn nobody_else_can_read_what_a_run_leaves() {
    let following = Following::of(
        shared(Version::Pg17),
        "pgoutput",
        "create table marks (mark int primary key); create table t (id int primary key); insert into t values (1)",
    );
    let dir = following.scene.work_dir();
    let command = format!(
        "umask 0; ulimit -c unlimited 2>/dev/null; exec pgcopydb clone --follow --plugin pgoutput --dir '{}' \
         --source '{}' --target '{}' --slot-name {name} --origin {name} --trace",
        dir.display(),
        following.source_uri,
        following.target_uri,
        name = following.name
    );
    let mut run = following.scene.bash(&command).spawn();
    following.wait_for_apply(&mut run);
    following.wait_for_mark(&mut run);
    for process in run.processes() {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid));
        let limits = limits.unwrap_or_default();
        let core = limits.lines().find(|line| line.starts_with("Max core"));
        let soft = core.and_then(|line| line.split_ascii_whitespace().nth(4));
        assert!(soft.is_none_or(|soft| soft == "0"), "{process:?}: {core:?}");
    }
    let mut count = 0;
    assert_private(&dir, &mut count);
    assert!(count > 20, "{count} files and directories");
    following.cut_over(run, &[]);
}

fn assert_private(path: &Path, count: &mut u32) {
    // Files of changes come and go.
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    *count += 1;
    let mode = metadata.permissions().mode() & 0o777;
    let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(mode, wanted, "{} has mode {mode:o}", path.display());
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            assert_private(&entry.path(), count);
        }
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (from, to) = (source.uri("postgres"), target.uri("postgres"));
    // Permissions do not hold root back, a read-only disk does.
    let disk = SmallDisk::mount(&scene.work_dir(), "size=1m,mode=700");
    match &disk {
        Some(disk) => disk.change("ro"),
        None => {
            fs::create_dir(scene.work_dir()).unwrap();
            fs::set_permissions(scene.work_dir(), fs::Permissions::from_mode(0o500)).unwrap();
        }
    }
    let outcome = scene.clone_db(&from, &to, &[]).run();
    let dir = scene.work_dir();
    assert_refused(&scene, &outcome, 12, &[dir.to_str().unwrap()]);
}

/// Wherever the disk gets full: during the dump, the tables, the indexes.
#[test]
fn a_full_disk_ends_the_run_and_a_resume_completes_it() {
    let (source, target) = (shared_source(), shared_target());
    let db = shop(source);
    let mut ended_early = 0;
    for kilobytes in [4, 60, 120, 240, 320, 400, 520] {
        let scene = Scene::new();
        let size = format!("size={kilobytes}k,mode=700");
        let Some(disk) = SmallDisk::mount(&scene.work_dir(), &size) else {
            return;
        };
        let copy = target.new_db("disk");
        let (from, to) = (source.uri(&db), target.uri(&copy));
        let outcome = scene.clone_db(&from, &to, &[]).run();
        scene.assert_nothing_left(&outcome);
        if !outcome.status.success() {
            ended_early += 1;
            let texts = ["No space left on device"];
            assert_refused(&scene, &outcome, 12, &texts);
            disk.change("size=20m");
            let outcome = scene
                .clone_db(&from, &to, &["--resume", "--not-consistent"])
                .run();
            outcome.assert_success(&["is not whole", "are free for"]);
        }
        assert_same(source, &db, target, &copy);
    }
    assert!(ended_early >= 4, "only {ended_early} disks were full");
}

#[test]
fn a_second_run_on_one_directory_is_refused_with_the_pid_of_the_first() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (shop(source), target.new_db("disk"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    // Held in the middle: the target's table is locked as soon as it is there.
    let mut client = source.client(&db);
    client
        .batch_execute("begin; lock table customer in access exclusive mode")
        .unwrap();
    let mut first = scene.clone_db(&from, &to, &[]).spawn();
    wait_until(
        Duration::from_secs(20),
        "the run to wait for the lock",
        || {
            assert!(first.is_running(), "{}", first.stderr());
            scene.work_dir().join("run").exists()
        },
    );
    for more in [&[][..], &["--resume"], &["--restart"]] {
        let outcome = scene.clone_db(&from, &to, more).run();
        let pid = format!("pid {}", first.pid());
        outcome.assert_last_error(3, &["another pgcopydb", &pid]);
    }
    client.batch_execute("rollback").unwrap();
    let outcome = first.wait_deadline(Duration::from_secs(60));
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    let outcome = scene.clone_db(&from, &to, &[]).run();
    outcome.assert_last_error(3, &["holds an earlier run"]);
    scene
        .clone_db(&from, &to, &["--resume"])
        .run()
        .assert_success(&[]);
}
