//! Commands and options of the contract that are not built yet. They are known by name, so that a script that calls
//! one gets an error that says so: parsing and ignoring it would be worse. Each is
//! removed from here by the change that builds it. Pure.

/// `(long names, short letter)`, as clap reports them.
const OPTIONS: &[(&[&str], Option<&str>)] = &[];

/// Each command and, after it, what may follow it.
const COMMANDS: &[(&str, &[&str])] = &[("list", &["depends"])];

/// The message for an option that clap does not know, if the contract does.
pub fn option(unknown: &str) -> Option<String> {
    let name = unknown.split('=').next().unwrap_or(unknown);
    OPTIONS
        .iter()
        .find(|(long, short)| long.contains(&name) || *short == Some(name))
        .map(|(long, _)| format!("option {} is not built yet", long[0]))
}

/// The message for a command that clap does not know, if the contract does. `words` are those of the command line.
pub fn command(unknown: &str, words: &[String]) -> Option<String> {
    for (group, members) in COMMANDS {
        let names_member = |at: usize| {
            words[at] == *group
                && words
                    .get(at + 1)
                    .is_some_and(|word| members.contains(&word.as_str()))
        };
        if let Some(at) = (0..words.len()).find(|at| names_member(*at)) {
            let member = &words[at + 1];
            if unknown == *group || unknown == member {
                return Some(format!("command \"{group} {member}\" is not built yet"));
            }
        }
        // These themselves exist; an unknown word after them is a mistake.
        if unknown == *group && !["copy", "dump", "list", "restore"].contains(group) {
            return Some(format!("command \"{group}\" is not built yet"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_names_are_known() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(option("--follows"), None);
        assert_eq!(
            command("depends", &words("list depends --json")).as_deref(),
            Some("command \"list depends\" is not built yet")
        );
        assert_eq!(
            command("blobs", &words("copy blobs")).as_deref(),
            Some("command \"copy blobs\" is not built yet")
        );
        assert_eq!(command("tables", &words("copy tables")), None);
    }
}
