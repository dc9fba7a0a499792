//! Decides which entries of an archive one run of pg_restore gets. Pure; used in the clone parent. What a flag of
//! pg_restore can decide (owners, privileges, comments) is left to the flag. Objects are matched by their catalog
//! identity, never by name: an index and its constraint share a name, and OIDs repeat across catalogs (trap 38).

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dump::archive::{Archive, CatalogId, Entry, Section};
use crate::dump::pg_dump::OWN_SCHEMA;
use crate::dump::sql_tokens::{statements, tokenize};

/// What to leave out.
#[derive(Debug, Clone)]
pub struct SkipRules<'a> {
    /// `PreData` or `PostData`: everything else is left out.
    pub section: Section,
    /// Extensions and their comments.
    pub skip_extensions: bool,
    /// Comments on extensions: only their owner may set them.
    pub skip_ext_comments: bool,
    /// What a role with few rights leaves alone.
    pub left_alone: &'a LeftAlone,
    /// What is on the target already: indexes and constraints that our workers built.
    pub built: &'a HashSet<CatalogId>,
    /// What the filters leave out, by dump id.
    pub omitted: &'a HashSet<i32>,
    /// The publication on the source that was made for the changes to come.
    pub publication: Option<&'a str>,
    /// Collations and their comments.
    pub skip_collations: bool,
}

/// What is on the target already and belongs to another role there, so that ours may not change it, and need not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Extensions whose comments came with them.
    pub extensions: HashSet<String>,
    /// Schemas that keep their owner, privileges and comment.
    pub schemas: HashSet<String>,
    /// The entry of schema "public" only says who owns it.
    pub public_schema: bool,
}

/// Why an entry is left out; shown in the list file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    OtherSection,
    OwnSchema,
    LargeObject,
    Extension,
    ExtensionIsCreated,
    ExtensionComment,
    ExtensionOfOthers,
    PublicSchema,
    SchemaOfOthers,
    Collation,
    Built,
    OwnPublication,
    Filtered,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::OtherSection => "belongs to another section",
            SkipReason::OwnSchema => "belongs to a copying tool",
            SkipReason::LargeObject => "large objects are copied on their own",
            SkipReason::Extension => "extensions are skipped",
            SkipReason::ExtensionIsCreated => "is created on its own, before anything else",
            SkipReason::ExtensionComment => "comments on extensions are skipped",
            SkipReason::ExtensionOfOthers => "the extension is there and belongs to another role",
            SkipReason::SchemaOfOthers => "the schema is there and belongs to another role",
            SkipReason::Collation => "collations are skipped",
            SkipReason::PublicSchema => "keeps the owner that it has on the target",
            SkipReason::Built => "is built already",
            SkipReason::OwnPublication => "is there for the changes that follow",
            SkipReason::Filtered => "is left out by the filters",
        })
    }
}

/// An entry and what was decided about it.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    pub entry: &'a Entry,
    /// `None`: it is restored.
    pub skipped: Option<SkipReason>,
}

/// One choice per entry, in the order of the archive, which is the order of restoring.
pub fn select<'a>(archive: &'a Archive, rules: &SkipRules<'_>) -> Vec<Choice<'a>> {
    let by_dump_id: HashMap<i32, &Entry> = archive
        .entries
        .iter()
        .map(|entry| (entry.dump_id, entry))
        .collect();
    let mut section = Section::PreData;
    archive
        .entries
        .iter()
        .map(|entry| {
            // Comments and labels have no section of their own: they go with their object, which in doubt is the entry
            // before them.
            let parents = entry.deps.iter().filter_map(|id| by_dump_id.get(id));
            let own_section = match entry.section {
                Section::None => parents
                    .clone()
                    .map(|parent| parent.section)
                    .find(|section| *section != Section::None)
                    .unwrap_or(section),
                known => {
                    section = known;
                    known
                }
            };
            let own_section = if is_about_privileges(entry) {
                Section::PostData
            } else {
                own_section
            };
            let about = |desc: &str| parents.clone().find(|parent| parent.desc == desc).copied();
            let of = Parents {
                extension: about("EXTENSION"),
                is_collation: about("COLLATION").is_some(),
                is_member: is_about_member(entry, parents.clone().next().is_some()),
            };
            Choice {
                entry,
                skipped: skip_reason(entry, own_section, of, rules),
            }
        })
        .collect()
}

