//! The parts that the queries are made of, for one server in view of the other's major. Pure. What only one of the two
//! knows is left out, and every text is made the same way on both.

use crate::pg::wire::Connection;

/// One side's major and the other's.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    version: u32,
    other: u32,
    is_utf8: bool,
    is_source: bool,
}

impl Dialect {
    pub fn new(connection: &Connection, other: u32) -> Dialect {
        Dialect {
            version: connection.server_version(),
            other,
            // Bytes in the order of UTF-8 are what is merged; SQL_ASCII has nothing to convert from.
            is_utf8: matches!(
                connection.parameter("server_encoding"),
                Some("UTF8" | "SQL_ASCII")
            ),
            is_source: connection.side() == crate::error::Side::Source,
        }
    }

    #[cfg(test)]
    pub fn of(version: u32, other: u32, is_utf8: bool) -> Dialect {
        Dialect {
            version,
            other,
            is_utf8,
            is_source: true,
        }
    }

    pub fn is_source(&self) -> bool {
        self.is_source
    }

    /// Whether this server is of this major or a later one.
    pub fn since(&self, major: u32) -> bool {
        self.version >= major * 10_000
    }

    /// Whether both are.
    pub fn both_since(&self, major: u32) -> bool {
        self.since(major) && self.other >= major * 10_000
    }

    /// Whether neither is.
    pub fn both_before(&self, major: u32) -> bool {
        !self.since(major) && self.other < major * 10_000
    }

    pub fn is_same_major(&self) -> bool {
        self.version / 10_000 == self.other / 10_000
    }

    /// An expression for servers that have it, and its meaning on those that do not.
    pub fn either<'a>(&self, major: u32, expression: &'a str, before: &'a str) -> &'a str {
        match self.since(major) {
            true => expression,
            false => before,
        }
    }

    /// The same, left out where only one side has it.
    pub fn common<'a>(&self, major: u32, expression: &'a str) -> &'a str {
        match self.both_since(major) {
            true => expression,
            false => "NULL",
        }
    }

    pub fn order_of(&self, column: &str) -> String {
        match self.is_utf8 {
            true => format!("{column}::text COLLATE \"C\""),
            false => format!("convert_to({column}::text, 'UTF8')"),
        }
    }

    /// What `GRANT` and `REVOKE` have led to, without who granted it. The owner is called so, as its name is compared as
    /// the owner. 17 has a privilege that older ones do not know.
    pub fn privileges(&self, acl: &str, kind: char, owner: &str) -> String {
        let known = match self.both_since(17) {
            true => "",
            false => " WHERE x.privilege_type <> 'MAINTAIN'",
        };
        // Nobody has rights on a column by default.
        let default = match kind {
            'c' => acl.to_owned(),
            _ => format!("coalesce({acl}, acldefault('{kind}', {owner}))"),
        };
        let grantee = quoted("pg_get_userbyid(x.grantee)");
        format!(
            "(SELECT string_agg(p.words, '; ' ORDER BY p.words) FROM (\
                SELECT g.grantee || ': ' || string_agg(DISTINCT g.word, ', ' ORDER BY g.word) COLLATE \"C\" AS words FROM (\
                    SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' WHEN x.grantee = {owner} THEN 'the owner' \
                        ELSE {grantee} END AS grantee, \
                    (x.privilege_type || CASE WHEN x.is_grantable THEN ' with grant option' ELSE '' END) COLLATE \"C\" AS word \
                    FROM aclexplode({default}) x{known}) g \
                GROUP BY g.grantee) p)"
        )
    }
}

/// Quoted always: which words need quotes differs between majors.
pub fn quoted(name: &str) -> String {
    format!("'\"' || replace({name}::text, '\"', '\"\"') || '\"'")
}

pub fn qualified(schema: &str, name: &str) -> String {
    format!("{} || '.' || {}", quoted(schema), quoted(name))
}

/// The schemas that are the user's.
pub const IS_USERS: &str =
    r"n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgcopydb')";

/// What CREATE EXTENSION makes is the extension's.
pub fn is_no_member(catalog: &str, oid: &str) -> String {
    format!(
        "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} \
             AND e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e')"
    )
}

/// The elements of a text array in an order that does not depend on the database.
pub fn sorted(array: &str) -> String {
    format!("(SELECT string_agg(u.v, ', ' ORDER BY u.v COLLATE \"C\") FROM unnest({array}) u(v))")
}
