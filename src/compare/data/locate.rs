//! Which rows of a table differ. Runs in a compare worker.
//!
//! Rows fall into buckets by the hash of their key; whole buckets are compared first, and of those that differ the keys and
//! hashes of rows are fetched from both sides and matched. No order of keys is needed, so that collations of the two
//! servers do not matter.

use std::collections::{HashMap, HashSet};

use super::answer::{Found, Row, RowIs, Sum};
use super::checksum::from;
use super::pairs::Pair;
use super::worker::Sides;
use crate::error::Result;
use crate::ident::quote_ident;

/// So many rows are fetched without looking at buckets before.
const FEW_ROWS: u64 = 20_000;

/// Rows in one bucket, about; and the numbers of buckets that make sense.
const BUCKET_ROWS: u64 = 500;
const BUCKETS: (u64, u64) = (1_024, 1 << 20);

/// No more rows than about this are fetched: a table of which everything differs is not brought here.
const MOST_ROWS: u64 = 200_000;

pub fn rows(sides: &mut Sides<'_>, pair: &Pair, rows: u64) -> Result<Found> {
    if rows <= FEW_ROWS {
        return fetch(sides, pair, None, true);
    }
    let buckets = (rows / BUCKET_ROWS)
        .next_power_of_two()
        .clamp(BUCKETS.0, BUCKETS.1);
    let bucket = format!("({} & {})", key_hash(sides, pair), buckets - 1);
    let mut differing: Vec<u32> = differing_buckets(sides, pair, &bucket)?
        .into_iter()
        .collect();
    differing.sort_unstable();
    let most = (MOST_ROWS / (rows / buckets).max(1)).max(1) as usize;
    let is_complete = differing.len() <= most;
    differing.truncate(most);
    if differing.is_empty() {
        return Ok(Found::Rows {
            rows: Vec::new(),
            is_complete,
        });
    }
    let numbers: Vec<String> = differing.iter().map(u32::to_string).collect();
    let condition = format!("{bucket} IN ({})", numbers.join(", "));
    fetch(sides, pair, Some(&condition), is_complete)
}

fn key_hash(sides: &Sides<'_>, pair: &Pair) -> String {
    sides.context.method.key_hash(pair)
}

/// Both sides' sums bucket by bucket.
fn differing_buckets(sides: &mut Sides<'_>, pair: &Pair, bucket: &str) -> Result<HashSet<u32>> {
    let hash = sides.context.method.row_hash(pair);
    let sql = [true, false].map(|is_source| {
        format!(
            "SELECT {bucket}, count(*), sum({hash}) {} GROUP BY 1",
            from(pair, is_source, None)
        )
    });
    let mut sums: [HashMap<u32, Sum>; 2] = Default::default();
    sides.ask([&sql[0], &sql[1]], &mut |side, row| {
        let sum = Sum {
            rows: row.parse(1)?,
            sum: row.parse(2)?,
        };
        sums[side].insert(row.parse(0)?, sum);
        Ok(())
    })?;
    let [ours, mut theirs] = sums;
    let mut differing: HashSet<u32> = ours
        .into_iter()
        .filter(|(bucket, sum)| theirs.remove(bucket) != Some(*sum))
        .map(|(bucket, _)| bucket)
        .collect();
    // What is left has rows on the target only.
    differing.extend(theirs.into_keys());
    Ok(differing)
}

/// Keys and hashes of both sides, matched.
fn fetch(
    sides: &mut Sides<'_>,
    pair: &Pair,
    condition: Option<&str>,
    is_complete: bool,
) -> Result<Found> {
    let hash = sides.context.method.row_hash(pair);
    let columns: Vec<String> = pair
        .key
        .iter()
        .map(|name| format!("{}::text", quote_ident(name)))
        .collect();
    let sql = [true, false].map(|is_source| {
        format!(
            "SELECT {hash}, {} {}",
            columns.join(", "),
            from(pair, is_source, condition)
        )
    });
    let mut matching = Matching::default();
    sides.ask([&sql[0], &sql[1]], &mut |side, row| {
        let key = (1..row.len())
            .map(|column| {
                let bytes = row.bytes(column).unwrap_or_default();
                String::from_utf8_lossy(bytes).into_owned()
            })
            .collect();
        matching.add(side, key, row.parse(0)?);
        Ok(())
    })?;
    Ok(Found::Rows {
        rows: matching.rows(),
        is_complete,
    })
}

/// Rows by their key. Without a unique index on the target one key may have several.
#[derive(Default)]
struct Matching {
    sums: HashMap<Vec<String>, [Sum; 2]>,
}

impl Matching {
    fn add(&mut self, side: usize, key: Vec<String>, hash: i64) {
        let sums = self.sums.entry(key).or_default();
        sums[side].add(&Sum {
            rows: 1,
            sum: i128::from(hash),
        });
    }

    /// Those that differ, in the order of their keys: as numbers where they are, else as text.
    fn rows(self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .sums
            .into_iter()
            .filter(|(_, [ours, theirs])| ours != theirs)
            .map(|(key, [ours, theirs])| Row {
                key,
                what: match (ours.rows, theirs.rows) {
                    (_, 0) => RowIs::Missing,
                    (0, _) => RowIs::Extra,
                    _ => RowIs::Different,
                },
            })
            .collect();
        rows.sort_by_cached_key(|row| {
            let numbers: Option<Vec<i128>> = row
                .key
                .iter()
                .map(|value| value.parse::<i128>().ok())
                .collect();
            (numbers, row.key.clone())
        });
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_matched_by_key() {
        let mut matching = Matching::default();
        let key = |key: &str| vec![key.to_owned()];
        for (side, name, hash) in [
            (0, "9", 1),
            (1, "9", 1),
            (0, "10", 2),
            (1, "10", 3),
            (0, "2", 4),
            (1, "-1", 5),
        ] {
            matching.add(side, key(name), hash);
        }
        let found: Vec<_> = matching
            .rows()
            .into_iter()
            .map(|row| (row.key[0].clone(), row.what))
            .collect();
        assert_eq!(
            found,
            [
                ("-1".to_owned(), RowIs::Extra),
                ("2".to_owned(), RowIs::Missing),
                ("10".to_owned(), RowIs::Different)
            ]
        );
    }
}
