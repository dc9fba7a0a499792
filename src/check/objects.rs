//! Whether what the source has can be made on the target: what must be there before, and what must not. Pure.

use std::cmp::Ordering;

use super::finding::{Finding, Group};
use super::server::Server;
use super::source_objects::SourceObjects;
use super::spec::Scope;
use super::target_objects::TargetObjects;
use crate::catalog::{Catalog, Persistence, TableKind};
use crate::error::Side;

const GROUP: Group = Group::Objects;

pub fn decide(
    source: &Server,
    objects: &SourceObjects,
    catalog: &Catalog,
    there: &TargetObjects,
    scope: Scope,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !scope.copies_roles {
        findings.push(roles(catalog, there, scope));
    }
    if !scope.no_tablespaces {
        findings.push(tablespaces(catalog, there));
    }
    if !scope.skip_extensions {
        findings.push(extensions(catalog, there));
        findings.extend(extension_versions(catalog, there));
    }
    findings.push(emptiness(catalog, there, scope));
    findings.extend(event_triggers(objects, there, scope));
    findings.extend(unlogged(source, catalog));
    findings.extend(feedback(source));
    findings.extend(collations(objects));
    findings
}

/// A failure about names that are missing, or that they are all there.
fn missing(
    id: &'static str,
    names: Vec<String>,
    (all_there, reason, fix): (&str, &str, &str),
) -> Finding {
    match names.is_empty() {
        true => Finding::pass(GROUP, id, Side::Target, all_there),
        false => Finding::fail(GROUP, id, Side::Target, reason)
            .with_objects(names)
            .with_fix(fix),
    }
}

fn roles(catalog: &Catalog, there: &TargetObjects, scope: Scope) -> Finding {
    let names = catalog
        .roles
        .iter()
        .filter(|role| role.is_needed(scope.no_owner, scope.no_acl))
        .map(|role| &role.name)
        .filter(|name| !there.found.roles.contains(*name));
    missing(
        "roles",
        names.map(ToString::to_string).collect(),
        (
            "all roles that the source's objects name exist on the target",
            "roles that own objects of the source, or were granted rights on them, do not exist on the target",
            "Create them on the target, have --roles copy them, or use --no-owner and --no-acl.",
        ),
    )
}

fn tablespaces(catalog: &Catalog, there: &TargetObjects) -> Finding {
    let names = catalog
        .tablespaces
        .iter()
        .filter(|name| !there.found.tablespaces.contains(*name));
    missing(
        "tablespaces",
        names.map(ToString::to_string).collect(),
        (
            "all tablespaces of the source exist on the target",
            "tablespaces of the source do not exist on the target",
            "Create them on the target, or use --no-tablespaces.",
        ),
    )
}

fn extensions(catalog: &Catalog, there: &TargetObjects) -> Finding {
    let names = catalog
        .extensions
        .iter()
        .filter(|extension| there.found.extension(&extension.name).is_none());
    missing(
        "extensions",
        names.map(|extension| extension.name.to_string()).collect(),
        (
            "all extensions of the source are available on the target",
            "extensions of the source are not available on the target",
            "Install their packages on the target server, or use --skip-extensions.",
        ),
    )
}

/// CREATE EXTENSION makes the target's default version. An older one may lack functions that the source's views call.
fn extension_versions(catalog: &Catalog, there: &TargetObjects) -> Option<Finding> {
    let mut older = Vec::new();
    let mut updates = Vec::new();
    for extension in &catalog.extensions {
        let Some(offer) = there.found.extension(&extension.name) else {
            continue;
        };
        let version = offer
            .installed_version
            .as_ref()
            .or(offer.default_version.as_ref());
        let Some(version) = version else { continue };
        if compare_versions(version, &extension.version) == Ordering::Less {
            older.push(format!(
                "{} {version}, not {}",
                extension.name, extension.version
            ));
            if offer.installed_version.is_some() {
                let name = crate::ident::quote_ident(&extension.name);
                updates.push(format!("ALTER EXTENSION {name} UPDATE;"));
            }
        }
    }
    (!older.is_empty()).then(|| {
        Finding::warn(
            GROUP,
            "extension-versions",
            Side::Target,
            "extensions of the target are older than the source's",
        )
        .with_objects(older)
        .with_fix(match updates.is_empty() {
            true => "Install their newer packages on the target server.".to_owned(),
            false => format!(
                "Install their newer packages on the target server, then {}",
                updates.join(" ")
            ),
        })
    })
}

