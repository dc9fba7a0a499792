//! `list table-parts`: how a clone would cut large tables, by the same plan that it uses.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;

use super::{Filtered, NameArgs, Wanted};
use crate::catalog::split::{SplitMethod, SplitOptions, method, plan};
use crate::catalog::{Part, PartRange, Table, WorkItem, fetch_key_bounds};
use crate::cli::options::{SplitArgs, parse_jobs};
use crate::cli::stdout;
use crate::cli::text_table::Align::{Left, Right};
use crate::cli::text_table::TextTable;
use crate::error::{Error, Result};
use crate::ident::Oid;
use crate::pg::wire::Connection;
use crate::size::pretty_size;

/// How tables would be split; the number of workers counts, since each gets as many parts as the others.
#[derive(Args)]
pub(super) struct SplitChoice {
    #[command(flatten)]
    split: SplitArgs,
    /// Processes that would copy tables [default: 4]
    #[arg(short = 'J', long, value_name = "N", env = "PGCOPYDB_TABLE_JOBS", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_jobs, help_heading = "Splitting large tables")]
    table_jobs: Option<u32>,
}

impl SplitChoice {
    pub(super) fn is_asked(&self) -> bool {
        self.split.split_tables_larger_than > 0
    }

    pub(super) fn estimates_sizes(&self) -> bool {
        self.split.estimate_table_sizes
    }

    pub(super) fn larger_than(&self) -> u64 {
        self.split.split_tables_larger_than
    }

    fn options(&self, source_version: u32) -> SplitOptions {
        SplitOptions {
            larger_than: self.split.split_tables_larger_than,
            max_parts: Some(self.split.split_max_parts).filter(|parts| *parts > 0),
            skip_ctid: self.split.skip_split_by_ctid,
            table_jobs: self.table_jobs.unwrap_or(4),
            source_version,
        }
    }
}

/// List the parts in which large tables would be copied
#[derive(Args)]
#[command(after_help = "\
Parts cover all of a table: the first has no lower bound, the last no upper one. From is in the part, To is not; both \
are page numbers when a table is split by ctid, else keys. A table that would be copied whole has no line.

JSON: an array of objects with the keys oid, schema, table, number, total, part-key (ctid or the column's name), from, \
to (null where open), bytes (the part's share), bytes-pretty and where.

Example: pgcopydb list table-parts --source postgres://me@old/shop --table-name film --split-tables-larger-than 200kB")]
pub struct TablePartsArgs {
    #[command(flatten)]
    filtered: Filtered,
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    split: SplitChoice,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PartLine {
    oid: Oid,
    schema: Box<str>,
    table: Box<str>,
    number: u32,
    total: u32,
    part_key: Box<str>,
    from: Option<i64>,
    to: Option<i64>,
    bytes: u64,
    bytes_pretty: String,
    r#where: String,
}

impl PartLine {
    fn new(table: &Table, item: &WorkItem, part: &Part) -> PartLine {
        // A table has fewer than 2^32 pages.
        let page = |page: Option<u64>| page.and_then(|page| i64::try_from(page).ok());
        let (part_key, from, to) = match &part.range {
            PartRange::Ctid { from, to } => ("ctid".into(), page(*from), page(*to)),
            PartRange::Key { column, from, to } => (column.clone(), *from, *to),
        };
        PartLine {
            oid: table.oid,
            schema: table.schema.clone(),
            table: table.name.clone(),
            number: part.number,
            total: part.count,
            part_key,
            from,
            to,
            bytes: item.bytes,
            bytes_pretty: pretty_size(item.bytes),
            r#where: part.where_clause(),
        }
    }
}

/// The parts of each of these tables that would be split, in their order.
pub(super) fn parts_by_table(
    source: &mut Connection,
    tables: &[&Table],
    split: &SplitChoice,
) -> Result<HashMap<Oid, Vec<PartLine>>> {
    let options = split.options(source.server_version());
    let by_key: Vec<&Table> = tables
        .iter()
        .copied()
        .filter(|table| method(table, &options) == SplitMethod::Key)
        .collect();
    let bounds = fetch_key_bounds(source, &by_key)?;
    let by_oid: HashMap<Oid, &Table> = tables.iter().map(|table| (table.oid, *table)).collect();
    let mut found: HashMap<Oid, Vec<PartLine>> = HashMap::new();
    for item in plan(tables.iter().copied(), &bounds, &options) {
        if let (Some(part), Some(table)) = (&item.part, by_oid.get(&item.table)) {
            let line = PartLine::new(table, &item, part);
            found.entry(table.oid).or_default().push(line);
        }
    }
    for parts in found.values_mut() {
        parts.sort_by_key(|part| part.number);
    }
    Ok(found)
}

pub fn table_parts(args: &TablePartsArgs) -> Result<()> {
    if !args.split.is_asked() {
        return Err(Error::usage("no size to split tables at given")
            .with_hint("Use --split-tables-larger-than, such as \"10 GB\"."));
    }
    let mut found = args
        .filtered
        .read(args.split.estimates_sizes(), Wanted::Tables)?;
    let chosen: Vec<&Table> = found
        .catalog
        .tables_to_copy()
        .filter(|table| args.names.matches(&table.schema, &table.name))
        .collect();
    let parts = parts_by_table(&mut found.source, &chosen, &args.split)?;
    let mut lines: Vec<PartLine> = parts.into_values().flatten().collect();
    lines.sort_by(|a, b| (&a.schema, &a.table, a.number).cmp(&(&b.schema, &b.table, b.number)));
    if args.filtered.from.json {
        return stdout::print_json(&lines);
    }
    if lines.is_empty() {
        log::info!("none of the {} tables would be split", chosen.len());
    }
    let mut text = TextTable::new(&[
        ("Schema Name", Left),
        ("Table Name", Left),
        ("Part", Right),
        ("Key", Left),
        ("From", Right),
        ("To", Right),
        ("Size", Right),
    ]);
    let bound = |bound: Option<i64>| bound.map_or_else(String::new, |bound| bound.to_string());
    for line in lines {
        text.row(vec![
            line.schema.into(),
            line.table.into(),
            format!("{}/{}", line.number, line.total),
            line.part_key.into(),
            bound(line.from),
            bound(line.to),
            line.bytes_pretty,
        ]);
    }
    stdout::print(&text.render())
}
