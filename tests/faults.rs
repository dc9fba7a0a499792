//! Bad input: servers, databases, rights and programs that do not allow a clone. Each is told by one clear last line
//! before anything is changed, and once the cause is gone the same command works.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::cluster::{Cluster, StopMode, shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;
use crate::support::leftovers;
use crate::support::version::Version;

/// "Within seconds", on a machine that does other work at the same time.
const SECONDS: Duration = Duration::from_secs(15);

/// A database that is small and has one of each of the things that a clone does.
const SHOP: &str = "
    create table customer (id bigserial primary key, name text not null unique);
    create table invoice (id int primary key, customer bigint references customer, total numeric);
    create index on invoice (total);
    create view big_invoice as select * from invoice where total > 100;
    insert into customer (name) select 'customer ' || g from generate_series(1, 200) g;
    insert into invoice select g, 1 + g % 200, g from generate_series(1, 500) g";

fn shop(source: &Cluster) -> String {
    let db = source.new_db("shop");
    source.psql(&db, SHOP);
    db
}

/// It failed as told, within seconds, and left nothing behind: no process, no queue, no object on the target.
#[track_caller]
fn assert_refused(scene: &Scene, outcome: &Outcome, code: i32, texts: &[&str]) {
    outcome.assert_last_error(code, texts);
    assert!(outcome.elapsed < SECONDS, "{:?}", outcome.elapsed);
    scene.assert_nothing_left(outcome);
}

fn relations(cluster: &Cluster, db: &str) -> String {
    cluster.value(
        db,
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace",
    )
}

