//! The filters file: INI sections with one name a line. Pure.
//!
//! ```text
//! [exclude-table]
//! public.audit                 # a comment
//! "Odd Schema"."t.1"
//! ~/^tmp_/.~/^[0-9]+$/         ; regular expressions, for either part
//! ```

use std::fmt;

use crate::ident::quote_ident;

/// The sections, by the names they have in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    IncludeOnlySchema,
    ExcludeSchema,
    IncludeOnlyTable,
    ExcludeTable,
    ExcludeTableData,
    ExcludeIndex,
    IncludeOnlyExtension,
    ExcludeExtension,
}

const SECTIONS: [(Section, &str); 8] = [
    (Section::IncludeOnlySchema, "include-only-schema"),
    (Section::ExcludeSchema, "exclude-schema"),
    (Section::IncludeOnlyTable, "include-only-table"),
    (Section::ExcludeTable, "exclude-table"),
    (Section::ExcludeTableData, "exclude-table-data"),
    (Section::ExcludeIndex, "exclude-index"),
    (Section::IncludeOnlyExtension, "include-only-extension"),
    (Section::ExcludeExtension, "exclude-extension"),
];

/// Sections that would say two things about one object.
const CONTRADICTIONS: [(Section, Section); 4] = [
    (Section::IncludeOnlySchema, Section::ExcludeSchema),
    (Section::IncludeOnlyTable, Section::ExcludeTable),
    (Section::IncludeOnlyTable, Section::ExcludeSchema),
    (Section::IncludeOnlyExtension, Section::ExcludeExtension),
];

impl Section {
    pub fn name(self) -> &'static str {
        SECTIONS
            .iter()
            .find(|(section, _)| *section == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether its names have a schema before them.
    fn is_qualified(self) -> bool {
        matches!(
            self,
            Section::IncludeOnlyTable
                | Section::ExcludeTable
                | Section::ExcludeTableData
                | Section::ExcludeIndex
        )
    }
}

/// A name, or a regular expression of PostgreSQL that names match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    Name(String),
    Regex(String),
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Name(name) if is_plain(name) => f.write_str(name),
            Pattern::Name(name) => f.write_str(&quote_ident(name)),
            Pattern::Regex(regex) => write!(f, "~/{}/", regex.replace('/', "\\/")),
        }
    }
}

fn is_plain(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub section: Section,
    pub line: usize,
    /// Of tables and indexes.
    pub schema: Option<Pattern>,
    pub name: Pattern,
}

impl Rule {
    /// As a file of its own.
    pub fn to_lines(&self) -> String {
        format!("[{}]\n{}\n", self.section.name(), self.object())
    }

    /// As it stands in the file.
    pub fn object(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.to_string(),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.section.name(), self.object())
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    pub line: usize,
    pub reason: String,
}

/// The rules of a file's text.
pub fn parse(text: &str) -> Result<Vec<Rule>, Mistake> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut begun: Vec<(Section, usize)> = Vec::new();
    let mut section = None;
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = index + 1;
        let mistake = |reason: String| Mistake {
            line: number,
            reason,
        };
        let line = line.trim();
        if line.is_empty() || is_comment(line) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let new = parse_section(rest).map_err(mistake)?;
            if let Some((other, first)) = contradiction(new, &begun) {
                return Err(mistake(format!(
                    "section [{}] cannot be used together with section [{}] of line {first}",
                    new.name(),
                    other.name()
                )));
            }
            begun.push((new, number));
            section = Some(new);
            continue;
        }
        let Some(section) = section else {
            return Err(mistake(format!(
                "\"{line}\" comes before the first [section]"
            )));
        };
        let (schema, name) = parse_names(line, section).map_err(mistake)?;
        rules.push(Rule {
            section,
            line: number,
            schema,
            name,
        });
    }
    Ok(rules)
}

fn is_comment(text: &str) -> bool {
    text.starts_with('#') || text.starts_with(';')
}

/// `rest` comes after the bracket.
fn parse_section(rest: &str) -> Result<Section, String> {
    let Some((name, after)) = rest.split_once(']') else {
        return Err("the name of a section has no \"]\"".to_owned());
    };
    let after = after.trim();
    if !after.is_empty() && !is_comment(after) {
        return Err(format!("\"{after}\" stands behind the name of a section"));
    }
    let name = name.trim();
    let found = SECTIONS.iter().find(|(_, known)| *known == name);
    found.map(|(section, _)| *section).ok_or_else(|| {
        let known: Vec<&str> = SECTIONS.iter().map(|(_, known)| *known).collect();
        format!("unknown section [{name}]; there are {}", known.join(", "))
    })
}

fn contradiction(new: Section, begun: &[(Section, usize)]) -> Option<(Section, usize)> {
    begun
        .iter()
        .find(|(other, _)| {
            CONTRADICTIONS.contains(&(new, *other)) || CONTRADICTIONS.contains(&(*other, new))
        })
        .copied()
}

fn parse_names(line: &str, section: Section) -> Result<(Option<Pattern>, Pattern), String> {
    let (first, rest) = parse_pattern(line)?;
    let (second, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let (second, rest) = parse_pattern(rest)?;
            (Some(second), rest)
        }
        None => (None, rest),
    };
    let after = rest.trim();
    let is_remark = is_comment(after) && rest.starts_with(char::is_whitespace);
    if !after.is_empty() && !is_remark {
        return Err(format!("\"{after}\" stands behind the name"));
    }
    match (section.is_qualified(), second) {
        (true, Some(name)) => Ok((Some(first), name)),
        (false, None) => Ok((None, first)),
        (true, None) => Err(format!(
            "section [{}] takes names with their schema, such as public.\"{line}\"",
            section.name()
        )),
        (false, Some(_)) => Err(format!(
            "section [{}] takes single names; a name with a dot in it needs double quotes",
            section.name()
        )),
    }
}

