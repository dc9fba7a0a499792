//! `compare schema`: differences object by object, then how many objects of each kind there are.

use clap::Args;

use super::{differs, json};
use crate::cli::options::{ConnectionArgs, DirArgs, FilterArgs};
use crate::cli::stdout;
use crate::compare::schema::{self, SchemaReport, SchemaSpec, What};
use crate::error::{Result, Side};
use crate::sys::signal::Shutdown;

/// Compare the objects of both databases: tables, columns, indexes, constraints, sequences, functions and so on
#[derive(Args)]
#[command(after_help = "\
Each difference is told with the object's kind and name: \"missing on the target\", \"only on the target\", or what differs with \
both values. What a missing table has is not told one by one. Servers of two majors are compared by what both know.

The keys of --json: \"equal\"; \"kinds\", by name, each with \"source\", \"target\" (numbers of objects) and \"differ\"; \
\"differences\", each with \"kind\", \"name\", \"what\" (missing, extra, differs) and, where it differs, \"property\", \
\"source\", \"target\".

The databases themselves are compared too, whatever their names: owner, privileges, comment, encoding, locale and settings. \
A clone into a database that is there copies the settings only; --skip-db-properties leaves all of it out.

Sequences are compared as they stand now: while changes are followed, those of the target stay behind until the end position.

The same is left in the work directory, in compare/schema.json. The exit code is 0 when both are equal, 7 when the target differs.

Example: pgcopydb compare schema --source postgres://me@old/shop --target postgres://me@new/shop --no-owner")]
pub struct SchemaArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Leave out owners
    #[arg(short = 'O', long)]
    no_owner: bool,
    /// Leave out what was granted and revoked
    #[arg(short = 'x', long)]
    no_acl: bool,
    /// Leave out comments
    #[arg(short = 'X', long)]
    no_comments: bool,
    /// Leave out tablespaces
    #[arg(long)]
    no_tablespaces: bool,
    /// Leave out the database itself (owner, privileges, comment, locale) and its settings
    #[arg(long)]
    skip_db_properties: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: SchemaArgs) -> Result<()> {
    let spec = SchemaSpec {
        source: args.connections.required(Side::Source)?,
        target: args.connections.required(Side::Target)?,
        dir: args.dir.dir,
        filters: args.filters.read()?,
        no_owner: args.no_owner,
        no_acl: args.no_acl,
        no_comments: args.no_comments,
        no_tablespaces: args.no_tablespaces,
        skip_db_properties: args.skip_db_properties,
    };
    let shutdown = Shutdown::install()?;
    let report = schema::run(&spec, &shutdown)?;
    if args.json {
        stdout::print_line(&json(&report)?)?;
    } else {
        stdout::print(&text(&report))?;
    }
    match report.equal {
        true => Ok(()),
        false => {
            let objects: u64 = report.kinds.values().map(|count| count.differ).sum();
            Err(differs(format!(
                "the schema of the target differs from that of the source in {objects} objects"
            )))
        }
    }
}

fn text(report: &SchemaReport) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let object = format!("{} {}", difference.kind, difference.name);
        match &difference.what {
            What::Missing => text.push_str(&format!("{object}: missing on the target\n")),
            What::Extra => text.push_str(&format!("{object}: only on the target\n")),
            What::Differs {
                property,
                source,
                target,
            } => {
                let (source, target) = (value(source), value(target));
                text.push_str(&format!(
                    "{object}: {property}\n  source: {source}\n  target: {target}\n"
                ));
            }
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!(
        "{:<26} {:>10} {:>10} {:>10}\n",
        "kind", "source", "target", "differ"
    ));
    for (kind, count) in &report.kinds {
        text.push_str(&format!(
            "{kind:<26} {:>10} {:>10} {:>10}\n",
            count.source, count.target, count.differ
        ));
    }
    text
}

/// Definitions of several lines stay below their side.
fn value(value: &Option<String>) -> String {
    match value {
        None => "(none)".to_owned(),
        Some(text) => text.replace('\n', "\n          "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::schema::{Count, Difference};

    #[test]
    fn differences_are_told_object_by_object() {
        let mut report = SchemaReport::default();
        report.kinds.insert(
            "column",
            Count {
                source: 2,
                target: 2,
                differ: 1,
            },
        );
        report.differences = vec![
            Difference {
                kind: "index",
                name: "\"public\".\"i\"".into(),
                what: What::Missing,
            },
            Difference {
                kind: "column",
                name: "\"public\".\"t\".\"a\"".into(),
                what: What::Differs {
                    property: "default",
                    source: Some("1".into()),
                    target: None,
                },
            },
        ];
        assert_eq!(
            text(&report),
            "index \"public\".\"i\": missing on the target\n\
             column \"public\".\"t\".\"a\": default\n  source: 1\n  target: (none)\n\n\
             kind                           source     target     differ\n\
             column                              2          2          1\n"
        );
        let json = json(&report.differences[1]).unwrap();
        assert!(json.contains("\"what\": \"differs\""), "{json}");
    }
}
