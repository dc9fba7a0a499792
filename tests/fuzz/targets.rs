//! What is fuzzed: each target takes bytes as a server, a user or a torn file might give them. Where something is understood,
//! writing it and reading it again must give the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgcopydb::catalog::Catalog;
use pgcopydb::dump::archive::Archive;
use pgcopydb::dump::list::parse_list;
use pgcopydb::dump::messages::MessageReader;
use pgcopydb::dump::sql_tokens::{statements, tokenize};
use pgcopydb::error::Side;
use pgcopydb::extensions::Requirements;
use pgcopydb::filter::Filters;
use pgcopydb::lsn::{Lsn, WalSegments};
use pgcopydb::pg::conninfo::{ConnInfo, Environment};
use pgcopydb::roles::parse::parse as parse_roles;
use pgcopydb::stream::decode::{Plugin, decoder};
use pgcopydb::stream::message::{LogicalMessage, Relation};
use pgcopydb::stream::relations::Relations;
use pgcopydb::stream::script::ScriptLine;
use pgcopydb::stream::segment::{SegmentWriter, last_position};
use pgcopydb::stream::setup::SetUp;
use pgcopydb::stream::transform::Transform;
use pgcopydb::sys::process::ExitReason;
use pgcopydb::workdir::done::{self, Failure, Pieces, StepDone, TableDone};
use pgcopydb::workdir::live;
use pgcopydb::workdir::paths::Paths;
use serde::de::DeserializeOwned;

use crate::frames;
use crate::seeds::{as_it_is, binary_messages, text_messages};

/// Golden files: folder, ending, and how they become an input.
type Golden = (&'static str, &'static str, fn(&[u8]) -> Vec<u8>);

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub golden: &'static [Golden],
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target {
        name,
        run,
        golden: &[],
    }
}

pub const ALL: &[Target] = &[
    target("conninfo", conninfo),
    target("service-file", service_file),
    target("passfile", passfile),
    target("filters", filters),
    target("requirements", requirements),
    Target {
        golden: &[("archive", ".dump", as_it_is)],
        ..target("archive", archive)
    },
    target("archive-list", archive_list),
    target("program-messages", program_messages),
    target("sql-tokens", sql_tokens),
    target("roles", roles),
    Target {
        golden: &[("test_decoding", ".in", text_messages)],
        ..target("test-decoding", test_decoding)
    },
    Target {
        golden: &[("wal2json", ".in", text_messages)],
        ..target("wal2json", wal2json)
    },
    Target {
        golden: &[("pgoutput", ".in", binary_messages)],
        ..target("pgoutput", pgoutput)
    },
    Target {
        golden: &[
            ("pgoutput", ".json", as_it_is),
            ("test_decoding", ".json", as_it_is),
        ],
        ..target("segment-lines", segment_lines)
    },
    target("segment-files", segment_files),
    Target {
        golden: &[("pgoutput", ".json", as_script)],
        ..target("script-lines", script_lines)
    },
    target("done-files", done_files),
    target("catalog", catalog),
    target("server-frames", frames::run),
];

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// A file with this content, for what reads files; in the child's own directory.
fn file(name: &str, content: &[u8]) -> PathBuf {
    std::fs::write(name, content).unwrap();
    PathBuf::from(name)
}

fn environment(vars: &[(&str, &str)]) -> Environment {
    let vars = vars
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.into()));
    Environment {
        vars: vars.collect::<BTreeMap<_, _>>(),
        home: None,
        os_user: Some("me".to_owned()),
        socket_dir: PathBuf::from("/nowhere"),
        sysconf_dir: PathBuf::from("/nowhere"),
    }
}

/// The first line is the conninfo; the others are NAME=VALUE of the environment.
fn conninfo(input: &[u8]) {
    let text = text(input);
    let mut lines = text.split('\n');
    let conninfo = lines.next().unwrap_or_default();
    let vars: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once('=')).collect();
    // Files that the string names are other targets'.
    let names_file = |text: &str| text.contains('/') || text.contains('%');
    if vars
        .iter()
        .any(|(name, value)| name.ends_with("FILE") && names_file(value))
    {
        return;
    }
    let Ok(info) = ConnInfo::parse_with(Side::Source, conninfo, &environment(&vars)) else {
        return;
    };
    let shown = format!("{info} {info:?} {} {}", info.redacted(), info.identity());
    for host in info.hosts() {
        let Some(password) = info.password_for(host) else {
            continue;
        };
        // One that stands elsewhere too, such as in the user's name, may be shown there.
        let secret = password.expose();
        if secret.len() > 5 && text.matches(secret).count() == 1 {
            assert!(!shown.contains(secret), "the password is in {shown}");
        }
    }
    // What children get must lead to the same server.
    if let Ok(child) = info.child() {
        let set: Vec<(&str, &str)> = child
            .env_set
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
            .collect();
        let theirs = ConnInfo::parse_with(Side::Source, &child.dbname_argument, &environment(&set))
            .expect("a child understands what it is given");
        assert_eq!(theirs.identity(), info.identity());
    }
}

