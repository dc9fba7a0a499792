//! What the workers are given: parts of tables to sum up, then tables to look into. Pure, but for the bounds of keys.
//!
//! Parts by CTID are each side's own, and only their total means the same on both; parts by key mean the same one by one.
//! CTID ranges come first, as they read each page once and in order, whatever the key's order is.

use std::collections::HashMap;

use crate::catalog::{Catalog, KeyBounds, Part, PartRange, Table, fetch_key_bounds};
use crate::error::Result;
use crate::ident::Oid;
use crate::pg::wire::Connection;

use super::answer::{Answer, Found, Sum};
use super::pairs::{Contents, Pair};

/// A table is read in parts of this size: large enough that starting one costs nothing, small enough that a few workers
/// end at about the same time.
const PART_BYTES: u64 = 64 << 20;

/// No more than this of one table.
const MOST_PARTS: u64 = 1_024;

/// A piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub pair: u32,
    pub task: Task,
    /// About how much has to be read.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Count and sum up; conditions of the source and of the target.
    Sum {
        source: Option<String>,
        target: Option<String>,
    },
    /// Find the rows that differ among about so many.
    Locate { rows: u64 },
}

/// The first round, largest first.
pub fn sums(source: &mut Connection, catalog: &Catalog, pairs: &[Pair]) -> Result<Vec<Item>> {
    let by_key: Vec<&Table> = pairs
        .iter()
        .filter(|pair| part_count(pair) > 1 && !has_ctid_ranges(pair))
        .filter_map(|pair| catalog.table(pair.source.oid))
        .filter(|table| table.split_key.is_some())
        .collect();
    let bounds = fetch_key_bounds(source, &by_key)?;
    Ok(items(pairs, &bounds))
}

fn items(pairs: &[Pair], bounds: &HashMap<Oid, KeyBounds>) -> Vec<Item> {
    let mut items = Vec::new();
    for (number, pair) in pairs.iter().enumerate() {
        if pair.obstacle.is_some() {
            continue;
        }
        let count = part_count(pair);
        let parts = match (has_ctid_ranges(pair), &pair.split_column) {
            _ if count < 2 => vec![(None, None)],
            (true, _) => by_ctid(pair, count),
            (false, Some(column)) => by_key(column, bounds.get(&pair.source.oid), count),
            (false, None) => vec![(None, None)],
        };
        let bytes = bytes(pair) / parts.len() as u64;
        items.extend(parts.into_iter().map(|(source, target)| Item {
            pair: number as u32,
            task: Task::Sum { source, target },
            bytes,
        }));
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    items
}

fn bytes(pair: &Pair) -> u64 {
    pair.source.bytes.max(pair.target.bytes)
}

fn part_count(pair: &Pair) -> u64 {
    match pair.contents {
        Contents::Rows if pair.condition.is_none() && pair.obstacle.is_none() => {
            bytes(pair).div_ceil(PART_BYTES).clamp(1, MOST_PARTS)
        }
        _ => 1,
    }
}

fn has_ctid_ranges(pair: &Pair) -> bool {
    pair.source.has_ctid_ranges && pair.target.has_ctid_ranges
}

type Conditions = (Option<String>, Option<String>);

/// The same number of parts of each side's pages.
fn by_ctid(pair: &Pair, count: u64) -> Vec<Conditions> {
    let range = |pages: u64, at: u64| {
        let cut = |at: u64| (at > 0 && at < count).then(|| pages * at / count);
        PartRange::Ctid {
            from: cut(at),
            to: cut(at + 1),
        }
    };
    (0..count)
        .map(|at| {
            (
                Some(condition(range(pair.source.pages, at))),
                Some(condition(range(pair.target.pages, at))),
            )
        })
        .collect()
}

/// From minus to plus infinity, so that no row of either side is left out.
fn by_key(column: &str, bounds: Option<&KeyBounds>, count: u64) -> Vec<Conditions> {
    let Some(bounds) = bounds else {
        return vec![(None, None)];
    };
    let (min, width) = (
        i128::from(bounds.min),
        i128::from(bounds.max) - i128::from(bounds.min) + 1,
    );
    let count = i128::from(count).min(width).max(1);
    let cut = |at: i128| {
        let key = min + width * at / count;
        i64::try_from(key).ok().filter(|_| at > 0 && at < count)
    };
    (0..count)
        .map(|at| {
            let range = PartRange::Key {
                column: column.into(),
                from: cut(at),
                to: cut(at + 1),
            };
            let condition = condition(range);
            (Some(condition.clone()), Some(condition))
        })
        .collect()
}

fn condition(range: PartRange) -> String {
    Part {
        number: 1,
        count: 1,
        range,
    }
    .where_clause()
}

/// The second round: tables whose sums differ and whose rows can be told apart.
pub fn locations(pairs: &[Pair], answers: &[Answer]) -> Vec<Item> {
    let totals = totals(answers);
    let mut items: Vec<Item> = totals
        .iter()
        .filter(|(_, (ours, theirs))| ours != theirs)
        .filter_map(|(number, (ours, theirs))| {
            let pair = pairs.get(*number as usize)?;
            (!pair.key.is_empty()).then(|| Item {
                pair: *number,
                task: Task::Locate {
                    rows: ours.rows.max(theirs.rows),
                },
                bytes: bytes(pair),
            })
        })
        .collect();
    items.sort_by_key(|item| (std::cmp::Reverse(item.bytes), item.pair));
    items
}

/// Both sides' sums of every table that could be read to its end.
pub fn totals(answers: &[Answer]) -> HashMap<u32, (Sum, Sum)> {
    let mut totals: HashMap<u32, (Sum, Sum)> = HashMap::new();
    for answer in answers {
        if let Found::Sums { source, target } = &answer.found {
            let (ours, theirs) = totals.entry(answer.pair).or_default();
            ours.add(source);
            theirs.add(target);
        }
    }
    for answer in answers {
        if let Found::Failed { .. } = answer.found {
            totals.remove(&answer.pair);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::super::checksum::tests::pair;
    use super::*;

    #[test]
    fn parts_cover_both_sides() {
        let mut pair = pair(&[("a", 23)]);
        for (side, pages) in [(&mut pair.source, 1000), (&mut pair.target, 10)] {
            side.has_ctid_ranges = true;
            side.pages = pages;
            side.bytes = 3 * PART_BYTES;
        }
        let parts = items(std::slice::from_ref(&pair), &HashMap::new());
        let conditions: Vec<_> = parts
            .iter()
            .map(|item| match &item.task {
                Task::Sum { source, target } => (source.as_deref(), target.as_deref()),
                Task::Locate { .. } => (None, None),
            })
            .collect();
        assert_eq!(
            conditions[1],
            (
                Some("ctid >= '(333,0)'::pg_catalog.tid AND ctid < '(666,0)'::pg_catalog.tid"),
                Some("ctid >= '(3,0)'::pg_catalog.tid AND ctid < '(6,0)'::pg_catalog.tid")
            )
        );
        assert_eq!(conditions.len(), 3);
        pair.target.has_ctid_ranges = false;
        pair.split_column = Some("a".into());
        let bounds = HashMap::from([(
            1,
            KeyBounds {
                min: i64::MIN,
                max: i64::MAX,
            },
        )]);
        let parts = items(std::slice::from_ref(&pair), &bounds);
        assert_eq!(parts.len(), 3);
        let Task::Sum { source, target } = &parts[0].task else {
            panic!("{parts:?}");
        };
        assert_eq!(source, target);
        assert!(source.as_deref().unwrap().starts_with("\"a\" < "));
    }
}
