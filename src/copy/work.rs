//! What travels on the queues between the parent and the workers of the data section, coded to fixed bytes in this
//! one place. Numbers are the source's object ids, or positions in the plan that every worker inherited across fork.

use crate::sys::msgq::{ITEM_BYTES, QueueItem};

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

/// First bytes of each message: this program, this coding.
const MAGIC: u32 = 0x7067_6301;

impl QueueItem for Work {
    fn encode(&self) -> [u8; ITEM_BYTES] {
        let (tag, number) = match *self {
            Work::Copy(number) => (1u32, number),
            Work::BuildIndex(number) => (2, number),
            Work::BuildIndexesOf(number) => (3, number),
            Work::Vacuum(number) => (4, number),
            Work::CopyLargeObjects(number) => (5, number),
            Work::Stop => (6, 0),
        };
        let mut bytes = [0; ITEM_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&tag.to_be_bytes());
        bytes[8..12].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ITEM_BYTES]) -> Option<Work> {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if word(0) != MAGIC {
            return None;
        }
        let number = word(8);
        match word(4) {
            1 => Some(Work::Copy(number)),
            2 => Some(Work::BuildIndex(number)),
            3 => Some(Work::BuildIndexesOf(number)),
            4 => Some(Work::Vacuum(number)),
            5 => Some(Work::CopyLargeObjects(number)),
            6 => Some(Work::Stop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Work;
    use crate::sys::msgq::QueueItem;
    use proptest::prelude::*;

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
            assert_eq!(Work::decode(&work.encode()), Some(work));
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_refused_not_guessed(bytes in any::<[u8; 16]>()) {
            if let Some(work) = Work::decode(&bytes) {
                prop_assert_eq!(&work.encode()[..8], &bytes[..8]);
            }
        }
    }
}
