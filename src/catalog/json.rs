//! `schema.json`: the catalog as text and back. Pure; where the file is and how it gets there durably is workdir's.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::objects::Catalog;

/// Raised when a change to the types makes older files unreadable.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    catalog: &'a Catalog,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Catalog {
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let written = Written {
            version: VERSION,
            catalog: self,
        };
        serde_json::to_vec(&written)
            .map_err(|error| Error::internal(format!("could not write the catalog: {error}")))
    }

    /// The version is looked at first, so that a file of another release is called that and not garbage.
    pub fn from_json(text: &[u8]) -> Result<Catalog> {
        let damaged =
            |error: serde_json::Error| Error::state(format!("catalog is damaged: {error}"));
        let found: VersionOnly = serde_json::from_slice(text).map_err(damaged)?;
        if found.version != VERSION {
            return Err(Error::state(format!(
                "catalog has version {}, expected {VERSION}",
                found.version
            ))
            .with_hint("Use --restart to start over."));
        }
        let mut catalog: Catalog = serde_json::from_slice(text).map_err(damaged)?;
        catalog.put_in_order();
        Ok(catalog)
    }
}

#[cfg(test)]
mod tests {
    use super::Catalog;
    use crate::catalog::objects::tests::{catalog, index, table};
    use crate::error::ErrorKind;

    #[test]
    fn round_trips() {
        let mut index = index("i");
        index.column_statistics = Box::new([(2, 500)]);
        let catalog = catalog(vec![table("pu\"b", "t", &["a", "ü\n"])], vec![index]);
        let text = catalog.to_json().unwrap();
        assert_eq!(Catalog::from_json(&text).unwrap(), catalog);
    }

    #[test]
    fn refuses_other_versions_and_damage() {
        let text = catalog(Vec::new(), Vec::new()).to_json().unwrap();
        let text = String::from_utf8(text).unwrap();
        let newer = text.replacen("\"version\":1", "\"version\":99", 1);
        let error = Catalog::from_json(newer.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
        assert!(error.message().contains("version 99"));
        let error = Catalog::from_json(&text.as_bytes()[..text.len() / 2]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
    }
}
