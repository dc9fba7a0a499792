//! Settings of the database itself: ALTER DATABASE .. SET and ALTER ROLE .. IN DATABASE .. SET, under the target's own
//! name. Runs in the parent at the end. A setting is no data: what the target does not know, or our role may not set, is
//! left out with a line about it.

use std::time::Instant;

use postgres::error::SqlState;

use super::{Clone, step};
use crate::catalog::Catalog;
use crate::error::{Context, Result};
use crate::pg::session::flush_commits;
use crate::sys::failpoint::failpoint;

/// Unknown parameter or role, a value that is out of its range here, no right, not to be changed now.
const LEFT_OUT: &[SqlState] = &[
    SqlState::UNDEFINED_OBJECT,
    SqlState::INVALID_PARAMETER_VALUE,
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::CANT_CHANGE_RUNTIME_PARAM,
];

pub fn copy(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    let started = Instant::now();
    if clone.spec.skip_db_properties || clone.workdir.is_step_done(step::PROPERTIES)? {
        return Ok(());
    }
    let mut target = clone.open_target("clone")?;
    failpoint("clone.before_properties")?;
    for setting in &catalog.database.settings {
        let sql = setting.alter_sql(clone.target()?.info.dbname());
        match target.execute(&sql) {
            Ok(_) => {}
            Err(error) if error.is_any_of(LEFT_OUT) => {
                log::warn!(
                    "setting \"{}\" of the database is left out: {error}",
                    setting.name
                );
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("could not set \"{}\" of the database", setting.name)
                });
            }
        }
    }
    flush_commits(&mut target)?;
    clone
        .workdir
        .finish_step(step::PROPERTIES, started.elapsed())
}
