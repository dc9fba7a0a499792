//! What a schema means on the source it means on the target: views are filled in their order, settings are set, nothing
//! comes alive. Indexes have a file of their own.

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::migration::Migration;
use crate::support::version::Version;
use crate::support::{fixtures, reference};

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

/// Trap 41: lines of the archive's list may be long, and hold whatever a name holds.
#[test]
fn entries_with_long_and_odd_names() {
    let arguments = vec!["timestamp with time zone"; 99].join(", ");
    let migration = Migration::shared(&format!(
        "create function many({arguments}) returns int language sql as 'select 1';
         comment on function many is 'of many arguments; -- DATA';
         grant execute on function many to public;
         create schema \"; TABLE DATA\";
         create table \"; TABLE DATA\".\"1; 1259 16384 TABLE public t postgres\" (id int primary key, \"; drop table t;\" text);
         create index \";\n; -- \\restrict\" on \"; TABLE DATA\".\"1; 1259 16384 TABLE public t postgres\" (\"; drop table t;\");
         comment on table \"; TABLE DATA\".\"1; 1259 16384 TABLE public t postgres\" is E'\\\\unrestrict\\n\\\\.\\n;';
         insert into \"; TABLE DATA\".\"1; 1259 16384 TABLE public t postgres\" values (1, E'\\\\.'), (2, E'\\\\.\\n\\\\N');
         create table \"EXTENSION\" (id int primary key); comment on table \"EXTENSION\" is 'EXTENSION plpgsql';
         create view \"MATERIALIZED VIEW DATA\" as select 1 as one;
         alter default privileges grant select on tables to public"
    ));
    migration.clone_with(&[], &[]);
    migration.assert_same();
}

/// Trap 44: no snapshot covers them, so they are read last, and again by a run that is resumed.
#[test]
fn sequences_are_as_they_are_at_the_end() {
    let migration = Migration::shared(
        "create table t (id serial primary key, other bigint generated always as identity);
         insert into t select from generate_series(1, 10);
         create sequence never; create sequence backwards increment -2 minvalue -100 maxvalue 100 start 7 cycle;
         select nextval('backwards')",
    );
    migration.run_until("clone.before_sequences", &[]);
    migration.source.psql(
        &migration.db,
        "select nextval('t_id_seq'), nextval('t_other_seq'), nextval('backwards')",
    );
    migration.clone_with(&["--resume"], &[]);
    migration.assert_same();
    let next = "select concat_ws(' ', nextval('t_id_seq'), nextval('t_other_seq'), nextval('never'), nextval('backwards'))";
    assert_eq!(migration.on_target(next), "12 12 1 3");
}
