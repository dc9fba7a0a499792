//! The schema: one pg_dump of pre-data and post-data, and the two restores around the data. Runs in the parent, which
//! waits for the programs.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use postgres::error::SqlState;

use super::again::again;
use super::replaced::include_partitions;
use super::restore::{ALREADY_THERE, NO_ENTRY, Tolerance, restore};
use super::{Clone, data, drops, filters, prerequisites, step};
use crate::catalog::Catalog;
use crate::dump::archive::{Archive, CatalogId, Section};
use crate::dump::options::{UnknownOptions, is_known_on};
use crate::dump::outcome::ProgramOutcome;
use crate::dump::pg_dump::DumpSpec;
use crate::dump::run;
use crate::dump::select::{Choice, SkipRules, select};
use crate::error::{Context, Error, Result, Side};
use crate::filter::Selection;
use crate::pg::incarnation::Incarnation;
use crate::pg::session::flush_commits;
use crate::pg::wire::Connection;
use crate::snapshot::Snapshot;
use crate::sys::durable::{Sync, remove_file_now, write_atomic_with};
use crate::sys::failpoint::failpoint;
use crate::workdir::done;

/// Dump the schema as the snapshot sees it.
pub fn dump(
    clone: &Clone<'_>,
    catalog: &Catalog,
    snapshot: Option<&Snapshot>,
    selection: Option<&Selection>,
) -> Result<()> {
    let (workdir, started) = (clone.workdir, Instant::now());
    if workdir.is_step_done(step::DUMP)? {
        log::info!("the schema is dumped already");
        return Ok(());
    }
    let Some(snapshot) = snapshot else {
        return Err(Error::internal("no snapshot to dump the schema from"));
    };
    workdir.begin_step(step::DUMP)?;
    let pg_dump = &clone.programs()?.pg_dump;
    let child = clone
        .source()?
        .with_application_name(&clone.run.of("pg_dump"))
        .child()?;
    let file = workdir.paths.dump();
    let excluded = selection.map_or_else(Vec::new, Selection::unreadable_names);
    let arguments = DumpSpec {
        conninfo: &child.dbname_argument,
        snapshot: snapshot.id(),
        excluded_tables: &excluded,
        // Names are compared with those of our own sessions; and the target may know UTF-8 and its own encoding only.
        encoding: (&*catalog.database.encoding != "SQL_ASCII").then_some("UTF8"),
        file: &file,
    }
    .arguments();
    log::info!("dumping the schema with {}", pg_dump.display());
    failpoint("clone.before_dump")?;
    let outcome = run::run(pg_dump, &arguments, &child, clone.shutdown)?;
    check(&outcome, pg_dump, Side::Source).context("could not dump the schema of the source")?;
    workdir.finish_step(step::DUMP, started.elapsed())?;
    workdir.finish_step(step::DUMP_POST, started.elapsed())
}

