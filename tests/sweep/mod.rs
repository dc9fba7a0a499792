//! Killed at each durable step, resumed, and compared with the source. What there is to kill at is found out by running
//! each story once with its fault points written down; a point in the source that no story passes fails the test, so that
//! a new one cannot be forgotten. All of it takes about half an hour: `PGCOPYDB_SWEEP=all` asks for that, otherwise a sample is
//! drawn by a seed that the test prints, and that `PGCOPYDB_SWEEP=SEED` gives again; `PGCOPYDB_SWEEP=FAULT` is one fault.

mod copying;
mod following;
mod points;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use points::{Action, Fault, Wanted, in_the_source, named_by_other_tests};

/// Stories that wait for servers and for each other's sleeps: more of them than cores.
const AT_ONCE: usize = 4;

/// What is run once to see which points it passes, then once for each of them.
struct Story {
    name: &'static str,
    /// Runs it whole, with its points written to this file.
    trace: fn(&std::path::Path),
    /// Runs it with a fault, and then to its end.
    run: fn(&Fault),
    /// How many points a sample has.
    sample: usize,
}

const STORIES: [Story; 4] = [
    Story {
        name: "clone",
        trace: copying::trace,
        run: copying::survives,
        sample: 14,
    },
    Story {
        name: "clone --follow",
        trace: following::trace,
        run: following::survives,
        sample: 8,
    },
    Story {
        name: "stream setup",
        trace: following::trace_setup,
        run: following::survives_in_setup,
        sample: 6,
    },
    Story {
        name: "stream cleanup",
        trace: following::trace_cleanup,
        run: following::survives_in_cleanup,
        sample: 6,
    },
];

#[test]
fn killed_at_any_durable_step_it_resumes() {
    let wanted = Wanted::from_environment();
    let (mut passed, mut faults) = (BTreeSet::new(), Vec::new());
    for story in &STORIES {
        let points = points::traced(story.trace);
        faults.extend(
            wanted
                .choose(&points, story.sample)
                .into_iter()
                .map(|fault| (story, fault)),
        );
        passed.extend(points);
    }
    let passes = |name: &&String| {
        let is_it = |point: &String| {
            point.split_once('/').map_or(point.as_str(), |(it, _)| it) == name.as_str()
        };
        passed.iter().any(is_it)
    };
    let elsewhere = named_by_other_tests();
    let forgotten: Vec<String> = in_the_source()
        .iter()
        .filter(|name| !passes(name) && !elsewhere.contains(*name))
        .cloned()
        .collect();
    assert!(
        forgotten.is_empty(),
        "no story passes these fault points, and no other test names them: {forgotten:?}"
    );
    println!("{wanted}: {} faults of {}", faults.len(), passed.len());
    let failed = run_all(&faults);
    assert!(failed.is_empty(), "{wanted}:\n{}", failed.join("\n"));
}

/// Run them, some at a time; what went wrong, by fault.
fn run_all(faults: &[(&Story, Fault)]) -> Vec<String> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((story, fault)) = faults.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let started = std::time::Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(|| (story.run)(fault)));
                    let took = started.elapsed().as_secs_f64();
                    println!("{}: {fault}: {took:.1} s", story.name);
                    if let Err(panic) = result {
                        let text = format!("{}: {fault}: {}", story.name, words(&*panic));
                        failed.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
}

/// The list in the code is the calls in the code: `PGCOPYDB_FAILPOINT` is checked against it.
#[test]
fn the_list_of_fault_points_is_complete() {
    let listed: BTreeSet<String> = pgcopydb::sys::failpoint::ALL
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    assert_eq!(listed, in_the_source());
    assert!(pgcopydb::sys::failpoint::ALL.is_sorted());
    // Each is a fault that can be asked for.
    assert_eq!(
        Fault::new("copy.started", Action::Kill, 2).to_string(),
        "copy.started=kill:2"
    );
}
