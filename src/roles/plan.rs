//! What of a file of roles a target needs. Pure: the file and what the target has go in, statements in their order come
//! out, and with them the names of all that is left out.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::parse::{Kind, Options, Statement};
use super::provider::{is_providers, is_reserved};

/// What the target has.
#[derive(Debug, Default)]
pub struct Target {
    pub roles: HashSet<String>,
    /// By (role, member).
    pub memberships: HashMap<(String, String), Options>,
}

/// What to run. The lists of names are for the log.
#[derive(Default)]
pub struct Plan<'a> {
    /// New roles, each with the statements that make it one.
    pub create: Vec<(&'a str, Vec<&'a Statement>)>,
    /// Settings and comments of new roles.
    pub describe: Vec<&'a Statement>,
    /// Memberships and rights, of old roles, too.
    pub grants: Vec<&'a Statement>,
    pub kept: Vec<String>,
    /// Nobody's to copy.
    pub reserved: Vec<String>,
    /// Memberships in roles that neither side can make.
    pub providers_memberships: Vec<String>,
    /// Memberships in roles that are not there.
    pub lost_memberships: Vec<String>,
    /// Memberships that are there, with other options.
    pub kept_memberships: Vec<String>,
}

fn is_nobodys(name: &str) -> bool {
    is_reserved(name) || is_providers(name)
}

/// The roles that a file creates where they are missing.
pub fn created(statements: &[Statement]) -> impl Iterator<Item = &str> {
    statements
        .iter()
        .filter(|statement| statement.kind == Kind::Create && !is_nobodys(&statement.role))
        .map(|statement| statement.role.as_str())
}

pub fn plan<'a>(statements: &'a [Statement], target: &Target) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut new: HashMap<&str, usize> = HashMap::new();
    for statement in statements {
        let name = statement.role.as_str();
        if statement.kind != Kind::Create || new.contains_key(name) {
            continue;
        }
        if is_nobodys(name) {
            plan.reserved.push(name.to_string());
        } else if target.roles.contains(name) {
            plan.kept.push(name.to_string());
        } else {
            new.insert(name, plan.create.len());
            plan.create.push((name, Vec::new()));
        }
    }
    let mut wanted: BTreeMap<(String, String), Options> = BTreeMap::new();
    let is_there = |name: &str| target.roles.contains(name) || new.contains_key(name);
    for statement in statements {
        let name = statement.role.as_str();
        match &statement.kind {
            Kind::Create | Kind::Attributes => {
                if let Some(at) = new.get(name) {
                    plan.create[*at].1.push(statement);
                }
            }
            Kind::Setting | Kind::Comment => {
                if new.contains_key(name) {
                    plan.describe.push(statement);
                }
            }
            Kind::Privilege => {
                if is_there(name) && !is_nobodys(name) {
                    plan.grants.push(statement);
                }
            }
            Kind::Membership {
                member, options, ..
            } => {
                let pair = (name.to_string(), member.clone());
                if is_nobodys(member) {
                    continue;
                }
                if target.memberships.contains_key(&pair) {
                    wanted.entry(pair).or_default().join(*options);
                    continue;
                }
                if is_there(name) && is_there(member) {
                    plan.grants.push(statement);
                    continue;
                }
                let words = format!("{member} in {name}");
                match is_nobodys(name) {
                    true => plan.providers_memberships.push(words),
                    false => plan.lost_memberships.push(words),
                }
            }
        }
    }
    for (pair, wanted) in wanted {
        if target
            .memberships
            .get(&pair)
            .is_some_and(|there| !there.fits(wanted))
        {
            let (role, member) = pair;
            plan.kept_memberships.push(format!("{member} in {role}"));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::{Plan, Target, created, plan};
    use crate::roles::parse::{Options, Statement, parse};

    const FILE: &str = "CREATE ROLE old LOGIN; ALTER ROLE old SET work_mem TO '1MB';
        CREATE ROLE new; ALTER ROLE new WITH LOGIN; COMMENT ON ROLE new IS 'x'; COMMENT ON ROLE old IS 'y';
        CREATE ROLE rdsadmin SUPERUSER; CREATE ROLE pg_own;
        GRANT old TO new; GRANT new TO old; GRANT rds_iam TO new; GRANT gone TO old; GRANT new TO rdsadmin;
        GRANT pg_monitor TO new; GRANT SET ON PARAMETER work_mem TO old;";

    fn sql(statements: &[&Statement]) -> Vec<String> {
        statements
            .iter()
            .map(|statement| statement.sql.clone())
            .collect()
    }

    #[test]
    fn keeps_what_is_there_and_adds_memberships() {
        let statements = parse(FILE.as_bytes()).unwrap();
        let target = Target {
            roles: ["old", "pg_monitor"].map(str::to_string).into(),
            memberships: [(
                ("new".to_string(), "old".to_string()),
                Options {
                    admin: true,
                    ..Options::default()
                },
            )]
            .into(),
        };
        let Plan {
            create,
            describe,
            grants,
            kept,
            reserved,
            providers_memberships,
            lost_memberships,
            kept_memberships,
        } = plan(&statements, &target);
        assert_eq!(create.len(), 1);
        assert_eq!(create[0].0, "new");
        assert_eq!(
            sql(&create[0].1),
            ["CREATE ROLE new", "ALTER ROLE new WITH LOGIN"]
        );
        assert_eq!(sql(&describe), ["COMMENT ON ROLE new IS 'x'"]);
        assert_eq!(
            sql(&grants),
            [
                "GRANT old TO new",
                "GRANT pg_monitor TO new",
                "GRANT SET ON PARAMETER work_mem TO old"
            ]
        );
        assert_eq!(kept, ["old"]);
        assert_eq!(reserved, ["rdsadmin", "pg_own"]);
        assert_eq!(providers_memberships, ["new in rds_iam"]);
        assert_eq!(lost_memberships, ["old in gone"]);
        assert_eq!(kept_memberships, ["old in new"]);
        let names: Vec<&str> = created(&statements).collect();
        assert_eq!(names, ["old", "new"]);
    }
}
