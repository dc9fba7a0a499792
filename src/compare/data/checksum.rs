//! The expressions that the servers make checksums with. Pure, but for the probe that chooses among them.
//!
//! A row's text is that of the row of its columns, which tells NULL from an empty string and one column from the next. Its
//! hash is 64 bits; the sum of all hashes does not depend on the order of rows.

use crate::catalog::Catalog;
use crate::error::{Context, Result};
use crate::ident::{Oid, quote_ident};

use super::pairs::{Contents, Pair, PairedColumn};
use super::snapshots::Snapshots;

/// What the two servers have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// `hashtextextended`, which exists since 11, and gives the same on both; md5 is slower and always the same.
    is_native: bool,
    /// The encodings differ: the text is compared as UTF-8.
    is_recoded: bool,
    /// One side writes floating-point numbers as 12 and later do, the other does not.
    has_other_floats: bool,
    /// The same for `"char"` and 16.
    has_other_chars: bool,
}

const FLOAT4: Oid = 700;
const FLOAT8: Oid = 701;
const CHAR: Oid = 18;

impl Method {
    pub fn choose(
        snapshots: &mut Snapshots,
        (ours, theirs): (&Catalog, &Catalog),
    ) -> Result<Method> {
        let versions = (ours.server_version, theirs.server_version);
        let crosses = |version: u32| (versions.0 >= version) != (versions.1 >= version);
        let encodings = [&*ours.database.encoding, &*theirs.database.encoding];
        // SQL_ASCII has no meaning to convert from: its bytes are compared as they are.
        let is_recoded = encodings[0] != encodings[1] && !encodings.contains(&"SQL_ASCII");
        let mut is_native = !is_recoded && versions.0.min(versions.1) >= 110_000;
        if is_native {
            // The hash depends on the order of bytes in the machine's words.
            let probe = "SELECT hashtextextended('pgcopydb', 0)";
            let hash = |side: &mut crate::snapshot::Snapshot| -> Result<String> {
                Ok(side.connection().query_one(probe)?.text(0)?.to_owned())
            };
            let ours = hash(&mut snapshots.source).context("could not make a checksum")?;
            let theirs = hash(&mut snapshots.target).context("could not make a checksum")?;
            is_native = ours == theirs;
        }
        Ok(Method {
            is_native,
            is_recoded,
            has_other_floats: crosses(120_000),
            has_other_chars: crosses(160_000),
        })
    }

    /// What a session needs beside what every session has. Up to 11 floating-point numbers are written with a fixed number
    /// of digits: the same on both sides only for as many as are always exact.
    pub fn session_sql(self, version: u32) -> String {
        let jit = match version {
            110_000.. => "SET jit = off",
            _ => "SELECT 1",
        };
        match self.has_other_floats {
            true => format!("{jit}; SET extra_float_digits = 0"),
            false => jit.to_owned(),
        }
    }

    /// The 64-bit hash of a text expression.
    fn hash(self, text: &str) -> String {
        match (self.is_native, self.is_recoded) {
            (true, _) => format!("hashtextextended({text}, 0)"),
            (false, true) => md5(&format!("convert_to({text}, 'UTF8')")),
            (false, false) => md5(text),
        }
    }

    /// The hash of a whole row.
    pub fn row_hash(self, pair: &Pair) -> String {
        if pair.contents == Contents::LargeObjects {
            return self.hash("(oid::text || ' ' || md5(lo_get(oid)))");
        }
        let columns: Vec<String> = pair
            .columns
            .iter()
            .map(|column| self.column(column))
            .collect();
        self.hash(&format!("ROW({})::text", columns.join(", ")))
    }

    /// The hash of what identifies a row.
    pub fn key_hash(self, pair: &Pair) -> String {
        let columns: Vec<String> = pair.key.iter().map(|name| quote_ident(name)).collect();
        self.hash(&format!("ROW({})::text", columns.join(", ")))
    }

