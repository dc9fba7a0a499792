//! What `ps` shows of the command line: the words as they were typed, but connection strings without their secrets.
//! Runs first of all in the parent; a password given on the command line is visible for a moment only.

use std::ffi::OsString;

use crate::error::Side;
use crate::pg::conninfo::ConnInfo;
use crate::sys::title;

/// Overwrite the arguments of this process with their public form.
pub fn hide_secrets(words: &[OsString]) {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if words.iter().any(|word| may_hold_secret(word)) {
        title::replace_arguments(&public_words(&words));
    }
}

fn public_words(words: &[String]) -> Vec<String> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            // --source=URI; a keyword/value string has its "=" behind a keyword, not behind an option.
            Some((option, value)) if option.starts_with('-') => {
                format!("{option}={}", public_word(value))
            }
            _ => public_word(word),
        })
        .collect()
}

fn public_word(word: &str) -> String {
    if !may_hold_secret(word) {
        return word.to_string();
    }
    // Only what is clearly a connection string is taken apart: "-Spostgres://.." would be read as the name of a database.
    let is_string = word.starts_with("postgres://")
        || word.starts_with("postgresql://")
        || (!word.starts_with('-') && word.contains("password=") && !word.contains("://"));
    match ConnInfo::parse(Side::Source, word) {
        Ok(info) if is_string => info.redacted(),
        // Whatever it is, it is not shown.
        _ => "****".to_string(),
    }
}

fn may_hold_secret(word: &str) -> bool {
    word.contains("://") || word.contains("password")
}

#[cfg(test)]
mod tests {
    use super::public_words;

    #[test]
    fn no_secret_is_left() {
        let words = [
            "pgcopydb",
            "clone",
            "--source=postgres://me:hush@old/shop",
            "--target",
            "host=new user=me password='hush hush' dbname=shop",
            "-S",
            "postgres://me:hu sh@/%zz",
            "-Spostgres://me:hush@old/shop",
            "--dir",
            "/w",
        ];
        let shown = public_words(&words.map(str::to_string)).join(" ");
        assert!(!shown.contains("hu"), "{shown}");
        assert!(
            shown.starts_with("pgcopydb clone --source=postgres://me:****@old/shop"),
            "{shown}"
        );
        assert!(shown.ends_with("-S **** **** --dir /w"), "{shown}");
    }
}
