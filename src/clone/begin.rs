//! How a run begins: fresh, resumed or refused; which snapshot it reads from; and the end of what an earlier run, or this
//! one, left on the servers. Runs in the parent.

use std::time::Duration;

use super::progress::forget_torn;
use super::{Clone, CloneSpec, step};
use crate::error::{Error, Result};
use crate::filter::Filters;
use crate::pg::connect::connect_once;
use crate::pg::session::RunName;
use crate::snapshot::{Snapshot, is_alive};
use crate::stream::setup::{self, SetupSpec};
use crate::sys::signal::Shutdown;
use crate::workdir::WorkDir;
use crate::workdir::state::Wish;

/// A run and how it began.
pub struct Run {
    pub name: RunName,
    pub is_resumed: bool,
    /// What the work directory held before.
    pub earlier: Option<RunName>,
}

/// Decide, and leave the work directory ready.
pub fn begin(spec: &CloneSpec, workdir: &WorkDir) -> Result<Run> {
    let wish = Wish {
        restart: spec.restart,
        resume: spec.resume,
    };
    let begun = workdir.begin(options(spec), wish, &new_id()?)?;
    if begun.is_resumed {
        log::info!("resuming the run in \"{}\"", workdir.paths.top().display());
        forget_torn(workdir)?;
    }
    Ok(Run {
        name: RunName::new(&begun.id),
        is_resumed: begun.is_resumed,
        earlier: begun.earlier_id.as_deref().map(RunName::new),
    })
}

