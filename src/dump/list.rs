//! Writes and reads the list files of `pg_restore --use-list`: one line per entry, what is left out commented with its
//! reason. Pure. pg_restore reads only the number at the start of a line and ignores everything behind `;`, so the rest
//! is for people (and for `restore parse-list`): it must stay on its line, whatever the names hold (trap 41).

use std::fmt;

use crate::dump::archive::{CatalogId, Entry};
use crate::dump::select::Choice;
use crate::error::{Error, Result};
use crate::ident::Oid;

/// The file's text, in the order of restoring.
pub fn write_list(choices: &[Choice<'_>]) -> String {
    let mut text =
        String::from(";\n; Entries to restore; lines that start with \";\" are skipped.\n;\n");
    for choice in choices {
        match choice.skipped {
            None => {}
            Some(reason) => {
                text.push_str("; skipped: ");
                text.push_str(&reason.to_string());
                text.push_str("\n;");
            }
        }
        text.push_str(&entry_line(choice.entry));
        text.push('\n');
    }
    text
}

/// `215; 1259 16389 TABLE public film postgres`, as `pg_restore --list` prints it.
fn entry_line(entry: &Entry) -> String {
    let CatalogId { tableoid, oid } = entry.catalog_id;
    let namespace = if entry.namespace.as_bytes().is_empty() {
        "-".into()
    } else {
        entry.namespace.lossy()
    };
    format!(
        "{}; {tableoid} {oid} {} {} {} {}",
        entry.dump_id,
        on_one_line(&entry.desc.lossy()),
        on_one_line(&namespace),
        on_one_line(&entry.tag.lossy()),
        on_one_line(&entry.owner.lossy()),
    )
}

/// Line breaks of every kind, and other control characters, become blanks.
fn on_one_line(text: &str) -> String {
    text.replace(
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'),
        " ",
    )
}

/// A line of a list that is not commented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListLine {
    pub dump_id: i32,
    /// `None` in lists shortened by hand to the number.
    pub catalog_id: Option<CatalogId>,
    /// `None` when it is none that pg_dump 10 to 18 writes.
    pub desc: Option<&'static str>,
    /// What is behind: schema, name and owner, between which nothing tells names with blanks apart.
    pub rest: String,
}

/// As `pg_restore --list` prints it, as far as the list said it.
impl fmt::Display for ListLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};", self.dump_id)?;
        if let Some(CatalogId { tableoid, oid }) = self.catalog_id {
            write!(f, " {tableoid} {oid}")?;
        }
        for text in [self.desc.unwrap_or_default(), &self.rest] {
            if !text.is_empty() {
                write!(f, " {text}")?;
            }
        }
        Ok(())
    }
}

/// The entries of a list, in its order. Ours, `pg_restore --list`'s, or edited by hand.
pub fn parse_list(text: &str) -> Result<Vec<ListLine>> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (number, rest) = line.split_once(';').unwrap_or((line, ""));
        let number = number.trim();
        if number.is_empty() {
            continue;
        }
        let dump_id = number.parse().ok().filter(|dump_id| *dump_id > 0);
        let dump_id = dump_id.ok_or_else(|| {
            let line = index + 1;
            Error::config(format!(
                "cannot read list of entries, line {line}: \"{number}\" is not an entry number"
            ))
        })?;
        lines.push(parse_line(dump_id, rest.trim()));
    }
    Ok(lines)
}

fn parse_line(dump_id: i32, text: &str) -> ListLine {
    let with_ids = || {
        let (tableoid, rest) = text.split_once(' ')?;
        let (oid, rest) = rest.split_once(' ')?;
        let catalog_id = CatalogId {
            tableoid: tableoid.parse::<Oid>().ok()?,
            oid: oid.parse::<Oid>().ok()?,
        };
        Some((catalog_id, rest))
    };
    let (catalog_id, rest) = with_ids().map_or((None, text), |(id, rest)| (Some(id), rest));
    let desc = description(rest);
    let rest = match desc {
        Some(desc) => rest[desc.len()..].trim_start(),
        None => rest,
    };
    ListLine {
        dump_id,
        catalog_id,
        desc,
        rest: rest.to_owned(),
    }
}

/// The longest description that the text starts with.
fn description(text: &str) -> Option<&'static str> {
    let is_start = |desc: &&&str| {
        let behind = text.strip_prefix(**desc);
        behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(' '))
    };
    DESCRIPTIONS
        .iter()
        .filter(is_start)
        .max_by_key(|desc| desc.len())
        .copied()
}

