//! One restore of a list of objects: runs pg_restore and finds out what became of each object. Runs in the parent. What the
//! target refuses is tried once more on a connection of ours, which tells its SQLSTATE.

use std::collections::HashSet;
use std::path::Path;

use postgres::error::SqlState;

use super::Clone;
use super::schema::check;
use crate::catalog::is_name_not_found;
use crate::dump::archive::Archive;
use crate::dump::list::write_list;
use crate::dump::messages::name_failures;
use crate::dump::outcome::{ProgramOutcome, RestoreFailure};
use crate::dump::pg_restore::{RestoreOptions, RestoreSpec};
use crate::dump::run;
use crate::dump::select::Choice;
use crate::error::{Context, Error, Result, Side};
use crate::pg::wire::Connection;
use crate::sys::durable::{Sync, write_atomic};
use crate::sys::failpoint::{failpoint_at, kind_of_file};
use crate::workdir::done::Failure;

/// What a statement is answered when an earlier run has done it; the last is a second primary key.
pub const ALREADY_THERE: &[SqlState] = &[
    SqlState::DUPLICATE_SCHEMA,
    SqlState::DUPLICATE_OBJECT,
    SqlState::DUPLICATE_TABLE,
    SqlState::DUPLICATE_FUNCTION,
    SqlState::DUPLICATE_COLUMN,
    SqlState::INVALID_TABLE_DEFINITION,
];

/// What of a failed statement is well all the same.
#[derive(Debug, Clone, Default)]
pub struct Tolerance {
    states: &'static [SqlState],
    /// Dump ids of objects that the restore before this one was refused: what is there is not ours.
    except: HashSet<i32>,
}

impl Tolerance {
    pub fn of(states: &'static [SqlState]) -> Tolerance {
        Tolerance {
            states,
            except: HashSet::new(),
        }
    }

    pub fn except(self, ids: impl IntoIterator<Item = i32>) -> Tolerance {
        Tolerance {
            except: ids.into_iter().collect(),
            ..self
        }
    }

    /// Of a second pass over all: what the first was refused, it has not made, and everything else may be its own.
    fn after(self, refused: &HashSet<i32>) -> Tolerance {
        let except = match self.is_nothing() {
            true => refused.clone(),
            false => &self.except & refused,
        };
        Tolerance::of(ALREADY_THERE).except(except)
    }

    fn is_nothing(&self) -> bool {
        self.states.is_empty()
    }

    fn has(&self, failure: &RestoreFailure, error: &Error) -> bool {
        let is_excepted = failure.dump_id.is_some_and(|id| self.except.contains(&id));
        error.is_any_of(self.states) && !is_excepted
    }
}

