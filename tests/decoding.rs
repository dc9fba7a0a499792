//! What the three output plugins of a real server say of one workload (tests/sql/decoding.sql), read by our decoders: the
//! same messages, but for the differences that src/stream/decode/mod.rs lists. Golden files keep what was sent and what it
//! was read as; UPDATE_GOLDEN=1 writes them anew, and what changed is to be reviewed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use pgcopydb::error::Side;
use pgcopydb::lsn::Lsn;
use pgcopydb::pg::conninfo::ConnInfo;
use pgcopydb::pg::session::open_source;
use pgcopydb::pg::wire::Connection;
use pgcopydb::stream::decode::wal2json::{is_unknown_option, supports_numeric_as_string};
use pgcopydb::stream::decode::{Decoder, Plugin, decoder};
use pgcopydb::stream::left_out::LeftOutTables;
use pgcopydb::stream::message::{LogicalMessage, Relation, RelationId, Tuple, Value};
use pgcopydb::stream::relations::Relations;
use pgcopydb::sys::signal::Shutdown;

use crate::support::cluster::Cluster;
use crate::support::version::Version;

const PLUGINS: [Plugin; 3] = [Plugin::TestDecoding, Plugin::Wal2json, Plugin::Pgoutput];

/// Cases that not every plugin can tell.
const NOT_COMPARED: [&str; 3] = ["identity_changed", "no_identity", "not_a_number"];

/// One message of a plugin.
struct Sent {
    start: Lsn,
    payload: Vec<u8>,
}

struct Case {
    name: String,
    sql: String,
}

/// The statements before the first case, and the cases.
fn workload() -> (String, Vec<Case>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/decoding.sql");
    let text = fs::read_to_string(path).unwrap();
    let mut parts = text.split("\n-- case: ");
    let setup = parts.next().unwrap().to_owned();
    let case = |part: &str| {
        let (name, sql) = part.split_once('\n').unwrap();
        Case {
            name: name.to_owned(),
            sql: sql.to_owned(),
        }
    };
    (setup, parts.map(case).collect())
}

/// Each statement by itself, as psql would: a script sent as a whole is one transaction.
fn run_each(cluster: &Cluster, db: &str, sql: &str) {
    let mut client = cluster.client(db);
    for statement in sql.split(";\n").filter(|text| !text.trim().is_empty()) {
        if let Err(error) = client.batch_execute(statement) {
            panic!("{error:?} in {statement}");
        }
    }
}

