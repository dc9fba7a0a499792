//! `compare data`: a table of both sides' row counts and checksums, then what is known of each difference.

use clap::Args;

use super::{differs, json};
use crate::cli::options::{ConnectionArgs, DirArgs, FilterArgs, parse_jobs};
use crate::cli::stdout;
use crate::compare::data::{self, DataReport, DataSpec, RowIs, Status, TableReport};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::ident::{QualifiedName, quote_ident};
use crate::sys::signal::Shutdown;

/// Compare the rows of both databases: how many there are, and a checksum that does not depend on their order
#[derive(Args)]
#[command(after_help = "\
Each side is read in one snapshot, by --table-jobs processes with a connection to both servers each; large tables in parts. Of \
a table that differs and has a key, the number of differing rows and the range of their keys is told, and with --rows each \
key. Of an extension's configuration tables the user's rows count. Not compared: generated columns, which each server \
computes; materialized views, which are made from what is compared; foreign tables; on a standby, unlogged tables. Between 10 \
or 11 and a later version, floating-point numbers in arrays, in geometric types and in domains are compared to 15 digits.

With --follow, while \"clone --follow\" or \"follow\" runs on the same --dir: applying changes pauses for a moment, at the point \
of the source's log that the comparison reads the source at, so that the comparison is exact although both sides are written \
to. It takes a replication slot more, for a moment.

The keys of --json: \"equal\"; \"tables\", each with \"schema\", \"table\", \"status\" (equal, differs, missing-on-target, \
only-on-target, failed), \"source\" and \"target\" (\"rows\", \"checksum\"), \"reason\", and \"differing\" with \
\"key_columns\", \"count\", \"complete\", \"first_key\", \"last_key\" and \"rows\" (\"key\", \"what\": missing, extra, \
different; none without --rows).

The same is left in the work directory, in compare/data.json. The exit code is 0 when both are equal, 7 when the target \
differs, 4 when a table could not be read.

Example: pgcopydb compare data --source postgres://me@old/shop --target postgres://me@new/shop --table-jobs 8 --rows")]
pub struct DataArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Processes that compare tables
    #[arg(short = 'J', long, visible_alias = "jobs", value_name = "N", env = "PGCOPYDB_TABLE_JOBS", hide_env_values = true, allow_negative_numbers = true, value_parser = parse_jobs, default_value_t = 4)]
    table_jobs: u32,
    /// Name the rows that differ by their keys
    #[arg(long)]
    rows: bool,
    /// Compare at an exact point of the changes that a running follow applies
    #[arg(short = 'f', long)]
    follow: bool,
    /// Leave out large objects
    #[arg(long, visible_alias = "skip-blobs")]
    skip_large_objects: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: DataArgs) -> Result<()> {
    let spec = DataSpec {
        source: args.connections.required(Side::Source)?,
        target: args.connections.required(Side::Target)?,
        dir: args.dir.dir,
        jobs: args.table_jobs,
        follow: args.follow,
        skip_large_objects: args.skip_large_objects,
        filters: args.filters.read()?,
        names_rows: args.rows,
    };
    let shutdown = Shutdown::install()?;
    let report = data::run(&spec, &shutdown)?;
    match args.json {
        true => stdout::print_line(&json(&report)?)?,
        false => stdout::print(&text(&report))?,
    }
    judge(&report)
}

fn judge(report: &DataReport) -> Result<()> {
    let failed = report.count(|status| status == Status::Failed);
    let different = report.count(|status| !matches!(status, Status::Failed | Status::Equal));
    match (different, failed) {
        (0, 0) => Ok(()),
        (0, _) => Err(Error::new(
            ErrorKind::Sql,
            format!("{failed} tables could not be compared; all others are equal"),
        )),
        (_, 0) => Err(differs(format!(
            "the rows of {different} tables differ between source and target"
        ))),
        _ => Err(differs(format!(
            "the rows of {different} tables differ between source and target, and {failed} tables could not be compared"
        ))),
    }
}

