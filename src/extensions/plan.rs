//! Which extensions are created on the target, in which order and version, or why that cannot be done. Pure: what the
//! source has and what the target offers go in.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::requirements::Requirements;
use crate::catalog::Extension;
use crate::error::{Error, Result, Side};
use crate::ident::{quote_ident, quote_literal, shorten};

/// What the target has of one extension.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// `None`: there is only what is installed.
    pub default_version: Option<String>,
    pub versions: BTreeSet<String>,
    /// Version and schema.
    pub installed: Option<(String, String)>,
}

/// By the name of the extension.
pub type Offers = BTreeMap<String, Offer>;

/// An extension to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation<'a> {
    pub extension: &'a Extension,
    /// `None` is the target's default.
    pub version: Option<&'a str>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan<'a> {
    /// In the order of their needs.
    pub create: Vec<Creation<'a>>,
    /// There already.
    pub kept: Vec<String>,
    /// About those: what is not as it was asked for.
    pub warnings: Vec<String>,
}

impl Creation<'_> {
    pub fn sql(&self) -> String {
        let name = quote_ident(&self.extension.name);
        // A schema that comes with the extension is not there yet.
        let schema = match self.extension.makes_schema {
            true => String::new(),
            false => format!(" SCHEMA {}", quote_ident(&self.extension.schema)),
        };
        let version = self.version.map_or(String::new(), |version| {
            format!(" VERSION {}", quote_literal(version))
        });
        // A newer version may need more than the source has.
        format!("CREATE EXTENSION IF NOT EXISTS {name}{schema}{version} CASCADE")
    }
}

pub fn plan<'a>(
    extensions: &'a [Extension],
    requirements: &'a Requirements,
    offers: &Offers,
) -> Result<Plan<'a>> {
    let mut plan = Plan::default();
    let mut missing = Vec::new();
    let mut other_versions = Vec::new();
    for extension in in_order(extensions) {
        let name = &*extension.name;
        let version = requirements.version_of(name);
        let offer = offers.get(name);
        if let Some((installed, schema)) = offer.and_then(|offer| offer.installed.as_ref()) {
            plan.kept.push(name.to_string());
            plan.warnings
                .extend(what_differs(extension, version, installed, schema));
            continue;
        }
        let Some(offer) = offer.filter(|offer| offer.default_version.is_some()) else {
            missing.push(name.to_string());
            continue;
        };
        if let Some(version) = version.filter(|version| !offer.versions.contains(*version)) {
            let versions: Vec<String> = offer.versions.iter().cloned().collect();
            other_versions.push(format!(
                "{name} {version} (it offers {})",
                shorten(&versions)
            ));
        }
        plan.create.push(Creation { extension, version });
    }
    if !missing.is_empty() {
        let what = "extensions of the source are not available on the target";
        return Err(Error::on(Side::Target, format!("{what}: {}", shorten(&missing))).with_hint(
            "Install their packages on the target server, leave them out with [exclude-extension] in --filters, or \
             use --skip-extensions.",
        ));
    }
    if !other_versions.is_empty() {
        let what = "the target does not offer versions of extensions that --requirements names";
        return Err(Error::on(
            Side::Target,
            format!("{what}: {}", shorten(&other_versions)),
        )
        .with_hint(
            "Name versions that it offers, or install their packages on the target server.",
        ));
    }
    Ok(plan)
}

/// What the user may want to know of an extension that is there already.
fn what_differs(
    extension: &Extension,
    version: Option<&str>,
    installed: &str,
    schema: &str,
) -> Vec<String> {
    let name = quote_ident(&extension.name);
    let mut found = Vec::new();
    if let Some(version) = version.filter(|version| *version != installed) {
        found.push(format!(
            "extension {name} is kept in version {installed} on the target, although --requirements names {version}"
        ));
    }
    if *schema != *extension.schema {
        found.push(format!(
            "extension {name} is kept in schema \"{schema}\" on the target, although the source has it in \"{}\"",
            extension.schema
        ));
    }
    found
}

/// Each after those that it requires; otherwise in the order of creation on the source.
fn in_order(extensions: &[Extension]) -> Vec<&Extension> {
    let by_name: HashMap<&str, &Extension> = extensions
        .iter()
        .map(|extension| (&*extension.name, extension))
        .collect();
    let mut ordered = Vec::with_capacity(extensions.len());
    let mut seen = HashSet::new();
    for extension in extensions {
        visit(extension, &by_name, &mut seen, &mut ordered);
    }
    ordered
}

