//! The rules as conditions on the source's catalog. Pure. Each is written for `pg_class c` and `pg_namespace n`, or for
//! `pg_extension x`, and true for what is left out.

use super::{Filters, Pattern, Rule, Section};
use crate::ident::quote_literal;

const NEVER: &str = "false";

impl Filters {
    /// The schema of `n`.
    pub fn schema_left_out(&self) -> String {
        match (
            self.has(Section::IncludeOnlySchema),
            self.has(Section::ExcludeSchema),
        ) {
            (true, _) => format!(
                "NOT ({})",
                self.single(Section::IncludeOnlySchema, "n.nspname")
            ),
            (_, true) => self.single(Section::ExcludeSchema, "n.nspname"),
            _ => NEVER.to_owned(),
        }
    }

    /// The extension `x`.
    pub fn extension_left_out(&self) -> String {
        match (
            self.has(Section::IncludeOnlyExtension),
            self.has(Section::ExcludeExtension),
        ) {
            (true, _) => format!(
                "NOT ({})",
                self.single(Section::IncludeOnlyExtension, "x.extname")
            ),
            (_, true) => self.single(Section::ExcludeExtension, "x.extname"),
            _ => NEVER.to_owned(),
        }
    }

    /// The relation `c`: a table by any rule, a view only where a rule names it.
    pub fn relation_left_out(&self) -> String {
        let mut conditions = vec![self.schema_left_out()];
        if self.has(Section::ExcludeTable) {
            conditions.push(self.table_matches(Section::ExcludeTable));
        }
        if self.has(Section::IncludeOnlyTable) {
            conditions.push(format!(
                "c.relkind IN ('r', 'p', 'f') AND NOT ({})",
                self.table_matches(Section::IncludeOnlyTable)
            ));
        }
        any(conditions)
    }

    /// The table `c`, whose rows are left out and whose definition is not.
    pub fn rows_left_out(&self) -> String {
        match self.has(Section::ExcludeTableData) {
            true => self.table_matches(Section::ExcludeTableData),
            false => NEVER.to_owned(),
        }
    }

    /// The configuration table `c` of an extension, which makes it in any case: of these a rule leaves out the rows.
    pub fn extension_rows_left_out(&self) -> String {
        let mut conditions = vec![self.rows_left_out()];
        if self.has(Section::ExcludeTable) {
            conditions.push(self.table_matches(Section::ExcludeTable));
        }
        any(conditions)
    }

    /// The table `c`, whose changes are not followed.
    pub fn changes_left_out(&self) -> String {
        any(vec![self.relation_left_out(), self.rows_left_out()])
    }

    /// The index `c` in schema `n`, by a rule about it or about the index it is a partition of.
    pub fn index_left_out(&self) -> String {
        match self.has(Section::ExcludeIndex) {
            true => self.table_matches(Section::ExcludeIndex),
            false => NEVER.to_owned(),
        }
    }

    /// A rule about a partitioned table or index is about its partitions too.
    fn table_matches(&self, section: Section) -> String {
        let own = self.qualified(section, "n.nspname", "c.relname");
        let above = self.qualified(section, "above_n.nspname", "above_c.relname");
        format!(
            "({own} OR c.relispartition AND EXISTS (
        WITH RECURSIVE above AS (
            SELECT i.inhparent AS oid FROM pg_inherits i WHERE i.inhrelid = c.oid
            UNION ALL SELECT i.inhparent FROM above JOIN pg_inherits i ON i.inhrelid = above.oid)
        SELECT FROM above JOIN pg_class above_c ON above_c.oid = above.oid
            JOIN pg_namespace above_n ON above_n.oid = above_c.relnamespace WHERE {above}))"
        )
    }

    /// Many names are one look into a table of hashes, expressions are tried one by one.
    fn single(&self, section: Section, column: &str) -> String {
        let mut names = Vec::new();
        let mut conditions = Vec::new();
        for rule in self.of(section) {
            match &rule.name {
                Pattern::Name(name) => names.push(quote_literal(name)),
                Pattern::Regex(regex) => conditions.push(matches(column, regex)),
            }
        }
        if !names.is_empty() {
            conditions.push(format!("{column}::text IN ({})", names.join(", ")));
        }
        any(conditions)
    }

    fn qualified(&self, section: Section, schema: &str, name: &str) -> String {
        let mut names = Vec::new();
        let mut conditions = Vec::new();
        for rule in self.of(section) {
            match (&rule.schema, &rule.name) {
                (Some(Pattern::Name(of)), Pattern::Name(is)) => {
                    names.push(format!("({}, {})", quote_literal(of), quote_literal(is)));
                }
                _ => conditions.push(format!("({})", rule.condition(schema, name))),
            }
        }
        if !names.is_empty() {
            conditions.push(format!(
                "({schema}::text, {name}::text) IN (VALUES {})",
                names.join(", ")
            ));
        }
        any(conditions)
    }
}

impl Rule {
    /// For one rule alone.
    pub fn condition(&self, schema: &str, name: &str) -> String {
        let mut conditions = Vec::new();
        if let Some(pattern) = &self.schema {
            conditions.push(pattern.condition(schema));
        }
        conditions.push(self.name.condition(name));
        conditions.join(" AND ")
    }
}

impl Pattern {
    fn condition(&self, column: &str) -> String {
        match self {
            Pattern::Name(name) => format!("{column} = {}", quote_literal(name)),
            Pattern::Regex(regex) => matches(column, regex),
        }
    }
}

fn matches(column: &str, regex: &str) -> String {
    format!("{column} ~ {}", quote_literal(regex))
}

fn any(conditions: Vec<String>) -> String {
    let conditions: Vec<String> = conditions.into_iter().filter(|it| it != NEVER).collect();
    match conditions.is_empty() {
        true => NEVER.to_owned(),
        false => format!("({})", conditions.join("\n    OR ")),
    }
}

#[cfg(test)]
mod tests {
    use crate::filter::Filters;

    #[test]
    fn no_rule_leaves_nothing_out() {
        let filters = Filters::parse("", "f").unwrap();
        assert_eq!(filters.changes_left_out(), "false");
        assert_eq!(filters.schema_left_out(), "false");
        assert_eq!(filters.words(), "none");
    }

    #[test]
    fn names_are_quoted() {
        let filters = Filters::parse("[exclude-schema]\n\"o'x\"\n~/it's/\n", "f").unwrap();
        assert_eq!(
            filters.schema_left_out(),
            "(n.nspname ~ 'it''s'\n    OR n.nspname::text IN ('o''x'))"
        );
    }
}
