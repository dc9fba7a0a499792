//! Whether our roles may do what a copy does: read everything on the source, make everything on the target, and give it to
//! its owners there. Pure. What a role without a superuser's rights cannot do is a failure where the copy would lack
//! rows or owners, a warning where single objects will be refused and named.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::finding::{Finding, Group};
use super::server::Server;
use super::source_objects::{Closed, FOREIGN_GRANT, Obstacle, SourceObjects, SuperuserOnly};
use super::spec::Scope;
use super::target_objects::TargetObjects;
use crate::catalog::{Catalog, RoleInUse};
use crate::error::Side;
use crate::ident::{Oid, quote_ident, shorten};

const GROUP: Group = Group::Rights;

/// Reading.
pub fn on_source(
    source: &Server,
    objects: &SourceObjects,
    catalog: &Catalog,
    scope: Scope,
) -> Vec<Finding> {
    let copied: HashSet<Oid> = catalog
        .tables
        .iter()
        .map(|table| table.oid)
        .chain(catalog.sequences.iter().map(|sequence| sequence.oid))
        .collect();
    let closed = |wanted: fn(&Closed) -> bool| -> Vec<&Closed> {
        let is_copied = |closed: &&Closed| copied.contains(&closed.oid) && wanted(closed);
        objects.closed.iter().filter(is_copied).collect()
    };
    let no_right = closed(|closed| closed.obstacle == Obstacle::NoRight);
    let row_security = closed(|closed| closed.obstacle != Obstacle::NoRight);
    let mut findings = vec![
        readable(source, &no_right),
        row_security_of(source, &row_security),
    ];
    if !scope.skip_large_objects {
        findings.push(large_objects(source, objects.closed_large_objects));
    }
    findings.extend(hidden(source, objects));
    findings
}

fn names(closed: &[&Closed]) -> Vec<String> {
    closed
        .iter()
        .map(|closed| closed.name.to_string())
        .collect()
}

fn readable(source: &Server, closed: &[&Closed]) -> Finding {
    let (id, side) = ("read-right", Side::Source);
    let user = quote_ident(&source.user);
    if closed.is_empty() {
        let reason = format!("role {user} may read all tables and sequences of the source");
        return Finding::pass(GROUP, id, side, reason);
    }
    let schemas: BTreeSet<&str> = closed
        .iter()
        .map(|closed| closed.name.schema.as_str())
        .collect();
    let grants: Vec<String> = schemas
        .iter()
        .map(|schema| {
            let schema = quote_ident(schema);
            format!(
                "GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {user}; \
                 GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {user};"
            )
        })
        .collect();
    Finding::fail(
        GROUP,
        id,
        side,
        format!("role {user} may not read tables or sequences of the source"),
    )
    .with_objects(names(closed))
    .with_fix(format!("Run on the source: {}", grants.join(" ")))
}

/// With row_security off the server refuses to read such a table, and that is better than half of its rows.
fn row_security_of(source: &Server, closed: &[&Closed]) -> Finding {
    let (id, side) = ("row-security", Side::Source);
    let user = quote_ident(&source.user);
    if closed.is_empty() {
        let reason = format!("no row security hides rows from role {user}");
        return Finding::pass(GROUP, id, side, reason);
    }
    let is_owner = |closed: &&Closed| closed.obstacle == Obstacle::RowSecurity { is_owner: true };
    let fix = match closed.iter().all(is_owner) {
        true => closed
            .iter()
            .map(|closed| format!("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY;", closed.name))
            .collect::<Vec<_>>()
            .join(" "),
        false => format!("ALTER ROLE {user} BYPASSRLS"),
    };
    Finding::fail(
        GROUP,
        id,
        side,
        format!("row security would hide rows of the source from role {user}"),
    )
    .with_objects(names(closed))
    .with_fix(format!("Run on the source: {fix}"))
}

fn large_objects(source: &Server, closed: u64) -> Finding {
    let (id, side) = ("large-object-right", Side::Source);
    let user = quote_ident(&source.user);
    match closed {
        0 => Finding::pass(
            GROUP,
            id,
            side,
            format!("role {user} may read all large objects of the source"),
        ),
        count => Finding::fail(
            GROUP,
            id,
            side,
            format!("role {user} may not read {count} large objects of the source"),
        )
        .with_fix(format!(
            "As their owner on the source: GRANT SELECT ON LARGE OBJECT .. TO {user}; or use --skip-large-objects."
        )),
    }
}

