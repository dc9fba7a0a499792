//! `--requirements FILE`: which version of an extension to create on the target. Reads one JSON file when the command
//! line is read; the rest is pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// By the name of the extension. `list extensions --requirements --json` on the target writes such a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements(BTreeMap<String, String>);

/// Further keys are the user's, or another program's.
#[derive(Deserialize)]
struct Requirement {
    name: String,
    version: String,
}

impl Requirements {
    pub fn read(path: &Path) -> Result<Requirements> {
        let refuse = |reason: String| {
            Error::config(format!(
                "could not read requirements file \"{}\": {reason}",
                path.display()
            ))
        };
        let text = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        Requirements::parse(&text).map_err(|reason| {
            refuse(reason).with_hint(
                "It must be a JSON array of objects with the keys \"name\" and \"version\", as in \
                 [{\"name\": \"postgis\", \"version\": \"3.4.0\"}].",
            )
        })
    }

    fn parse(text: &[u8]) -> std::result::Result<Requirements, String> {
        let list: Vec<Requirement> =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut found = BTreeMap::new();
        for Requirement { name, version } in list {
            let other = found.insert(name.clone(), version.clone());
            if let Some(other) = other.filter(|other| *other != version) {
                return Err(format!(
                    "extension \"{name}\" is listed with version \"{other}\" and with version \"{version}\""
                ));
            }
        }
        Ok(Requirements(found))
    }

    /// The version to create; `None` is the target's default.
    pub fn version_of(&self, extension: &str) -> Option<&str> {
        self.0.get(extension).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the options of a run: `hstore 1.8, postgis 3.4.0`.
    pub fn in_words(&self) -> String {
        let words: Vec<String> = self
            .0
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::Requirements;

    #[test]
    fn reads_names_and_versions() {
        let found = Requirements::parse(
            br#"[{"name": "postgis", "version": "3.4.0", "schema": "x"}, {"name": "hstore", "version": "1.8"}]"#,
        )
        .unwrap();
        assert_eq!(found.version_of("postgis"), Some("3.4.0"));
        assert_eq!(found.version_of("citext"), None);
        assert_eq!(found.in_words(), "hstore 1.8, postgis 3.4.0");
        assert!(Requirements::parse(b"[]").unwrap().is_empty());
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for (text, reason) in [
            (&br#"{"name": "a", "version": "1"}"#[..], "sequence"),
            (br#"[{"name": "a"}]"#, "version"),
            (br#"[{"name": "a", "version": 1}]"#, "string"),
            (b"", "EOF"),
            (
                br#"[{"name": "a", "version": "1"}, {"name": "a", "version": "2"}]"#,
                "listed",
            ),
        ] {
            let error = Requirements::parse(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
