//! Which options of an archive the target does not know, and taking them out (trap 55): minor releases and vendors
//! differ in the options they keep on tables, columns and indexes, and pg_restore sends an entry as one string, so one
//! unknown option costs the whole object. Runs in the clone parent, before pg_restore. The target is asked once per
//! distinct name; an option that cannot be asked about stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::dump::archive::{Archive, Text};
use crate::dump::option_lists::{FoundOption, OptionKind, drop_options, find_options};
use crate::error::Result;
use crate::ident::quote_ident;
use crate::pg::wire::Connection;

/// `invalid_parameter_value`: what a server answers to `unrecognized parameter` (src/backend/access/common/reloptions.c).
/// Any other error is about something else, such as an access method of an extension that is not there yet.
const UNKNOWN_OPTION_SQLSTATE: &str = "22023";

/// The names that the target does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownOptions(BTreeSet<(OptionKind, String)>);

impl UnknownOptions {
    /// Ask about every distinct name that the archive uses, with a value it uses; `is_known_on` asks a server.
    pub fn find(
        archive: &Archive,
        is_known: &mut dyn FnMut(&FoundOption) -> Result<bool>,
    ) -> Result<UnknownOptions> {
        let mut unknown = BTreeSet::new();
        for (key, option) in used_options(archive) {
            if !is_known(&option)? {
                unknown.insert(key);
            }
        }
        Ok(UnknownOptions(unknown))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, for the one notice.
    pub fn names(&self) -> Vec<&str> {
        let names: BTreeSet<&str> = self.0.iter().map(|(_, name)| name.as_str()).collect();
        names.into_iter().collect()
    }

    /// Take them out of every entry; how many entries were changed.
    pub fn drop_from(&self, archive: &mut Archive) -> usize {
        let standard_strings = archive.has_standard_strings();
        let is_unknown =
            |found: &FoundOption| self.0.contains(&(found.kind.clone(), found.name.clone()));
        let mut changed = 0;
        for entry in &mut archive.entries {
            if let Some(defn) = drop_options(entry, standard_strings, &is_unknown) {
                entry.defn = Text::from(defn);
                changed += 1;
            }
        }
        changed
    }
}

/// One example of each distinct name.
fn used_options(archive: &Archive) -> BTreeMap<(OptionKind, String), FoundOption> {
    let standard_strings = archive.has_standard_strings();
    let mut used = BTreeMap::new();
    for entry in &archive.entries {
        for option in find_options(entry, standard_strings) {
            let key = (option.kind.clone(), option.name.clone());
            used.entry(key).or_insert(option);
        }
    }
    used
}

/// Ask the target, in a transaction that leaves nothing behind. Only a plain "unknown" counts: a target that refuses
/// for another reason (no right to make temporary tables) keeps the option, and the restore will tell.
pub fn is_known_on(target: &mut Connection, option: &FoundOption) -> Result<bool> {
    let Some(statements) = probe_statements(option) else {
        return Ok(true);
    };
    target.execute("BEGIN")?;
    let asked = statements
        .iter()
        .try_for_each(|statement| target.execute(statement).map(drop));
    match asked {
        Err(error) if error.sqlstate().is_none() || error.is_connection_lost() => Err(error),
        Err(error) => {
            target.execute("ROLLBACK")?;
            log::debug!("asked about option \"{}\": {error}", option.name);
            Ok(error.sqlstate() != Some(UNKNOWN_OPTION_SQLSTATE))
        }
        Ok(()) => {
            target.execute("ROLLBACK")?;
            Ok(true)
        }
    }
}

/// The statements that fail with `UNKNOWN_OPTION_SQLSTATE` if the target does not know the option; to be run in a
/// transaction that is rolled back. `None`: the value is nothing that may be sent again, take the option for known.
///
/// Servers check options before operator classes, so an integer column will do for every access method.
fn probe_statements(option: &FoundOption) -> Option<Vec<String>> {
    let setting = match option.value.as_str() {
        "" => option_name(&option.name),
        value => format!("{}={}", option_name(&option.name), plain_value(value)?),
    };
    let table = "CREATE TEMP TABLE pgcopydb_option_probe (c integer)";
    let probe = "pg_temp.pgcopydb_option_probe";
    Some(match &option.kind {
        OptionKind::Attribute => vec![
            table.to_owned(),
            format!("ALTER TABLE {probe} ALTER COLUMN c SET ({setting})"),
        ],
        OptionKind::Table => vec![format!("{table} WITH ({setting})")],
        OptionKind::View => vec![format!(
            "CREATE TEMP VIEW pgcopydb_option_probe WITH ({setting}) AS SELECT 1 AS c"
        )],
        OptionKind::Index { method } => {
            let method = quote_ident(method);
            vec![
                table.to_owned(),
                format!("CREATE INDEX ON {probe} USING {method} (c) WITH ({setting})"),
            ]
        }
    })
}

/// Each part quoted; the namespace is everything before the first dot.
fn option_name(name: &str) -> String {
    match name.split_once('.') {
        Some((namespace, name)) => format!("{}.{}", quote_ident(namespace), quote_ident(name)),
        None => quote_ident(name),
    }
}

/// Numbers and words, as all options of PostgreSQL have them. The value was written under the string settings of
/// another server, so nothing that could end a literal is sent again.
fn plain_value(value: &str) -> Option<String> {
    let inner = value
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
        .unwrap_or(value);
    let is_plain = inner
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'));
    is_plain.then(|| format!("'{inner}'"))
}

#[cfg(test)]
mod tests {
    use super::{UnknownOptions, probe_statements};
    use crate::dump::archive::tests::golden;
    use crate::dump::option_lists::{FoundOption, OptionKind};

