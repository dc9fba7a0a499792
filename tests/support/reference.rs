//! A reference for copies between versions: the standard tools' own copy of the same database on the same target
//! server. Compared with it, the newer server's way to spell a view or a float is no difference.

use std::io::Write;
use std::process::{Command, Stdio};

use super::cluster::Cluster;
use super::compare::{self, Db};
use super::version::Version;

/// Copy a database with pg_dump of the target's version and psql. It must succeed entirely.
pub fn copy_with_pg_dump(source: Db, target: Db) {
    let dump = Command::new(target.0.version().bindir().join("pg_dump"))
        .env_clear()
        .args(["--dbname", &source.0.uri(source.1)])
        .output()
        .unwrap();
    assert!(
        dump.status.success(),
        "pg_dump: {}",
        String::from_utf8_lossy(&dump.stderr)
    );
    let mut psql = Command::new(Version::Pg18.bindir().join("psql"))
        .env_clear()
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"])
        .arg(target.0.uri(target.1))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = without_attribute_versions(&dump.stdout);
    let is_written = psql.stdin.take().expect("piped").write_all(&script);
    let output = psql.wait_with_output().unwrap();
    // psql's own message says more than the broken pipe.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "psql: {errors}");
    is_written.unwrap();
}

/// A dump of an SQL_ASCII database may hold any bytes, so each byte stands for a character meanwhile.
fn without_attribute_versions(dump: &[u8]) -> Vec<u8> {
    let text: String = dump.iter().map(|byte| *byte as char).collect();
    let text = compare::without_attribute_versions(&text);
    text.chars().map(|c| c as u8).collect()
}

/// What differs between a database and its copy on a server of another version. Makes a reference copy, which is
/// dropped with the target cluster.
pub fn differences_across_versions(source: Db, target: Db) -> Vec<String> {
    let reference = target.0.new_db("reference");
    copy_with_pg_dump(source, (target.0, &reference));
    let mut found = compare::differences_in_objects((target.0, &reference), target, &[]);
    found.extend(compare::differences_in_properties(source, target));
    found
}

#[track_caller]
pub fn assert_same_across_versions(
    source: &Cluster,
    source_db: &str,
    target: &Cluster,
    target_db: &str,
) {
    let found = differences_across_versions((source, source_db), (target, target_db));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
