//! What travels on the queues between the parent and the workers of the data section, coded to fixed bytes in this
//! one place. Numbers are the source's object ids, or positions in the lists that every worker inherited across fork.

use crate::error::Result;
use crate::sys::msgq::{ITEM_BYTES, MessageQueue, QueueItem, Received};

/// A piece of work; taking it from its queue is the claim on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Copy a table or a part of one: position in the plan's work items.
    Copy(u32),
    /// Build one index: its oid.
    BuildIndex(u32),
    /// Build all indexes of a small table at once: the table's oid.
    BuildIndexesOf(u32),
    /// VACUUM and ANALYZE a table: its oid.
    Vacuum(u32),
    /// Copy a batch of large objects: position in the plan's batches.
    CopyLargeObjects(u32),
    /// Nothing more will come; one for each worker.
    Stop,
}

impl Work {
    /// Whether the source is read for it.
    pub fn reads_source(self) -> bool {
        matches!(self, Work::Copy(_) | Work::CopyLargeObjects(_))
    }
}

/// Work of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its position among those of the run.
    pub database: u32,
    pub work: Work,
    /// Whoever is free takes it, whichever database he has worked for; what is small can wait for one who is there.
    pub is_large: bool,
}

impl Item {
    pub const STOP: Item = Item {
        database: 0,
        work: Work::Stop,
        is_large: false,
    };
}

/// The kinds of messages: large items, then the small ones of each database, and the end.
const LARGE: i64 = 1;
const FIRST_DATABASE: i64 = 2;
const END: i64 = i64::MAX;

/// Take the next item, if there is one: a large one, else one of the database where the connections lead already, else
/// whichever came first.
pub fn try_next(queue: &MessageQueue<Item>, here: Option<u32>) -> Result<Received<Item>> {
    let of_here = here.map(|database| FIRST_DATABASE + i64::from(database));
    for kind in [Some(LARGE), of_here].into_iter().flatten() {
        match queue.try_recv_kind(kind)? {
            Received::Empty => {}
            received => return Ok(received),
        }
    }
    queue.try_recv()
}

/// First bytes of each message: this program, this coding.
const MAGIC: u32 = 0x7067_6302;

/// Added to the tag.
const LARGE_BIT: u32 = 1 << 16;

impl QueueItem for Item {
    fn kind(&self) -> i64 {
        match self {
            Item {
                work: Work::Stop, ..
            } => END,
            Item { is_large: true, .. } => LARGE,
            Item { database, .. } => FIRST_DATABASE + i64::from(*database),
        }
    }

    fn encode(&self) -> [u8; ITEM_BYTES] {
        let (tag, number) = match self.work {
            Work::Copy(number) => (1u32, number),
            Work::BuildIndex(number) => (2, number),
            Work::BuildIndexesOf(number) => (3, number),
            Work::Vacuum(number) => (4, number),
            Work::CopyLargeObjects(number) => (5, number),
            Work::Stop => (6, 0),
        };
        let large = if self.is_large { LARGE_BIT } else { 0 };
        let mut bytes = [0; ITEM_BYTES];
        for (at, word) in [MAGIC, tag | large, self.database, number]
            .into_iter()
            .enumerate()
        {
            bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; ITEM_BYTES]) -> Option<Item> {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if word(0) != MAGIC {
            return None;
        }
        let number = word(12);
        let work = match word(4) & !LARGE_BIT {
            1 => Work::Copy(number),
            2 => Work::BuildIndex(number),
            3 => Work::BuildIndexesOf(number),
            4 => Work::Vacuum(number),
            5 => Work::CopyLargeObjects(number),
            6 => Work::Stop,
            _ => return None,
        };
        Some(Item {
            database: word(8),
            work,
            is_large: word(4) & LARGE_BIT != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Item, Work, try_next};
    use crate::sys::msgq::{MessageQueue, QueueItem, QueueNote, Received};
    use proptest::prelude::*;

    fn item(database: u32, work: Work, is_large: bool) -> Item {
        Item {
            database,
            work,
            is_large,
        }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        for work in [
            Work::Copy(0),
            Work::BuildIndex(7),
            Work::BuildIndexesOf(u32::MAX),
            Work::Vacuum(1),
            Work::CopyLargeObjects(3),
            Work::Stop,
        ] {
            for item in [item(0, work, false), item(u32::MAX, work, true)] {
                assert_eq!(Item::decode(&item.encode()), Some(item));
                assert!(item.kind() > 0);
            }
        }
    }

    #[test]
    fn a_worker_stays_where_it_is_unless_something_large_waits() {
        let queue: MessageQueue<Item> = MessageQueue::create(&QueueNote::of_new()).unwrap();
        let sent = [
            item(0, Work::Copy(1), false),
            item(1, Work::Copy(2), false),
            item(1, Work::Copy(3), false),
            item(2, Work::Copy(4), true),
            Item::STOP,
        ];
        for item in &sent {
            assert!(queue.try_send(item).unwrap());
        }
        let next = |here| match try_next(&queue, here).unwrap() {
            Received::Item(item) => item,
            other => panic!("{other:?}"),
        };
        assert_eq!(next(Some(1)), sent[3]);
        assert_eq!(next(Some(1)), sent[1]);
        assert_eq!(next(None), sent[0]);
        assert_eq!(next(Some(0)), sent[2]);
        assert_eq!(next(Some(0)), Item::STOP);
        assert_eq!(try_next(&queue, Some(0)).unwrap(), Received::Empty);
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_refused_not_guessed(bytes in any::<[u8; 16]>()) {
            if let Some(item) = Item::decode(&bytes) {
                prop_assert_eq!(&item.encode()[..4], &bytes[..4]);
            }
        }
    }
}