/// Restore what tables need to be filled. A restore that was interrupted has made some objects and not others, all of
/// them ours and without a row: they are dropped and made again.
pub fn restore_pre(clone: &Clone<'_>, catalog: &Catalog) -> Result<()> {
    let (workdir, started) = (clone.workdir, Instant::now());
    let target = &mut clone.open_target("clone")?;
    if workdir.is_step_done(step::RESTORE_PRE)? {
        log::info!("pre-data is restored already");
        return restore_refused(clone, target);
    }
    let mut archive = read_archive(&workdir.paths.dump())?;
    leave_out_unknown_options(clone, &mut archive, target)?;
    let is_half_made = workdir.is_step_begun(step::RESTORE_PRE);
    // From here on a resume may drop: this must be on disk before the first object is made.
    workdir.begin_step(step::RESTORE_PRE)?;
    failpoint("clone.before_restore_pre")?;
    let drops = clone.spec.drop_if_exists || is_half_made;
    let omitted = filters::omitted(clone)?;
    let choices = select(
        &archive,
        &rules(clone, Section::PreData, &HashSet::new(), &omitted),
    );
    if clone.spec.drop_if_exists {
        // No post-data of this run is there yet: what stands of it is of an earlier clone.
        let choices = select(
            &archive,
            &rules(clone, Section::PostData, &HashSet::new(), &omitted),
        );
        drops::drop_post_data(target, &choices)?;
        if !clone.spec.no_acl {
            drops::reset_default_privileges(target, &choices)?;
        }
    }
    if drops {
        drops::drop_relations(target, &choices)?;
    }
    // Schemas are never dropped: there may be more in them than what we copy. Nor are extensions, which we create.
    let is_container = |choice: &Choice<'_>| choice.entry.desc == "SCHEMA";
    let (containers, rest): (Vec<Choice<'_>>, Vec<Choice<'_>>) =
        choices.into_iter().partition(is_container);
    // A schema may be there for the user's own extensions, or made by the provider; whatever is in it stays.
    let tolerate = if drops {
        ALREADY_THERE
    } else {
        &[SqlState::DUPLICATE_SCHEMA]
    };
    let passes: [(&str, &[Choice<'_>], bool, &'static [SqlState]); 2] = [
        ("pre-containers", &containers, false, tolerate),
        ("pre", &rest, drops, &[]),
    ];
    let mut refused = Vec::new();
    for (name, choices, drops, tolerated) in passes {
        refused.extend(restore(
            clone,
            &archive,
            name,
            choices,
            1,
            drops,
            Tolerance::of(tolerated),
        )?);
        if name == "pre-containers" {
            prerequisites::create_extensions(clone, catalog, target)?;
        }
    }
    flush_commits(target)?;
    // The step is done all the same, since the tables are filled next and must not be made again; what was refused is
    // written down, for a resume to try again by itself.
    note_refused(clone, &refused)?;
    workdir.finish_step(step::RESTORE_PRE, started.elapsed())?;
    failpoint("clone.after_restore_pre")
}

/// Objects of the pre-data that an earlier run could not make, tried again one by one. The statements of an entry that
/// did pass then answer that the object is there.
fn restore_refused(clone: &Clone<'_>, target: &mut Connection) -> Result<()> {
    let refused = refused(clone)?;
    if refused.is_empty() {
        return Ok(());
    }
    if refused.contains(&NO_ENTRY) {
        return Err(Error::state(
            "cannot resume: the restore of the schema had an error that belongs to no object, and cannot be tried again",
        )
        .with_hint("Use --restart --drop-if-exists to start over."));
    }
    let archive = read_archive(&clone.workdir.paths.restored_dump())?;
    let omitted = filters::omitted(clone)?;
    let mut choices = select(
        &archive,
        &rules(clone, Section::PreData, &HashSet::new(), &omitted),
    );
    choices.retain(|choice| refused.contains(&choice.entry.dump_id));
    let again = restore(
        clone,
        &archive,
        "pre-refused",
        &choices,
        1,
        false,
        Tolerance::of(ALREADY_THERE),
    )?;
    flush_commits(target)?;
    note_refused(clone, &again)
}

fn refused(clone: &Clone<'_>) -> Result<HashSet<i32>> {
    let noted: Option<Vec<i32>> = done::read(&clone.workdir.paths.refused())?;
    Ok(noted.unwrap_or_default().into_iter().collect())
}

/// Whether the target has taken every object of the pre-data.
pub fn is_all_restored(clone: &Clone<'_>) -> Result<bool> {
    Ok(refused(clone)?.is_empty())
}

fn note_refused(clone: &Clone<'_>, refused: &[i32]) -> Result<()> {
    if !refused.is_empty() {
        log::warn!(
            "{} objects of the schema could not be restored; going on with the others",
            refused.len()
        );
    }
    done::write(&clone.workdir.paths.refused(), &refused, Sync::Now)
}

/// Restore everything that indexes, constraints and rows had to wait for.
pub fn restore_post(clone: &Clone<'_>, catalog: &Catalog, jobs: u32) -> Result<()> {
    let (workdir, started) = (clone.workdir, Instant::now());
    if workdir.is_step_done(step::RESTORE_POST)? {
        log::info!("post-data is restored already");
        return Ok(());
    }
    let mut archive = read_archive(&workdir.paths.restored_dump())?;
    if include_partitions(&mut archive, catalog, &mut clone.open_target("clone")?)? {
        write_archive(clone, &archive)?;
    }
    let is_half_made = workdir.is_step_begun(step::RESTORE_POST);
    workdir.begin_step(step::RESTORE_POST)?;
    failpoint("clone.before_restore_post")?;
    // Those of tables that were not copied are no more pg_restore's than the others.
    let has_built = match clone.spec.despite_failures {
        true => workdir.is_step_begun(step::INDEXES),
        false => workdir.is_step_done(step::INDEXES)?,
    };
    let built = match has_built {
        true => built(catalog),
        false => HashSet::new(),
    };
    let omitted = filters::omitted(clone)?;
    let choices = select(&archive, &rules(clone, Section::PostData, &built, &omitted));
    // What an interrupted restore made is there, whole: each entry is one statement.
    let mut tolerance = match is_half_made {
        true => Tolerance::of(ALREADY_THERE).except(take_refused_post(clone)?),
        false => Tolerance::default(),
    };
    // An event trigger must not see what we restore; pg_restore would refresh materialized views after them.
    let (event_triggers, rest): (Vec<Choice<'_>>, Vec<Choice<'_>>) =
        choices.into_iter().partition(is_about_event_trigger);
    let mut before = Incarnation::of(&mut clone.open_target("clone")?)?;
    let refused = loop {
        let mut refused = Vec::new();
        for (name, choices) in [("post", &rest), ("post-event-triggers", &event_triggers)] {
            refused.extend(restore(
                clone,
                &archive,
                name,
                choices,
                jobs,
                false,
                tolerance.clone(),
            )?);
        }
        failpoint("clone.before_post_flush")?;
        let now = again("the flush of post-data", clone.shutdown, || {
            let mut target = clone.open_target("clone")?;
            let now = Incarnation::of(&mut target)?;
            flush_commits(&mut target).map(|()| now)
        })?;
        // The sessions of pg_restore are gone: that they ended well does not say that the server has kept what they made.
        if before.is_same(&now) {
            break refused;
        }
        log::warn!(
            "the target was started anew while post-data was restored: restoring what it may have lost"
        );
        before = now;
        tolerance = Tolerance::of(ALREADY_THERE).except(refused);
    };
    let is_data_complete = !clone.spec.despite_failures || data::tell_missing(clone, catalog)?;
    if !refused.is_empty() || !is_data_complete {
        // Not done: the resume runs the whole section again, and passes over what is there.
        return done::write(&workdir.paths.refused_post(), &refused, Sync::Now);
    }
    workdir.finish_step(step::RESTORE_POST, started.elapsed())?;
    failpoint("clone.after_restore_post")
}

/// What the post-data of the run before was refused. Forgotten at once: whoever is interrupted from here on may have made it.
fn take_refused_post(clone: &Clone<'_>) -> Result<Vec<i32>> {
    let path = clone.workdir.paths.refused_post();
    let noted = done::read(&path)?;
    remove_file_now(&path)?;
    Ok(noted.unwrap_or_default())
}

/// The indexes and constraints that our workers see to; if they did not, in this command or in an earlier one of the run,
/// they are pg_restore's. What failed is theirs all the same: it was reported, and a resume tries it again.
pub fn built(catalog: &Catalog) -> HashSet<CatalogId> {
    let mut built = HashSet::new();
    // Those of tables that were not copied, such as unlogged ones on a standby, are nobody's but pg_restore's.
    let copied = catalog.tables_to_copy().map(|table| table.oid);
    for index in copied.flat_map(|table| catalog.indexes_of(table)) {
        built.insert(CatalogId::relation(index.oid));
        let constraint = index.constraint.as_ref();
        built.extend(constraint.map(|constraint| CatalogId::constraint(constraint.oid)));
    }
    built
}

/// An event trigger, or its comment or label.
fn is_about_event_trigger(choice: &Choice<'_>) -> bool {
    let entry = choice.entry;
    entry.desc == "EVENT TRIGGER"
        || (entry.desc == "COMMENT" || entry.desc == "SECURITY LABEL")
            && entry.tag.lossy().starts_with("EVENT TRIGGER ")
}

fn rules<'a>(
    clone: &'a Clone<'_>,
    section: Section,
    built: &'a HashSet<CatalogId>,
    omitted: &'a HashSet<i32>,
) -> SkipRules<'a> {
    SkipRules {
        section,
        skip_extensions: clone.spec.skip_extensions,
        skip_ext_comments: clone.spec.skip_ext_comments,
        left_alone: &clone.left_alone,
        built,
        omitted,
        skip_collations: clone.spec.skip_collations,
        publication: clone.publication.as_deref(),
    }
}

