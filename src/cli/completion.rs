//! `pgcopydb completion`: a script on stdout with which a shell completes our commands and options, made from the same
//! definitions as the help. Opens nothing.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::stdout;
use crate::error::{Error, Result};

/// Print a script that completes commands and options in a shell
#[derive(Args)]
#[command(after_help = "\
Example: pgcopydb completion bash > /etc/bash_completion.d/pgcopydb
Example: pgcopydb completion zsh > \"${fpath[1]}/_pgcopydb\"
Example: pgcopydb completion fish > ~/.config/fish/completions/pgcopydb.fish")]
pub struct CompletionArgs {
    #[arg(value_enum)]
    shell: SupportedShell,
}

/// Those that the tests look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SupportedShell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(args: CompletionArgs) -> Result<()> {
    stdout::print(&script(args.shell)?)
}

fn script(shell: SupportedShell) -> Result<String> {
    let shell = match shell {
        SupportedShell::Bash => Shell::Bash,
        SupportedShell::Zsh => Shell::Zsh,
        SupportedShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "pgcopydb", &mut script);
    String::from_utf8(script)
        .map_err(|error| Error::internal(format!("the completion script is no UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{SupportedShell, script};

    #[test]
    fn commands_and_options_are_completed() {
        for shell in [
            SupportedShell::Bash,
            SupportedShell::Zsh,
            SupportedShell::Fish,
        ] {
            let script = script(shell).unwrap();
            for word in ["clone", "table-jobs", "sentinel", "slot-name"] {
                assert!(script.contains(word), "{word} for {shell:?}");
            }
        }
    }
}
