//! One target under mutation, in a process with little memory and a watch; and the parent that says what became of it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};

use crate::coverage::Seen;
use crate::mutate::{Random, mutate};
use crate::seeds;
use crate::targets::Target;

/// Far more than any input of these sizes needs, far less than a length field can claim.
const MEMORY_BYTES: u64 = 512 << 20;

/// No input takes longer than this, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is kept of the examples that reach new code.
const MAX_KEPT: usize = 20_000;

/// Run a target for some time in a process of its own. The error holds the input that it failed on, and where that is kept.
pub fn supervise(name: &str, time: Duration) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("PGCOPYDB_FUZZ_CHILD", name)
        .env("PGCOPYDB_FUZZ_DIR", dir.path())
        .env("PGCOPYDB_FUZZ_MS", time.as_millis().to_string())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    // The test harness has begun the line.
    for line in said.lines() {
        if let Some(place) = line.find("fuzz: ") {
            println!("{}", &line[place..]);
        }
    }
    if child.status.success() && said.contains("fuzz: ") {
        return Ok(());
    }
    let input = fs::read(dir.path().join("input")).unwrap_or_default();
    let kept = keep(&PathBuf::from("target/fuzz-findings").join(name), &input);
    Err(format!(
        "{name}: {} on the input in {} ({} bytes): {}\n{}",
        child.status,
        kept.display(),
        input.len(),
        input[..input.len().min(400)].escape_ascii(),
        String::from_utf8_lossy(&child.stderr)
    ))
}

/// Write an input under a name made from its content.
fn keep(folder: &Path, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = folder.join(format!("{:016x}", hasher.finish()));
    let _ = fs::create_dir_all(folder);
    let _ = fs::write(&path, input);
    path
}

/// The child: replay, mutate, and die of what is found.
pub fn run(target: &Target) {
    let dir = PathBuf::from(std::env::var_os("PGCOPYDB_FUZZ_DIR").unwrap());
    let time: u64 = std::env::var("PGCOPYDB_FUZZ_MS").unwrap().parse().unwrap();
    setrlimit(
        Resource::RLIMIT_AS,
        address_space() + MEMORY_BYTES,
        address_space() + MEMORY_BYTES,
    )
    .unwrap();
    std::env::set_current_dir(&dir).unwrap();
    let mut examples = seeds::of(target);
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/fuzz-corpus")
        .join(target.name);
    if cfg!(fuzz_coverage) {
        examples.extend(
            fs::read_dir(&found)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| fs::read(entry.path()).unwrap()),
        );
    }
    let runs = Arc::new(AtomicU64::new(0));
    watch(Arc::clone(&runs));
    let mut trial = Trial {
        target,
        seen: Seen::new(),
        input: fs::File::create(dir.join("input")).unwrap(),
        runs,
    };
    for example in &examples {
        trial.run(example);
    }
    let replayed = examples.len();
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
    let (mut random, began) = (Random(seed), Instant::now());
    while began.elapsed() < Duration::from_millis(time) {
        // The newest have been changed least.
        let place = match random.below(3) {
            0 => examples.len() - 1 - random.below(examples.len().min(50)),
            _ => random.below(examples.len()),
        };
        let other = random.below(examples.len());
        let input = mutate(&mut random, &examples[place], &examples[other]);
        if trial.run(&input) && examples.len() < MAX_KEPT {
            if cfg!(fuzz_coverage) {
                keep(&found, &input);
            }
            examples.push(input);
        }
    }
    println!(
        "fuzz: {}: {replayed} examples, {} inputs in {} s, {} branches, {} examples added",
        target.name,
        trial.runs.load(Ordering::Relaxed),
        began.elapsed().as_secs(),
        trial.seen.count(),
        examples.len() - replayed
    );
}

struct Trial<'a> {
    target: &'a Target,
    seen: Seen,
    /// What is being tried, for the parent to find when we die of it.
    input: fs::File,
    runs: Arc<AtomicU64>,
}

impl Trial<'_> {
    /// Whether it reached new code.
    fn run(&mut self, input: &[u8]) -> bool {
        self.input.write_all_at(input, 0).unwrap();
        self.input.set_len(input.len() as u64).unwrap();
        self.seen.reset();
        let result = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        self.runs.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            std::process::exit(70);
        }
        self.seen.note()
    }
}

/// End the process when one input takes too long.
fn watch(runs: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut last, mut since) = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = runs.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                let _ = writeln!(std::io::stderr(), "the input takes more than {PATIENCE:?}");
                std::process::exit(71);
            }
        }
    });
}

/// What the process has mapped already, threads' stacks included.
fn address_space() -> u64 {
    let pages: u64 = fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .unwrap();
    pages * 4096
}
