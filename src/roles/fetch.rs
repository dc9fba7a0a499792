//! Read the roles of an instance from the source's catalogs, in three queries whatever their number. Runs in the parent.
//! Works for any role: what may not be read (passwords) is left out with a line about it.

use std::collections::HashMap;

use super::provider::{is_providers, is_reserved};
use crate::catalog::DatabaseSetting;
use crate::error::{Context, Result};
use crate::ident::shorten;
use crate::pg::conninfo::Password;
use crate::pg::wire::{Connection, Row};

/// A role. No Debug: it may hold a password.
pub struct Role {
    pub name: String,
    pub is_superuser: bool,
    pub inherits: bool,
    pub may_create_roles: bool,
    pub may_create_databases: bool,
    pub may_login: bool,
    pub may_replicate: bool,
    pub bypasses_row_security: bool,
    /// -1 is no limit.
    pub connection_limit: i32,
    /// In ISO, UTC; `infinity` is possible.
    pub valid_until: Option<String>,
    /// As stored: a hash.
    pub password: Option<Password>,
    pub comment: Option<String>,
    /// ALTER ROLE .. SET for all databases.
    pub settings: Vec<DatabaseSetting>,
    /// Security labels: provider and label.
    pub labels: Vec<(String, String)>,
}

/// Member `member` of role `role`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub role: String,
    pub member: String,
    pub has_admin: bool,
    /// INHERIT and SET, since 16; before, the member's own attribute decides.
    pub options: Option<MemberOptions>,
    /// Since 16, where it matters who may revoke what. `None`: the role that made the cluster.
    pub grantor: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberOptions {
    pub inherits: bool,
    pub may_set: bool,
}

/// GRANT SET or ALTER SYSTEM ON PARAMETER, since 15.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterRight {
    pub privilege: String,
    pub parameter: String,
    pub role: String,
    pub is_grantable: bool,
}

/// What is copied. Ordered by name.
pub struct Roles {
    pub roles: Vec<Role>,
    pub memberships: Vec<Membership>,
    pub rights: Vec<ParameterRight>,
    pub has_passwords: bool,
}

const SETTINGS: &str = "SELECT r.rolname, split_part(s.setting, '=', 1),
    substr(s.setting, strpos(s.setting, '=') + 1)
FROM pg_db_role_setting d
    CROSS JOIN LATERAL unnest(d.setconfig) WITH ORDINALITY AS s(setting, position)
    JOIN pg_roles r ON r.oid = d.setrole
WHERE d.setdatabase = 0
ORDER BY r.rolname, s.position";

const LABELS: &str = "SELECT r.rolname, s.provider, s.label
FROM pg_shseclabel s JOIN pg_roles r ON r.oid = s.objoid
WHERE s.classoid = 'pg_authid'::regclass
ORDER BY r.rolname, s.provider";

/// What everybody may do is the server's setting, and no role's.
const RIGHTS: &str = "SELECT a.privilege_type, p.parname, r.rolname, a.is_grantable
FROM pg_parameter_acl p CROSS JOIN LATERAL aclexplode(p.paracl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE r.oid <> 10
ORDER BY p.parname, r.rolname, a.privilege_type";

/// The role that made the cluster has OID 10, whatever its name.
fn roles_sql(with_passwords: bool) -> String {
    let password = match with_passwords {
        true => "(SELECT a.rolpassword FROM pg_authid a WHERE a.oid = r.oid)",
        false => "NULL",
    };
    format!(
        "SELECT r.rolname, r.oid = 10, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
    r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil, {password},
    shobj_description(r.oid, 'pg_authid')
FROM pg_roles r ORDER BY r.rolname"
    )
}

fn memberships_sql(version: u32) -> &'static str {
    if version >= 16_00_00 {
        "SELECT r.rolname, m.rolname, a.admin_option, a.inherit_option, a.set_option,
    CASE WHEN a.grantor <> 10 THEN g.rolname END, m.oid = 10
FROM pg_auth_members a
    JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
    LEFT JOIN pg_roles g ON g.oid = a.grantor
ORDER BY r.rolname, m.rolname, a.grantor"
    } else {
        "SELECT r.rolname, m.rolname, a.admin_option, NULL, NULL, NULL, m.oid = 10
FROM pg_auth_members a
    JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
ORDER BY r.rolname, m.rolname"
    }
}

