//! From clap's error to ours: one short line that names what is wrong, exit code 1, and no password in it. Pure.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Error;

/// Why no command is run.
pub enum Refused {
    /// Help was asked for; it goes to stdout and is a success.
    Help(String),
    Mistake(Error),
}

pub fn explain(error: &clap::Error, command: &clap::Command, words: &[OsString]) -> Refused {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return Refused::Help(error.render().to_string());
    }
    let words: Vec<String> = words
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let message = match error.kind() {
        ErrorKind::UnknownArgument => {
            unknown_argument(text(ContextKind::InvalidArg).unwrap_or_default())
        }
        ErrorKind::InvalidSubcommand => {
            let unknown = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            misplaced_conninfo(unknown).unwrap_or_else(|| format!("unknown command \"{unknown}\""))
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => invalid_value(
            error,
            command,
            &words,
            text(ContextKind::InvalidArg).unwrap_or_default(),
            text(ContextKind::InvalidValue).unwrap_or_default(),
        ),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "no command given".to_owned()
        }
        _ => first_line(&error.render().to_string()),
    };
    let hint = match text(ContextKind::SuggestedArg).or(text(ContextKind::SuggestedSubcommand)) {
        Some(similar) => format!("Did you mean {similar}?"),
        None => "See pgcopydb help.".to_owned(),
    };
    Refused::Mistake(Error::usage(message).with_hint(hint))
}

fn unknown_argument(unknown: &str) -> String {
    if unknown.starts_with('-') {
        // Without its value, which may be a connection string.
        return format!(
            "unknown option {}",
            unknown.split('=').next().unwrap_or(unknown)
        );
    }
    misplaced_conninfo(unknown).unwrap_or_else(|| format!("unexpected argument \"{unknown}\""))
}

/// A connection string without its option must not be repeated: it may hold a password.
fn misplaced_conninfo(word: &str) -> Option<String> {
    word.contains(['=', '@', ':']).then(|| {
        "unexpected argument that looks like a connection string: put --source or --target before it"
            .to_owned()
    })
}

/// `arg` is as clap shows it: `--table-jobs <N>`.
fn invalid_value(
    error: &clap::Error,
    command: &clap::Command,
    words: &[String],
    arg: &str,
    value: &str,
) -> String {
    let option = arg.split([' ', '=']).next().unwrap_or(arg);
    if value.is_empty()
        && !words
            .iter()
            .any(|word| word.starts_with(&format!("{option}=")))
    {
        let is_last = words.last().is_some_and(|word| word.starts_with('-'));
        if is_last {
            return format!("option {option} needs a value");
        }
    }
    let reason =
        std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    match variable_in_use(command, option, value) {
        Some(variable) if !words.iter().any(|word| word.contains(value)) => {
            format!(
                "invalid value \"{value}\" in environment variable {variable} (option {option}){reason}"
            )
        }
        _ => format!("invalid value \"{value}\" for option {option}{reason}"),
    }
}

/// The environment variable of an option, when it holds just that value.
fn variable_in_use(command: &clap::Command, option: &str, value: &str) -> Option<String> {
    let here = command
        .get_arguments()
        .find(|arg| {
            arg.get_long()
                .is_some_and(|long| option.strip_prefix("--") == Some(long))
        })
        .and_then(|arg| arg.get_env())
        .filter(|name| std::env::var_os(name).is_some_and(|found| found == value))
        .map(|name| name.to_string_lossy().into_owned());
    here.or_else(|| {
        command
            .get_subcommands()
            .find_map(|deeper| variable_in_use(deeper, option, value))
    })
}

/// clap's own words without its prefix; what follows the first empty line is usage.
fn first_line(rendered: &str) -> String {
    rendered
        .trim_start_matches("error: ")
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
        .replace('\'', "\"")
}

#[cfg(test)]
impl Refused {
    pub fn into_error(self) -> Error {
        match self {
            Refused::Help(text) => Error::internal(text),
            Refused::Mistake(error) => error,
        }
    }
}

/// Tests of the command line must not depend on the caller's variables.
#[cfg(test)]
pub fn without_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| arg.env(None::<&'static str>))
        .mut_subcommands(without_environment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn refusal(line: &[&str]) -> Error {
        let words: Vec<OsString> = std::iter::once("pgcopydb")
            .chain(line.iter().copied())
            .map(OsString::from)
            .collect();
        let command = without_environment(command());
        let error = command
            .clone()
            .try_get_matches_from(&words)
            .expect_err("the line is a mistake");
        explain(&error, &command, &words).into_error()
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        for (line, message) in [
            (&["compare"][..], "no command given"),
            (&["klone"], "unknown command \"klone\""),
            (&["copy", "tables"], "unknown command \"tables\""),
            (&["clone", "--sideways"], "unknown option --sideways"),
            (&["clone", "extra"], "unexpected argument \"extra\""),
            (
                &["clone", "--table-jobs", "0"],
                "invalid value \"0\" for option --table-jobs: a number from 1 to 128 is needed",
            ),
            (&["clone", "--source"], "option --source needs a value"),
        ] {
            let error = refusal(line);
            assert_eq!(error.message(), message);
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn no_password_is_repeated() {
        let error = refusal(&["clone", "postgres://joe:sesame@example.org/db"]);
        assert!(!error.to_string().contains("sesame"), "{error}");
        let error = refusal(&["clone", "--sauce=postgres://joe:sesame@example.org/db"]);
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}
