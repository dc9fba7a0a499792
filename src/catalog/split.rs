//! Which tables are copied in parts, and where the cuts are. Pure: the bounds of keys are fetched beforehand.
//!
//! The parts of a table cover the line from minus to plus infinity without overlap, so that every row is copied
//! exactly once whatever the sizes and bounds said: they only decide how even the parts are.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::ident::{Oid, quote_ident};

use super::objects::Table;

/// TID range scans exist since 14; before, each part by CTID would read the whole table.
const CTID_RANGES_SINCE: u32 = 14_00_00;

/// Parts per worker that a split table is cut into. A worker is idle at the end for at most the time of one part, so
/// with 10 or more every worker's last part ends in the last tenth of the table's copy.
const PARTS_PER_WORKER: u64 = 10;

/// Below this a part costs more to start than it evens out, so it is not made for evenness alone.
const MIN_EVEN_PART_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitOptions {
    /// Tables larger than this are split; zero never splits.
    pub larger_than: u64,
    pub max_parts: Option<u32>,
    pub skip_ctid: bool,
    pub table_jobs: u32,
    pub source_version: u32,
}

/// Smallest and largest key of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBounds {
    pub min: i64,
    pub max: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitMethod {
    Whole,
    Ctid,
    /// Needs the bounds of the table's `split_key`.
    Key,
}

/// What a table worker takes from the queue: a table or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkItem {
    pub table: Oid,
    pub part: Option<Part>,
    /// The item's share of the table's size.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 1.
    pub number: u32,
    pub count: u32,
    pub range: PartRange,
}

/// `from` is in the part, `to` is not; `None` is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartRange {
    /// Pages.
    Ctid { from: Option<u64>, to: Option<u64> },
    Key {
        column: Box<str>,
        from: Option<i64>,
        to: Option<i64>,
    },
}

impl Part {
    /// The condition without the word WHERE.
    pub fn where_clause(&self) -> String {
        let (column, from, to) = match &self.range {
            PartRange::Ctid { from, to } => {
                let tid = |page: &u64| format!("'({page},0)'::pg_catalog.tid");
                (
                    "ctid".to_owned(),
                    from.as_ref().map(tid),
                    to.as_ref().map(tid),
                )
            }
            // The cast keeps the comparison among integers, which the index on the column can serve.
            PartRange::Key { column, from, to } => {
                let key = |key: &i64| format!("'{key}'::pg_catalog.int8");
                (
                    quote_ident(column),
                    from.as_ref().map(key),
                    to.as_ref().map(key),
                )
            }
        };
        match (from, to) {
            (Some(from), Some(to)) => format!("{column} >= {from} AND {column} < {to}"),
            (Some(from), None) => format!("{column} >= {from}"),
            (None, Some(to)) => format!("{column} < {to}"),
            (None, None) => "true".to_owned(),
        }
    }
}

/// How a table would be split. CTID ranges come first: they need no index and read each page once, in order.
pub fn method(table: &Table, options: &SplitOptions) -> SplitMethod {
    // An extension's condition is its own text, and those tables are small.
    let is_splittable = options.larger_than > 0
        && table.bytes > options.larger_than
        && table.extension_config.is_none();
    let has_ctid_ranges =
        table.is_heap && !options.skip_ctid && options.source_version >= CTID_RANGES_SINCE;
    if !is_splittable {
        SplitMethod::Whole
    } else if has_ctid_ranges {
        SplitMethod::Ctid
    } else if table.split_key.is_some() {
        SplitMethod::Key
    } else {
        SplitMethod::Whole
    }
}

/// The work items for these tables, largest first. A table that needs key bounds and has none (it is empty) is copied
/// whole.
pub fn plan<'a>(
    tables: impl IntoIterator<Item = &'a Table>,
    bounds: &HashMap<Oid, KeyBounds>,
    options: &SplitOptions,
) -> Vec<WorkItem> {
    let mut items = Vec::new();
    for table in tables {
        let ranges = match method(table, options) {
            SplitMethod::Whole => Vec::new(),
            SplitMethod::Ctid => ctid_ranges(table.pages, part_count(table.bytes, options)),
            SplitMethod::Key => match (&table.split_key, bounds.get(&table.oid)) {
                (Some(key), Some(bounds)) => {
                    key_ranges(&key.column, *bounds, part_count(table.bytes, options))
                }
                _ => Vec::new(),
            },
        };
        push_items(&mut items, table, ranges);
    }
    items.sort_by(|a, b| {
        let number = |item: &WorkItem| item.part.as_ref().map_or(0, |part| part.number);
        b.bytes
            .cmp(&a.bytes)
            .then(a.table.cmp(&b.table))
            .then(number(a).cmp(&number(b)))
    });
    items
}

fn push_items(items: &mut Vec<WorkItem>, table: &Table, ranges: Vec<PartRange>) {
    if ranges.len() < 2 {
        items.push(WorkItem {
            table: table.oid,
            part: None,
            bytes: table.bytes,
        });
        return;
    }
    let count = ranges.len() as u32;
    let bytes = table.bytes / u64::from(count);
    for (at, range) in ranges.into_iter().enumerate() {
        items.push(WorkItem {
            table: table.oid,
            part: Some(Part {
                number: at as u32 + 1,
                count,
                range,
            }),
            bytes,
        });
    }
}

/// Enough parts for the size that was asked for and for the workers to end together; a multiple of the workers, since
/// the parts are even.
fn part_count(bytes: u64, options: &SplitOptions) -> u32 {
    let jobs = u64::from(options.table_jobs.max(1));
    let for_size = bytes.div_ceil(options.larger_than.max(1));
    let for_evenness = (bytes / MIN_EVEN_PART_BYTES).min(jobs * PARTS_PER_WORKER);
    let wanted = for_size.max(for_evenness);
    // A part's number and count are 32 bits, and a million parts help nobody.
    let most = options.max_parts.map_or(1_000_000, u64::from).max(1);
    let rounded = wanted.div_ceil(jobs).saturating_mul(jobs);
    let count = if rounded <= most {
        rounded
    } else {
        // The limit forbids rounding up; rounding down must not make parts larger than was asked for.
        (most - most % jobs).max(for_size.min(most))
    };
    u32::try_from(count).expect("the count is at most a given u32 or a million")
}

/// Cut pages evenly. The last part is open: pages added since are not in the snapshot, but an estimate may be short.
fn ctid_ranges(pages: u64, count: u32) -> Vec<PartRange> {
    let count = u64::from(count).min(pages).max(1);
    let cut = |at: u64| -> Option<u64> {
        let page = u128::from(pages) * u128::from(at) / u128::from(count);
        (at > 0 && at < count).then(|| u64::try_from(page).expect("a cut is at most `pages`"))
    };
    (0..count)
        .map(|at| PartRange::Ctid {
            from: cut(at),
            to: cut(at + 1),
        })
        .collect()
}

/// Cut the span of keys evenly; its width may be 2^64, hence the wider arithmetic.
fn key_ranges(column: &str, bounds: KeyBounds, count: u32) -> Vec<PartRange> {
    let (min, max) = (i128::from(bounds.min), i128::from(bounds.max));
    let width = (max - min + 1).max(1);
    let count = i128::from(count).min(width).max(1);
    let cut = |at: i128| -> Option<i64> {
        let key = min + width * at / count;
        (at > 0 && at < count)
            .then(|| i64::try_from(key).expect("a cut lies between two 64-bit keys"))
    };
    (0..count)
        .map(|at| PartRange::Key {
            column: column.into(),
            from: cut(at),
            to: cut(at + 1),
        })
        .collect()
}

#[cfg(test)]
mod tests;
