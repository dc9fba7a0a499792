//! What identifies a row: the columns of the primary key, or of another unique index without NULLs. One query for all
//! tables.

use std::collections::HashMap;

use crate::catalog::Catalog;
use crate::error::{Context, Result};
use crate::ident::Oid;
use crate::pg::wire::Connection;

use super::pairs::{Contents, Pair};

/// The best index of each table: its columns in their order.
fn sql(version: u32) -> String {
    let key_columns = match version {
        110_000.. => "i.indnkeyatts",
        _ => "i.indnatts",
    };
    format!(
        "SELECT DISTINCT ON (i.indrelid) i.indrelid, i.indexrelid FROM pg_index i \
             JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND i.indisunique AND i.indisvalid AND i.indisready \
             AND i.indpred IS NULL AND i.indexprs IS NULL \
             AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND NOT a.attnotnull \
                 AND a.attnum = ANY ((i.indkey::int2[])[0:{key_columns} - 1])) \
         ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid"
    )
}

pub fn fetch(source: &mut Connection, catalog: &Catalog, pairs: &mut [Pair]) -> Result<()> {
    let key_columns = match catalog.server_version {
        110_000.. => "i.indnkeyatts",
        _ => "i.indnatts",
    };
    let mut keys: HashMap<Oid, Vec<Box<str>>> = HashMap::new();
    source
        .query_each(
            &format!(
                "SELECT i.indrelid, a.attname FROM ({best}) best JOIN pg_index i ON i.indexrelid = best.indexrelid \
                     CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position) \
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                 WHERE k.position <= {key_columns} ORDER BY i.indrelid, k.position",
                best = sql(catalog.server_version)
            ),
            &mut |row| {
                keys.entry(row.parse(0)?)
                    .or_default()
                    .push(row.text(1)?.into());
                Ok(())
            },
        )
        .context("could not list the keys of the source's tables")?;
    for pair in pairs
        .iter_mut()
        .filter(|pair| pair.contents == Contents::Rows)
    {
        if let Some(key) = keys.remove(&pair.source.oid) {
            pair.key = key;
        }
    }
    Ok(())
}