/// What pg_dump leaves out for a role that may not see it.
fn hidden(source: &Server, objects: &SourceObjects) -> Vec<Finding> {
    let user = quote_ident(&source.user);
    let mut findings = Vec::new();
    if objects.closed_user_mappings > 0 {
        findings.push(
            Finding::warn(
                GROUP,
                "user-mappings",
                Side::Source,
                format!(
                    "role {user} may not see the options of {} user mappings: they will be copied without any",
                    objects.closed_user_mappings
                ),
            )
            .with_fix("ALTER USER MAPPING .. OPTIONS (..) on the target after the copy"),
        );
    }
    if objects.subscriptions > 0 {
        findings.push(
            Finding::warn(
                GROUP,
                "subscriptions",
                Side::Source,
                format!(
                    "only a superuser may read subscriptions: {} will not be copied",
                    objects.subscriptions
                ),
            )
            .with_fix("Connect to the source as a superuser, or CREATE SUBSCRIPTION on the target after the copy."),
        );
    }
    findings
}

/// Writing, as far as the target alone tells.
pub fn on_target(target: &Server) -> Vec<Finding> {
    let (user, database) = (&target.user, &target.database);
    if target.is_standby {
        return vec![
            Finding::fail(
                GROUP,
                "target-standby",
                Side::Target,
                "the target is a standby, which cannot be written to",
            )
            .with_fix("Use the primary as --target."),
        ];
    }
    vec![match target.can_create {
        true => Finding::pass(
            GROUP,
            "create-right",
            Side::Target,
            format!("role \"{user}\" may create objects in target database \"{database}\""),
        ),
        false => Finding::fail(
            GROUP,
            "create-right",
            Side::Target,
            format!(
                "role \"{user}\" has no right to create objects in target database \"{database}\""
            ),
        )
        .with_fix(format!(
            "Run on the target: GRANT CREATE ON DATABASE {} TO {}",
            quote_ident(database),
            quote_ident(user)
        )),
    }]
}

/// Making what the source has, as a role that may not do everything.
pub fn to_make(
    target: &Server,
    source: &SourceObjects,
    catalog: &Catalog,
    there: &TargetObjects,
    scope: Scope,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(schemas(target, catalog, there));
    if !scope.no_owner {
        findings.push(owners(target, source, catalog, there));
    }
    if !scope.no_tablespaces {
        findings.extend(tablespaces(target, catalog, there));
    }
    if !scope.skip_extensions {
        findings.push(extensions(target, catalog, there));
    }
    findings.extend(superuser_only(target, &source.superuser_only, scope));
    findings
}

/// Since 15 "public" is open to nobody but the owner of the database; others are the user's own.
fn schemas(target: &Server, catalog: &Catalog, there: &TargetObjects) -> Option<Finding> {
    let user = quote_ident(&target.user);
    let of_tables = catalog.tables.iter().map(|table| &*table.schema);
    let needed: BTreeSet<&str> = of_tables
        .chain(catalog.sequences.iter().map(|sequence| &*sequence.schema))
        .collect();
    let closed: Vec<String> = needed
        .into_iter()
        .filter(|schema| there.closed_schemas.contains(*schema))
        .map(str::to_owned)
        .collect();
    let grants: Vec<String> = closed
        .iter()
        .map(|schema| format!("GRANT CREATE ON SCHEMA {} TO {user};", quote_ident(schema)))
        .collect();
    (!closed.is_empty()).then(|| {
        Finding::fail(
            GROUP,
            "schema-right",
            Side::Target,
            format!("role {user} may not create anything in schemas that are there on the target"),
        )
        .with_objects(closed)
        .with_fix(format!("Run on the target: {}", grants.join(" ")))
    })
}

/// Those that do not exist on the target are another finding.
fn owners(
    target: &Server,
    source: &SourceObjects,
    catalog: &Catalog,
    there: &TargetObjects,
) -> Finding {
    let (id, side) = ("owners", Side::Target);
    let user = quote_ident(&target.user);
    let of_schemas = source
        .schemas
        .iter()
        .filter(|(schema, _)| !there.schemas_of_others.contains(schema))
        .map(|(_, owner)| owner);
    let owners: BTreeSet<&String> = source.owners.iter().chain(of_schemas).collect();
    let closed: Vec<String> = owners
        .into_iter()
        .filter(|owner| {
            let is_it = |role: &RoleInUse| *role.name == ***owner && role.owns;
            catalog.roles.iter().any(is_it)
        })
        .filter(|owner| there.found.roles.contains(owner.as_str()))
        .filter(|owner| !there.roles_to_give_to.contains(*owner))
        .cloned()
        .collect();
    if closed.is_empty() {
        let reason = format!("role {user} may give objects to their owners on the target");
        return Finding::pass(GROUP, id, side, reason);
    }
    let grants: Vec<String> = closed
        .iter()
        .map(|owner| format!("GRANT {} TO {user};", quote_ident(owner)))
        .collect();
    Finding::fail(
        GROUP,
        id,
        side,
        format!("role {user} may not give objects to owners on the target that it is no member of"),
    )
    .with_objects(closed)
    .with_fix(format!(
        "Run on the target: {} or use --no-owner.",
        grants.join(" ")
    ))
}

