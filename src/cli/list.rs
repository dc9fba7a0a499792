//! `pgcopydb list ..`: what a clone would copy, read from the source in one transaction and printed, and how far a run
//! is. Opens no work directory but for `list progress`, which only reads it; nothing is cached, so nothing can be stale.

mod depends;
mod objects;
mod parts;
mod progress;
mod progress_text;
mod schema;
mod server;

use clap::{Args, Subcommand};

use super::options::{FilterArgs, SourceArgs};
use crate::catalog::{self, Catalog, Extension, FetchOptions};
use crate::dump::filtered::{self, Filtered};
use crate::error::{Context, Result};
use crate::filter;
use crate::logging;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;

/// List what would be copied, and what is copied already
#[derive(Args)]
pub struct ListArgs {
    #[command(subcommand)]
    command: ListCommand,
}

#[derive(Subcommand)]
enum ListCommand {
    Databases(server::DatabasesArgs),
    Extensions(server::ExtensionsArgs),
    Collations(server::CollationsArgs),
    Tables(Box<objects::TablesArgs>),
    TableParts(Box<parts::TablePartsArgs>),
    Sequences(objects::SequencesArgs),
    Indexes(objects::IndexesArgs),
    Depends(depends::DependsArgs),
    Schema(Box<schema::SchemaArgs>),
    Progress(progress::ProgressArgs),
}

pub fn run(args: ListArgs) -> Result<()> {
    match args.command {
        ListCommand::Databases(args) => server::databases(&args),
        ListCommand::Extensions(args) => server::extensions(&args),
        ListCommand::Collations(args) => server::collations(&args),
        ListCommand::Tables(args) => objects::tables(&args),
        ListCommand::TableParts(args) => parts::table_parts(&args),
        ListCommand::Sequences(args) => objects::sequences(&args),
        ListCommand::Indexes(args) => objects::indexes(&args),
        ListCommand::Depends(args) => depends::run(&args),
        ListCommand::Schema(args) => schema::run(&args),
        ListCommand::Progress(args) => progress::run(&args),
    }
}

/// What all but `list progress` take.
#[derive(Args)]
struct FromSource {
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Read the source anew, which is always done: nothing is cached
    #[arg(long)]
    force: bool,
}

/// What the filters leave, or what they leave out.
#[derive(Args)]
struct MeantArgs {
    #[command(flatten)]
    filters: FilterArgs,
    /// List what the filters leave out, instead of what they leave
    #[arg(long, requires = "filters")]
    list_skipped: bool,
}

impl MeantArgs {
    /// `None` without filters: then everything is meant.
    fn fetch(
        &self,
        from: &FromSource,
        source: &mut Connection,
        estimate_sizes: bool,
    ) -> Result<Option<Catalog>> {
        let Some(filtered) = fetch_filtered(&self.filters, from, source, estimate_sizes)? else {
            return Ok(None);
        };
        Ok(Some(match self.list_skipped {
            true => filtered.skipped,
            false => filtered.catalog,
        }))
    }
}

/// `source` is in a transaction, which sees what the dump of the schema sees too.
fn fetch_filtered(
    filters: &FilterArgs,
    from: &FromSource,
    source: &mut Connection,
    estimate_sizes: bool,
) -> Result<Option<Filtered>> {
    let Some(filters) = filters.read()? else {
        return Ok(None);
    };
    let (info, shutdown) = (from.source.required()?, Shutdown::handle());
    // A mistake in an expression would end the transaction.
    filter::check(
        &mut open_source(&info, "pgcopydb list", &shutdown)?,
        &filters,
    )?;
    let options = FetchOptions {
        estimate_sizes,
        skip_extensions: false,
    };
    filtered::fetch(source, &info, &filters, &options, &shutdown).map(Some)
}

/// Objects of one schema or table only. A name is taken as it is, without quotes.
#[derive(Args)]
struct NameArgs {
    /// Only in this schema
    #[arg(long, value_name = "NAME")]
    schema_name: Option<String>,
    /// Only this table
    #[arg(long, value_name = "NAME")]
    table_name: Option<String>,
}

impl NameArgs {
    fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema_name
            .as_deref()
            .is_none_or(|wanted| wanted == schema)
            && self
                .table_name
                .as_deref()
                .is_none_or(|wanted| wanted == table)
    }
}

impl FromSource {
    /// A connection that sees one moment of the source.
    fn open(&self) -> Result<Connection> {
        let info = self.source.required()?;
        if self.force {
            log::info!(target: logging::NOTICE, "nothing is cached: the source is always read");
        }
        let mut source = open_source(&info, "pgcopydb list", &Shutdown::install()?)?;
        source
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .context("could not begin a transaction on the source")?;
        Ok(source)
    }
}

/// What `clone` would fetch.
fn fetch_catalog(source: &mut Connection, estimate_sizes: bool) -> Result<Catalog> {
    let options = FetchOptions {
        estimate_sizes,
        skip_extensions: false,
    };
    catalog::fetch(source, &options)
}

fn fetch_extensions(source: &mut Connection) -> Result<Vec<Extension>> {
    catalog::fetch_extensions(source)
}