/// What a comment may be about.
#[derive(Clone, Copy)]
struct Parents<'a> {
    extension: Option<&'a Entry>,
    is_collation: bool,
    /// The object itself is not in the archive: it comes with its extension.
    is_member: bool,
}

fn skip_reason(
    entry: &Entry,
    section: Section,
    parents: Parents<'_>,
    rules: &SkipRules<'_>,
) -> Option<SkipReason> {
    let is_comment = entry.desc == "COMMENT";
    let is_ext_comment = is_comment && parents.extension.is_some();
    let is_collation = entry.desc == "COLLATION" || is_comment && parents.is_collation;
    let is_of_others = parents.extension.is_some_and(|extension| {
        rules
            .left_alone
            .extensions
            .contains(&*extension.tag.lossy())
    });
    let skips_ext_comments = rules.skip_extensions || rules.skip_ext_comments;
    if section != rules.section {
        Some(SkipReason::OtherSection)
    } else if is_of_own_schema(entry) {
        Some(SkipReason::OwnSchema)
    } else if rules.omitted.contains(&entry.dump_id) {
        Some(SkipReason::Filtered)
    } else if is_of_large_object(entry) {
        Some(SkipReason::LargeObject)
    } else if rules.skip_extensions && (entry.desc == "EXTENSION" || parents.is_member) {
        Some(SkipReason::Extension)
    } else if entry.desc == "EXTENSION" {
        Some(SkipReason::ExtensionIsCreated)
    } else if is_ext_comment && skips_ext_comments {
        Some(SkipReason::ExtensionComment)
    } else if is_ext_comment && is_of_others {
        Some(SkipReason::ExtensionOfOthers)
    } else if rules.left_alone.public_schema && entry.desc == "SCHEMA" && entry.tag == "public" {
        Some(SkipReason::PublicSchema)
    } else if is_about_one_of(entry, &rules.left_alone.schemas) {
        Some(SkipReason::SchemaOfOthers)
    } else if is_collation && rules.skip_collations {
        Some(SkipReason::Collation)
    } else if rules
        .publication
        .is_some_and(|name| is_of_publication(entry, name))
    {
        Some(SkipReason::OwnPublication)
    } else if rules.built.contains(&entry.catalog_id) {
        Some(SkipReason::Built)
    } else {
        None
    }
}

/// As pg_restore does when it restores everything, privileges come last: an owner may have taken the right to write
/// from himself, and nobody should find a half-filled table.
fn is_about_privileges(entry: &Entry) -> bool {
    let desc = entry.desc.lossy();
    matches!(&*desc, "ACL" | "ACL LANGUAGE" | "DEFAULT ACL")
}

/// The publication itself, its members (`name table`) and what is said about it.
fn is_of_publication(entry: &Entry, name: &str) -> bool {
    let (desc, tag) = (entry.desc.lossy(), entry.tag.lossy());
    match &*desc {
        "PUBLICATION" => tag == name,
        "COMMENT" => tag
            .strip_prefix("PUBLICATION ")
            .is_some_and(|tag| tag.trim_matches('"') == name),
        "PUBLICATION TABLE" | "PUBLICATION TABLES IN SCHEMA" => tag
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' ')),
        _ => false,
    }
}

fn is_of_own_schema(entry: &Entry) -> bool {
    let is_schema = entry.desc == "SCHEMA" && entry.tag == OWN_SCHEMA;
    let is_about_schema = about(entry, "SCHEMA ").is_some_and(|name| name == OWN_SCHEMA.as_bytes());
    entry.namespace == OWN_SCHEMA || is_schema || is_about_schema
}

/// Privileges on what an extension has made: pg_dump writes those that the user changed, and not the object. Schema
/// "public" and what is the server's own are not written either.
fn is_about_member(entry: &Entry, has_object: bool) -> bool {
    let is_servers = entry.namespace == "pg_catalog" || entry.namespace == "information_schema";
    entry.desc == "ACL" && !has_object && !is_servers && about(entry, "SCHEMA ").is_none()
}

