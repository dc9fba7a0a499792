//! Run the statements of a file of roles on the target, in the parent. All of them are one transaction with a savepoint
//! for each, so that a run that is killed has made no role at all: half a role would be kept as it is by the next run.

use std::collections::{HashMap, HashSet};

use postgres::error::SqlState;

use super::parse::{Kind, Options, Statement};
use super::plan::{Plan, Target, plan};
use crate::error::{Context, Error, ErrorKind, Result, Side};
use crate::ident::{quote_ident, shorten};
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::sys::failpoint::failpoint;

/// A setting that the target does not know, or that our role may not set: no reason to refuse the role.
const LEFT_OUT: &[SqlState] = &[
    SqlState::UNDEFINED_OBJECT,
    SqlState::UNDEFINED_DATABASE,
    SqlState::INVALID_PARAMETER_VALUE,
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::CANT_CHANGE_RUNTIME_PARAM,
];

/// Who we are on the target.
struct Us {
    name: String,
    is_superuser: bool,
    may_create_roles: bool,
}

/// Create what is missing. Each failure is logged; the error says how many there were, and what does not fail is there.
pub fn run(statements: &[Statement], target: &mut Connection) -> Result<()> {
    let found = fetch_target(target)?;
    let us = fetch_us(target)?;
    let plan = plan(statements, &found);
    tell(&plan);
    if !plan.create.is_empty() && !us.is_superuser && !us.may_create_roles {
        let user = quote_ident(&us.name);
        return Err(Error::on(
            Side::Target,
            format!(
                "role {user} may not create roles on the target: {} are missing there",
                plan.create.len()
            ),
        )
        .with_hint(format!(
            "Connect as a superuser, or run on the target: ALTER ROLE {user} CREATEROLE"
        )));
    }
    hush(target, &us)?;
    target.execute("BEGIN").context("could not create roles")?;
    let failures = run_all(&plan, target)?;
    failpoint("roles.before_commit")?;
    target.commit().context("could not create roles")?;
    flush_commits(target)?;
    finish(&plan, failures)
}

/// Hashes of passwords do not belong into the target's log, as far as we may say so; nor does its advice about them into
/// ours, once for each role.
fn hush(target: &mut Connection, us: &Us) -> Result<()> {
    if us.is_superuser {
        target.execute(
            "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic",
        )?;
    }
    if target.server_version() >= 180_000 {
        target.execute("SET md5_password_warnings = off")?;
    }
    Ok(())
}

fn fetch_us(target: &mut Connection) -> Result<Us> {
    let row = target
        .query_one(
            "SELECT rolname, rolsuper, rolcreaterole, pg_catalog.pg_is_in_recovery() \
             FROM pg_catalog.pg_roles WHERE rolname = current_user",
        )
        .context("could not find out who we are on the target")?;
    // Once, and not for each role.
    if row.bool(3)? {
        return Err(Error::on(
            Side::Target,
            "the target is a standby, which cannot be written to",
        ));
    }
    Ok(Us {
        name: row.text(0)?.to_string(),
        is_superuser: row.bool(1)?,
        may_create_roles: row.bool(2)?,
    })
}

fn fetch_target(target: &mut Connection) -> Result<Target> {
    let mut roles = HashSet::new();
    target
        .query_each("SELECT rolname FROM pg_catalog.pg_roles", &mut |row| {
            roles.insert(row.text(0)?.to_string());
            Ok(())
        })
        .context("could not list the roles of the target")?;
    let mut memberships: HashMap<(String, String), Options> = HashMap::new();
    let options = match target.server_version() >= 16_00_00 {
        true => "a.inherit_option, a.set_option",
        false => "NULL, NULL",
    };
    target
        .query_each(
            &format!(
                "SELECT r.rolname, m.rolname, a.admin_option, {options} FROM pg_catalog.pg_auth_members a \
                 JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member"
            ),
            &mut |row| {
                let flag = |column| Ok::<_, Error>(row.opt_text(column)?.map(|text| text == "t"));
                let options = Options {
                    admin: row.bool(2)?,
                    inherits: flag(3)?,
                    may_set: flag(4)?,
                };
                let pair = (row.text(0)?.to_string(), row.text(1)?.to_string());
                memberships.entry(pair).or_default().join(options);
                Ok(())
            },
        )
        .context("could not list the memberships of the target")?;
    Ok(Target { roles, memberships })
}

