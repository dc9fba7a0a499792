//! The layers of the crate: a module imports from the layers to its right only. Reads the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// From the command line down to the words that everybody uses; what stands together in one layer does not know each
/// other, unless it is the last.
const LAYERS: [&[&str]; 9] = [
    &["cli"],
    &[
        "clone",
        "follow",
        "compare",
        "report",
        "check",
        "roles",
        "extensions",
        "instance",
    ],
    &["copy", "stream", "watch"],
    &["dump"],
    &["catalog", "filter", "snapshot", "sentinel", "workdir"],
    &["pg"],
    // The log's clock is a system call, while system calls are wrapped without a word in the log.
    &["logging"],
    &["sys"],
    &["error", "lsn", "ident", "size"],
];

/// Exceptions to "not each other": pairs that may import in this direction. A snapshot is noted in the work directory.
const WITHIN_LAYER: [(&str, &str); 13] = [
    // Every database of an instance is a clone of its own.
    ("instance", "clone"),
    ("instance", "follow"),
    ("instance", "roles"),
    ("instance", "check"),
    ("instance", "report"),
    // The online migration is both stories.
    ("follow", "clone"),
    // Both begin with the checks.
    ("clone", "check"),
    ("follow", "check"),
    // They come first in a clone, and are commands of their own.
    ("clone", "roles"),
    ("clone", "extensions"),
    ("clone", "report"),
    ("follow", "report"),
    ("snapshot", "workdir"),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Why module `from` may not import `to`, if so.
fn forbidden(from: &str, to: &str) -> Option<String> {
    let (Some(left), Some(right)) = (layer(from), layer(to)) else {
        return Some(format!(
            "\"{from}\" or \"{to}\" has no layer: give it one here"
        ));
    };
    let is_allowed = from == to
        || left < right
        || left == right && (left == LAYERS.len() - 1 || WITHIN_LAYER.contains(&(from, to)));
    // The work directory knows no server.
    let is_exception = (from, to) == ("workdir", "pg");
    (!is_allowed || is_exception).then(|| format!("\"{from}\" must not import \"{to}\""))
}

/// The modules that a source text names after `crate::`.
fn imports(source: &str) -> Vec<String> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in code {
        for rest in line.split("crate::").skip(1) {
            // `use crate::{a, b::c};` would hide its modules from us; one import style is the rule anyway.
            assert!(
                !rest.starts_with('{'),
                "one \"use crate::x::..\" for each module: {line}"
            );
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            found.push(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    found
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn modules_import_only_what_lies_below() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 5, "sources found: {files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if let Some(why) = forbidden(module, &import) {
                wrong.push(format!("{}: {why}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn forbidden_arrows_are_seen() {
    for (from, to) in [
        ("pg", "workdir"),
        ("workdir", "pg"),
        ("sys", "pg"),
        ("copy", "stream"),
        ("dump", "cli"),
        ("copy", "unheard_of"),
    ] {
        assert!(forbidden(from, to).is_some(), "{from} -> {to}");
    }
    for (from, to) in [
        ("cli", "clone"),
        ("copy", "sys"),
        ("pg", "pg"),
        ("error", "lsn"),
    ] {
        assert_eq!(forbidden(from, to), None);
    }
    assert_eq!(imports("use crate::pg::wire;\n// crate::cli\n"), ["pg"]);
}
