//! `list depends`: what a filters file leaves out, object by object, and why: by a rule, or because of what it needs.

use clap::Args;
use serde::Serialize;

use super::{FromSource, fetch_filtered};
use crate::cli::options::FilterArgs;
use crate::cli::stdout;
use crate::cli::text_table::Align::Left;
use crate::cli::text_table::TextTable;
use crate::dump::closure::Omitted;
use crate::error::{Error, Result};
use crate::ident::Oid;

/// List what the filters leave out, with the reason
#[derive(Args)]
#[command(after_help = "\
Objects that a rule leaves out, and objects that cannot be made without them: views, foreign keys, tables whose default calls a \
function that is left out. They are found in a dump of the schema, which is made for this and removed.

JSON: an array of objects with the keys kind (as pg_dump names it), object, reason, by-rule (true or false) and oid (0 for \
comments and privileges).

Example: pgcopydb list depends --source postgres://me@old/shop --filters filters.ini")]
pub struct DependsArgs {
    #[command(flatten)]
    from: FromSource,
    #[command(flatten)]
    filters: FilterArgs,
    /// List what is left out; it is what this command always does
    #[arg(long)]
    list_skipped: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line<'a> {
    kind: &'a str,
    object: &'a str,
    reason: &'a str,
    by_rule: bool,
    oid: Oid,
}

impl<'a> Line<'a> {
    fn new(omitted: &'a Omitted) -> Line<'a> {
        let object = omitted.object.strip_prefix(omitted.kind.as_str());
        Line {
            kind: &omitted.kind,
            object: object.map_or(omitted.object.as_str(), str::trim_start),
            reason: &omitted.reason,
            by_rule: omitted.is_by_rule,
            oid: omitted.catalog_id.oid,
        }
    }
}

pub fn run(args: &DependsArgs) -> Result<()> {
    if args.list_skipped {
        log::debug!("what is left out is always listed");
    }
    let mut source = args.from.open()?;
    let Some(filtered) = fetch_filtered(&args.filters, &args.from, &mut source, true)? else {
        return Err(Error::usage("no filters given")
            .with_hint("Use --filters with a file that has a rule."));
    };
    let lines: Vec<Line<'_>> = filtered.omitted.iter().map(Line::new).collect();
    if args.from.json {
        return stdout::print_json(&lines);
    }
    let mut table = TextTable::new(&[("Kind", Left), ("Object", Left), ("Reason", Left)]);
    for line in lines {
        table.row([
            line.kind.to_owned(),
            line.object.to_owned(),
            line.reason.to_owned(),
        ]);
    }
    stdout::print(&table.render())
}
