//! `list tables`, `list sequences`, `list indexes`: what a clone would copy, set and build.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;

use super::parts::{PartLine, SplitChoice, parts_by_table};
use super::{Filtered, Found, NameArgs, Wanted};
use crate::catalog::inventory::{
    SequenceState, fetch_sequence_states, fetch_tables_with_primary_key,
};
use crate::catalog::{Catalog, ConstraintKind, Index, Sequence, Table};
use crate::cli::stdout;
use crate::cli::text_table::Align::{Left, Right};
use crate::cli::text_table::TextTable;
use crate::dump::closure::Omitted;
use crate::error::Result;
use crate::ident::Oid;
use crate::size::pretty_size;

/// List the tables whose rows would be copied
#[derive(Args)]
#[command(after_help = "\
Largest first. Partitions are listed, their parents hold no rows. On a standby unlogged tables cannot be read.

JSON: an array of objects with the keys oid, schema, name, owner, reltuples (an estimate; null when the table was never \
analyzed), bytes (heap and TOAST), bytes-pretty, exclude-data, restore-list-name, part-key (the integer key to split \
by, or null); with --split-tables-larger-than parts, an array as in list table-parts; with --list-skipped reason. \
exclude-data says that the table itself is copied, without its rows.

Examples: pgcopydb list tables --source postgres://me@old/shop --without-pkey
  pgcopydb list tables --source postgres://me@old/shop --split-tables-larger-than \"10 GB\" --json")]
