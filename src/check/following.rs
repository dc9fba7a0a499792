//! Whether changes can be followed: what `stream` itself asks for, whether the plugin is installed, and what a slot would
//! have to wait for. Runs in the process of `pgcopydb check`; a clone or a follow asks the same when it sets up.

use postgres::error::SqlState;

use super::finding::{Finding, Group};
use super::server::Server;
use crate::catalog::Catalog;
use crate::error::{Context, Result, Side};
use crate::ident::quote_literal;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::stream::decode::Plugin;
use crate::stream::ownership::Beginning;
use crate::stream::preconditions::{self, Problem};
use crate::stream::setup::{self, SetupSpec};
use crate::sys::signal::Shutdown;

const GROUP: Group = Group::Following;

/// A transaction that has lasted for less may be over before the slot is made.
const LONG_S: i64 = 60;

/// A transaction that a new slot would wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    /// "process 7", or the prepared transaction's id.
    name: String,
    age_s: i64,
    /// What ends it.
    end: String,
}

/// What is known of the output plugin's library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Library {
    Found,
    Missing,
    /// Our role may not load it by hand; the server tells when the slot is made.
    Unknown,
}

pub fn look(
    spec: &SetupSpec,
    source: &Server,
    catalog: &Catalog,
    shutdown: &Shutdown,
) -> Result<Vec<Finding>> {
    let (beginning, mut problems) = setup::preview(spec, shutdown)?;
    let mut connection = open_source(&spec.source, &spec.application_name, shutdown)?;
    if problems
        .iter()
        .all(|problem| problem.id != "replication-slots")
    {
        let makes_slot = matches!(beginning, Ok(Beginning::New));
        problems.extend(preconditions::spare_slot(&mut connection, makes_slot)?);
    }
    let mut findings = vec![slot(spec, beginning, setup::noted(&spec.dir)?.is_some())];
    findings.extend(of_preconditions(problems));
    findings.push(library(
        spec.plugin,
        source,
        try_library(&mut connection, spec.plugin, source)?,
    ));
    let prepared = fetch_open(&mut connection, PREPARED)?;
    let running = fetch_open(&mut connection, RUNNING)?;
    findings.extend(open_transactions(&prepared, &running));
    findings.extend(large_objects(catalog.large_objects.count));
    Ok(findings)
}

fn slot(spec: &SetupSpec, beginning: Result<Beginning>, is_noted: bool) -> Finding {
    let (id, name) = ("slot", &spec.slot_name);
    let side = Side::Source;
    match beginning {
        Err(error) => Finding::of_error(GROUP, id, &error),
        Ok(Beginning::New) => Finding::pass(
            GROUP,
            id,
            side,
            format!("replication slot \"{name}\" and origin \"{}\" can be made", spec.origin),
        ),
        Ok(Beginning::Again) if is_noted => Finding::pass(
            GROUP,
            id,
            side,
            format!("replication slot \"{name}\" is that of the earlier run in this directory"),
        ),
        Ok(Beginning::Again) => Finding::warn(
            GROUP,
            id,
            side,
            format!(
                "replication slot \"{name}\" is on the source already: a clone can only follow from it while \"pgcopydb \
                 snapshot --follow\" holds its snapshot for the same --dir"
            ),
        )
        .with_fix(
            "Run \"pgcopydb stream cleanup\" if it is of an earlier run, or choose another --slot-name and --origin.",
        ),
    }
}

fn of_preconditions(problems: Vec<Problem>) -> Vec<Finding> {
    // The ids that have a line when all is well.
    const ALWAYS: [(&str, Side, &str); 6] = [
        ("wal-level", Side::Source, "wal_level is \"logical\""),
        (
            "replication-slots",
            Side::Source,
            "a replication slot is free",
        ),
        ("wal-senders", Side::Source, "enough WAL senders are free"),
        ("replication-right", Side::Source, "our role may replicate"),
        (
            "replica-identity",
            Side::Source,
            "the changes of all tables can be told by row, with this plugin",
        ),
        (
            "replication-role",
            Side::Target,
            "triggers of the target can be kept from firing",
        ),
    ];
    let mut findings: Vec<Finding> = ALWAYS
        .iter()
        .filter(|(id, ..)| problems.iter().all(|problem| problem.id != *id))
        .map(|(id, side, reason)| Finding::pass(GROUP, id, *side, *reason))
        .collect();
    for problem in problems {
        let make = match problem.is_only_a_warning {
            true => Finding::warn,
            false => Finding::fail,
        };
        let reason = format!("on the {}, {}", problem.side, problem.text);
        let finding = make(GROUP, problem.id, problem.side, reason);
        findings.push(match problem.fix.is_empty() {
            true => finding,
            false => finding.with_fix(problem.fix),
        });
    }
    findings
}

/// Superusers can load any library, as making a slot would; it stays loaded for this session only.
fn try_library(source: &mut Connection, plugin: Plugin, server: &Server) -> Result<Library> {
    if plugin == Plugin::Pgoutput {
        // Every server is built with it.
        return Ok(Library::Found);
    }
    if !server.is_superuser {
        return Ok(Library::Unknown);
    }
    match source.execute(&format!("LOAD {}", quote_literal(plugin.name()))) {
        Ok(_) => Ok(Library::Found),
        Err(error) if error.is_any_of(&[SqlState::UNDEFINED_FILE]) => Ok(Library::Missing),
        Err(error) if error.is_connection_lost() || error.is_interrupted() => Err(error),
        Err(error) => {
            log::debug!("{error}");
            Ok(Library::Unknown)
        }
    }
}

