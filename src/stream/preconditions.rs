//! What must be true of both servers before anything is made: all of it is looked at, and told together, a line each. Runs
//! in the process that sets a follow up; writes nothing on either server.

use std::fmt;

use super::decode::Plugin;
use super::{identity, origin, publication};
use crate::error::{Context, Error, Result, Side};
use crate::filter::Filters;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::pg::wire::{Connection, Row};
use crate::sys::signal::Shutdown;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub plugin: Plugin,
    /// The slot is not there yet.
    pub makes_slot: bool,
    /// What is not followed is not asked about.
    pub filters: Option<&'a Filters>,
}

/// One thing that is missing, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Short and stable, for programs that read a list of problems.
    pub id: &'static str,
    pub side: Side,
    pub text: String,
    pub fix: String,
    /// Without it following works less well; everything else makes it impossible.
    pub is_only_a_warning: bool,
}

impl Problem {
    fn new(
        id: &'static str,
        side: Side,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        Problem {
            id,
            side,
            text: text.into(),
            fix: fix.into(),
            is_only_a_warning: false,
        }
    }

    fn on_source(id: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem::new(id, Side::Source, text, fix)
    }

    fn on_target(id: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem::new(id, Side::Target, text, fix)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fix.as_str() {
            "" => f.write_str(&self.text),
            fix => write!(f, "{}: {fix}", self.text),
        }
    }
}

