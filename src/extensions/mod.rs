//! `copy extensions`, and the extensions of a clone. `plan` says which ones are created and in which order, `target` asks
//! and creates, `schemas` makes what they are put into, `rows` copies what their configuration tables have of the user's,
//! `privileges` repeats what the user granted on what is theirs.
//! Runs in the parent, before anything else is on the target.
//!
//! Must not: change an extension that the target has, or its rows.

mod plan;
mod privileges;
mod requirements;
mod rows;
mod schemas;
mod target;

use std::collections::HashSet;
use std::path::PathBuf;

use crate::catalog::{self, Catalog, Extension, FetchOptions};
use crate::error::{Context, Result};
use crate::filter::{self, Filters, Selection};
use crate::ident::{Oid, quote_ident, quote_literal};
use crate::pg::connect::connect_and_pin;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{TargetSettings, flush_commits, open_target};
use crate::pg::wire::Connection;
use crate::snapshot;
use crate::sys::failpoint::failpoint;
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, location};
use plan::Creation;
pub use requirements::Requirements;
use rows::Configuration;
use schemas::Schema;

const APPLICATION_NAME: &str = "pgcopydb extensions";

#[derive(Debug, Clone)]
pub struct ExtensionsSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    /// None: `$TMPDIR/pgcopydb`.
    pub dir: Option<PathBuf>,
    pub requirements: Requirements,
    /// Which ones are copied; `None`: all.
    pub filters: Option<Filters>,
    pub skip_comments: bool,
    /// A snapshot of the source, held elsewhere.
    pub snapshot: Option<String>,
}

/// `copy extensions`: with their schemas, comments and configuration. Each is one transaction: an extension that is on the
/// target is there with everything, so that another run may keep it.
pub fn copy(spec: &ExtensionsSpec, shutdown: &Shutdown) -> Result<()> {
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Clone)?;
    let (connection, source) = connect_and_pin(&spec.source, APPLICATION_NAME, shutdown)?;
    drop(connection);
    let (connection, target) = connect_and_pin(&spec.target, APPLICATION_NAME, shutdown)?;
    drop(connection);
    let wanted = spec.snapshot.as_deref();
    let mut snapshot = snapshot::shared(&source, &workdir, wanted, APPLICATION_NAME, shutdown)?;
    let mut catalog = catalog::fetch(snapshot.connection(), &FetchOptions::default())?;
    if let Some(filters) = &spec.filters {
        leave_out(
            &mut catalog,
            &filter::resolve(snapshot.connection(), filters)?,
        );
    }
    let settings = TargetSettings::default();
    let mut target = open_target(&target, APPLICATION_NAME, &settings, shutdown)?;
    copy_all(spec, &catalog, snapshot.connection(), &mut target)?;
    flush_commits(&mut target)?;
    snapshot.release()
}

/// What [include-only-extension] and [exclude-extension] say. Rules about tables are not asked: what an extension has is
/// its own.
fn leave_out(catalog: &mut Catalog, selection: &Selection) {
    /// `pg_extension` has the same OID in every PostgreSQL.
    const PG_EXTENSION: Oid = 3079;
    let out: HashSet<Oid> = selection
        .left_out
        .iter()
        .filter(|left_out| left_out.catalog == PG_EXTENSION)
        .map(|left_out| left_out.oid)
        .collect();
    catalog
        .extensions
        .retain(|extension| !out.contains(&extension.oid));
}

