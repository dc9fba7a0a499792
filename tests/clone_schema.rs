//! What a schema means on the source it means on the target: indexes and constraints stay what they are, views are
//! filled in their order, nothing comes alive.

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::migration::Migration;
use crate::support::version::Version;
use crate::support::{fixtures, reference};

/// What the catalog says of each index, which pg_dump does not tell in all: also whether it is valid.
const INDEXES: &str = "select string_agg(concat_ws(' ', indexrelid::regclass, indisvalid, indisready, indislive, indisprimary,
      indisunique, indimmediate, indisclustered, indisreplident, pg_get_indexdef(indexrelid), conname, contype,
      condeferrable, condeferred, convalidated, (select string_agg(attstattarget::text, ',') from pg_attribute
       where attrelid = indexrelid), inhparent::regclass, obj_description(indexrelid, 'pg_class')), E'\\n'
      order by indexrelid::regclass::text)
    from pg_index left join pg_constraint on conindid = indexrelid and conrelid = indrelid
         left join pg_inherits on inhrelid = indexrelid
    where indrelid >= 16384 and indrelid::regclass::text !~ 'toast' and indisvalid";

/// Traps 36 and 37.
#[test]
fn indexes_and_constraints_stay_what_they_are() {
    let migration = Migration::shared(
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
         update pg_index set indisvalid = false where indexrelid = 'half_built'::regclass",
    );
    // 36: left behind by a CREATE INDEX CONCURRENTLY that met two equal rows.
    let mut client = migration.source.client(&migration.db);
    client
        .batch_execute("create unique index concurrently half_unique on half (v)")
        .unwrap_err();
    migration.clone_with(&[], &[]);
    migration.assert_same();
    assert_eq!(migration.on_source(INDEXES), migration.on_target(INDEXES));
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

/// Trap 39. Each shows a number that was counted when it was filled; in the wrong order that number is 0.
#[test]
fn materialized_views_are_filled_after_what_they_read() {
    let mut sql = String::from(
        "create table base (id int primary key);
         insert into base select generate_series(1, 100);
         create function counted() returns bigint language sql stable as 'select count(*) from public.base';
         create view in_between as select id from base where id > 10;
         create materialized view m9 as select id from in_between;
         create unique index m9_id on m9 (id);
         create index on m9 ((id % 10)) where id > 20;",
    );
    // Names and creation go one way, what they read the other.
    for number in (1..9).rev() {
        sql += &format!(
            "create materialized view m{number} as select count(*) as n, {number} as i from m{};",
            number + 1
        );
    }
    sql += "create view on_views as select n from m8 union all select n from m1;
            create materialized view a_last as select sum(n) as n, counted() as c from on_views;
            create materialized view not_filled as select 1 as one with no data;
            create materialized view nothing_to_show as select id from m9 where false;
            alter materialized view m9 cluster on m9_id;
            refresh materialized view concurrently m9";
    let migration = Migration::shared(&sql);
    migration.clone_with(&["--restore-jobs", "4"], &[]);
    migration.assert_same();
    assert_eq!(
        migration.on_target("select n || ' ' || c from a_last"),
        "91 100"
    );
    assert_eq!(
        migration.on_target("select relispopulated from pg_class where relname = 'not_filled'"),
        "f"
    );
}

/// Trap 39: what works on the source only because of its database's search_path.
#[test]
fn functions_that_rely_on_the_search_path() {
    let migration = Migration::shared(
        "create schema lib; create schema app;
         create table lib.rates (id int primary key, rate numeric);
         insert into lib.rates values (1, 1.5), (2, 2.5);
         create type lib.kind as enum ('small', 'large');
         do $$ begin execute format('alter database %I set search_path = lib, app, public', current_database()); end $$;
         set search_path = lib, app, public;
         create function lib.helper(int) returns int language sql immutable as 'select $1 * 10';
         create function app.indexed(int) returns int language plpgsql immutable as $$ begin return helper($1); end $$;
         create function app.as_kind(int) returns text language plpgsql immutable
           as $$ begin return case when $1 < 10 then 'small'::kind else 'large'::kind end; end $$;
         create table app.items (id int primary key, k kind default 'large');
         alter table app.items add constraint items_check check (app.indexed(id) > 0),
           add column g int generated always as (app.indexed(id)) stored;
         insert into app.items select i, 'small' from generate_series(1, 50) i;
         create materialized view app.shown as select app.as_kind(id) as k, count(*) as n from app.items group by 1;
         create index items_indexed on app.items (app.indexed(id));
         create unique index items_kind on app.items (app.as_kind(id), id)",
    );
    migration.clone_with(&[], &[]);
    migration.assert_same();
}

/// Trap 40: nobody on the target waits for the publisher, and no slot of the source's subscription is touched.
#[test]
fn publications_and_subscriptions_do_not_come_alive() {
    let publisher = Cluster::start(Version::Debian15, &[]);
    publisher.create_db("publisher");
    publisher.psql(
        "publisher",
        "create table news (id int primary key); create publication news for table news",
    );
    publisher.psql(
        "publisher",
        "select pg_create_logical_replication_slot('subscribed', 'pgoutput')",
    );
    let uri = publisher.uri("publisher");
    let migration = Migration::shared(&format!(
        "create table news (id int primary key);
         create subscription news_{pid} connection '{uri}' publication news
           with (slot_name = 'subscribed', create_slot = false, copy_data = false);
         create publication ours for table news",
        pid = std::process::id()
    ));
    migration.clone_with(&[], &[]);
    migration.assert_same();
    let state = "select subenabled from pg_subscription s join pg_database d on d.oid = subdbid
                 where datname = current_database()";
    assert_eq!(migration.on_source(state), "t");
    assert_eq!(migration.on_target(state), "f");
    let rows = "select count(*) from news";
    assert_eq!(migration.on_target(rows), "0");
    // A rehearsal is done again; the source's slot is not the target's to drop.
    migration.over().clone_with(&["--drop-if-exists"], &[]);
    migration.assert_same();
    let slots = "select count(*) from pg_replication_slots where slot_name = 'subscribed'";
    assert_eq!(publisher.value("publisher", slots), "1");
    // It still works for the source alone, which ends before its publisher does.
    publisher.psql("publisher", "insert into news values (1)");
    crate::support::wait_until(
        std::time::Duration::from_secs(60),
        "the source to be served",
        || migration.on_source(rows) == "1",
    );
    assert_eq!(migration.on_target(rows), "0");
    migration.source.psql(
        &migration.db,
        &format!("drop subscription news_{}", std::process::id()),
    );
}

/// Trap 43: settings of the database and of roles in it are those of the copy, under its own name.
#[test]
fn settings_of_the_database_and_owners_of_everything() {
    for cluster in [shared_source(), shared_target()] {
        fixtures::create_roles(cluster);
    }
    let migration = Migration::shared(
        "do $$ begin
           execute format('alter database %I set work_mem = %L', current_database(), '9MB');
           execute format('alter database %I set search_path = \"a b\", \"$user\", public', current_database());
           execute format('alter database %I set \"my.setting\" = %L', current_database(), 'it''s, \"quoted\"');
           execute format('alter role fixture_reader in database %I set datestyle = %L', current_database(), 'German, DMY');
           execute format('alter role \"fixture owner\" in database %I set search_path = %L', current_database(), '');
         end $$;
         alter schema public owner to \"fixture owner\";
         grant create on schema public to fixture_reader;
         create table t (id int primary key)",
    );
    migration.clone_with(&[], &[]);
    migration.assert_same();
    assert_eq!(migration.on_target("show work_mem"), "9MB");
    assert_eq!(migration.on_target("show my.setting"), "it's, \"quoted\"");
    let settings = "select count(*) from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = current_database())";
    assert_eq!(migration.on_target(settings), "3");
    // The settings of the database of the source's name on the target are not ours.
    let other = format!(
        "select count(*) from pg_database where datname = '{}'",
        migration.db
    );
    assert_eq!(migration.on_target(&other), "0");
}

/// Trap 55: one notice for all columns of all tables, and nothing lost but the options that the target cannot have.
#[test]
fn pagila_from_debian_15_to_17() {
    let target = Cluster::start(Version::Pg17, &[]);
    let source = shared_source();
    let db = source.new_db("pagila");
    if !fixtures::load_pagila(source, &db) {
        return;
    }
    let migration = Migration::of(source, &target, db);
    let told = "the target does not know option";
    let outcome = migration.clone_with(&["--use-copy-binary"], &[told]);
    assert!(
        outcome.stderr.matches(told).count() <= 1,
        "{}",
        outcome.stderr
    );
    reference::assert_same_across_versions(source, &migration.db, &target, &migration.copy);
}
