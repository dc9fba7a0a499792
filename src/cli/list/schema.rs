//! `list schema`: all that a clone would work from, as one JSON document.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;

use super::objects::{IndexLine, SequenceLine, TableLine, sequence_lines};
use super::parts::{PartLine, SplitChoice, parts_by_table};
use super::{Filtered, Found, Wanted};
use crate::catalog::inventory::fetch_sequence_states;
use crate::catalog::{Catalog, Table};
use crate::cli::stdout;
use crate::error::Result;
use crate::ident::Oid;

/// List everything that would be copied, as JSON
#[derive(Args)]
#[command(after_help = "\
Always JSON, with or without --json: an object with the keys setup (database, server-version, is-standby, \
split-tables-larger-than), tables, indexes and sequences (arrays as list tables, list indexes and list sequences print \
them), extensions (oid, name, schema, version), large-objects (count, bytes), roles and tablespaces (arrays of names).

Example: pgcopydb list schema --source postgres://me@old/shop")]
pub struct SchemaArgs {
    #[command(flatten)]
    filtered: Filtered,
    #[command(flatten)]
    split: SplitChoice,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Setup<'a> {
    database: &'a str,
    server_version: u32,
    is_standby: bool,
    split_tables_larger_than: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Schema<'a> {
    setup: Setup<'a>,
    tables: Vec<TableLine<'a>>,
    indexes: Vec<IndexLine<'a>>,
    sequences: Vec<SequenceLine>,
    extensions: &'a [crate::catalog::Extension],
    large_objects: crate::catalog::LargeObjects,
    roles: Vec<&'a str>,
    tablespaces: &'a [Box<str>],
}

pub fn run(args: &SchemaArgs) -> Result<()> {
    let Found {
        mut source,
        catalog,
        ..
    } = args
        .filtered
        .read(args.split.estimates_sizes(), Wanted::Everything)?;
    let states = fetch_sequence_states(&mut source)?;
    let tables: Vec<&Table> = catalog.tables_to_copy().collect();
    let mut parts = match args.split.is_asked() {
        true => Some(parts_by_table(&mut source, &tables, &args.split)?),
        false => None,
    };
    stdout::print_json(&Schema {
        setup: Setup {
            database: &catalog.database.name,
            server_version: catalog.server_version,
            is_standby: catalog.is_standby,
            split_tables_larger_than: args.split.larger_than(),
        },
        tables: table_lines(&tables, parts.as_mut()),
        indexes: index_lines(&catalog, &tables),
        sequences: sequence_lines(catalog.sequences.iter(), states),
        extensions: &catalog.extensions,
        large_objects: catalog.large_objects,
        roles: catalog.roles.iter().map(|role| &*role.name).collect(),
        tablespaces: &catalog.tablespaces,
    })
}

fn table_lines<'a>(
    tables: &[&'a Table],
    mut parts: Option<&mut HashMap<Oid, Vec<PartLine>>>,
) -> Vec<TableLine<'a>> {
    tables
        .iter()
        .map(|table| {
            let own = parts
                .as_mut()
                .map(|parts| parts.remove(&table.oid).unwrap_or_default());
            TableLine::new(table, own)
        })
        .collect()
}

fn index_lines<'a>(catalog: &'a Catalog, tables: &[&'a Table]) -> Vec<IndexLine<'a>> {
    let of_table = |table: &&'a Table| {
        let table = *table;
        let indexes = catalog.indexes_of(table.oid).iter();
        indexes.map(move |index| IndexLine::new(table, index))
    };
    tables.iter().flat_map(of_table).collect()
}
