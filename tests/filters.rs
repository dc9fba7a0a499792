//! `--filters`: what each section leaves out, what falls with it, and that the same holds for the copy and for the changes
//! that follow it. The end is compared with what should be there, object by object.

use crate::support::cluster::Cluster;
use crate::support::following::{Following, shared};
use crate::support::migration::Migration;
use crate::support::version::Version;

/// Two schemas that need each other in most of the ways there are.
const OBJECTS: &str = "
    create schema app; create schema \"Odd.S\"; create schema audit;
    create type app.mood as enum ('good', 'bad');
    create function audit.stamp() returns timestamptz language sql as 'select now()';
    create table app.users (id serial primary key, name text unique, mood app.mood);
    create table app.orders (id bigint generated always as identity primary key, user_id int references app.users, note text);
    create index orders_note on app.orders (note);
    create view app.order_names as select o.id, u.name from app.orders o join app.users u on u.id = o.user_id;
    create materialized view app.totals as select user_id, count(*) from app.orders group by 1;
    create table audit.log (id bigserial primary key, at timestamptz default audit.stamp(), order_id bigint references app.orders);
    create table app.stamped (id int primary key, at timestamptz default audit.stamp());
    create table \"Odd.S\".\"t.1\" (id int primary key, v text);
    create table app.events (day date not null, id int, primary key (day, id)) partition by range (day);
    create table app.events_1 partition of app.events for values from ('2024-01-01') to ('2025-01-01');
    create table app.events_2 partition of app.events for values from ('2025-01-01') to ('2026-01-01');
    create sequence app.loose;
    create table app.takes (id int primary key default nextval('app.users_id_seq'));
    comment on table app.orders is 'comment'; grant select on app.orders to public;
    insert into app.users (name, mood) values ('a', 'good'), ('b', 'bad');
    insert into app.orders (user_id, note) select 1 + i % 2, 'note ' || i from generate_series(1, 10) i;
    insert into audit.log (order_id) select id from app.orders;
    insert into app.stamped values (1); insert into \"Odd.S\".\"t.1\" values (1, 'x');
    insert into app.events select date '2024-12-01' + i, i from generate_series(1, 60) i;
    insert into app.takes default values;
    select setval('app.loose', 41);
    refresh materialized view app.totals";

