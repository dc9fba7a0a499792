//! Tables of the source whose updates and deletes cannot be told by row. pgoutput and wal2json would skip such changes, or
//! a publication would make the application's own statements fail, so with these plugins they are refused before anything
//! is made. Reads the source's catalog; changes nothing.

use super::publication::followed;
use crate::error::{Context, Result};
use crate::filter::Filters;
use crate::ident::{QualifiedName, quote_ident};
use crate::pg::wire::Connection;

/// A table without a usable replica identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutIdentity {
    pub table: QualifiedName,
    /// An index that could be its identity: unique, not partial, not deferrable, its columns NOT NULL.
    pub index: Option<String>,
}

impl WithoutIdentity {
    /// What gives the table an identity.
    pub fn alter_sql(&self) -> String {
        let identity = match &self.index {
            Some(index) => format!("USING INDEX {}", quote_ident(index)),
            None => "FULL".to_owned(),
        };
        format!("ALTER TABLE {} REPLICA IDENTITY {identity};", self.table)
    }
}

/// All of them, in the order of their names. What the server takes for an identity: RelationGetIndexList in relcache.c
/// (a deferrable primary key is none).
pub fn find(source: &mut Connection, filters: Option<&Filters>) -> Result<Vec<WithoutIdentity>> {
    let rows = source
        .query(&format!(
            "SELECT n.nspname, c.relname, \
                 (SELECT min(ic.relname) FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid \
                  WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid \
                    AND i.indpred IS NULL AND i.indexprs IS NULL \
                    AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid \
                        AND a.attnum = ANY (i.indkey::int2[]) AND NOT a.attnotnull)) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND {} \
               AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
                   AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)) \
               AND c.relreplident <> 'f' \
             ORDER BY 1, 2",
            followed(filters)
        ))
        .context("could not look at the replica identities of the source")?;
    rows.iter()
        .map(|row| {
            Ok(WithoutIdentity {
                table: QualifiedName::new(row.text(0)?, row.text(1)?),
                index: row.opt_text(2)?.map(str::to_owned),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::WithoutIdentity;
    use crate::ident::QualifiedName;

    #[test]
    fn the_statement_can_be_run_as_it_is() {
        let mut found = WithoutIdentity {
            table: QualifiedName::new("S 1", "t"),
            index: None,
        };
        assert_eq!(
            found.alter_sql(),
            r#"ALTER TABLE "S 1"."t" REPLICA IDENTITY FULL;"#
        );
        found.index = Some("t_key".to_owned());
        assert_eq!(
            found.alter_sql(),
            r#"ALTER TABLE "S 1"."t" REPLICA IDENTITY USING INDEX "t_key";"#
        );
    }
}
