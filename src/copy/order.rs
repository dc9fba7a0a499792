//! In which order the items of all databases are put on a queue. Pure.
//!
//! Large items come first, the largest of all at the head, whichever database they belong to: what takes longest must not
//! be begun last. A small item takes less time than a connection to another database, so workers stay with one database
//! while there are small items of it (`work::try_next`). For that the head of the queue must show each worker another
//! database: the databases are dealt out to as many lanes as there are workers, and the lanes are interleaved.

use std::collections::VecDeque;

/// From here on an item is worth a connection of its own: about a tenth of a second of COPY.
pub const LARGE_BYTES: u64 = 16 << 20;

/// `sizes`: of each database's items, largest first. The answer: positions of database and item.
pub fn order(sizes: &[Vec<u64>], workers: usize) -> Vec<(u32, u32)> {
    let mut large = Vec::new();
    let mut small: Vec<(u64, Vec<(u32, u32)>)> = Vec::new();
    for (database, sizes) in sizes.iter().enumerate() {
        let (mut bytes, mut items) = (0, Vec::new());
        for (item, size) in sizes.iter().enumerate() {
            let place = (database as u32, item as u32);
            match *size >= LARGE_BYTES {
                true => large.push((*size, place)),
                false => {
                    bytes += size;
                    items.push(place);
                }
            }
        }
        small.push((bytes, items));
    }
    // Stable, so that parts of one size keep their order.
    large.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    small.sort_by_key(|(bytes, items)| std::cmp::Reverse((*bytes, items.len())));
    let mut lanes: Vec<VecDeque<(u32, u32)>> = vec![VecDeque::new(); workers.max(1)];
    let count = lanes.len();
    for (at, (_, items)) in small.into_iter().enumerate() {
        lanes[at % count].extend(items);
    }
    let mut ordered: Vec<(u32, u32)> = large.into_iter().map(|(_, place)| place).collect();
    while lanes.iter().any(|lane| !lane.is_empty()) {
        ordered.extend(lanes.iter_mut().filter_map(VecDeque::pop_front));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::{LARGE_BYTES, order};

    #[test]
    fn one_database_keeps_its_order() {
        let sizes = vec![vec![LARGE_BYTES * 2, LARGE_BYTES, 5, 5, 0]];
        let expected: Vec<(u32, u32)> = (0..5).map(|item| (0, item)).collect();
        assert_eq!(order(&sizes, 4), expected);
        assert_eq!(order(&[], 4), []);
    }

    #[test]
    fn the_largest_of_all_come_first_and_each_worker_sees_another_database() {
        let sizes = vec![
            vec![LARGE_BYTES + 1, 3, 2],
            vec![LARGE_BYTES + 9, LARGE_BYTES],
            vec![9, 1],
            vec![4],
        ];
        let ordered = order(&sizes, 2);
        assert_eq!(ordered[..3], [(1, 0), (0, 0), (1, 1)]);
        // Two lanes: databases 2 and 3, database 0.
        assert_eq!(ordered[3..], [(2, 0), (0, 1), (2, 1), (0, 2), (3, 0)]);
    }
}
