//! SQL made from catalog objects: COPY on both sides, CREATE INDEX and what follows it. Pure; runs nothing.
//!
//! An index's archive entry is skipped when we build the index, so everything that rides in that entry (tablespace,
//! CLUSTER ON, REPLICA IDENTITY, statistics, extension dependencies) must be said here, or it is lost.

use crate::ident::{QualifiedName, quote_ident, quote_literal};

use super::objects::{Constraint, ConstraintKind, Index, Table};
use super::split::Part;
use super::types::is_binary_safe;

/// How rows travel; the same on both sides of a copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyFormat<'a> {
    pub is_binary: bool,
    /// Not the session's encoding: that one is for statements, whose identifiers are always UTF-8 to us.
    pub encoding: Option<&'a str>,
}

impl CopyFormat<'_> {
    fn options(self, is_freeze: bool) -> String {
        let mut options = Vec::new();
        if is_freeze {
            options.push("FREEZE".to_string());
        }
        if self.is_binary {
            options.push("FORMAT binary".to_string());
        }
        if let Some(encoding) = self.encoding {
            options.push(format!("ENCODING {}", quote_literal(encoding)));
        }
        if options.is_empty() {
            String::new()
        } else {
            format!(" WITH ({})", options.join(", "))
        }
    }
}

/// The encoding in which rows travel between two databases. Equal ones: their own, so that no byte is converted.
/// SQL_ASCII has no meaning to convert from: bytes pass as they are, under the name of the target's encoding, since in a
/// COPY in SQL_ASCII the target would not look at them at all and keep what is no character. Else UTF-8, which every
/// encoding converts to and from.
pub fn copy_encoding<'a>(source: &'a str, target: &'a str) -> &'a str {
    match (source, target) {
        _ if source == target => source,
        ("SQL_ASCII", _) => target,
        _ => "UTF8",
    }
}

impl Table {
    /// Whether COPY BINARY carries every column unharmed.
    pub fn is_binary_safe(&self, has_same_encoding: bool) -> bool {
        self.columns
            .iter()
            .all(|column| is_binary_safe(column.type_oid, has_same_encoding))
    }

    /// The COPY on the source: of the table alone (COPY reads no children; SELECT must be told with ONLY).
    pub fn copy_out_sql(&self, part: Option<&Part>, format: CopyFormat<'_>) -> String {
        let name = self.qualified_name();
        let options = format.options(false);
        // An extension's condition is its own text with its own WHERE (or empty), and is never combined with a part.
        let condition = match part {
            Some(part) => format!("WHERE {}", part.where_clause()),
            None => self.extension_config.as_deref().unwrap_or("").to_owned(),
        };
        if condition.trim().is_empty() {
            let columns = self.column_list();
            return format!("COPY {name}{columns} TO STDOUT{options}");
        }
        let columns = self.column_names();
        format!("COPY (SELECT {columns} FROM ONLY {name} {condition}) TO STDOUT{options}")
    }

    /// The COPY on the target. FREEZE is only for a table emptied in the same transaction.
    pub fn copy_in_sql(&self, is_freeze: bool, format: CopyFormat<'_>) -> String {
        format!(
            "COPY {}{} FROM STDIN{}",
            self.qualified_name(),
            self.column_list(),
            format.options(is_freeze)
        )
    }

    fn column_names(&self) -> String {
        let names: Vec<String> = self
            .columns
            .iter()
            .map(|column| quote_ident(&column.name))
            .collect();
        names.join(", ")
    }

    /// ` (a, b)`, or nothing: an empty list in parentheses is a syntax error, and without a list COPY of a table that
    /// has no columns, or only generated ones, means the same.
    fn column_list(&self) -> String {
        if self.columns.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.column_names())
        }
    }
}

impl Index {
    pub fn qualified_name(&self, table: &Table) -> QualifiedName {
        QualifiedName::new(&*table.schema, &*self.name)
    }

