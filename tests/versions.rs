//! The main path on every version: a database with everything in it, from each server to the next ones.

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::Scene;
use crate::support::compare::assert_same;
use crate::support::reference::differences_across_versions;
use crate::support::version::Version;
use crate::support::{fixtures, leftovers};

/// What a clone of `everything` may warn about: the source's own notices, options that the target does not know.
const TOLD: &[&str] = &["the target does not know option", "left out"];

#[track_caller]
fn clone_everything(from: Version, to: Version, more: &[&str]) {
    let (source, target) = (Cluster::start(from, &[]), Cluster::start(to, &[]));
    source.create_db("everything");
    target.create_db("everything");
    fixtures::load_everything(&source, "everything");
    fixtures::create_roles(&target);
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri("everything"), &target.uri("everything"), more)
        // 10 to 13 come without programs; a later pg_dump reads them.
        .tools(if to == Version::Debian15 {
            Version::Pg15
        } else {
            to
        })
        .run();
    outcome.assert_success(TOLD);
    scene.assert_nothing_left(&outcome);
    leftovers::assert_no_backend(&source, "everything");
    leftovers::assert_no_backend(&target, "everything");
    let mut found = differences_across_versions((&source, "everything"), (&target, "everything"));
    // As pg_dump without --create: who may connect to the target's database, and its comment, are its owner's to say.
    found.retain(|line| !line.starts_with("differs: database\n"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn from_14_to_14() {
    clone_everything(Version::Pg14, Version::Pg14, &[]);
}

#[test]
fn from_15_to_15() {
    clone_everything(Version::Debian15, Version::Debian15, &[]);
}

#[test]
fn from_16_to_16() {
    clone_everything(Version::Pg16, Version::Pg16, &["--use-copy-binary"]);
}

#[test]
fn from_17_to_17() {
    clone_everything(
        Version::Pg17,
        Version::Pg17,
        &["--split-tables-larger-than", "8kB"],
    );
}

#[test]
fn from_18_to_18() {
    clone_everything(Version::Pg18, Version::Pg18, &[]);
}

/// Trap 55: Debian's 15.20 has column options that no other release knows.
#[test]
fn from_debian_15_to_16_17_and_18() {
    clone_everything(Version::Debian15, Version::Pg16, &[]);
    clone_everything(Version::Debian15, Version::Pg17, &["--use-copy-binary"]);
    clone_everything(Version::Debian15, Version::Pg18, &[]);
}

#[test]
fn from_10_to_15_and_18() {
    clone_everything(
        Version::Pg10,
        Version::Debian15,
        &["--split-tables-larger-than", "8kB"],
    );
    clone_everything(Version::Pg10, Version::Pg18, &[]);
}

#[test]
fn from_13_to_15_and_18() {
    clone_everything(Version::Pg13, Version::Debian15, &[]);
    clone_everything(Version::Pg13, Version::Pg18, &["--use-copy-binary"]);
}

#[test]
fn pagila_is_the_same_on_both_sides() {
    let (source, target) = (shared_source(), shared_target());
    let (db, copy) = (source.new_db("pagila"), target.new_db("pagila"));
    if !fixtures::load_pagila(source, &db) {
        return;
    }
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&source.uri(&db), &target.uri(&copy), &[])
        .run();
    outcome.assert_success(&[]);
    scene.assert_nothing_left(&outcome);
    assert_same(source, &db, target, &copy);
}
