//! Definitions as pg_dump writes them, and what only looks like an option list.

use super::{FoundOption, OptionKind, drop_options, find_options};
use crate::dump::archive::tests::{GOLDEN, golden};
use crate::dump::archive::{Archive, Entry, Text};

fn entry(desc: &str, defn: &str) -> Entry {
    let mut entry = golden("17").entries[0].clone();
    entry.desc = Text::from(desc);
    entry.defn = Text::from(defn);
    entry
}

/// What is left when `names` are dropped; the text itself when nothing was.
fn without(desc: &str, defn: &str, names: &[&str]) -> String {
    let entry = entry(desc, defn);
    drop_options(&entry, true, &|found| names.contains(&found.name.as_str()))
        .map_or(defn.to_owned(), |kept| String::from_utf8(kept).unwrap())
}

#[test]
fn drops_an_attribute_option_or_its_statement() {
    let defn = "CREATE TABLE public.t (\n    a int\n);\n\
        ALTER TABLE ONLY public.t ALTER COLUMN a SET STATISTICS 5;\n\
        ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=5, n_distinct=-0.5);\n\
        ALTER TABLE ONLY public.t ALTER COLUMN \"b;'\" SET (pg_attver=5);\n\
        ALTER TABLE ONLY public.t ALTER COLUMN c SET (n_distinct=2, pg_attver=5, x='1');\n";
    let expected = "CREATE TABLE public.t (\n    a int\n);\n\
        ALTER TABLE ONLY public.t ALTER COLUMN a SET STATISTICS 5;\n\
        ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=-0.5);\n\
        ALTER TABLE ONLY public.t ALTER COLUMN c SET (n_distinct=2, x='1');\n";
    assert_eq!(without("TABLE", defn, &["pg_attver"]), expected);
    let last = without("TABLE", defn, &["pg_attver", "x"]);
    assert!(last.ends_with("COLUMN c SET (n_distinct=2);\n"), "{last}");
    assert_eq!(without("TABLE", defn, &["fillfactor"]), defn);
}

#[test]
fn drops_storage_options_from_their_clause() {
    let cases = [
        (
            "TABLE",
            "CREATE TABLE t (\n a int\n)\nWITH (y='7', x='a,)', toast.x='b');\n",
            "CREATE TABLE t (\n a int\n)\nWITH (y='7', toast.x='b');\n",
        ),
        (
            "TABLE",
            "CREATE UNLOGGED TABLE t (\n a int\n)\nWITH (x='7');\n",
            "CREATE UNLOGGED TABLE t (\n a int\n);\n",
        ),
        (
            "INDEX",
            "CREATE INDEX i ON t USING gin (a) WITH (\"x\"=off, y='1') WHERE (b);",
            "CREATE INDEX i ON t USING gin (a) WITH (y='1') WHERE (b);",
        ),
        (
            "INDEX",
            "CREATE UNIQUE INDEX i ON t USING btree (a) WITH (x=off) WHERE (b);",
            "CREATE UNIQUE INDEX i ON t USING btree (a) WHERE (b);",
        ),
        (
            "CONSTRAINT",
            "ALTER TABLE ONLY t\n    ADD CONSTRAINT c EXCLUDE USING gist (x WITH &&) WITH (x='5') WHERE (d);",
            "ALTER TABLE ONLY t\n    ADD CONSTRAINT c EXCLUDE USING gist (x WITH &&) WHERE (d);",
        ),
        (
            "VIEW",
            "CREATE VIEW v WITH (x='true') AS\n SELECT 1;",
            "CREATE VIEW v AS\n SELECT 1;",
        ),
        (
            "RULE",
            "CREATE OR REPLACE VIEW v WITH (x='true', y=1) AS\n SELECT 1;",
            "CREATE OR REPLACE VIEW v WITH (y=1) AS\n SELECT 1;",
        ),
        (
            "MATERIALIZED VIEW",
            "CREATE MATERIALIZED VIEW v\nWITH (x='8') AS\n SELECT 1\n  WITH NO DATA;",
            "CREATE MATERIALIZED VIEW v AS\n SELECT 1\n  WITH NO DATA;",
        ),
    ];
    for (desc, defn, expected) in cases {
        assert_eq!(without(desc, defn, &["x"]), expected);
    }
}

