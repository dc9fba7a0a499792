//! Runs that are interrupted, and what has to be true once they were resumed: everything is there, once, and nothing is
//! left behind.

use pgcopydb::ident::quote_literal;
use pgcopydb::workdir::done::{TableDone, read_directory};

use super::cluster::{Cluster, shared_source, shared_target};
use super::cmd::{Outcome, Scene};
use super::compare::assert_same;
use super::leftovers;

/// One of each kind of work: parts, plain and partitioned tables, constraints, large objects, sequences, a view.
pub const WORK: &str = "
    create table big (id bigserial primary key, v text, n int);
    insert into big (v, n) select repeat('x', 300), g % 97 from generate_series(1, 30000) g;
    create index big_n on big (n);
    create index big_v on big (v, n);
    alter table big add constraint big_n_id unique (n, id);
    create table small (id int primary key, big_id bigint references big);
    insert into small select g, g from generate_series(1, 50) g;
    create table parent (k int, d text) partition by range (k);
    create table parent_a partition of parent for values from (0) to (100);
    create table parent_b partition of parent for values from (100) to (200);
    alter table parent add primary key (k);
    insert into parent select g, 'd' || g from generate_series(0, 199) g;
    create materialized view summed as select n, count(*) from big group by n;
    create unique index on summed (n);
    select lo_from_bytea(700000 + g, decode(repeat('ab', 10 * g), 'hex')) from generate_series(1, 50) g;";

/// Tables above this are cut into parts.
pub const SPLIT: [&str; 2] = ["--split-tables-larger-than", "1MB"];

/// Warnings that tell of the interruption, not of a defect.
pub const TOLD: &[&str] = &["was terminated", "is not whole"];

/// A database and its copy to be, on two servers.
pub struct Pair<'a> {
    pub source: &'a Cluster,
    pub target: &'a Cluster,
    pub db: String,
    pub copy: String,
}

/// A source database with all kinds of work in it.
pub fn new_work(source: &Cluster) -> String {
    let db = source.new_db("work");
    source.psql(&db, WORK);
    db
}

impl Pair<'static> {
    /// On the servers that tests share.
    pub fn new(sql: &str) -> Pair<'static> {
        let db = shared_source().new_db("work");
        shared_source().psql(&db, sql);
        Pair::to_new_copy(shared_source(), shared_target(), &db)
    }
}

impl<'a> Pair<'a> {
    pub fn to_new_copy(source: &'a Cluster, target: &'a Cluster, db: &str) -> Pair<'a> {
        Pair {
            source,
            target,
            db: db.to_string(),
            copy: target.new_db("copy"),
        }
    }

    pub fn from(&self) -> String {
        self.source.uri(&self.db)
    }

    pub fn to(&self) -> String {
        self.target.uri(&self.copy)
    }

    /// `clone` with these options.
    pub fn clone(&self, scene: &Scene, more: &[&str]) -> super::cmd::Invocation {
        scene.clone_db(&self.from(), &self.to(), more)
    }

    /// A value of the copy.
    #[track_caller]
    pub fn copied(&self, sql: &str) -> String {
        self.target.value(&self.copy, sql)
    }

    /// Resume as the tool asks for it: consistently if that is possible, else with what it names.
    #[track_caller]
    pub fn resume(&self, scene: &Scene, more: &[&str]) -> Outcome {
        let outcome = self.clone(scene, &[more, &["--resume"]].concat()).run();
        if outcome.status.success() {
            return outcome;
        }
        outcome.assert_last_error(3, &["cannot resume consistently"]);
        let more = [more, &["--resume", "--not-consistent"]].concat();
        self.clone(scene, &more).run()
    }

    #[track_caller]
    pub fn assert_no_backend(&self) {
        leftovers::assert_no_backend(self.source, &self.db);
        leftovers::assert_no_backend(self.target, &self.copy);
    }

    /// The run ended well, left nothing, and the copy is the source.
    #[track_caller]
    pub fn assert_whole(&self, scene: &Scene, outcome: &Outcome) {
        outcome.assert_success(TOLD);
        scene.assert_nothing_left(outcome);
        self.assert_no_backend();
        assert_same(self.source, &self.db, self.target, &self.copy);
    }
}

/// Done-files of complete tables, each with the file that holds the rows on the target.
pub fn complete_tables(pair: &Pair<'_>, scene: &Scene) -> Vec<(TableDone, String)> {
    let folder = scene.work_dir().join("run/tables");
    let done = read_directory::<TableDone>(&folder, ".done").unwrap();
    let complete = done.into_values().filter(|table| table.part.is_none());
    complete
        .map(|table| {
            let name = quote_literal(&table.name);
            let file = pair.copied(&format!("select pg_relation_filenode({name}::regclass)"));
            (table, file)
        })
        .collect()
}
