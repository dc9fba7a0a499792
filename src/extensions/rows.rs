//! The user's rows in the configuration tables of extensions, for `copy extensions`; a clone has its workers for that.
//! Tables that refer to others come after them: our role may be one whose sessions check foreign keys.

use std::collections::{HashMap, HashSet};

use crate::catalog::{Catalog, CopyFormat, Sequence, Table, copy_encoding};
use crate::copy::{copy_sequences, relay};
use crate::error::{Context, Result};
use crate::ident::Oid;
use crate::pg::wire::Connection;

/// Tables and sequences of extensions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// By the oid of the extension.
    relations: HashMap<Oid, HashSet<Oid>>,
    /// (table, table it refers to)
    foreign_keys: Vec<(Oid, Oid)>,
}

/// What belongs to which extension, and the foreign keys between its tables.
pub fn fetch(source: &mut Connection, catalog: &Catalog) -> Result<Configuration> {
    let mut configuration = Configuration::default();
    if catalog.extensions.is_empty() {
        return Ok(configuration);
    }
    source
        .query_each(
            "SELECT x.oid, unnest(x.extconfig) FROM pg_extension x",
            &mut |row| {
                let relations = configuration.relations.entry(row.parse(0)?).or_default();
                relations.insert(row.parse(1)?);
                Ok(())
            },
        )
        .context("could not list the configuration tables of extensions")?;
    source
        .query_each(
            "SELECT k.conrelid, k.confrelid FROM pg_constraint k \
             WHERE k.contype = 'f' AND k.conrelid IN (SELECT unnest(extconfig) FROM pg_extension) \
             ORDER BY k.conrelid, k.confrelid",
            &mut |row| {
                let key = (row.parse(0)?, row.parse(1)?);
                configuration.foreign_keys.push(key);
                Ok(())
            },
        )
        .context("could not list the foreign keys of configuration tables")?;
    Ok(configuration)
}

/// Copy the rows of one extension that was created in the transaction that is open on the target. The source's is open,
/// too.
pub fn copy(
    configuration: &Configuration,
    extension: Oid,
    catalog: &Catalog,
    is_replica: bool,
    source: &mut Connection,
    target: &mut Connection,
) -> Result<()> {
    let Some(relations) = configuration.relations.get(&extension) else {
        return Ok(());
    };
    let tables: Vec<&Table> = catalog
        .tables_to_copy()
        .filter(|table| relations.contains(&table.oid))
        .collect();
    let tables = in_order(&tables, &configuration.foreign_keys);
    if is_replica {
        target.execute("SET LOCAL session_replication_role = replica")?;
    }
    if let Some(path) = catalog.search_path_sql() {
        target.execute(&format!("SET LOCAL search_path = {path}"))?;
    }
    // The extension may have put rows of its own where the user's go: what the condition covers is the source's alone.
    for table in tables.iter().rev() {
        let name = table.qualified_name();
        let condition = table.extension_config.as_deref().unwrap_or("");
        target
            .execute(&format!("DELETE FROM ONLY {name} {condition}"))
            .with_context(|| format!("could not empty configuration table {name}"))?;
    }
    for table in &tables {
        copy_rows(table, source, target).with_context(|| {
            format!(
                "could not copy configuration table {}",
                table.qualified_name()
            )
        })?;
    }
    target.execute("SET LOCAL search_path = pg_catalog")?;
    let sequences: Vec<Sequence> = catalog
        .sequences
        .iter()
        .filter(|sequence| relations.contains(&sequence.oid))
        .cloned()
        .collect();
    let failures = copy_sequences(source, target, &sequences)?;
    match failures.into_iter().next() {
        Some(failure) => Err(failure.error),
        None => Ok(()),
    }
}

fn copy_rows(table: &Table, source: &mut Connection, target: &mut Connection) -> Result<()> {
    let encodings = [&*source, &*target].map(|server| {
        server
            .parameter("server_encoding")
            .unwrap_or("UTF8")
            .to_string()
    });
    let format = CopyFormat {
        is_binary: false,
        encoding: Some(copy_encoding(&encodings[0], &encodings[1])),
    };
    let from = source.copy_out(&table.copy_out_sql(None, format), &mut |_| Ok(()))?;
    let to = target.copy_in(&table.copy_in_sql(false, format), &mut |_| Ok(()))?;
    let relayed = relay(from, to, None)?;
    log::info!(
        "copied configuration table {}: {} rows",
        table.qualified_name(),
        relayed.rows
    );
    Ok(())
}

/// Each after those it refers to. What refers to each other in a circle keeps its order: only a session that does not
/// check foreign keys can fill that.
fn in_order<'a>(tables: &[&'a Table], foreign_keys: &[(Oid, Oid)]) -> Vec<&'a Table> {
    let mut left: Vec<&Table> = tables.to_vec();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waiting: HashSet<Oid> = left.iter().map(|table| table.oid).collect();
        let is_ready = |table: &&Table| {
            !foreign_keys
                .iter()
                .any(|(from, to)| *from == table.oid && from != to && waiting.contains(to))
        };
        let (ready, rest): (Vec<&Table>, Vec<&Table>) = left.into_iter().partition(is_ready);
        if ready.is_empty() {
            ordered.extend(rest);
            return ordered;
        }
        ordered.extend(ready);
        left = rest;
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::in_order;
    use crate::catalog::Table;
    use crate::catalog::objects::tests::table;

    #[test]
    fn referenced_tables_come_first() {
        let tables = [1, 2, 3, 4].map(|oid| Table {
            oid,
            ..table("s", "t", &[])
        });
        let tables: Vec<&Table> = tables.iter().collect();
        let order = |keys: &[(u32, u32)]| -> Vec<u32> {
            in_order(&tables, keys)
                .iter()
                .map(|table| table.oid)
                .collect()
        };
        assert_eq!(order(&[(1, 3), (3, 4), (2, 2), (4, 99)]), [2, 4, 3, 1]);
        assert_eq!(order(&[(1, 2), (2, 1)]), [3, 4, 1, 2]);
        assert_eq!(order(&[]), [1, 2, 3, 4]);
    }
}
