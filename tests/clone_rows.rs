//! How rows travel and how they lie on the target: in binary where that is safe, frozen where the target's own table
//! allows it.

use crate::support::migration::Migration;

/// Let the target's log tell what is executed in this database.
fn log_statements(migration: &Migration) {
    let sql = format!(
        "alter database {} set log_statement = 'all'",
        migration.copy
    );
    migration.target.psql("postgres", &sql);
}

/// As the source has it, for the comparison.
fn reset_log(migration: &Migration) {
    let sql = format!("alter database {} reset log_statement", migration.copy);
    migration.target.psql("postgres", &sql);
}

/// The COPY statements that the target was sent for a table, whose name is in no other test.
fn copies_into(migration: &Migration, table: &str) -> Vec<String> {
    let log = migration.target.log();
    let wanted = format!("COPY \"public\".\"{table}\"");
    let copies = log
        .lines()
        .filter_map(|line| line.find(&wanted).map(|at| &line[at..]));
    copies.map(str::to_owned).collect()
}

/// Trap 34.
#[test]
fn binary_where_every_column_allows_it() {
    let migration = Migration::shared(
        "create type mood as enum ('sad', 'ok');
         create domain positive as int check (value > 0);
         create type pair as (a int, b text);
         create extension hstore;
         create table bin_numbers (id int primary key, i8 int8, n numeric, f4 real, f8 float8, b bool, bits varbit);
         insert into bin_numbers select i, i * 1000000007::int8, i / 7.0, i / 3.0, 1e300 / i, i % 2 = 0, i::bit(20)
           from generate_series(1, 500) i;
         insert into bin_numbers values (501, null, 'NaN', '-Infinity', 'NaN', null, ''),
           (502, -9223372036854775808, 1e-1000, '-0', 5e-324, true, '1');
         create table bin_text (id uuid primary key, t text, j json, jb jsonb, by bytea, ts timestamptz, d date,
           iv interval, a text[], ip inet, c char(5), m int[][]);
         insert into bin_text select md5(i::text)::uuid, E'tab\\t nl\\n \\\\ ' || i, '{ \"a\" : 1}', '{\"b\": [null, \"x\"]}',
           decode('00ff5c', 'hex'), timestamptz '2000-01-01' + i * interval '1 day', date '0044-03-15 BC' + i,
           interval '1 month -3 days 04:05:06.789', array['', null, 'null', '\"'], '::1/64', 'x', '{{1,2},{3,null}}'
           from generate_series(1, 500) i;
         insert into bin_text (id, ts, d) values ('00000000-0000-0000-0000-000000000000', 'infinity', '-infinity');
         create table text_enum (id int primary key, m mood);
         insert into text_enum select i, 'ok' from generate_series(1, 3000) i;
         create table text_domain (id int primary key, p positive);
         insert into text_domain values (1, 1);
         create table text_pair (id int primary key, p pair, ps pair[]);
         insert into text_pair values (1, '(1,\"a,b\")', '{\"(1,x)\"}');
         create table text_hstore (h hstore);
         insert into text_hstore values ('a=>1, b=>NULL');
         create table text_money (m money, r int4range, x xml);
         insert into text_money values (12.34, '[1,5)', '<a>ü</a>')",
    );
    log_statements(&migration);
    let options = [
        "--use-copy-binary",
        "--split-at",
        "8kB",
        "--table-jobs",
        "2",
    ];
    let outcome = migration.clone_with(&options, &[]);
    reset_log(&migration);
    migration.assert_same();
    for table in ["bin_numbers", "bin_text"] {
        let copies = copies_into(&migration, table);
        // Split, at that.
        assert!(copies.len() > 1, "{table}: {copies:?}");
        assert!(
            copies.iter().all(|copy| copy.contains("FORMAT binary")),
            "{copies:?}"
        );
    }
    for table in [
        "text_enum",
        "text_domain",
        "text_pair",
        "text_hstore",
        "text_money",
    ] {
        let copies = copies_into(&migration, table);
        assert!(
            !copies.is_empty() && !copies.iter().any(|copy| copy.contains("binary")),
            "{copies:?}"
        );
        let told = format!("table \"public\".\"{table}\" is copied as text");
        assert_eq!(
            outcome.stderr.matches(&told).count(),
            1,
            "{}",
            outcome.stderr
        );
    }
    assert_eq!(outcome.stderr.matches("is copied as text").count(), 5);
}

/// How many of a table's pages are frozen, and how many there are.
fn frozen(migration: &Migration, table: &str) -> (u64, u64) {
    let sql = format!(
        "select all_frozen || ' ' || pg_relation_size('{table}') / 8192 from pg_visibility_map_summary('{table}')"
    );
    let (frozen, pages) = migration
        .on_target(&sql)
        .split_once(' ')
        .map(|(a, b)| (a.parse(), b.parse()))
        .unwrap();
    (frozen.unwrap(), pages.unwrap())
}

