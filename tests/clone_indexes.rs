//! Indexes and constraints stay what they are on the source, whoever builds them: our workers or pg_restore.

use crate::support::migration::Migration;

/// What the catalog says of each index, which pg_dump does not tell in all: also whether it is valid.
const INDEXES: &str = "select string_agg(concat_ws(' ', indexrelid::regclass, indisvalid, indisready, indislive, indisprimary,
      indisunique, indimmediate, indisclustered, indisreplident, pg_get_indexdef(indexrelid), conname, contype,
      condeferrable, condeferred, convalidated, (select string_agg(attstattarget::text, ',') from pg_attribute
       where attrelid = indexrelid), inhparent::regclass, obj_description(indexrelid, 'pg_class')), E'\\n'
      order by indexrelid::regclass::text, conname)
    from pg_index left join pg_constraint on conindid = indexrelid and conrelid = indrelid
         left join pg_inherits on inhrelid = indexrelid
    where indrelid >= 16384 and indrelid::regclass::text !~ 'toast' and indisvalid";

/// Traps 36 and 37.
const SCHEMA: &str =
        "create extension btree_gist;
         -- An exclusion constraint and a primary key in one table, both of which have an index.
         create table booked (id int constraint booked_pk primary key, room int, during int4range,
           constraint booked_once exclude using gist (room with =, during with &&) deferrable initially deferred,
           constraint booked_other unique (room, during));
         insert into booked select i, i % 5, int4range(i, i + 1) from generate_series(1, 300) i;
         -- A unique index is no constraint, and a constraint is more than its index, whatever their names say.
         create table alike (a int, b int, c text, d int not null, e int);
         create unique index alike_a_key on alike (a);
         alter table alike add constraint alike_b_idx unique (b), add unique (c) include (e),
           add constraint alike_d unique nulls not distinct (d, e) deferrable;
         create unique index alike_d_e on alike (d, e) nulls not distinct;
         insert into alike select i, i, 'c' || i, i, i from generate_series(1, 300) i;
         create unique index alike_partial on alike (a) include (c, b) where b > 10;
         create index alike_expression on alike ((a + b), (lower(c)) desc nulls last) with (fillfactor = 55);
         alter index alike_expression alter column 1 set statistics 111;
         alter index alike_expression alter column 2 set statistics 0;
         comment on index alike_expression is 'of two expressions';
         comment on constraint alike_b_idx on alike is 'an \"index\"';
         alter table alike cluster on alike_expression;
         create unique index alike_identity on alike (d);
         alter table alike replica identity using index alike_identity;
         -- Clustered on its constraint, identified by another, which cannot be deferred.
         create table keyed (id int constraint \"the \"\"key\"\"\" primary key, code int not null constraint keyed_code unique);
         alter table keyed cluster on \"the \"\"key\"\"\", replica identity using index keyed_code;
         insert into keyed select i, i from generate_series(1, 10) i;
         -- 37: an index that is not on all partitions yet, one that is on one of them only, keys with other names.
         create table parted (id int, day int, v text, constraint parted_pk primary key (id, day)) partition by range (day);
         create table parted_1 partition of parted for values from (0) to (10);
         create table parted_2 (v text, day int not null, id int not null, constraint its_own_name primary key (id, day));
         alter table parted attach partition parted_2 for values from (10) to (20);
         create table parted_3 partition of parted for values from (20) to (30) partition by list (id);
         create table parted_3_any partition of parted_3 default;
         insert into parted select i, i % 30, 'v' || i from generate_series(1, 300) i;
         create index parted_v on parted (v);
         create index parted_incomplete on only parted (day, v);
         create index parted_1_of_incomplete on parted_1 (day, v);
         alter index parted_incomplete attach partition parted_1_of_incomplete;
         create index parted_2_alone on parted_2 (id, v);
         alter table parted_2 cluster on parted_2_alone;
         create unique index parted_3_identity on parted_3_any (day, id);
         alter table parted_3_any replica identity using index parted_3_identity;
         create table of_parted (id int, day int, foreign key (id, day) references parted);
         -- Never to be taken for one that works.
         create table half (id int, v text);
         insert into half values (1, 'same'), (2, 'same');
         create index half_built on half (v);
         update pg_index set indisvalid = false where indexrelid = 'half_built'::regclass";

fn migration() -> Migration<'static> {
    let migration = Migration::shared(SCHEMA);
    // 36: left behind by a CREATE INDEX CONCURRENTLY that met two equal rows.
    let mut client = migration.source.client(&migration.db);
    client
        .batch_execute("create unique index concurrently half_unique on half (v)")
        .unwrap_err();
    migration
}

