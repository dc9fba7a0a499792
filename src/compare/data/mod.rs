//! `compare data`: the rows of both databases, table by table: how many there are, and a checksum that does not depend on
//! their order. Runs in the parent, which holds one snapshot a side, and forks workers that ask both servers at once.
//!
//! Two rounds: sums of every table, in parts where it is large; then, of tables that differ and have a key, which rows.
//!
//! Must not: bring rows here that need not be looked at. The servers make the checksums.

mod answer;
mod checksum;
mod exactly;
mod keys;
mod locate;
mod pairs;
mod plan;
mod report;
mod rewritten;
mod snapshots;
mod supervise;
mod work;
mod worker;

use std::collections::HashSet;
use std::path::PathBuf;

use crate::catalog::{self, Catalog, FetchOptions};
use crate::dump::filtered;
use crate::error::Result;
use crate::filter::{self, Filters};
use crate::ident::QualifiedName;
use crate::pg::connect::connect_and_pin;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::sys::signal::Shutdown;
use crate::workdir::{QueuesOf, Service, WorkDir, cdc_location, location};
pub use answer::{Row, RowIs, Sum};
use checksum::Method;
use pairs::Pair;
use plan::Item;
pub use report::{DataReport, Located, SideReport, Status, TableReport};
use snapshots::Snapshots;

const NAME: &str = "pgcopydb compare data";

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct DataSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    pub dir: Option<PathBuf>,
    /// Processes, each with a connection to both servers.
    pub jobs: u32,
    /// A follow runs on the same work directory: compare at one exact point of its changes.
    pub follow: bool,
    pub skip_large_objects: bool,
    pub filters: Option<Filters>,
    /// Tell each row that differs, not only how many and between which keys.
    pub names_rows: bool,
}

/// Everything a worker reads; made by the parent, inherited across fork, never changed.
struct Context<'a> {
    source: ConnInfo,
    target: ConnInfo,
    pairs: &'a [Pair],
    method: Method,
    source_snapshot: &'a str,
    target_snapshot: &'a str,
    workdir: &'a WorkDir,
    jobs: u32,
}

/// Compare. An error means that it could not be done at all; what differs, and tables that could not be read, are in the
/// report.
pub fn run(spec: &DataSpec, shutdown: &Shutdown) -> Result<DataReport> {
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Compare)?;
    workdir.prepare_compare()?;
    workdir.remove_noted_queues(QueuesOf::Compare)?;
    let (_, source) = connect_and_pin(&spec.source, NAME, shutdown)?;
    if let Some(filters) = &spec.filters {
        filter::check(&mut open_source(&source, NAME, shutdown)?, filters)?;
    }
    let (_, target) = connect_and_pin(&spec.target, NAME, shutdown)?;
    let mut snapshots = match spec.follow {
        false => Snapshots::now(&source, &target, shutdown)?,
        true => {
            let dir = cdc_location(spec.dir.as_deref());
            Snapshots::of_follow(&source, &target, &dir, shutdown)?
        }
    };
    let (ours, filtered_out) = fetch_source(spec, &source, &mut snapshots, shutdown)?;
    let theirs = catalog::fetch(snapshots.target.connection(), &FetchOptions::default())?;
    let method = Method::choose(&mut snapshots, (&ours, &theirs))?;
    let mut pairs = pairs::pair(&ours, &theirs, &filtered_out);
    if !spec.skip_large_objects {
        pairs.extend(pairs::large_objects(&ours, &theirs));
    }
    keys::fetch(snapshots.source.connection(), &ours, &mut pairs)?;
    let mut report = compare(
        spec,
        &workdir,
        (source, target),
        &mut snapshots,
        (&ours, &pairs, method),
        shutdown,
    )?;
    rewritten::withdraw(&mut report, &pairs, &mut snapshots)?;
    snapshots.release()?;
    workdir.write_json(&workdir.paths.comparison("data"), &report)?;
    Ok(report)
}

/// What is compared of the source, and the tables that the filters leave out.
fn fetch_source(
    spec: &DataSpec,
    source: &ConnInfo,
    snapshots: &mut Snapshots,
    shutdown: &Shutdown,
) -> Result<(Catalog, HashSet<QualifiedName>)> {
    let connection = snapshots.source.connection();
    let options = FetchOptions::default();
    let Some(filters) = &spec.filters else {
        return Ok((catalog::fetch(connection, &options)?, HashSet::new()));
    };
    let filtered = filtered::fetch(connection, source, filters, &options, shutdown)?;
    let names = filtered
        .skipped
        .tables
        .iter()
        .map(|table| table.qualified_name());
    Ok((filtered.catalog, names.collect()))
}

fn compare(
    spec: &DataSpec,
    workdir: &WorkDir,
    (source, target): (ConnInfo, ConnInfo),
    snapshots: &mut Snapshots,
    (ours, pairs, method): (&Catalog, &[Pair], Method),
    shutdown: &Shutdown,
) -> Result<DataReport> {
    let items = plan::sums(snapshots.source.connection(), ours, pairs)?;
    let context = Context {
        source,
        target,
        pairs,
        method,
        source_snapshot: snapshots.source.id(),
        target_snapshot: snapshots.target.id(),
        workdir,
        jobs: spec.jobs,
    };
    log::info!(
        "comparing {} tables, in {} parts",
        pairs.iter().filter(|pair| pair.obstacle.is_none()).count(),
        items.len()
    );
    let mut answers = supervise::round(&context, &items, shutdown)?;
    let again: Vec<Item> = plan::locations(pairs, &answers);
    if !again.is_empty() {
        log::info!("looking for the rows that differ in {} tables", again.len());
        answers.extend(supervise::round(&context, &again, shutdown)?);
    }
    Ok(report::make(pairs, answers, spec.names_rows))
}