/// A port that nobody listens on.
fn closed_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_server_that_refuses_connections_is_waited_for_and_then_named() {
    let (source, scene) = (shared_source(), Scene::new());
    let nobody = format!("postgresql://postgres@127.0.0.1:{}/x", closed_port());
    for (from, to, code, side) in [
        (nobody.clone(), source.uri("postgres"), 6, "source"),
        (source.uri("postgres"), nobody, 7, "target"),
    ] {
        let outcome = scene
            .clone_db(&from, &to, &[])
            .env("PGCOPYDB_TEST_PATIENCE_MS", "2000")
            .run();
        let text = format!("could not connect to {side}: 127.0.0.1:");
        assert_refused(&scene, &outcome, code, &[&text, "refused"]);
        assert!(outcome.elapsed > Duration::from_millis(500));
        assert!(
            outcome.stderr.contains("trying again"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_missing_database_is_named() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (there, nowhere) = ("postgres", "no such db");
    let outcome = scene
        .clone_db(&source.uri(nowhere), &target.uri(there), &[])
        .run();
    let texts = ["source", "\"no such db\" does not exist", "3D000"];
    assert_refused(&scene, &outcome, 6, &texts);
    let outcome = scene
        .clone_db(&source.uri(there), &target.uri(nowhere), &[])
        .run();
    let texts = ["target", "\"no such db\" does not exist", "3D000"];
    assert_refused(&scene, &outcome, 7, &texts);
}

#[test]
fn tables_on_the_target_are_left_alone() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (shop(source), target.new_db("shop"));
    target.psql(
        &copy,
        "create table customer (id int); insert into customer values (7)",
    );
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let outcome = scene.clone_db(&from, &to, &[]).run();
    let texts = ["target not empty", "\"public\".\"customer\""];
    assert_refused(&scene, &outcome, 7, &texts);
    assert_eq!(target.value(&copy, "select id from customer"), "7");
    assert_eq!(relations(target, &copy), "1");
    // Told to replace them, it does.
    let outcome = scene.clone_db(&from, &to, &["--drop-if-exists"]).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

#[test]
fn rows_of_the_user_are_left_alone() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (shop(source), target.new_db("shop"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let stopped = scene
        .clone_db(&from, &to, &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=error")
        .run();
    stopped.assert_last_error(12, &["fault point"]);
    target.psql(&copy, "insert into customer values (1, 'mine')");
    let again = ["--resume", "--not-consistent"];
    let outcome = scene.clone_db(&from, &to, &again).run();
    let texts = ["target not empty", "\"public\".\"customer\""];
    assert_refused(&scene, &outcome, 7, &texts);
    assert_eq!(target.value(&copy, "select name from customer"), "mine");
    target.psql(&copy, "delete from customer");
    let outcome = scene.clone_db(&from, &to, &again).run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

#[test]
fn an_older_target_a_standby_and_a_missing_extension_are_refused() {
    let source = shared_source();
    let db = shop(source);
    let older = Cluster::start(Version::Pg14, &[]);
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(&db), &older.uri("postgres"), &[])
        .run();
    let texts = ["the target is PostgreSQL 14, older than the source, which is 15"];
    assert_refused(&scene, &outcome, 7, &texts);

    let newer = Cluster::start(Version::Pg17, &[]);
    newer.create_db("copy");
    source.psql(&db, "create extension adminpack");
    let (from, to) = (source.uri(&db), newer.uri("copy"));
    let scene = Scene::new();
    let outcome = scene.clone_db(&from, &to, &[]).tools(Version::Pg17).run();
    let texts = [
        "extensions of the source are not available on the target",
        "adminpack",
    ];
    assert_refused(&scene, &outcome, 7, &texts);
    assert_eq!(relations(&newer, "copy"), "0");

    newer.stop(StopMode::Fast);
    std::fs::write(newer.data_dir().join("standby.signal"), "").unwrap();
    newer.start_again();
    let scene = Scene::new();
    let outcome = scene.clone_db(&from, &to, &[]).tools(Version::Pg17).run();
    assert_refused(&scene, &outcome, 7, &["the target is a standby"]);
}

#[test]
fn pg_dump_is_looked_for_where_the_user_says() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (shop(source), target.new_db("shop"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    let outcome = scene
        .clone_db(&from, &to, &[])
        .env("PG_CONFIG", "/nonexistent/pg_config")
        .run();
    assert_refused(&scene, &outcome, 2, &["/nonexistent/pg_config"]);
    assert_eq!(relations(target, &copy), "0");
    // Debian's programs are found without PATH, but they are too old for 18.
    let outcome = scene.clone_db(&from, &to, &[]).env("PATH", "").run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
    let newer = Cluster::start(Version::Pg18, &[]);
    newer.create_db("copy");
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&newer.uri("postgres"), &newer.uri("copy"), &[])
        .env("PATH", "")
        .run();
    assert_refused(&scene, &outcome, 2, &["pg_dump", "18"]);
}

#[test]
fn missing_roles_and_tablespaces_are_listed() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (shop(source), target.new_db("shop"));
    let (from, to) = (source.uri(&db), target.uri(&copy));
    source.psql(
        &db,
        "create role \"Shop Owner\"; alter table invoice owner to \"Shop Owner\"",
    );
    let outcome = scene.clone_db(&from, &to, &[]).run();
    let texts = [
        "roles that own objects",
        "do not exist on the target",
        "Shop Owner",
    ];
    assert_refused(&scene, &outcome, 7, &texts);
    target.psql("postgres", "create role \"Shop Owner\"");
    let space = "set allow_in_place_tablespaces = on";
    source.psql(&db, space);
    let mut client = source.client(&db);
    client.batch_execute(space).unwrap();
    client
        .batch_execute("create tablespace shop_disk location ''")
        .unwrap();
    client
        .batch_execute("alter table customer set tablespace shop_disk")
        .unwrap();
    let outcome = scene.clone_db(&from, &to, &[]).run();
    let texts = [
        "tablespaces of the source do not exist on the target",
        "shop_disk",
    ];
    assert_refused(&scene, &outcome, 7, &texts);
    let outcome = scene.clone_db(&from, &to, &["--no-tablespaces"]).run();
    outcome.assert_success(&[]);
    client
        .batch_execute("alter table customer set tablespace pg_default")
        .unwrap();
    assert_same(source, &db, target, &copy);
    client.batch_execute("drop tablespace shop_disk").unwrap();
}

#[test]
fn a_role_without_the_right_to_create_is_told_which_right() {
    let (source, target, scene) = (shared_source(), shared_target(), Scene::new());
    let (db, copy) = (shop(source), target.new_db("shop"));
    target.psql("postgres", "create role clerk login");
    let to = target.uri(&copy).replace("user=postgres", "user=clerk");
    let more = ["--no-owner", "--no-acl"];
    let outcome = scene.clone_db(&source.uri(&db), &to, &more).run();
    let texts = [
        "role \"clerk\" has no right to create objects in target database",
        &copy,
    ];
    assert_refused(&scene, &outcome, 7, &texts);
    assert!(
        outcome.stderr.contains("GRANT CREATE ON DATABASE"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_database_is_not_copied_onto_itself() {
    let (source, scene) = (shared_source(), Scene::new());
    let db = shop(source);
    let other_way = source.tcp_uri(&db, source.port());
    let more = ["--drop-if-exists"];
    let outcome = scene.clone_db(&source.uri(&db), &other_way, &more).run();
    let texts = ["source and target are the same database", &db];
    assert_refused(&scene, &outcome, 1, &texts);
    assert_eq!(source.value(&db, "select count(*) from customer"), "200");
    leftovers::assert_no_backend(source, &db);
}
