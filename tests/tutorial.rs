//! The shell blocks of the documentation, as written there: the tutorial, the design notes, the introduction. Only the URIs
//! are filled in, and the script waits for the first line of its coproc.

use std::sync::OnceLock;

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, RUN_DEADLINE, Running, Scene};
use crate::support::compare::{self, differences_in_objects};
use crate::support::following::{SOON, shared, start};
use crate::support::reference;
use crate::support::version::Version;
use crate::support::{fixtures, leftovers, wait_until};

/// What a copy of `everything` may warn about.
const TOLD: &[&str] = &["the target does not know option", "left out"];

/// A target of the newest version, for all of these tests.
fn target_18() -> &'static Cluster {
    static TARGET: OnceLock<Cluster> = OnceLock::new();
    TARGET.get_or_init(|| start(Version::Pg18))
}

/// A database on its way, as the documentation's reader has it.
struct Reader<'a> {
    source: &'a Cluster,
    target: &'a Cluster,
    db: String,
    copy: String,
    scene: Scene,
}

impl<'a> Reader<'a> {
    fn new(source: &'a Cluster, target: &'a Cluster, db: &str) -> Reader<'a> {
        Reader {
            source,
            target,
            db: db.to_string(),
            copy: target.new_db("tutorial"),
            scene: Scene::new(),
        }
    }

    /// With everything in it.
    fn of_everything(source: &'a Cluster, target: &'a Cluster) -> Reader<'a> {
        let db = source.new_db("everything");
        fixtures::load_everything(source, &db);
        fixtures::create_roles(target);
        Reader::new(source, target, &db)
    }

    /// The same database to another new one.
    fn again(&self) -> Reader<'a> {
        Reader::new(self.source, self.target, &self.db)
    }

    fn export(&self) -> String {
        format!(
            "export PGCOPYDB_SOURCE_PGURI='{}'\nexport PGCOPYDB_TARGET_PGURI='{}'\n",
            self.source.uri(&self.db),
            self.target.uri(&self.copy)
        )
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.scene.path("tmp").join(name), text).unwrap();
    }

    fn start(&self, block: &str) -> Running {
        self.scene.bash(&(self.export() + block)).spawn()
    }

    #[track_caller]
    fn run(&self, block: &str) -> Outcome {
        let outcome = self.start(block).wait_deadline(RUN_DEADLINE);
        outcome.assert_success(TOLD);
        self.scene.assert_nothing_left(&outcome);
        leftovers::assert_no_backend(self.source, &self.db);
        leftovers::assert_no_backend(self.target, &self.copy);
        outcome
    }

    #[track_caller]
    fn assert_same(&self) {
        let sides = ((self.source, &*self.db), (self.target, &*self.copy));
        let mut found = match self.target.version().major() {
            15 => compare::differences(sides.0, sides.1, &[]),
            _ => reference::differences_across_versions(sides.0, sides.1),
        };
        // As pg_dump without --create: who may connect to the target's database is its owner's to say.
        found.retain(|line| !line.starts_with("differs: database\n"));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// "Copy Postgres Database to a new server", and the same as design and introduction say it.
#[test]
fn copy_a_database_to_a_new_server() {
    let db = shared_source().new_db("tenants");
    shared_source().psql(&db, TENANTS);
    for target in [shared_target(), target_18()] {
        let reader = Reader::new(shared_source(), target, &db);
        reader.run("pgcopydb clone");
        reader.assert_same();
        // "How to validate schema and data migration?"
        reader.run("pgcopydb compare schema\npgcopydb compare data");
    }
    let reader = Reader::new(shared_source(), target_18(), &db);
    reader.run("pgcopydb clone --table-jobs 4 --index-jobs 4");
    let reader = reader.again();
    let (source, target) = (
        reader.source.uri(&reader.db),
        reader.target.uri(&reader.copy),
    );
    reader.run(&format!(
        "unset PGCOPYDB_SOURCE_PGURI PGCOPYDB_TARGET_PGURI
         pgcopydb copy db --jobs=2 --source '{source}' --target '{target}'"
    ));
    reader.assert_same();
}

/// "How to edit the schema when copying a database?"
const SECTIONS: &str = r#"
   #
   # we need to export a snapshot, and keep it while the indivual steps are
   # running, one at a time
   #
   coproc ( pgcopydb snapshot )
   read -r -u ${COPROC[0]}

   pgcopydb dump schema --resume
   pgcopydb restore pre-data --resume

   #
   # Here you can implement your own SQL commands on the target database.
   #
   psql -d ${PGCOPYDB_TARGET_PGURI} -f schema-changes.sql

   # Now get back to copying the table-data, indexes, constraints, sequences
   pgcopydb copy data --resume
   pgcopydb restore post-data --resume

   kill -TERM ${COPROC_PID}
   wait ${COPROC_PID}

   pgcopydb list progress --summary
"#;

#[test]
fn edit_the_schema_when_copying_a_database() {
    let reader = Reader::of_everything(shared_source(), shared_target());
    let across = Reader::new(shared_source(), target_18(), &reader.db);
    fixtures::create_roles(target_18());
    for reader in [reader, across] {
        reader.file(
            "schema-changes.sql",
            "create schema mine; create table mine.notes as select 'edited' note;",
        );
        let outcome = reader.run(SECTIONS);
        assert!(
            outcome.stderr.contains("all is copied"),
            "{}",
            outcome.stderr
        );
        let note = reader
            .target
            .value(&reader.copy, "select note from mine.notes");
        assert_eq!(note, "edited");
        reader.target.psql(&reader.copy, "drop schema mine cascade");
        reader.assert_same();
    }
}

/// An application of many tenants, as the documentation of Citus has it.
const TENANTS: &str = "
    create table companies (id bigserial primary key, name text unique);
    create table campaigns (id bigserial, company_id bigint not null references companies, name text, cost numeric,
        primary key (company_id, id), unique (company_id, name) include (cost) deferrable);
    create table ads (id bigserial, company_id bigint not null, campaign_id bigint not null, text text,
        primary key (company_id, id),
        foreign key (company_id, campaign_id) references campaigns (company_id, id));
    alter table ads cluster on ads_pkey;
    alter table ads replica identity using index ads_pkey;
    create index on ads (company_id, text);
    create index on campaigns using gin (to_tsvector('english', name));
    insert into companies (name) select 'company ' || g from generate_series(1, 40) g;
    insert into campaigns (company_id, name) select 1 + g % 40, 'campaign ' || g from generate_series(1, 2000) g;
    insert into ads (company_id, campaign_id, text) select company_id, id, 'ad ' || id from campaigns;
    create function touch() returns trigger language plpgsql as 'begin return new; end';
    create trigger touched before update on campaigns for each row execute function touch();";

/// The stand-in for create_distributed_table(): the table becomes one of many parts.
fn distribute(table: &str) -> String {
    let parts: String = (0..4)
        .map(|part| {
            format!(
                "create table {table}_{part} partition of {table}
                     for values with (modulus 4, remainder {part});"
            )
        })
        .collect();
    format!(
        "alter sequence {table}_id_seq owned by none;
         alter table {table} rename to {table}_plain;
         create table {table} (like {table}_plain including all) partition by hash (company_id);
         drop table {table}_plain;
         alter sequence {table}_id_seq owned by {table}.id; {parts}"
    )
}

/// "Use pgcopydb to migrate from a Citus database to a Citus database", with partitions in the place of shards.
#[test]
fn migrate_to_distributed_tables() {
    for target in [shared_target(), target_18()] {
        let db = shared_source().new_db("tenants");
        shared_source().psql(&db, TENANTS);
        let reader = Reader::new(shared_source(), target, &db);
        reader.file(
            "schema-changes.sql",
            &(distribute("campaigns") + &distribute("ads")),
        );
        reader.run(SECTIONS);
        // What the user changed is as the user wants it; everything else is as on the source.
        let sides = ((reader.source, &*reader.db), (target, &*reader.copy));
        let mut found = differences_in_objects(sides.0, sides.1, &[]);
        found.retain(|line| {
            let rows_of_parts = line.starts_with("only on target: rows");
            let rows_of_parents = ["campaigns", "ads"]
                .iter()
                .any(|table| line.contains("rows") && line.contains(table));
            !(line.contains("schema: ") || rows_of_parts || rows_of_parents)
        });
        assert!(found.is_empty(), "{}", found.join("\n"));
        for sql in [
            "select count(*) || md5(string_agg(c::text, ',' order by company_id, id)) from campaigns c",
            "select count(*) || md5(string_agg(a::text, ',' order by company_id, id)) from ads a",
            "select nextval('ads_id_seq'), nextval('campaigns_id_seq')",
            "select string_agg(conname || ' ' || pg_get_constraintdef(oid), '; ' order by conname) from pg_constraint
             where contype in ('p', 'u', 'f') and conparentid = 0 and convalidated
                 and connamespace = 'public'::regnamespace",
            "select string_agg(relname || indisvalid, ', ' order by relname) from pg_index join pg_class on oid = indexrelid
             where indrelid in ('campaigns'::regclass, 'ads'::regclass)",
            "select relreplident from pg_class where oid = 'ads'::regclass",
            "select count(*) from pg_trigger where tgname = 'touched' and tgparentid = 0",
        ] {
            let [here, there] = [(reader.source, &reader.db), (target, &reader.copy)]
                .map(|(cluster, db)| cluster.rows(db, sql));
            assert_eq!(here, there, "{sql}");
        }
        let kinds =
            "select string_agg(relkind, '') from pg_class where relname in ('campaigns', 'ads')";
        assert_eq!(target.value(&reader.copy, kinds), "pp");
        let filled = "select count(*) from pg_class where relname ~ '^(campaigns|ads)_[0-3]$' and reltuples > 0";
        assert_eq!(
            target.value(&reader.copy, filled),
            "8",
            "each part is filled and analyzed"
        );
    }
}

/// "Follow mode, or Change Data Capture", with the default names of slot and origin.
#[test]
fn clone_and_follow() {
    let (source, target) = shared(Version::Debian15);
    for target in [target, target_18()] {
        let db = source.new_db("tutorial");
        source.psql(
            &db,
            "create table t (id bigserial primary key, v text);
             insert into t (v) select g from generate_series(1, 1000) g",
        );
        let reader = Reader::new(source, target, &db);
        // As the introduction has it, in the background; a shell with job control would ask for no `wait`.
        let mut online = reader.start("pgcopydb clone --follow &\n wait $!");
        let sql = "select count(*) from pg_stat_replication where application_name like 'pgcopydb%receive%'";
        wait_until(RUN_DEADLINE, "changes to be received", || {
            assert!(online.is_running(), "{}", online.stderr());
            source.value(&db, sql) == "1"
        });
        source.psql(
            &db,
            "insert into t (v) values ('live'); update t set v = 'x' where id = 1",
        );
        reader.scene_command("pgcopydb stream sentinel set endpos --current");
        let outcome = online.wait_deadline(SOON);
        outcome.assert_success(TOLD);
        reader.run("pgcopydb stream cleanup");
        reader.assert_same();
    }
}

impl Reader<'_> {
    /// A command beside another one that goes on.
    #[track_caller]
    fn scene_command(&self, block: &str) {
        let outcome = self.start(block).wait_deadline(RUN_DEADLINE);
        outcome.assert_success(&[]);
    }
}
