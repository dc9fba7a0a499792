//! Somebody's application at work on the source: several connections that change all kinds of tables in interleaved
//! transactions, with savepoints, rollbacks and two-phase commits, for as long as a test wants. Its seed is printed;
//! `PGCOPYDB_TEST_SEED` gives the same statements again (their interleaving is the scheduler's). The tables are those of
//! tests/sql/workload.sql; no statement is DDL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::cluster::Cluster;
use super::wait_until;
use super::workload_statements::{Has, Random, statement};

const CONNECTIONS: u64 = 3;
/// Between two transactions of a connection: a debug build must be able to follow on two cores.
const PAUSE: Duration = Duration::from_millis(3);
/// How long a number of transactions may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one transaction may run into where several change the same rows: it is rolled back and the next one begins.
const EXPECTED: &[&str] = &[
    "23505", // duplicate key
    "23503", // no such parent
    "40P01", // deadlock
    "40001", // serialization failure
    "55P03", // lock timeout
    "25P02", // transaction is aborted
];
/// The server went down, or came up: the connection is made again.
const CONNECTION_LOST: &[&str] = &["57P01", "57P02", "57P03", "08006", "08003"];

/// Make the tables. `log_only` adds one without replica identity, which only test_decoding can replicate.
pub fn create(cluster: &Cluster, db: &str, log_only: bool) {
    cluster.psql(db, include_str!("../sql/workload.sql"));
    if cluster.version().major() >= 15 {
        cluster.psql(db, include_str!("../sql/workload_15.sql"));
    }
    if log_only {
        cluster.psql(db, include_str!("../sql/workload_no_identity.sql"));
    }
}

/// The seed of this run, printed once for each use.
fn seed() -> u64 {
    let seed = match std::env::var("PGCOPYDB_TEST_SEED") {
        Ok(text) => text.parse().expect("PGCOPYDB_TEST_SEED is a number"),
        Err(_) => {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            now.as_nanos() as u64 % 1_000_000_007
        }
    };
    println!("workload: PGCOPYDB_TEST_SEED={seed}");
    seed
}

/// Under way until `finish`; a test that fails ends it too.
pub struct Workload {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    may_truncate: AtomicBool,
    committed: AtomicU64,
}

impl Workload {
    /// On tables made by [`create`].
    pub fn start(cluster: &Cluster, db: &str) -> Workload {
        Workload::start_with(cluster, db, seed())
    }

    /// With the statements of this seed.
    pub fn start_with(cluster: &Cluster, db: &str, seed: u64) -> Workload {
        let exists = |table: &str| {
            cluster.value(db, &format!("select to_regclass('{table}') is not null")) == "t"
        };
        let has = Has {
            extended: exists("w.extended"),
            log_only: exists("w.log_only"),
        };
        let can_prepare = cluster.value(db, "show max_prepared_transactions") != "0";
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        for number in 0..CONNECTIONS {
            let worker = Worker {
                number,
                db: db.to_owned(),
                uri: cluster.uri(db),
                random: Random::new(seed.wrapping_mul(CONNECTIONS).wrapping_add(number)),
                has,
                can_prepare,
                shared: Arc::clone(&shared),
            };
            let builder = std::thread::Builder::new().name(format!("workload {number}"));
            workers.push(builder.spawn(move || worker.work()).unwrap());
        }
        Workload { shared, workers }
    }