pub fn read_archive(path: &Path) -> Result<Archive> {
    let open = || -> std::io::Result<(File, u64)> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (file, length) =
        open().with_context(|| format!("could not read file \"{}\"", path.display()))?;
    Archive::read_from(BufReader::new(file), length)
        .with_context(|| format!("could not read archive \"{}\"", path.display()))
}

/// Options that this release of the target does not know must not cost the objects that carry them.
fn leave_out_unknown_options(
    clone: &Clone<'_>,
    archive: &mut Archive,
    target: &mut Connection,
) -> Result<()> {
    let unknown = UnknownOptions::find(archive, &mut |option| is_known_on(target, option))?;
    if !unknown.is_empty() {
        let changed = unknown.drop_from(archive);
        log::warn!(
            "the target does not know option {}: left out of {changed} objects",
            unknown.names().join(", ")
        );
    }
    write_archive(clone, archive)
}

fn write_archive(clone: &Clone<'_>, archive: &Archive) -> Result<()> {
    let path = clone.workdir.paths.restored_dump();
    write_atomic_with(&path, Sync::Now, &mut |file| {
        let mut file = BufWriter::new(file);
        archive
            .write_to(&mut file)
            .and_then(|()| {
                file.flush()
                    .map_err(|error| Error::io("could not write", error))
            })
            .with_context(|| format!("could not write file \"{}\"", path.display()))
    })
}

/// A program that lost its server failed because of the server.
pub fn check(outcome: &ProgramOutcome, program: &Path, side: Side) -> Result<()> {
    outcome
        .check(program)
        .map_err(|error| match outcome.lost_server() {
            true => Error::connection_lost(side, error.message()),
            false => error,
        })
}