/// A name or an expression at the start of `text`, and what comes after it.
fn parse_pattern(text: &str) -> Result<(Pattern, &str), String> {
    if let Some(rest) = text.strip_prefix("~/") {
        return parse_regex(rest);
    }
    if let Some(rest) = text.strip_prefix('"') {
        return parse_quoted(rest);
    }
    let end = text
        .find(|c: char| c == '.' || c.is_whitespace())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match name
        .chars()
        .find(|c| matches!(c, '"' | '=' | '[' | ']' | '~'))
    {
        _ if name.is_empty() => Err("a name is missing".to_owned()),
        Some(odd) => Err(format!(
            "\"{odd}\" in name \"{name}\": such a name needs double quotes around it"
        )),
        None => Ok((Pattern::Name(name.to_owned()), rest)),
    }
}

/// Up to the next slash that has no backslash before it.
fn parse_regex(rest: &str) -> Result<(Pattern, &str), String> {
    let mut regex = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '/' if regex.is_empty() => return Err("an empty regular expression".to_owned()),
            '/' => return Ok((Pattern::Regex(regex), &rest[at + 1..])),
            '\\' => match characters.next() {
                Some((_, '/')) => regex.push('/'),
                Some((_, other)) => regex.extend(['\\', other]),
                None => regex.push('\\'),
            },
            other => regex.push(other),
        }
    }
    Err("a regular expression has no closing \"/\"".to_owned())
}

/// Up to the closing quote; two quotes are one.
fn parse_quoted(rest: &str) -> Result<(Pattern, &str), String> {
    let mut name = String::new();
    let mut characters = rest.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character != '"' {
            name.push(character);
        } else if characters.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else if name.is_empty() {
            return Err("an empty name".to_owned());
        } else {
            return Ok((Pattern::Name(name), &rest[at + 1..]));
        }
    }
    Err("a name has no closing double quote".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> String {
        let rules = parse(text).unwrap();
        let words: Vec<String> = rules.iter().map(ToString::to_string).collect();
        words.join("; ")
    }

    fn mistake(text: &str) -> (usize, String) {
        let mistake = parse(text).unwrap_err();
        (mistake.line, mistake.reason)
    }

    #[test]
    fn names_quotes_comments_and_expressions() {
        let text = "# about\n[exclude-table] ; here\npublic.audit # old\n \"Odd \"\"S\"\"\".\"t.1\"\n~/^tmp_/.~/a\\/b|\\d/\n\n\
                    [exclude-schema]\n; none\nfoo\n~/^pg_x/\n[exclude-index]\nPublic.i\n";
        assert_eq!(
            words(text),
            "exclude-table public.audit; exclude-table \"Odd \"\"S\"\"\".\"t.1\"; exclude-table ~/^tmp_/.~/a\\/b|\\d/; \
             exclude-schema foo; exclude-schema ~/^pg_x/; exclude-index \"Public\".i"
        );
    }

    #[test]
    fn mistakes_have_a_line_and_a_reason() {
        for (text, line, reason) in [
            ("public.t", 1, "before the first"),
            (
                "[exclude-tables]\n",
                1,
                "unknown section [exclude-tables]; there are include-only-schema,",
            ),
            ("\n[exclude-table\n", 2, "has no \"]\""),
            ("[exclude-table]\nt\n", 2, "with their schema"),
            ("[exclude-schema]\n\na.b\n", 3, "single names"),
            ("[exclude-table]\na.b c\n", 2, "behind the name"),
            ("[exclude-table]\na.b.c\n", 2, "behind the name"),
            ("[exclude-table]\na.\"b\n", 2, "no closing double quote"),
            ("[exclude-table]\na.~/b\n", 2, "no closing \"/\""),
            ("[exclude-table]\na.\n", 2, "a name is missing"),
            ("[exclude-table]\na.b=c\n", 2, "double quotes"),
            ("[exclude-table]\na.~//\n", 2, "empty regular"),
            (
                "[include-only-table]\na.b\n[exclude-schema]\nx\n",
                3,
                "together with section [include-only-table] of line 1",
            ),
            (
                "[exclude-extension]\n[include-only-extension]\n",
                2,
                "together with",
            ),
        ] {
            let (found, said) = mistake(text);
            assert_eq!(found, line, "{text:?}: {said}");
            assert!(said.contains(reason), "{text:?}: {said}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*", lines in "[\\[\\]a-z\"~/.\\\\ \n#;=-]{0,80}") {
            let _ = parse(&text);
            let _ = parse(&lines);
            let _ = parse(&format!("[exclude-table]\n{lines}"));
        }

        #[test]
        fn what_is_written_is_read(schema in "[^\0]{1,20}", name in "[^\0]{1,20}", is_regex: bool) {
            let clean = |text: &str| text.replace(['\n', '\r', '\\'], " ").trim().replace('\u{85}', "x");
            let (schema, name) = (clean(&schema), clean(&name));
            prop_assume!(!schema.is_empty() && !name.is_empty());
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let rule = Rule {
                section: Section::ExcludeTable,
                line: 2,
                schema: Some(Pattern::Name(schema.clone())),
                name: if is_regex { Pattern::Regex(name.clone()) } else { Pattern::Name(name.clone()) },
            };
            let second = if is_regex { rule.name.to_string() } else { quoted(&name) };
            let text = format!("[exclude-table]\n{}.{second}", quoted(&schema));
            prop_assert_eq!(parse(&text).unwrap(), vec![rule]);
        }
    }
}