    /// From now on with TRUNCATE: the base copy is done. Before, it would take rows of the snapshot away, which clone
    /// refuses.
    pub fn allow_truncate(&self) {
        self.shared.may_truncate.store(true, Ordering::SeqCst);
    }

    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::SeqCst)
    }

    /// Until this many more transactions are committed.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let wanted = self.committed() + more;
        wait_until(PATIENCE, "transactions of the workload", || {
            // A worker that panicked has ended.
            assert!(
                !self.workers.iter().any(JoinHandle::is_finished),
                "the workload failed: see its panic"
            );
            self.committed() >= wanted
        });
    }

    /// Stop it; every transaction is then committed or rolled back. Says how many were committed.
    pub fn finish(self) -> u64 {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.join()
    }

    fn join(mut self) -> u64 {
        for worker in self.workers.drain(..) {
            worker.join().expect("the workload ends without a panic");
        }
        self.committed()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// One connection.
struct Worker {
    number: u64,
    db: String,
    uri: String,
    random: Random,
    has: Has,
    can_prepare: bool,
    shared: Arc<Shared>,
}

impl Worker {
    fn work(mut self) {
        while let Some(mut client) = self.connect() {
            while !self.is_over() {
                let statements = self.statements();
                if let Err(error) = self.transaction(&mut client, &statements) {
                    let code = error.code().map_or("08006", |code| code.code());
                    if CONNECTION_LOST.contains(&code) {
                        break;
                    }
                    let number = self.number;
                    assert!(
                        EXPECTED.contains(&code),
                        "workload {number}: {error:?} in {statements:#?}"
                    );
                    if client.batch_execute("rollback").is_err() {
                        break;
                    }
                }
                std::thread::sleep(PAUSE);
            }
            self.end_prepared(&mut client);
        }
    }

    fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::SeqCst)
    }

    /// Also after a restart of the server; `None` when there is nothing more to do.
    fn connect(&self) -> Option<Client> {
        while !self.is_over() {
            if let Ok(mut client) = Client::connect(&self.uri, NoTls) {
                // TRUNCATE must not stand in the way of everybody else behind the base copy.
                let settings = "set lock_timeout = '300ms'; set application_name = 'test client';
                     set client_min_messages = error";
                if client.batch_execute(settings).is_ok() {
                    self.end_prepared(&mut client);
                    return Some(client);
                }
            }
            std::thread::sleep(PAUSE);
        }
        None
    }

    /// Of one transaction.
    fn statements(&mut self) -> Vec<String> {
        let count = 1 + self.random.below(5);
        let (random, has) = (&mut self.random, self.has);
        let statements = (0..count).map(|_| statement(random, has));
        let may_truncate = self.shared.may_truncate.load(Ordering::SeqCst);
        statements
            .filter(|statement| may_truncate || !statement.contains("truncate"))
            .collect()
    }

    fn transaction(
        &mut self,
        client: &mut Client,
        statements: &[String],
    ) -> Result<(), postgres::Error> {
        match self.random.below(10) {
            // Not in a transaction block.
            0 => client.batch_execute(statements.first().map_or("", String::as_str))?,
            // Empty, but with a transaction id.
            1 => client.batch_execute("begin; select txid_current(); commit")?,
            2 => {
                client.batch_execute("begin")?;
                for statement in statements {
                    client.batch_execute(statement)?;
                }
                return client.batch_execute("rollback");
            }
            3 if self.can_prepare => self.prepared(client, statements)?,
            _ => self.with_savepoints(client, statements)?,
        }
        self.shared.committed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn with_savepoints(
        &mut self,
        client: &mut Client,
        statements: &[String],
    ) -> Result<(), postgres::Error> {
        client.batch_execute("begin")?;
        for statement in statements {
            match self.random.below(6) {
                0 => client.batch_execute(&format!("savepoint a; {statement}; rollback to a"))?,
                1 => client.batch_execute(&format!("savepoint a; {statement}; release a"))?,
                _ => client.batch_execute(statement)?,
            }
        }
        client.batch_execute("commit")
    }

    /// Decoded when COMMIT PREPARED is, and not when it was prepared.
    fn prepared(
        &mut self,
        client: &mut Client,
        statements: &[String],
    ) -> Result<(), postgres::Error> {
        let name = format!("{} {}", self.db, self.number);
        client.batch_execute("begin")?;
        for statement in statements {
            client.batch_execute(statement)?;
        }
        client.batch_execute(&format!("prepare transaction '{name}'"))?;
        let end = if self.random.one_in(4) {
            "rollback"
        } else {
            "commit"
        };
        client.batch_execute(&format!("{end} prepared '{name}'"))
    }

    /// A transaction that a lost connection or a failure has left prepared.
    fn end_prepared(&self, client: &mut Client) {
        if self.can_prepare {
            // Nearly always there is none, which is an error.
            let _ = client.batch_execute(&format!("commit prepared '{} {}'", self.db, self.number));
        }
    }
}
