//! `schema/roles.sql`: roles as SQL that psql understands, too. Pure. What makes a role is one statement, so that a target
//! has all of its attributes or none, and it names only what differs from the default: a role that is no superuser may
//! not even say NOSUPERUSER.

use std::collections::HashSet;

use super::fetch::{Membership, ParameterRight, Role, Roles};
use crate::ident::{quote_ident, quote_literal};

pub fn write(roles: &Roles) -> String {
    let passwords = match roles.has_passwords {
        true => "Passwords are included.",
        false => "Passwords are left out.",
    };
    let mut text = format!(
        "-- Roles of the source, written by pgcopydb for \"pgcopydb restore roles\". {passwords}\n\n"
    );
    for role in &roles.roles {
        push(&mut text, &create_sql(role));
        for setting in &role.settings {
            push(&mut text, &setting.alter_role_sql());
        }
        if let Some(comment) = &role.comment {
            let name = quote_ident(&role.name);
            let comment = quote_literal(comment);
            push(&mut text, &format!("COMMENT ON ROLE {name} IS {comment}"));
        }
        for (provider, label) in &role.labels {
            let (provider, label) = (quote_ident(provider), quote_literal(label));
            let name = quote_ident(&role.name);
            let sql = format!("SECURITY LABEL FOR {provider} ON ROLE {name} IS {label}");
            push(&mut text, &sql);
        }
    }
    for membership in ordered(&roles.memberships) {
        push(&mut text, &grant_sql(membership));
    }
    for right in &roles.rights {
        push(&mut text, &right_sql(right));
    }
    text
}

fn push(text: &mut String, statement: &str) {
    text.push_str(statement);
    text.push_str(";\n");
}

fn create_sql(role: &Role) -> String {
    let mut options = String::new();
    for (is_set, option) in [
        (role.is_superuser, " SUPERUSER"),
        (!role.inherits, " NOINHERIT"),
        (role.may_create_roles, " CREATEROLE"),
        (role.may_create_databases, " CREATEDB"),
        (role.may_login, " LOGIN"),
        (role.may_replicate, " REPLICATION"),
        (role.bypasses_row_security, " BYPASSRLS"),
    ] {
        if is_set {
            options.push_str(option);
        }
    }
    if role.connection_limit >= 0 {
        options.push_str(&format!(" CONNECTION LIMIT {}", role.connection_limit));
    }
    if let Some(password) = &role.password {
        options.push_str(&format!(" PASSWORD {}", quote_literal(password.expose())));
    }
    if let Some(time) = &role.valid_until {
        options.push_str(&format!(" VALID UNTIL {}", quote_literal(time)));
    }
    let with = if options.is_empty() { "" } else { " WITH" };
    format!("CREATE ROLE {}{with}{options}", quote_ident(&role.name))
}

fn grant_sql(membership: &Membership) -> String {
    let word = |value: bool| if value { "TRUE" } else { "FALSE" };
    let options = match membership.options {
        Some(options) => format!(
            " WITH ADMIN {}, INHERIT {}, SET {}",
            word(membership.has_admin),
            word(options.inherits),
            word(options.may_set)
        ),
        None if membership.has_admin => " WITH ADMIN OPTION".to_string(),
        None => String::new(),
    };
    let grantor = match &membership.grantor {
        Some(grantor) => format!(" GRANTED BY {}", quote_ident(grantor)),
        None => String::new(),
    };
    format!(
        "GRANT {} TO {}{options}{grantor}",
        quote_ident(&membership.role),
        quote_ident(&membership.member)
    )
}

fn right_sql(right: &ParameterRight) -> String {
    // A name with a dot belongs to an extension and is two identifiers.
    let parameter: Vec<String> = right.parameter.split('.').map(quote_ident).collect();
    let option = match right.is_grantable {
        true => " WITH GRANT OPTION",
        false => "",
    };
    format!(
        "GRANT {} ON PARAMETER {} TO {}{option}",
        right.privilege,
        parameter.join("."),
        quote_ident(&right.role)
    )
}

/// Who grants must have been granted ADMIN before. What comes from nobody that we know stays behind, in its order.
fn ordered(memberships: &[Membership]) -> Vec<&Membership> {
    let mut left: Vec<&Membership> = memberships.iter().collect();
    let mut done = Vec::with_capacity(left.len());
    let mut admins: HashSet<(&str, &str)> = HashSet::new();
    loop {
        let may_grant = |membership: &&Membership| {
            let grantor = membership.grantor.as_deref();
            grantor.is_none_or(|grantor| admins.contains(&(membership.role.as_str(), grantor)))
        };
        let (now, later): (Vec<&Membership>, Vec<&Membership>) =
            left.into_iter().partition(may_grant);
        if now.is_empty() {
            done.extend(later);
            return done;
        }
        for membership in now.iter().filter(|membership| membership.has_admin) {
            admins.insert((&membership.role, &membership.member));
        }
        done.extend(now);
        left = later;
    }
}

