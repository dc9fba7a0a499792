//! `compare schema`: every object of both databases, kind by kind. Runs in the parent, which has one connection to each
//! server. Both send the objects of a kind in the same order, in batches; they are merged as they come, so that memory
//! does not grow with the number of tables, only with that of the differences.
//!
//! Must not: compare rows, or ask one question an object.

mod dialect;
mod facts;
mod merge;
mod own_words;
mod relations;
mod routines;
mod section;
mod sequences;
mod types;
mod wording;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::catalog::FetchOptions;
use crate::dump::filtered;
use crate::error::{Context, Result};
use crate::filter::{self, Filters};
use crate::pg::connect::connect_and_pin;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, location};
use dialect::Dialect;
use facts::Facts;
pub use merge::{Difference, What};
use section::Section;

const NAME: &str = "pgcopydb compare schema";

/// What is compared, and what is left out.
#[derive(Debug, Clone)]
pub struct SchemaSpec {
    pub source: ConnInfo,
    pub target: ConnInfo,
    pub dir: Option<PathBuf>,
    pub filters: Option<Filters>,
    pub no_owner: bool,
    pub no_acl: bool,
    pub no_comments: bool,
    pub no_tablespaces: bool,
    /// Only what is in the database is compared.
    pub skip_db_properties: bool,
}

impl SchemaSpec {
    fn leaves_out(&self, property: &str) -> bool {
        match property {
            "owner" => self.no_owner,
            "privileges" => self.no_acl,
            "comment" => self.no_comments,
            "tablespace" => self.no_tablespaces,
            _ => false,
        }
    }
}

/// How many objects of one kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub source: u64,
    pub target: u64,
    /// Objects that differ in whatever way.
    pub differ: u64,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct SchemaReport {
    pub equal: bool,
    pub kinds: BTreeMap<&'static str, Count>,
    pub differences: Vec<Difference>,
}

/// Compare. An error means that it could not be done; differences are no error here.
pub fn run(spec: &SchemaSpec, shutdown: &Shutdown) -> Result<SchemaReport> {
    let workdir = WorkDir::open(&location(spec.dir.as_deref()), Service::Compare)?;
    workdir.prepare_compare()?;
    let report = compare(spec, shutdown)?;
    workdir.write_json(&workdir.paths.comparison("schema"), &report)?;
    Ok(report)
}

fn compare(spec: &SchemaSpec, shutdown: &Shutdown) -> Result<SchemaReport> {
    let (_, pinned) = connect_and_pin(&spec.source, NAME, shutdown)?;
    let mut source = open(&pinned, shutdown)?;
    let mut target = open(&spec.target, shutdown)?;
    let versions = (source.server_version(), target.server_version());
    let ours = section::all(&Dialect::new(&source, versions.1));
    let theirs = section::all(&Dialect::new(&target, versions.0));
    let mut report = SchemaReport::default();
    let left_out = left_out(spec, &pinned, &mut source, shutdown)?;
    let (mut missing_relations, mut left_out_relations) = (HashSet::new(), HashSet::new());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        shutdown.check()?;
        if spec.skip_db_properties && types::OF_DATABASE.contains(&ours.kind) {
            continue;
        }
        let mut comparison = merge::Comparison {
            section: ours,
            versions,
            leaves_out: &|property| spec.leaves_out(property),
            missing_relations: &mut missing_relations,
            left_out: &left_out,
            left_out_relations: &mut left_out_relations,
            report: &mut report,
        };
        compare_section((&mut source, ours), (&mut target, theirs), &mut comparison)?;
    }
    let mut comparison = merge::Comparison {
        section: &sequences::SECTION,
        versions,
        leaves_out: &|_| false,
        missing_relations: &mut missing_relations,
        left_out: &left_out,
        left_out_relations: &mut left_out_relations,
        report: &mut report,
    };
    sequences::compare(&mut source, &mut target, &mut comparison)?;
    own_words::withdraw_rewordings(&mut report, &mut target, versions)?;
    count_differing(&mut report);
    report.equal = report.differences.is_empty();
    Ok(report)
}

/// The catalog rows of what the filters leave out, and of what falls with it.
fn left_out(
    spec: &SchemaSpec,
    info: &ConnInfo,
    source: &mut Connection,
    shutdown: &Shutdown,
) -> Result<HashSet<String>> {
    let Some(filters) = &spec.filters else {
        return Ok(HashSet::new());
    };
    filter::check(&mut open_source(info, NAME, shutdown)?, filters)?;
    let options = FetchOptions::default();
    let filtered = filtered::fetch(source, info, filters, &options, shutdown)?;
    let ids = filtered.left_out.iter();
    Ok(ids
        .map(|id| format!("{}:{}", id.tableoid, id.oid))
        .collect())
}

/// A transaction of its own on each side: what is read first and what is read last belong together.
fn open(info: &ConnInfo, shutdown: &Shutdown) -> Result<Connection> {
    let mut connection = open_source(info, NAME, shutdown)?;
    let side = connection.side();
    // Plans for cursors favour the first rows, and all are read here.
    let jit = match connection.server_version() {
        110_000.. => "SET LOCAL jit = off; ",
        _ => "",
    };
    connection
        .execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {jit}SET LOCAL cursor_tuple_fraction = 1"
        ))
        .with_context(|| format!("could not begin a transaction on the {side}"))?;
    Ok(connection)
}

fn compare_section(
    (source, ours): (&mut Connection, &Section),
    (target, theirs): (&mut Connection, &Section),
    comparison: &mut merge::Comparison<'_>,
) -> Result<()> {
    let mut left = Facts::open(source, ours)?;
    let mut right = Facts::open(target, theirs)?;
    merge::merge(&mut left, &mut right, comparison)?;
    left.close()?;
    right.close()
}

fn count_differing(report: &mut SchemaReport) {
    let mut last = None;
    for difference in &report.differences {
        let object = (difference.kind, &difference.name);
        if last != Some(object) {
            report.kinds.entry(difference.kind).or_default().differ += 1;
        }
        last = Some(object);
    }
}
