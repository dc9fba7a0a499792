//! The preflight: what will work, what will not and why, with what mends it. Runs in the process of `pgcopydb check`, and
//! at the start of `clone` and `follow`, which refuse what fails and log what is worth a warning. Facts are fetched in a
//! few queries (`server`, `source_objects`, `target_objects`, `following`), and decided about by pure functions. Writes
//! nothing on either server, and no file.

mod capacity;
mod finding;
mod following;
mod instance;
mod objects;
mod report;
mod rights;
mod server;
mod servers;
mod source_objects;
mod spec;
mod target_objects;

pub use finding::{Report, Verdict};
pub use instance::{InstanceNeeds, instance, run_instance};
pub use report::{json, text};
pub use servers::{NEWEST_MAJOR, OLDEST_MAJOR};
pub use spec::{CheckSpec, Jobs, Scope};
pub use target_objects::schemas_of_others;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::{self, Catalog, FetchOptions};
use crate::dump::filtered;
use crate::dump::programs::{Programs, SearchPlaces};
use crate::dump::select::LeftAlone;
use crate::error::{Result, Side};
use crate::ident::shorten;
use crate::pg::session::{TargetSettings, open_and_pin, open_source, open_target};
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;
use crate::workdir::{cdc_location, location};
use capacity::{Disk, Needed};
use finding::{Finding, Group};
use server::Server;
use source_objects::SourceObjects;
use target_objects::TargetObjects;

const NAME: &str = "pgcopydb check";

/// Lower oids are given at initdb only. Source: FirstNormalObjectId in access/transam.h.
const FIRST_USER_OID: u32 = 16_384;

/// What is known of the source before its catalog is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    server: Server,
    objects: SourceObjects,
}

impl SourceFacts {
    /// As it is now. Errors: a version that nothing else could be asked of.
    pub fn look(source: &mut Connection) -> Result<SourceFacts> {
        let server = server::fetch(source)?;
        let mut report = Report::default();
        report.add([servers::source_version(&server)]);
        refuse(&report)?;
        Ok(SourceFacts {
            objects: source_objects::fetch(source)?,
            server,
        })
    }

    /// As server_version_num.
    pub fn version(&self) -> u32 {
        self.server.version
    }
}

/// What is known of both servers before the source's objects are.
pub struct Begun {
    source: SourceFacts,
    target: Server,
}

/// How much is checked at the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// pg_dump and pg_restore are needed.
    pub programs: bool,
    /// Everything that can be known before the snapshot is taken.
    pub all: bool,
}

/// `pgcopydb check`: everything, whether or not something fails.
pub fn run(spec: &CheckSpec, shutdown: &Shutdown) -> Result<Report> {
    let (mut source, source_info) = open_and_pin(spec.source()?, NAME, shutdown)?;
    let (mut target, target_info) = open_and_pin(spec.target()?, NAME, shutdown)?;
    let spec = CheckSpec {
        source: Some(source_info),
        target: Some(target_info),
        ..spec.clone()
    };
    let both = (server::fetch(&mut source)?, server::fetch(&mut target)?);
    let mut report = Report::default();
    report.add(servers::decide(&both.0, &both.1));
    // What a server of another age, or the same one twice, would say about the rest is of no use.
    if report.refusal().is_some() {
        return Ok(report);
    }
    report.add([programs(&both, shutdown)?.1]);
    report.add(decide_before_objects(&spec, &both));
    let source_objects = source_objects::fetch(&mut source)?;
    let (catalog, finding) = fetch_catalog(&spec, shutdown)?;
    report.add(finding);
    let there = target_objects::fetch(&mut target, &catalog)?;
    report.add(decide_objects(
        &spec,
        &both,
        &source_objects,
        &catalog,
        &there,
    ));
    if let Some(follow) = &spec.follow {
        drop((source, target));
        report.add(following::look(follow, &both.0, &catalog, shutdown)?);
    }
    Ok(report)
}