fn golden(plugin: Plugin, case: &str, ending: &str) -> PathBuf {
    let name = format!("tests/golden/{plugin}/{case}.{ending}");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn start_cluster() -> Cluster {
    // Trap 56: without it the server refuses wal2json.
    let libraries = "pgoutput, test_decoding, wal2json";
    let settings = [("output_plugin_libraries", libraries)];
    Cluster::start(Version::Debian15, &settings)
}

fn connect(cluster: &Cluster, db: &str) -> Connection {
    let info = ConnInfo::parse(Side::Source, &cluster.uri(db)).unwrap();
    open_source(&info, "test decoding", &Shutdown::deaf()).unwrap()
}

fn fetch_relations(cluster: &Cluster, db: &str) -> Relations {
    let info = ConnInfo::parse(Side::Source, &cluster.uri(db)).unwrap();
    let open = move || open_source(&info, "test decoding", &Shutdown::deaf());
    Relations::fetch(
        &mut open().unwrap(),
        None,
        LeftOutTables::new(),
        None,
        Box::new(open),
    )
    .unwrap()
}

fn create_slots(cluster: &Cluster, db: &str) {
    for plugin in PLUGINS {
        let sql = format!("SELECT pg_create_logical_replication_slot('{plugin}', '{plugin}')");
        cluster.psql(db, &sql);
    }
}

fn literal(text: &str) -> String {
    pgcopydb::ident::quote_literal(text)
}

/// Take what has happened since the last time, with the options that the decoder would start the stream with.
fn take(connection: &mut Connection, plugin: Plugin, decoder: &mut dyn Decoder) -> Vec<Sent> {
    let rows = loop {
        let mut arguments = String::new();
        for (name, value) in decoder.options() {
            write!(arguments, ", {}, {}", literal(&name), literal(&value)).unwrap();
        }
        let sql = format!(
            "SELECT lsn, encode(data, 'hex') \
             FROM pg_logical_slot_get_binary_changes('{plugin}', NULL, NULL{arguments})"
        );
        match connection.query(&sql) {
            Ok(rows) => break rows,
            Err(error) => assert!(decoder.has_other_options(&error), "{plugin}: {error}"),
        }
    };
    let sent = rows.iter().map(|row| Sent {
        start: row.parse(0).unwrap(),
        payload: from_hex(row.text(1).unwrap()),
    });
    sent.collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As kept in a golden file: readable where the plugin's output is.
fn write_input(plugin: Plugin, sent: &[Sent]) -> String {
    let line = |sent: &Sent| match plugin {
        Plugin::Pgoutput => format!("{} {}\n", sent.start, to_hex(&sent.payload)),
        _ => {
            let text = String::from_utf8(sent.payload.clone()).unwrap();
            format!("{} {}\n", sent.start, serde_json::to_string(&text).unwrap())
        }
    };
    sent.iter().map(line).collect()
}

fn read_input(plugin: Plugin, text: &str) -> Vec<Sent> {
    let message = |line: &str| {
        let (start, payload) = line.split_once(' ').unwrap();
        Sent {
            start: start.parse().unwrap(),
            payload: match plugin {
                Plugin::Pgoutput => from_hex(payload),
                _ => serde_json::from_str::<String>(payload)
                    .unwrap()
                    .into_bytes(),
            },
        }
    };
    text.lines().map(message).collect()
}

/// The lines that receive would write into a segment file.
fn json(decoder: &mut dyn Decoder, relations: &mut Relations, sent: &[Sent]) -> String {
    let mut described: Vec<RelationId> = Vec::new();
    let mut out = Vec::new();
    for Sent { start, payload } in sent {
        let mut on_message = |message: &LogicalMessage<'_>, relations: &Relations| {
            for relation in used(message) {
                if !described.contains(&relation) {
                    described.push(relation);
                    let is = std::borrow::Cow::Borrowed(relations.relation(relation));
                    LogicalMessage::Relation { relation, is }.write_json(&mut out);
                }
            }
            message.write_json(&mut out);
            Ok(())
        };
        decoder
            .decode(relations, *start, payload, &mut on_message)
            .unwrap();
    }
    String::from_utf8(out).unwrap()
}

fn used(message: &LogicalMessage<'_>) -> Vec<RelationId> {
    match message {
        LogicalMessage::Insert { relation, .. }
        | LogicalMessage::Update { relation, .. }
        | LogicalMessage::Delete { relation, .. } => vec![*relation],
        LogicalMessage::Truncate { relations, .. } => relations.clone(),
        _ => Vec::new(),
    }
}

/// One line for each message, in which the documented differences between plugins are gone.
fn comparable(json: &str) -> Vec<String> {
    let mut relations: BTreeMap<RelationId, Relation> = BTreeMap::new();
    let mut lines: Vec<String> = Vec::new();
    for line in json.lines() {
        let message = LogicalMessage::parse_json(line.as_bytes()).unwrap();
        if let LogicalMessage::Relation { relation, is } = message {
            relations.insert(relation, is.into_owned());
            continue;
        }
        let name = |relation: &RelationId| {
            let is = &relations[relation];
            format!(
                "{:?}.{:?} key {:?} full {}",
                is.schema, is.table, is.key, is.full
            )
        };
        // test_decoding: a NULL in an old tuple is left out.
        let old_tuple = |relation: &RelationId, old: &Tuple<'_>| match relations[relation].full {
            true => tuple(old),
            false => tuple(old).replace("NULL", "-"),
        };
        lines.push(match &message {
            LogicalMessage::Insert { relation, new } => {
                format!("I {} {}", name(relation), tuple(new))
            }
            LogicalMessage::Update { relation, old, new } => {
                let old = old.as_ref().map(|old| old_tuple(relation, old));
                format!("U {} {old:?} {}", name(relation), tuple(new))
            }
            LogicalMessage::Delete { relation, old } => {
                format!("D {} {}", name(relation), old_tuple(relation, old))
            }
            // wal2json: RESTART IDENTITY is not sent. pgoutput: partitioned tables are not, only their partitions.
            LogicalMessage::Truncate {
                relations: tables, ..
            } => {
                let tables = tables
                    .iter()
                    .filter(|table| relations[table].table != "measured");
                format!("T {:?}", tables.map(name).collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        });
        // pgoutput: transactions without changes are not sent (from 15 on).
        let is_empty = lines.len() > 1
            && lines[lines.len() - 1].starts_with("Commit")
            && lines[lines.len() - 2].starts_with("Begin");
        if is_empty {
            lines.truncate(lines.len() - 2);
        }
    }
    lines
}

fn tuple(values: &Tuple<'_>) -> String {
    let value = |value: &Value<'_>| match value {
        Value::Null => "NULL".to_owned(),
        Value::NotSent => "-".to_owned(),
        Value::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
    };
    values.iter().map(value).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_same_lines(found: &[String], expected: &[String], what: &str) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "{what}, message {index}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: {:?}", found.last());
}

