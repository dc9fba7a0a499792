//! What was survived: counted by kind, printed at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// Of one round, or of all.
#[derive(Default)]
pub struct Tally {
    rounds: u32,
    faults: BTreeMap<String, u32>,
    pub resumes: u32,
    /// Base copies that were started over since their snapshot was lost.
    pub transactions: u64,
    pub rows: u64,
    pub sequences: u64,
}

impl Tally {
    pub fn fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    pub fn faults(&self) -> u32 {
        self.faults.values().sum()
    }

    /// A round that ended well: what broke in it was survived.
    pub fn add(&mut self, round: Tally) {
        self.rounds += 1;
        for (kind, count) in round.faults {
            self.faults.entry(kind).or_default().add_assign(count);
        }
        self.resumes += round.resumes;
        self.transactions += round.transactions;
        self.rows += round.rows;
        self.sequences += round.sequences;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} faults survived, by kind:", self.faults())?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {count:>5}  {kind}")?;
        }
        write!(
            f,
            "chaos: {} rounds, {} faults, {} resumes, {} transactions, \
             {} rows and {} sequences compared, 0 losses",
            self.rounds,
            self.faults(),
            self.resumes,
            self.transactions,
            self.rows,
            self.sequences
        )
    }
}
