//! The commands that are some phases of a clone: `dump schema`, `restore pre-data`, `copy data` and so on. They know the
//! options of `clone`, each of them those that mean something to it: the tables here say which. An option that was not
//! given is what the earlier commands of the same run were given.

use clap::{Arg, Args, Command};

use super::clone::{CloneArgs, validate};
use super::given::Given;
use crate::clone::{self, CloneSpec, Phase, Phases};
use crate::error::{Error, Result};
use crate::logging;
use crate::sys::signal::Shutdown;

/// One command: what it does, and the options it takes, by their ids.
pub struct Section {
    phases: Phases,
    options: &'static [&'static [&'static str]],
}

const PLACE: &[&str] = &["source", "target", "dir", "filters"];
/// A snapshot may be named by those that read rows or the catalog.
const BEGINS: &[&str] = &["restart", "resume", "not_consistent", "snapshot"];
/// What builds on earlier commands cannot start over, and reads nothing: --not-consistent is for recipes that say it with
/// every command of a run.
const GOES_ON: &[&str] = &["resume", "not_consistent"];
/// How workers of the data section meet trouble.
const WORKERS: &[&str] = &["fail_fast", "on_disk_full", "stall_timeout", "lock_timeout"];
const OWNERS: &[&str] = &["no_owner", "no_acl", "no_comments"];
const SPLIT: &[&str] = &[
    "split_tables_larger_than",
    "split_max_parts",
    "estimate_table_sizes",
    "skip_split_by_ctid",
];

pub const DUMP: Section = Section {
    phases: Phases::of(&[Phase::Dump]),
    options: &[PLACE, BEGINS, &["skip_extensions"]],
};

pub const RESTORE_PRE_DATA: Section = Section {
    phases: Phases::of(&[Phase::PreData]),
    options: &[
        PLACE,
        GOES_ON,
        OWNERS,
        &["drop_if_exists", "no_tablespaces", "skip_extensions"],
        &["skip_ext_comments", "skip_collations", "requirements"],
        &["fail_fast", "stall_timeout", "lock_timeout"],
    ],
};

pub const RESTORE_POST_DATA: Section = Section {
    phases: Phases::of(&[Phase::PostData]),
    options: &[
        PLACE,
        GOES_ON,
        OWNERS,
        &["no_tablespaces", "skip_extensions", "skip_collations"],
        &["skip_db_properties"],
        &["restore_jobs", "maintenance_work_mem"],
        &[DESPITE_FAILURES],
        &["fail_fast", "stall_timeout", "lock_timeout"],
    ],
};

/// The option of restore post-data that clone does not have.
const DESPITE_FAILURES: &str = "despite_failures";

pub const RESTORE_SCHEMA: Section = Section {
    phases: Phases::of(&[Phase::PreData, Phase::PostData]),
    options: &[RESTORE_BOTH, PLACE, GOES_ON, OWNERS],
};

const RESTORE_BOTH: &[&str] = &[
    "drop_if_exists",
    "no_tablespaces",
    "skip_extensions",
    "skip_ext_comments",
    "skip_collations",
    "requirements",
    "skip_db_properties",
    "restore_jobs",
    "maintenance_work_mem",
    "fail_fast",
    "stall_timeout",
    "lock_timeout",
];

pub const COPY_SCHEMA: Section = Section {
    phases: Phases::of(&[Phase::Dump, Phase::PreData, Phase::PostData]),
    options: &[RESTORE_BOTH, PLACE, BEGINS, OWNERS],
};

pub const COPY_DATA: Section = Section {
    phases: Phases::of(&[
        Phase::TableData,
        Phase::LargeObjects,
        Phase::Indexes,
        Phase::Constraints,
        Phase::Vacuum,
        Phase::Sequences,
    ]),
    options: &[
        PLACE,
        BEGINS,
        OWNERS,
        SPLIT,
        &["table_jobs", "index_jobs", "jobs", "vacuum_jobs"],
        &["large_objects_jobs", "skip_large_objects", "drop_if_exists"],
        &["no_tablespaces", "skip_extensions", "skip_vacuum"],
        &["skip_analyze", "use_copy_binary", "maintenance_work_mem"],
        WORKERS,
    ],
};

pub const COPY_TABLE_DATA: Section = Section {
    phases: Phases::of(&[Phase::TableData]),
    options: &[
        PLACE,
        BEGINS,
        SPLIT,
        &["table_jobs", "skip_extensions", "use_copy_binary"],
        WORKERS,
    ],
};

pub const COPY_BLOBS: Section = Section {
    phases: Phases::of(&[Phase::LargeObjects]),
    options: &[
        PLACE,
        BEGINS,
        OWNERS,
        &["large_objects_jobs", "drop_if_exists"],
        WORKERS,
    ],
};

pub const COPY_SEQUENCES: Section = Section {
    phases: Phases::of(&[Phase::Sequences]),
    options: &[PLACE, BEGINS, &["fail_fast"]],
};

pub const COPY_INDEXES: Section = Section {
    phases: Phases::of(&[Phase::Indexes]),
    options: &[
        PLACE,
        GOES_ON,
        &["index_jobs", "no_tablespaces", "maintenance_work_mem"],
        WORKERS,
    ],
};

pub const COPY_CONSTRAINTS: Section = Section {
    phases: Phases::of(&[Phase::Constraints]),
    options: &[PLACE, GOES_ON, &["index_jobs"], WORKERS],
};

impl Section {
    fn takes(&self, id: &str) -> bool {
        self.options.iter().any(|some| some.contains(&id))
    }

