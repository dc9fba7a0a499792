//! The rules of a run: may it begin, may it go on, and with which options. Pure decisions over what the directory
//! holds and what the user said; the reading and writing is around them.

use serde::{Deserialize, Serialize};

use super::{WorkDir, done};
use crate::error::{Error, Result};
use crate::sys::durable::Sync;

/// What a run was asked to copy. A resume must be asked for the same; jobs, log levels and passwords may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Short and unique: how this run's connections are recognised on the servers.
    pub id: String,
    /// (name of the option, its value in words), in a fixed order.
    pub options: Vec<(String, String)>,
}

/// What the user said about an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub restart: bool,
    pub resume: bool,
}

/// How a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing was here, or it was removed as asked.
    Fresh,
    /// An earlier run goes on under its id.
    Resume { id: String },
}

/// A run that may begin.
#[derive(Debug)]
pub struct Begun {
    pub is_resumed: bool,
    pub id: String,
    /// The run that the directory held before, gone on with or thrown away: it may have left something on the servers.
    pub earlier_id: Option<String>,
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
    options: &[(String, String)],
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
        (Earlier::Run(_), Wish { resume: false, .. }) => Err(Error::state(format!(
            "work directory \"{dir}\" holds an earlier run"
        ))
        .with_hint("Use --resume to go on with it, or --restart to start over.")),
        (Earlier::Run(earlier), Wish { resume: true, .. }) => {
            let differences = differences(&earlier.options, options);
            if differences.is_empty() {
                return Ok(Beginning::Resume {
                    id: earlier.id.clone(),
                });
            }
            Err(
                Error::state(format!("cannot resume: {}", differences.join("; "))).with_hint(
                    "Use the options of the run that is resumed, or --restart to start over.",
                ),
            )
        }
    }
}

/// Each option that is not what it was, in words.
fn differences(earlier: &[(String, String)], now: &[(String, String)]) -> Vec<String> {
    let value = |options: &[(String, String)], name: &str| {
        options
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = earlier.iter().chain(now).map(|(name, _)| name).collect();
    names.dedup();
    names.sort();
    names.dedup();
    let words = |value: Option<String>| {
        value.map_or_else(|| "not given".to_string(), |value| format!("\"{value}\""))
    };
    names
        .into_iter()
        .filter(|name| value(earlier, name) != value(now, name))
        .map(|name| {
            format!(
                "{name} was {} and is now {}",
                words(value(earlier, name)),
                words(value(now, name))
            )
        })
        .collect()
}

impl WorkDir {
    /// Begin a run or go on with one: leaves the directory ready, with the run's id.
    pub fn begin(&self, options: Vec<(String, String)>, wish: Wish, new_id: &str) -> Result<Begun> {
        // A run that was refused before it began anything left nothing to go on with.
        let earlier = match self.has_begun_step()? {
            true => done::read(&self.paths.run_spec())?.map_or(Earlier::Unreadable, Earlier::Run),
            false => Earlier::None,
        };
        let beginning = decide(
            &self.paths.top().display().to_string(),
            &earlier,
            &options,
            wish,
        )?;
        let earlier_id = match earlier {
            Earlier::Run(earlier) => Some(earlier.id),
            Earlier::None | Earlier::Unreadable => None,
        };
        // Queues of a run that was killed are removed whatever happens next.
        self.remove_noted_queues()?;
        let id = match &beginning {
            Beginning::Resume { id } => {
                self.prepare_run()?;
                self.forget_last_attempt()?;
                id.clone()
            }
            Beginning::Fresh => {
                self.remove_run()?;
                self.prepare_run()?;
                let spec = RunSpec {
                    id: new_id.to_string(),
                    options,
                };
                done::write(&self.paths.run_spec(), &spec, Sync::Now)?;
                spec.id
            }
        };
        Ok(Begun {
            is_resumed: matches!(beginning, Beginning::Resume { .. }),
            id,
            earlier_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Beginning, Earlier, RunSpec, Wish, decide};
    use crate::workdir::{Service, WorkDir};

    fn options(split: &str) -> Vec<(String, String)> {
        vec![
            ("--source".into(), "a".into()),
            ("--split-tables-larger-than".into(), split.into()),
        ]
    }

    fn wish(restart: bool, resume: bool) -> Wish {
        Wish { restart, resume }
    }

    fn earlier(split: &str) -> Earlier {
        Earlier::Run(RunSpec {
            id: "x".into(),
            options: options(split),
        })
    }

    #[test]
    fn begins_goes_on_or_refuses() {
        let earlier = earlier("0");
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
        assert_eq!(resumed, Beginning::Resume { id: "x".into() });
        let error = decide(&earlier, &options("0"), wish(false, false)).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.hint().unwrap().contains("--resume"));
    }

    #[test]
    fn names_each_option_that_changed() {
        let earlier = earlier("0");
        let error = decide("/d", &earlier, &options("10 GB"), wish(false, true)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot resume: --split-tables-larger-than was \"0\" and is now \"10 GB\""
        );
    }

    #[test]
    fn a_run_whose_options_are_lost_is_not_thrown_away_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let workdir = WorkDir::open(&dir.path().join("w"), Service::Clone).unwrap();
        let begin = |restart, resume, id| workdir.begin(options("0"), wish(restart, resume), id);
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
        let begin = |id| workdir.begin(options("0"), wish(false, true), id).unwrap();
        // Refused before it began anything: the next run is a new one.
        assert!(!begin("x").is_resumed);
        assert!(!begin("y").is_resumed);
        workdir.begin_step("tables").unwrap();
        let begun = begin("z");
        assert_eq!((begun.is_resumed, begun.id.as_str()), (true, "y"));
        assert_eq!(begun.earlier_id.as_deref(), Some("y"));
    }
}
