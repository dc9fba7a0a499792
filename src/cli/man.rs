//! The man pages are generated from the clap definitions; these tests keep them, the commands and the files in step.
//! `UPDATE_MAN=1 cargo test --lib cli::man` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files in src/cli that are no command.
const SUPPORT: &[&str] = &[
    "extensions",
    "follow_options",
    "given",
    "man",
    "mod",
    "options",
    "parse_list",
    "roles",
    "sections",
    "size",
    "stdout",
    "text_table",
    "title",
    "usage",
];

/// One `match` in error.rs decides these; the wording is that of the contract.
const EXIT_STATUS: &str = r".SH EXIT STATUS
0 done; 1 bad arguments; 2 bad configuration; 3 the work directory does not allow it; 4 a server refused a statement;
6 the source, 7 the target could not be reached or used; 12 anything else, such as a child process that failed.
A run that a signal ended dies by that signal, after it has cleaned up.
.SH SEE ALSO
pgcopydb(1), pg_dump(1), pg_restore(1)
";

/// clap_mangen leaves the variables out when their values are hidden, and these may hold passwords.
fn environment(command: &clap::Command) -> String {
    let variables: Vec<(String, String)> = command
        .get_arguments()
        .filter_map(|arg| {
            Some((
                arg.get_env()?.to_str()?.to_owned(),
                arg.get_long()?.replace('-', r"\-"),
            ))
        })
        .collect();
    if variables.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        ".SH ENVIRONMENT\nA variable counts when its option is not given; an empty one is not set.\n",
    );
    for (variable, long) in variables {
        text.push_str(&format!(".TP\n{variable}\nas \\fB\\-\\-{long}\\fR\n"));
    }
    text.push_str(".PP\nThe variables that libpq reads (PGHOST, PGPASSFILE, PGSSLMODE and so on) count too.\n");
    text
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `pgcopydb-copy-db.1` and so on, with their contents.
fn pages() -> BTreeMap<String, Vec<u8>> {
    let mut pages = BTreeMap::new();
    add_pages(super::command(), "pgcopydb".to_owned(), &mut pages);
    pages
}

fn add_pages(command: clap::Command, name: String, pages: &mut BTreeMap<String, Vec<u8>>) {
    for deeper in command.get_subcommands() {
        let deeper_name = format!("{name}-{}", deeper.get_name());
        add_pages(deeper.clone(), deeper_name, pages);
    }
    // clap_mangen shows in SYNOPSIS what `bin_name` says, and the display name in the title.
    let typed = name.replacen("copy-db", "copy db", 1).replacen('-', " ", 1);
    let command = command
        .display_name(name.clone())
        .bin_name(typed)
        .disable_help_subcommand(true);
    let environment = environment(&command);
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .title(name.to_uppercase())
        .source(format!("pgcopydb {}", env!("CARGO_PKG_VERSION")))
        .manual("pgcopydb manual")
        .render(&mut page)
        .unwrap();
    page.extend_from_slice(environment.as_bytes());
    page.extend_from_slice(EXIT_STATUS.as_bytes());
    pages.insert(format!("{name}.1"), page);
}

fn names_in(dir: &Path, extension: &str) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

#[test]
fn man_pages_are_those_of_the_commands() {
    let dir = root().join("man");
    let pages = pages();
    if std::env::var_os("UPDATE_MAN").is_some() {
        std::fs::create_dir_all(&dir).unwrap();
        for old in names_in(&dir, "1") {
            std::fs::remove_file(old).unwrap();
        }
        for (name, page) in &pages {
            std::fs::write(dir.join(name), page).unwrap();
        }
    }
    let found: BTreeSet<_> = names_in(&dir, "1");
    let wanted: BTreeSet<_> = pages.keys().map(|name| dir.join(name)).collect();
    assert_eq!(found, wanted, "run UPDATE_MAN=1 cargo test --lib cli::man");
    for (name, page) in &pages {
        let on_disk = std::fs::read(dir.join(name)).unwrap();
        assert!(
            on_disk == *page,
            "man/{name} is out of date: run UPDATE_MAN=1 cargo test --lib cli::man"
        );
    }
}

#[test]
fn each_command_has_its_file() {
    let commands: BTreeSet<String> = super::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let files: BTreeSet<String> = names_in(&root().join("src/cli"), "rs")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|stem| !SUPPORT.contains(&stem.as_str()))
        .collect();
    assert_eq!(files, commands);
}

#[test]
fn definitions_hold() {
    super::command().debug_assert();
}
