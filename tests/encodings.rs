//! Databases in other encodings than UTF-8, SQL_ASCII with its bytes of no encoding among them. Trap 34.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;

/// A database of this encoding; only the C locale goes with all of them.
fn new_db(server: &Cluster, encoding: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let db = format!("encoded_{}_{count}", encoding.to_lowercase());
    let sql = format!("create database {db} encoding '{encoding}' locale 'C' template template0");
    server.psql("postgres", &sql);
    db
}

/// Names and texts with umlauts, wherever a name or a text can be. As UTF-8 from the client, whatever the encoding of
/// the database is.
const UMLAUTS: &str = "
    create schema \"Übung\";
    create type \"Übung\".\"Größe\" as enum ('groß', 'klein');
    create table \"Übung\".\"Straße\" (\"Schlüssel\" serial primary key, \"Öl\" text default 'für',
        g \"Übung\".\"Größe\", check (\"Öl\" <> 'böse'));
    comment on table \"Übung\".\"Straße\" is 'Straßen';
    create index \"Ölindex\" on \"Übung\".\"Straße\" (\"Öl\") where \"Öl\" <> 'ä';
    insert into \"Übung\".\"Straße\" (\"Öl\", g) select 'Öl ' || g || ' äöüß', 'groß' from generate_series(1, 100) g;
    create view \"Übung\".\"Ansicht\" as select \"Öl\" || 'é' as \"è\" from \"Übung\".\"Straße\";
    create function \"Übung\".\"tü\"() returns text language sql as 'select ''ñ''::text';
    create table plain (id int primary key, t text, b bytea, c \"char\", x xml, j json);
    insert into plain values (1, 'Ä', '\\xff00', 'z', '<a>ö</a>', '{\"ü\": \"ß\"}');
    select lo_from_bytea(0, '\\xe4f6fc')";

fn clone(from: &str, to: &str, options: &[&str]) -> (Outcome, String, String, Scene) {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (new_db(source, from), new_db(target, to));
    source.psql(&db, UMLAUTS);
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), options)
        .run();
    scene.assert_nothing_left(&outcome);
    (outcome, db, copy, scene)
}

#[test]
fn characters_travel_between_encodings() {
    for (from, to) in [
        ("LATIN1", "UTF8"),
        ("LATIN1", "LATIN1"),
        ("UTF8", "LATIN1"),
        ("WIN1252", "LATIN9"),
        ("LATIN1", "SQL_ASCII"),
        // Bytes without an encoding that happen to be UTF-8.
        ("SQL_ASCII", "UTF8"),
        ("SQL_ASCII", "SQL_ASCII"),
    ] {
        let (outcome, db, copy, _scene) = clone(from, to, &[]);
        // Where characters might be refused, that is said before.
        outcome.assert_success(&["encoding of the"]);
        assert_same(shared_source(), &db, shared_target(), &copy);
    }
    // Again, over what is there: names are found whatever their bytes are.
    let (_, db, copy, scene) = clone("LATIN1", "LATIN9", &[]);
    let (from, to) = (shared_source().uri(&db), shared_target().uri(&copy));
    let again = ["--restart", "--drop-if-exists"];
    let outcome = scene.clone_db(&from, &to, &again).run();
    outcome.assert_success(&["encoding of the target is LATIN9"]);
    assert_same(shared_source(), &db, shared_target(), &copy);
    for (from, to) in [("LATIN1", "UTF8"), ("SQL_ASCII", "SQL_ASCII")] {
        let (outcome, db, copy, _scene) = clone(from, to, &["--use-copy-binary"]);
        outcome.assert_success(&[]);
        assert_same(shared_source(), &db, shared_target(), &copy);
    }
}

/// The bytes of LATIN1 in a database that does not know.
const LATIN1_BYTES: &str = "
    create table good (id int primary key, t text); insert into good values (1, 'fine');
    create table odd (id int primary key, t text); insert into odd values (1, E'gr\\xf6\\xdfer'), (2, E'\\xff\\x80');
    create index on odd (t)";

#[test]
fn bytes_of_no_encoding_pass_from_sql_ascii_to_sql_ascii() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (new_db(source, "SQL_ASCII"), new_db(target, "SQL_ASCII"));
    source.psql(&db, LATIN1_BYTES);
    for options in [
        &["--drop-if-exists"][..],
        &["--drop-if-exists", "--use-copy-binary"],
    ] {
        let scene = Scene::new();
        let outcome = scene
            .clone_db(&source.uri(&db), &target.uri(&copy), options)
            .run();
        outcome.assert_success(&[]);
        assert_same(source, &db, target, &copy);
    }
}

#[test]
fn bytes_that_are_no_utf8_are_refused_by_the_table_that_has_them() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (new_db(source, "SQL_ASCII"), new_db(target, "UTF8"));
    source.psql(&db, LATIN1_BYTES);
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &[])
        .run();
    let texts = [
        "\"public\".\"odd\"",
        "invalid byte sequence",
        "source, SQLSTATE 22021",
    ];
    outcome.assert_last_error(4, &texts);
    assert_eq!(target.value(&copy, "select t from good"), "fine");
    assert_eq!(target.value(&copy, "select count(*) from odd"), "0");
    scene.assert_nothing_left(&outcome);
    // The user mends his rows, and the run goes on from there.
    source.psql(
        &db,
        "update odd set t = convert(t::bytea, 'LATIN1', 'UTF8')::text",
    );
    source.psql(&db, "update odd set t = 'größer' where id = 1");
    let more = ["--resume", "--not-consistent"];
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &more)
        .run();
    outcome.assert_success(&[]);
    assert_same(source, &db, target, &copy);
}

#[test]
fn characters_that_the_target_does_not_have_are_refused_by_name() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("wide"), new_db(target, "LATIN1"));
    source.psql(
        &db,
        "create table good (id int primary key); insert into good values (1);
         create table wide (t text); insert into wide values ('Ω')",
    );
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &[])
        .run();
    outcome.assert_last_error(
        4,
        &[
            "\"public\".\"wide\"",
            "no equivalent in encoding \"LATIN1\"",
            "22P05",
        ],
    );
    assert_eq!(target.value(&copy, "select count(*) from good"), "1");
    scene.assert_nothing_left(&outcome);
}

/// A name whose bytes are no UTF-8: nobody could type it, nor could a message show it.
#[test]
fn names_of_no_encoding_are_told_apart_or_refused() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (new_db(source, "SQL_ASCII"), new_db(target, "SQL_ASCII"));
    source.psql(
        &db,
        "do $$ begin execute 'create table ' || E'\"gr\\xf6\\xdfe\"' || ' (id int)'; end $$",
    );
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &[])
        .run();
    outcome.assert_last_error(outcome.status.code().unwrap(), &["source", "UTF-8"]);
    assert!(!outcome.status.success());
    scene.assert_nothing_left(&outcome);
}