    /// A column whose text form differs between the two majors is compared by its binary form.
    fn column(self, column: &PairedColumn) -> String {
        let name = quote_ident(&column.name);
        match column.type_oid {
            Some(FLOAT4) if self.has_other_floats => format!("float4send({name})"),
            Some(FLOAT8) if self.has_other_floats => format!("float8send({name})"),
            Some(CHAR) if self.has_other_chars => format!("charsend({name})"),
            _ => name,
        }
    }
}

fn md5(text: &str) -> String {
    format!("('x' || left(md5({text}), 16))::bit(64)::int8")
}

/// `FROM ..` of one side, with the conditions that choose the rows; `extra` is a condition without WHERE.
pub fn from(pair: &Pair, is_source: bool, extra: Option<&str>) -> String {
    if pair.contents == Contents::LargeObjects {
        let condition = extra.map_or(String::new(), |extra| format!(" WHERE {extra}"));
        return format!("FROM pg_largeobject_metadata{condition}");
    }
    let side = if is_source {
        &pair.source
    } else {
        &pair.target
    };
    let only = if side.is_only { "ONLY " } else { "" };
    let table = format!("{only}{}", pair.name);
    // An extension's condition is its own text, WHERE included.
    let table = match pair.condition.as_deref().map(str::trim) {
        None | Some("") => table,
        Some(condition) => format!("(SELECT * FROM {table} {condition}) config"),
    };
    match extra {
        None => format!("FROM {table}"),
        Some(extra) => format!("FROM {table} WHERE {extra}"),
    }
}

/// How many rows, and the sum of their hashes.
pub fn sum_sql(pair: &Pair, method: Method, is_source: bool, extra: Option<&str>) -> String {
    format!(
        "SELECT count(*), coalesce(sum({}), 0) {}",
        method.row_hash(pair),
        from(pair, is_source, extra)
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::compare::data::pairs::SideTable;
    use crate::ident::QualifiedName;

    pub const NATIVE: Method = Method {
        is_native: true,
        is_recoded: false,
        has_other_floats: false,
        has_other_chars: false,
    };

    pub fn pair(columns: &[(&str, Oid)]) -> Pair {
        let only = SideTable {
            oid: 1,
            is_only: true,
            ..SideTable::default()
        };
        Pair {
            name: QualifiedName::new("s", "T"),
            contents: Contents::Rows,
            source: only,
            target: only,
            columns: columns
                .iter()
                .map(|(name, oid)| PairedColumn {
                    name: (*name).into(),
                    type_oid: Some(*oid),
                })
                .collect(),
            condition: None,
            key: vec!["a".into()],
            split_column: None,
            obstacle: None,
        }
    }

    #[test]
    fn columns_are_named_in_one_order_on_both_sides() {
        let mut pair = pair(&[("a", 23), ("B \"", 25)]);
        let sql = r#"SELECT count(*), coalesce(sum(hashtextextended(ROW("a", "B """)::text, 0)), 0) FROM ONLY "s"."T""#;
        assert_eq!(sum_sql(&pair, NATIVE, true, None), sql);
        pair.target.is_only = false;
        pair.condition = Some("WHERE a > 9".into());
        assert!(
            sum_sql(&pair, NATIVE, false, Some("b < 3"))
                .ends_with(r#"FROM (SELECT * FROM "s"."T" WHERE a > 9) config WHERE b < 3"#)
        );
    }

    #[test]
    fn numbers_that_majors_write_differently_are_compared_in_binary() {
        let method = Method {
            is_native: false,
            is_recoded: true,
            has_other_floats: true,
            has_other_chars: false,
        };
        let hash = method.row_hash(&pair(&[("f", FLOAT8), ("c", CHAR)]));
        assert_eq!(
            hash,
            r#"('x' || left(md5(convert_to(ROW(float8send("f"), "c")::text, 'UTF8')), 16))::bit(64)::int8"#
        );
    }
}
