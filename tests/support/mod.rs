//! What the tests stand on: throw-away servers, the program under test, a faulty network, a thorough comparison.
//! Nothing here knows how pgcopydb works inside; tests see it as a user does.

pub mod access;
pub mod applying;
pub mod authority;
pub mod cluster;
pub mod cmd;
pub mod compare;
pub mod fixtures;
pub mod following;
pub mod interrupted;
pub mod leftovers;
pub mod migration;
pub mod proxy;
pub mod reference;
pub mod script;
pub mod small_disk;
pub mod version;
pub mod workload;
pub mod workload_statements;
pub mod workload_values;

use std::time::{Duration, Instant};

/// Wait until `condition` holds; fail with `what` when it does not within `deadline`. The short sleep only sets how
/// often we look: no test depends on its length.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} in vain for this: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
