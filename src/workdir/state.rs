//! The rules of a run: may it begin, may it go on, and with which options. Pure decisions over what the directory
//! holds and what the user said; the reading and writing is around them.

use serde::{Deserialize, Serialize};

use super::{QueuesOf, WorkDir, done};
use crate::error::{Error, Result};
use crate::sys::durable::Sync;

/// What a run was asked to copy. A resume must be asked for the same; jobs, log levels and passwords may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Short and unique: how this run's connections are recognised on the servers.
    pub id: String,
    /// (name of the option, its value in words), in the order in which the commands of the run noted them.
    pub options: Vec<(String, String)>,
}

/// An option that decides something about this command's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedOption {
    pub name: &'static str,
    /// In words.
    pub value: String,
    pub rule: Rule,
}

/// What happens to an option when an earlier command of the run noted another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It must be what it was.
    Fixed,
    /// Nothing was said about it now: what it was holds.
    Inherits,
    /// It was said anew, before the work that it decides was begun.
    Replaces,
}

/// What the user said about an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub restart: bool,
    pub resume: bool,
    /// The command is of use in an earlier run only, and has begun nothing in it: it need not be told to go on.
    pub joins: bool,
}

/// How a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing was here, or it was removed as asked.
    Fresh,
    /// An earlier run goes on, under its id and with these options.
    Resume(RunSpec),
}

/// A run that may begin.
#[derive(Debug)]
pub struct Begun {
    pub is_resumed: bool,
    pub id: String,
    /// The run that the directory held before, gone on with or thrown away: it may have left something on the servers.
    pub earlier_id: Option<String>,
    /// Every noted option as it holds now, those of earlier commands among them.
    pub options: Vec<(String, String)>,
}

/// What the directory says about the run before this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// There was none, or it began nothing.
    None,
    /// It began something, and its options cannot be read any more.
    Unreadable,
    Run(RunSpec),
}

/// Decide how to begin. `Err` is the refusal.
pub fn decide(
    dir: &str,
    earlier: &Earlier,
    options: &[NotedOption],
    wish: Wish,
) -> Result<Beginning> {
    match (earlier, wish) {
        (Earlier::None, _)
        | (Earlier::Unreadable | Earlier::Run(_), Wish { restart: true, .. }) => {
            Ok(Beginning::Fresh)
        }
        // To begin anew would throw away what is done, which nobody asked for.
        (Earlier::Unreadable, Wish { restart: false, .. }) => Err(Error::state(format!(
            "work directory \"{dir}\" holds an earlier run whose options cannot be read"
        ))
        .with_hint("Use --restart to start over.")),
        (
            Earlier::Run(_),
            Wish {
                resume: false,
                joins: false,
                ..
            },
        ) => Err(
            Error::state(format!("work directory \"{dir}\" holds an earlier run"))
                .with_hint("Use --resume to go on with it, or --restart to start over."),
        ),
        (Earlier::Run(earlier), _) => {
            let differences = differences(&earlier.options, options);
            if differences.is_empty() {
                return Ok(Beginning::Resume(RunSpec {
                    id: earlier.id.clone(),
                    options: merge(&earlier.options, options),
                }));
            }
            Err(
                Error::state(format!("cannot resume: {}", differences.join("; "))).with_hint(
                    "Use the options of the run that is resumed, or --restart to start over.",
                ),
            )
        }
    }
}

fn noted<'a>(options: &'a [(String, String)], name: &str) -> Option<&'a str> {
    options
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.as_str())
}

/// Each option that is not what it must be, in words.
fn differences(earlier: &[(String, String)], now: &[NotedOption]) -> Vec<String> {
    let differs = |option: &&NotedOption| option.rule == Rule::Fixed;
    now.iter()
        .filter(differs)
        .filter_map(|option| {
            let was = noted(earlier, option.name).filter(|was| *was != option.value)?;
            Some(format!(
                "{} was \"{was}\" and is now \"{}\"",
                option.name, option.value
            ))
        })
        .collect()
}

/// The options of the run once this command joined it.
fn merge(earlier: &[(String, String)], now: &[NotedOption]) -> Vec<(String, String)> {
    let mut merged = earlier.to_vec();
    for option in now {
        match merged.iter_mut().find(|(name, _)| name == option.name) {
            Some((_, value)) if option.rule == Rule::Replaces => value.clone_from(&option.value),
            Some(_) => {}
            None => merged.push((option.name.to_string(), option.value.clone())),
        }
    }
    merged
}

