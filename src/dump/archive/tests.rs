//! Archives made by real pg_dumps (tests/golden/archive/README.md), as they are and damaged.

use proptest::prelude::*;

use super::{Archive, CatalogId, DataPosition, Section, Text};

/// (name, bytes): one per format version, and per pg_dump major.
pub(crate) const GOLDEN: [(&str, &[u8]); 7] = [
    (
        "14",
        include_bytes!("../../../tests/golden/archive/14.dump"),
    ),
    (
        "15",
        include_bytes!("../../../tests/golden/archive/15.dump"),
    ),
    (
        "15-by-17",
        include_bytes!("../../../tests/golden/archive/15-by-17.dump"),
    ),
    (
        "16",
        include_bytes!("../../../tests/golden/archive/16.dump"),
    ),
    (
        "17",
        include_bytes!("../../../tests/golden/archive/17.dump"),
    ),
    (
        "18",
        include_bytes!("../../../tests/golden/archive/18.dump"),
    ),
    (
        "17-data",
        include_bytes!("../../../tests/golden/archive/17-data.dump"),
    ),
];

pub(crate) fn golden(name: &str) -> Archive {
    let (_, bytes) = GOLDEN
        .iter()
        .find(|(known, _)| *known == name)
        .expect("name is in the list");
    Archive::read(bytes).unwrap()
}

#[test]
fn writes_back_what_it_read() {
    for (name, bytes) in GOLDEN {
        let archive = Archive::read(bytes).unwrap();
        assert!(archive.write().unwrap() == bytes, "{name} differs");
        assert!(archive.entries.len() > 3, "{name} has entries");
        assert!(archive.has_standard_strings());
    }
}

#[test]
fn reads_the_fields() {
    for (name, minor, server) in [
        ("14", 14, "14.23"),
        ("15", 14, "15.20"),
        ("15-by-17", 16, "15.20"),
        ("16", 15, "16.15"),
        ("17", 16, "17.11"),
        ("18", 16, "18.6"),
    ] {
        let archive = golden(name);
        assert_eq!(archive.version.minor, minor);
        assert!(archive.server_version.lossy().starts_with(server));
        let hostile = archive
            .entries
            .iter()
            .find(|entry| entry.desc == "TABLE" && entry.tag == "ta\nble; SET (x=1)")
            .expect("the table with the hostile name");
        assert_eq!(hostile.namespace, "sch;ema \"q\"");
        assert_eq!(hostile.section, Section::PreData);
        assert_eq!(hostile.owner, "postgres");
        assert_eq!(hostile.tableam, "heap");
        assert_eq!(
            hostile.catalog_id,
            CatalogId::relation(hostile.catalog_id.oid)
        );
        assert_eq!(
            hostile.describe(),
            "TABLE \"sch;ema \"\"q\"\"\".\"ta ble; SET (x=1)\""
        );
        assert!(hostile.defn.lossy().contains("größe"));
        assert_eq!(archive.entry(hostile.dump_id), Some(hostile));
        let pkey = archive.entries.iter().find(|e| e.tag == "film film_pkey");
        let pkey = pkey.expect("the primary key");
        assert_eq!(pkey.section, Section::PostData);
        assert_eq!(pkey.catalog_id, CatalogId::constraint(pkey.catalog_id.oid));
    }
}

#[test]
fn a_changed_archive_reads_back_as_changed() {
    let mut archive = golden("17");
    archive.entries[5].defn = Text::from("CREATE TABLE x ();\n");
    archive.entries.remove(7);
    let bytes = archive.write().unwrap();
    let again = Archive::read(&bytes).unwrap();
    assert_eq!(again.entries, archive.entries);
}

#[test]
fn refuses_to_move_data_blocks() {
    let mut archive = golden("17-data");
    let has_data = |archive: &Archive| {
        archive
            .entries
            .iter()
            .any(|entry| matches!(entry.data, DataPosition::At(_)))
    };
    assert!(has_data(&archive) && !has_data(&golden("17")));
    archive.entries[0].defn = Text::from("longer than it was before, whatever it was");
    let error = archive.write().unwrap_err().to_string();
    assert!(error.contains("TABLE DATA"), "{error}");
    assert!(error.contains("has a data block"), "{error}");
}

/// pg_dump 10 and 11 are not at hand: their layout is that of 1.14 without the access method.
#[test]
fn older_versions_have_fewer_fields() {
    for minor in [12, 13] {
        let mut archive = golden("14");
        archive.version.minor = minor;
        let bytes = archive.write().unwrap();
        let again = Archive::read(&bytes).unwrap();
        assert!(again.entries.iter().all(|entry| entry.tableam.is_null()));
        assert_eq!(again.entries.len(), archive.entries.len());
        assert!(again.write().unwrap() == bytes);
    }
}

#[test]
fn refuses_foreign_files_by_name() {
    let message = |bytes: &[u8]| Archive::read(bytes).unwrap_err().to_string();
    assert!(message(b"--\n-- PostgreSQL dump").contains("not a pg_dump custom-format archive"));
    assert!(message(b"PG").contains("unexpected end of archive"));
    assert!(message(b"").contains("unexpected end of archive"));
    for (minor, name) in [(11, "1.11-0"), (17, "1.17-0")] {
        let mut bytes = GOLDEN[0].1.to_vec();
        bytes[6] = minor;
        let message = message(&bytes);
        assert!(message.contains(&format!("version {name} is not supported")));
    }
    let mut tar = GOLDEN[0].1.to_vec();
    tar[10] = 3;
    assert!(message(&tar).contains("archive format 3"));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = GOLDEN[3].1;
    for length in 0..bytes.len() {
        assert!(Archive::read(&bytes[..length]).is_err(), "{length} bytes");
    }
}

proptest! {
    /// Damage is refused or written back as it was: never a panic, never a silent repair.
    #[test]
    fn damaged_archives_never_panic(
        which in 0..GOLDEN.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = GOLDEN[which].1.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(archive) = Archive::read(&bytes) {
            prop_assert!(archive.write().unwrap() == bytes);
        }
    }
}