/// Traps 10, 15 to 21, 23, 24, 26, 27, 29 to 32.
#[test]
fn three_plugins_say_the_same() {
    let cluster = start_cluster();
    let db = cluster.new_db("decoding");
    let (setup, cases) = workload();
    cluster.psql(&db, &setup);
    // Trap 30: what the database prefers must not show in the values.
    cluster.psql(
        &db,
        &format!(
            "ALTER DATABASE {db} SET DateStyle = 'SQL, DMY'; ALTER DATABASE {db} SET bytea_output = escape; \
             ALTER DATABASE {db} SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE {db} SET extra_float_digits = -5; \
             ALTER DATABASE {db} SET IntervalStyle = iso_8601"
        ),
    );
    create_slots(&cluster, &db);
    let mut connection = connect(&cluster, &db);
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for case in &cases {
        // The catalog as it was before the changes, as for a receiver that runs.
        let mut live: Vec<_> = PLUGINS.map(|_| fetch_relations(&cluster, &db)).into();
        let mut kept: Vec<_> = PLUGINS.map(|_| fetch_relations(&cluster, &db)).into();
        run_each(&cluster, &db, &case.sql);
        let mut read = Vec::new();
        for (index, plugin) in PLUGINS.into_iter().enumerate() {
            let mut reader = decoder(plugin, "decoding", &[]);
            let sent = take(&mut connection, plugin, reader.as_mut());
            if case.name == "not_a_number" && plugin == Plugin::Wal2json {
                assert_nan_is_seen(reader.as_mut(), &mut live[index], &sent);
                continue;
            }
            let lines = json(reader.as_mut(), &mut live[index], &sent);
            read.push(comparable(&lines));
            if is_update {
                write_golden(plugin, &case.name, &sent, &lines);
            }
            assert_golden(plugin, &case.name, &mut kept[index]);
        }
        if !NOT_COMPARED.contains(&case.name.as_str()) {
            for (index, lines) in read.iter().enumerate().skip(1) {
                let what = format!("case {}: {} and {}", case.name, PLUGINS[index], PLUGINS[0]);
                assert_same_lines(lines, &read[0], &what);
            }
        }
    }
}

fn write_golden(plugin: Plugin, case: &str, sent: &[Sent], lines: &str) {
    let input = golden(plugin, case, "in");
    fs::create_dir_all(input.parent().unwrap()).unwrap();
    fs::write(input, write_input(plugin, sent)).unwrap();
    fs::write(golden(plugin, case, "json"), lines).unwrap();
}

/// What was sent once is read as it was then.
#[track_caller]
fn assert_golden(plugin: Plugin, case: &str, relations: &mut Relations) {
    let read = |ending| fs::read_to_string(golden(plugin, case, ending)).unwrap();
    let sent = read_input(plugin, &read("in"));
    let found = json(decoder(plugin, "decoding", &[]).as_mut(), relations, &sent);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let what = format!("golden file of {plugin}, case {case}");
    assert_same_lines(&lines(&found), &lines(&read("json")), &what);
}

/// Trap 29: NaN is NaN, or there is an error; never NULL.
fn assert_nan_is_seen(reader: &mut dyn Decoder, relations: &mut Relations, sent: &[Sent]) {
    let mut out = Vec::new();
    let mut result = Ok(());
    for Sent { start, payload } in sent {
        result = result.and_then(|()| {
            reader.decode(relations, *start, payload, &mut |message, _| {
                message.write_json(&mut out);
                Ok(())
            })
        });
    }
    match result {
        Ok(()) => assert!(String::from_utf8_lossy(&out).contains("\"NaN\"")),
        Err(error) => assert!(
            error
                .to_string()
                .contains("column \"f4\" of source table \"public\".\"numbers\""),
            "{error}"
        ),
    }
}

#[test]
fn an_old_wal2json_is_asked_for_what_it_knows() {
    let cluster = start_cluster();
    create_slots(&cluster, "postgres");
    let mut connection = connect(&cluster, "postgres");
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'wal2json'";
    let before = cluster.value("postgres", slot);
    let knows = supports_numeric_as_string(&mut connection, "wal2json").unwrap();
    assert_eq!(cluster.value("postgres", slot), before);
    let error = supports_numeric_as_string(&mut connection, "no such slot").unwrap_err();
    assert!(error.to_string().contains("no such slot"), "{error}");
    assert!(!is_unknown_option(&error));
    let mut reader = decoder(Plugin::Wal2json, "", &[]);
    take(&mut connection, Plugin::Wal2json, reader.as_mut());
    let asks = reader
        .options()
        .iter()
        .any(|(name, _)| name.starts_with("numeric"));
    assert_eq!(asks, knows);
}