/// Look at everything; one error names all that is missing.
pub fn check(
    source: &mut Connection,
    target: Option<&mut Connection>,
    wanted: Wanted<'_>,
) -> Result<()> {
    let (warnings, problems): (Vec<_>, Vec<_>) = find(source, target, wanted)?
        .into_iter()
        .partition(|problem| problem.is_only_a_warning);
    for warning in warnings {
        log::warn!("{}: {warning}", warning.side);
    }
    match refusal(WHAT, &problems) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Look at everything, and list what is missing.
pub fn find(
    source: &mut Connection,
    target: Option<&mut Connection>,
    wanted: Wanted<'_>,
) -> Result<Vec<Problem>> {
    let mut problems = check_source(source, wanted)?;
    if let Some(target) = target {
        problems.extend(check_target(target, wanted)?);
    }
    Ok(problems)
}

const WHAT: &str = "cannot follow the source's changes";

/// A single problem is the message; several are lines of their own before it.
fn refusal(what: &str, problems: &[Problem]) -> Option<Error> {
    let first = problems.first()?;
    let error = match problems {
        [only] => Error::on(only.side, format!("{what}: on the {}, {only}", only.side)),
        _ => {
            let lines: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {problem}", problem.side))
                .collect();
            Error::on(
                first.side,
                format!("{what}: {} things are in the way", problems.len()),
            )
            .with_detail(lines.join("\n"))
        }
    };
    Some(error.with_hint("Nothing was changed on either server."))
}

const SOURCE_SQL: &str = "SELECT current_setting('wal_level'), \
     (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int8, \
     (SELECT count(*) FROM pg_stat_get_wal_senders()), current_setting('max_wal_senders')::int8, \
     (SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles m WHERE m.rolname = 'rds_replication' \
          AND pg_has_role(current_user, m.oid, 'MEMBER')) FROM pg_roles WHERE rolname = current_user), \
     quote_ident(current_user), (SELECT setting FROM pg_settings WHERE name = 'output_plugin_libraries'), \
     pg_is_in_recovery(), \
     (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()), \
     current_setting('hot_standby_feedback') = 'on'";

fn source_row(source: &mut Connection) -> Result<Row> {
    source
        .query_one(SOURCE_SQL)
        .context("could not look at the settings of the source")
}

fn check_source(source: &mut Connection, wanted: Wanted<'_>) -> Result<Vec<Problem>> {
    let row = source_row(source)?;
    let plugin = wanted.plugin;
    let mut problems = check_places(&row, wanted)?;
    if !row.bool(5)? {
        let user = row.text(6)?;
        problems.push(Problem::on_source(
            "replication-right",
            format!("role {user} has no right to replicate"),
            format!("ALTER ROLE {user} REPLICATION"),
        ));
    }
    // pg_settings hides it from roles without pg_read_all_settings: these are told by the server, when the slot is made.
    if let Some(allowed) = row.opt_text(7)? {
        problems.extend(check_plugin_list(allowed, plugin));
    }
    let version = source.server_version();
    if row.bool(8)? {
        problems.extend(check_standby(version, wanted));
    }
    if wanted.makes_slot && problems.is_empty() {
        warn_of_source(version, row.bool(8)? && !row.bool(10)?);
        tell_unlogged(source)?;
    }
    let encoding = row.text(9)?;
    if plugin != Plugin::Pgoutput && !matches!(encoding, "UTF8" | "SQL_ASCII") {
        problems.push(Problem::on_source(
            "plugin-encoding",
            format!("{plugin} sends text in the database's encoding, {encoding}"),
            "use --plugin pgoutput",
        ));
    }
    if plugin == Plugin::Pgoutput && wanted.makes_slot {
        problems.extend(check_publication_rights(source, wanted.filters)?);
    }
    if plugin != Plugin::TestDecoding {
        problems.extend(check_identities(source, plugin, wanted.filters)?);
    }
    Ok(problems)
}

fn check_standby(version: u32, wanted: Wanted<'_>) -> Option<Problem> {
    if version < 16_00_00 {
        return Some(Problem::on_source(
            "standby-follow",
            "it is a standby, and one can be followed from PostgreSQL 16 on",
            "follow its primary",
        ));
    }
    (wanted.plugin == Plugin::Pgoutput && wanted.makes_slot).then(|| {
        Problem::on_source(
            "publication-right",
            "it is a standby, where no publication can be made",
            "use --plugin test_decoding",
        )
    })
}

/// What works, and not as one may expect.
fn warn_of_source(version: u32, is_standby_without_feedback: bool) {
    if version < 11_00_00 {
        log::warn!(
            "PostgreSQL 10 does not tell anybody of TRUNCATE: run it on the target too, or use DELETE until the cutover"
        );
    }
    if is_standby_without_feedback {
        log::warn!(
            "the source is a standby with hot_standby_feedback off: a vacuum of its primary may cancel the copy, and take \
             rows from the replication slot that it still needs, which ends the follow"
        );
    }
}

/// How many names a line lists.
const NAMED: usize = 10;

/// Changes of unlogged tables are in no log, so that no plugin sends them.
fn tell_unlogged(source: &mut Connection) -> Result<()> {
    let rows = source
        .query(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND n.nspname !~ '^pg_' \
               AND n.nspname <> 'information_schema' ORDER BY 1",
        )
        .context("could not look for unlogged tables of the source")?;
    if rows.is_empty() {
        return Ok(());
    }
    let names = rows.iter().take(NAMED).map(|row| row.text(0));
    let names: Vec<&str> = names.collect::<Result<_>>()?;
    let more = if rows.len() > NAMED { ", ..." } else { "" };
    log::info!(
        "{} unlogged tables of the source are copied, and their changes are not followed, as no log has them: {}{more}",
        rows.len(),
        names.join(", ")
    );
    Ok(())
}

const RAISE_SLOTS: &str =
    "drop one that nobody needs, or raise max_replication_slots and restart the server";

/// Slots and WAL senders: how many are taken, of how many.
struct Places {
    slots: i64,
    most_slots: i64,
    senders: i64,
    most_senders: i64,
}

impl Places {
    fn of(row: &Row) -> Result<Places> {
        Ok(Places {
            slots: row.parse(1)?,
            most_slots: row.parse(2)?,
            senders: row.parse(3)?,
            most_senders: row.parse(4)?,
        })
    }

    fn no_slot(&self) -> Problem {
        Problem::on_source(
            "replication-slots",
            format!("no replication slot is free, of {}", self.most_slots),
            RAISE_SLOTS,
        )
    }

    fn no_sender(&self) -> Problem {
        Problem::on_source(
            "wal-senders",
            format!("no WAL sender is free, of {}", self.most_senders),
            "raise max_wal_senders, then restart the server",
        )
    }
}

/// wal_level, and room for a slot and a WAL sender.
fn check_places(row: &Row, wanted: Wanted<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let wal_level = row.text(0)?;
    if wal_level != "logical" {
        problems.push(Problem::on_source(
            "wal-level",
            format!("wal_level is \"{wal_level}\" and must be \"logical\""),
            "ALTER SYSTEM SET wal_level = logical, then restart the server",
        ));
    }
    let places = Places::of(row)?;
    if wanted.makes_slot && places.slots >= places.most_slots {
        problems.push(places.no_slot());
    }
    let (senders, most_senders) = (places.senders, places.most_senders);
    if senders >= most_senders {
        problems.push(places.no_sender());
    } else if wanted.makes_slot && senders + 1 == most_senders {
        // While the copy runs, one holds the snapshot and one sends the changes.
        problems.push(Problem {
            is_only_a_warning: true,
            ..Problem::on_source(
                "wal-senders",
                format!(
                    "only one WAL sender of the source is free (max_wal_senders is {most_senders}): changes cannot be \
                     received during the base copy"
                ),
                "raise max_wal_senders, then restart the server",
            )
        });
    }
    Ok(problems)
}

/// A copy that is resumed after its snapshot is lost needs a slot and a WAL sender more for a moment, for a new one.
pub fn check_for_snapshot(source: &mut Connection) -> Result<()> {
    let places = Places::of(&source_row(source)?)?;
    let mut problems = Vec::new();
    if places.slots >= places.most_slots {
        problems.push(places.no_slot());
    }
    if places.senders >= places.most_senders {
        problems.push(places.no_sender());
    }
    refusal(
        "cannot take another snapshot to resume the copy in",
        &problems,
    )
    .map_or(Ok(()), Err)
}

/// The same, before there is any need.
pub fn spare_slot(source: &mut Connection, makes_slot: bool) -> Result<Option<Problem>> {
    let places = Places::of(&source_row(source)?)?;
    let taken = places.slots + i64::from(makes_slot);
    Ok((taken >= places.most_slots).then(|| Problem {
        is_only_a_warning: true,
        ..Problem::on_source(
            "spare-slot",
            format!(
                "no replication slot is free beside our own, of {}: a copy that is interrupted can only be resumed with one \
                 more",
                places.most_slots
            ),
            RAISE_SLOTS,
        )
    }))
}

pub fn warn_without_spare_slot(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
) -> Result<()> {
    let mut source = open_source(info, application_name, shutdown)?;
    if let Some(problem) = spare_slot(&mut source, false)? {
        log::warn!("{}: {problem}", problem.side);
    }
    Ok(())
}

/// Trap 56: since 15.19, 16.15, 17.11 and 18.6 the server has a list of the plugins that it loads.
fn check_plugin_list(allowed: &str, plugin: Plugin) -> Option<Problem> {
    let is_allowed = allowed.split(',').any(|name| {
        let name = name.trim().trim_matches('"');
        name == "*" || name.rsplit('/').next() == Some(plugin.name())
    });
    (!is_allowed).then(|| {
        Problem::on_source(
            "output-plugin",
            format!("output_plugin_libraries is \"{allowed}\" and does not name {plugin}"),
            format!(
                "ALTER SYSTEM SET output_plugin_libraries = {allowed}, {plugin}; then SELECT pg_reload_conf()"
            ),
        )
    })
}

/// Whoever makes a publication must be allowed to, and own its tables.
fn check_publication_rights(
    source: &mut Connection,
    filters: Option<&Filters>,
) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let row = source.query_one(
        "SELECT has_database_privilege(current_database(), 'CREATE'), quote_ident(current_database()), \
             quote_ident(current_user)",
    )?;
    if !row.bool(0)? {
        let user = row.text(2)?;
        problems.push(Problem::on_source(
            "publication-right",
            format!("role {user} has no right to make a publication"),
            format!("GRANT CREATE ON DATABASE {} TO {user}", row.text(1)?),
        ));
    }
    let count = publication::count_not_owned(source, filters)?;
    if count > 0 {
        problems.push(Problem::on_source(
            "publication-right",
            format!("{count} tables belong to others, and only owners can publish them"),
            "use --plugin test_decoding",
        ));
    }
    Ok(problems)
}