fn tablespaces(target: &Server, catalog: &Catalog, there: &TargetObjects) -> Option<Finding> {
    let user = quote_ident(&target.user);
    let closed: Vec<String> = catalog
        .tablespaces
        .iter()
        .filter(|name| there.found.tablespaces.contains(*name))
        .filter(|name| !there.tablespaces_to_use.contains(&***name))
        .map(ToString::to_string)
        .collect();
    let grants: Vec<String> = closed
        .iter()
        .map(|name| {
            format!(
                "GRANT CREATE ON TABLESPACE {} TO {user};",
                quote_ident(name)
            )
        })
        .collect();
    (!closed.is_empty()).then(|| {
        Finding::fail(
            GROUP,
            "tablespace-right",
            Side::Target,
            format!("role {user} may not use tablespaces of the target"),
        )
        .with_objects(closed)
        .with_fix(format!(
            "Run on the target: {} or use --no-tablespaces.",
            grants.join(" ")
        ))
    })
}

/// Providers let members of their roles create what they offer, whatever its control file says.
fn extensions(target: &Server, catalog: &Catalog, there: &TargetObjects) -> Finding {
    let (id, side) = ("extension-right", Side::Target);
    let user = quote_ident(&target.user);
    let closed: Vec<&crate::catalog::Extension> = catalog
        .extensions
        .iter()
        .filter(|extension| {
            let offer = there.offer(&extension.name);
            offer.is_some_and(|offer| offer.needs_superuser && !offer.is_installed)
        })
        .collect();
    if closed.is_empty() || target.is_unlimited() {
        let reason = format!("role {user} may create the extensions that the target lacks");
        return Finding::pass(GROUP, id, side, reason);
    }
    let statements: Vec<String> = closed
        .iter()
        .map(|extension| {
            format!(
                "CREATE EXTENSION {} SCHEMA {};",
                quote_ident(&extension.name),
                quote_ident(&extension.schema)
            )
        })
        .collect();
    // pgextwlist, supautils and what providers have of their own let other roles create some.
    let finding = match there.foreign_modules.as_slice() {
        [] => Finding::fail(
            GROUP,
            id,
            side,
            "only a superuser of the target may create extensions of the source",
        ),
        modules => Finding::warn(
            GROUP,
            id,
            side,
            format!(
                "extensions of the source are a superuser's to create on the target, unless one of its modules lets role {user}: {}",
                shorten(modules)
            ),
        ),
    };
    finding
        .with_objects(
            closed
                .iter()
                .map(|extension| extension.name.to_string())
                .collect(),
        )
        .with_fix(format!(
            "As a superuser in the target database: {} or use --skip-extensions.",
            statements.join(" ")
        ))
}

