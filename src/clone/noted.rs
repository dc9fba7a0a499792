//! The options that a run notes, because they say what is copied: a later command of the same run, or a resume, must fit
//! to them. `clone --resume` must be given them again; a command for one section takes over what an earlier one was
//! given, and is bound only by those that decide its own phases. Pure.

use super::CloneSpec;
use super::phases::{Phase, Phases};
use crate::filter::Filters;
use crate::workdir::state::{NotedOption, Rule};

/// Which commands of one run must be given the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// All.
    All,
    /// All that are given it.
    Said,
    /// Those that have begun one of the phases that it decides.
    Begun,
}

/// One option: which phases it decides, how it is told and taken over.
struct Noted {
    name: &'static str,
    bound: Bound,
    phases: Phases,
    tell: fn(&CloneSpec) -> Option<String>,
    /// From its words.
    take: Option<fn(&mut CloneSpec, &str)>,
}

const RESTORES: Phases = Phases::of(&[Phase::PreData, Phase::PostData, Phase::LargeObjects]);
const ROWS: Phases = Phases::of(&[Phase::TableData]);

const NOTED: &[Noted] = &[
    Noted {
        name: "--source",
        bound: Bound::All,
        phases: Phases::ALL,
        tell: |spec| Some(spec.source.as_ref()?.identity()),
        take: None,
    },
    Noted {
        name: "--target",
        bound: Bound::All,
        phases: Phases::ALL,
        tell: |spec| Some(spec.target.as_ref()?.identity()),
        take: None,
    },
    Noted {
        name: "--split-tables-larger-than",
        bound: Bound::Begun,
        phases: ROWS,
        tell: |spec| Some(number(spec.split.larger_than)),
        take: Some(|spec, text| spec.split.larger_than = text.parse().ok()),
    },
    Noted {
        name: "--split-max-parts",
        bound: Bound::Begun,
        phases: ROWS,
        tell: |spec| Some(number(spec.split.max_parts.map(u64::from))),
        take: Some(|spec, text| spec.split.max_parts = text.parse().ok()),
    },
    Noted {
        name: "--skip-split-by-ctid",
        bound: Bound::Begun,
        phases: ROWS,
        tell: |spec| Some(flag(spec.split.skip_ctid)),
        take: Some(|spec, text| spec.split.skip_ctid = text == YES),
    },
    Noted {
        name: "--filters",
        bound: Bound::Said,
        phases: Phases::ALL,
        tell: |spec| {
            let words = spec.filters.as_ref().map(Filters::words);
            Some(words.unwrap_or_else(|| "none".to_string()))
        },
        // From a file beside the words: see `filters::keep`.
        take: None,
    },
    Noted {
        name: "--drop-if-exists",
        bound: Bound::Begun,
        phases: Phases::of(&[Phase::PreData, Phase::LargeObjects]),
        tell: |spec| Some(flag(spec.drop_if_exists)),
        take: Some(|spec, text| spec.drop_if_exists = text == YES),
    },
    Noted {
        name: "--no-owner",
        bound: Bound::Begun,
        phases: RESTORES,
        tell: |spec| Some(flag(spec.no_owner)),
        take: Some(|spec, text| spec.no_owner = text == YES),
    },
    Noted {
        name: "--no-acl",
        bound: Bound::Begun,
        phases: RESTORES,
        tell: |spec| Some(flag(spec.no_acl)),
        take: Some(|spec, text| spec.no_acl = text == YES),
    },
    Noted {
        name: "--no-comments",
        bound: Bound::Begun,
        phases: RESTORES,
        tell: |spec| Some(flag(spec.no_comments)),
        take: Some(|spec, text| spec.no_comments = text == YES),
    },
    Noted {
        name: "--no-tablespaces",
        bound: Bound::Begun,
        phases: Phases::of(&[Phase::PreData, Phase::Indexes, Phase::PostData]),
        tell: |spec| Some(flag(spec.no_tablespaces)),
        take: Some(|spec, text| spec.no_tablespaces = text == YES),
    },
    Noted {
        name: "--skip-large-objects",
        bound: Bound::All,
        phases: Phases::of(&[Phase::LargeObjects]),
        tell: |spec| Some(flag(spec.skip_large_objects)),
        take: None,
    },
    Noted {
        name: "--skip-extensions",
        bound: Bound::Begun,
        phases: Phases::of(&[
            Phase::Dump,
            Phase::PreData,
            Phase::TableData,
            Phase::PostData,
        ]),
        tell: |spec| Some(flag(spec.skip_extensions)),
        take: Some(|spec, text| spec.skip_extensions = text == YES),
    },
    Noted {
        name: "--skip-ext-comments",
        bound: Bound::Begun,
        phases: Phases::of(&[Phase::PreData]),
        tell: |spec| Some(flag(spec.skip_ext_comments)),
        take: Some(|spec, text| spec.skip_ext_comments = text == YES),
    },
    Noted {
        name: "--skip-collations",
        bound: Bound::Begun,
        phases: Phases::of(&[Phase::PreData, Phase::PostData]),
        tell: |spec| Some(flag(spec.skip_collations)),
        take: Some(|spec, text| spec.skip_collations = text == YES),
    },
    Noted {
        name: "--roles",
        bound: Bound::All,
        phases: Phases::ALL,
        // A part of clone; alone it is "copy roles", which notes nothing here.
        tell: |spec| spec.said.is_none().then(|| flag(spec.roles.is_some())),
        take: None,
    },
    Noted {
        name: "--requirements",
        bound: Bound::All,
        phases: Phases::of(&[Phase::PreData]),
        tell: |spec| Some(spec.requirements.in_words()),
        take: None,
    },
    Noted {
        name: "--skip-db-properties",
        bound: Bound::Begun,
        phases: Phases::of(&[Phase::PostData]),
        tell: |spec| Some(flag(spec.skip_db_properties)),
        take: Some(|spec, text| spec.skip_db_properties = text == YES),
    },
];

