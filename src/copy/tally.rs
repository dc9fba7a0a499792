//! What the parent and the workers know of each other's databases while the workers run: how much is left of each, and
//! which was given up. Counts in shared memory, made by the parent before it forks.
//!
//! A worker that has done an item queues what follows from it first, and then counts the item as over; so a count that
//! has come to zero stays there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::work::Work;
use crate::error::{Error, Result};
use crate::sys::shared::SharedNumbers;

/// Which number of a database.
#[derive(Debug, Clone, Copy)]
enum Count {
    /// Items that the source is still to be read for.
    ToRead,
    /// Items of any kind that are not over.
    ToDo,
    GivenUp,
}

const COUNTS: usize = 3;

#[derive(Debug, Clone, Copy)]
pub struct Tally {
    numbers: SharedNumbers,
}

impl Tally {
    pub fn create(databases: usize) -> Result<Tally> {
        let numbers = SharedNumbers::create(databases * COUNTS)
            .map_err(|error| Error::io("could not make shared memory", error))?;
        Ok(Tally { numbers })
    }

    fn number(&self, database: u32, count: Count) -> &AtomicU64 {
        &self.numbers.all()[database as usize * COUNTS + count as usize]
    }

    fn get(&self, database: u32, count: Count) -> u64 {
        self.number(database, count).load(Ordering::Acquire)
    }

    /// Before it is put on a queue.
    pub fn queued(&self, database: u32, work: Work) {
        if work.reads_source() {
            self.number(database, Count::ToRead)
                .fetch_add(1, Ordering::AcqRel);
        }
        self.number(database, Count::ToDo)
            .fetch_add(1, Ordering::AcqRel);
    }

    /// Done and announced, or failed and recorded.
    pub fn over(&self, database: u32, work: Work) {
        if work.reads_source() {
            self.number(database, Count::ToRead)
                .fetch_sub(1, Ordering::AcqRel);
        }
        self.number(database, Count::ToDo)
            .fetch_sub(1, Ordering::AcqRel);
    }

    /// Nothing more is done for this database. The reason is recorded.
    pub fn give_up(&self, database: u32) {
        self.number(database, Count::GivenUp)
            .store(1, Ordering::Release);
    }

    pub fn is_given_up(&self, database: u32) -> bool {
        self.get(database, Count::GivenUp) != 0
    }

    /// Whether nothing of it is left to read from the source.
    pub fn is_read(&self, database: u32) -> bool {
        self.get(database, Count::ToRead) == 0 || self.is_given_up(database)
    }

    /// Whether nothing of it is left to do.
    pub fn is_over(&self, database: u32) -> bool {
        self.get(database, Count::ToDo) == 0 || self.is_given_up(database)
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, Work};

    #[test]
    fn a_database_is_over_when_its_last_item_is() {
        let tally = Tally::create(2).unwrap();
        tally.queued(1, Work::Copy(0));
        assert!(tally.is_over(0) && !tally.is_read(1) && !tally.is_over(1));
        tally.queued(1, Work::Vacuum(7));
        tally.over(1, Work::Copy(0));
        assert!(tally.is_read(1) && !tally.is_over(1));
        tally.over(1, Work::Vacuum(7));
        assert!(tally.is_over(1));
        tally.queued(0, Work::CopyLargeObjects(0));
        tally.give_up(0);
        assert!(tally.is_read(0) && tally.is_over(0) && !tally.is_given_up(1));
    }
}
