//! Reads JSON from bytes, piece by piece, for wal2json. Numbers stay the text they are (never a double), strings may hold
//! bytes that are not UTF-8 (a SQL_ASCII database), and nothing is copied unless it has an escape. Pure; input that is
//! not JSON is an error, never a panic, and nesting costs no stack.

use memchr::memmem;
use std::borrow::Cow;

use super::malformed;
use crate::error::{Error, Result};

/// A value that is neither object nor array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a [u8]),
    String(Cow<'a, [u8]>),
}

/// What is left to read.
pub(super) struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a [u8]) -> Scan<'a> {
        Scan { rest: text }
    }

    fn peek(&mut self) -> Option<u8> {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.rest.first().copied()
    }

    /// Whether the next token is this byte; consumed if so.
    fn accept(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        if is_next {
            self.rest = &self.rest[1..];
        }
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.accept(byte) {
            return Ok(());
        }
        Err(self.unexpected(&format!("'{}'", byte.escape_ascii())))
    }

    fn unexpected(&self, wanted: &str) -> Error {
        // One byte: more could be a row's.
        match self.rest.first() {
            Some(byte) => malformed(format_args!(
                "JSON with '{}' where {wanted} was expected",
                byte.escape_ascii()
            )),
            None => malformed(format_args!("JSON that ends where {wanted} was expected")),
        }
    }

    /// The fields of an object: `on_field` reads the value of the field that it is given.
    pub(super) fn object(
        &mut self,
        on_field: &mut dyn FnMut(&[u8], &mut Scan<'a>) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'{')?;
        if self.accept(b'}') {
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            on_field(&name, self)?;
            if !self.accept(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// The items of an array: `on_item` reads each.
    pub(super) fn array(
        &mut self,
        on_item: &mut dyn FnMut(&mut Scan<'a>) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'[')?;
        if self.accept(b']') {
            return Ok(());
        }
        loop {
            on_item(self)?;
            if !self.accept(b',') {
                return self.expect(b']');
            }
        }
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>> {
        self.expect(b'"')?;
        let text = self.rest;
        let stop = text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        let stop = stop.ok_or_else(unfinished)?;
        if text[stop] == b'"' {
            self.rest = &text[stop + 1..];
            return Ok(Cow::Borrowed(&text[..stop]));
        }
        let mut value = Vec::with_capacity(stop + 16);
        loop {
            let stop = self.rest.iter().position(|b| matches!(b, b'"' | b'\\'));
            let stop = stop.ok_or_else(unfinished)?;
            value.extend_from_slice(&self.rest[..stop]);
            let is_end = self.rest[stop] == b'"';
            self.rest = &self.rest[stop + 1..];
            if is_end {
                return Ok(Cow::Owned(value));
            }
            self.escape(&mut value)?;
        }
    }

    /// A string that must be UTF-8, such as a name.
    pub(super) fn text(&mut self) -> Result<Cow<'a, str>> {
        let not_utf8 = || malformed("a name that is not UTF-8");
        match self.string()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes)
                .map(Cow::Borrowed)
                .map_err(|_| not_utf8()),
            Cow::Owned(bytes) => String::from_utf8(bytes)
                .map(Cow::Owned)
                .map_err(|_| not_utf8()),
        }
    }

    /// The name of a type, up to the value behind it. wal2json takes the quotes off both ends of what format_type() gives and
    /// escapes nothing: quotes within are doubled, or stand around the dot behind a schema, and a backslash is itself.
    pub(super) fn type_name(&mut self) -> Result<Cow<'a, str>> {
        const VALUE: &[u8] = b",\"value\":";
        self.expect(b'"')?;
        let text = self.rest;
        let end = memmem::find_iter(text, VALUE).find(|at| *at > 0 && text[at - 1] == b'"');
        let end = end.ok_or_else(unfinished)?;
        self.rest = &text[end..];
        Ok(String::from_utf8_lossy(&text[..end - 1]))
    }

    pub(super) fn text_or_null(&mut self) -> Result<Option<Cow<'a, str>>> {
        if self.peek() == Some(b'n') {
            return self.skip().map(|()| None);
        }
        self.text().map(Some)
    }

    /// `None` for null.
    pub(super) fn number(&mut self) -> Result<Option<u32>> {
        let digits = match self.scalar()? {
            Scalar::Null => return Ok(None),
            Scalar::Number(digits) => std::str::from_utf8(digits).ok(),
            _ => None,
        };
        let number = digits.and_then(|digits| digits.parse().ok());
        let number = number.ok_or_else(|| malformed("JSON with no number where one belongs"))?;
        Ok(Some(number))
    }

    /// What stands after a backslash.
    fn escape(&mut self, value: &mut Vec<u8>) -> Result<()> {
        let (&kind, rest) = self.rest.split_first().ok_or_else(unfinished)?;
        self.rest = rest;
        value.push(match kind {
            b'"' | b'\\' | b'/' => kind,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = self.hex4()?;
                if (0xD800..0xDC00).contains(&code) {
                    let low = match self.rest.strip_prefix(b"\\u") {
                        Some(rest) => {
                            self.rest = rest;
                            self.hex4()?
                        }
                        None => 0,
                    };
                    // Anything but a low surrogate makes this no character.
                    code = match low {
                        0xDC00..0xE000 => 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00),
                        _ => 0xD800,
                    };
                }
                let character = char::from_u32(code)
                    .ok_or_else(|| malformed("half of a surrogate pair in a string"))?;
                value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => {
                return Err(malformed(format_args!(
                    "an unknown escape '\\{}' in a string",
                    kind.escape_ascii()
                )));
            }
        });
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32> {
        let (digits, rest) = self.rest.split_at_checked(4).ok_or_else(unfinished)?;
        self.rest = rest;
        let mut code = 0;
        for digit in digits {
            let digit = char::from(*digit).to_digit(16);
            code = code * 16 + digit.ok_or_else(|| malformed("an invalid \\u escape"))?;
        }
        Ok(code)
    }

    pub(super) fn scalar(&mut self) -> Result<Scalar<'a>> {
        match self.peek() {
            Some(b'"') => Ok(Scalar::String(self.string()?)),
            Some(b'{' | b'[') | None => Err(self.unexpected("a value")),
            Some(_) => {
                let end = self.rest.iter().position(|byte| !is_word(*byte));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                let scalar = match word {
                    b"null" => Scalar::Null,
                    b"true" => Scalar::Bool(true),
                    b"false" => Scalar::Bool(false),
                    _ if is_number(word) => Scalar::Number(word),
                    _ => return Err(self.unexpected("a value")),
                };
                self.rest = rest;
                Ok(scalar)
            }
        }
    }

    /// Pass over a value of any kind.
    pub(super) fn skip(&mut self) -> Result<()> {
        let mut depth = 0usize;
        loop {
            match self.peek() {
                Some(b'{' | b'[') => {
                    self.rest = &self.rest[1..];
                    depth += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    self.rest = &self.rest[1..];
                    depth -= 1;
                }
                Some(b',' | b':') if depth > 0 => self.rest = &self.rest[1..],
                _ => {
                    self.scalar()?;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the message")),
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// What numeric and the float and integer types print, apart from NaN and the infinities.
fn is_number(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let allowed = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e');
    digits.first().is_some_and(u8::is_ascii_digit) && digits.iter().all(allowed)
}

fn unfinished() -> Error {
    malformed("a string without an end")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Scalar, Scan};

    fn scalar(text: &[u8]) -> Option<Scalar<'_>> {
        let mut scan = Scan::new(text);
        let scalar = scan.scalar().ok()?;
        scan.end().ok()?;
        Some(scalar)
    }

    #[test]
    fn scalars_keep_every_byte() {
        for number in [
            "0",
            "-0",
            "1e-300",
            "1e+40",
            "0.00000000000000006938893903907228",
        ] {
            assert_eq!(
                scalar(number.as_bytes()),
                Some(Scalar::Number(number.as_bytes()))
            );
        }
        assert_eq!(scalar(b" null "), Some(Scalar::Null));
        let string = |text: &'static [u8]| scalar(text).unwrap();
        let is = |bytes: &'static [u8]| Scalar::String(bytes.into());
        assert_eq!(string(b"\"\""), is(b""));
        assert_eq!(
            string(br#""a\"\\\/\b\f\n\r\t""#),
            is(b"a\"\\/\x08\x0c\n\r\t")
        );
        assert_eq!(
            string(br#""\u0001\u00e9\ud83d\ude00""#),
            is("\u{1}é😀".as_bytes())
        );
        assert_eq!(string(b"\"\xff\\n\xfe\""), is(b"\xff\n\xfe"));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [
            "",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "nul",
            "NaN",
            "-",
            "+1",
            ".5",
            "Infinity",
            "1 2",
            "{",
            "[",
            "}",
        ] {
            assert_eq!(scalar(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = "[".repeat(1_000_000);
        assert!(Scan::new(deep.as_bytes()).skip().is_err());
        let deep = format!("{deep}1{}", "]".repeat(1_000_000));
        assert!(Scan::new(deep.as_bytes()).skip().is_ok());
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in any::<String>()) {
            let json = serde_json::to_vec(&text).unwrap();
            prop_assert_eq!(scalar(&json), Some(Scalar::String(text.as_bytes().into())));
        }

        #[test]
        fn a_type_may_be_called_anything(schema in ".{1,20}", name in ".{1,20}") {
            let quoted = [schema, name].map(|it| it.replace('"', "\"\""));
            let sent = quoted.join("\".\"");
            let text = format!("\"{sent}\",\"value\":1");
            let mut scan = Scan::new(text.as_bytes());
            prop_assert_eq!(scan.type_name().unwrap(), sent);
            prop_assert!(scan.accept(b','));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = Scan::new(&bytes);
            let _ = scan.skip();
            let _ = Scan::new(&bytes).string();
            let _ = Scan::new(&bytes).type_name();
            let _ = Scan::new(&bytes).object(&mut |_, scan| scan.skip());
        }
    }
}
