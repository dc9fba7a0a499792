//! Whatever breaks, nothing is lost: random work on the source while `clone --follow` runs, and while processes, sessions,
//! servers, connections and disks fail at random moments. Rounds of about a minute; each ends with an end position, exit
//! code 0, every row and sequence compared, and nothing left behind. The first loss fails the test and keeps the evidence.
//!
//! `scripts/chaos --minutes N --seed S` runs this for longer than the three minutes of the suite.

mod bulk;
mod faults;
mod plan;
mod round;
mod servers;
mod tally;
mod watch;

use std::time::{Duration, Instant};

use plan::Plan;
use round::Round;
use servers::Pairs;
use tally::Tally;

/// A round that is shorter would not get beyond its base copy.
const SHORTEST: Duration = Duration::from_secs(25);

/// In the suite, and by default.
const MINUTES: f64 = 3.0;

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name}=\"{text}\" is no number"),
    }
}

#[test]
fn whatever_breaks_nothing_is_lost() {
    let minutes = number("PGCOPYDB_CHAOS_MINUTES").unwrap_or(MINUTES);
    let seed: u64 = number("PGCOPYDB_CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        now.as_nanos() as u64 % 1_000_000_007
    });
    let only: Option<u32> = number("PGCOPYDB_CHAOS_ROUND");
    println!("chaos: {minutes} minutes with seed {seed}");
    let (started, time) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let mut pairs = Pairs::default();
    let mut tally = Tally::default();
    for number in only.unwrap_or(1).. {
        let left = time.saturating_sub(started.elapsed());
        if tally.rounds() > 0 && (left < SHORTEST || only.is_some()) {
            break;
        }
        let plan = Plan::new(seed, number);
        let pair = pairs.get(plan.pair);
        let of_round = Round::begin(plan, pair, left).run();
        tally.add(of_round);
    }
    println!("{tally}");
}