    #[test]
    fn asks_once_per_name_and_drops_the_unknown() {
        let mut archive = golden("15-by-17");
        let mut asked = Vec::new();
        let unknown = UnknownOptions::find(&archive, &mut |option| {
            asked.push((option.kind.clone(), option.name.clone()));
            Ok(option.name != "pg_attver")
        })
        .unwrap();
        let distinct: std::collections::HashSet<_> = asked.iter().collect();
        assert_eq!(distinct.len(), asked.len());
        assert!(asked.contains(&(OptionKind::Table, "toast.autovacuum_enabled".to_owned())));
        assert_eq!(unknown.names(), ["pg_attver"]);
        assert_eq!(unknown.drop_from(&mut archive), 10);
        assert_eq!(unknown.drop_from(&mut archive), 0);
        let film = archive.entries.iter().find(|e| e.tag == "film").unwrap();
        assert!(
            film.defn
                .lossy()
                .contains("SET (n_distinct=100, n_distinct_inherited=-0.2)")
        );
    }

    #[test]
    fn nothing_unknown_changes_nothing() {
        let mut archive = golden("15");
        let unknown = UnknownOptions::find(&archive, &mut |_| Ok(true)).unwrap();
        assert!(unknown.is_empty());
        assert_eq!(unknown.drop_from(&mut archive), 0);
        assert_eq!(archive, golden("15"));
    }

    #[test]
    fn probes_are_quoted() {
        let option = |kind, name: &str, value: &str| FoundOption {
            kind,
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let last = |option| probe_statements(&option).map(|s| s[s.len() - 1].clone());
        assert_eq!(
            last(option(OptionKind::Attribute, "a\"b", "-0.5")).unwrap(),
            "ALTER TABLE pg_temp.pgcopydb_option_probe ALTER COLUMN c SET (\"a\"\"b\"='-0.5')"
        );
        assert_eq!(
            last(option(OptionKind::Table, "toast.x", "'70'")).unwrap(),
            "CREATE TEMP TABLE pgcopydb_option_probe (c integer) WITH (\"toast\".\"x\"='70')"
        );
        let method = "gin".to_owned();
        assert_eq!(
            last(option(OptionKind::Index { method }, "fastupdate", "off")).unwrap(),
            "CREATE INDEX ON pg_temp.pgcopydb_option_probe USING \"gin\" (c) WITH (\"fastupdate\"='off')"
        );
        assert_eq!(last(option(OptionKind::View, "x", "'a''); DROP'")), None);
    }
}
