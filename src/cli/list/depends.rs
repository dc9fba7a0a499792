//! `list depends`: what the filters leave out, and what falls with it.

use clap::Args;
use serde::Serialize;

use super::{Filtered, Wanted};
use crate::cli::stdout;
use crate::cli::text_table::Align::{Left, Right};
use crate::cli::text_table::TextTable;
use crate::dump::closure::Omitted;
use crate::error::{Error, Result};
use crate::ident::Oid;

/// List what the filters leave out, and what falls with it
#[derive(Args)]
#[command(after_help = "\
Each object of the schema that a copy with these filters would not make, with the reason: a rule, or something that it \
cannot be made without. In the order in which pg_dump would write them.

JSON: an array of objects with the keys oid, kind (as pg_dump calls it), object, reason and by-rule (false for what falls \
because of something else).

Example: pgcopydb list depends --source postgres://me@old/shop --filters filters.ini")]
pub struct DependsArgs {
    #[command(flatten)]
    filtered: Filtered,
    /// List what is left out, which is what this command always does
    #[arg(long)]
    list_skipped: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DependLine<'a> {
    oid: Oid,
    kind: &'a str,
    object: &'a str,
    reason: &'a str,
    by_rule: bool,
}

impl<'a> DependLine<'a> {
    fn new(omitted: &'a Omitted) -> DependLine<'a> {
        DependLine {
            oid: omitted.catalog_id.oid,
            kind: &omitted.kind,
            object: &omitted.object,
            reason: &omitted.reason,
            by_rule: omitted.is_by_rule,
        }
    }
}

pub fn run(args: &DependsArgs) -> Result<()> {
    if args.filtered.filters.filters.is_none() {
        return Err(Error::usage("no filters given")
            .with_hint("Use --filters: without one, everything is copied."));
    }
    if args.list_skipped {
        log::debug!("what is left out is always listed");
    }
    let found = args.filtered.read(true, Wanted::Everything)?;
    let lines: Vec<DependLine<'_>> = found.omitted.iter().map(DependLine::new).collect();
    if args.filtered.from.json {
        return stdout::print_json(&lines);
    }
    let mut text = TextTable::new(&[
        ("OID", Right),
        ("Object", Left),
        ("By Rule", Left),
        ("Reason", Left),
    ]);
    for line in lines {
        text.row([
            line.oid.to_string(),
            line.object.to_owned(),
            if line.by_rule { "yes" } else { "no" }.to_owned(),
            line.reason.to_owned(),
        ]);
    }
    stdout::print(&text.render())
}
