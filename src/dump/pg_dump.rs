//! The arguments of pg_dump. Pure.

use std::ffi::OsString;
use std::path::Path;

use crate::ident::QualifiedName;

/// The schema of tools of this kind on the source; never copied.
pub const OWN_SCHEMA: &str = "pgcopydb";

/// One run of pg_dump for both sections: it reads the catalog once.
#[derive(Clone, Copy)]
pub struct DumpSpec<'a> {
    /// Without password.
    pub conninfo: &'a str,
    pub snapshot: &'a str,
    /// Tables that are filtered out and may not be read by this role.
    pub excluded_tables: &'a [QualifiedName],
    /// Of the archive; `None` is that of the database.
    pub encoding: Option<&'a str>,
    pub file: &'a Path,
}

impl DumpSpec<'_> {
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = [
            "--format=custom",
            // There are no data blocks to compress; the default would need a library that may not be there.
            "--compress=0",
            "--section=pre-data",
            "--section=post-data",
            // Large objects have their own workers. The short form is the only one that 10 to 18 share.
            "-B",
            "--no-password",
        ]
        .map(OsString::from)
        .to_vec();
        arguments.push(format!("--exclude-schema={OWN_SCHEMA}").into());
        arguments.push(format!("--snapshot={}", self.snapshot).into());
        // Quoted, nothing in a pattern has a meaning but the quote.
        for table in self.excluded_tables {
            let (schema, name) = (always_quoted(&table.schema), always_quoted(&table.name));
            arguments.push(format!("--exclude-table={schema}.{name}").into());
        }
        if let Some(encoding) = self.encoding {
            arguments.push(format!("--encoding={encoding}").into());
        }
        arguments.push(join("--file=", self.file));
        arguments.push(format!("--dbname={}", self.conninfo).into());
        arguments
    }
}

fn always_quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `--option=value` for a path, which need not be UTF-8.
pub(super) fn join(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::DumpSpec;
    use crate::ident::QualifiedName;

    #[test]
    fn arguments() {
        let spec = DumpSpec {
            conninfo: "postgres://u@h/d",
            snapshot: "00000003-1",
            excluded_tables: &[QualifiedName::new("s", "a\"b")],
            encoding: Some("UTF8"),
            file: Path::new("/tmp/a b/schema.dump"),
        };
        assert_eq!(
            spec.arguments(),
            [
                "--format=custom",
                "--compress=0",
                "--section=pre-data",
                "--section=post-data",
                "-B",
                "--no-password",
                "--exclude-schema=pgcopydb",
                "--snapshot=00000003-1",
                "--exclude-table=\"s\".\"a\"\"b\"",
                "--encoding=UTF8",
                "--file=/tmp/a b/schema.dump",
                "--dbname=postgres://u@h/d",
            ]
        );
    }
}