/// One of these schemas, its comment or its privileges; their tags quote a name that needs it.
fn is_about_one_of(entry: &Entry, schemas: &HashSet<String>) -> bool {
    if entry.desc == "SCHEMA" {
        return schemas.contains(&*entry.tag.lossy());
    }
    let Some(tag) = about(entry, "SCHEMA ") else {
        return false;
    };
    let tag = String::from_utf8_lossy(tag);
    let quoted = tag
        .strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .map(|tag| tag.replace("\"\"", "\""));
    schemas.contains(quoted.as_deref().unwrap_or(&tag))
}

/// pg_dump leaves most of them out when told so; archives of other makers may hold them.
fn is_of_large_object(entry: &Entry) -> bool {
    let desc = entry.desc.lossy();
    matches!(&*desc, "BLOB" | "BLOBS" | "BLOB METADATA" | "BLOB COMMENTS")
        || about(entry, "LARGE OBJECT").is_some()
}

/// The rest of the tag of a comment, privileges or label, when it starts with this kind: `SCHEMA public`.
fn about<'a>(entry: &'a Entry, kind: &str) -> Option<&'a [u8]> {
    let desc = entry.desc.lossy();
    if !matches!(&*desc, "COMMENT" | "ACL" | "SECURITY LABEL") {
        return None;
    }
    entry.tag.as_bytes().strip_prefix(kind.as_bytes())
}