fn service_file(input: &[u8]) {
    let path = file("service.conf", input);
    let path = path.to_str().unwrap();
    for service in ["shop", "a", ""] {
        let conninfo = format!("service={service} dbname=x");
        let _ = ConnInfo::parse_with(
            Side::Target,
            &conninfo,
            &environment(&[("PGSERVICEFILE", path)]),
        );
    }
}

fn passfile(input: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let path = file("passfile", input);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let conninfo = "host=h,/s port=5432,6543 user=u dbname=d";
    let vars = [("PGPASSFILE", path.to_str().unwrap())];
    let info = ConnInfo::parse_with(Side::Source, conninfo, &environment(&vars)).unwrap();
    for host in info.hosts() {
        let _ = info.password_for(host);
    }
}

fn filters(input: &[u8]) {
    let Ok(filters) = Filters::parse(&text(input), "filters.ini") else {
        return;
    };
    let written = filters.to_file();
    let again = Filters::parse(&written, "again").expect("what we write, we read");
    assert_eq!(filters.words(), again.words());
    for sql in [
        filters.changes_left_out(),
        filters.relation_left_out(),
        filters.index_left_out(),
    ] {
        assert_balanced(&sql);
    }
}

/// SQL in which every quote has its end: nothing of a name can get out of its literal.
fn assert_balanced(sql: &str) {
    let tokens = tokenize(sql.as_bytes(), true);
    assert!(
        statements(&tokens).len() <= 1,
        "a name ended the statement: {sql}"
    );
}

fn requirements(input: &[u8]) {
    if let Ok(requirements) = Requirements::read(&file("requirements.json", input)) {
        let _ = (requirements.in_words(), requirements.version_of("postgis"));
    }
}

fn archive(input: &[u8]) {
    let Ok(archive) = Archive::read(input) else {
        return;
    };
    let _ = archive.has_standard_strings();
    for entry in &archive.entries {
        let _ = entry.describe();
    }
    let Ok(written) = archive.write() else {
        return;
    };
    let again = Archive::read(&written).expect("what we write, we read");
    assert_eq!(again.write().unwrap(), written);
}

fn archive_list(input: &[u8]) {
    let _ = parse_list(&text(input));
}

fn program_messages(input: &[u8]) {
    let mut reader = MessageReader::default();
    for line in text(input).lines() {
        reader.line(line);
    }
    let _ = reader.into_outcome(ExitReason::Code(1));
}

fn sql_tokens(input: &[u8]) {
    for standard_strings in [true, false] {
        let tokens = tokenize(input, standard_strings);
        for token in &tokens {
            let _ = token.text(input);
        }
        let _ = statements(&tokens);
    }
}

fn roles(input: &[u8]) {
    let _ = parse_roles(input);
}

/// The tables of the golden files, under the names that they have there.
fn relations() -> Relations {
    const LINES: &str = concat!(
        include_str!("../golden/pgoutput/tables.json"),
        include_str!("../golden/pgoutput/keys.json"),
        include_str!("../golden/pgoutput/full.json"),
        include_str!("../golden/pgoutput/toast.json"),
        include_str!("../golden/pgoutput/generated.json"),
        include_str!("../golden/pgoutput/identifiers.json"),
        include_str!("../golden/pgoutput/texts.json"),
        include_str!("../golden/test_decoding/no_identity.json"),
    );
    let mut tables: Vec<Relation> = Vec::new();
    for line in LINES.lines() {
        if let Ok(LogicalMessage::Relation { is, .. }) = LogicalMessage::parse_json(line.as_bytes())
            && !tables
                .iter()
                .any(|table| (&table.schema, &table.table) == (&is.schema, &is.table))
        {
            tables.push(is.into_owned());
        }
    }
    Relations::for_test(tables)
}

/// Decode, write as receive does, transform as transform does.
fn decode<'a>(plugin: Plugin, payloads: impl Iterator<Item = &'a [u8]>) {
    let (mut relations, mut decoder) = (relations(), decoder(plugin, "publication", &[]));
    let mut lines = Vec::new();
    for (number, payload) in payloads.enumerate() {
        let start = Lsn(0x100_0000 + number as u64 * 8);
        let decoded = decoder.decode(&mut relations, start, payload, &mut |message, relations| {
            let _ = message_relations(message)
                .into_iter()
                .map(|id| relations.relation(id).table.len())
                .sum::<usize>();
            let before = lines.len();
            message.write_json(&mut lines);
            let line = lines[before..].strip_suffix(b"\n").expect("a line");
            assert!(!line.contains(&b'\n'), "two lines for one message");
            LogicalMessage::parse_json(line).expect("what receive writes, transform reads");
            Ok(())
        });
        // The stream ends at the first error.
        if decoded.is_err() {
            return;
        }
    }
}

