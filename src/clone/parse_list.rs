//! `restore parse-list`: what a restore would do with each object, as pg_restore's list format says it. Reads the work
//! directory, an archive or a list; talks to no server and changes nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::schema::built;
use super::{filters, noted, step};
use crate::catalog::Catalog;
use crate::dump::archive::{Archive, CatalogId, Section};
use crate::dump::list::{ListLine, parse_list, write_list};
use crate::dump::select::{LeftAlone, SkipReason, SkipRules, select};
use crate::error::{Context, Error, Result};
use crate::workdir::done::{self, StepDone};
use crate::workdir::location;
use crate::workdir::paths::Paths;
use crate::workdir::state::RunSpec;

/// How an archive of pg_dump begins.
const MAGIC: &[u8] = b"PGDMP";

/// What is listed.
#[derive(Debug, Clone)]
pub struct ParseListSpec {
    pub dir: Option<PathBuf>,
    /// An archive of pg_dump or a list of pg_restore; none: what the work directory holds.
    pub file: Option<PathBuf>,
    pub skip_extensions: bool,
    pub skip_ext_comments: bool,
    pub skip_collations: bool,
}

/// The list, for stdout.
pub fn list(spec: &ParseListSpec) -> Result<String> {
    let Some(file) = &spec.file else {
        return list_work_directory(spec);
    };
    let bytes = read(file)?;
    let what = || format!("could not read \"{}\"", file.display());
    if bytes.starts_with(MAGIC) {
        let archive = Archive::read(&bytes).with_context(what)?;
        return Ok(list_archive(
            spec,
            &archive,
            &HashSet::new(),
            &HashSet::new(),
        ));
    }
    let lines = parse_list(&String::from_utf8_lossy(&bytes)).with_context(what)?;
    Ok(list_lines(spec, &lines))
}

/// What restore pre-data and restore post-data would restore now.
fn list_work_directory(spec: &ParseListSpec) -> Result<String> {
    let paths = Paths::new(location(spec.dir.as_deref()));
    let mut spec = spec.clone();
    if let Some(run) = done::read::<RunSpec>(&paths.run_spec())? {
        spec.skip_extensions |= noted::is_set(&run.options, "--skip-extensions");
        spec.skip_ext_comments |= noted::is_set(&run.options, "--skip-ext-comments");
        spec.skip_collations |= noted::is_set(&run.options, "--skip-collations");
    }
    let archive = [paths.restored_dump(), paths.dump()]
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| {
            Error::state(format!(
                "nothing to list: \"dump schema\" was not run in work directory \"{}\"",
                paths.top().display()
            ))
            .with_hint("Run \"pgcopydb dump schema\" first, or name an archive or a list.")
        })?;
    let built = match done::read::<StepDone>(&paths.step_done(step::INDEXES))? {
        Some(_) => built(&Catalog::from_json(&read(&paths.schema_json())?)?),
        None => HashSet::new(),
    };
    let what = || format!("could not read archive \"{}\"", archive.display());
    let archive = Archive::read(&read(&archive)?).with_context(what)?;
    let omitted = filters::noted(&paths)?.unwrap_or_default();
    Ok(list_archive(&spec, &archive, &built, &omitted))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("could not read file \"{}\"", path.display()))
}

/// Each entry once, in the section that it is restored with.
fn list_archive(
    spec: &ParseListSpec,
    archive: &Archive,
    built: &HashSet<CatalogId>,
    omitted: &HashSet<i32>,
) -> String {
    let mut text = String::new();
    for (section, name) in [
        (Section::PreData, "pre-data"),
        (Section::PostData, "post-data"),
    ] {
        let rules = SkipRules {
            section,
            skip_extensions: spec.skip_extensions,
            skip_ext_comments: spec.skip_ext_comments,
            left_alone: &LeftAlone::default(),
            built,
            omitted,
            skip_collations: spec.skip_collations,
            publication: None,
        };
        let mut choices = select(archive, &rules);
        choices.retain(|choice| choice.skipped != Some(SkipReason::OtherSection));
        text.push_str(&format!("; {name}\n"));
        text.push_str(&write_list(&choices));
    }
    text
}

/// The lines of a list that are not commented, once more filtered.
fn list_lines(spec: &ParseListSpec, lines: &[ListLine]) -> String {
    let mut text = String::new();
    for line in lines {
        let is_ext_comment = line.desc == Some("COMMENT") && line.rest.starts_with("- EXTENSION ");
        let reason = if spec.skip_extensions && line.desc == Some("EXTENSION") {
            Some(SkipReason::Extension)
        } else if spec.skip_collations && line.desc == Some("COLLATION") {
            Some(SkipReason::Collation)
        } else if is_ext_comment && (spec.skip_extensions || spec.skip_ext_comments) {
            Some(SkipReason::ExtensionComment)
        } else {
            None
        };
        if let Some(reason) = reason {
            text.push_str(&format!("; skipped: {reason}\n;"));
        }
        text.push_str(&format!("{line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ParseListSpec, list};

    #[test]
    fn a_list_is_filtered_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pre.list");
        let text = "; head\n5; 3079 16385 EXTENSION - hstore \n;6; 1259 1 TABLE public gone me\n\
             7; 0 0 COMMENT - EXTENSION hstore \n8; 1259 16390 TABLE public film me\n9\n";
        std::fs::write(&file, text).unwrap();
        let mut spec = ParseListSpec {
            dir: None,
            file: Some(file.clone()),
            skip_extensions: false,
            skip_ext_comments: false,
            skip_collations: false,
        };
        let all = "5; 3079 16385 EXTENSION - hstore\n7; 0 0 COMMENT - EXTENSION hstore\n\
             8; 1259 16390 TABLE public film me\n9;\n";
        assert_eq!(list(&spec).unwrap(), all);
        spec.skip_extensions = true;
        let filtered = list(&spec).unwrap();
        assert!(
            filtered.starts_with("; skipped: extensions are skipped\n;5; 3079"),
            "{filtered}"
        );
        assert!(filtered.contains("\n;7; 0 0 COMMENT"), "{filtered}");
        // What is printed is a list again.
        std::fs::write(&file, &filtered).unwrap();
        let again = list(&spec).unwrap();
        assert_eq!(again, "8; 1259 16390 TABLE public film me\n9;\n");
        std::fs::write(&file, "x; TABLE").unwrap();
        assert!(list(&spec).unwrap_err().to_string().contains("line 1"));
        spec.file = None;
        spec.dir = Some(dir.path().join("none"));
        let error = list(&spec).unwrap_err();
        assert!(
            error.to_string().contains("\"dump schema\" was not run"),
            "{error}"
        );
    }
}
