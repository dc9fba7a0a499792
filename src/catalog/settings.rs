//! ALTER DATABASE / ALTER ROLE .. IN DATABASE statements from stored settings. Pure.

use postgres::error::SqlState;

use crate::error::Error;
use crate::ident::{quote_ident, quote_literal};

use super::objects::{Catalog, DatabaseSetting};

/// Settings whose stored value is a list of quoted names. Written back as one string it would become a single name,
/// so the list is taken apart. An extension cannot define such a setting. Source: GUC_LIST_QUOTE in `guc_tables.c`.
const LIST_SETTINGS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

impl Catalog {
    /// The search_path that the source's database has for everyone, as SET takes it. Functions in indexes and checks may
    /// rely on it, and then exist on the source only because of that setting.
    pub fn search_path_sql(&self) -> Option<String> {
        let mut settings = self.database.settings.iter();
        settings
            .find(|setting| setting.role.is_none() && &*setting.name == "search_path")
            .map(DatabaseSetting::value_sql)
    }
}

/// What a missing search_path looks like.
pub fn is_name_not_found(error: &Error) -> bool {
    error.is_any_of(&[
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_COLUMN,
        SqlState::INVALID_SCHEMA_NAME,
    ])
}

impl DatabaseSetting {
    /// The statement for a database whose name may differ from the source's.
    pub fn alter_sql(&self, database: &str) -> String {
        let database = quote_ident(database);
        let subject = match &self.role {
            None => format!("DATABASE {database}"),
            Some(role) => format!("ROLE {} IN DATABASE {database}", quote_ident(role)),
        };
        self.set_sql(&subject)
    }

    /// The statement for a role in all databases.
    pub fn alter_role_sql(&self) -> String {
        let role = self.role.as_deref().map_or("ALL".to_owned(), quote_ident);
        self.set_sql(&format!("ROLE {role}"))
    }

    fn set_sql(&self, subject: &str) -> String {
        // A name with a dot belongs to an extension and is two identifiers.
        let name: Vec<String> = self.name.split('.').map(quote_ident).collect();
        format!(
            "ALTER {subject} SET {} TO {}",
            name.join("."),
            self.value_sql()
        )
    }

    fn value_sql(&self) -> String {
        let is_list = LIST_SETTINGS
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&self.name));
        if !is_list {
            return quote_literal(&self.value);
        }
        let elements = split_list(&self.value);
        if elements.is_empty() {
            return "''".to_owned();
        }
        let quoted: Vec<String> = elements.iter().map(|name| quote_literal(name)).collect();
        quoted.join(", ")
    }
}

/// `"$user", public` into its names, as the server's SplitGUCList does.
fn split_list(value: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = value.trim_start();
    while !rest.is_empty() {
        let mut name = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            while let Some(end) = rest.find('"') {
                name.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(after_pair) => {
                        name.push('"');
                        rest = after_pair;
                    }
                    None => break,
                }
            }
            rest = rest.find(',').map_or("", |comma| &rest[comma + 1..]);
        } else {
            let (bare, after) = rest.split_once(',').unwrap_or((rest, ""));
            name.push_str(bare.trim_end());
            rest = after;
        }
        names.push(name);
        rest = rest.trim_start();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{DatabaseSetting, split_list};

    fn setting(role: Option<&str>, name: &str, value: &str) -> DatabaseSetting {
        DatabaseSetting {
            role: role.map(Into::into),
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn splits_lists() {
        assert_eq!(split_list(r#""$user", public"#), ["$user", "public"]);
        assert_eq!(
            split_list(r#""a ""b"", c",d , "e""#),
            ["a \"b\", c", "d", "e"]
        );
        assert_eq!(split_list(r#""""#), [""]);
        assert_eq!(split_list(r#""open"#), [""]);
        assert!(split_list("").is_empty());
    }

    // #509, #583, #645, #726: the target's database may have another name.
    #[test]
    fn writes_statements() {
        assert_eq!(
            setting(None, "search_path", r#""$user", public"#).alter_sql("b\"x"),
            r#"ALTER DATABASE "b""x" SET "search_path" TO '$user', 'public'"#
        );
        assert_eq!(
            setting(Some("Joe"), "app.user", "it's").alter_sql("b"),
            r#"ALTER ROLE "Joe" IN DATABASE "b" SET "app"."user" TO 'it''s'"#
        );
        assert_eq!(
            setting(Some("Joe"), "work_mem", "1MB").alter_role_sql(),
            r#"ALTER ROLE "Joe" SET "work_mem" TO '1MB'"#
        );
        assert_eq!(
            setting(None, "search_path", "").alter_sql("b"),
            r#"ALTER DATABASE "b" SET "search_path" TO ''"#
        );
    }
}