/// The copy names each of them as failed at its end; everything else will be there.
fn superuser_only(target: &Server, objects: &[SuperuserOnly], scope: Scope) -> Option<Finding> {
    let mut by_kind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for object in objects {
        if !(scope.no_acl && object.kind == FOREIGN_GRANT) {
            by_kind.entry(&object.kind).or_default().push(&object.name);
        }
    }
    if by_kind.is_empty() || target.is_unlimited() {
        return None;
    }
    let names = by_kind.iter().flat_map(|(kind, names)| {
        names
            .iter()
            .map(move |name| format!("{kind} {}", quote_ident(name)))
    });
    Some(
        Finding::warn(
            GROUP,
            "superuser-objects",
            Side::Target,
            "only a superuser may make objects that the source has: a clone will report each as failed and end with \
             exit code 4",
        )
        .with_objects(names.collect())
        .with_fix("Connect to the target as a superuser, or make these objects there as one after the clone."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::objects::tests::{catalog, table};
    use crate::check::finding::Verdict;
    use crate::check::server::tests::server;
    use crate::check::target_objects::Offer;
    use crate::ident::QualifiedName;

    fn closed(name: &str, obstacle: Obstacle) -> Closed {
        Closed {
            oid: 16_384,
            name: QualifiedName::new("s 1", name),
            obstacle,
        }
    }

    fn bad(findings: &[Finding]) -> Vec<&Finding> {
        let is_bad = |finding: &&Finding| finding.verdict != Verdict::Pass;
        findings.iter().filter(is_bad).collect()
    }

    #[test]
    fn what_cannot_be_read_is_a_failure_with_its_grants() {
        let source = server(Side::Source);
        let tables = catalog(vec![table("s 1", "t", &["a"])], Vec::new());
        let mut objects = SourceObjects {
            closed: vec![closed("t", Obstacle::NoRight)],
            closed_large_objects: 2,
            ..SourceObjects::default()
        };
        let findings = on_source(&source, &objects, &tables, Scope::default());
        let found = bad(&findings);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].objects, ["\"s 1\".\"t\""]);
        assert!(
            found[0]
                .fix
                .as_deref()
                .unwrap()
                .contains("GRANT SELECT ON ALL TABLES IN SCHEMA \"s 1\" TO \"owner\"")
        );
        assert_eq!(found[1].id, "large-object-right");
        let scope = Scope {
            skip_large_objects: true,
            ..Scope::default()
        };
        // What is not copied need not be read.
        objects.closed[0].oid = 1;
        assert!(bad(&on_source(&source, &objects, &tables, scope)).is_empty());
    }

    #[test]
    fn row_security_is_lifted_by_the_owner_or_for_the_role() {
        let source = server(Side::Source);
        let mine = closed("t", Obstacle::RowSecurity { is_owner: true });
        let finding = row_security_of(&source, &[&mine]);
        assert!(
            finding
                .fix
                .unwrap()
                .ends_with("\"t\" NO FORCE ROW LEVEL SECURITY;")
        );
        let other = closed("u", Obstacle::RowSecurity { is_owner: false });
        let finding = row_security_of(&source, &[&mine, &other]);
        assert!(
            finding
                .fix
                .unwrap()
                .ends_with("ALTER ROLE \"owner\" BYPASSRLS")
        );
    }

    #[test]
    fn a_role_without_all_rights_is_told_what_it_cannot_make() {
        let mut target = server(Side::Target);
        let mut source_has = catalog(Vec::new(), Vec::new());
        source_has.roles = ["app", "owner", "dba", "boss"].map(RoleInUse::owner).into();
        source_has.tablespaces = vec!["fast".into()];
        source_has.extensions = vec![crate::catalog::Extension {
            oid: 1,
            name: "postgis".into(),
            schema: "public".into(),
            version: "3".into(),
            ..crate::catalog::Extension::default()
        }];
        let objects = SourceObjects {
            owners: vec!["app".to_owned(), "owner".to_owned(), "nobody".to_owned()],
            // A schema that somebody else has made on the target stays as it is.
            schemas: [("there", "dba"), ("new", "boss")]
                .map(|(schema, owner)| (schema.to_owned(), owner.to_owned()))
                .into(),
            superuser_only: vec![SuperuserOnly {
                kind: "event trigger".to_owned(),
                name: "e".to_owned(),
            }],
            ..SourceObjects::default()
        };
        let mut there = TargetObjects::default();
        there.found.roles = ["app", "owner", "dba", "boss"].map(Into::into).into();
        there.schemas_of_others = ["there".to_owned()].into();
        there.found.tablespaces = ["fast"].map(Into::into).into();
        there.roles_to_give_to = ["owner".to_owned()].into();
        there.offers = vec![Offer {
            name: "postgis".to_owned(),
            needs_superuser: true,
            is_installed: false,
            is_ours: false,
        }];
        let decide = |target: &Server, there: &TargetObjects, scope| {
            let findings = to_make(target, &objects, &source_has, there, scope);
            bad(&findings)
                .iter()
                .map(|finding| (finding.id, finding.objects.join(",")))
                .collect::<Vec<_>>()
        };
        let all = decide(&target, &there, Scope::default());
        assert_eq!(
            all,
            [
                ("owners", "app,boss".to_owned()),
                ("tablespace-right", "fast".to_owned()),
                ("extension-right", "postgis".to_owned()),
                ("superuser-objects", "event trigger \"e\"".to_owned()),
            ]
        );
        let scope = Scope {
            no_owner: true,
            no_tablespaces: true,
            ..Scope::default()
        };
        target.may_be_provider_admin = true;
        assert!(decide(&target, &there, scope).is_empty());
        target.may_be_provider_admin = false;
        let verdicts = |there: &TargetObjects| {
            let findings = to_make(&target, &objects, &source_has, there, scope);
            let of = findings
                .iter()
                .find(|finding| finding.id == "extension-right");
            of.map(|finding| finding.verdict)
        };
        assert_eq!(verdicts(&there), Some(Verdict::Fail));
        // Whoever it is may have been let in by something that we do not know.
        there.foreign_modules = vec!["supautils".to_owned()];
        assert_eq!(verdicts(&there), Some(Verdict::Warn));
        there.offers[0].is_installed = true;
        assert_eq!(decide(&target, &there, scope).len(), 1);
    }
}