#[track_caller]
fn assert_same_indexes(migration: &Migration) {
    migration.assert_same();
    assert_eq!(migration.on_source(INDEXES), migration.on_target(INDEXES));
}

#[test]
fn indexes_and_constraints_stay_what_they_are() {
    let migration = migration();
    migration.clone_with(&[], &[]);
    assert_same_indexes(&migration);
    let count = "select count(*) from pg_index where indrelid = 'half'::regclass";
    assert_eq!(migration.on_source(count), "2");
    assert_eq!(migration.on_target(count), "0");
    // Each index once.
    let doubles =
        "select count(*) from pg_class where relkind in ('i', 'I') and relname ~ '_idx1$'";
    assert_eq!(migration.on_target(doubles), "0");
    // And it works: the deferred constraint lets a transaction through that is right at its end.
    migration.target.psql(
        &migration.copy,
        "begin; update booked set during = int4range(1, 400) where id = 2;
         update booked set during = 'empty' where id = 2; commit",
    );
}

/// Trap 37: what was made before is neither made twice nor forgotten, also where a partition's index is half-way to its
/// parent's.
#[test]
fn a_resumed_run_makes_what_is_left() {
    for point in ["clone.before_restore_post", "clone.after_restore_post"] {
        let migration = migration();
        migration.run_until(point, &[]);
        migration.clone_with(&["--resume"], &[]);
        assert_same_indexes(&migration);
    }
}

/// The first table of each worker is not copied, so whatever stands on it fails, some of it at the same moment in
/// several processes of pg_restore: each is named, with a reason of its own, and a resume makes all of it.
#[test]
fn what_stands_on_a_failed_table_is_named_and_made_later() {
    let migration = migration();
    let outcome = migration
        .invocation(&["--restore-jobs", "4"])
        .env("PGCOPYDB_FAILPOINT", "copy.after_commit=error")
        .run();
    assert_eq!(outcome.status.code(), Some(4), "{}", outcome.stderr);
    migration.assert_nothing_left(&outcome);
    // A reason that is no reason: two messages mixed into one.
    assert!(!outcome.stderr.contains("42601"), "{}", outcome.stderr);
    migration.clone_with(&["--resume", "--not-consistent"], &[]);
    assert_same_indexes(&migration);
}

/// Trap 38: each system catalog counts for itself, so after 2^32 objects an index and a constraint, or an index and
/// another's constraint, have one number. Here the constraints are given it.
#[test]
fn one_oid_in_two_catalogs_is_two_objects() {
    let migration = Migration::shared(
        "create extension btree_gist;
         create table t (id int constraint t_key primary key, r int4range, code int constraint t_code unique,
           constraint t_exclude exclude using gist (r with &&), constraint t_self foreign key (code) references t);
         create index t_built on t (code);
         create materialized view m as select 1 as one;
         create index m_restored on m (one);
         create table parted (id int) partition by range (id);
         create index parted_restored on parted (id);
         insert into t select i, int4range(i, i + 1), i from generate_series(1, 10) i;
         create function renumber(conname text, relation regclass) returns void language plpgsql as $$
           declare old oid := (select c.oid from pg_constraint c where c.conname = $1);
           begin
             update pg_constraint c set oid = relation where c.oid = old;
             update pg_depend set objid = relation where classid = 'pg_constraint'::regclass and objid = old;
             update pg_depend set refobjid = relation where refclassid = 'pg_constraint'::regclass and refobjid = old;
             update pg_trigger set tgconstraint = relation where tgconstraint = old;
           end $$;
         -- Not built by us, with the number of an index that is; and the other way round.
         select renumber('t_exclude', 't_built'), renumber('t_self', 't_code'), renumber('t_key', 'm_restored'),
           renumber('t_code', 'parted_restored');
         drop function renumber",
    );
    migration.clone_with(&[], &[]);
    assert_same_indexes(&migration);
    let names = "select string_agg(relname, ' ' order by relname) from pg_class where relkind in ('i', 'I') and oid >= 16384
                   and relname !~ '^pg_'";
    assert_eq!(
        migration.on_target(names),
        "m_restored parted_restored t_built t_code t_exclude t_key"
    );
    let names = "select string_agg(conname, ' ' order by conname) from pg_constraint where conrelid = 't'::regclass";
    assert_eq!(migration.on_target(names), "t_code t_exclude t_key t_self");
}