/// Every `.description` of an ArchiveEntry call in pg_dump.c, 10 to 18.
const DESCRIPTIONS: [&str; 65] = [
    "ACCESS METHOD",
    "ACL",
    "AGGREGATE",
    "BLOB",
    "BLOB COMMENTS",
    "BLOB METADATA",
    "BLOBS",
    "CAST",
    "CHECK CONSTRAINT",
    "COLLATION",
    "COMMENT",
    "CONSTRAINT",
    "CONVERSION",
    "DATABASE",
    "DATABASE PROPERTIES",
    "DEFAULT",
    "DEFAULT ACL",
    "DOMAIN",
    "ENCODING",
    "EVENT TRIGGER",
    "EXTENSION",
    "FK CONSTRAINT",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FUNCTION",
    "INDEX",
    "INDEX ATTACH",
    "MATERIALIZED VIEW",
    "MATERIALIZED VIEW DATA",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "POLICY",
    "PROCEDURAL LANGUAGE",
    "PROCEDURE",
    "PUBLICATION",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "ROW SECURITY",
    "RULE",
    "SCHEMA",
    "SEARCHPATH",
    "SECURITY LABEL",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SERVER",
    "SHELL TYPE",
    "STATISTICS",
    "STATISTICS DATA",
    "STDSTRINGS",
    "SUBSCRIPTION",
    "SUBSCRIPTION TABLE",
    "TABLE",
    "TABLE ATTACH",
    "TABLE DATA",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
    "TRIGGER",
    "TYPE",
    "USER MAPPING",
    "VIEW",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::{ListLine, parse_list, write_list};
    use crate::dump::archive::tests::{GOLDEN, golden};
    use crate::dump::archive::{Archive, CatalogId, Section};
    use crate::dump::select::{LeftAlone, SkipRules, select};

    #[test]
    fn what_is_written_is_read_back() {
        for (name, bytes) in GOLDEN {
            let archive = Archive::read(bytes).unwrap();
            for section in [Section::PreData, Section::PostData] {
                let rules = SkipRules {
                    section,
                    skip_extensions: false,
                    skip_ext_comments: false,
                    left_alone: &LeftAlone::default(),
                    built: &HashSet::new(),
                    omitted: &HashSet::new(),
                    publication: None,
                    skip_collations: false,
                };
                let choices = select(&archive, &rules);
                let text = write_list(&choices);
                let kept = choices.iter().filter(|choice| choice.skipped.is_none());
                let lines = parse_list(&text).unwrap();
                assert_eq!(lines.len(), kept.clone().count());
                for (choice, line) in kept.zip(&lines) {
                    assert_eq!(line.dump_id, choice.entry.dump_id);
                    assert_eq!(line.catalog_id, Some(choice.entry.catalog_id));
                    let desc = choice.entry.desc.lossy();
                    assert_eq!(line.desc, Some(&*desc), "{name}");
                }
                // One line per entry and one more per reason, behind the three of the head.
                let skipped = choices.len() - lines.len();
                assert_eq!(text.lines().count(), 3 + choices.len() + skipped);
            }
        }
    }

    #[test]
    fn hostile_names_stay_on_their_line() {
        let archive = golden("17");
        let rules = SkipRules {
            section: Section::PreData,
            skip_extensions: false,
            skip_ext_comments: false,
            left_alone: &LeftAlone::default(),
            built: &HashSet::new(),
            omitted: &HashSet::new(),
            publication: None,
            skip_collations: false,
        };
        let text = write_list(&select(&archive, &rules));
        let line = "TABLE sch;ema \"q\" ta ble; SET (x=1) postgres\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("; skipped: belongs to another section\n;"));
    }

    #[test]
    fn reads_lists_of_pg_restore_and_by_hand() {
        let text = ";\n; Archive created at 2026\n;     dbname: d\n\n\
            215; 1259 16389 TABLE public film postgres\n\
            ;216; 1259 16390 TABLE public skipped postgres\n\
            \x20 7 ; 0 0 DEFAULT ACL - DEFAULT PRIVILEGES FOR TABLES postgres\n\
            8\n9; odd";
        let line = |dump_id, ids: Option<(u32, u32)>, desc, rest: &str| ListLine {
            dump_id,
            catalog_id: ids.map(|(tableoid, oid)| CatalogId { tableoid, oid }),
            desc,
            rest: rest.to_owned(),
        };
        assert_eq!(
            parse_list(text).unwrap(),
            [
                line(
                    215,
                    Some((1259, 16389)),
                    Some("TABLE"),
                    "public film postgres"
                ),
                line(
                    7,
                    Some((0, 0)),
                    Some("DEFAULT ACL"),
                    "- DEFAULT PRIVILEGES FOR TABLES postgres"
                ),
                line(8, None, None, ""),
                line(9, None, None, "odd"),
            ]
        );
        for wrong in ["x; 1 2 TABLE", "0; 1 2 TABLE", "-3", "99999999999;"] {
            let error = parse_list(&format!("1;\n{wrong}")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9]{0,3};? ?[0-9 ]{0,9}(TABLE|ACL|é| |\n|;){0,6}") {
            let _ = parse_list(&text);
        }
    }
}