fn copy_all(
    spec: &ExtensionsSpec,
    catalog: &Catalog,
    source: &mut Connection,
    target: &mut Connection,
) -> Result<()> {
    let offers = target::fetch_offers(target)?;
    // Everything is looked at before anything is done.
    let plan = plan::plan(&catalog.extensions, &spec.requirements, &offers)?;
    target::tell(&plan);
    let configuration = rows::fetch(source, catalog)?;
    let schemas = schemas::fetch(source)?;
    let privileges = privileges::fetch(source)?;
    let is_replica = as_origin(target)?;
    for creation in &plan.create {
        let name = quote_ident(&creation.extension.name);
        let one = One {
            spec,
            catalog,
            creation,
            configuration: &configuration,
            schema: schemas.get(&*creation.extension.schema),
            privileges: privileges
                .get(&creation.extension.oid)
                .map_or(&[], Vec::as_slice),
            is_replica,
        };
        one.copy(source, target)
            .with_context(|| format!("could not copy extension {name}"))?;
        failpoint("extensions.after_one")?;
    }
    log::info!("copied {} extensions", plan.create.len());
    Ok(())
}

/// One extension on its way.
struct One<'a> {
    spec: &'a ExtensionsSpec,
    catalog: &'a Catalog,
    creation: &'a Creation<'a>,
    configuration: &'a Configuration,
    schema: Option<&'a Schema>,
    privileges: &'a [String],
    /// Our role may turn triggers off.
    is_replica: bool,
}

impl One<'_> {
    fn copy(&self, source: &mut Connection, target: &mut Connection) -> Result<()> {
        let extension = self.creation.extension;
        target.execute("BEGIN")?;
        if let Some(schema) = self.schema.filter(|_| !extension.makes_schema) {
            schemas::create(schema, target)?;
        }
        target::create(self.creation, target)?;
        if !self.spec.skip_comments {
            comment(extension, source, target)?;
        }
        privileges::repeat(self.privileges, target)?;
        rows::copy(
            self.configuration,
            extension.oid,
            self.catalog,
            self.is_replica,
            source,
            target,
        )?;
        failpoint("extensions.before_commit")?;
        target.commit()
    }
}

/// The session was opened for rows, as a replica where our role may do that, and then triggers do not fire. The scripts
/// of extensions may need theirs. Whether our role may; one that may not cannot even set it back.
fn as_origin(target: &mut Connection) -> Result<bool> {
    let row = target.query_one("SELECT current_setting('session_replication_role') = 'replica'")?;
    let is_replica = row.bool(0)?;
    if is_replica {
        target.execute("SET session_replication_role = origin")?;
    }
    Ok(is_replica)
}

/// The extension brought a comment of its own; the user may have written another.
fn comment(extension: &Extension, source: &mut Connection, target: &mut Connection) -> Result<()> {
    let name = quote_literal(&extension.name);
    let sql = format!(
        "SELECT obj_description(oid, 'pg_extension') FROM pg_catalog.pg_extension WHERE extname = {name}"
    );
    let ours = target.query_one(&sql)?;
    let theirs = source.query_one(&sql)?;
    let (ours, theirs) = (ours.opt_text(0)?, theirs.opt_text(0)?);
    if ours == theirs {
        return Ok(());
    }
    let text = theirs.map_or("NULL".to_string(), quote_literal);
    target.execute(&format!(
        "COMMENT ON EXTENSION {} IS {text}",
        quote_ident(&extension.name)
    ))?;
    Ok(())
}

/// Whether the target can have all extensions of a clone; an error names those that it cannot.
pub fn check(
    extensions: &[Extension],
    requirements: &Requirements,
    target: &mut Connection,
) -> Result<()> {
    let offers = target::fetch_offers(target)?;
    plan::plan(extensions, requirements, &offers).map(|_| ())
}

/// Create the extensions of a clone. Their schemas are there; their rows come with those of all tables.
pub fn create(
    extensions: &[Extension],
    requirements: &Requirements,
    target: &mut Connection,
) -> Result<()> {
    let offers = target::fetch_offers(target)?;
    let plan = plan::plan(extensions, requirements, &offers)?;
    target::tell(&plan);
    let is_replica = as_origin(target)?;
    for creation in &plan.create {
        target::create(creation, target)?;
    }
    if is_replica {
        target.execute("SET session_replication_role = replica")?;
    }
    Ok(())
}
