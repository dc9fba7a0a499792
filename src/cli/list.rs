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
use crate::catalog::{self, Catalog, FetchOptions};
use crate::dump::closure::Omitted;
use crate::dump::filtered;
use crate::error::{Context, Result};
use crate::filter;
use crate::logging;
use crate::pg::connect::connect_and_pin;
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::open_source;
use crate::pg::wire::Connection;
use crate::sys::signal::Shutdown;

/// As the server sees us.
const NAME: &str = "pgcopydb list";

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

/// The same for what filters may leave out.
#[derive(Args)]
struct Filtered {
    #[command(flatten)]
    from: FromSource,
    #[command(flatten)]
    filters: FilterArgs,
}

/// How much of the catalog is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Of a database with many tables, that is a fraction of the whole.
    Tables,
    Everything,
}

/// The source as it would be copied.
struct Found {
    /// In the transaction that saw it.
    source: Connection,
    catalog: Catalog,
    /// What is left out, and the tables whose rows are; `None` without filters.
    skipped: Option<Catalog>,
    omitted: Vec<Omitted>,
}

impl FromSource {
    /// A connection that sees one moment of the source.
    fn open(&self) -> Result<Connection> {
        let info = self.source.required()?;
        let mut source = self.connect(&info, &Shutdown::install()?)?;
        begin(&mut source)?;
        Ok(source)
    }

    fn connect(&self, info: &ConnInfo, shutdown: &Shutdown) -> Result<Connection> {
        if self.force {
            log::info!(target: logging::NOTICE, "nothing is cached: the source is always read");
        }
        open_source(info, NAME, shutdown)
    }
}

impl Filtered {
    /// Read the source, without what the filters leave out.
    fn read(&self, estimate_sizes: bool, wanted: Wanted) -> Result<Found> {
        let options = FetchOptions {
            estimate_sizes,
            skip_extensions: false,
        };
        let Some(filters) = self.filters.read()? else {
            let mut source = self.from.open()?;
            let catalog = match wanted {
                Wanted::Tables => catalog::fetch_tables_only(&mut source, &options)?,
                Wanted::Everything => catalog::fetch(&mut source, &options)?,
            };
            return Ok(Found {
                source,
                catalog,
                skipped: None,
                omitted: Vec::new(),
            });
        };
        let shutdown = Shutdown::install()?;
        // pg_dump must reach the very server whose snapshot it is given.
        let (_, info) = connect_and_pin(&self.from.source.required()?, NAME, &shutdown)?;
        let mut source = self.from.connect(&info, &shutdown)?;
        filter::check(&mut source, &filters)?;
        begin(&mut source)?;
        let found = filtered::fetch(&mut source, &info, &filters, &options, &shutdown)?;
        Ok(Found {
            source,
            catalog: found.catalog,
            skipped: Some(found.skipped),
            omitted: found.omitted,
        })
    }
}

fn begin(source: &mut Connection) -> Result<()> {
    source
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .map(drop)
        .context("could not begin a transaction on the source")
}