/// What is left out, and why.
fn tell(plan: &Plan<'_>) {
    let notices = [
        (
            "roles that exist on the target are kept as they are",
            &plan.kept,
        ),
        (
            "roles that belong to PostgreSQL or to a provider are left out",
            &plan.reserved,
        ),
        (
            "memberships in a provider's roles that the target does not have are left out",
            &plan.providers_memberships,
        ),
        (
            "memberships that exist on the target keep their options (ADMIN, INHERIT, SET), which differ from the source's",
            &plan.kept_memberships,
        ),
    ];
    for (what, names) in notices {
        if !names.is_empty() {
            log::info!("{what}: {}", shorten(names));
        }
    }
    if !plan.lost_memberships.is_empty() {
        log::warn!(
            "memberships are left out, as the target lacks the role: {}",
            shorten(&plan.lost_memberships)
        );
    }
}

fn run_all(plan: &Plan<'_>, target: &mut Connection) -> Result<Vec<Error>> {
    let mut failures = Vec::new();
    for (name, statements) in &plan.create {
        let sql: Vec<&str> = statements
            .iter()
            .map(|statement| statement.sql.as_str())
            .collect();
        match attempt(target, &sql.join("; "))? {
            Ok(()) => log::debug!("created role {}", quote_ident(name)),
            // Somebody was faster.
            Err(error) if error.is_any_of(&[SqlState::DUPLICATE_OBJECT]) => {
                log::info!("role {} exists on the target by now", quote_ident(name));
            }
            Err(error) => {
                failures.push(error.context(format!("could not create role {}", quote_ident(name))))
            }
        }
    }
    for statement in &plan.describe {
        if let Err(error) = attempt(target, &statement.sql)? {
            let what = describe(statement);
            match error.is_any_of(LEFT_OUT) {
                true => log::warn!("{what} is left out: {error}"),
                false => failures.push(error.context(format!("could not restore {what}"))),
            }
        }
    }
    for statement in &plan.grants {
        if let Err(error) = grant(target, statement)? {
            let what = describe(statement);
            // Only the server's own superuser grants these; many a provider's server has none.
            match statement.kind == Kind::Privilege && error.is_any_of(LEFT_OUT) {
                true => log::warn!("{what} is left out: {error}"),
                false => failures.push(error.context(format!("could not restore {what}"))),
            }
        }
    }
    Ok(failures)
}

/// In whose name a membership is granted counts little beside the membership, and to grant in another role's name takes
/// rights that whoever may create roles need not have.
fn grant(target: &mut Connection, statement: &Statement) -> Result<Result<()>> {
    let result = attempt(target, &statement.sql)?;
    let Kind::Membership {
        without_grantor: Some(sql),
        ..
    } = &statement.kind
    else {
        return Ok(result);
    };
    let Err(error) = &result else {
        return Ok(result);
    };
    let again = attempt(target, sql)?;
    if again.is_ok() {
        log::info!(
            "{} is granted in our own name: {error}",
            describe(statement)
        );
        return Ok(again);
    }
    Ok(result)
}

/// Run a statement in a savepoint of its own. The outer error is one that ends the run.
fn attempt(target: &mut Connection, sql: &str) -> Result<Result<()>> {
    let all = format!("SAVEPOINT one; {sql}; RELEASE SAVEPOINT one");
    match target.execute(&all) {
        Ok(_) => Ok(Ok(())),
        Err(error) if error.is_interrupted() || error.is_connection_lost() => Err(error),
        Err(error) => {
            target.execute("ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")?;
            Ok(Err(error))
        }
    }
}

fn describe(statement: &Statement) -> String {
    let role = quote_ident(&statement.role);
    match &statement.kind {
        Kind::Create | Kind::Attributes => format!("role {role}"),
        Kind::Setting => format!("a setting of role {role}"),
        Kind::Comment => format!("the comment on role {role}"),
        Kind::Membership { member, .. } => {
            format!("the membership of role {} in {role}", quote_ident(member))
        }
        Kind::Privilege => format!("a right of role {role} on a parameter"),
    }
}

fn finish(plan: &Plan<'_>, failures: Vec<Error>) -> Result<()> {
    let Some(first) = failures.first() else {
        log::info!(
            "created {} roles, granted {} memberships and rights",
            plan.create.len(),
            plan.grants.len()
        );
        return Ok(());
    };
    for failure in &failures {
        failure.log("");
    }
    Err(Error::new(
        ErrorKind::Sql,
        format!(
            "{} roles, memberships or comments could not be restored on the target; the first: {first}",
            failures.len()
        ),
    )
    .with_side(Side::Target)
    .with_hint(
        "Make them by hand, with the attributes that the target allows, and run again: roles that exist are kept. Or \
         connect as a superuser. After \"copy roles\" a clone needs no --roles.",
    ))
}