    /// For clap: the options of clone that are none of this command's are not shown, and no variable sets them. That
    /// none is typed, `run` sees to.
    pub fn arg(&'static self) -> impl Fn(Arg) -> Arg {
        |arg| match self.takes(arg.get_id().as_str()) {
            true => arg,
            false => arg.hide(true).env(None::<&'static str>),
        }
    }

    fn refuse_others(&self, given: &Given) -> Result<()> {
        let all = CloneArgs::augment_args(Command::new("clone"));
        let foreign = all.get_arguments().find(|arg| {
            let id = arg.get_id().as_str();
            !self.takes(id) && given.is_typed(id)
        });
        match foreign.and_then(Arg::get_long) {
            Some(long) => Err(Error::usage(format!(
                "option --{long} means nothing to this command"
            ))
            .with_hint("See its --help for what it takes.")),
            None => Ok(()),
        }
    }
}

/// The id of the option that the engine notes under this name.
fn id_of(name: &str) -> String {
    name.trim_start_matches('-').replace('-', "_")
}

pub fn run(section: &Section, args: CloneArgs, given: &Given) -> Result<()> {
    run_spec(&section_spec(section, args, given)?)
}

/// `restore post-data`, which may do without tables that "copy data" could not copy.
#[derive(Args)]
pub struct PostDataArgs {
    #[command(flatten)]
    clone: Box<CloneArgs>,
    /// Restore what can be although tables were not copied; they are listed, and the exit code is not 0
    #[arg(long)]
    despite_failures: bool,
}

pub fn restore_post_data(args: PostDataArgs, given: &Given) -> Result<()> {
    run_spec(&CloneSpec {
        despite_failures: args.despite_failures,
        ..section_spec(&RESTORE_POST_DATA, *args.clone, given)?
    })
}

fn run_spec(spec: &CloneSpec) -> Result<()> {
    let shutdown = Shutdown::install()?;
    logging::share_terminal();
    clone::run(spec, &shutdown)
}

fn section_spec(section: &Section, args: CloneArgs, given: &Given) -> Result<CloneSpec> {
    section.refuse_others(given)?;
    let mut spec = validate(args, given, section.phases)?;
    // Left out altogether, so that "copy blobs" may still follow.
    if spec.skip_large_objects {
        spec.phases = spec.phases.without(Phase::LargeObjects);
        spec.skip_large_objects = false;
    }
    spec.said = Some(
        clone::noted_options()
            .filter(|name| given.is_set(&id_of(name)))
            .collect(),
    );
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_for_test;

    const SIDES: [&str; 4] = ["-S", "dbname=a", "-T", "dbname=b"];

    fn spec(section: &Section, words: &[&str]) -> Result<CloneSpec> {
        let (args, given) = parse_for_test::<CloneArgs>(words)?;
        section_spec(section, args, &given)
    }

    fn with_sides<'a>(words: &[&'a str]) -> Vec<&'a str> {
        [words, &SIDES].concat()
    }

    #[test]
    fn every_option_named_here_is_one_of_clone() {
        let all = CloneArgs::augment_args(Command::new("clone"));
        let ids: Vec<&str> = all
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .collect();
        for section in [
            &DUMP,
            &RESTORE_PRE_DATA,
            &RESTORE_POST_DATA,
            &RESTORE_SCHEMA,
            &COPY_SCHEMA,
            &COPY_DATA,
            &COPY_TABLE_DATA,
            &COPY_BLOBS,
            &COPY_SEQUENCES,
            &COPY_INDEXES,
            &COPY_CONSTRAINTS,
        ] {
            for id in section.options.concat() {
                assert!(ids.contains(&id) || id == DESPITE_FAILURES, "{id}");
            }
        }
        for name in clone::noted_options() {
            assert!(ids.contains(&id_of(name).as_str()), "{name}");
        }
    }

    #[test]
    fn an_option_of_another_section_is_refused_by_name() {
        for (section, words) in [
            (&DUMP, &["dump", "schema", "--no-owner"][..]),
            (&RESTORE_PRE_DATA, &["restore", "pre-data", "--jobs", "2"]),
            (&RESTORE_POST_DATA, &["restore", "post-data", "--restart"]),
            (&COPY_INDEXES, &["copy", "indexes", "--split-at", "1GB"]),
            (&COPY_DATA, &["copy", "data", "--follow"]),
        ] {
            let error = spec(section, &with_sides(words)).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains("means nothing"), "{error}");
        }
    }

    #[test]
    fn each_command_is_its_phases_and_needs_its_sides() {
        let dump = spec(&DUMP, &["dump", "schema", "-S", "dbname=a"]).unwrap();
        assert!(dump.phases.has(Phase::Dump) && dump.target.is_none());
        assert!(spec(&DUMP, &["dump", "schema", "-T", "dbname=a"]).is_err());
        let restore = spec(&RESTORE_SCHEMA, &["restore", "schema", "-T", "dbname=a"]).unwrap();
        assert!(restore.phases.has(Phase::PostData) && restore.source.is_none());
        assert!(spec(&COPY_DATA, &["copy", "data", "-T", "dbname=a"]).is_err());
        assert!(spec(&COPY_INDEXES, &["copy", "indexes", "-T", "dbname=a"]).is_ok());
    }

    #[test]
    fn what_was_said_is_told_from_what_was_not() {
        let words = ["copy", "data", "--no-owner", "--skip-blobs", "--resume"];
        let spec = spec(&COPY_DATA, &with_sides(&words)).unwrap();
        assert!(!spec.phases.has(Phase::LargeObjects));
        assert!(spec.resume && spec.no_owner);
        let said = spec.said.unwrap();
        assert!(said.contains(&"--no-owner") && said.contains(&"--source"));
        assert!(!said.contains(&"--no-acl"));
    }
}
