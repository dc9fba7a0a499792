//! `list ..`: what would be copied, as a table and as JSON, whatever the names are, read from the source alone.

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, shared_source};
use crate::support::cmd::Scene;

/// A name with all that breaks tables, terminals and SQL.
const TABLE: &str = "Ta\"b.le\n%s";

const SQL: &str = r#"
    create schema "Odd ""Schema";
    create extension hstore;
    create table "Odd ""Schema"."Ta""b.le
%s" ("The ""Id" int primary key, v text collate "C", unique (v));
    insert into "Odd ""Schema"."Ta""b.le
%s" select i, 'v' || i from generate_series(1, 5000) i;
    create table no_key (id serial, v text);
    create table parent (id int primary key) partition by range (id);
    create table child partition of parent for values from (0) to (10);
    create table spans (during int4range, exclude using gist (during with &&));
    create sequence alone start 7;
    select nextval('alone');
    analyze;
"#;

struct Listing {
    source: &'static Cluster,
    db: String,
    scene: Scene,
}

impl Listing {
    fn new() -> Listing {
        let source = shared_source();
        let db = source.new_db("listed");
        source.psql(&db, SQL);
        Listing {
            source,
            db,
            scene: Scene::new(),
        }
    }

    /// What goes to stdout.
    #[track_caller]
    fn list(&self, words: &[&str]) -> String {
        let uri = self.source.uri(&self.db);
        let words = [&["list"], words, &["--source", &uri]].concat();
        let outcome = self.scene.command(words).run();
        outcome.assert_success(&[]);
        outcome.stdout
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.list(&words)).unwrap()
    }
}

/// The values of one key, of each object of an array.
fn values(array: &Value, key: &str) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let objects = array.as_array().unwrap().iter();
    objects.map(|object| text(&object[key])).collect()
}

/// Each line of a table has its columns where the title line has them.
#[track_caller]
fn assert_aligned(text: &str) {
    let bars = |line: &str| -> Vec<usize> {
        let letters = line.chars().enumerate();
        letters
            .filter(|(_, c)| matches!(c, '|' | '+'))
            .map(|(at, _)| at)
            .collect()
    };
    let lines: Vec<&str> = text.lines().collect();
    let columns = bars(lines[0]);
    assert!(lines.len() > 2 && !columns.is_empty(), "{text}");
    for line in &lines[1..] {
        assert!(bars(line).starts_with(&columns), "{text}");
    }
}

#[test]
fn tables_are_listed_with_any_name() {
    let listing = Listing::new();
    let tables = listing.json(&["tables"]);
    let mut names = values(&tables, "name");
    assert_eq!(names[0], TABLE, "the largest is first");
    names.sort();
    assert_eq!(names, [TABLE, "child", "no_key", "spans"]);
    let first = &tables[0];
    assert_eq!(first["schema"], "Odd \"Schema");
    assert_eq!(first["reltuples"], 5000);
    assert_eq!(first["part-key"], "The \"Id");
    assert_eq!(first["owner"], "postgres");
    let bytes = listing.source.value(
        &listing.db,
        "select pg_table_size(oid) from pg_class where relname like 'Ta%s'",
    );
    assert_eq!(first["bytes"].to_string(), bytes);
    // As the server writes it.
    let pretty = format!("select pg_size_pretty({bytes}::int8)");
    assert_eq!(
        first["bytes-pretty"],
        listing.source.value(&listing.db, &pretty)
    );

    let text = listing.list(&["tables"]);
    assert_aligned(&text);
    assert!(
        text.contains("Ta\"b.le\\n%s") && !text.contains(TABLE),
        "{text}"
    );
    let without = listing.json(&["tables", "--without-pkey"]);
    let mut without = values(&without, "name");
    without.sort();
    assert_eq!(without, ["no_key", "spans"]);
    for (words, expected) in [
        (["--table-name", TABLE, "--schema-name", "Odd \"Schema"], 1),
        (["--table-name", TABLE, "--schema-name", "public"], 0),
        (
            [
                "--force",
                "--schema-name",
                "public",
                "--estimate-table-sizes",
            ],
            3,
        ),
    ] {
        let found = listing.json(&[&["tables"], &words[..]].concat());
        assert_eq!(found.as_array().unwrap().len(), expected, "{words:?}");
    }
}