pub struct TablesArgs {
    #[command(flatten)]
    filtered: Filtered,
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    split: SplitChoice,
    /// Only tables without a primary key
    #[arg(long)]
    without_pkey: bool,
    /// With --filters, the tables that would not be copied, and why
    #[arg(long, requires = "filters")]
    list_skipped: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableLine<'a> {
    oid: Oid,
    schema: &'a str,
    name: &'a str,
    owner: &'a str,
    reltuples: Option<u64>,
    bytes: u64,
    bytes_pretty: String,
    exclude_data: bool,
    restore_list_name: String,
    part_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<PartLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> TableLine<'a> {
    pub(super) fn new(table: &'a Table, parts: Option<Vec<PartLine>>) -> TableLine<'a> {
        TableLine {
            oid: table.oid,
            schema: &table.schema,
            name: &table.name,
            owner: &table.owner,
            reltuples: table.row_estimate,
            bytes: table.bytes,
            bytes_pretty: pretty_size(table.bytes),
            exclude_data: table.rows_left_out,
            restore_list_name: format!("{} {} {}", table.schema, table.name, table.owner),
            part_key: table.split_key.as_ref().map(|key| &*key.column),
            parts,
            reason: None,
        }
    }
}

pub fn tables(args: &TablesArgs) -> Result<()> {
    let Found {
        mut source,
        catalog,
        skipped,
        omitted,
    } = args
        .filtered
        .read(args.split.estimates_sizes(), Wanted::Tables)?;
    let with_key = match args.without_pkey {
        true => fetch_tables_with_primary_key(&mut source)?,
        false => Default::default(),
    };
    let mut chosen: Vec<&Table> = listed(args.list_skipped, &catalog, skipped.as_ref())
        .tables_to_copy()
        .filter(|table| args.names.matches(&table.schema, &table.name))
        .filter(|table| !with_key.contains(&table.oid))
        .collect();
    chosen.sort_by_key(|table| (std::cmp::Reverse(table.bytes), table.oid));
    if args.list_skipped {
        let kept = |oid| catalog.table(oid).is_some();
        return print_skipped(&chosen, &omitted, &kept, args.filtered.from.json);
    }
    let mut parts = match args.split.is_asked() {
        true => Some(parts_by_table(&mut source, &chosen, &args.split)?),
        false => None,
    };
    if args.filtered.from.json {
        let lines: Vec<TableLine<'_>> = chosen
            .iter()
            .map(|table| {
                let own = |parts: &mut HashMap<Oid, Vec<PartLine>>| {
                    parts.remove(&table.oid).unwrap_or_default()
                };
                TableLine::new(table, parts.as_mut().map(own))
            })
            .collect();
        return stdout::print_json(&lines);
    }
    let mut columns = vec![
        ("OID", Right),
        ("Schema Name", Left),
        ("Table Name", Left),
        ("Est. Row Count", Right),
        ("On-disk size", Right),
    ];
    columns.extend(parts.as_ref().map(|_| ("Parts", Right)));
    let mut text = TextTable::new(&columns);
    for table in chosen {
        let mut cells = vec![
            table.oid.to_string(),
            table.schema.to_string(),
            table.name.to_string(),
            table
                .row_estimate
                .map_or_else(String::new, |rows| rows.to_string()),
            pretty_size(table.bytes),
        ];
        cells.extend(parts.as_ref().map(|parts| {
            let count = parts.get(&table.oid).map_or(1, |parts| parts.len().max(1));
            count.to_string()
        }));
        text.row(cells);
    }
    stdout::print(&text.render())
}

/// What a list is of.
fn listed<'a>(is_skipped: bool, catalog: &'a Catalog, skipped: Option<&'a Catalog>) -> &'a Catalog {
    skipped.filter(|_| is_skipped).unwrap_or(catalog)
}

/// Tables that are left out, with the reason of each.
fn print_skipped(
    tables: &[&Table],
    omitted: &[Omitted],
    is_kept: &dyn Fn(Oid) -> bool,
    is_json: bool,
) -> Result<()> {
    let reasons: HashMap<Oid, &str> = omitted
        .iter()
        .filter(|omitted| omitted.kind == "TABLE")
        .map(|omitted| (omitted.catalog_id.oid, omitted.reason.as_str()))
        .collect();
    let lines: Vec<TableLine<'_>> = tables
        .iter()
        .map(|table| {
            let exclude_data = is_kept(table.oid);
            let reason = match exclude_data {
                true => "is excluded with its rows only, by [exclude-table-data]",
                false => reasons.get(&table.oid).copied().unwrap_or("is left out"),
            };
            TableLine {
                exclude_data,
                reason: Some(reason),
                ..TableLine::new(table, None)
            }
        })
        .collect();
    if is_json {
        return stdout::print_json(&lines);
    }
    let mut text = TextTable::new(&[
        ("OID", Right),
        ("Schema Name", Left),
        ("Table Name", Left),
        ("On-disk size", Right),
        ("Reason", Left),
    ]);
    for line in lines {
        text.row([
            line.oid.to_string(),
            line.schema.to_owned(),
            line.name.to_owned(),
            line.bytes_pretty,
            line.reason.unwrap_or_default().to_owned(),
        ]);
    }
    stdout::print(&text.render())
}

/// List the sequences that would be set
#[derive(Args)]
#[command(after_help = "\
JSON: an array of objects with the keys oid, schema, name, last-value (null before the first use, or when the role may \
not know it), restore-list-name and owned-by: null, or an object with the keys schema, table and column.

Example: pgcopydb list sequences --source postgres://me@old/shop")]
pub struct SequencesArgs {
    #[command(flatten)]
    filtered: Filtered,
    /// Only in this schema
    #[arg(long, value_name = "NAME")]
    schema_name: Option<String>,
    /// With --filters, those that would be left out
    #[arg(long, requires = "filters")]
    list_skipped: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SequenceLine {
    oid: Oid,
    schema: Box<str>,
    name: Box<str>,
    last_value: Option<i64>,
    restore_list_name: String,
    owned_by: Option<SequenceOwner>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SequenceOwner {
    schema: Box<str>,
    table: Box<str>,
    column: Box<str>,
}

pub fn sequences(args: &SequencesArgs) -> Result<()> {
    let Found {
        mut source,
        catalog,
        skipped,
        ..
    } = args.filtered.read(true, Wanted::Everything)?;
    let listed = listed(args.list_skipped, &catalog, skipped.as_ref());
    let states = fetch_sequence_states(&mut source)?;
    let is_wanted = |sequence: &&Sequence| {
        let wanted = args.schema_name.as_deref();
        wanted.is_none_or(|wanted| wanted == &*sequence.schema)
    };
    let lines = sequence_lines(listed.sequences.iter().filter(is_wanted), states);
    if args.filtered.from.json {
        return stdout::print_json(&lines);
    }
    let mut table = TextTable::new(&[
        ("OID", Right),
        ("Schema Name", Left),
        ("Sequence Name", Left),
        ("Last Value", Right),
        ("Owned By", Left),
    ]);
    for line in lines {
        let owner = line
            .owned_by
            .map(|owner| format!("{}.{}.{}", owner.schema, owner.table, owner.column));
        table.row(vec![
            line.oid.to_string(),
            line.schema.into(),
            line.name.into(),
            line.last_value
                .map_or_else(String::new, |value| value.to_string()),
            owner.unwrap_or_default(),
        ]);
    }
    stdout::print(&table.render())
}

pub(super) fn sequence_lines<'a>(
    sequences: impl Iterator<Item = &'a Sequence>,
    mut states: HashMap<Oid, SequenceState>,
) -> Vec<SequenceLine> {
    let mut lines: Vec<SequenceLine> = sequences
        .map(|sequence| {
            let (owned_by, last_value) = match states.remove(&sequence.oid) {
                Some(state) => (state.owned_by, state.last_value),
                None => (None, None),
            };
            SequenceLine {
                oid: sequence.oid,
                schema: sequence.schema.clone(),
                name: sequence.name.clone(),
                last_value,
                restore_list_name: format!("{} {}", sequence.schema, sequence.name),
                owned_by: owned_by.map(|(schema, table, column)| SequenceOwner {
                    schema,
                    table,
                    column,
                }),
            }
        })
        .collect();
    lines.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    lines
}

/// List the indexes that would be built
#[derive(Args)]
#[command(after_help = "\
Those that clone builds itself, with their constraints. Indexes of exclusion constraints and of partitioned tables are \
part of the schema, which pg_restore makes.

JSON: an array of objects with the keys oid, schema, name, is-primary, is-unique, sql, restore-list-name, table (an \
object with the keys oid, schema and name) and constraint: null, or an object with the keys oid, name and kind \
(primary-key or unique).

Example: pgcopydb list indexes --source postgres://me@old/shop --schema-name public --table-name film")]
pub struct IndexesArgs {
    #[command(flatten)]
    filtered: Filtered,
    #[command(flatten)]
    names: NameArgs,
    /// With --filters, those that would be left out
    #[arg(long, requires = "filters")]
    list_skipped: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct IndexLine<'a> {
    oid: Oid,
    schema: &'a str,
    name: &'a str,
    is_primary: bool,
    is_unique: bool,
    sql: &'a str,
    restore_list_name: String,
    table: TableName<'a>,
    constraint: Option<ConstraintLine<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TableName<'a> {
    oid: Oid,
    schema: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ConstraintLine<'a> {
    oid: Oid,
    name: &'a str,
    kind: ConstraintKind,
}

impl<'a> IndexLine<'a> {
    pub(super) fn new(table: &'a Table, index: &'a Index) -> IndexLine<'a> {
        IndexLine {
            oid: index.oid,
            schema: &table.schema,
            name: &index.name,
            is_primary: index.is_primary,
            is_unique: index.is_unique,
            sql: &index.definition,
            restore_list_name: format!("{} {} {}", table.schema, index.name, table.owner),
            table: TableName {
                oid: table.oid,
                schema: &table.schema,
                name: &table.name,
            },
            constraint: index
                .constraint
                .as_deref()
                .map(|constraint| ConstraintLine {
                    oid: constraint.oid,
                    name: &constraint.name,
                    kind: constraint.kind,
                }),
        }
    }
}

pub fn indexes(args: &IndexesArgs) -> Result<()> {
    let Found {
        catalog, skipped, ..
    } = args.filtered.read(true, Wanted::Everything)?;
    let listed = listed(args.list_skipped, &catalog, skipped.as_ref());
    // The table of an index that is left out may be kept.
    let table_of = |index: &Index| listed.table(index.table).or(catalog.table(index.table));
    let lines: Vec<IndexLine<'_>> = listed
        .indexes
        .iter()
        .filter_map(|index| Some((table_of(index)?, index)))
        .filter(|(table, _)| args.names.matches(&table.schema, &table.name))
        .map(|(table, index)| IndexLine::new(table, index))
        .collect();
    if args.filtered.from.json {
        return stdout::print_json(&lines);
    }
    let mut text = TextTable::new(&[
        ("OID", Right),
        ("Schema", Left),
        ("Index Name", Left),
        ("Table Name", Left),
        ("Constraint", Left),
        ("DDL", Left),
    ]);
    for line in lines {
        let constraint = line
            .constraint
            .as_ref()
            .map(|constraint| match constraint.kind {
                ConstraintKind::PrimaryKey => format!("{} (primary key)", constraint.name),
                ConstraintKind::Unique => format!("{} (unique)", constraint.name),
            });
        text.row(vec![
            line.oid.to_string(),
            line.schema.to_owned(),
            line.name.to_owned(),
            line.table.name.to_owned(),
            constraint.unwrap_or_default(),
            line.sql.to_owned(),
        ]);
    }
    stdout::print(&text.render())
}