/// Columns as wide as their widest value.
fn text(report: &DataReport) -> String {
    let mut lines = vec![
        [
            "schema",
            "table",
            "source rows",
            "source checksum",
            "target rows",
            "target checksum",
            "equal",
        ]
        .map(str::to_owned),
    ];
    lines.extend(report.tables.iter().map(line));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, word) in widths.iter_mut().zip(line) {
            *width = (*width).max(word.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let words: Vec<String> = line
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (word, width))| match column {
                // Counts end in one column.
                2 | 4 => format!("{word:>width$}"),
                _ => format!("{word:<width$}"),
            })
            .collect();
        text.push_str(words.join("  ").trim_end());
        text.push('\n');
    }
    for table in &report.tables {
        text.push_str(&details(table));
    }
    text
}

fn line(table: &TableReport) -> [String; 7] {
    let side = |side: &Option<data::SideReport>| match side {
        None => ("-".to_owned(), "-".to_owned()),
        Some(side) => (side.rows.to_string(), side.checksum.clone()),
    };
    let (source, target) = (side(&table.source), side(&table.target));
    let equal = match table.status {
        Status::Equal => "yes",
        Status::Differs => "no",
        Status::MissingOnTarget => "missing on the target",
        Status::OnlyOnTarget => "only on the target",
        Status::Failed => "unknown",
    };
    [
        one_line(&table.schema),
        one_line(&table.table),
        source.0,
        source.1,
        target.0,
        target.1,
        equal.to_owned(),
    ]
}

/// A name may hold a newline.
fn one_line(name: &str) -> String {
    name.replace('\n', "\\n")
}

fn details(table: &TableReport) -> String {
    let name = QualifiedName::new(&*table.schema, &*table.table).to_string();
    let mut text = String::new();
    if let Some(reason) = &table.reason {
        text.push_str(&format!("\n{name}: {reason}\n"));
    }
    let Some(found) = &table.differing else {
        return text;
    };
    let columns: Vec<String> = found
        .key_columns
        .iter()
        .map(|name| quote_ident(name))
        .collect();
    let key = |values: &[String]| format!("({})=({})", columns.join(", "), values.join(", "));
    let at_least = if found.complete { "" } else { "at least " };
    text.push_str(&match found.count {
        0 => format!("\n{name}: no row was found to differ any more\n"),
        1 => format!(
            "\n{name}: {at_least}1 row differs: {}\n",
            key(&found.first_key)
        ),
        count => format!(
            "\n{name}: {at_least}{count} rows differ, from {} to {}\n",
            key(&found.first_key),
            key(&found.last_key)
        ),
    });
    for row in &found.rows {
        let what = match row.what {
            RowIs::Missing => "missing on the target",
            RowIs::Extra => "only on the target",
            RowIs::Different => "different",
        };
        text.push_str(&format!("  {}: {what}\n", key(&row.key)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Located, Row, SideReport};

    fn table(status: Status, differing: Option<Located>) -> TableReport {
        let side = |rows| SideReport {
            rows,
            checksum: "00000000000000ff".into(),
        };
        TableReport {
            schema: "public".into(),
            table: "t\nu".into(),
            status,
            source: Some(side(12)),
            target: Some(side(3)),
            reason: None,
            differing,
        }
    }

    #[test]
    fn looks_as_documented() {
        let row = |key: &str, what| Row {
            key: vec![key.to_owned()],
            what,
        };
        let located = Located {
            key_columns: vec!["id".into()],
            count: 2,
            complete: true,
            first_key: vec!["1".into()],
            last_key: vec!["9".into()],
            rows: vec![row("1", RowIs::Missing), row("9", RowIs::Different)],
        };
        let mut report = DataReport {
            equal: false,
            tables: vec![table(Status::Differs, Some(located))],
        };
        assert_eq!(
            text(&report),
            "schema  table  source rows  source checksum   target rows  target checksum   equal\n\
             public  t\\nu            12  00000000000000ff            3  00000000000000ff  no\n\
             \n\"public\".\"t\nu\": 2 rows differ, from (\"id\")=(1) to (\"id\")=(9)\n  \
             (\"id\")=(1): missing on the target\n  (\"id\")=(9): different\n"
        );
        assert_eq!(judge(&report).unwrap_err().exit_code(), 7);
        report.tables.push(table(Status::Failed, None));
        report.tables.remove(0);
        assert_eq!(judge(&report).unwrap_err().exit_code(), 4);
    }
}
