//! The end of a follow: everything up to the end position is on the target. Sequences and triggers, and whether there is
//! anything that makes this no success. Runs in the follow parent.

use std::collections::HashSet;
use std::path::Path;

use super::Follow;
use super::remote::Remote;
use crate::catalog::{FetchOptions, Persistence, Sequence, fetch_large_objects, fetch_sequences};
use crate::copy::copy_sequences;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::lsn::Lsn;
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::stream::decode::Plugin;
use crate::stream::positions::Positions;
use crate::stream::setup::publication_of;
use crate::stream::{missed, publication, triggers};
use crate::sys::failpoint::failpoint;

/// Whether this was the end: the end position may have been moved on since it was reached.
pub fn finish(follow: &Follow<'_>, positions: &Positions, remote: &mut Remote) -> Result<bool> {
    failpoint("follow.before_finish")?;
    if is_moved_on(positions, remote)? {
        return Ok(false);
    }
    let mut source = follow.open_source()?;
    let mut target = follow.open_target()?;
    if follow.set_up.plugin == Plugin::Pgoutput {
        publication::check(
            &mut source,
            publication_of(&follow.set_up.slot_name),
            follow.spec.filters.as_ref(),
        )?;
    }
    let mut sequences = fetch_sequences(&mut source, &FetchOptions::default())?;
    if source.query_one("SELECT pg_is_in_recovery()")?.bool(0)? {
        // Unlogged ones cannot be read on a standby.
        sequences.retain(|sequence| sequence.persistence == Persistence::Permanent);
    }
    if follow.spec.filters.is_some() {
        leave_out_missing(&mut target, &mut sequences)?;
    }
    let failures = copy_sequences(&mut source, &mut target, &sequences)?;
    log::info!("set {} sequences", sequences.len() - failures.len());
    failpoint("follow.after_sequences")?;
    triggers::restore(&mut target, &follow.dir)?;
    flush_commits(&mut target)?;
    failpoint("follow.before_done")?;
    warn_of_large_objects(follow, true)?;
    let (transactions, changes, grouped) = positions.applied();
    let share = (grouped * 100).checked_div(changes).unwrap_or(0);
    log::info!(
        "applied {transactions} transactions with {changes} changes, {share}% of them in sets"
    );
    if let Some(failure) = failures.first() {
        return Err(failure.error.clone());
    }
    // The last word with the sentinel: whoever moves the end position from here on finds nobody who follows.
    if is_moved_on(positions, remote)? {
        return Ok(false);
    }
    check_missed(&follow.dir)?;
    log::info!("the end position is reached: everything up to it is on the target");
    Ok(true)
}

fn is_moved_on(positions: &Positions, remote: &mut Remote) -> Result<bool> {
    remote.exchange_for_end(positions)?;
    let reached = positions.reached().unwrap_or(Lsn::INVALID);
    let is_moved_on = positions.is_end_after(reached);
    if is_moved_on {
        log::info!(
            "everything up to {reached} is on the target, and the end was moved on: following further"
        );
    }
    Ok(is_moved_on)
}

/// What the filters left out of the copy, a sequence may be because of its table, is not there to be set.
fn leave_out_missing(target: &mut Connection, sequences: &mut Vec<Sequence>) -> Result<()> {
    let there = fetch_sequences(target, &FetchOptions::default())?;
    let names: HashSet<(&str, &str)> = there.iter().map(|it| (&*it.schema, &*it.name)).collect();
    sequences.retain(|sequence| {
        let is_there = names.contains(&(&*sequence.schema, &*sequence.name));
        if !is_there {
            log::info!(
                "sequence {} is not on the target: left out",
                sequence.qualified_name()
            );
        }
        is_there
    });
    Ok(())
}

/// Changes that met no row, in this run or in an earlier one: the target is not what the source was.
pub fn check_missed(dir: &Path) -> Result<()> {
    let missed = missed::count(dir)?;
    if missed > 0 {
        return Err(Error::new(
            ErrorKind::Target,
            format!("{missed} updates or deletes met no row on the target: it differs from the source"),
        )
        .with_side(Side::Target)
        .with_hint(
            "Somebody else has written to the target, or rows were missing from the start. The log names them, and \"pgcopydb \
             compare data --rows\" what differs now. Each run of this follow ends like this, until \"pgcopydb stream cleanup\" \
             or a new clone with --restart ends the follow.",
        ));
    }
    Ok(())
}

/// Large objects are not in the changes.
pub fn warn_of_large_objects(follow: &Follow<'_>, is_end: bool) -> Result<()> {
    let there = fetch_large_objects(&mut follow.open_source()?)?.count;
    let here = match is_end {
        true => fetch_large_objects(&mut follow.open_target()?)?.count,
        false => there,
    };
    if there > 0 && !is_end {
        log::warn!(
            "the source has {there} large objects: changes to them are not replicated; use \"pgcopydb copy blobs\" at the end"
        );
    } else if there != here {
        log::warn!(
            "the source has {there} large objects, the target {here}: use \"pgcopydb copy blobs\""
        );
    }
    Ok(())
}