/// The beginning of a clone, or of a section of one; the programs, if they are wanted.
pub fn begin(
    spec: &CheckSpec,
    wanted: Wanted,
    source: SourceFacts,
    target: &mut Connection,
    shutdown: &Shutdown,
) -> Result<(Option<Programs>, Begun)> {
    let both = (source.server.clone(), server::fetch(target)?);
    let mut report = Report::default();
    report.add(servers::decide(&both.0, &both.1));
    refuse(&report)?;
    let mut found = None;
    if wanted.programs {
        let (programs, finding) = programs(&both, shutdown)?;
        report.add([finding]);
        found = programs;
    }
    if wanted.all {
        report.add(decide_before_objects(spec, &both));
    }
    report.log_warnings();
    refuse(&report)?;
    let (_, target) = both;
    Ok((found, Begun { source, target }))
}

/// The objects of a clone, before the first is made; what of them is left alone.
pub fn objects(
    spec: &CheckSpec,
    begun: &Begun,
    catalog: &Catalog,
    target: &mut Connection,
) -> Result<LeftAlone> {
    let source_objects = &begun.source.objects;
    let there = target_objects::fetch(target, catalog)?;
    let both = (begun.source.server.clone(), begun.target.clone());
    let mut report = Report::default();
    let findings = decide_objects(spec, &both, source_objects, catalog, &there);
    report.add(
        findings
            .into_iter()
            .filter(|finding| finding.id != objects::UNLOGGED),
    );
    report.log_warnings();
    refuse(&report)?;
    let left_alone = left_alone(spec, &both, source_objects, catalog, &there);
    log_left_alone(&left_alone);
    Ok(left_alone)
}

/// The same with the source's objects as they are now, for a clone whose snapshot comes with a slot that is not made yet.
pub fn objects_now(spec: &CheckSpec, begun: &Begun, shutdown: &Shutdown) -> Result<()> {
    let (catalog, finding) = fetch_catalog(spec, shutdown)?;
    let settings = TargetSettings::default();
    let mut target = open_target(spec.target()?, NAME, &settings, shutdown)?;
    let there = target_objects::fetch(&mut target, &catalog)?;
    let both = (begun.source.server.clone(), begun.target.clone());
    let mut report = Report::default();
    report.add(decide_objects(
        spec,
        &both,
        &begun.source.objects,
        &catalog,
        &there,
    ));
    report.add(finding);
    refuse(&report)
}

/// The beginning of a follow: versions and capacity; what following needs is looked at when it is set up.
pub fn begin_follow(source: &mut Connection, target: &mut Connection) -> Result<()> {
    let both = (server::fetch(source)?, server::fetch(target)?);
    let mut report = Report::default();
    report.add(servers::decide(&both.0, &both.1));
    report.log_warnings();
    refuse(&report)
}

/// What fails is an error.
pub fn refuse(report: &Report) -> Result<()> {
    report.refusal().map_or(Ok(()), Err)
}

/// The programs, unless they are missing, and the finding about them.
fn programs(both: &(Server, Server), shutdown: &Shutdown) -> Result<(Option<Programs>, Finding)> {
    let (group, id) = (Group::Servers, "programs");
    let places = SearchPlaces::from_environment();
    match places.find(both.0.version, both.1.version, shutdown) {
        Ok(programs) => {
            let reason = format!(
                "pg_dump and pg_restore {} are in \"{}\"",
                programs.version,
                programs
                    .pg_dump
                    .parent()
                    .unwrap_or(&programs.pg_dump)
                    .display()
            );
            let finding = Finding::pass(group, id, Side::Source, reason).of_no_side();
            Ok((Some(programs), finding))
        }
        Err(error) if error.is_interrupted() => Err(error),
        Err(error) => Ok((None, Finding::of_error(group, id, &error))),
    }
}

