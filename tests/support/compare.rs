//! Tells what differs between a source database and its copy: the schema (pg_dump of both), every row, sequences, large
//! objects, database properties. An empty list means that nothing does. The two servers may be of different versions.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use pgcopydb::ident::{QualifiedName, quote_ident};
use postgres::Client;

use super::cluster::{Cluster, rows};
use super::version::Version;

/// A database on a server.
pub type Db<'a> = (&'a Cluster, &'a str);

/// What is compared, by kind and name, as text.
type Facts = BTreeMap<String, String>;

/// Fail with the list of differences, unless there is none.
#[track_caller]
pub fn assert_same(source: &Cluster, source_db: &str, target: &Cluster, target_db: &str) {
    let found = differences((source, source_db), (target, target_db), &[]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Every difference. `pg_dump_options` leave out of the schema what the copy was told to leave out (`--no-owner`).
pub fn differences(source: Db, target: Db, pg_dump_options: &[&str]) -> Vec<String> {
    let mut found = differences_in_objects(source, target, pg_dump_options);
    found.extend(differences_in_properties(source, target));
    found
}

/// Schema, rows, sequences and large objects.
pub fn differences_in_objects(source: Db, target: Db, pg_dump_options: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    compare(
        &mut found,
        &schema(source, pg_dump_options),
        &schema(target, pg_dump_options),
    );
    let (mut ours, mut theirs) = (open(source), open(target));
    let is_recoded = server_encoding(&mut ours) != server_encoding(&mut theirs);
    compare(
        &mut found,
        &row_checksums(&mut ours, is_recoded),
        &row_checksums(&mut theirs, is_recoded),
    );
    compare(&mut found, &sequences(&mut ours), &sequences(&mut theirs));
    compare(
        &mut found,
        &large_objects(&mut ours),
        &large_objects(&mut theirs),
    );
    found
}

/// Settings, privileges and comment of the database itself, and its extensions.
pub fn differences_in_properties(source: Db, target: Db) -> Vec<String> {
    let mut found = Vec::new();
    let (mut ours, mut theirs) = (open(source), open(target));
    compare(&mut found, &properties(&mut ours), &properties(&mut theirs));
    found
}

fn compare(found: &mut Vec<String>, source: &Facts, target: &Facts) {
    for (name, value) in source {
        match target.get(name) {
            None => found.push(format!("missing on target: {name}: {value}")),
            Some(other) if other != value => {
                found.push(format!(
                    "differs: {name}\n  source: {value}\n  target: {other}"
                ));
            }
            Some(_) => {}
        }
    }
    for (name, value) in target {
        if !source.contains_key(name) {
            found.push(format!("only on target: {name}: {value}"));
        }
    }
}

/// One fact for each entry of `pg_dump --schema-only`, by the newest pg_dump for both sides. Entries are compared by
/// name, as their order depends on OIDs.
fn schema((cluster, db): Db, options: &[&str]) -> Facts {
    let output = Command::new(Version::Pg18.bindir().join("pg_dump"))
        .env_clear()
        .args(["--schema-only", "--encoding=UTF8"])
        .args(["--dbname", &cluster.uri(db)])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let version = cluster.version();
    assert!(
        output.status.success(),
        "pg_dump of {version:?} \"{db}\": {errors}"
    );
    let text = without_attribute_versions(&String::from_utf8_lossy(&output.stdout));
    let mut facts = Facts::new();
    let mut name = String::from("schema: beginning");
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("-- Name: ") {
            name = format!("schema: {header}");
        }
        if is_noise(line) {
            continue;
        }
        let text = facts.entry(name.clone()).or_default();
        text.push_str(line);
        text.push('\n');
    }
    facts
}

/// What says nothing about the database: comments, pg_dump's session settings, psql's restricted mode.
fn is_noise(line: &str) -> bool {
    let prefixes = [
        "--",
        "\\restrict",
        "\\unrestrict",
        "SET ",
        "SELECT pg_catalog.set_config(",
    ];
    line.is_empty() || prefixes.iter().any(|prefix| line.starts_with(prefix))
}

/// A dump without the attribute versions that Debian's 15.20 notes as column options (trap 55): other servers do not
/// know them, and no two tables have the same. Not by line: a name may hold a newline.
pub fn without_attribute_versions(dump: &str) -> String {
    const OPTION: &str = "pg_attver=";
    let mut parts = dump.split(OPTION);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        if kept.ends_with(" SET (") && rest.starts_with(");\n") {
            // The only option: the whole statement goes.
            let statement = kept.rfind("\nALTER ").expect("options are set by ALTER");
            kept.truncate(statement);
            kept.push_str(&rest[2..]);
        } else if let Some(before) = kept.strip_suffix(", ") {
            kept.truncate(before.len());
            kept.push_str(rest);
        } else {
            kept.push_str(rest.trim_start_matches(", "));
        }
    }
    kept
}

/// A client whose output does not depend on the settings of its server, database or role.
fn open((cluster, db): Db) -> Client {
    let mut client = cluster.client(db);
    client
        .batch_execute(
            "set search_path = ''; set client_encoding = 'UTF8'; set datestyle = 'ISO, YMD';
             set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3;
             set bytea_output = 'hex'; set lc_monetary = 'C'; set xmloption = 'content';
             set row_security = off; set statement_timeout = 0",
        )
        .unwrap();
    client
}

