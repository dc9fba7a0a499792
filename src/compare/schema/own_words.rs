//! Views of two majors: the server that reads a definition writes it in its own words, so the target is asked to read the
//! source's and to write it again. Runs in the parent; what it makes on the target is temporary, and rolled back.

use postgres::error::SqlState;

use crate::error::{Context, Result};
use crate::pg::wire::Connection;

use super::SchemaReport;
use super::merge::{Difference, What};
use super::wording::without_qualifiers;

/// Take back differences that are none. Texts of one major are compared as they are.
pub fn withdraw_rewordings(
    report: &mut SchemaReport,
    target: &mut Connection,
    versions: (u32, u32),
) -> Result<()> {
    let is_suspect = |difference: &Difference| definitions(difference).is_some();
    if versions.0 / 10_000 == versions.1 / 10_000 || !report.differences.iter().any(is_suspect) {
        return Ok(());
    }
    let what = "could not ask the target how it writes views";
    // What was read so far is read; the next transaction may make something temporary.
    target.execute("ROLLBACK; BEGIN").context(what)?;
    let mut kept = Vec::new();
    for difference in std::mem::take(&mut report.differences) {
        let is_same = match definitions(&difference) {
            Some((ours, theirs)) => is_same_view(target, ours, theirs).context(what)?,
            None => false,
        };
        if !is_same {
            kept.push(difference);
        }
    }
    report.differences = kept;
    target.execute("ROLLBACK").context(what)?;
    Ok(())
}

/// Both definitions of a view that differs in them.
fn definitions(difference: &Difference) -> Option<(&str, &str)> {
    match &difference.what {
        What::Differs {
            property: "definition",
            source: Some(ours),
            target: Some(theirs),
        } if matches!(difference.kind, "view" | "materialized view") => Some((ours, theirs)),
        _ => None,
    }
}

/// The definition as the target writes it. In a protocol that takes one statement: what the source says must not bring
/// others along.
fn reread(target: &mut Connection, definition: &str) -> Result<Option<Vec<u8>>> {
    let definition = definition.trim_end().trim_end_matches(';');
    let create = format!("CREATE TEMPORARY VIEW pgcopydb_reread AS {definition}");
    target.add_parse("", &create)?;
    target.add_execute("", [])?;
    if let Some(error) = target.run_pipeline()?.failure {
        return Err(error);
    }
    let row = target.query_one("SELECT pg_get_viewdef('pg_temp.pgcopydb_reread'::regclass)")?;
    Ok(row.bytes(0).map(<[u8]>::to_vec))
}

fn is_same_view(target: &mut Connection, ours: &str, theirs: &str) -> Result<bool> {
    target.execute("SAVEPOINT one")?;
    match reread(target, ours) {
        Ok(words) => {
            target.execute("ROLLBACK TO SAVEPOINT one")?;
            Ok(words.is_some_and(|words| words == theirs.as_bytes()))
        }
        Err(error) if error.is_interrupted() || error.is_connection_lost() => Err(error),
        Err(error) => {
            target.execute("ROLLBACK TO SAVEPOINT one")?;
            // A standby, or no right to make anything temporary: the texts alone have to tell.
            let may_not = error.is_any_of(&[
                SqlState::READ_ONLY_SQL_TRANSACTION,
                SqlState::INSUFFICIENT_PRIVILEGE,
            ]);
            Ok(may_not && without_qualifiers(ours) == without_qualifiers(theirs))
        }
    }
}