/// Tables of which these plugins would skip updates and deletes in silence, or whose updates a publication would refuse.
fn check_identities(
    source: &mut Connection,
    plugin: Plugin,
    filters: Option<&Filters>,
) -> Result<Vec<Problem>> {
    let found = identity::find(source, filters)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let why = match plugin {
        Plugin::Pgoutput => {
            "a publication would make the application's own UPDATE and DELETE of them fail"
        }
        _ => "wal2json skips their updates and deletes without a word",
    };
    let mut fix = vec![
        "give them one as below, or use --plugin test_decoding, which is the way for tables that are only inserted into"
            .to_owned(),
    ];
    fix.extend(found.iter().map(identity::WithoutIdentity::alter_sql));
    Ok(vec![Problem::on_source(
        "replica-identity",
        format!(
            "{} tables have no usable replica identity, and {why}",
            found.len()
        ),
        fix.join("\n"),
    )])
}

fn check_target(target: &mut Connection, wanted: Wanted<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let row = target
        .query_one(
            "SELECT pg_is_in_recovery(), quote_ident(current_user), quote_ident(current_database()), \
                 has_database_privilege(current_database(), 'CREATE') OR COALESCE((SELECT \
                     has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'pgcopydb'), false)",
        )
        .context("could not look at the settings of the target")?;
    let user = row.text(1)?;
    if row.bool(0)? {
        return Ok(vec![Problem::on_target(
            "target-standby",
            "it is a standby, which cannot be written to",
            "",
        )]);
    }
    if let Err(error) = target.execute("SET session_replication_role = replica") {
        if error.is_connection_lost() || error.is_interrupted() {
            return Err(error);
        }
        let remedy = match target.server_version() >= 15_00_00 {
            true => format!("GRANT SET ON PARAMETER session_replication_role TO {user}"),
            false => {
                "connect as a superuser, as there is no such right before PostgreSQL 15".into()
            }
        };
        problems.push(Problem::on_target(
            "replication-role",
            format!(
                "role {user} may not set session_replication_role, so that triggers and foreign keys would fire for \
                 changes that did on the source already"
            ),
            remedy,
        ));
    }
    match origin::missing_rights(target)?.is_empty() {
        // The origin of an earlier run has its place already.
        true if wanted.makes_slot => problems.extend(check_origin_places(target)?),
        // A table takes the origin's place.
        false if !row.bool(3)? => problems.push(Problem::on_target(
            "replication-origin",
            format!(
                "role {user} may neither use replication origins nor create a table for the position"
            ),
            format!("GRANT CREATE ON DATABASE {} TO {user}", row.text(2)?),
        )),
        _ => {}
    }
    Ok(problems)
}