    /// Goes before `create_sql`, always: a worker builds many indexes on one connection, and a definition does not
    /// name its tablespace. The empty string is the database's default.
    pub fn tablespace_sql(&self) -> String {
        let tablespace = self.tablespace.as_deref().unwrap_or("");
        format!("SET default_tablespace = {}", quote_literal(tablespace))
    }

    /// CREATE [UNIQUE] INDEX, as the source's server writes it: qualified, whatever the search_path.
    pub fn create_sql(&self) -> &str {
        &self.definition
    }

    /// Statements that follow CREATE INDEX, each to be run once: the constraint, then what else the archive entry says.
    pub fn attach_sql(&self, table: &Table) -> Vec<String> {
        let mut statements = Vec::new();
        if let Some(constraint) = &self.constraint {
            statements.push(self.add_constraint_sql(table, constraint));
        }
        // ADD CONSTRAINT USING INDEX renames the index to the constraint's name.
        let name = match &self.constraint {
            Some(constraint) => &constraint.name,
            None => &self.name,
        };
        let table_name = table.qualified_name();
        let index_name = QualifiedName::new(&*table.schema, &**name);
        if self.is_clustered {
            statements.push(format!(
                "ALTER TABLE {table_name} CLUSTER ON {}",
                quote_ident(name)
            ));
        }
        if self.is_replica_identity {
            statements.push(format!(
                "ALTER TABLE ONLY {table_name} REPLICA IDENTITY USING INDEX {}",
                quote_ident(name)
            ));
        }
        for (attnum, target) in &self.column_statistics {
            statements.push(format!(
                "ALTER INDEX {index_name} ALTER COLUMN {attnum} SET STATISTICS {target}"
            ));
        }
        for extension in &self.depends_on_extensions {
            statements.push(format!(
                "ALTER INDEX {index_name} DEPENDS ON EXTENSION {}",
                quote_ident(extension)
            ));
        }
        statements
    }

    /// The statements for a table that the user has made partitioned on the target. There a constraint cannot be made of an
    /// index: it is said with its columns, in the place of CREATE INDEX. Nor can such a table be clustered.
    pub fn on_partitioned(&self, table: &Table) -> OnPartitioned {
        let mut attach = self.attach_sql(table);
        if self.constraint.is_some() {
            attach.remove(0);
        }
        if self.is_clustered {
            attach.remove(0);
        }
        let constraint = self.constraint.as_deref();
        let with_columns =
            constraint.and_then(|constraint| self.constraint_with_columns(table, constraint));
        OnPartitioned {
            create: with_columns.unwrap_or_else(|| self.definition.to_string()),
            attach,
        }
    }

    /// ADD CONSTRAINT with the columns of the index's definition: a constraint's index has plain columns, nothing else.
    fn constraint_with_columns(&self, table: &Table, constraint: &Constraint) -> Option<String> {
        const METHOD: &str = " USING btree ";
        let start = find_unquoted(&self.definition, METHOD)? + METHOD.len();
        let parameters = &self.definition[start..];
        const NULLS: &str = " NULLS NOT DISTINCT";
        let (nulls, parameters) = match find_unquoted(parameters, NULLS) {
            Some(at) => {
                let rest = &parameters[at + NULLS.len()..];
                (NULLS, format!("{}{rest}", &parameters[..at]))
            }
            None => ("", parameters.to_string()),
        };
        Some(format!(
            "ALTER TABLE {} ADD CONSTRAINT {} {}{nulls} {parameters}{}",
            table.qualified_name(),
            quote_ident(&constraint.name),
            constraint.kind_sql(),
            constraint.deferral_sql(),
        ))
    }

    fn add_constraint_sql(&self, table: &Table, constraint: &Constraint) -> String {
        format!(
            "ALTER TABLE ONLY {} ADD CONSTRAINT {} {} USING INDEX {}{}",
            table.qualified_name(),
            quote_ident(&constraint.name),
            constraint.kind_sql(),
            quote_ident(&self.name),
            constraint.deferral_sql(),
        )
    }
}

/// What becomes of an index on a partitioned table.
#[derive(Debug, PartialEq, Eq)]
pub struct OnPartitioned {
    /// CREATE INDEX, or ADD CONSTRAINT.
    pub create: String,
    /// What follows.
    pub attach: Vec<String>,
}