fn message_relations(message: &LogicalMessage<'_>) -> Vec<u32> {
    match message {
        LogicalMessage::Insert { relation, .. }
        | LogicalMessage::Update { relation, .. }
        | LogicalMessage::Delete { relation, .. } => vec![*relation],
        LogicalMessage::Truncate { relations, .. } => relations.clone(),
        _ => Vec::new(),
    }
}

fn test_decoding(input: &[u8]) {
    decode(Plugin::TestDecoding, input.split(|byte| *byte == 0));
}

fn wal2json(input: &[u8]) {
    decode(Plugin::Wal2json, input.split(|byte| *byte == 0));
}

fn pgoutput(input: &[u8]) {
    let mut rest = input;
    decode(
        Plugin::Pgoutput,
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
            let (payload, tail) = tail.split_at(length);
            rest = tail;
            Some(payload)
        }),
    );
}

/// The lines of a segment file, as transform sees them, to a script, as apply sees it.
fn segment_lines(input: &[u8]) {
    let mut transform = Transform::new(false);
    transform.begin_script();
    let mut is_checked = true;
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(message) = LogicalMessage::parse_json_raw(line) else {
            break;
        };
        if transform.step(&message).is_err() {
            break;
        }
        // Values are passed on as they are written, for apply to read.
        is_checked &= LogicalMessage::parse_json(line).is_ok();
        if let Ok(message) = LogicalMessage::parse_json(line) {
            let mut written = Vec::new();
            message.write_json(&mut written);
            let line = written.strip_suffix(b"\n").expect("a line");
            let again = LogicalMessage::parse_json(line).expect("what we write, we read");
            assert_eq!(again, message);
        }
    }
    transform.abort();
    transform.end_script(7);
    let script = std::mem::take(transform.output());
    for line in script
        .strip_suffix(b"\n")
        .unwrap_or(&script)
        .split(|byte| *byte == b'\n')
    {
        let parsed = ScriptLine::parse(line);
        assert!(
            parsed.is_ok() || !is_checked,
            "apply cannot read what transform wrote: {parsed:?}"
        );
    }
}

/// Files of changes as a crash may leave them: the writer repairs the last one.
fn segment_files(input: &[u8]) {
    let dir = Path::new("cdc");
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir).unwrap();
    let mut parts = input.split(|byte| *byte == 0);
    for name in ["000000010000000000000001", "000000010000000000000002"] {
        let Some(part) = parts.next() else { break };
        std::fs::write(dir.join(format!("{name}.json")), part).unwrap();
        let _ = last_position(&dir.join(format!("{name}.json")));
    }
    let segments = WalSegments {
        timeline: 1,
        size: 16 << 20,
    };
    if let Ok(mut writer) = SegmentWriter::open(dir, segments, Lsn(0x100_0000)) {
        let _ = (writer.recorded(), writer.choose_file());
        let _ = writer.add(&LogicalMessage::Keepalive {
            lsn: Lsn(0x200_0000),
        });
        let _ = writer.write();
    }
    let path = dir.join("000000010000000000000001.json");
    std::fs::write(&path, input).unwrap();
    let workers = Paths::new(dir).workers();
    if let Some(above) = workers.parent() {
        std::fs::create_dir_all(above).unwrap();
    }
    std::fs::write(&workers, input).unwrap();
    let _ = live::read(&Paths::new(dir));
}

fn as_script(lines: &[u8]) -> Vec<u8> {
    let mut transform = Transform::new(false);
    transform.begin_script();
    for line in lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let message = LogicalMessage::parse_json_raw(line).unwrap();
        transform.step(&message).unwrap();
    }
    transform.end_script(7);
    std::mem::take(transform.output())
}

fn script_lines(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(parsed) = ScriptLine::parse(line) else {
            continue;
        };
        let mut written = Vec::new();
        parsed.write(&mut written);
        let line = written.strip_suffix(b"\n").expect("a line");
        assert!(!line.contains(&b'\n'), "two lines");
        let again = ScriptLine::parse(line).expect("what we write, we read");
        assert_eq!(again, parsed);
    }
}

fn done_files(input: &[u8]) {
    fn each<T: DeserializeOwned>(input: &[u8]) {
        let _ = done::decode::<T>(input);
        // With the checksum right, the data may still be anything.
        let value = serde_json::from_slice::<serde_json::Value>(input);
        let Ok(whole) = value
            .map_err(drop)
            .and_then(|it| done::encode(&it).map_err(drop))
        else {
            return;
        };
        let _ = done::decode::<T>(&whole);
    }
    each::<TableDone>(input);
    each::<StepDone>(input);
    each::<Failure>(input);
    each::<SetUp>(input);
    each::<Pieces<(u32, u32)>>(input);
    each::<Vec<pgcopydb::sys::msgq::QueueNote>>(input);
}

fn catalog(input: &[u8]) {
    if let Ok(catalog) = Catalog::from_json(input) {
        let again = catalog.to_json().expect("what we read, we write");
        Catalog::from_json(&again).expect("what we write, we read");
    }
}
