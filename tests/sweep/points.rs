//! Which fault points there are, which a story passes, and which of them a run of the sweep kills at.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process that comes by is killed.
    Kill,
    /// The whole tree is killed at that moment.
    KillTree,
    /// The step fails.
    Error,
}

/// A point, what happens there, and the how many'th time a process comes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub point: String,
    pub action: Action,
    pub nth: u32,
}

impl Fault {
    pub fn new(point: &str, action: Action, nth: u32) -> Fault {
        Fault {
            point: point.to_owned(),
            action,
            nth,
        }
    }

    /// What `Display` writes.
    fn parse(text: &str) -> Fault {
        let (point, action) = text.split_once('=').expect("POINT=ACTION:NUMBER");
        let (action, nth) = action.split_once(':').expect("ACTION:NUMBER");
        let action = match action {
            "kill" => Action::Kill,
            "stop" => Action::KillTree,
            "error" => Action::Error,
            action => panic!("no action \"{action}\""),
        };
        Fault::new(point, action, nth.parse().expect("a number"))
    }

    /// Half of them by their name: for stories that come in two kinds.
    pub fn is_odd(&self) -> bool {
        self.point.bytes().map(usize::from).sum::<usize>() % 2 == 1
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Kill => "kill",
            Action::KillTree => "stop",
            Action::Error => "error",
        };
        write!(f, "{}={action}:{}", self.point, self.nth)
    }
}

/// How much of the sweep is run.
pub enum Wanted {
    All,
    Sample {
        seed: u64,
    },
    /// One fault, wherever it is passed.
    One(Fault),
}

impl Wanted {
    pub fn from_environment() -> Wanted {
        match std::env::var("PGCOPYDB_SWEEP").as_deref() {
            Ok("all") => Wanted::All,
            Ok(fault) if fault.contains('=') => Wanted::One(Fault::parse(fault)),
            Ok(seed) => Wanted::Sample {
                seed: seed.parse().expect("PGCOPYDB_SWEEP is \"all\" or a seed"),
            },
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let seed = now.unwrap().as_nanos() as u64 % 1_000_000;
                Wanted::Sample { seed }
            }
        }
    }

    /// Every point with a kill of its process; or a few, with one of the actions each.
    pub fn choose(&self, points: &BTreeSet<String>, sample: usize) -> Vec<Fault> {
        if let Wanted::One(fault) = self {
            return match points.contains(&fault.point) {
                true => vec![fault.clone()],
                false => Vec::new(),
            };
        }
        let Wanted::Sample { seed } = self else {
            let actions = [Action::Kill, Action::KillTree, Action::Error];
            return points
                .iter()
                .enumerate()
                .flat_map(|(place, point)| {
                    // Every point is killed at; of the others each point has one in turn.
                    [Action::Kill, actions[1 + place % 2]]
                        .map(|action| Fault::new(point, action, 1))
                })
                .collect();
        };
        let mut random = Random(*seed);
        let mut left: Vec<&String> = points.iter().collect();
        let mut chosen = Vec::new();
        while chosen.len() < sample && !left.is_empty() {
            let point = left.swap_remove(random.below(left.len()));
            let action =
                [Action::Kill, Action::Kill, Action::KillTree, Action::Error][random.below(4)];
            let nth = [1, 1, 1, 2][random.below(4)];
            chosen.push(Fault::new(point, action, nth));
        }
        chosen
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::One(fault) => write!(f, "PGCOPYDB_SWEEP={fault}"),
            Wanted::All => write!(f, "PGCOPYDB_SWEEP=all"),
            Wanted::Sample { seed } => write!(f, "PGCOPYDB_SWEEP={seed}"),
        }
    }
}

/// splitmix64: a generator that gives the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// The points that a run of a story passes.
pub fn traced(run: fn(&Path)) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    run(&file);
    let text = fs::read_to_string(&file).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The names in the calls of `failpoint` and `failpoint_at` in the source.
pub fn in_the_source() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let text = fs::read_to_string(file).unwrap();
        for call in ["failpoint(", "failpoint_at("] {
            for (place, _) in text.match_indices(call) {
                let rest = text[place + call.len()..].trim_start();
                let name = rest
                    .strip_prefix('"')
                    .and_then(|rest| rest.split('"').next());
                names.extend(name.map(str::to_owned));
            }
        }
    }
    assert!(names.len() > 50, "{names:?}");
    names
}

/// The points that another test kills at by name: what is no step of a clone or a follow.
pub fn named_by_other_tests() -> BTreeSet<String> {
    let all = in_the_source();
    let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"));
    let texts: Vec<String> = rust_files(tests)
        .into_iter()
        .filter(|file| !file.starts_with(tests.join("sweep")))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    all.into_iter()
        .filter(|name| {
            let ways = [format!("\"{name}=kill"), format!("\"{name}\"")];
            texts
                .iter()
                .any(|text| ways.iter().any(|way| text.contains(way)))
        })
        .collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
