//! Large tables are copied in parts, by CTID or by an integer key: every row exactly once, whatever the table looks
//! like inside.

use std::collections::HashMap;

use crate::support::cluster::{Cluster, shared_target};
use crate::support::cmd::Outcome;
use crate::support::migration::Migration;
use crate::support::version::Version;

/// Split whatever has more than eight pages, among several workers.
const SPLIT: [&str; 4] = ["--split-tables-larger-than", "64kB", "--table-jobs", "3"];

/// Into how many parts each table was split; tables that were copied whole are not listed.
fn parts(outcome: &Outcome) -> HashMap<String, usize> {
    let mut found: HashMap<String, Vec<usize>> = HashMap::new();
    for line in outcome.stderr.lines() {
        let Some((_, text)) = line.split_once(" copied table ") else {
            continue;
        };
        let Some((name, part)) = text.split_once(", part ") else {
            continue;
        };
        let name = name.split_once(" (oid ").unwrap().0.replace('"', "");
        let numbers = part.split_once(':').unwrap().0.split_once(" of ").unwrap();
        let parts = found.entry(name).or_default();
        parts.push(numbers.0.parse().unwrap());
        parts.sort_unstable();
        // Each part once; the last assertion about it sees them all.
        let count: usize = numbers.1.parse().unwrap();
        assert!(parts.len() <= count && parts.windows(2).all(|pair| pair[0] < pair[1]));
    }
    let count = |(name, parts): (String, Vec<usize>)| (name, parts.len());
    found.into_iter().map(count).collect()
}