/// By numbers where both have numbers: 1.10 is newer than 1.9. What else stands in a version is compared as text.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let split = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
        parts.map(str::to_owned).collect()
    };
    let (a, b) = (split(a), split(b));
    for (a, b) in a.iter().zip(&b) {
        let order = match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// Without --drop-if-exists, what is there already is somebody else's, rows or not. Large objects have no schema to keep
/// them apart: one that is there would be replaced by the source's of its id.
fn emptiness(catalog: &Catalog, there: &TargetObjects, scope: Scope) -> Finding {
    let id = "target-empty";
    if scope.drop_if_exists {
        return Finding::pass(
            GROUP,
            id,
            Side::Target,
            "what is on the target under the source's names will be replaced (--drop-if-exists)",
        );
    }
    let tables: Vec<String> = catalog
        .tables
        .iter()
        .filter(|table| table.extension_config.is_none())
        .filter(|table| there.found.table(&table.schema, &table.name).is_some())
        .map(|table| table.qualified_name().to_string())
        .collect();
    let copies_large_objects = !scope.skip_large_objects && catalog.large_objects.count > 0;
    let (names, reason, fix) = if !there.filled_config_tables.is_empty() {
        (
            there.filled_config_tables.clone(),
            "target not empty: configuration tables of extensions hold rows already",
            "Empty them, or use --drop-if-exists to replace the rows.",
        )
    } else if !tables.is_empty() {
        (
            tables,
            "target not empty: tables of the source exist there already",
            "Use an empty target database, or --drop-if-exists to replace them.",
        )
    } else if copies_large_objects && !there.large_objects.is_empty() {
        (
            there.large_objects.clone(),
            "target not empty: large objects exist there already",
            "Use an empty target database, --skip-large-objects, or --drop-if-exists to replace them.",
        )
    } else {
        (Vec::new(), "", "")
    };
    missing(
        id,
        names,
        ("the target has nothing of the source yet", reason, fix),
    )
}

/// Those of the target's own would see what the copy makes; with --drop-if-exists the source's are dropped first.
fn event_triggers(objects: &SourceObjects, there: &TargetObjects, scope: Scope) -> Option<Finding> {
    let names: Vec<String> = there
        .event_triggers
        .iter()
        .filter(|name| !(scope.drop_if_exists && objects.event_triggers.contains(name)))
        .cloned()
        .collect();
    let disable: Vec<String> = names
        .iter()
        .map(|name| {
            format!(
                "ALTER EVENT TRIGGER {} DISABLE;",
                crate::ident::quote_ident(name)
            )
        })
        .collect();
    (!names.is_empty()).then(|| {
        Finding::warn(
            GROUP,
            "event-triggers",
            Side::Target,
            "event triggers of the target will fire for what the copy makes",
        )
        .with_objects(names)
        .with_fix(format!(
            "Run on the target for the time of the copy: {}",
            disable.join(" ")
        ))
    })
}

/// The id of a finding that a clone tells by itself, when it reads the catalog.
pub const UNLOGGED: &str = "unlogged-tables";

/// The rows of unlogged tables are on the primary only.
fn unlogged(source: &Server, catalog: &Catalog) -> Option<Finding> {
    if !source.is_standby {
        return None;
    }
    let names: Vec<String> = catalog
        .tables
        .iter()
        .filter(|table| table.persistence == Persistence::Unlogged)
        .filter(|table| table.kind == TableKind::Ordinary)
        .map(|table| table.qualified_name().to_string())
        .collect();
    (!names.is_empty()).then(|| {
        Finding::warn(
            GROUP,
            UNLOGGED,
            Side::Source,
            "the source is a standby, where unlogged tables have no rows: they will be empty on the target",
        )
        .with_objects(names)
        .with_fix("Use the primary as --source, or copy them from there after the run.")
    })
}

/// Recovery that removes rows which the snapshot sees ends the sessions that hold it, after max_standby_streaming_delay.
fn feedback(source: &Server) -> Option<Finding> {
    source.lacks_feedback.then(|| {
        Finding::warn(
            GROUP,
            "standby-feedback",
            Side::Source,
            "the source is a standby with hot_standby_feedback off: a vacuum of its primary may end the copy",
        )
        .with_fix(
            "On the source: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf(); or raise \
             max_standby_streaming_delay above the time that the copy takes.",
        )
    })
}

fn collations(objects: &SourceObjects) -> Option<Finding> {
    let names = &objects.stale_collations;
    let refresh: Vec<String> = names
        .iter()
        .map(|name| format!("ALTER COLLATION {name} REFRESH VERSION;"))
        .collect();
    (!names.is_empty()).then(|| {
        Finding::warn(
            GROUP,
            "collations",
            Side::Source,
            "collations of the source have another version in its system than when they were made: its unique indexes \
             may have let doubles in, which the target would refuse",
        )
        .with_objects(names.clone())
        .with_fix(format!("Run on the source: REINDEX what uses them, then {}", refresh.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::RoleInUse;
    use crate::catalog::objects::tests::{catalog, table};
    use crate::catalog::target::TargetExtension;
    use crate::catalog::{Extension, LargeObjects};
    use crate::check::finding::Verdict;
    use crate::check::server::tests::server;

    fn bad(
        source: &Server,
        objects: &SourceObjects,
        catalog: &Catalog,
        there: &TargetObjects,
        scope: Scope,
    ) -> Vec<(&'static str, Verdict, String)> {
        decide(source, objects, catalog, there, scope)
            .into_iter()
            .filter(|finding| finding.verdict != Verdict::Pass)
            .map(|finding| (finding.id, finding.verdict, finding.objects.join(",")))
            .collect()
    }

    #[test]
    fn what_is_missing_on_the_target_is_named() {
        let source = server(Side::Source);
        let mut has = catalog(Vec::new(), Vec::new());
        has.roles = vec![RoleInUse::owner("app")];
        has.tablespaces = vec!["fast".into()];
        has.extensions = vec![Extension {
            oid: 1,
            name: "postgis".into(),
            schema: "public".into(),
            version: "3".into(),
            ..Extension::default()
        }];
        let objects = SourceObjects::default();
        let there = TargetObjects::default();
        let found = bad(&source, &objects, &has, &there, Scope::default());
        assert_eq!(
            found,
            [
                ("roles", Verdict::Fail, "app".to_owned()),
                ("tablespaces", Verdict::Fail, "fast".to_owned()),
                ("extensions", Verdict::Fail, "postgis".to_owned()),
            ]
        );
        let scope = Scope {
            no_owner: true,
            no_acl: true,
            no_tablespaces: true,
            skip_extensions: true,
            ..Scope::default()
        };
        assert!(bad(&source, &objects, &has, &there, scope).is_empty());
        // Each use of a role has an option that leaves it out, but for policies.
        let uses = |owns, is_granted, is_named| RoleInUse {
            owns,
            is_granted,
            is_named,
            ..RoleInUse::owner("app")
        };
        for (role, needed) in [
            (uses(true, false, false), [true, false, true, false]),
            (uses(false, true, false), [true, true, false, false]),
            (uses(true, true, false), [true, true, true, false]),
            (uses(false, false, true), [true, true, true, true]),
        ] {
            let left_out = [(false, false), (true, false), (false, true), (true, true)];
            let found = left_out.map(|(no_owner, no_acl)| role.is_needed(no_owner, no_acl));
            assert_eq!(found, needed, "{role:?}");
        }
    }

    #[test]
    fn older_extensions_are_a_warning() {
        let mut has = catalog(Vec::new(), Vec::new());
        has.extensions = [("a", "1.10"), ("b", "1.9"), ("c", "2")]
            .map(|(name, version)| Extension {
                oid: 1,
                name: name.into(),
                schema: "public".into(),
                version: version.into(),
                ..Extension::default()
            })
            .into();
        let mut there = TargetObjects::default();
        there.found.extensions = [("a", "1.9"), ("b", "1.10"), ("c", "2")]
            .map(|(name, version)| TargetExtension {
                name: name.into(),
                default_version: Some(version.into()),
                installed_version: None,
            })
            .into();
        let finding = extension_versions(&has, &there).unwrap();
        assert_eq!(finding.objects, ["a 1.9, not 1.10"]);
        there.found.extensions[0].installed_version = Some("1.8".into());
        let finding = extension_versions(&has, &there).unwrap();
        assert!(
            finding
                .fix
                .unwrap()
                .contains("ALTER EXTENSION \"a\" UPDATE;")
        );
        assert_eq!(compare_versions("1.0alpha", "1.0beta"), Ordering::Less);
        assert_eq!(compare_versions("1.0", "1.0.1"), Ordering::Less);
    }

    #[test]
    fn a_target_that_is_not_empty() {
        let mut has = catalog(Vec::new(), Vec::new());
        has.large_objects = LargeObjects { count: 1, bytes: 1 };
        let mut there = TargetObjects {
            large_objects: vec!["7".to_owned()],
            ..TargetObjects::default()
        };
        let reason = |has: &Catalog, there: &TargetObjects, scope| {
            let finding = emptiness(has, there, scope);
            (finding.verdict == Verdict::Fail).then_some(finding.reason)
        };
        let plain = Scope::default();
        assert!(
            reason(&has, &there, plain)
                .unwrap()
                .contains("large objects")
        );
        let skip = Scope {
            skip_large_objects: true,
            ..plain
        };
        assert_eq!(reason(&has, &there, skip), None);
        there.filled_config_tables = vec!["t".to_owned()];
        assert!(
            reason(&has, &there, skip)
                .unwrap()
                .contains("configuration")
        );
        let replaces = Scope {
            drop_if_exists: true,
            ..plain
        };
        assert_eq!(reason(&has, &there, replaces), None);
    }

    #[test]
    fn event_triggers_unlogged_tables_and_collations_are_warnings() {
        let mut source = server(Side::Source);
        let mut unlogged = table("s", "u", &["a"]);
        unlogged.persistence = Persistence::Unlogged;
        let has = catalog(vec![unlogged], Vec::new());
        let objects = SourceObjects {
            stale_collations: vec!["c".to_owned()],
            event_triggers: vec!["e".to_owned()],
            ..SourceObjects::default()
        };
        let there = TargetObjects {
            event_triggers: vec!["e".to_owned()],
            ..TargetObjects::default()
        };
        source.is_standby = true;
        let ids = |source: &Server, scope| -> Vec<&'static str> {
            let found = bad(source, &objects, &has, &there, scope);
            found.iter().map(|(id, ..)| *id).collect()
        };
        assert_eq!(
            ids(&source, Scope::default()),
            ["event-triggers", "unlogged-tables", "collations"]
        );
        source.is_standby = false;
        let replaces = Scope {
            drop_if_exists: true,
            ..Scope::default()
        };
        assert_eq!(ids(&source, replaces), ["collations"]);
    }
}
