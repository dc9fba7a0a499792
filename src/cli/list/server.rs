//! `list databases`, `list extensions`, `list collations`: what the server of the source has.

use clap::Args;
use serde::Serialize;

use super::FromSource;
use crate::catalog::fetch_extensions;
use crate::catalog::inventory::{
    self, CollationEntry, ExtensionConfig, ExtensionVersions, fetch_collations, fetch_databases,
    fetch_extension_configs, fetch_extension_versions,
};
use crate::cli::stdout;
use crate::cli::text_table::Align::{Left, Right};
use crate::cli::text_table::TextTable;
use crate::error::Result;
use crate::ident::Oid;
use crate::size::pretty_size;

/// List the databases of the source's server
#[derive(Args)]
#[command(after_help = "\
Every database that allows connections and is no template.

JSON: an array of objects with the keys oid, name, owner, encoding, bytes and bytes-pretty (null when the role may not \
know the size).

Example: pgcopydb list databases --source postgres://me@old/postgres --json")]
pub struct DatabasesArgs {
    #[command(flatten)]
    from: FromSource,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DatabaseLine {
    #[serde(flatten)]
    entry: inventory::DatabaseEntry,
    bytes_pretty: Option<String>,
}

pub fn databases(args: &DatabasesArgs) -> Result<()> {
    let found = fetch_databases(&mut args.from.open()?)?;
    let lines: Vec<DatabaseLine> = found
        .into_iter()
        .map(|entry| DatabaseLine {
            bytes_pretty: entry.bytes.map(pretty_size),
            entry,
        })
        .collect();
    if args.from.json {
        return stdout::print_json(&lines);
    }
    let mut table = TextTable::new(&[
        ("OID", Right),
        ("Database Name", Left),
        ("Owner", Left),
        ("Encoding", Left),
        ("On-disk size", Right),
    ]);
    for line in lines {
        table.row([
            line.entry.oid.to_string(),
            line.entry.name.into(),
            line.entry.owner.into(),
            line.entry.encoding.into(),
            line.bytes_pretty.unwrap_or_default(),
        ]);
    }
    stdout::print(&table.render())
}

/// List the extensions of the source
#[derive(Args)]
#[command(after_help = "\
JSON: an array of objects with the keys oid, name, schema, version and config, which lists the tables whose rows are \
copied with the extension: oid, schema, name and condition. With --available-versions the keys are name and versions \
(every version that the server of --source could install; ask the target with its own conninfo). With --requirements \
they are name and version: a file to edit and give to clone --requirements.

Examples: pgcopydb list extensions --source postgres://me@old/shop
  pgcopydb list extensions --source postgres://me@new/shop --available-versions --json
  pgcopydb list extensions --source postgres://me@old/shop --requirements --json > requirements.json")]
pub struct ExtensionsArgs {
    #[command(flatten)]
    from: FromSource,
    /// List every version that this server could install, of every extension
    #[arg(long)]
    available_versions: bool,
    /// List name and version only, as clone --requirements reads them
    #[arg(long)]
    requirements: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ExtensionLine {
    oid: Oid,
    name: Box<str>,
    schema: Box<str>,
    version: Box<str>,
    config: Vec<ExtensionConfig>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Requirement {
    name: Box<str>,
    version: Box<str>,
}

pub fn extensions(args: &ExtensionsArgs) -> Result<()> {
    let mut source = args.from.open()?;
    if args.available_versions {
        let mut found = fetch_extension_versions(&mut source)?;
        if args.requirements {
            // Of what the source uses: the versions to choose from.
            let used = fetch_extensions(&mut source)?;
            found.retain(|entry| used.iter().any(|extension| extension.name == entry.name));
        }
        return print_versions(&found, args.from.json);
    }
    let installed = fetch_extensions(&mut source)?;
    if args.requirements {
        let found = installed.into_iter().map(|extension| Requirement {
            name: extension.name,
            version: extension.version,
        });
        return print_requirements(&found.collect::<Vec<_>>(), args.from.json);
    }
    let mut configs = fetch_extension_configs(&mut source)?;
    let lines: Vec<ExtensionLine> = installed
        .into_iter()
        .map(|extension| ExtensionLine {
            config: configs.remove(&extension.oid).unwrap_or_default(),
            oid: extension.oid,
            name: extension.name,
            schema: extension.schema,
            version: extension.version,
        })
        .collect();
    if args.from.json {
        return stdout::print_json(&lines);
    }
    let mut table = TextTable::new(&[
        ("OID", Right),
        ("Name", Left),
        ("Schema", Left),
        ("Version", Left),
        ("Count", Right),
        ("Config", Left),
    ]);
    for line in lines {
        let config: Vec<String> = line
            .config
            .iter()
            .map(|table| format!("{}.{}", table.schema, table.name))
            .collect();
        table.row([
            line.oid.to_string(),
            line.name.into(),
            line.schema.into(),
            line.version.into(),
            config.len().to_string(),
            config.join(", "),
        ]);
    }
    stdout::print(&table.render())
}

fn print_versions(found: &[ExtensionVersions], is_json: bool) -> Result<()> {
    if is_json {
        return stdout::print_json(&found);
    }
    let mut table = TextTable::new(&[("Name", Left), ("Versions", Left)]);
    for entry in found {
        table.row([entry.name.to_string(), entry.versions.join(", ")]);
    }
    stdout::print(&table.render())
}

fn print_requirements(found: &[Requirement], is_json: bool) -> Result<()> {
    if is_json {
        return stdout::print_json(&found);
    }
    let mut table = TextTable::new(&[("Name", Left), ("Version", Left)]);
    for entry in found {
        table.row([entry.name.to_string(), entry.version.to_string()]);
    }
    stdout::print(&table.render())
}

/// List the collations that the source's objects use
#[derive(Args)]
#[command(after_help = "\
The database's own, every collation of the user, and every other one that a column, index, domain or range uses. A \
version that is not the actual one means that indexes may be in an order that the server does not expect any more.

JSON: an array of objects with the keys oid, schema, name, provider (c libc, i ICU, b builtin, d the database's \
default), locale, version, actual-version and used-by, an array of what uses it, in the server's words.

Example: pgcopydb list collations --source postgres://me@old/shop")]
pub struct CollationsArgs {
    #[command(flatten)]
    from: FromSource,
}

pub fn collations(args: &CollationsArgs) -> Result<()> {
    let found: Vec<CollationEntry> = fetch_collations(&mut args.from.open()?)?;
    if args.from.json {
        return stdout::print_json(&found);
    }
    let mut table = TextTable::new(&[
        ("OID", Right),
        ("Schema", Left),
        ("Name", Left),
        ("Locale", Left),
        ("Version", Left),
        ("Uses", Right),
        ("Object name", Left),
    ]);
    for entry in found {
        let first = entry.used_by.first().map(|user| user.to_string());
        table.row([
            entry.oid.to_string(),
            entry.schema.into(),
            entry.name.into(),
            entry.locale.unwrap_or_default().into(),
            entry.version.unwrap_or_default().into(),
            entry.used_by.len().to_string(),
            first.unwrap_or_default(),
        ]);
    }
    stdout::print(&table.render())
}
