//! The schemas that extensions were put into: `copy extensions` makes those that the target lacks, with owner, privileges
//! and comment, so that a later clone by another role finds them ready.

use std::collections::HashMap;

use crate::error::{Context, Result};
use crate::ident::{quote_ident, quote_literal, shorten};
use crate::pg::wire::Connection;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    name: String,
    owner: String,
    comment: Option<String>,
    grants: Vec<Grant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    privilege: String,
    /// `None` is PUBLIC.
    grantee: Option<String>,
    is_grantable: bool,
}

/// By name.
pub fn fetch(source: &mut Connection) -> Result<HashMap<String, Schema>> {
    let mut schemas: HashMap<String, Schema> = HashMap::new();
    // The owner's own privileges come with the schema.
    source
        .query_each(
            "SELECT n.nspname, pg_get_userbyid(n.nspowner), obj_description(n.oid, 'pg_namespace'), \
                 g.privilege_type, g.is_grantable, r.rolname \
             FROM pg_namespace n \
                 LEFT JOIN LATERAL aclexplode(n.nspacl) WITH ORDINALITY \
                     AS g(grantor, grantee, privilege_type, is_grantable, position) ON g.grantee <> n.nspowner \
                 LEFT JOIN pg_roles r ON r.oid = g.grantee \
             WHERE n.oid IN (SELECT extnamespace FROM pg_extension) \
                 AND (g.privilege_type IS NULL OR g.grantee = 0 OR r.rolname IS NOT NULL) \
             ORDER BY n.nspname, g.position",
            &mut |row| {
                let name = row.text(0)?.to_string();
                let schema = schemas.entry(name.clone()).or_default();
                schema.name = name;
                schema.owner = row.text(1)?.to_string();
                schema.comment = row.opt_text(2)?.map(str::to_string);
                if let Some(privilege) = row.opt_text(3)? {
                    schema.grants.push(Grant {
                        privilege: privilege.to_string(),
                        grantee: row.opt_text(5)?.map(str::to_string),
                        is_grantable: row.bool(4)?,
                    });
                }
                Ok(())
            },
        )
        .context("could not read the schemas of the source's extensions")?;
    Ok(schemas)
}

/// Make it, unless the target has it. An owner that the target does not know, or that we may not give things to, leaves it
/// with us.
pub fn create(schema: &Schema, target: &mut Connection) -> Result<()> {
    let name = quote_literal(&schema.name);
    let there = format!("SELECT FROM pg_catalog.pg_namespace WHERE nspname = {name}");
    if !target.query(&there)?.is_empty() {
        return Ok(());
    }
    let owner = quote_literal(&schema.owner);
    let may_give = format!(
        "SELECT FROM pg_catalog.pg_roles WHERE rolname = {owner} \
         AND pg_catalog.pg_has_role(current_user, oid, 'MEMBER')"
    );
    let has_owner = !target.query(&may_give)?.is_empty();
    let mut known = Vec::new();
    target.query_each("SELECT rolname FROM pg_catalog.pg_roles", &mut |row| {
        known.push(row.text(0)?.to_string());
        Ok(())
    })?;
    let (statements, unknown) = statements(schema, has_owner, &known);
    for statement in statements {
        target
            .execute(&statement)
            .with_context(|| format!("could not create schema {}", quote_ident(&schema.name)))?;
    }
    if !unknown.is_empty() {
        log::warn!(
            "privileges on schema {} are left out, as the target lacks the role: {}",
            quote_ident(&schema.name),
            shorten(&unknown)
        );
    }
    Ok(())
}

/// What to run, and which roles are not there to be granted anything.
fn statements(schema: &Schema, has_owner: bool, known: &[String]) -> (Vec<String>, Vec<String>) {
    let name = quote_ident(&schema.name);
    let owner = match has_owner {
        true => format!(" AUTHORIZATION {}", quote_ident(&schema.owner)),
        false => String::new(),
    };
    let mut statements = vec![format!("CREATE SCHEMA {name}{owner}")];
    let mut unknown = Vec::new();
    for grant in &schema.grants {
        let grantee = match &grant.grantee {
            None => "PUBLIC".to_string(),
            Some(role) if known.contains(role) => quote_ident(role),
            Some(role) => {
                unknown.push(role.clone());
                continue;
            }
        };
        let option = match grant.is_grantable {
            true => " WITH GRANT OPTION",
            false => "",
        };
        statements.push(format!(
            "GRANT {} ON SCHEMA {name} TO {grantee}{option}",
            grant.privilege
        ));
    }
    if let Some(comment) = &schema.comment {
        let comment = quote_literal(comment);
        statements.push(format!("COMMENT ON SCHEMA {name} IS {comment}"));
    }
    unknown.dedup();
    (statements, unknown)
}

#[cfg(test)]
mod tests {
    use super::{Grant, Schema, statements};

    #[test]
    fn makes_what_the_source_has() {
        let grant = |privilege: &str, grantee: Option<&str>, is_grantable| Grant {
            privilege: privilege.to_string(),
            grantee: grantee.map(str::to_string),
            is_grantable,
        };
        let schema = Schema {
            name: "E x".to_string(),
            owner: "app".to_string(),
            comment: Some("it's".to_string()),
            grants: vec![
                grant("USAGE", None, false),
                grant("CREATE", Some("dev"), true),
                grant("USAGE", Some("gone"), false),
            ],
        };
        let known = ["dev".to_string()];
        let (sql, unknown) = statements(&schema, true, &known);
        assert_eq!(
            sql,
            [
                r#"CREATE SCHEMA "E x" AUTHORIZATION "app""#,
                r#"GRANT USAGE ON SCHEMA "E x" TO PUBLIC"#,
                r#"GRANT CREATE ON SCHEMA "E x" TO "dev" WITH GRANT OPTION"#,
                r#"COMMENT ON SCHEMA "E x" IS 'it''s'"#,
            ]
        );
        assert_eq!(unknown, ["gone"]);
        assert_eq!(
            statements(&schema, false, &known).0[0],
            r#"CREATE SCHEMA "E x""#
        );
    }
}
