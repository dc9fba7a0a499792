//! Whether two servers have room for all databases of an instance at once: connections, replication slots and senders are
//! added up. Runs at the start of `clone --all-databases`, and for `check --all-databases`, which then looks at each database
//! that the target has already.

use super::capacity::{Needed, connections};
use super::finding::{Finding, Group, Report, Verdict};
use super::server::{self, Server};
use super::{CheckSpec, Jobs, NAME, run as check_database};
use crate::error::{Context, Result, Side};
use crate::ident::quote_ident;
use crate::pg::session::open_and_pin;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;

/// What an instance takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceNeeds {
    pub databases: u64,
    pub jobs: Jobs,
    pub follows: bool,
}

/// What is free of what each followed database needs one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Free {
    slots: u64,
    senders: u64,
}

/// Before anything is made. Errors are what the servers refuse to tell.
pub fn instance(
    needs: InstanceNeeds,
    source: &mut Connection,
    target: &mut Connection,
) -> Result<Report> {
    let both = (server::fetch(source)?, server::fetch(target)?);
    let needed = Needed::of_instance(&needs.jobs, needs.databases, needs.follows);
    let mut report = Report::default();
    report.add([connections(&both.0, needed), connections(&both.1, needed)]);
    if needs.follows {
        report.add(following(needs.databases, fetch_free(source)?));
    }
    report.add([may_create(target, &both.1)?]);
    Ok(report)
}

fn fetch_free(source: &mut Connection) -> Result<Free> {
    let row = source
        .query_one(
            "SELECT greatest(current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots), 0),
    greatest(current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication), 0)",
        )
        .context("could not look at the replication slots of the source")?;
    Ok(Free {
        slots: row.parse(0)?,
        senders: row.parse(1)?,
    })
}

/// Every database needs a slot and a sender of its own; a resume needs one slot more, for a moment.
fn following(databases: u64, free: Free) -> Vec<Finding> {
    let finding = |id, what: &str, setting: &str, free: u64, spare: u64| {
        let (group, side) = (Group::Following, Side::Source);
        let reason =
            format!("{databases} databases need {databases} {what}, and {setting} leaves {free}");
        let fix = format!(
            "Raise {setting} on the source and restart it, or follow the databases one by one."
        );
        match free {
            free if free < databases => Finding::fail(group, id, side, reason).with_fix(fix),
            free if free < databases + spare => Finding::warn(
                group,
                id,
                side,
                format!("{reason}: a copy that is resumed needs one more for a moment"),
            )
            .with_fix(fix),
            _ => Finding::pass(group, id, side, reason),
        }
    };
    vec![
        finding(
            "replication-slots",
            "replication slots",
            "max_replication_slots",
            free.slots,
            1,
        ),
        finding(
            "wal-senders",
            "WAL senders",
            "max_wal_senders",
            free.senders,
            0,
        ),
    ]
}

/// Databases that the target lacks are made there.
fn may_create(target: &mut Connection, server: &Server) -> Result<Finding> {
    let (group, id, side) = (Group::Rights, "create-databases", Side::Target);
    let row = target.query_one(
        "SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )?;
    let role = quote_ident(&server.user);
    Ok(match row.bool(0)? || server.may_be_provider_admin {
        true => Finding::pass(group, id, side, "our role may create databases"),
        false => Finding::warn(
            group,
            id,
            side,
            format!(
                "role {role} may not create databases: those that the target lacks cannot be cloned"
            ),
        )
        .with_fix(format!("ALTER ROLE {role} CREATEDB")),
    })
}

/// `check --all-databases`: the instance, and each of these databases that the target has.
pub fn run_instance(
    needs: InstanceNeeds,
    spec: &CheckSpec,
    databases: &[(String, CheckSpec)],
    shutdown: &Shutdown,
) -> Result<Report> {
    let (mut source, _) = open_and_pin(spec.source()?, NAME, shutdown)?;
    let (mut target, _) = open_and_pin(spec.target()?, NAME, shutdown)?;
    let mut report = instance(needs, &mut source, &mut target)?;
    let rows = target
        .query("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn")
        .context("could not list the databases of the target")?;
    let there = rows
        .iter()
        .map(|row| Ok(row.text(0)?.to_owned()))
        .collect::<Result<Vec<String>>>()?;
    drop((source, target));
    for (database, spec) in databases {
        let name = quote_ident(database);
        if !there.contains(database) {
            let reason = format!(
                "database {name} is to be made on the target; the clone looks at its objects then"
            );
            report.add([Finding::pass(
                Group::Objects,
                "database",
                Side::Target,
                reason,
            )]);
            continue;
        }
        report.add(of_database(&name, check_database(spec, shutdown))?);
    }
    Ok(report)
}

/// What is to be said of one database: its warnings and failures, or that there are none.
fn of_database(name: &str, checked: Result<Report>) -> Result<Vec<Finding>> {
    let report = match checked {
        Ok(report) => report,
        Err(error) if error.is_interrupted() => return Err(error),
        Err(error) => {
            let error = error.context(format!("database {name}"));
            return Ok(vec![Finding::of_error(Group::Servers, "database", &error)]);
        }
    };
    let bad = report.findings().iter();
    let bad = bad.filter(|finding| finding.verdict != Verdict::Pass);
    let mut findings: Vec<Finding> = bad
        .map(|finding| finding.clone().context(&format!("database {name}")))
        .collect();
    if findings.is_empty() {
        let reason = format!(
            "database {name}: {} checks passed",
            report.count(Verdict::Pass)
        );
        findings.push(Finding::pass(
            Group::Objects,
            "database",
            Side::Source,
            reason,
        ));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_followed_database_counts() {
        let verdicts = |slots, senders| {
            let findings = following(3, Free { slots, senders });
            [findings[0].verdict, findings[1].verdict]
        };
        assert_eq!(verdicts(4, 3), [Verdict::Pass, Verdict::Pass]);
        assert_eq!(verdicts(3, 2), [Verdict::Warn, Verdict::Fail]);
        assert_eq!(verdicts(2, 3), [Verdict::Fail, Verdict::Pass]);
    }

    #[test]
    fn what_one_database_lacks_is_told_with_its_name() {
        let mut report = Report::default();
        report.add([
            Finding::pass(Group::Servers, "a", Side::Source, "fine"),
            Finding::fail(Group::Objects, "b", Side::Source, "bad"),
        ]);
        let found = of_database("\"x\"", Ok(report)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].reason, "database \"x\": bad");
        let fine = of_database("\"x\"", Ok(Report::default())).unwrap();
        assert_eq!(fine[0].verdict, Verdict::Pass);
    }
}