fn decide_before_objects(spec: &CheckSpec, both: &(Server, Server)) -> Vec<Finding> {
    let (source, target) = both;
    let needed = Needed::of(&spec.jobs, spec.follow.is_some());
    let mut findings = servers::decide_texts(source, target);
    findings.extend(rights::on_target(target));
    findings.extend(capacity::decide(source, target, needed));
    for disk in disks(spec) {
        findings.push(capacity::disk(&disk));
    }
    findings
}

fn disks(spec: &CheckSpec) -> Vec<Disk> {
    let top: PathBuf = location(spec.dir.as_deref());
    let mut disks = vec![Disk::look(&top, false)];
    if spec.follow.is_some() {
        disks.push(Disk::look(&cdc_location(spec.dir.as_deref()), true));
    }
    disks
}

fn decide_objects(
    spec: &CheckSpec,
    (source, target): &(Server, Server),
    source_objects: &SourceObjects,
    catalog: &Catalog,
    there: &TargetObjects,
) -> Vec<Finding> {
    let scope = spec.scope;
    let mut findings = rights::on_source(source, source_objects, catalog, scope);
    findings.extend(objects::decide(
        source,
        source_objects,
        catalog,
        there,
        scope,
    ));
    findings.extend(rights::to_make(
        target,
        source_objects,
        catalog,
        there,
        scope,
    ));
    findings.push(capacity::locks(source, catalog.tables.len() as u64));
    findings
}

/// What a role that is no superuser may not change on the target, and loses nothing by not changing.
fn left_alone(
    spec: &CheckSpec,
    (_, target): &(Server, Server),
    source_objects: &SourceObjects,
    catalog: &Catalog,
    there: &TargetObjects,
) -> LeftAlone {
    if target.is_superuser {
        return LeftAlone::default();
    }
    let is_of_others = |name: &str| {
        let offer = there.offer(name);
        offer.is_some_and(|offer| offer.is_installed && !offer.is_ours)
    };
    LeftAlone {
        extensions: catalog
            .extensions
            .iter()
            // Those that every database has from the start are not in a dump.
            .filter(|extension| extension.oid >= FIRST_USER_OID)
            .filter(|extension| is_of_others(&extension.name))
            .map(|extension| extension.name.to_string())
            .collect(),
        schemas: there.schemas_of_others.clone(),
        public_schema: source_objects.is_public_of_the_cluster && !spec.scope.no_owner,
    }
}

fn log_left_alone(left_alone: &LeftAlone) {
    if !left_alone.extensions.is_empty() {
        let mut names: Vec<String> = left_alone.extensions.iter().cloned().collect();
        names.sort_unstable();
        log::info!(
            "extensions of another role are on the target already, and keep their comments: {}",
            shorten(&names)
        );
    }
    if left_alone.public_schema {
        log::info!("schema \"public\" keeps the owner that it has on the target");
    }
}

/// Of a moment of its own. What falls with what the filters leave out is known from a dump of the schema; where that
/// cannot be made the finding says why, and everything is looked at.
fn fetch_catalog(spec: &CheckSpec, shutdown: &Shutdown) -> Result<(Catalog, Option<Finding>)> {
    let mut source = open_source(spec.source()?, NAME, shutdown)?;
    let options = FetchOptions {
        // Sizes do not matter here.
        estimate_sizes: true,
        skip_extensions: spec.scope.skip_extensions,
    };
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    source.execute(BEGIN)?;
    let mut finding = None;
    if let Some(filters) = &spec.filters {
        match filtered::fetch(&mut source, spec.source()?, filters, &options, shutdown) {
            Ok(filtered) => return Ok((filtered.catalog, None)),
            Err(error) if error.is_interrupted() || error.is_connection_lost() => {
                return Err(error);
            }
            Err(error) => finding = Some(Finding::of_error(Group::Objects, "filters", &error)),
        }
        source.execute("ROLLBACK")?;
        source.execute(BEGIN)?;
    }
    let catalog = catalog::fetch(&mut source, &options)?;
    source.execute("ROLLBACK")?;
    Ok((catalog, finding))
}
