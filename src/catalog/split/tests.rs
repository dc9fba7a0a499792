//! What must hold for every split: each row exactly once, even parts, the caller's limits.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    KeyBounds, Part, PartRange, SplitMethod, SplitOptions, ctid_ranges, key_ranges, method,
    part_count, plan,
};
use crate::catalog::objects::tests::table;
use crate::catalog::objects::{SplitKey, Table};

fn options() -> SplitOptions {
    SplitOptions {
        larger_than: 100 << 20,
        max_parts: None,
        skip_ctid: false,
        table_jobs: 4,
        source_version: 150_020,
    }
}

fn big(oid: u32, bytes: u64) -> Table {
    Table {
        oid,
        bytes,
        pages: bytes / 8192,
        split_key: Some(SplitKey {
            column: "id".into(),
            type_oid: 20,
        }),
        ..table("public", "big", &["id"])
    }
}

/// The ends of a range as wide integers, open ones at infinity.
fn ends(range: &PartRange) -> (i128, i128) {
    match range {
        PartRange::Ctid { from, to } => (
            from.map_or(i128::MIN, i128::from),
            to.map_or(i128::MAX, i128::from),
        ),
        PartRange::Key { from, to, .. } => (
            from.map_or(i128::MIN, i128::from),
            to.map_or(i128::MAX, i128::from),
        ),
    }
}

/// From minus to plus infinity, each part starting where the one before ends, none empty.
fn assert_covers_the_line(ranges: &[PartRange]) {
    let mut reached = i128::MIN;
    for range in ranges {
        let (from, to) = ends(range);
        assert_eq!(from, reached);
        assert!(from < to);
        reached = to;
    }
    assert_eq!(reached, i128::MAX);
}

proptest! {
    #[test]
    fn keys_are_covered_once(a: i64, b: i64, count in 1u32..500) {
        let bounds = KeyBounds { min: a.min(b), max: a.max(b) };
        let ranges = key_ranges("id", bounds, count);
        assert_covers_the_line(&ranges);
        prop_assert!(ranges.len() <= count as usize);
    }

    #[test]
    fn narrow_keys_are_covered_once(min in i64::MIN..i64::MAX - 600, width in 0i64..600, count in 1u32..500) {
        let bounds = KeyBounds { min, max: min + width };
        let ranges = key_ranges("id", bounds, count);
        assert_covers_the_line(&ranges);
        prop_assert_eq!(ranges.len() as i64, i64::from(count).min(width + 1));
    }

    #[test]
    fn pages_are_covered_once(pages in 0u64..=u64::from(u32::MAX), count in 1u32..5000) {
        let ranges = ctid_ranges(pages, count);
        assert_covers_the_line(&ranges);
        prop_assert_eq!(ranges.len() as u64, u64::from(count).min(pages).max(1));
        let cuts: Vec<i128> = ranges.iter().skip(1).map(|range| ends(range).0).collect();
        prop_assert!(cuts.iter().all(|cut| *cut > 0 && *cut < i128::from(pages)));
    }

    #[test]
    fn counts_keep_the_limits(
        bytes: u64, larger_than in 1u64.., max_parts in proptest::option::of(0u32..), table_jobs in 0u32..200,
    ) {
        let options = SplitOptions { larger_than, max_parts, table_jobs, ..options() };
        let count = part_count(bytes, &options);
        if let Some(max_parts) = max_parts {
            prop_assert!(count <= max_parts.max(1));
        }
        prop_assert!(count <= 1_000_000 || max_parts.is_some());
    }
}

#[test]
fn the_widest_keys_do_not_overflow() {
    let bounds = KeyBounds {
        min: i64::MIN,
        max: i64::MAX,
    };
    let ranges = key_ranges("id", bounds, 4);
    assert_covers_the_line(&ranges);
    assert_eq!(ends(&ranges[2]).0, 0);
}

#[test]
fn parts_are_small_and_a_multiple_of_the_workers() {
    // 1 GB at 4 workers: evenness asks for 40 parts, each above 16 MB.
    assert_eq!(part_count(1 << 30, &options()), 40);
    // 300 MB: 18 parts of 16 MB, rounded up to the workers.
    assert_eq!(part_count(300 << 20, &options()), 20);
    // A small threshold asks for more.
    let small = SplitOptions {
        larger_than: 1 << 20,
        ..options()
    };
    assert_eq!(part_count(1 << 30, &small), 1024);
    let limited = |max_parts| SplitOptions {
        max_parts: Some(max_parts),
        ..options()
    };
    // The size asks for 11, which is no multiple of 4.
    assert_eq!(part_count(1 << 30, &limited(11)), 11);
    assert_eq!(part_count(300 << 20, &limited(11)), 8);
    assert_eq!(part_count(1 << 30, &limited(3)), 3);
    assert_eq!(part_count(1 << 30, &limited(1)), 1);
}

#[test]
fn chooses_the_method() {
    let table = big(1, 1 << 30);
    assert_eq!(method(&table, &options()), SplitMethod::Ctid);
    let skip_ctid = SplitOptions {
        skip_ctid: true,
        ..options()
    };
    assert_eq!(method(&table, &skip_ctid), SplitMethod::Key);
    let old = SplitOptions {
        source_version: 130_020,
        ..options()
    };
    assert_eq!(method(&table, &old), SplitMethod::Key);
    let columnar = Table {
        is_heap: false,
        split_key: None,
        ..big(1, 1 << 30)
    };
    assert_eq!(method(&columnar, &options()), SplitMethod::Whole);
    let off = SplitOptions {
        larger_than: 0,
        ..options()
    };
    assert_eq!(method(&table, &off), SplitMethod::Whole);
    let config = Table {
        extension_config: Some("WHERE mine".into()),
        ..big(1, 1 << 30)
    };
    assert_eq!(method(&config, &options()), SplitMethod::Whole);
}

#[test]
fn plans_largest_first() {
    let tables = [
        big(1, 10 << 20),
        big(2, 1 << 30),
        big(3, 99 << 20),
        big(4, 0),
    ];
    let items = plan(&tables, &HashMap::new(), &options());
    assert!(items.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes));
    assert_eq!(items[0].table, 3);
    assert_eq!(items.last().map(|item| item.table), Some(4));
    let parts: Vec<&Part> = items.iter().filter_map(|item| item.part.as_ref()).collect();
    assert_eq!(parts.len(), 40);
    assert!(
        parts
            .iter()
            .enumerate()
            .all(|(at, part)| part.number == at as u32 + 1)
    );
    assert!(
        items
            .iter()
            .all(|item| item.part.is_some() == (item.table == 2))
    );
}

#[test]
fn plans_by_key_only_with_bounds() {
    let tables = [big(1, 1 << 30)];
    let options = SplitOptions {
        skip_ctid: true,
        ..options()
    };
    let items = plan(&tables, &HashMap::new(), &options);
    assert_eq!(items.len(), 1);
    assert!(items[0].part.is_none());
    let bounds = HashMap::from([(1, KeyBounds { min: -5, max: 4 })]);
    let items = plan(&tables, &bounds, &options);
    assert_eq!(items.len(), 10);
    let clause = |at: usize| items[at].part.as_ref().unwrap().where_clause();
    assert_eq!(clause(0), r#""id" < '-4'::pg_catalog.int8"#);
    assert_eq!(
        clause(1),
        r#""id" >= '-4'::pg_catalog.int8 AND "id" < '-3'::pg_catalog.int8"#
    );
    assert_eq!(clause(9), r#""id" >= '4'::pg_catalog.int8"#);
}