const YES: &str = "yes";

fn flag(value: bool) -> String {
    if value { YES } else { "no" }.to_string()
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "off".to_string(), |value| value.to_string())
}

/// As the user types them.
pub fn names() -> impl Iterator<Item = &'static str> {
    NOTED.iter().map(|option| option.name)
}

/// What this command notes. `is_begun` says whether a phase has done anything yet.
pub fn options(spec: &CloneSpec, is_begun: impl Fn(Phase) -> bool) -> Vec<NotedOption> {
    let note = |option: &Noted| {
        let decided = || spec.phases.iter().filter(|phase| option.phases.has(*phase));
        decided().next()?;
        let rule = match (&spec.said, option.bound) {
            // A whole clone is one thing, said as a whole.
            (None, _) | (_, Bound::All) => Rule::Fixed,
            (Some(said), _) if !said.contains(&option.name) => Rule::Inherits,
            (Some(_), Bound::Said) => Rule::Fixed,
            (Some(_), Bound::Begun) if decided().any(&is_begun) => Rule::Fixed,
            (Some(_), Bound::Begun) => Rule::Replaces,
        };
        Some(NotedOption {
            name: option.name,
            value: (option.tell)(spec)?,
            rule,
        })
    };
    NOTED.iter().filter_map(note).collect()
}

/// Whether a flag was noted as given.
pub fn is_set(options: &[(String, String)], name: &str) -> bool {
    let noted = options.iter().find(|(other, _)| other == name);
    noted.is_some_and(|(_, value)| value == YES)
}

/// The spec of this command, with what earlier commands of its run were given.
pub fn take_over(spec: &mut CloneSpec, options: &[(String, String)]) {
    if spec.said.is_none() {
        return;
    }
    for option in NOTED {
        let noted = options.iter().find(|(name, _)| name == option.name);
        if let (Some(take), Some((_, value))) = (option.take, noted) {
            take(spec, value);
        }
    }
}