/// The statements of an INDEX or CONSTRAINT entry behind the one that builds it: CLUSTER ON, REPLICA IDENTITY USING
/// INDEX, column statistics. They must still be executed when the entry is skipped because it was built by us.
pub fn riders(entry: &Entry, standard_strings: bool) -> Vec<&[u8]> {
    let sql = entry.defn.as_bytes();
    let tokens = tokenize(sql, standard_strings);
    statements(&tokens)
        .into_iter()
        .skip(1)
        .filter_map(|statement| Some(&sql[statement.first()?.start..statement.last()?.end]))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    use super::{LeftAlone, SkipReason, SkipRules, riders, select};
    use crate::dump::archive::tests::{GOLDEN, golden};
    use crate::dump::archive::{Archive, CatalogId, Entry, Section, Text};

    fn rules(section: Section, built: &HashSet<CatalogId>) -> SkipRules<'_> {
        static NOTHING: LazyLock<LeftAlone> = LazyLock::new(LeftAlone::default);
        SkipRules {
            section,
            skip_extensions: false,
            skip_ext_comments: false,
            left_alone: &NOTHING,
            built,
            omitted: NONE.get_or_init(HashSet::new),
            publication: None,
            skip_collations: false,
        }
    }

    static NONE: std::sync::OnceLock<HashSet<i32>> = std::sync::OnceLock::new();

    fn reason(archive: &Archive, rules: &SkipRules<'_>, dump_id: i32) -> Option<SkipReason> {
        let choices = select(archive, rules);
        let choice = choices.iter().find(|c| c.entry.dump_id == dump_id);
        choice.expect("one choice per entry").skipped
    }

    #[test]
    fn each_entry_is_in_one_section() {
        let built = HashSet::new();
        for (name, bytes) in &GOLDEN[..6] {
            let archive = Archive::read(bytes).unwrap();
            let pre = select(&archive, &rules(Section::PreData, &built));
            let post = select(&archive, &rules(Section::PostData, &built));
            for (pre, post) in pre.iter().zip(&post) {
                let kept = [pre, post].map(|choice| choice.skipped.is_none());
                assert_ne!(kept[0], kept[1], "{name}: {}", pre.entry.describe());
                let is_post = matches!(
                    &*pre.entry.desc.lossy(),
                    "INDEX" | "CONSTRAINT" | "TRIGGER" | "PUBLICATION" | "INDEX ATTACH" | "ACL"
                );
                let is_pre = matches!(
                    &*pre.entry.desc.lossy(),
                    "TABLE" | "VIEW" | "SCHEMA" | "ENCODING" | "COMMENT" | "FUNCTION"
                );
                assert!(!is_post || kept[1], "{name}: {}", pre.entry.describe());
                assert!(!is_pre || kept[0], "{name}: {}", pre.entry.describe());
            }
        }
    }

    /// Traps 36, 38: an index and a constraint with the same OID are two objects.
    #[test]
    fn what_is_built_is_found_by_catalog_and_oid() {
        let archive = golden("17");
        let pkey = archive.entries.iter().find(|e| e.desc == "CONSTRAINT");
        let pkey = pkey.expect("a constraint");
        let oid = pkey.catalog_id.oid;
        let index = HashSet::from([CatalogId::relation(oid)]);
        let post = rules(Section::PostData, &index);
        assert_eq!(reason(&archive, &post, pkey.dump_id), None);
        let constraint = HashSet::from([CatalogId::constraint(oid)]);
        let post = rules(Section::PostData, &constraint);
        assert_eq!(
            reason(&archive, &post, pkey.dump_id),
            Some(SkipReason::Built)
        );
        let skipped = select(&archive, &post);
        let built = skipped
            .iter()
            .filter(|c| c.skipped == Some(SkipReason::Built));
        assert_eq!(built.count(), 1);
    }

    fn added(
        archive: &mut Archive,
        desc: &str,
        tag: &str,
        deps: Vec<i32>,
        section: Section,
    ) -> i32 {
        let dump_id = 100_000 + i32::try_from(archive.entries.len()).unwrap();
        let entry = Entry {
            dump_id,
            desc: Text::from(desc),
            tag: Text::from(tag),
            namespace: Text::from(""),
            catalog_id: CatalogId {
                tableoid: 0,
                oid: 0,
            },
            section,
            deps: deps.into(),
            ..archive.entries[0].clone()
        };
        archive.entries.push(entry);
        dump_id
    }

    #[test]
    fn extensions_and_their_comments() {
        let mut archive = golden("17");
        let pre = Section::PreData;
        let extension = added(&mut archive, "EXTENSION", "hstore", vec![], pre);
        let comment = added(
            &mut archive,
            "COMMENT",
            "EXTENSION hstore",
            vec![extension],
            Section::None,
        );
        let built = HashSet::new();
        let mut rules = rules(pre, &built);
        assert_eq!(reason(&archive, &rules, comment), None);
        rules.skip_ext_comments = true;
        assert_eq!(
            reason(&archive, &rules, extension),
            Some(SkipReason::ExtensionIsCreated)
        );
        assert_eq!(
            reason(&archive, &rules, comment),
            Some(SkipReason::ExtensionComment)
        );
        rules.skip_ext_comments = false;
        rules.skip_extensions = true;
        // Privileges on what an extension has made: the object is not in the archive.
        let wrapper = "FOREIGN DATA WRAPPER postgres_fdw";
        let member = added(&mut archive, "ACL", wrapper, vec![77_777], Section::None);
        let public = added(&mut archive, "ACL", "SCHEMA public", vec![], Section::None);
        rules.section = Section::PostData;
        assert_eq!(reason(&archive, &rules, public), None);
        let skipped = Some(SkipReason::Extension);
        assert_eq!(reason(&archive, &rules, member), skipped);
        rules.skip_extensions = false;
        assert_eq!(reason(&archive, &rules, member), None);
        rules.skip_extensions = true;
        rules.section = pre;
        assert_eq!(
            reason(&archive, &rules, extension),
            Some(SkipReason::Extension)
        );
        assert_eq!(
            reason(&archive, &rules, comment),
            Some(SkipReason::ExtensionComment)
        );
    }

    #[test]
    fn what_belongs_to_others_is_left_alone() {
        let mut archive = golden("17");
        let pre = Section::PreData;
        let extension = added(&mut archive, "EXTENSION", "hstore", vec![], pre);
        let comment = added(
            &mut archive,
            "COMMENT",
            "EXTENSION hstore",
            vec![extension],
            Section::None,
        );
        let public = added(&mut archive, "SCHEMA", "public", vec![], pre);
        let built = HashSet::new();
        let left_alone = LeftAlone {
            extensions: HashSet::from(["hstore".to_owned()]),
            public_schema: true,
            schemas: HashSet::from(["E \"x".to_owned()]),
        };
        let schema = added(&mut archive, "SCHEMA", "E \"x", vec![], pre);
        let other = added(&mut archive, "SCHEMA", "E", vec![], pre);
        let acl = "SCHEMA \"E \"\"x\"";
        let acl = added(&mut archive, "ACL", acl, vec![schema], Section::None);
        let mut rules = rules(pre, &built);
        assert_eq!(reason(&archive, &rules, comment), None);
        assert_eq!(reason(&archive, &rules, public), None);
        rules.left_alone = &left_alone;
        assert_eq!(
            reason(&archive, &rules, extension),
            Some(SkipReason::ExtensionIsCreated)
        );
        assert_eq!(
            reason(&archive, &rules, comment),
            Some(SkipReason::ExtensionOfOthers)
        );
        let of_others = Some(SkipReason::SchemaOfOthers);
        assert_eq!(reason(&archive, &rules, schema), of_others);
        assert_eq!(reason(&archive, &rules, other), None);
        rules.section = Section::PostData;
        assert_eq!(reason(&archive, &rules, acl), of_others);
        rules.section = pre;
        assert_eq!(
            reason(&archive, &rules, public),
            Some(SkipReason::PublicSchema)
        );
    }

    #[test]
    fn collations_are_left_out_with_their_comments() {
        let mut archive = golden("17");
        let pre = Section::PreData;
        let collation = added(&mut archive, "COLLATION", "german", vec![], pre);
        let about_it = "COLLATION german";
        let comment = added(
            &mut archive,
            "COMMENT",
            about_it,
            vec![collation],
            Section::None,
        );
        let built = HashSet::new();
        let mut rules = rules(pre, &built);
        for skip_collations in [false, true] {
            rules.skip_collations = skip_collations;
            for dump_id in [collation, comment] {
                let expected = skip_collations.then_some(SkipReason::Collation);
                assert_eq!(reason(&archive, &rules, dump_id), expected);
            }
        }
    }

    #[test]
    fn our_schema_and_large_objects_are_never_restored() {
        let mut archive = golden("17");
        let pre = Section::PreData;
        let ours = [
            added(&mut archive, "SCHEMA", "pgcopydb", vec![], pre),
            added(
                &mut archive,
                "ACL",
                "SCHEMA pgcopydb",
                vec![],
                Section::None,
            ),
        ];
        let large = [
            added(&mut archive, "BLOB METADATA", "1..2", vec![], pre),
            added(
                &mut archive,
                "ACL",
                "LARGE OBJECTS 1..2",
                vec![],
                Section::None,
            ),
            added(&mut archive, "BLOB", "17", vec![], pre),
        ];
        let other = added(&mut archive, "TABLE", "pgcopydb", vec![], pre);
        let built = HashSet::new();
        let both = [rules(pre, &built), rules(Section::PostData, &built)];
        let never = |dump_id: i32, why: SkipReason| {
            let reasons = both
                .each_ref()
                .map(|rules| reason(&archive, rules, dump_id));
            assert!(reasons.contains(&Some(why)) && !reasons.contains(&None));
        };
        for dump_id in ours {
            never(dump_id, SkipReason::OwnSchema);
        }
        for dump_id in large {
            never(dump_id, SkipReason::LargeObject);
        }
        assert_eq!(reason(&archive, &both[0], other), None);
    }

    #[test]
    fn statements_that_ride_with_an_index() {
        let texts = |archive: &Archive, tag: &str| -> Vec<String> {
            let is_it = |e: &&Entry| e.tag == tag && e.section == Section::PostData;
            let entry = archive.entries.iter().find(is_it).unwrap();
            riders(entry, true)
                .into_iter()
                .map(|sql| String::from_utf8(sql.to_vec()).unwrap())
                .collect()
        };
        for (_, bytes) in &GOLDEN[..6] {
            let archive = Archive::read(bytes).unwrap();
            assert_eq!(
                texts(&archive, "film_expr"),
                [
                    "ALTER TABLE public.film CLUSTER ON film_expr;",
                    "ALTER INDEX public.film_expr ALTER COLUMN 1 SET STATISTICS 300;"
                ]
            );
            assert_eq!(
                texts(&archive, "film film_pkey"),
                ["ALTER TABLE ONLY public.film REPLICA IDENTITY USING INDEX film_pkey;"]
            );
            assert_eq!(texts(&archive, "film_gin"), [""; 0]);
        }
    }
}