/// Sessions with an origin need a place, which is a setting of its own since 18.
fn check_origin_places(target: &mut Connection) -> Result<Option<Problem>> {
    let setting = match target.server_version() >= 18_00_00 {
        true => "max_active_replication_origins",
        false => "max_replication_slots",
    };
    let row = target.query_one(&format!(
        "SELECT current_setting('{setting}')::int8, \
             has_function_privilege('pg_show_replication_origin_status()', 'EXECUTE')"
    ))?;
    let places: i64 = row.parse(0)?;
    // The right is asked of whoever mentions the function, called or not.
    let taken: i64 = match row.bool(1)? {
        true => target
            .query_one("SELECT count(*) FROM pg_show_replication_origin_status()")?
            .parse(0)?,
        false => 0,
    };
    Ok((taken >= places).then(|| {
        Problem::on_target(
            "replication-origin",
            format!("no place for a replication origin is free, of {places}"),
            format!("raise {setting}, then restart the server"),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_plugins_are_read_as_the_server_does() {
        let is_allowed = |list| check_plugin_list(list, Plugin::Wal2json).is_none();
        assert!(is_allowed("pgoutput, wal2json"));
        assert!(is_allowed("\"wal2json\""));
        assert!(is_allowed("$libdir/wal2json"));
        assert!(!is_allowed("pgoutput, test_decoding"));
        assert!(!is_allowed(""));
        assert!(!is_allowed("wal2json2"));
    }

    #[test]
    fn several_problems_are_a_line_each() {
        assert!(refusal(WHAT, &[]).is_none());
        let one = Problem::on_target("x", "it is a standby", "");
        let error = refusal(WHAT, std::slice::from_ref(&one)).unwrap();
        assert_eq!((error.exit_code(), error.detail()), (7, None));
        assert!(error.message().ends_with("on the target, it is a standby"));
        let two = [Problem::on_source("y", "a", "do b"), one];
        let error = refusal(WHAT, &two).unwrap();
        assert_eq!(
            error.detail(),
            Some("source: a: do b\ntarget: it is a standby")
        );
        assert!(error.message().ends_with("2 things are in the way"));
    }
}