#[test]
fn parts_are_those_that_clone_would_copy() {
    let listing = Listing::new();
    let split = ["--split-tables-larger-than", "64kB", "--table-jobs", "3"];
    let parts = listing.json(&[&["table-parts", "--table-name", TABLE][..], &split].concat());
    assert_eq!(values(&parts, "number"), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(parts[0]["part-key"], "ctid");
    assert_eq!(
        (&parts[0]["from"], &parts[5]["to"]),
        (&Value::Null, &Value::Null)
    );
    for pair in parts.as_array().unwrap().windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"]);
    }
    let by_key = ["--skip-split-by-ctid", "--split-max-parts", "3"];
    let words = [&["table-parts"][..], &split, &by_key].concat();
    let parts = listing.json(&words);
    assert_eq!(values(&parts, "part-key"), ["The \"Id"; 3]);
    assert_eq!(values(&parts, "to"), ["1667", "3334", "null"]);
    // Every row is in one part.
    let counts: i64 = values(&parts, "where")
        .iter()
        .map(|condition| {
            let sql = format!(
                "select count(*) from \"Odd \"\"Schema\".\"Ta\"\"b.le\n%s\" where {condition}"
            );
            listing
                .source
                .value(&listing.db, &sql)
                .parse::<i64>()
                .unwrap()
        })
        .sum();
    assert_eq!(counts, 5000);
    assert_aligned(&listing.list(&words));
    let tables = listing.json(&[&["tables"][..], &split].concat());
    assert_eq!(tables[0]["parts"].as_array().unwrap().len(), 6);
    assert_eq!(tables[1]["parts"], json!([]));
    // A size to split at is needed, and none may be left out of the question.
    let outcome = listing
        .scene
        .command(["list", "table-parts", "--source", "dbname=x"])
        .run();
    outcome.assert_failure(1, &["no size to split tables at given"]);
}

#[test]
fn sequences_and_indexes_are_listed() {
    let listing = Listing::new();
    let sequences = listing.json(&["sequences"]);
    assert_eq!(values(&sequences, "name"), ["alone", "no_key_id_seq"]);
    assert_eq!(values(&sequences, "last-value"), ["7", "null"]);
    assert_eq!(
        sequences[1]["owned-by"],
        json!({"schema": "public", "table": "no_key", "column": "id"})
    );
    assert_aligned(&listing.list(&["sequences"]));

    let indexes = listing.json(&["indexes", "--table-name", TABLE]);
    assert_eq!(values(&indexes, "is-primary"), ["true", "false"]);
    assert_eq!(indexes[0]["constraint"]["kind"], "primary-key");
    assert_eq!(indexes[1]["constraint"]["kind"], "unique");
    assert_eq!(indexes[0]["table"]["name"], TABLE);
    assert!(
        indexes[0]["sql"]
            .as_str()
            .unwrap()
            .starts_with("CREATE UNIQUE INDEX")
    );
    // That of the exclusion constraint comes with the schema.
    assert_eq!(listing.json(&["indexes"]).as_array().unwrap().len(), 3);
    assert_aligned(&listing.list(&["indexes"]));
}

#[test]
fn databases_extensions_and_collations_are_listed() {
    let listing = Listing::new();
    let databases = listing.json(&["databases"]);
    assert!(values(&databases, "name").contains(&listing.db));
    assert!(!values(&databases, "name").contains(&"template1".to_owned()));
    assert_aligned(&listing.list(&["databases"]));

    let extensions = listing.json(&["extensions"]);
    assert_eq!(values(&extensions, "name"), ["plpgsql", "hstore"]);
    assert_eq!(extensions[1]["config"], json!([]));
    let version = extensions[1]["version"].clone();
    assert_aligned(&listing.list(&["extensions"]));
    let requirements = listing.json(&["extensions", "--requirements"]);
    assert_eq!(
        requirements[1],
        json!({"name": "hstore", "version": version})
    );
    let available = listing.json(&["extensions", "--available-versions"]);
    assert!(available.as_array().unwrap().len() > 2);
    let used = listing.json(&["extensions", "--available-versions", "--requirements"]);
    assert_eq!(values(&used, "name"), ["hstore", "plpgsql"]);
    assert!(used[0]["versions"].as_array().unwrap().contains(&version));
    assert_aligned(&listing.list(&["extensions", "--available-versions"]));

    let collations = listing.json(&["collations"]);
    assert_eq!(values(&collations, "name")[0], "default");
    let c = collations
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == "C");
    let users = values(&json!([c.unwrap()]), "used-by");
    assert!(users[0].contains("column v of table"), "{users:?}");
    assert_aligned(&listing.list(&["collations"]));
}

