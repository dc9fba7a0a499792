//! A target whose disk is full (trap 53): a tablespace on a file system of a few megabytes. It is waited for, or the run
//! stops when the user wants that; nothing is lost in either case.

use std::os::unix::fs::chown;
use std::time::Duration;

use nix::unistd::User;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{RUN_DEADLINE, Scene};
use crate::support::compare::assert_same;
use crate::support::small_disk::SmallDisk;
use crate::support::wait_until;

/// A database whose copy does not fit: 12 MB of rows, then indexes, some large objects.
fn large(source: &Cluster) -> String {
    let db = source.new_db("room");
    source.psql(
        &db,
        "create table small (id int primary key, v text);
         insert into small select g, 'v' from generate_series(1, 100) g;
         create table large (id int primary key, v text);
         insert into large select g, repeat(md5(g::text), 10) from generate_series(1, 30000) g;
         create index on large (v);
         select lo_from_bytea(0, decode(repeat('ab', 4000), 'hex')) from generate_series(1, 20)",
    );
    db
}

/// The target's database, in a tablespace of so many megabytes; the database has taken some of them itself.
fn copy_on(disk_size: &str, scene: &Scene, target: &Cluster) -> Option<(SmallDisk, String)> {
    let options = format!("size={disk_size},mode=700");
    let disk = SmallDisk::mount(&scene.path("disk"), &options)?;
    // The server is another user, who has to get there too.
    let server = User::from_name("postgres").unwrap().unwrap();
    let place = scene.path("disk").join("space");
    std::fs::create_dir(&place).unwrap();
    for path in [place.parent().unwrap(), &place] {
        chown(path, Some(server.uid.as_raw()), Some(server.gid.as_raw())).unwrap();
    }
    open_the_way(&place);
    let copy = target.new_db("room");
    let space = format!("space_{copy}");
    target.psql(
        "postgres",
        &format!("create tablespace {space} location '{}'", place.display()),
    );
    target.psql(
        "postgres",
        &format!("alter database {copy} set tablespace {space}"),
    );
    Some((disk, copy))
}

/// Directories of a test belong to its user alone.
fn open_the_way(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    for directory in path.ancestors().skip(1) {
        let Ok(found) = std::fs::metadata(directory) else {
            continue;
        };
        let mode = found.permissions().mode();
        let _ = std::fs::set_permissions(directory, PermissionsExt::from_mode(mode | 0o011));
    }
}

fn leave(target: &Cluster, copy: &str) {
    target.psql("postgres", &format!("drop database {copy} with (force)"));
    target.psql("postgres", &format!("drop tablespace space_{copy}"));
}

const OPTIONS: &[&str] = &["--no-tablespaces", "--table-jobs", "2", "--index-jobs", "2"];

#[test]
fn a_clone_waits_for_room_and_goes_on() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let Some((disk, copy)) = copy_on("14m", &scene, target) else {
        return;
    };
    let db = large(source);
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let mut run = scene.clone_db(&from, &to, OPTIONS).spawn();
    wait_until(RUN_DEADLINE, "a word about the full disk", || {
        assert!(run.is_running(), "it ended:\n{}", run.stderr());
        run.stderr().contains("waiting for room")
    });
    // Room for the rows alone: now an index does not fit.
    disk.change("size=200m");
    let outcome = run.wait_deadline(RUN_DEADLINE);
    outcome.assert_success(&["waiting for room"]);
    assert!(outcome.stderr.contains("No space left on device"));
    scene.assert_nothing_left(&outcome);
    assert_same(source, &db, target, &copy);
    leave(target, &copy);
}

#[test]
fn a_clone_that_is_to_stop_stops_and_is_resumed() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let Some((disk, copy)) = copy_on("14m", &scene, target) else {
        return;
    };
    let db = large(source);
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let stop = [OPTIONS, &["--on-disk-full", "stop"]].concat();
    let outcome = scene.clone_db(&from, &to, &stop).run();
    assert!(outcome.elapsed < Duration::from_secs(60));
    outcome.assert_failure(4, &["No space left on device", "SQLSTATE 53100"]);
    scene.assert_nothing_left(&outcome);
    disk.change("size=200m");
    let again = [&stop[..], &["--resume", "--not-consistent"]].concat();
    let outcome = scene.clone_db(&from, &to, &again).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    leave(target, &copy);
}