/// 48 random bits: enough to tell runs apart on one server, short enough for application_name.
fn new_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|error| Error::internal(format!("could not make a run id: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The options that say what is copied, with their values in words.
fn options(spec: &CloneSpec) -> Vec<(String, String)> {
    let split = &spec.split;
    let number =
        |value: Option<u64>| value.map_or_else(|| "off".to_string(), |value| value.to_string());
    let flag = |value: bool| if value { "yes" } else { "no" }.to_string();
    [
        ("--source", spec.source.identity()),
        ("--target", spec.target.identity()),
        ("--split-tables-larger-than", number(split.larger_than)),
        ("--split-max-parts", number(split.max_parts.map(u64::from))),
        ("--skip-split-by-ctid", flag(split.skip_ctid)),
        (
            "--filters",
            spec.filters
                .as_ref()
                .map_or_else(|| "none".to_owned(), Filters::words),
        ),
        ("--drop-if-exists", flag(spec.drop_if_exists)),
        ("--no-owner", flag(spec.no_owner)),
        ("--no-acl", flag(spec.no_acl)),
        ("--no-comments", flag(spec.no_comments)),
        ("--no-tablespaces", flag(spec.no_tablespaces)),
        ("--skip-large-objects", flag(spec.skip_large_objects)),
        ("--skip-extensions", flag(spec.skip_extensions)),
        ("--skip-ext-comments", flag(spec.skip_ext_comments)),
        ("--skip-collations", flag(spec.skip_collations)),
        ("--roles", flag(spec.roles.is_some())),
        ("--requirements", spec.requirements.in_words()),
        ("--skip-db-properties", flag(spec.skip_db_properties)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), value))
    .collect()
}

/// The snapshot to read from; `None` when a resumed run has nothing left to read.
pub fn snapshot(clone: &Clone<'_>) -> Result<Option<Snapshot>> {
    let (workdir, spec) = (clone.workdir, clone.spec);
    let process = clone.run.of("clone");
    let has_read_all = [step::DUMP, step::TABLES, step::BLOBS]
        .iter()
        .try_fold(true, |all, step| {
            Ok::<bool, Error>(all && workdir.is_step_done(step)?)
        })?;
    if clone.is_resumed && has_read_all {
        return Ok(None);
    }
    if let Some(follow) = &spec.follow {
        return snapshot_of_slot(clone, follow).map(Some);
    }
    if let Some(id) = &spec.snapshot {
        return Snapshot::import(&clone.source, id, &process, clone.shutdown).map(Some);
    }
    if let Some(id) = workdir.noted_snapshot()? {
        if is_alive(&clone.source, &id, &process, clone.shutdown)? {
            log::info!("using snapshot {id}, which another process holds for this work directory");
            return Snapshot::import(&clone.source, &id, &process, clone.shutdown).map(Some);
        }
        // Its holder was killed before it could remove the note.
        workdir.forget_snapshot()?;
    }
    if clone.is_resumed && workdir.is_step_begun(step::DUMP) && !spec.not_consistent {
        return Err(Error::state(
            "cannot resume consistently: the snapshot of the earlier run is gone and not everything was read from it",
        )
        .with_hint("Use --not-consistent to copy the rest as it is now, or --restart to start over."));
    }
    let snapshot = Snapshot::export(&clone.source, &process, clone.shutdown)?;
    log::info!("exported snapshot {}", snapshot.id());
    Ok(Some(snapshot))
}

/// The copy and the changes must meet: the snapshot is the one that came with the slot. One that is gone cannot be made
/// again, whatever the user allows.
fn snapshot_of_slot(clone: &Clone<'_>, follow: &SetupSpec) -> Result<Snapshot> {
    let (workdir, process) = (clone.workdir, clone.run.of("clone"));
    let noted = workdir.noted_slot_snapshot()?;
    if noted.is_none() {
        setup::refuse_slot_without_snapshot(follow, clone.shutdown)?;
    }
    let (set_up, new) = setup::run(
        &SetupSpec {
            application_name: process.clone(),
            ..follow.clone()
        },
        clone.shutdown,
    )?;
    let source = &clone.source;
    if let Some(new) = new {
        if let Some(id) = &clone.spec.snapshot {
            return Err(Error::state(format!(
                "cannot follow from snapshot \"{id}\": it does not belong to the slot \"{}\"",
                set_up.slot_name
            ))
            .with_hint(
                "Use the snapshot that \"pgcopydb snapshot --follow\" prints, in the same --dir.",
            ));
        }
        let lsn = new.consistent_point;
        log::info!("snapshot {} came with the slot", new.snapshot);
        let (id, exporter) = (new.snapshot, Some(new.exporter));
        return Snapshot::of_slot(source, &id, lsn, exporter, &process, clone.shutdown);
    }
    // Held by "pgcopydb snapshot --follow".
    if let Some((id, lsn)) = noted
        && clone
            .spec
            .snapshot
            .as_ref()
            .is_none_or(|wanted| *wanted == id)
        && is_alive(source, &id, &process, clone.shutdown)?
    {
        log::info!("using snapshot {id}, which was exported with the slot");
        return Snapshot::of_slot(source, &id, lsn, None, &process, clone.shutdown);
    }
    Err(Error::state(format!(
        "cannot resume the copy: the snapshot that came with replication slot \"{}\" is gone, and not everything was \
         read from it",
        set_up.slot_name
    ))
    .with_hint("A new snapshot would not fit to the changes. Use --restart to start over with a new slot."))
}

/// For each server: a run that ends because of a signal has ten seconds for everything.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(1);

/// End every backend that carries this run's name, on both servers. Best effort: it is also done after failures, when a
/// server may be the one that failed.
pub fn end_backends(spec: &CloneSpec, run: &RunName) {
    for info in [&spec.source, &spec.target] {
        let end = || -> Result<u64> {
            let mut connection =
                connect_once(info, "pgcopydb clean-up", &Shutdown::deaf(), CLEAN_UP_WAIT)?;
            connection.set_deadline(Some(CLEAN_UP_WAIT));
            connection.query_one(&run.terminate_sql())?.parse(0)
        };
        if let Err(error) = end() {
            log::debug!(
                "could not end backends of this run on the {}: {error}",
                info.side()
            );
        }
    }
}