fn server_encoding(client: &mut Client) -> String {
    rows(client, "show server_encoding")[0][0]
        .clone()
        .unwrap_or_default()
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("null")
}

/// The user's relations of these kinds with their columns, by name: the order of columns may differ.
fn relations(client: &mut Client, kinds: &str) -> Vec<(QualifiedName, String, Vec<String>)> {
    let sql = format!(
        "select n.nspname, c.relname, c.relkind::text || c.relispopulated::text, a.attname
           from pg_catalog.pg_class c
           join pg_catalog.pg_namespace n on n.oid = c.relnamespace
           left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          where c.relkind in ({kinds}) and c.relpersistence <> 't'
            and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          order by 1, 2, a.attname"
    );
    let mut relations: Vec<(QualifiedName, String, Vec<String>)> = Vec::new();
    for row in rows(client, &sql) {
        let name = QualifiedName::new(text(&row[0]), text(&row[1]));
        if relations.last().is_none_or(|(last, ..)| *last != name) {
            relations.push((name, text(&row[2]).to_owned(), Vec::new()));
        }
        if let (Some((.., columns)), Some(column)) = (relations.last_mut(), &row[3]) {
            columns.push(column.clone());
        }
    }
    relations
}

/// Row count and a checksum that does not depend on the order of rows, of each table and materialized view.
fn row_checksums(client: &mut Client, is_recoded: bool) -> Facts {
    let mut facts = Facts::new();
    for (name, state, columns) in relations(client, "'r', 'm'") {
        if state == "mfalse" {
            facts.insert(format!("rows of {name}"), "not populated".to_owned());
            continue;
        }
        let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
        let mut row = format!("row({})::text", columns.join(", "));
        // Servers with different encodings hold different bytes for the same text.
        if is_recoded {
            row = format!("convert_to({row}, 'UTF8')");
        }
        let sql = format!(
            "select count(*), sum(('x' || substr(md5({row}), 1, 16))::bit(64)::bigint::numeric),
                    sum(('x' || substr(md5({row}), 17))::bit(64)::bigint::numeric)
               from only {name}"
        );
        let found = rows(client, &sql);
        let [count, first, second] = [0, 1, 2].map(|i| text(&found[0][i]));
        facts.insert(
            format!("rows of {name}"),
            format!("{count} rows, checksum {first} {second}"),
        );
    }
    facts
}

/// How many rows and how many sequences a comparison of this database looks at.
pub fn size_of((cluster, db): Db) -> (u64, u64) {
    let mut client = open((cluster, db));
    let mut count = 0;
    for (name, ..) in relations(&mut client, "'r', 'm'") {
        let found = rows(&mut client, &format!("select count(*) from only {name}"));
        count += text(&found[0][0]).parse::<u64>().unwrap();
    }
    (count, sequences(&mut client).len() as u64)
}

fn sequences(client: &mut Client) -> Facts {
    let mut facts = Facts::new();
    for (name, ..) in relations(client, "'S'") {
        let found = rows(client, &format!("select last_value, is_called from {name}"));
        let [last_value, is_called] = [0, 1].map(|i| text(&found[0][i]));
        facts.insert(
            format!("sequence {name}"),
            format!("{last_value}, is_called {is_called}"),
        );
    }
    facts
}

/// Contents, owner, privileges and comment of each.
fn large_objects(client: &mut Client) -> Facts {
    let sql = "select oid, md5(lo_get(oid)) || ', owner ' || pg_catalog.pg_get_userbyid(lomowner)
                      || ', acl ' || coalesce(lomacl::text, 'null')
                      || ', comment ' || coalesce(pg_catalog.obj_description(oid, 'pg_largeobject'), 'null')
                 from pg_catalog.pg_largeobject_metadata";
    let fact = |row: Vec<Option<String>>| {
        (
            format!("large object {}", text(&row[0])),
            text(&row[1]).to_owned(),
        )
    };
    rows(client, sql).into_iter().map(fact).collect()
}

/// What pg_dump tells only with `--create`, where the database's name would get in the way; and the extensions, whose
/// version it never tells.
fn properties(client: &mut Client) -> Facts {
    let sql = "select 'settings of role ' || case setrole when 0 then 'any' else pg_catalog.pg_get_userbyid(setrole) end,
                      array(select unnest(setconfig) order by 1)::text
                 from pg_catalog.pg_db_role_setting
                where setdatabase = (select oid from pg_catalog.pg_database where datname = current_database())
               union all
               select 'database', concat_ws(', ', datconnlimit, datacl::text,
                      pg_catalog.shobj_description(oid, 'pg_database'))
                 from pg_catalog.pg_database where datname = current_database()
               union all
               select 'extension ' || extname, extnamespace::regnamespace::text from pg_catalog.pg_extension";
    let fact = |row: Vec<Option<String>>| (text(&row[0]).to_owned(), text(&row[1]).to_owned());
    rows(client, sql).into_iter().map(fact).collect()
}