fn library(plugin: Plugin, source: &Server, found: Library) -> Finding {
    let (id, side) = ("plugin-library", Side::Source);
    match found {
        Library::Found => Finding::pass(
            GROUP,
            id,
            side,
            format!("output plugin {plugin} is installed on the source"),
        ),
        Library::Unknown => Finding::pass(
            GROUP,
            id,
            side,
            format!("whether output plugin {plugin} is installed is told when the slot is made"),
        ),
        Library::Missing => Finding::fail(
            GROUP,
            id,
            side,
            format!("output plugin {plugin} is not installed on the source"),
        )
        .with_fix(match plugin {
            Plugin::Wal2json => format!(
                "Install it on the source's machine (Debian: apt-get install postgresql-{}-wal2json), or use --plugin \
                 pgoutput.",
                source.major()
            ),
            _ => "Install the server's contrib modules on the source's machine, or use --plugin pgoutput."
                .to_owned(),
        }),
    }
}

/// Those of all databases count.
const PREPARED: &str = "SELECT 'prepared transaction ' || quote_literal(gid) || ' in database ' || quote_ident(database),
    extract(epoch FROM now() - prepared)::int8,
    'COMMIT PREPARED ' || quote_literal(gid) || ' or ROLLBACK PREPARED ' || quote_literal(gid)
        || ' in database ' || quote_ident(database)
FROM pg_prepared_xacts ORDER BY prepared LIMIT 20";

/// Without a transaction id nobody waits for it.
const RUNNING: &str =
    "SELECT 'process ' || pid || coalesce(' of role ' || quote_ident(usename), ''),
    extract(epoch FROM now() - xact_start)::int8, 'SELECT pg_terminate_backend(' || pid || ')'
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
ORDER BY xact_start LIMIT 20";

fn fetch_open(source: &mut Connection, sql: &str) -> Result<Vec<Open>> {
    let rows = source
        .query(sql)
        .context("could not look at the transactions of the source")?;
    rows.iter()
        .map(|row| {
            Ok(Open {
                name: row.text(0)?.to_owned(),
                age_s: row.parse(1)?,
                end: row.text(2)?.to_owned(),
            })
        })
        .collect()
}

/// Nobody may come back for a prepared transaction, so any age counts.
fn open_transactions(prepared: &[Open], running: &[Open]) -> Vec<Finding> {
    let long: Vec<&Open> = running.iter().filter(|open| open.age_s >= LONG_S).collect();
    let prepared: Vec<&Open> = prepared.iter().collect();
    [
        (
            "prepared-transactions",
            prepared,
            "making the slot waits until these are committed or rolled back",
        ),
        (
            "long-transactions",
            long,
            "making the slot waits for the end of transactions that run for long already",
        ),
    ]
    .into_iter()
    .filter(|(_, open, _)| !open.is_empty())
    .map(|(id, open, reason)| {
        let names = open
            .iter()
            .map(|open| format!("{} ({} s old)", open.name, open.age_s));
        let ends: Vec<&str> = open.iter().map(|open| open.end.as_str()).collect();
        Finding::warn(GROUP, id, Side::Source, reason)
            .with_objects(names.collect())
            .with_fix(format!("Run on the source: {};", ends.join("; ")))
    })
    .collect()
}

fn large_objects(count: u64) -> Option<Finding> {
    (count > 0).then(|| {
        Finding::warn(
            GROUP,
            "large-objects",
            Side::Source,
            format!("the source has {count} large objects: changes to them are not replicated"),
        )
        .with_fix("Run \"pgcopydb copy blobs\" at the end, when the source is written to no more.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Verdict;
    use crate::check::server::tests::server;
    use crate::error::Error;
    use crate::pg::conninfo::ConnInfo;

    fn spec() -> SetupSpec {
        SetupSpec {
            source: ConnInfo::parse(Side::Source, "dbname=a user=u").unwrap(),
            target: ConnInfo::parse(Side::Target, "dbname=b user=u").unwrap(),
            plugin: Plugin::Wal2json,
            slot_name: "s".to_owned(),
            origin: "o".to_owned(),
            dir: "/nowhere".into(),
            application_name: "x".to_owned(),
            filters: None,
        }
    }

    #[test]
    fn slots_that_are_there_are_used_by_who_knows_them() {
        let verdict = |beginning, is_noted| slot(&spec(), beginning, is_noted).verdict;
        assert_eq!(verdict(Ok(Beginning::New), false), Verdict::Pass);
        assert_eq!(verdict(Ok(Beginning::Again), true), Verdict::Pass);
        assert_eq!(verdict(Ok(Beginning::Again), false), Verdict::Warn);
        let error = Error::on(Side::Source, "it is another run's").with_hint("leave it");
        let finding = slot(&spec(), Err(error), false);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert_eq!(finding.fix.as_deref(), Some("leave it"));
    }

    #[test]
    fn plugins() {
        let source = server(Side::Source);
        for (found, verdict) in [
            (Library::Found, Verdict::Pass),
            (Library::Unknown, Verdict::Pass),
            (Library::Missing, Verdict::Fail),
        ] {
            assert_eq!(library(Plugin::Wal2json, &source, found).verdict, verdict);
        }
        let fix = library(Plugin::Wal2json, &source, Library::Missing).fix;
        assert!(fix.unwrap().contains("postgresql-15-wal2json"));
    }

    #[test]
    fn what_a_slot_would_wait_for() {
        let open = |age_s| Open {
            name: "process 7".to_owned(),
            age_s,
            end: "SELECT pg_terminate_backend(7)".to_owned(),
        };
        assert!(open_transactions(&[], &[open(59)]).is_empty());
        let found = open_transactions(&[open(1)], &[open(59), open(60)]);
        let ids: Vec<_> = found.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["prepared-transactions", "long-transactions"]);
        assert_eq!(found[1].objects, ["process 7 (60 s old)"]);
        assert!(large_objects(0).is_none() && large_objects(2).is_some());
    }
}
