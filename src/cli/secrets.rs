//! Hides passwords of the command line from `ps`. Runs first in the parent, before anything slow.

use std::ffi::OsString;

use crate::sys::title;

const HIDDEN: &str = "****";

/// Overwrite the arguments of this process where one may hold a password. `words` were read from there.
pub fn hide(words: &[OsString]) {
    let shown: Vec<String> = words
        .iter()
        .map(|word| without_secret(&word.to_string_lossy()))
        .collect();
    if shown
        .iter()
        .zip(words)
        .any(|(shown, word)| shown.as_str() != word.as_os_str())
    {
        title::replace_arguments(&shown);
    }
}

/// A connection string as a whole, whatever is in it: reading it exactly is the business of others, and later. An
/// option stays: `--source=****`.
fn without_secret(word: &str) -> String {
    let has_user = word.contains("://") && word.contains('@');
    if !has_user && !word.contains("password") {
        return word.to_string();
    }
    match word.split_once('=') {
        Some((option, _)) if option.starts_with("--") => format!("{option}={HIDDEN}"),
        _ => HIDDEN.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_secret;

    #[test]
    fn shows_no_connection_string_with_a_password() {
        for (word, shown) in [
            ("clone", "clone"),
            ("--table-jobs=4", "--table-jobs=4"),
            ("postgres://ann:tiger@db/film", "****"),
            ("--source=postgres://ann:tiger@db/film", "--source=****"),
            ("host=db password=tiger", "****"),
            ("--target=host=db password=tiger", "--target=****"),
            ("postgres:///film?password=tiger", "****"),
            ("host=db user=ann", "host=db user=ann"),
            ("--dir=/tmp/a@b", "--dir=/tmp/a@b"),
        ] {
            assert_eq!(without_secret(word), shown);
        }
    }
}
