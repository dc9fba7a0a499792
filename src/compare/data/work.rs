//! What travels on the queue between the parent and the workers of a comparison, coded to fixed bytes in this one place.

use crate::sys::msgq::{ITEM_BYTES, QueueItem};

/// Taking it from the queue is the claim on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The position of an item in the list that every worker inherited.
    Item(u32),
    /// Nothing more will come; one for each worker.
    Stop,
}

/// First bytes of each message: this program, this coding.
const MAGIC: u32 = 0x7067_6303;

impl QueueItem for Work {
    fn encode(&self) -> [u8; ITEM_BYTES] {
        let (tag, number) = match *self {
            Work::Item(number) => (1u32, number),
            Work::Stop => (2, 0),
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
        match (word(0), word(4)) {
            (MAGIC, 1) => Some(Work::Item(word(8))),
            (MAGIC, 2) => Some(Work::Stop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Work;
    use crate::sys::msgq::QueueItem;

    #[test]
    fn what_is_sent_is_what_arrives() {
        for work in [Work::Item(0), Work::Item(u32::MAX), Work::Stop] {
            assert_eq!(Work::decode(&work.encode()), Some(work));
        }
        assert_eq!(Work::decode(&[0; 16]), None);
    }
}
