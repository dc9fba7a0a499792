//! What a round is: servers, plugin, options, where faults may come from. Pure: the same seed and number give the same.

use std::time::Duration;

use crate::support::version::Version;
use crate::support::workload_statements::Random;

/// Source and target.
pub type Pair = (Version, Version);

#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    pub number: u32,
    pub pair: Pair,
    pub plugin: &'static str,
    pub options: Vec<String>,
    /// Between the program and both servers.
    pub has_proxies: bool,
    /// The work directory, and the target's tables, are on disks that may get full.
    pub has_small_disks: bool,
    /// How long things break.
    pub time: Duration,
    /// For what happens then.
    pub random: Random,
}

impl Plan {
    pub fn new(seed: u64, number: u32) -> Plan {
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(number.into()));
        let plugins = [
            "test_decoding",
            "pgoutput",
            "test_decoding",
            "pgoutput",
            "wal2json",
        ];
        let plugin = random.pick(&plugins);
        let pairs = [
            (Version::Debian15, Version::Debian15),
            (Version::Pg17, Version::Pg17),
            (Version::Pg14, Version::Pg18),
        ];
        let pair = match plugin {
            // The only one here that has it.
            "wal2json" => pairs[0],
            _ => pairs[random.below(pairs.len() as u64) as usize],
        };
        Plan {
            seed,
            number,
            pair,
            plugin,
            options: options(&mut random),
            has_proxies: random.one_in(2),
            has_small_disks: random.one_in(2),
            time: Duration::from_secs(25 + random.below(50)),
            random,
        }
    }

    /// wal2json of that release is refused for what the common workload has: floats.
    pub fn has_typed_tables(&self) -> bool {
        self.plugin != "wal2json"
    }
}

fn options(random: &mut Random) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |words: &[&str]| options.extend(words.iter().map(|word| (*word).to_owned()));
    // After a restart the objects of the earlier copy are there.
    add(&["--drop-if-exists"]);
    add(&["--table-jobs", random.pick(&["1", "2", "4"])]);
    add(&["--index-jobs", random.pick(&["1", "2", "4"])]);
    if random.one_in(2) {
        add(&["--split-tables-larger-than", random.pick(&["1MB", "5MB"])]);
    }
    if random.one_in(3) {
        add(&["--apply-mode", "rows"]);
    }
    if random.one_in(4) {
        add(&["--use-copy-binary"]);
    }
    if random.one_in(4) {
        add(&["--replay-no-op-updates"]);
    }
    options
}
