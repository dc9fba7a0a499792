//! What the common workload has not: a database of some size, and now and then a large transaction in it. One connection;
//! the statements follow from the seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::workload_statements::Random;

/// A few tens of megabytes, so that a base copy takes seconds and not moments. No floats: wal2json is to have them too.
const TABLES: &str = "
    create schema if not exists c;
    create table if not exists public.marks (mark int primary key);
    create table c.big (id int primary key, n int not null, v text, filler text);
    insert into c.big select g, 0, md5(g::text), repeat(md5((-g)::text), 8) from generate_series(1, 60000) g;
    create index on c.big (v); create index on c.big (n, id); create unique index on c.big (md5(filler || id));
    create table c.wide (id bigint generated always as identity primary key, at timestamptz default now(), j jsonb);
    insert into c.wide (j) select jsonb_build_object('id', g, 'words', repeat('word ', 60)) from generate_series(1, 8000) g;
    create index on c.wide using gin (j);
    create table c.gone (id serial primary key, v text);
    create table c.full_rows (a int, b text);
    alter table c.full_rows replica identity full;
    insert into c.full_rows select g % 50, 'b' || g from generate_series(1, 300) g;
    create sequence c.ticket increment by 7;
    do $$ begin
        for i in 1..40 loop
            execute format('create table c.t%s (id int primary key, n int default 0, big_id int, v text)', i);
            execute format('insert into c.t%s select g, 0, g, ''v'' || g from generate_series(1, 200) g', i);
            execute format('create index on c.t%s (v)', i);
        end loop;
        for i in 1..200 loop perform lo_from_bytea(0, decode(repeat(md5(i::text), 20), 'hex')); end loop;
    end $$;
    create table c.parent (id int primary key, v text);
    create table c.child (id int primary key, parent int references c.parent on delete cascade);
    insert into c.parent select g, 'v' from generate_series(1, 100) g;
    insert into c.child select g, 1 + g % 100 from generate_series(1, 300) g";

const PAUSE: Duration = Duration::from_millis(20);

pub fn create(cluster: &Cluster, db: &str) {
    cluster.psql(db, TABLES);
}

/// Under way until `finish`.
pub struct Bulk {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    may_truncate: AtomicBool,
    committed: AtomicU64,
}

impl Bulk {
    /// The cluster must outlive it: the round ends it before.
    pub fn start(cluster: &Cluster, db: &str, seed: u64) -> Bulk {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let (uri, mut random) = (cluster.uri(db), Random::new(seed));
        let thread = std::thread::spawn(move || {
            let connect = || Client::connect(&uri, postgres::NoTls);
            while !theirs.is_over.load(Ordering::SeqCst) {
                if let Ok(mut client) = connect() {
                    work(&mut client, &mut random, &theirs);
                }
                std::thread::sleep(PAUSE);
            }
        });
        Bulk {
            shared,
            thread: Some(thread),
        }
    }

    pub fn allow_truncate(&self) {
        self.shared.may_truncate.store(true, Ordering::SeqCst);
    }

    /// Stop it; says how many transactions were committed.
    pub fn finish(mut self) -> u64 {
        self.shared.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends without a panic");
        }
        self.shared.committed.load(Ordering::SeqCst)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until the connection is lost. A statement that fails (a deadlock, a duplicate key) is rolled back.
fn work(client: &mut Client, random: &mut Random, shared: &Shared) {
    let settings = "set application_name = 'test client'; set lock_timeout = '500ms'; \
         set client_min_messages = error";
    if client.batch_execute(settings).is_err() {
        return;
    }
    while !shared.is_over.load(Ordering::SeqCst) {
        let sql = transaction(random, shared.may_truncate.load(Ordering::SeqCst));
        match client.batch_execute(&sql) {
            Ok(()) => {
                shared.committed.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) if client.batch_execute("rollback").is_err() => return,
            Err(_) => {}
        }
        std::thread::sleep(PAUSE * (1 + random.below(20) as u32));
    }
}

fn transaction(random: &mut Random, may_truncate: bool) -> String {
    let (id, count) = (1 + random.below(60_000), 1 + random.below(3_000));
    let end = id + count;
    match random.below(40) {
        // Now and then a large one: of the whole table, or rolled back.
        0 => "update c.big set n = n + 1 where id % 3 = 0".to_owned(),
        1 => format!(
            "begin; delete from c.big where id between {id} and {}; rollback",
            id + 10_000
        ),
        2 => format!(
            "insert into c.wide (j) select jsonb_build_object('id', g, 'it''s', repeat('x', 300)) from generate_series(1, {}) g",
            count * 2
        ),
        3..=7 => format!(
            "insert into c.big select g, 1, md5(g::text), repeat(md5((-g)::text), 8) \
             from generate_series({id}, {end}) g on conflict do nothing"
        ),
        8..=12 => {
            format!("update c.big set n = n + 1, v = md5(v) where id between {id} and {end}")
        }
        13..=16 => format!("delete from c.big where id between {id} and {end}"),
        // Keys that move.
        17..=19 => format!(
            "update c.big set id = -id where id between {id} and {}",
            id + count / 10
        ),
        20..=22 => savepoints(random, id),
        23..=26 => every_small_table(random, id),
        27..=30 => format!(
            "select nextval('c.ticket') from generate_series(1, {}); select setval('c.ticket', {id} * 100)",
            1 + count % 100
        ),
        31 => "select pg_switch_wal()".to_owned(),
        32 => "checkpoint".to_owned(),
        33 if may_truncate => {
            "truncate c.gone restart identity; insert into c.gone (v) values ('first')".to_owned()
        }
        34 => format!(
            "update c.full_rows set b = 'x{id}' where a = {a}; delete from c.full_rows where ctid = \
             (select ctid from c.full_rows limit 1); insert into c.full_rows values ({a}, null), ({a}, null)",
            a = id % 50
        ),
        35 => format!(
            "delete from c.parent where id = {a}; insert into c.parent values ({a}, 'again'); \
             insert into c.child select g, {a} from generate_series({id}, {id} + 3) g on conflict do nothing",
            a = 1 + id % 100
        ),
        36 => format!("delete from c.wide where id % 97 = {}", id % 97),
        _ => format!(
            "insert into c.gone (v) select 'v' || g from generate_series(1, {}) g",
            count % 200
        ),
    }
}

fn savepoints(random: &mut Random, id: u64) -> String {
    let mut sql = String::from("begin; ");
    for step in 0..1 + random.below(12) {
        let end = random.pick(&["rollback to s", "release s"]);
        sql.push_str(&format!(
            "savepoint s; update c.t{table} set n = n + 1, v = 'step {step}' where id % 20 = {step}; \
             insert into c.gone (v) values ('{id} {step}'); {end}; ",
            table = 1 + random.below(40)
        ));
    }
    sql + "commit"
}

fn every_small_table(random: &mut Random, id: u64) -> String {
    let row = 1 + id % 200;
    let mut sql = String::from("begin; ");
    for table in 1..=40 {
        sql.push_str(&match random.below(4) {
            0 => format!("delete from c.t{table} where id = {row}; "),
            1 => format!(
                "insert into c.t{table} (id, v) values ({row}, 'it''s') on conflict (id) do update set n = c.t{table}.n + 1; "
            ),
            _ => format!("update c.t{table} set n = n + {row}, big_id = null where id between {row} and {row} + 5; "),
        });
    }
    sql + "commit"
}