/// Relations but indexes and toast, by name, with the number of rows of tables.
const RELATIONS: &str = "
    select coalesce(string_agg(c.relkind::text || ' ' || c.oid::regclass || case when c.relkind in ('r', 'm') then '='
        || (xpath('/row/c/text()', query_to_xml('select count(*) as c from ' || c.oid::regclass, false, true, '')))[1]::text else '' end,
        ', ' order by c.oid::regclass::text collate \"C\"), '')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'";

const CONSTRAINTS: &str = "
    select coalesce(string_agg(conrelid::regclass || '.' || conname, ', ' order by conrelid::regclass::text collate \"C\", conname collate \"C\"), '')
    from pg_constraint k join pg_namespace n on n.oid = k.connamespace
    where contype = 'f' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'";

fn migration(file: &str) -> (Migration<'static>, String) {
    let migration = Migration::shared(OBJECTS);
    let path = migration.scene.path("filters.ini");
    std::fs::write(&path, file).unwrap();
    (migration, path.to_str().unwrap().to_owned())
}

/// Clone with these filters; what is there then: relations, foreign keys.
#[track_caller]
fn cloned(file: &str, told: &[&str]) -> (String, String) {
    let (migration, path) = migration(file);
    migration.clone_with(&["--filters", &path], told);
    (
        migration.on_target(RELATIONS),
        migration.on_target(CONSTRAINTS),
    )
}

#[test]
fn a_schema_that_is_left_out_takes_what_needs_it() {
    let (relations, constraints) = cloned("[exclude-schema]\naudit\n", &[]);
    // The table whose default calls a function of that schema cannot be made.
    assert_eq!(
        relations,
        "r \"Odd.S\".\"t.1\"=1, p app.events, r app.events_1=30, r app.events_2=30, S app.loose, v app.order_names, \
         r app.orders=10, S app.orders_id_seq, r app.takes=1, m app.totals=2, r app.users=2, S app.users_id_seq"
    );
    assert_eq!(constraints, "app.orders.orders_user_id_fkey");
}

#[test]
fn only_one_schema() {
    let (relations, constraints) = cloned("[include-only-schema]\n\"Odd.S\"\n", &[]);
    assert_eq!(relations, "r \"Odd.S\".\"t.1\"=1");
    assert_eq!(constraints, "");
}

#[test]
fn a_table_that_is_left_out_takes_views_keys_and_its_sequence() {
    let (relations, constraints) = cloned(
        "[exclude-table]\napp.orders # and all of it\n~/^app$/.~/^events_2$/\n",
        &[],
    );
    assert_eq!(
        relations,
        "r \"Odd.S\".\"t.1\"=1, p app.events, r app.events_1=30, S app.loose, r app.stamped=1, r app.takes=1, r app.users=2, \
         S app.users_id_seq, r audit.log=10, S audit.log_id_seq"
    );
    assert_eq!(constraints, "");
}

/// The sequence of a table that is left out stays where another table takes its values from it.
#[test]
fn a_sequence_that_is_needed_stays() {
    let (relations, _) = cloned("[exclude-table]\napp.users\napp.events\n", &[]);
    assert_eq!(
        relations,
        "r \"Odd.S\".\"t.1\"=1, S app.loose, r app.orders=10, S app.orders_id_seq, r app.stamped=1, r app.takes=1, m app.totals=2, \
         S app.users_id_seq, r audit.log=10, S audit.log_id_seq"
    );
}

#[test]
fn only_some_tables_with_what_needs_no_other() {
    let (relations, constraints) = cloned(
        "[include-only-table]\napp.users\napp.orders\napp.events\n\n[exclude-table-data]\napp.events\n[exclude-index]\napp.orders_note\n",
        &[],
    );
    assert_eq!(
        relations,
        "p app.events, r app.events_1=0, r app.events_2=0, S app.loose, v app.order_names, r app.orders=10, S app.orders_id_seq, \
         m app.totals=2, r app.users=2, S app.users_id_seq"
    );
    assert_eq!(constraints, "app.orders.orders_user_id_fkey");
}

#[test]
fn a_key_to_rows_that_are_left_out_cannot_stay() {
    let (migration, path) = migration(
        "[exclude-table-data]\napp.users\napp.order_names\n[exclude-index]\naudit.log_pkey\n",
    );
    migration.clone_with(
        &["--filters", &path],
        &["line 3: nothing on the source matches app.order_names in [exclude-table-data]"],
    );
    assert_eq!(migration.on_target("select count(*) from app.users"), "0");
    assert_eq!(
        migration.on_target("select nextval('app.users_id_seq')"),
        "4"
    );
    assert_eq!(
        migration.on_target(CONSTRAINTS),
        "audit.log.log_order_id_fkey"
    );
    let indexes = "select string_agg(indexrelid::regclass::text, ', ' order by 1) from pg_index where indrelid in
        ('app.users'::regclass, 'audit.log'::regclass)";
    assert_eq!(
        migration.on_target(indexes),
        "app.users_name_key, app.users_pkey"
    );
}

/// What was left out once is left out by the resume too, and other filters are refused by name.
#[test]
fn a_resume_filters_as_before() {
    let (migration, path) = migration("[exclude-schema]\naudit\n[exclude-table]\napp.stamped\n");
    migration.run_until("clone.before_restore_post", &["--filters", &path]);
    let other = migration.scene.path("other.ini");
    std::fs::write(&other, "[exclude-schema]\naudit\n").unwrap();
    let refused = migration
        .invocation(&["--resume", "--filters", other.to_str().unwrap()])
        .run();
    refused.assert_last_error(3, &["--filters", "exclude-schema audit"]);
    migration.clone_with(&["--resume", "--filters", &path], &[]);
    assert_eq!(migration.on_target("select count(*) from app.orders"), "10");
    assert_eq!(
        migration.on_target("select to_regnamespace('audit') is null"),
        "t"
    );
}

#[test]
fn mistakes_are_named_before_anything_is_done() {
    for (file, words) in [
        (
            "[exclude-table]\nusers\n",
            "line 2: section [exclude-table] takes names with their schema",
        ),
        (
            "[include-only-table]\na.b\n[exclude-table]\na.c\n",
            "line 3: section [exclude-table] cannot be used together",
        ),
        (
            "[exclude-schema]\n~/(/\n",
            "line 2: invalid regular expression: parentheses () not balanced",
        ),
    ] {
        let (migration, path) = migration(file);
        let refused = migration.invocation(&["--filters", &path]).run();
        refused.assert_last_error(2, &[words]);
        assert_eq!(migration.on_target(RELATIONS), "");
    }
    let (migration, path) = migration(
        "[include-only-table]\napp.stamped\n[exclude-extension]\n[include-only-schema]\napp\n",
    );
    let refused = migration.invocation(&["--filters", &path]).run();
    refused.assert_last_error(2, &["the filters ask for TABLE \"app\".\"stamped\" and leave out what it needs: it needs FUNCTION"]);
}

/// A role that may not even lock what it does not want.
#[test]
fn what_is_left_out_need_not_be_readable() {
    let (migration, path) = migration(
        "[exclude-schema]\naudit\n[exclude-table]\n\"Odd.S\".\"t.1\"\n[include-only-extension]\n",
    );
    let source: &Cluster = migration.source;
    let role = format!("reader_{}", migration.db);
    source.psql(
        &migration.db,
        &format!(
            "create role {role} login; grant usage on schema app, \"Odd.S\" to {role};
             grant select on all tables in schema app to {role}; grant select on all sequences in schema app to {role}"
        ),
    );
    let uri = source
        .uri(&migration.db)
        .replace("user=postgres", &format!("user={role}"));
    let from = uri.replace("postgres@", &format!("{role}@"));
    let outcome = migration
        .scene
        .clone_db(
            &from,
            &migration.target.uri(&migration.copy),
            &["--filters", &path, "--no-owner", "--no-acl"],
        )
        .run();
    outcome.assert_success(&[]);
    assert_eq!(migration.on_target("select count(*) from app.orders"), "10");
}

/// pg_dump is not shown what the role may not read, so it cannot say what needs it: functions, views on those, columns,
/// defaults, children, policies fall all the same, each with a line that says why.
#[test]
fn what_needs_something_unreadable_falls_too() {
    let migration = Migration::shared(
        "create schema app; create table app.secret (id serial primary key, v text);
         create table app.kept (id int primary key, v text); insert into app.kept values (1, 'x');
         create function app.ids() returns setof int begin atomic select id from app.secret; end;
         create function app.shown(app.secret) returns text language sql as 'select $1.v';
         create function app.all_of() returns setof app.secret language sql as 'select * from app.secret';
         create function app.fine() returns int begin atomic select id from app.kept; end;
         create view app.over_ids as select * from app.ids() id;
         create view app.direct as select id from app.secret; create materialized view app.stored as select * from app.direct;
         create table app.holds (id int primary key, s app.secret); create type app.pair as (a app.secret, b int);
         create domain app.many as app.secret[]; create table app.holds_many (id int primary key, m app.many);
         create table app.child (w int) inherits (app.secret);
         create table app.numbered (id int primary key default nextval('app.secret_id_seq'), v text);
         create table app.checked (id int primary key, v text check (app.shown(row(1, v)::app.secret) <> ''));
         create table app.guarded (id int primary key); alter table app.guarded enable row level security;
         create policy open on app.guarded using (id in (select id from app.secret)); create policy fine on app.guarded using (true);
         create table app.refers (id int primary key references app.secret); insert into app.guarded values (7)",
    );
    let source: &Cluster = migration.source;
    let role = format!("reader_{}", migration.db);
    source.psql(
        &migration.db,
        &format!(
            "create role {role} login bypassrls; grant usage on schema app to {role};
             grant select on all tables in schema app to {role}; grant select on all sequences in schema app to {role};
             revoke all on app.secret from {role}; revoke all on app.secret_id_seq from {role}"
        ),
    );
    let path = migration.scene.path("filters.ini");
    std::fs::write(&path, "[exclude-table]\napp.secret\n").unwrap();
    let path = path.to_str().unwrap();
    let from = source
        .uri(&migration.db)
        .replace("user=postgres", &format!("user={role}"));
    let more = ["--filters", path, "--no-owner", "--no-acl"];
    let to = migration.target.uri(&migration.copy);
    let outcome = migration.scene.clone_db(&from, &to, &more).run();
    outcome.assert_success(&[]);
    assert_eq!(
        migration.on_target(RELATIONS),
        "r app.guarded=1, r app.kept=1, r app.refers=0"
    );
    let rest = "select string_agg(proname, ' ') || (select string_agg(polname, ' ') from pg_policy)
            || (select count(*) from pg_type t where typnamespace = 'app'::regnamespace and typtype = 'd')
        from pg_proc where pronamespace = 'app'::regnamespace";
    assert_eq!(migration.on_target(rest), "finefine0");
    for words in [
        "FUNCTION \"app\".\"ids()\", which needs table \"app\".\"secret\"",
        "VIEW \"app\".\"over_ids\", which needs FUNCTION",
        "TABLE \"app\".\"numbered\", which needs sequence \"app\".\"secret_id_seq\"",
    ] {
        let log = &outcome.stderr;
        assert!(log.contains(words), "no \"{words}\" in\n{log}");
    }
    // What is asked for by name and cannot be is an error, not less.
    std::fs::write(path, "[include-only-table]\napp.kept\napp.holds\n").unwrap();
    let again = migration.again();
    let to = again.target.uri(&again.copy);
    let refused = again.scene.clone_db(&from, &to, &more).run();
    refused.assert_last_error(
        2,
        &["the filters ask for TABLE \"app\".\"holds\" and leave out what it needs"],
    );
}

/// The source has a constraint for each partition that is referred to, the dump has only the one of the table above: it
/// cannot stay where the rows of a partition are missing, and neither where our role may not even read the partition.
#[test]
fn a_key_to_a_partition_without_rows_cannot_stay() {
    let migration = Migration::shared(
        "create table orders (id int primary key) partition by range (id);
         create table orders_old partition of orders for values from (0) to (10) partition by range (id);
         create table orders_0 partition of orders_old for values from (0) to (5);
         create table orders_5 partition of orders_old for values from (5) to (10);
         create table orders_new partition of orders for values from (10) to (20);
         create table items (id int primary key, order_id int references orders);
         create table parts (id int primary key, new_id int references orders_new) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (10);
         alter table parts add constraint to_orders foreign key (id) references orders;
         insert into orders select generate_series(0, 19); insert into items select i, i from generate_series(0, 19) i;
         insert into parts values (1, 11)",
    );
    let role = format!("partitions_{}", migration.db);
    migration.source.psql(
        &migration.db,
        &format!(
            "create role {role} login; grant select on all tables in schema public to {role}; revoke all on orders_5 from {role}"
        ),
    );
    let from = migration.source.uri(&migration.db);
    let from = from.replace("user=postgres", &format!("user={role}"));
    let path = migration.scene.path("filters.ini");
    let path = path.to_str().unwrap();
    for (file, rows) in [
        (
            "[exclude-table]\npublic.orders_5\n[exclude-table-data]\npublic.orders_0\n",
            "10",
        ),
        ("[exclude-table]\npublic.orders_5\n", "15"),
    ] {
        std::fs::write(path, file).unwrap();
        let again = migration.again();
        let to = again.target.uri(&again.copy);
        let more = ["--filters", path, "--no-owner", "--no-acl"];
        let outcome = again.scene.clone_db(&from, &to, &more).run();
        outcome.assert_success(&[]);
        assert_eq!(again.on_target("select count(*) from orders"), rows);
        assert_eq!(again.on_target("select count(*) from items"), "20");
        let keys = "select string_agg(conname, ' ') from pg_constraint where contype = 'f' and conparentid = 0";
        assert_eq!(again.on_target(keys), "parts_new_id_fkey");
    }
}

/// Each plugin leaves out what the copy left out, in its own way; a table without replica identity that is left out is no
/// obstacle.
#[test]
fn changes_are_filtered_as_the_copy_is() {
    for plugin in ["test_decoding", "pgoutput", "wal2json"] {
        let following = Following::of(
            shared(Version::Debian15),
            plugin,
            "create table public.marks (mark int primary key); create table kept (id int primary key, v text);
             create table gone (id int primary key, v text); create table no_key (v text);
             create table no_rows (id int primary key, v text); create table \"odd, t.*\" (id int primary key);
             create table parts (id int primary key) partition by range (id);
             create table parts_1 partition of parts for values from (0) to (10);
             create table parts_2 partition of parts for values from (10) to (20);
             insert into kept values (1, 'x'); insert into gone values (1, 'x'); insert into no_rows values (1, 'x')",
        );
        let path = following.scene.path("filters.ini");
        std::fs::write(
            &path,
            "[exclude-table]\npublic.gone\npublic.no_key\npublic.\"odd, t.*\"\npublic.parts_2\n[exclude-table-data]\npublic.no_rows\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let mut run = following.clone_and_apply(&["--filters", path]);
        following.wait_for_mark(&mut run);
        following.source.psql(
            &following.db,
            "begin; insert into gone values (2); insert into kept values (2, 'y'); update no_rows set v = 'z'; insert into no_key values ('n');
             insert into parts values (1), (11); insert into \"odd, t.*\" values (1); commit;
             truncate gone, kept; insert into kept values (3, 'after'); delete from no_rows; update no_key set v = 'u' where false;
             insert into gone select i from generate_series(10, 200) i",
        );
        following.wait_for_mark(&mut run);
        following.set_endpos_current();
        let outcome = run.wait_deadline(crate::support::following::SOON);
        outcome.assert_success(&[]);
        assert_eq!(
            following.on_target("select string_agg(c.relname, ' ' order by c.relname) from pg_class c where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"),
            "kept marks no_rows parts parts_1"
        );
        assert_eq!(
            following.on_target("select string_agg(id || v, ' ') from kept"),
            "3after"
        );
        assert_eq!(following.on_target("select count(*) from no_rows"), "0");
        assert_eq!(
            following.on_target("select string_agg(id::text, ' ') from parts"),
            "1"
        );
        following.clean_up();
        following.assert_nothing_left();
    }
}

/// No rule names these tables: one has a column of an extension that is left out, one of a type in a schema that is. What
/// comes of them is not replayed, also what was written before the copy knew that; a table that appears is still an error.
#[test]
fn what_falls_with_something_else_is_not_followed() {
    for plugin in ["test_decoding", "pgoutput", "wal2json"] {
        let following = Following::of(
            shared(Version::Debian15),
            plugin,
            "create table public.marks (mark int primary key); create table kept (id int primary key, v text);
             create extension hstore; create table by_extension (id int primary key, h hstore);
             create table emptied (id int primary key); insert into emptied values (1); create schema gone; create type gone.mood as enum ('good', 'bad');
             create table by_type (id int primary key, m gone.mood);
             insert into kept values (1, 'x'); insert into by_type values (1, 'good')",
        );
        if plugin == "test_decoding" {
            // Nothing finds a row of it, so an UPDATE could not be replayed.
            following.source.psql(
                &following.db,
                "create table no_key (m gone.mood); insert into no_key values ('bad')",
            );
        }
        let path = following.scene.path("filters.ini");
        std::fs::write(
            &path,
            "[exclude-extension]\nhstore\n[exclude-schema]\ngone\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let changes = "begin; insert into by_extension values (2, 'a=>1'); insert into kept select max(id) + 1, 'y' from kept;
            update by_type set m = 'bad'; commit; truncate by_extension; begin; delete from by_type; truncate by_extension, by_type;
            insert into by_type values (1, 'good'); commit";
        // The copy waits, and with it the dump that says what falls.
        let mut run = following
            .command(&["clone", "--follow"], &["--filters", path])
            .env("PGCOPYDB_FAILPOINT", "clone.after_dump=sleep:1500")
            .spawn();
        crate::support::wait_until(crate::support::following::SOON, "the slot", || {
            assert!(run.is_running(), "{}", run.stderr());
            following.slot("active") == "true"
        });
        following.source.psql(&following.db, changes);
        // A segment that is complete is transformed at once.
        following
            .source
            .psql(&following.db, "select pg_switch_wal()");
        following.wait_for_apply(&mut run);
        let later = format!("{changes}; truncate by_type, emptied");
        following.source.psql(&following.db, &later);
        if plugin == "test_decoding" {
            let sql = "update no_key set m = 'good'; delete from no_key";
            following.source.psql(&following.db, sql);
        }
        following.wait_for_mark(&mut run);
        let kept = "select string_agg(id || v, ' ' order by id) from kept";
        assert_eq!(following.on_target(kept), "1x 2y 3y");
        assert_eq!(following.on_target("select count(*) from emptied"), "0");
        let fallen =
            "select count(*) from pg_class where relname in ('by_extension', 'by_type', 'no_key')";
        assert_eq!(following.on_target(fallen), "0");
        following.source.psql(
            &following.db,
            "create table later (id int primary key); insert into later values (1)",
        );
        following.set_endpos_current();
        let outcome = run.wait_deadline(crate::support::cmd::RUN_DEADLINE);
        assert!(!outcome.status.success(), "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("\"public\".\"later\""),
            "{}",
            outcome.stderr
        );
        following.clean_up();
    }
}

/// What is listed is what a clone does.
#[test]
fn lists_show_what_is_meant_and_why_not() {
    let (migration, path) = migration("[exclude-schema]\naudit\n[exclude-table-data]\napp.users\n");
    let from = migration.source.uri(&migration.db);
    let list = |words: &[&str]| {
        let mut args = vec!["list"];
        args.extend(words);
        args.extend(["--source", &from, "--filters", &path]);
        let outcome = migration.scene.command(args).tools(Version::Debian15).run();
        outcome.assert_success(&[]);
        outcome.stdout
    };
    let json = |words: &[&str], key: &str| -> Vec<String> {
        let mut words = words.to_vec();
        words.push("--json");
        let lines: serde_json::Value = serde_json::from_str(&list(&words)).unwrap();
        let mut names: Vec<String> = lines
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line[key].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        json(&["tables"], "name"),
        ["events_1", "events_2", "orders", "t.1", "takes"]
    );
    assert_eq!(
        json(&["tables", "--list-skipped"], "name"),
        ["log", "stamped", "users"]
    );
    assert_eq!(
        json(&["sequences", "--list-skipped"], "name"),
        ["log_id_seq"]
    );
    assert_eq!(
        json(&["indexes", "--list-skipped"], "name"),
        ["log_pkey", "stamped_pkey", "users_name_key", "users_pkey"]
    );
    let depends = list(&["depends"]);
    for words in [
        "needs FUNCTION \"audit\".\"stamp()\"",
        "in [exclude-schema]",
        "the rows of \"app\".\"users\" are left out",
    ] {
        assert!(depends.contains(words), "{depends}");
    }
}