/// One run of pg_restore; the dump ids of the objects that failed for good, which are recorded.
pub fn restore(
    clone: &Clone<'_>,
    archive: &Archive,
    name: &str,
    choices: &[Choice<'_>],
    jobs: u32,
    drop_if_exists: bool,
    mut tolerance: Tolerance,
) -> Result<Vec<i32>> {
    if choices.iter().all(|choice| choice.skipped.is_some()) {
        return Ok(Vec::new());
    }
    let list = clone.workdir.paths.list(name);
    write_atomic(&list, write_list(choices).as_bytes(), Sync::Later)?;
    // Not where errors are expected: from what is there already, or from settings that only a newer pg_restore knows.
    let (programs, target_version) = (clone.programs()?, clone.target()?.version);
    let is_same_version = programs.version.major == target_version / 10_000;
    let ends_at_once = clone.spec.fail_fast && tolerance.is_nothing() && is_same_version;
    log::info!("restoring {name} with {}", programs.pg_restore.display());
    let mut outcome = run_pg_restore(clone, &list, jobs, drop_if_exists, ends_at_once)?;
    if jobs > 1 && !ends_at_once && is_unclear(&outcome) {
        log::info!("restoring {name} again, one object at a time: not all could be restored");
        tolerance = tolerance.after(&dump_ids(&outcome));
        outcome = run_pg_restore(clone, &list, 1, drop_if_exists, false)?;
    }
    let checked = check(&outcome, &programs.pg_restore, Side::Target)
        .context("could not restore the schema on the target");
    if !ends_at_once || outcome.failures.is_empty() {
        checked.clone()?;
    }
    name_failures(&mut outcome.failures, archive);
    let mut refused = Vec::new();
    if !outcome.failures.is_empty() {
        let mut target = clone.open_target("clone")?;
        for failure in &outcome.failures {
            if !retry(clone, archive, &mut target, failure, &tolerance)? {
                // A failure that belongs to no entry cannot be tried again: it is of the restore as a whole.
                refused.push(failure.dump_id.unwrap_or(NO_ENTRY));
            }
        }
    }
    // Told to end at the first failure, it has left out all that comes after it.
    checked.map(|()| refused)
}

/// Processes of one pg_restore write their messages piece by piece to one file: when two objects fail at a time, the
/// lines about them may be mixed, and a failure not be seen at all. What cannot be told apart is restored once more.
fn is_unclear(outcome: &ProgramOutcome) -> bool {
    let is_about_object = |failure: &RestoreFailure| !is_about_setting(failure);
    outcome.errors_ignored.is_some()
        && !outcome.lost_server()
        && (outcome.failures.iter().any(is_about_object)
            || !outcome.other_errors.is_empty()
            || outcome.has_unseen_failures())
}

/// Objects of which is known that they were not made: each is one statement, or several in one transaction.
fn dump_ids(outcome: &ProgramOutcome) -> HashSet<i32> {
    let failures = outcome.failures.iter();
    failures.filter_map(|failure| failure.dump_id).collect()
}

/// A pg_restore newer than the target begins each connection with settings that the target does not know.
fn is_about_setting(failure: &RestoreFailure) -> bool {
    failure.command.starts_with("SET ")
}

fn run_pg_restore(
    clone: &Clone<'_>,
    list: &Path,
    jobs: u32,
    drop_if_exists: bool,
    exit_on_error: bool,
) -> Result<ProgramOutcome> {
    let (workdir, spec) = (clone.workdir, clone.spec);
    let mut settings = format!(
        "-c synchronous_commit=off -c maintenance_work_mem={} -c statement_timeout=0 -c lock_timeout={} \
         -c idle_in_transaction_session_timeout=0 \
         -c default_transaction_read_only=off",
        spec.maintenance_work_mem,
        spec.lock_timeout.as_millis()
    );
    let target = clone.target()?;
    if target.version >= 140_000 {
        settings.push_str(" -c idle_session_timeout=0");
    }
    if target.version >= 170_000 {
        settings.push_str(" -c transaction_timeout=0");
    }
    let child = target
        .info
        .with_application_name(&clone.run.of("pg_restore"))
        .with_more_options(&settings)
        .child()?;
    let arguments = RestoreSpec {
        conninfo: &child.dbname_argument,
        archive: &workdir.paths.restored_dump(),
        list,
        jobs,
        options: RestoreOptions {
            drop_if_exists,
            no_owner: spec.no_owner,
            no_acl: spec.no_acl,
            no_comments: spec.no_comments,
            no_tablespaces: spec.no_tablespaces,
            exit_on_error,
        },
    }
    .arguments();
    let kind = || kind_of_file(list);
    failpoint_at("restore.before_program", kind)?;
    let outcome = run::run(
        &clone.programs()?.pg_restore,
        &arguments,
        &child,
        clone.shutdown,
    )?;
    failpoint_at("restore.after_program", kind)?;
    Ok(outcome)
}

/// No entry of an archive has this dump id.
pub const NO_ENTRY: i32 = -1;

/// Run the refused statement once more: a deadlock or an order problem passes, and what fails again has a SQLSTATE.
/// Whether all is well with the object.
fn retry(
    clone: &Clone<'_>,
    archive: &Archive,
    target: &mut Connection,
    failure: &RestoreFailure,
    tolerance: &Tolerance,
) -> Result<bool> {
    let sql = statement(archive, failure);
    let mut result = target.execute(&sql);
    if let Err(error) = &result
        && is_name_not_found(error)
        && let Some(path) = clone.fetch_catalog(None)?.search_path_sql()
    {
        // A materialized view may call a function that works only with the database's own search_path.
        target.recover();
        result = target.execute(&format!("SET LOCAL search_path = {path}; {sql}"));
    }
    let error = match result {
        // Nothing was run: what failed is not known.
        Ok(_) if sql.is_empty() => Error::internal("pg_restore did not say which statement"),
        Ok(_) => {
            log::info!("{} could be restored after all", failure.object);
            return Ok(true);
        }
        Err(error) if error.is_interrupted() || error.is_connection_lost() => return Err(error),
        Err(error) => error,
    };
    target.recover();
    if tolerance.has(failure, &error) {
        log::debug!("{}: {error}; it was made by an earlier run", failure.object);
        return Ok(true);
    }
    if error.is_any_of(&[SqlState::UNDEFINED_OBJECT]) && is_about_setting(failure) {
        log::debug!("the target does not know: {}", failure.command);
        return Ok(true);
    }
    // pg_restore's own words are about the first try, which is the one that counts; ours add the code.
    let error = Error::on(Side::Target, failure.message.clone())
        .with_server_of(&error)
        .context(format!("could not restore {}", failure.object));
    if clone.spec.fail_fast {
        return Err(error);
    }
    error.log("");
    clone
        .workdir
        .record_failure(&Failure::new("schema object", &failure.object, &error))?;
    Ok(false)
}

/// The statement that failed; pg_restore shows only the beginning of a long one, which the archive has whole.
fn statement(archive: &Archive, failure: &RestoreFailure) -> String {
    let Some(beginning) = failure.command.strip_suffix("...") else {
        return failure.command.clone();
    };
    let entry = failure.dump_id.and_then(|id| archive.entry(id));
    match entry.map(|entry| entry.defn.lossy()) {
        Some(defn) if defn.starts_with(beginning) => defn.into_owned(),
        _ => failure.command.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use postgres::error::SqlState;

    use super::{ALREADY_THERE, Tolerance};
    use crate::dump::outcome::RestoreFailure;
    use crate::error::{Error, ServerError, Side};

    #[test]
    fn what_is_there_is_ours_unless_it_was_refused_before() {
        let there = |tolerance: &Tolerance, id| {
            let failure = RestoreFailure {
                dump_id: Some(id),
                ..RestoreFailure::default()
            };
            let server = ServerError::of("ERROR", SqlState::DUPLICATE_OBJECT.code());
            tolerance.has(&failure, &Error::server(Side::Target, server))
        };
        let first = HashSet::from([1, 3]);
        let fresh = Tolerance::default();
        assert!(!there(&fresh, 2));
        let again = fresh.after(&first);
        assert!(there(&again, 2) && !there(&again, 1));
        // 1 and 2 were refused to the run before; the first pass of this one has made 2, as its cause is gone.
        let resumed = Tolerance::of(ALREADY_THERE).except([1, 2]);
        assert!(there(&resumed, 3) && !there(&resumed, 2));
        let again = resumed.after(&first);
        assert!(there(&again, 3) && there(&again, 2) && !there(&again, 1));
    }
}