impl WorkDir {
    /// Begin a run or go on with one: leaves the directory ready, with the run's id and options.
    pub fn begin(&self, options: &[NotedOption], wish: Wish, new_id: &str) -> Result<Begun> {
        // A run that was refused before it began anything left nothing to go on with.
        let earlier = match self.has_begun_step()? {
            true => done::read(&self.paths.run_spec())?.map_or(Earlier::Unreadable, Earlier::Run),
            false => Earlier::None,
        };
        let beginning = decide(
            &self.paths.top().display().to_string(),
            &earlier,
            options,
            wish,
        )?;
        // Queues of a run that was killed are removed whatever happens next.
        self.remove_noted_queues(QueuesOf::Copy)?;
        let is_resumed = matches!(beginning, Beginning::Resume(_));
        let spec = match beginning {
            Beginning::Resume(spec) => {
                self.prepare_run()?;
                self.forget_last_attempt()?;
                spec
            }
            Beginning::Fresh => {
                self.remove_run()?;
                self.prepare_run()?;
                RunSpec {
                    id: new_id.to_string(),
                    options: merge(&[], options),
                }
            }
        };
        let is_noted = matches!(&earlier, Earlier::Run(earlier) if *earlier == spec);
        if !(is_resumed && is_noted) {
            done::write(&self.paths.run_spec(), &spec, Sync::Now)?;
        }
        Ok(Begun {
            is_resumed,
            id: spec.id,
            earlier_id: match earlier {
                Earlier::Run(earlier) => Some(earlier.id),
                Earlier::None | Earlier::Unreadable => None,
            },
            options: spec.options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Beginning, Earlier, NotedOption, Rule, RunSpec, Wish, decide};
    use crate::workdir::{Service, WorkDir};

    const SPLIT: &str = "--split-tables-larger-than";

    fn option(name: &'static str, value: &str, rule: Rule) -> NotedOption {
        NotedOption {
            name,
            value: value.into(),
            rule,
        }
    }

    fn options(split: &str) -> Vec<NotedOption> {
        vec![
            option("--source", "a", Rule::Fixed),
            option(SPLIT, split, Rule::Fixed),
        ]
    }

    fn words(options: &[(&str, &str)]) -> Vec<(String, String)> {
        options
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn wish(restart: bool, resume: bool) -> Wish {
        Wish {
            restart,
            resume,
            joins: false,
        }
    }

    fn run(split: &str) -> RunSpec {
        RunSpec {
            id: "x".into(),
            options: words(&[("--source", "a"), (SPLIT, split)]),
        }
    }

    #[test]
    fn begins_goes_on_or_refuses() {
        let earlier = Earlier::Run(run("0"));
        let decide = |earlier, options: &[_], wish| decide("/d", earlier, options, wish);
        assert_eq!(
            decide(&Earlier::None, &options("0"), wish(false, true)).unwrap(),
            Beginning::Fresh
        );
        assert_eq!(
            decide(&earlier, &options("1"), wish(true, false)).unwrap(),
            Beginning::Fresh
        );
        let resumed = decide(&earlier, &options("0"), wish(false, true)).unwrap();
        assert_eq!(resumed, Beginning::Resume(run("0")));
        let error = decide(&earlier, &options("0"), wish(false, false)).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.hint().unwrap().contains("--resume"));
        let joins = Wish {
            joins: true,
            ..wish(false, false)
        };
        assert!(decide(&earlier, &options("0"), joins).is_ok());
    }

    #[test]
    fn names_each_option_that_changed() {
        let earlier = Earlier::Run(run("0"));
        let error = decide("/d", &earlier, &options("10 GB"), wish(false, true)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot resume: --split-tables-larger-than was \"0\" and is now \"10 GB\""
        );
    }

    #[test]
    fn commands_of_one_run_add_to_its_options() {
        let earlier = Earlier::Run(run("0"));
        let now = [
            option(SPLIT, "1", Rule::Inherits),
            option("--no-owner", "yes", Rule::Fixed),
        ];
        let resumed = decide("/d", &earlier, &now, wish(false, true)).unwrap();
        let Beginning::Resume(spec) = resumed else {
            panic!("it is resumed");
        };
        assert_eq!(
            spec.options,
            words(&[("--source", "a"), (SPLIT, "0"), ("--no-owner", "yes")])
        );
        let now = [option(SPLIT, "1", Rule::Replaces)];
        let resumed = decide("/d", &earlier, &now, wish(false, true)).unwrap();
        assert_eq!(resumed, Beginning::Resume(run("1")));
    }

    #[test]
    fn a_run_whose_options_are_lost_is_not_thrown_away_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let workdir = WorkDir::open(&dir.path().join("w"), Service::Clone).unwrap();
        let begin = |restart, resume, id| workdir.begin(&options("0"), wish(restart, resume), id);
        begin(false, false, "x").unwrap();
        workdir.begin_step("tables").unwrap();
        std::fs::write(workdir.paths.run_spec(), "").unwrap();
        for resume in [false, true] {
            let error = begin(false, resume, "y").unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.hint().unwrap().contains("--restart"));
            assert!(workdir.is_step_begun("tables"));
        }
        assert_eq!(begin(true, false, "z").unwrap().id, "z");
        assert!(!workdir.is_step_begun("tables"));
    }

    #[test]
    fn goes_on_under_the_same_id() {
        let dir = tempfile::tempdir().unwrap();
        let workdir = WorkDir::open(&dir.path().join("w"), Service::Clone).unwrap();
        let begin = |id, split| {
            let options = [option(SPLIT, split, Rule::Replaces)];
            workdir.begin(&options, wish(false, true), id).unwrap()
        };
        // Refused before it began anything: the next run is a new one.
        assert!(!begin("x", "0").is_resumed);
        assert!(!begin("y", "0").is_resumed);
        workdir.begin_step("tables").unwrap();
        let begun = begin("z", "1");
        assert_eq!((begun.is_resumed, begun.id.as_str()), (true, "y"));
        assert_eq!(begun.earlier_id.as_deref(), Some("y"));
        assert_eq!(begun.options, words(&[(SPLIT, "1")]));
        assert_eq!(begin("z", "1").options, words(&[(SPLIT, "1")]));
    }
}