#[test]
fn leaves_what_only_looks_like_an_option() {
    let cases = [
        (
            "TABLE",
            "CREATE TABLE t (a text DEFAULT ';ALTER TABLE t ALTER COLUMN a SET (x=1);');",
        ),
        ("TABLE", "CREATE TABLE \"t) WITH (x=1)\" (a int);"),
        (
            "TABLE",
            "CREATE TABLE t (a text DEFAULT $$;) WITH (x=1);$$);",
        ),
        (
            "VIEW",
            "CREATE VIEW v AS\n WITH q AS (SELECT 1) SELECT f() WITH (x=1);",
        ),
        (
            "FOREIGN TABLE",
            "ALTER FOREIGN TABLE ONLY t ALTER COLUMN a OPTIONS (\n    x 'A'\n);",
        ),
        ("FUNCTION", "CREATE TABLE t (a int) WITH (x=1);"),
        ("INDEX", "ALTER INDEX i ALTER COLUMN 1 SET STATISTICS 3;"),
        ("TABLE", "CREATE TABLE t (a int) WITH (x=1"),
        ("TABLE", "CREATE TABLE t (a int) WITH (x 1);"),
        ("TABLE", "ALTER TABLE ONLY t ALTER COLUMN a SET (x=1"),
        (
            "TABLE",
            "ALTER TABLE ONLY t ALTER COLUMN a SET (x=1), ALTER COLUMN b DROP DEFAULT;",
        ),
        ("TABLE", ""),
    ];
    for (desc, defn) in cases {
        assert_eq!(without(desc, defn, &["x"]), defn);
    }
}

#[test]
fn finds_options_by_kind() {
    let found = |desc: &str, defn: &str| {
        find_options(&entry(desc, defn), true)
            .into_iter()
            .map(|found| (found.kind, found.name, found.value))
            .collect::<Vec<_>>()
    };
    let index = |method: &str| OptionKind::Index {
        method: method.to_owned(),
    };
    let option = |kind, name: &str, value: &str| (kind, name.to_owned(), value.to_owned());
    assert_eq!(
        found(
            "CONSTRAINT",
            "ALTER TABLE ONLY t ADD CONSTRAINT c UNIQUE (a) WITH (FillFactor='9');"
        ),
        [option(index("btree"), "fillfactor", "'9'")]
    );
    assert_eq!(
        found(
            "CONSTRAINT",
            "ALTER TABLE ONLY t ADD CONSTRAINT c UNIQUE (a, b WITHOUT OVERLAPS) WITH (z=1);"
        ),
        [option(index("gist"), "z", "1")]
    );
    assert_eq!(
        found(
            "TABLE",
            "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=-0.5);"
        ),
        [option(OptionKind::Attribute, "n_distinct", "-0.5")]
    );
    assert_eq!(
        found(
            "INDEX",
            "CREATE INDEX i ON t USING \"G\"\"in\" (a) WITH (alone);"
        ),
        [option(index("G\"in"), "alone", "")]
    );
}

/// The archive that a 15.20 server gives a pg_dump of 17.11 (trap 55).
#[test]
fn cleans_a_real_archive() {
    let archive = golden("15-by-17");
    let mut cleaned = 0;
    for entry in &archive.entries {
        let drop_attver = drop_options(entry, true, &|found| found.name == "pg_attver");
        if let Some(kept) = drop_attver {
            cleaned += 1;
            let mut again = entry.clone();
            again.defn = Text::from(kept);
            let left = find_options(&again, true);
            assert!(left.iter().all(|found| found.name != "pg_attver"));
            let others = |found: Vec<_>| {
                found
                    .into_iter()
                    .filter(|f: &FoundOption| f.name != "pg_attver")
                    .count()
            };
            assert_eq!(left.len(), others(find_options(entry, true)));
            assert!(!again.defn.lossy().contains("pg_attver=2"), "{again:?}");
        }
    }
    // film, the hostile one, part and its two partitions, parent, child, mv, exc, ft.
    assert_eq!(cleaned, 10);
    for (_, bytes) in GOLDEN {
        let archive = Archive::read(bytes).unwrap();
        for entry in &archive.entries {
            assert_eq!(drop_options(entry, true, &|_| false), None);
        }
    }
}

/// Dropping everything that was found leaves nothing to find.
#[test]
fn everything_found_can_be_dropped() {
    for (name, bytes) in GOLDEN {
        let archive = Archive::read(bytes).unwrap();
        let found: usize = archive
            .entries
            .iter()
            .map(|entry| find_options(entry, true).len())
            .sum();
        assert!(found > 15 || name == "17-data", "{name}: {found}");
        for entry in &archive.entries {
            if let Some(kept) = drop_options(entry, true, &|_| true) {
                let mut again = entry.clone();
                again.defn = Text::from(kept);
                assert_eq!(find_options(&again, true), []);
            }
        }
    }
}
