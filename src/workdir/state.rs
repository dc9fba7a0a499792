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

/// Decide how to begin. `Err` is the refusal.
pub fn decide(
    dir: &str,
    earlier: Option<&RunSpec>,
    options: &[(String, String)],
    wish: Wish,
) -> Result<Beginning> {
    match (earlier, wish) {
        (None, _) | (Some(_), Wish { restart: true, .. }) => Ok(Beginning::Fresh),
        (Some(_), Wish { resume: false, .. }) => Err(Error::state(format!(
            "work directory \"{dir}\" holds an earlier run"
        ))
        .with_hint("Use --resume to go on with it, or --restart to start over.")),
        (Some(earlier), Wish { resume: true, .. }) => {
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
        let earlier: Option<RunSpec> = match self.has_begun_step()? {
            true => done::read(&self.paths.run_spec())?,
            false => None,
        };
        let beginning = decide(
            &self.paths.top().display().to_string(),
            earlier.as_ref(),
            &options,
            wish,
        )?;
        let earlier_id = earlier.map(|earlier| earlier.id);
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
    use super::{Beginning, RunSpec, Wish, decide};

    fn options(split: &str) -> Vec<(String, String)> {
        vec![
            ("--source".into(), "a".into()),
            ("--split-tables-larger-than".into(), split.into()),
        ]
    }

    fn wish(restart: bool, resume: bool) -> Wish {
        Wish { restart, resume }
    }

    #[test]
    fn begins_goes_on_or_refuses() {
        let earlier = RunSpec {
            id: "x".into(),
            options: options("0"),
        };
        let decide = |earlier, options: &[_], wish| decide("/d", earlier, options, wish);
        assert_eq!(
            decide(None, &options("0"), wish(false, true)).unwrap(),
            Beginning::Fresh
        );
        assert_eq!(
            decide(Some(&earlier), &options("1"), wish(true, false)).unwrap(),
            Beginning::Fresh
        );
        let resumed = decide(Some(&earlier), &options("0"), wish(false, true)).unwrap();
        assert_eq!(resumed, Beginning::Resume { id: "x".into() });
        let error = decide(Some(&earlier), &options("0"), wish(false, false)).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.hint().unwrap().contains("--resume"));
    }

    #[test]
    fn names_each_option_that_changed() {
        let earlier = RunSpec {
            id: "x".into(),
            options: options("0"),
        };
        let error = decide("/d", Some(&earlier), &options("10 GB"), wish(false, true)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot resume: --split-tables-larger-than was \"0\" and is now \"10 GB\""
        );
    }
}
