//! Fuzzing on stable Rust: everything that reads bytes from outside is fed with mutations of small examples, and must
//! neither panic, hang, nor allocate what the bytes claim. As a test it replays `tests/fuzz/corpus` and mutates for a
//! second a target; `scripts/fuzz` runs longer, built with the compiler's coverage counters, which make it keep what reaches
//! new code.
#![cfg(test)]

mod coverage;
mod frames;
mod mutate;
mod runner;
mod seeds;
mod targets;

use std::time::Duration;

/// Every target in a process of its own, as a claim that is believed would end the process.
#[test]
fn no_input_panics_hangs_or_is_believed() {
    let seconds = match std::env::var("PGCOPYDB_FUZZ_SECONDS") {
        Ok(seconds) => seconds.parse().expect("a number of seconds"),
        Err(_) => 1,
    };
    let only = std::env::var("PGCOPYDB_FUZZ_TARGET").ok();
    let chosen = targets::ALL
        .iter()
        .filter(|target| only.as_deref().is_none_or(|only| only == target.name));
    let names: Vec<&str> = chosen.map(|target| target.name).collect();
    assert!(!names.is_empty(), "there is no target {only:?}");
    let failures: Vec<String> = names
        .iter()
        .filter_map(|name| runner::supervise(name, Duration::from_secs(seconds)).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Run by the test above, in a process of its own.
#[test]
fn child() {
    if let Ok(name) = std::env::var("PGCOPYDB_FUZZ_CHILD") {
        let target = targets::ALL.iter().find(|target| target.name == name);
        runner::run(target.expect("the parent knows the names"));
    }
}

/// A target without examples would only see noise.
#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    for target in targets::ALL {
        assert!(!seeds::of(target).is_empty(), "{}", target.name);
    }
    for entry in std::fs::read_dir(seeds::CORPUS).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            targets::ALL.iter().any(|target| target.name == name),
            "nobody reads tests/fuzz/corpus/{name}"
        );
    }
}