impl Constraint {
    fn kind_sql(&self) -> &'static str {
        match self.kind {
            ConstraintKind::PrimaryKey => "PRIMARY KEY",
            ConstraintKind::Unique => "UNIQUE",
        }
    }

    fn deferral_sql(&self) -> &'static str {
        match (self.is_deferrable, self.is_deferred) {
            (false, _) => "",
            (true, false) => " DEFERRABLE",
            (true, true) => " DEFERRABLE INITIALLY DEFERRED",
        }
    }
}

/// Where a text begins outside of quoted names.
fn find_unquoted(sql: &str, text: &str) -> Option<usize> {
    let mut is_quoted = false;
    sql.char_indices().find_map(|(at, c)| {
        // A doubled quote inside a name closes and opens again.
        is_quoted ^= c == '"';
        (!is_quoted && sql[at..].starts_with(text)).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::{CopyFormat, copy_encoding};
    use crate::catalog::objects::tests::{index, table};
    use crate::catalog::objects::{Constraint, ConstraintKind};
    use crate::catalog::split::{Part, PartRange};

    const BINARY: CopyFormat<'static> = CopyFormat {
        is_binary: true,
        encoding: None,
    };

    #[test]
    fn names_the_encoding_of_the_rows() {
        let format = CopyFormat {
            is_binary: false,
            encoding: Some(copy_encoding("LATIN1", "UTF8")),
        };
        assert!(
            table("s", "t", &["a"])
                .copy_in_sql(true, format)
                .ends_with("WITH (FREEZE, ENCODING 'UTF8')")
        );
        assert_eq!(copy_encoding("LATIN1", "LATIN1"), "LATIN1");
        assert_eq!(copy_encoding("SQL_ASCII", "UTF8"), "UTF8");
        assert_eq!(copy_encoding("LATIN1", "SQL_ASCII"), "UTF8");
    }

    fn constraint(kind: ConstraintKind, is_deferrable: bool, is_deferred: bool) -> Constraint {
        Constraint {
            oid: 9,
            name: "t\"key".into(),
            kind,
            is_deferrable,
            is_deferred,
        }
    }

    #[test]
    fn copy_quotes_everything() {
        let table = table("S\".x", "select%", &["a b", "\"q\""]);
        assert_eq!(
            table.copy_out_sql(None, CopyFormat::default()),
            r#"COPY "S"".x"."select%" ("a b", """q""") TO STDOUT"#
        );
        assert_eq!(
            table.copy_in_sql(true, BINARY),
            r#"COPY "S"".x"."select%" ("a b", """q""") FROM STDIN WITH (FREEZE, FORMAT binary)"#
        );
        let part = Part {
            number: 2,
            count: 3,
            range: PartRange::Ctid {
                from: Some(10),
                to: Some(20),
            },
        };
        assert_eq!(
            table.copy_out_sql(Some(&part), BINARY),
            "COPY (SELECT \"a b\", \"\"\"q\"\"\" FROM ONLY \"S\"\".x\".\"select%\" \
             WHERE ctid >= '(10,0)'::pg_catalog.tid AND ctid < '(20,0)'::pg_catalog.tid) \
             TO STDOUT WITH (FORMAT binary)"
        );
    }

    #[test]
    fn copy_without_columns_has_no_list() {
        let table = table("public", "empty", &[]);
        assert_eq!(
            table.copy_out_sql(None, CopyFormat::default()),
            r#"COPY "public"."empty" TO STDOUT"#
        );
        assert_eq!(
            table.copy_in_sql(false, CopyFormat::default()),
            r#"COPY "public"."empty" FROM STDIN"#
        );
    }

    #[test]
    fn configuration_tables_copy_the_users_rows() {
        let mut table = table("public", "spatial_ref_sys", &["srid"]);
        table.extension_config = Some("WHERE srid > 998999".into());
        assert_eq!(
            table.copy_out_sql(None, CopyFormat::default()),
            r#"COPY (SELECT "srid" FROM ONLY "public"."spatial_ref_sys" WHERE srid > 998999) TO STDOUT"#
        );
        table.extension_config = Some("".into());
        assert_eq!(
            table.copy_out_sql(None, CopyFormat::default()),
            r#"COPY "public"."spatial_ref_sys" ("srid") TO STDOUT"#
        );
    }

    #[test]
    fn attaches_constraints_with_their_deferral() {
        let table = table("public", "t", &["a"]);
        let mut index = index("t\"key");
        index.constraint = Some(Box::new(constraint(
            ConstraintKind::PrimaryKey,
            false,
            false,
        )));
        assert_eq!(
            index.attach_sql(&table),
            [
                r#"ALTER TABLE ONLY "public"."t" ADD CONSTRAINT "t""key" PRIMARY KEY USING INDEX "t""key""#
            ]
        );
        index.constraint = Some(Box::new(constraint(ConstraintKind::Unique, true, false)));
        assert!(index.attach_sql(&table)[0].ends_with(r#"UNIQUE USING INDEX "t""key" DEFERRABLE"#));
        index.constraint = Some(Box::new(constraint(ConstraintKind::Unique, true, true)));
        assert!(index.attach_sql(&table)[0].ends_with(" DEFERRABLE INITIALLY DEFERRED"));
    }

    #[test]
    fn says_all_that_rides_in_the_index_entry() {
        let table = table("public", "T", &["a"]);
        let mut index = index("I 1");
        index.is_clustered = true;
        index.is_replica_identity = true;
        index.column_statistics = Box::new([(1, 400), (3, 0)]);
        index.depends_on_extensions = Box::new(["hstore".into()]);
        index.tablespace = Some("o'ne".into());
        assert_eq!(index.tablespace_sql(), "SET default_tablespace = 'o''ne'");
        assert_eq!(
            index.attach_sql(&table),
            [
                r#"ALTER TABLE "public"."T" CLUSTER ON "I 1""#,
                r#"ALTER TABLE ONLY "public"."T" REPLICA IDENTITY USING INDEX "I 1""#,
                r#"ALTER INDEX "public"."I 1" ALTER COLUMN 1 SET STATISTICS 400"#,
                r#"ALTER INDEX "public"."I 1" ALTER COLUMN 3 SET STATISTICS 0"#,
                r#"ALTER INDEX "public"."I 1" DEPENDS ON EXTENSION "hstore""#,
            ]
        );
    }

    #[test]
    fn one_unsafe_column_makes_the_table_text() {
        let mut table = table("public", "t", &["a", "b"]);
        assert!(table.is_binary_safe(false));
        table.columns[1].type_oid = 16_500;
        assert!(!table.is_binary_safe(true));
    }

    #[test]
    fn on_a_partitioned_table_a_constraint_is_said_with_its_columns() {
        let table = table("public", "t", &["a"]);
        let mut index = index("t_key");
        index.definition = "CREATE UNIQUE INDEX t_key ON public.\" USING btree \" USING btree \
            (\"x NULLS NOT DISTINCT\", b) INCLUDE (c) NULLS NOT DISTINCT WITH (fillfactor='70')"
            .into();
        let plain = index.on_partitioned(&table);
        assert_eq!(plain.create, &*index.definition);
        index.constraint = Some(Box::new(constraint(ConstraintKind::Unique, true, false)));
        index.is_clustered = true;
        index.is_replica_identity = true;
        let on_partitioned = index.on_partitioned(&table);
        assert_eq!(
            on_partitioned.create,
            r#"ALTER TABLE "public"."t" ADD CONSTRAINT "t""key" UNIQUE NULLS NOT DISTINCT ("x NULLS NOT DISTINCT", b) INCLUDE (c) WITH (fillfactor='70') DEFERRABLE"#
        );
        assert_eq!(
            on_partitioned.attach,
            [r#"ALTER TABLE ONLY "public"."t" REPLICA IDENTITY USING INDEX "t""key""#]
        );
    }
}
