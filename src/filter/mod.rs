//! Which objects of the source are meant: the file of `--filters`, as rules, and what they match on the source. Used by the
//! parents, before anything is copied or followed. Matching is the server's work, by its own regular expressions, so that
//! the same rule means the same in the copy, in the changes and in a list.
//!
//! What depends on an object that is left out cannot be made without it: `dump::closure` finds that in the archive.

mod file;
mod resolve;
mod sql;
mod unreadable;

pub use file::{Pattern, Rule, Section};
pub use resolve::{LeftOut, Selection, check, resolve};

use std::path::Path;

use crate::error::{Error, Result};

/// The rules of one file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters {
    rules: Vec<Rule>,
    /// For messages.
    file: String,
}

impl Filters {
    /// Errors: `Config`, with file, line and reason.
    pub fn read(path: &Path) -> Result<Filters> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            Error::config(format!("could not read filters file \"{file}\": {error}"))
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::config(format!("filters file \"{file}\" is not UTF-8")))?;
        Filters::parse(&text, &file)
    }

    pub fn parse(text: &str, file: &str) -> Result<Filters> {
        let rules = file::parse(text).map_err(|mistake| {
            Error::config(format!(
                "filters file \"{file}\", line {}: {}",
                mistake.line, mistake.reason
            ))
        })?;
        Ok(Filters {
            rules,
            file: file.to_owned(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules say, on one line, whatever the file's layout: two files of the same words are the same filter.
    pub fn words(&self) -> String {
        let words: Vec<String> = self.rules.iter().map(ToString::to_string).collect();
        match words.is_empty() {
            true => "none".to_owned(),
            false => words.join(", "),
        }
    }

    /// The rules as a filters file again.
    pub fn to_file(&self) -> String {
        self.rules.iter().map(Rule::to_lines).collect()
    }

    /// Whether only tables that are named are meant.
    pub fn names_tables(&self) -> bool {
        self.has(Section::IncludeOnlyTable)
    }

    fn of(&self, section: Section) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.section == section)
    }

    fn has(&self, section: Section) -> bool {
        self.of(section).next().is_some()
    }
}
