//! One database on its way from a source to a target: what most stories are about. Each step of it is checked for what
//! it leaves behind.

use super::cluster::{Cluster, shared_source, shared_target};
use super::cmd::{Invocation, Outcome, Scene};
use super::{compare, leftovers, reference};

pub struct Migration<'a> {
    pub source: &'a Cluster,
    pub target: &'a Cluster,
    pub db: String,
    pub copy: String,
    pub scene: Scene,
}

impl Migration<'static> {
    /// Between new databases of the shared clusters.
    pub fn shared(sql: &str) -> Migration<'static> {
        Migration::new(shared_source(), shared_target(), sql)
    }
}

impl<'a> Migration<'a> {
    /// Between new databases; the source's is made by `sql`.
    #[track_caller]
    pub fn new(source: &'a Cluster, target: &'a Cluster, sql: &str) -> Migration<'a> {
        let db = source.new_db("from");
        source.psql(&db, sql);
        Migration::of(source, target, db)
    }

    /// Of a database that is there, to a new one.
    pub fn of(source: &'a Cluster, target: &'a Cluster, db: String) -> Migration<'a> {
        Migration {
            source,
            target,
            db,
            copy: target.new_db("to"),
            scene: Scene::new(),
        }
    }

    /// The same source to a new database on the same target, with a work directory of its own.
    pub fn again(&self) -> Migration<'a> {
        Migration::of(self.source, self.target, self.db.clone())
    }

    /// The same source to the same target, with a work directory of its own.
    pub fn over(&self) -> Migration<'a> {
        Migration {
            source: self.source,
            target: self.target,
            db: self.db.clone(),
            copy: self.copy.clone(),
            scene: Scene::new(),
        }
    }

    /// With the programs of the newer server; 10 to 13 come without any.
    pub fn invocation(&self, more: &[&str]) -> Invocation {
        let (from, to) = (self.source.uri(&self.db), self.target.uri(&self.copy));
        self.scene
            .clone_db(&from, &to, more)
            .tools(self.target.version())
    }

    /// A run that succeeds, with no warning but those that contain one of `told`, and leaves nothing behind.
    #[track_caller]
    pub fn clone_with(&self, more: &[&str], told: &[&str]) -> Outcome {
        let outcome = self.invocation(more).run();
        outcome.assert_success(told);
        self.assert_nothing_left(&outcome);
        outcome
    }

    /// A run that ends at this fault point.
    #[track_caller]
    pub fn run_until(&self, failpoint: &str, more: &[&str]) {
        let outcome = self
            .invocation(more)
            .env("PGCOPYDB_FAILPOINT", format!("{failpoint}=error"))
            .run();
        outcome.assert_last_error(12, &[failpoint]);
        self.assert_nothing_left(&outcome);
    }

    #[track_caller]
    pub fn assert_nothing_left(&self, outcome: &Outcome) {
        self.scene.assert_nothing_left(outcome);
        leftovers::assert_no_backend(self.source, &self.db);
        leftovers::assert_no_backend(self.target, &self.copy);
    }

    /// What differs; `options` of pg_dump say what does not count.
    pub fn differences(&self, options: &[&str]) -> Vec<String> {
        let sides = ((self.source, &*self.db), (self.target, &*self.copy));
        if self.source.version().major() == self.target.version().major() {
            compare::differences(sides.0, sides.1, options)
        } else {
            assert!(options.is_empty(), "the reference copy is a whole one");
            reference::differences_across_versions(sides.0, sides.1)
        }
    }

    #[track_caller]
    pub fn assert_same(&self) {
        let found = self.differences(&[]);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    /// The only value of a query on the source.
    #[track_caller]
    pub fn on_source(&self, sql: &str) -> String {
        self.source.value(&self.db, sql)
    }

    /// The only value of a query on the target.
    #[track_caller]
    pub fn on_target(&self, sql: &str) -> String {
        self.target.value(&self.copy, sql)
    }
}
