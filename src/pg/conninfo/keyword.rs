//! The keyword/value form of a connection string, `host=db1 dbname='my db'`: reading and writing it. Pure.
//! Source: "Keyword/Value Connection Strings" in the libpq documentation, `conninfo_parse` in `fe-connect.c`.

use std::iter::Peekable;
use std::str::Chars;

use super::options::{RawOptions, is_secret};
use crate::error::{Error, Result};

const QUOTE_HINT: &str = "A value with blanks must be in single quotes, and \\ and ' in a value must be escaped by a \\.";

/// Read every `keyword = value`.
pub(super) fn parse(text: &str, options: &mut RawOptions) -> Result<()> {
    let mut chars = text.chars().peekable();
    // What follows an unquoted password may be the rest of it, so it is not shown.
    let mut may_be_secret = false;
    loop {
        skip_blanks(&mut chars);
        if chars.peek().is_none() {
            return Ok(());
        }
        let keyword = take_keyword(&mut chars);
        let shown = if may_be_secret {
            "the word after the password".to_string()
        } else {
            format!("\"{keyword}\"")
        };
        skip_blanks(&mut chars);
        if chars.next() != Some('=') {
            return Err(Error::usage(format!("missing \"=\" after {shown}")).with_hint(QUOTE_HINT));
        }
        skip_blanks(&mut chars);
        let is_quoted = chars.peek() == Some(&'\'');
        let value = take_value(&mut chars)?;
        if !options.set(&keyword, value)? {
            let error = Error::usage(format!("unknown parameter {shown}"));
            return Err(if may_be_secret {
                error.with_hint(QUOTE_HINT)
            } else {
                error
            });
        }
        may_be_secret = is_secret(&keyword) && !is_quoted;
    }
}

/// The blanks of C's `isspace`, which libpq uses.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn skip_blanks(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|&c| is_blank(c)).is_some() {}
}

fn take_keyword(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut keyword = String::new();
    while let Some(c) = chars.next_if(|&c| c != '=' && !is_blank(c)) {
        keyword.push(c);
    }
    keyword
}

fn take_value(chars: &mut Peekable<Chars<'_>>) -> Result<String> {
    let is_quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match chars.next() {
            None if is_quoted => {
                return Err(Error::usage("unterminated quoted value").with_hint(QUOTE_HINT));
            }
            None => return Ok(value),
            Some('\'') if is_quoted => return Ok(value),
            Some(c) if !is_quoted && is_blank(c) => return Ok(value),
            // A backslash at the very end stands for nothing, as for libpq.
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
        }
    }
}

/// Add one `keyword=value` to a connection string, quoted when needed.
pub(super) fn append(text: &mut String, keyword: &str, value: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(keyword);
    text.push('=');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@,+%".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        text.push_str(value);
        return;
    }
    text.push('\'');
    for c in value.chars() {
        if c == '\'' || c == '\\' {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('\'');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{RawOptions, append, parse};

    fn read(text: &str) -> Result<RawOptions, String> {
        let mut options = RawOptions::default();
        match parse(text, &mut options) {
            Ok(()) => Ok(options),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn reads_values() {
        for (text, keyword, value) in [
            ("host=a", "host", "a"),
            ("  host = a  ", "host", "a"),
            ("host\t=\na", "host", "a"),
            ("host=a host=b", "host", "b"),
            ("host=", "host", ""),
            ("host=''", "host", ""),
            ("host='' port=1", "port", "1"),
            // A blank after "=" is skipped even when the value was meant to be empty.
            ("host= port=1", "host", "port=1"),
            ("dbname='a b'", "dbname", "a b"),
            (r"password='a\'c'", "password", "a'c"),
            (r"password='a\\c'", "password", r"a\c"),
            (r"dbname=a\ b", "dbname", "a b"),
            (r"dbname=a\", "dbname", "a"),
            ("dbname=a'b", "dbname", "a'b"),
            ("dbname='a'user=x", "user", "x"),
            ("dbname=a=b", "dbname", "a=b"),
            ("dbname=été", "dbname", "été"),
            ("requiressl=1", "sslmode", "require"),
            ("requiressl=0", "sslmode", "prefer"),
        ] {
            let options = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(options.get(keyword), Some(value), "{text}");
        }
    }

    #[test]
    fn names_what_it_refuses() {
        for (text, message) in [
            ("host", "missing \"=\" after \"host\""),
            ("host=a port", "missing \"=\" after \"port\""),
            ("colour=blue", "unknown parameter \"colour\""),
            ("=x", "unknown parameter \"\""),
            ("HOST=x", "unknown parameter \"HOST\""),
            ("password='abc", "unterminated quoted value"),
            ("password='abc\\'", "unterminated quoted value"),
            (
                "password=my secret",
                "missing \"=\" after the word after the password",
            ),
            (
                "password=my sec=ret",
                "unknown parameter the word after the password",
            ),
            (
                "replication=database",
                "cannot use parameter \"replication\": pgcopydb opens replication connections itself",
            ),
            (
                "oauth_issuer=https://x",
                "cannot use parameter \"oauth_issuer\": OAuth authentication is not supported",
            ),
        ] {
            assert_eq!(read(text).err().as_deref(), Some(message), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = read(&text);
        }

        #[test]
        fn reads_what_it_wrote(host in "\\PC*", dbname in "[^\\x00]*", password in "[^\\x00]*") {
            let mut text = String::new();
            append(&mut text, "host", &host);
            append(&mut text, "dbname", &dbname);
            append(&mut text, "password", &password);
            let options = read(&text).unwrap();
            prop_assert_eq!(options.get("host"), Some(host.as_str()));
            prop_assert_eq!(options.get("dbname"), Some(dbname.as_str()));
            prop_assert_eq!(options.get("password"), Some(password.as_str()));
        }
    }
}
