//! A database that scripts are applied to, with an origin of its own, and the changes that several tests make.

use std::path::PathBuf;
use std::sync::OnceLock;

use pgcopydb::error::{Error, Side};
use pgcopydb::lsn::Lsn;
use pgcopydb::pg::conninfo::ConnInfo;
use pgcopydb::pg::remedy::WhenFull;
use pgcopydb::stream::apply::{Applied, Applier, ApplyMode, ApplySpec, PositionKeeper};
use pgcopydb::stream::positions::Positions;
use pgcopydb::sys::signal::Shutdown;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::script::{Pair, Script};
use super::version::Version;

pub const SCHEMA: &str = "
    create table t (id bigint primary key, v text, w text, n numeric, a int[], j jsonb);
    create table u (id int primary key, code text unique);
    create table k (k text, l int, v text, primary key (k, l));";

/// What these tests share: with room for an origin in use by each of them, and for those not in use.
pub fn target() -> &'static Cluster {
    static TARGET: OnceLock<Cluster> = OnceLock::new();
    TARGET.get_or_init(|| Cluster::start(Version::Pg17, &[("max_replication_slots", "200")]))
}

/// A database to apply to, with an origin of its own.
pub struct Place<'c> {
    pub cluster: &'c Cluster,
    pub db: String,
    pub positions: Positions,
    pub dir: TempDir,
    pub spec: ApplySpec,
}

impl<'c> Place<'c> {
    pub fn new(cluster: &'c Cluster) -> Place<'c> {
        let db = cluster.new_db("apply");
        cluster.psql(&db, SCHEMA);
        let origin = format!("origin_{db}");
        cluster.psql(
            &db,
            &format!("select pg_replication_origin_create('{origin}')"),
        );
        let dir = TempDir::new().unwrap();
        let spec = ApplySpec {
            lock_timeout: std::time::Duration::ZERO,
            target: ConnInfo::parse(Side::Target, &cluster.uri(&db)).unwrap(),
            application_name: format!("pgcopydb[{db}] apply"),
            origin,
            keeper: PositionKeeper::Origin,
            mode: ApplyMode::Auto,
            when_full: WhenFull::Wait,
            dir: dir.path().to_path_buf(),
            left_out: PathBuf::new(),
        };
        Place {
            cluster,
            db,
            positions: Positions::create().unwrap(),
            dir,
            spec,
        }
    }

    pub fn applier(&self) -> Applier {
        Applier::connect(&self.spec, &self.positions, &Shutdown::deaf()).unwrap()
    }

    pub fn save(&self, script: Script, name: &str) -> PathBuf {
        script.save(self.dir.path(), name)
    }

    /// Apply one script to its end, over a connection of its own.
    pub fn apply(&self, script: Script) -> Result<Applied, Error> {
        let path = self.save(script, "one.sql");
        let mut applier = self.applier();
        let applied = applier.run_file(&path)?;
        applier.finish()?;
        Ok(applied)
    }

    pub fn rows(&self, table: &str) -> String {
        let sql = format!(
            "select coalesce(string_agg(x::text, ' ' order by x::text), '') from {table} x"
        );
        self.cluster.value(&self.db, &sql)
    }

    pub fn progress(&self) -> Lsn {
        let sql = format!(
            "select coalesce(pg_replication_origin_progress('{}', true), '0/0')",
            self.spec.origin
        );
        self.cluster.value(&self.db, &sql).parse().unwrap()
    }
}

pub fn some(value: &str) -> Option<&str> {
    Some(value)
}

pub fn id(number: &str) -> [Pair<'_>; 1] {
    [("id", Some(number))]
}

pub fn insert_u(script: &mut Script, ids: std::ops::Range<u32>) -> u32 {
    script.transaction(|changes| {
        for number in ids {
            let (number, code) = (number.to_string(), format!("code {number}"));
            changes.insert("u", &[("id", some(&number)), ("code", some(&code))]);
        }
    })
}