/// Trap 35: what needs no vacuum any more has its pages frozen by the COPY itself.
#[test]
fn rows_are_frozen_where_one_copy_fills_a_table() {
    let migration = Migration::shared(
        "create table fr_whole (id int primary key, v text);
         create table fr_split (id int primary key, v text);
         create table fr_root (id int primary key, v text) partition by range (id);
         create table fr_leaf partition of fr_root default;
         create unlogged table fr_unlogged (id int);
         insert into fr_whole select i, repeat('v', 100) from generate_series(1, 300) i;
         insert into fr_split select i, repeat('v', 100) from generate_series(1, 3000) i;
         insert into fr_root select i, repeat('v', 100) from generate_series(1, 300) i;
         insert into fr_unlogged select generate_series(1, 1000)",
    );
    log_statements(&migration);
    migration.clone_with(
        &["--skip-vacuum", "--split-at", "128kB", "--table-jobs", "2"],
        &[],
    );
    reset_log(&migration);
    migration.assert_same();
    migration
        .target
        .psql(&migration.copy, "create extension pg_visibility");
    for table in ["fr_whole", "fr_leaf", "fr_unlogged"] {
        let (frozen, pages) = frozen(&migration, table);
        assert!(pages > 3 && frozen == pages, "{table}: {frozen} of {pages}");
        assert_eq!(copies_into(&migration, table).len(), 1);
    }
    assert_eq!(frozen(&migration, "fr_split").0, 0);
    let copies = copies_into(&migration, "fr_split");
    assert!(
        copies.len() > 1 && !copies.iter().any(|copy| copy.contains("FREEZE")),
        "{copies:?}"
    );
}

/// Trap 35: between the schema and the rows the user has put tables of another kind in the place of ours.
#[test]
fn the_targets_own_kind_of_table_decides() {
    let migration = Migration::shared(
        "create table changed_to_partitioned (id int not null, day date, v text);
         insert into changed_to_partitioned select i, date '2024-01-01' + i % 300, 'v' || i
           from generate_series(1, 900) i;
         create table changed_to_other_order (a int, b text, gone int, c date primary key);
         alter table changed_to_other_order drop column gone;
         insert into changed_to_other_order select i, 'b' || i, date '2024-01-01' + i from generate_series(1, 50) i;
         create table unchanged (id int primary key);
         insert into unchanged select generate_series(1, 50)",
    );
    log_statements(&migration);
    migration.run_until("clone.after_restore_pre", &[]);
    migration.target.psql(
        &migration.copy,
        "drop table changed_to_partitioned, changed_to_other_order;
         create table changed_to_partitioned (v text, id int not null, day date) partition by range (day);
         create table first_half partition of changed_to_partitioned for values from (minvalue) to ('2024-07-01');
         create table second_half partition of changed_to_partitioned for values from ('2024-07-01') to (maxvalue);
         -- 33: the order of columns is the target's own affair.
         create table changed_to_other_order (c date not null, b text, a int)",
    );
    migration.clone_with(&["--resume", "--not-consistent"], &[]);
    let copies = copies_into(&migration, "changed_to_partitioned");
    assert!(
        !copies.is_empty() && !copies.iter().any(|copy| copy.contains("FREEZE")),
        "{copies:?}"
    );
    let rows =
        "select md5(string_agg((id, day, v)::text, ',' order by id)) from changed_to_partitioned";
    assert_eq!(migration.on_source(rows), migration.on_target(rows));
    assert_eq!(
        migration.on_target("select count(*) > 300 from second_half"),
        "t"
    );
    let rows =
        "select md5(string_agg((a, b, c)::text, ',' order by a)) from changed_to_other_order";
    assert_eq!(migration.on_source(rows), migration.on_target(rows));
    assert_eq!(migration.on_target("select count(*) from unchanged"), "50");
}

/// A source whose key becomes one of a partitioned table: its index and its constraint cannot be made like that of a
/// plain one.
#[test]
fn keys_of_a_table_that_was_made_partitioned() {
    let migration = Migration::shared(
        "create table keyed (id int constraint keyed_pk primary key, v text);
         insert into keyed select i, 'v' || i from generate_series(1, 900) i;
         create index keyed_v on keyed (v);
         create table refers (id int references keyed);
         insert into refers select generate_series(1, 900)",
    );
    migration.run_until("clone.after_restore_pre", &[]);
    migration.target.psql(
        &migration.copy,
        "drop table keyed;
         create table keyed (id int constraint keyed_pk primary key, v text) partition by hash (id);
         create table keyed_0 partition of keyed for values with (modulus 2, remainder 0);
         create table keyed_1 partition of keyed for values with (modulus 2, remainder 1)",
    );
    migration.clone_with(&["--resume", "--not-consistent"], &[]);
    let rows = "select md5(string_agg((id, v)::text, ',' order by id)) from keyed";
    assert_eq!(migration.on_source(rows), migration.on_target(rows));
    let keys = "select string_agg(concat(conname, contype, convalidated), ' ' order by conname) from pg_constraint
                where conrelid in ('keyed'::regclass, 'refers'::regclass) and conparentid = 0 and contype <> 'n'";
    assert_eq!(migration.on_source(keys), migration.on_target(keys));
    assert_eq!(
        migration.on_target("select count(*) from pg_indexes where indexname ~ 'keyed_v'"),
        "1"
    );
}