#[cfg(test)]
mod tests {
    use super::{create_sql, grant_sql, ordered, write};
    use crate::catalog::DatabaseSetting;
    use crate::pg::conninfo::Password;
    use crate::roles::fetch::{MemberOptions, Membership, ParameterRight, Role, Roles};

    fn role(name: &str) -> Role {
        Role {
            name: name.to_string(),
            is_superuser: false,
            inherits: true,
            may_create_roles: false,
            may_create_databases: false,
            may_login: false,
            may_replicate: false,
            bypasses_row_security: false,
            connection_limit: -1,
            valid_until: None,
            password: None,
            comment: None,
            settings: Vec::new(),
            labels: Vec::new(),
        }
    }

    fn membership(role: &str, member: &str, grantor: Option<&str>) -> Membership {
        Membership {
            role: role.to_string(),
            member: member.to_string(),
            has_admin: false,
            options: None,
            grantor: grantor.map(str::to_string),
        }
    }

    #[test]
    fn says_only_what_differs_from_the_default() {
        assert_eq!(create_sql(&role("a\"b")), r#"CREATE ROLE "a""b""#);
        let mut full = role("x");
        full.is_superuser = true;
        full.inherits = false;
        full.may_login = true;
        full.connection_limit = 0;
        full.valid_until = Some("infinity".to_string());
        full.password = Some(Password::new(r"md5\x'"));
        assert_eq!(
            create_sql(&full),
            r#"CREATE ROLE "x" WITH SUPERUSER NOINHERIT LOGIN CONNECTION LIMIT 0 PASSWORD E'md5\\x''' VALID UNTIL 'infinity'"#
        );
    }

    #[test]
    fn memberships_of_each_major() {
        let mut membership = membership("a", "b", None);
        assert_eq!(grant_sql(&membership), r#"GRANT "a" TO "b""#);
        membership.has_admin = true;
        assert_eq!(
            grant_sql(&membership),
            r#"GRANT "a" TO "b" WITH ADMIN OPTION"#
        );
        membership.options = Some(MemberOptions {
            inherits: false,
            may_set: true,
        });
        membership.grantor = Some("c".to_string());
        assert_eq!(
            grant_sql(&membership),
            r#"GRANT "a" TO "b" WITH ADMIN TRUE, INHERIT FALSE, SET TRUE GRANTED BY "c""#
        );
    }

    #[test]
    fn a_grantor_comes_before_what_it_granted() {
        let mut chief = membership("a", "chief", None);
        chief.has_admin = true;
        let mut second = membership("a", "deputy", Some("chief"));
        second.has_admin = true;
        let given = [
            membership("a", "x", Some("deputy")),
            membership("b", "x", Some("nobody")),
            second,
            chief,
        ];
        let members: Vec<&str> = ordered(&given)
            .iter()
            .map(|membership| membership.member.as_str())
            .collect();
        assert_eq!(members, ["chief", "deputy", "x", "x"]);
        assert_eq!(ordered(&given)[2].role, "a");
    }

    #[test]
    fn writes_all_of_a_role() {
        let mut app = role("app");
        app.comment = Some("it's; mine".to_string());
        app.settings.push(DatabaseSetting {
            role: Some("app".into()),
            name: "search_path".into(),
            value: "a, b".into(),
        });
        let text = write(&Roles {
            roles: vec![app],
            memberships: vec![membership("app", "b", None)],
            rights: vec![ParameterRight {
                privilege: "ALTER SYSTEM".to_string(),
                parameter: "my.setting".to_string(),
                role: "app".to_string(),
                is_grantable: true,
            }],
            has_passwords: false,
        });
        let statements: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            statements,
            [
                r#"CREATE ROLE "app";"#,
                r#"ALTER ROLE "app" SET "search_path" TO 'a', 'b';"#,
                r#"COMMENT ON ROLE "app" IS 'it''s; mine';"#,
                r#"GRANT "app" TO "b";"#,
                r#"GRANT ALTER SYSTEM ON PARAMETER "my"."setting" TO "app" WITH GRANT OPTION;"#,
            ]
        );
    }
}