fn names(parts: &HashMap<String, usize>) -> Vec<&str> {
    let mut names: Vec<&str> = parts.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn by_ctid_every_row_is_copied_once() {
    let migration = Migration::shared(
        // 35: a parent by inheritance has rows of its own; 33: tables without columns have rows, too.
        "create table churned (id int primary key, gone int, v text);
         insert into churned select i, i, repeat('v', 80) from generate_series(1, 4000) i;
         delete from churned where id between 1500 and 3000;
         update churned set v = 'new' where id % 3 = 0;
         alter table churned drop column gone;
         create index on churned (v);
         create table no_key (v text);
         insert into no_key select 'value ' || i % 10 from generate_series(1, 6000) i;
         create table no_columns (gone int);
         insert into no_columns select i from generate_series(1, 5000) i;
         alter table no_columns drop column gone;
         create table parent (id int, v text);
         create table child (more int) inherits (parent);
         insert into parent select i, 'parent' from generate_series(1, 4000) i;
         insert into child select i, 'child', i from generate_series(1, 4000) i;
         create table part_of (id int primary key, d int generated always as (id * 2) stored) partition by range (id);
         create table part_of_1 partition of part_of for values from (0) to (3000);
         create table part_of_2 partition of part_of for values from (3000) to (6000);
         insert into part_of select i from generate_series(0, 5999) i;
         create table hidden (id int primary key, v text);
         insert into hidden select i, 'hidden' from generate_series(1, 4000) i;
         alter table hidden enable row level security;
         alter table hidden force row level security;
         create table small (id int primary key);
         insert into small select generate_series(1, 100)",
    );
    let outcome = migration.clone_with(&SPLIT, &[]);
    let parts = parts(&outcome);
    let expected = [
        "child",
        "churned",
        "hidden",
        "no_columns",
        "no_key",
        "parent",
        "part_of_1",
        "part_of_2",
    ];
    let expected: Vec<String> = expected.map(|name| format!("public.{name}")).to_vec();
    assert_eq!(names(&parts), expected, "{}", outcome.stderr);
    migration.assert_same();
}

/// What such a table takes on disk is the size of its values, wherever they are.
#[test]
fn a_table_whose_bytes_are_in_toast_is_split() {
    let migration = Migration::shared(
        "create table toasted (id int primary key, v text);
         alter table toasted alter column v set storage external;
         insert into toasted select i, repeat(md5(i::text), 100) from generate_series(1, 900) i",
    );
    let heap: u64 = migration
        .on_source("select pg_relation_size('toasted')")
        .parse()
        .unwrap();
    let whole: u64 = migration
        .on_source("select pg_table_size('toasted')")
        .parse()
        .unwrap();
    assert!(heap < 100_000 && whole > 3_000_000, "{heap} {whole}");
    let outcome = migration.clone_with(&["--split-at", "1MB", "--table-jobs", "2"], &[]);
    assert_eq!(parts(&outcome)["public.toasted"], 4, "{}", outcome.stderr);
    migration.assert_same();
}

/// Keys as applications have them: with gaps, below zero, at both ends of their type.
const KEYS: &str = "create table gaps (id int primary key, v text);
     insert into gaps select i * i * 100, 'gap ' || i from generate_series(1, 4000) i;
     create table negative (v text, id int not null unique);
     insert into negative select 'below ' || i, i - 2500 from generate_series(1, 5000) i;
     create table extremes (\"The Key\" bigint primary key, v text);
     insert into extremes select i, 'in the middle' from generate_series(-1500, 1500) i;
     insert into extremes values (-9223372036854775808, 'least'), (9223372036854775807, 'most'),
       (-9223372036854775807, 'nearly'), (9223372036854775806, 'nearly');
     create table tiny (id smallint primary key, v text);
     insert into tiny select i, 'tiny' from generate_series(-2500, 2500) i;
     insert into tiny values (-32768, 'least'), (32767, 'most');
     create table parent (id int primary key, v text);
     create table child (primary key (id)) inherits (parent);
     insert into parent select i, 'parent' from generate_series(1, 4000) i;
     insert into child select i, 'child' from generate_series(1, 4000) i;
     create table all_alike (id int not null unique deferrable, v text);
     insert into all_alike select i, 'deferrable' from generate_series(1, 4000) i;
     create table some_null (id int unique, v text);
     insert into some_null select nullif(i, 7), 'null' from generate_series(1, 4000) i;
     create table some_rows (id int not null, v text);
     create unique index on some_rows (id) where id > 10;
     insert into some_rows select greatest(i, 10), 'partial' from generate_series(1, 4000) i;
     create table two_columns (a int, b int, v text, primary key (a, b));
     insert into two_columns select i % 7, i, 'two' from generate_series(1, 4000) i;
     create table by_name (name text primary key, v text);
     insert into by_name select 'name ' || i, 'v' from generate_series(1, 4000) i;";

#[track_caller]
fn assert_split_by_key(outcome: &Outcome) {
    let expected = ["child", "extremes", "gaps", "negative", "parent", "tiny"];
    let expected: Vec<String> = expected.map(|name| format!("public.{name}")).to_vec();
    assert_eq!(names(&parts(outcome)), expected, "{}", outcome.stderr);
}

#[test]
fn by_key_every_row_is_copied_once() {
    let migration = Migration::shared(KEYS);
    let mut options = SPLIT.to_vec();
    options.push("--skip-split-by-ctid");
    assert_split_by_key(&migration.clone_with(&options, &[]));
    migration.assert_same();
}

/// Before 14 a range of CTIDs would read the whole table each time.
#[test]
fn an_older_source_is_split_by_key() {
    let source = Cluster::start(Version::Pg13, &[]);
    let migration = Migration::new(&source, shared_target(), KEYS);
    assert_split_by_key(&migration.clone_with(&SPLIT, &[]));
    migration.assert_same();
}

/// With --estimate-table-sizes what the last ANALYZE knew counts, and what it did not know is not split.
#[test]
fn limits_and_estimates_decide_how_many_parts() {
    let migration = Migration::shared(
        "create table analyzed (id int primary key, v text) with (autovacuum_enabled = off);
         create table never_analyzed (id int primary key, v text) with (autovacuum_enabled = off);
         insert into analyzed select i, repeat('v', 100) from generate_series(1, 10000) i;
         insert into never_analyzed select i, repeat('v', 100) from generate_series(1, 10000) i;
         analyze analyzed;
         -- The snapshot's size is not the last one's that was analyzed.
         insert into analyzed select i, repeat('v', 100) from generate_series(10001, 20000) i",
    );
    let split = ["--split-tables-larger-than", "256kB", "--table-jobs", "2"];
    /// Options, and into how many parts they cut which table.
    type Run<'a> = (&'a [&'a str], &'a [(&'a str, usize)]);
    let runs: [Run<'_>; 3] = [
        (&[], &[("analyzed", 12), ("never_analyzed", 6)]),
        (
            &["--split-max-parts", "3"],
            &[("analyzed", 3), ("never_analyzed", 3)],
        ),
        (&["--estimate-table-sizes"], &[("analyzed", 6)]),
    ];
    for (more, expected) in runs {
        let migration = migration.again();
        let options: Vec<&str> = split.iter().chain(more).copied().collect();
        let parts = parts(&migration.clone_with(&options, &[]));
        let expected: HashMap<String, usize> = expected
            .iter()
            .map(|(name, count)| (format!("public.{name}"), *count))
            .collect();
        assert_eq!(parts, expected, "{more:?}");
        migration.assert_same();
    }
}