/// The server lets nobody make a circle; should there be one all the same, it is cut where it was entered.
fn visit<'a>(
    extension: &'a Extension,
    by_name: &HashMap<&str, &'a Extension>,
    seen: &mut HashSet<&'a str>,
    ordered: &mut Vec<&'a Extension>,
) {
    if !seen.insert(&extension.name) {
        return;
    }
    for name in &extension.requires {
        if let Some(required) = by_name.get(&**name) {
            visit(required, by_name, seen, ordered);
        }
    }
    ordered.push(extension);
}

#[cfg(test)]
mod tests {
    use super::{Offer, Offers, Plan, plan};
    use crate::catalog::Extension;
    use crate::extensions::requirements::Requirements;

    fn extension(name: &str, schema: &str, requires: &[&str]) -> Extension {
        Extension {
            oid: 1,
            name: name.into(),
            schema: schema.into(),
            version: "1.0".into(),
            requires: requires.iter().map(|name| (*name).into()).collect(),
            makes_schema: false,
        }
    }

    fn offers() -> Offers {
        let offer = |versions: &[&str]| Offer {
            default_version: versions.last().map(|version| (*version).to_string()),
            versions: versions
                .iter()
                .map(|version| (*version).to_string())
                .collect(),
            installed: None,
        };
        let mut offers: Offers = [
            ("cube", offer(&["1.4", "1.5"])),
            ("earthdistance", offer(&["1.1"])),
            ("gone", Offer::default()),
        ]
        .map(|(name, offer)| (name.to_string(), offer))
        .into();
        let installed = Some(("1.0".to_string(), "pg_catalog".to_string()));
        offers.insert(
            "plpgsql".to_string(),
            Offer {
                installed,
                ..offer(&[])
            },
        );
        offers
    }

    fn requirements(text: &str) -> Requirements {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Requirements::read(file.path()).unwrap()
    }

    #[test]
    fn creates_in_the_order_of_needs() {
        let mut made = extension("earthdistance", "S\"x", &["cube", "unknown"]);
        let extensions = [
            made.clone(),
            extension("plpgsql", "pg_catalog", &[]),
            extension("cube", "public", &[]),
        ];
        let wanted = requirements(r#"[{"name": "cube", "version": "1.4"}]"#);
        let Plan {
            create,
            kept,
            warnings,
        } = plan(&extensions, &wanted, &offers()).unwrap();
        let sql: Vec<String> = create.iter().map(super::Creation::sql).collect();
        assert_eq!(
            sql,
            [
                r#"CREATE EXTENSION IF NOT EXISTS "cube" SCHEMA "public" VERSION '1.4' CASCADE"#,
                r#"CREATE EXTENSION IF NOT EXISTS "earthdistance" SCHEMA "S""x" CASCADE"#,
            ]
        );
        assert_eq!(kept, ["plpgsql"]);
        assert!(warnings.is_empty());
        made.makes_schema = true;
        let none = Requirements::default();
        let made = [made];
        assert_eq!(
            plan(&made, &none, &offers()).unwrap().create[0].sql(),
            r#"CREATE EXTENSION IF NOT EXISTS "earthdistance" CASCADE"#
        );
    }

    #[test]
    fn what_the_target_does_not_offer_is_named() {
        let extensions = [
            extension("gone", "public", &[]),
            extension("nowhere", "public", &[]),
        ];
        let error = plan(&extensions, &Requirements::default(), &offers()).unwrap_err();
        assert_eq!(error.exit_code(), 7);
        assert!(
            error.to_string().ends_with("on the target: gone, nowhere"),
            "{error}"
        );
        let extensions = [extension("cube", "public", &[])];
        let wanted = requirements(r#"[{"name": "cube", "version": "9"}]"#);
        let error = plan(&extensions, &wanted, &offers()).unwrap_err();
        assert!(
            error.to_string().contains("cube 9 (it offers 1.4, 1.5)"),
            "{error}"
        );
    }

    #[test]
    fn what_is_there_is_kept_and_its_differences_are_told() {
        let extensions = [extension("plpgsql", "public", &[])];
        let wanted = requirements(r#"[{"name": "plpgsql", "version": "2"}]"#);
        let plan = plan(&extensions, &wanted, &offers()).unwrap();
        assert!(plan.create.is_empty());
        assert_eq!(plan.warnings.len(), 2, "{:?}", plan.warnings);
    }
}