/// The whole of it; and nothing is written anywhere, not even where a work directory would be.
#[test]
fn the_schema_is_one_document_and_nothing_is_cached() {
    let listing = Listing::new();
    let schema: Value = serde_json::from_str(&listing.list(&["schema"])).unwrap();
    assert_eq!(schema["setup"]["database"], listing.db);
    assert_eq!(schema["tables"].as_array().unwrap().len(), 4);
    assert_eq!(schema["indexes"].as_array().unwrap().len(), 3);
    assert_eq!(schema["sequences"].as_array().unwrap().len(), 2);
    assert_eq!(values(&schema["extensions"], "name"), ["plpgsql", "hstore"]);
    assert_eq!(schema["large-objects"], json!({"count": 0, "bytes": 0}));
    for place in ["tmp", "home"] {
        let left = std::fs::read_dir(listing.scene.path(place))
            .unwrap()
            .count();
        assert_eq!(left, 0, "in {place}");
    }
    // What came since is seen.
    listing
        .source
        .psql(&listing.db, "create table later (id int)");
    let tables = listing.json(&["tables", "--table-name", "later"]);
    assert_eq!(values(&tables, "name"), ["later"]);
}

/// With filters, what is left is listed; what is not, with the reason; and what cannot be made without it.
#[test]
fn filters_leave_out_of_the_lists_what_they_leave_out_of_a_copy() {
    let listing = Listing::new();
    listing.source.psql(
        &listing.db,
        "create table kept (id int primary key); create view of_no_key as select * from no_key",
    );
    let file = listing.scene.path("filters.ini");
    let rules = "[exclude-table]\npublic.no_key\n[exclude-schema]\n\"Odd \"\"Schema\"\n\
                 [exclude-table-data]\npublic.spans\n";
    std::fs::write(&file, rules).unwrap();
    let filters = ["--filters", file.to_str().unwrap()];
    let tables = listing.json(&[&["tables"], &filters[..]].concat());
    let mut names = values(&tables, "name");
    names.sort();
    assert_eq!(names, ["child", "kept"]);
    let skipped = ["tables", "--list-skipped", filters[0], filters[1]];
    let found = listing.json(&skipped);
    let mut names = values(&found, "name");
    names.sort();
    assert_eq!(names, [TABLE, "no_key", "spans"]);
    for table in found.as_array().unwrap() {
        assert_eq!(table["exclude-data"], table["name"] == "spans");
        let reason = table["reason"].as_str().unwrap();
        assert!(
            reason.contains("exclude") || reason.contains("left out"),
            "{table:#}"
        );
    }
    assert_aligned(&listing.list(&skipped));
    let sequences = listing.json(&["sequences", filters[0], filters[1]]);
    assert_eq!(values(&sequences, "name"), ["alone"]);
    let indexes = listing.json(&["indexes", filters[0], filters[1]]);
    assert_eq!(values(&indexes, "name"), ["child_pkey", "kept_pkey"]);

    let depends = listing.json(&["depends", filters[0], filters[1]]);
    let view = depends
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["kind"] == "VIEW");
    let view = view.unwrap();
    assert_eq!(view["by-rule"], false);
    assert!(
        view["object"].as_str().unwrap().contains("of_no_key"),
        "{view:#}"
    );
    assert!(
        view["reason"].as_str().unwrap().contains("no_key"),
        "{view:#}"
    );
    assert_aligned(&listing.list(&["depends", filters[0], filters[1]]));
    for (words, reason) in [
        (&["depends"][..], "no filters given"),
        (&["tables", "--list-skipped"], "--filters"),
    ] {
        let words = [&["list"], words, &["--source", "dbname=x"]].concat();
        listing
            .scene
            .command(words)
            .run()
            .assert_failure(1, &[reason]);
    }
}
