//! Tables that the user has made partitioned on the target, between pre-data and post-data: what post-data says of a plain
//! table with ALTER TABLE ONLY must then be said of the table with its partitions. Runs in the parent.

use std::collections::HashSet;

use crate::catalog::{Catalog, TableKind};
use crate::dump::archive::{Archive, Section, Text};
use crate::error::{Context, Result};
use crate::ident::QualifiedName;
use crate::pg::wire::Connection;

const PARTITIONED: &str = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'p'";

/// Change the archive accordingly; whether anything in it was changed.
pub fn include_partitions(
    archive: &mut Archive,
    catalog: &Catalog,
    target: &mut Connection,
) -> Result<bool> {
    let mut partitioned = HashSet::new();
    for row in target
        .query(PARTITIONED)
        .context("could not list the partitioned tables of the target")?
    {
        partitioned.insert(QualifiedName::new(row.text(0)?, row.text(1)?));
    }
    if partitioned.is_empty() {
        return Ok(false);
    }
    let replaced: Vec<QualifiedName> = catalog
        .tables
        .iter()
        .filter(|table| table.kind == TableKind::Ordinary)
        .map(|table| table.qualified_name())
        .filter(|name| partitioned.contains(name))
        .collect();
    for name in &replaced {
        log::info!("table {name} is partitioned on the target, and not on the source");
    }
    let tables: Vec<(&str, &str)> = replaced
        .iter()
        .map(|name| (name.schema.as_str(), name.name.as_str()))
        .collect();
    Ok(drop_only(archive, &tables))
}

/// The tag of a constraint is the table's name and its own. A longer name that begins alike is another table's: for a table
/// without partitions the word means nothing to a foreign key.
fn drop_only(archive: &mut Archive, tables: &[(&str, &str)]) -> bool {
    const ONLY: &[u8] = b"ALTER TABLE ONLY ";
    let mut is_changed = false;
    for entry in &mut archive.entries {
        let is_of_one = tables.iter().any(|(schema, name)| {
            let rest = entry.tag.as_bytes().strip_prefix(name.as_bytes());
            entry.namespace == **schema && rest.is_some_and(|rest| rest.starts_with(b" "))
        });
        let is_meant = entry.section == Section::PostData && is_of_one;
        let Some(rest) = entry
            .defn
            .as_bytes()
            .strip_prefix(ONLY)
            .filter(|_| is_meant)
        else {
            continue;
        };
        entry.defn = Text::from([b"ALTER TABLE ", rest].concat());
        is_changed = true;
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use super::drop_only;
    use crate::dump::archive::tests::golden;

    #[test]
    fn constraints_of_the_table_include_its_partitions() {
        let mut archive = golden("17");
        let before = archive.clone();
        assert!(!drop_only(
            &mut archive,
            &[("public", "fil"), ("other", "film")]
        ));
        assert_eq!(archive, before);
        assert!(drop_only(&mut archive, &[("public", "film")]));
        let mut changed = 0;
        for (now, was) in archive.entries.iter().zip(&before.entries) {
            if now != was {
                changed += 1;
                assert!(now.tag.lossy().starts_with("film "), "{}", now.describe());
                assert!(!now.defn.lossy().starts_with("ALTER TABLE ONLY"));
            }
        }
        assert!(changed > 0);
    }
}