/// Read them, on a connection with `search_path = pg_catalog`.
pub fn fetch(source: &mut Connection, no_passwords: bool) -> Result<Roles> {
    let has_passwords = !no_passwords && may_read_passwords(source)?;
    let mut roles = Vec::new();
    let mut left_out = Vec::new();
    let mut bootstrap = None;
    source
        .query_each(&roles_sql(has_passwords), &mut |row| {
            let name = row.text(0)?;
            if row.bool(1)? {
                bootstrap = Some(name.to_string());
            } else if is_providers(name) {
                left_out.push(name.to_string());
            } else if !is_reserved(name) {
                roles.push(read_role(row)?);
            }
            Ok(())
        })
        .context("could not list the roles of the source")?;
    if let Some(name) = &bootstrap {
        log::info!(
            "role \"{name}\" is left out: it is the one that the source's cluster was made with"
        );
    }
    if !left_out.is_empty() {
        log::info!(
            "roles that belong to a provider are left out: {}",
            shorten(&left_out)
        );
    }
    if !no_passwords && !has_passwords && roles.iter().any(|role| role.may_login) {
        log::warn!(
            "passwords are left out as with --no-role-passwords: role \"{}\" of the source may not read pg_authid",
            source.query_one("SELECT current_user")?.text(0)?
        );
    }
    read_settings_and_labels(source, &mut roles)?;
    Ok(Roles {
        memberships: read_memberships(source)?,
        rights: read_rights(source)?,
        roles,
        has_passwords,
    })
}

fn may_read_passwords(source: &mut Connection) -> Result<bool> {
    source
        .query_one("SELECT has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT') AND has_column_privilege('pg_catalog.pg_authid', 'oid', 'SELECT')")
        .context("could not find out whether passwords can be read")?
        .bool(0)
}

fn read_role(row: &Row) -> Result<Role> {
    let text = |column| Ok::<_, crate::error::Error>(row.opt_text(column)?.map(str::to_string));
    Ok(Role {
        name: row.text(0)?.to_string(),
        is_superuser: row.bool(2)?,
        inherits: row.bool(3)?,
        may_create_roles: row.bool(4)?,
        may_create_databases: row.bool(5)?,
        may_login: row.bool(6)?,
        may_replicate: row.bool(7)?,
        bypasses_row_security: row.bool(8)?,
        connection_limit: row.parse(9)?,
        valid_until: text(10)?,
        password: text(11)?.map(Password::new),
        comment: text(12)?,
        settings: Vec::new(),
        labels: Vec::new(),
    })
}

fn read_settings_and_labels(source: &mut Connection, roles: &mut [Role]) -> Result<()> {
    let mut settings = Vec::new();
    source
        .query_each(SETTINGS, &mut |row| {
            settings.push(DatabaseSetting {
                role: Some(row.text(0)?.into()),
                name: row.text(1)?.into(),
                value: row.text(2)?.into(),
            });
            Ok(())
        })
        .context("could not read the settings of the source's roles")?;
    let by_name: HashMap<String, usize> = roles
        .iter()
        .enumerate()
        .map(|(at, role)| (role.name.clone(), at))
        .collect();
    for setting in settings {
        let owner = setting.role.as_deref().and_then(|role| by_name.get(role));
        if let Some(at) = owner {
            roles[*at].settings.push(setting);
        }
    }
    source
        .query_each(LABELS, &mut |row| {
            if let Some(at) = by_name.get(row.text(0)?) {
                let label = (row.text(1)?.to_string(), row.text(2)?.to_string());
                roles[*at].labels.push(label);
            }
            Ok(())
        })
        .context("could not read the security labels of the source's roles")
}

/// Memberships in PostgreSQL's own and a provider's roles count: the target may have the same. Those of such roles in
/// others do not.
fn read_memberships(source: &mut Connection) -> Result<Vec<Membership>> {
    let mut memberships = Vec::new();
    source
        .query_each(memberships_sql(source.server_version()), &mut |row| {
            let member = row.text(1)?;
            if row.bool(6)? || is_reserved(member) || is_providers(member) {
                return Ok(());
            }
            let options = match row.opt_text(3)? {
                None => None,
                Some(_) => Some(MemberOptions {
                    inherits: row.bool(3)?,
                    may_set: row.bool(4)?,
                }),
            };
            memberships.push(Membership {
                role: row.text(0)?.to_string(),
                member: member.to_string(),
                has_admin: row.bool(2)?,
                options,
                grantor: row
                    .opt_text(5)?
                    .filter(|grantor| !is_reserved(grantor) && !is_providers(grantor))
                    .map(str::to_string),
            });
            Ok(())
        })
        .context("could not list the memberships of the source's roles")?;
    Ok(memberships)
}

fn read_rights(source: &mut Connection) -> Result<Vec<ParameterRight>> {
    let mut rights = Vec::new();
    if source.server_version() < 15_00_00 {
        return Ok(rights);
    }
    source
        .query_each(RIGHTS, &mut |row| {
            let role = row.text(2)?;
            if !is_reserved(role) && !is_providers(role) {
                rights.push(ParameterRight {
                    privilege: row.text(0)?.to_string(),
                    parameter: row.text(1)?.to_string(),
                    role: role.to_string(),
                    is_grantable: row.bool(3)?,
                });
            }
            Ok(())
        })
        .context("could not list the rights of the source's roles on parameters")?;
    Ok(rights)
}
