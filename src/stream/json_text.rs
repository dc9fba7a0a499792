//! JSON strings of bytes, and numbers: what segment files and scripts hold a column's value in. Pure; written for speed, as every value
//! of every change passes here three times.
//!
//! A byte that is not UTF-8 is written as a lone surrogate, `\udc80` to `\udcff`, and read back as that byte: databases
//! in SQL_ASCII hold such bytes, and they must arrive as they are.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};

/// What each byte needs inside a JSON string: 0 nothing, 1 an escape, 2 a look at whether it is UTF-8.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            0..=0x1f | b'"' | b'\\' => 1,
            0x80..=0xff => 2,
            _ => 0,
        };
        byte += 1;
    }
    class
};

/// Append `bytes` as a JSON string with its quotes.
pub fn write(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = bytes;
    loop {
        let plain = rest.iter().position(|byte| CLASS[usize::from(*byte)] != 0);
        let (before, special) = rest.split_at(plain.unwrap_or(rest.len()));
        out.extend_from_slice(before);
        let Some(first) = special.first() else {
            break;
        };
        if CLASS[usize::from(*first)] == 1 {
            write_escape(*first, out);
            rest = &special[1..];
        } else {
            rest = write_beyond_ascii(special, out);
        }
    }
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\t' => out.extend_from_slice(b"\\t"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => write_hex(u16::from(byte), out),
    }
}

fn write_hex(unit: u16, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(DIGITS[usize::from(unit >> shift & 15)]);
    }
}

/// Write the run of bytes from 0x80 on at the start of `bytes`; returns what comes after it.
fn write_beyond_ascii<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let end = bytes
        .iter()
        .position(|byte| byte.is_ascii())
        .unwrap_or(bytes.len());
    let (run, rest) = bytes.split_at(end);
    for chunk in run.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            write_hex(0xdc00 | u16::from(*byte), out);
        }
    }
    rest
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("malformed line: {what}"))
}

/// Read the string whose opening quote is at the start of `text`; returns it with what comes after its closing quote.
/// Borrowed where nothing was escaped.
pub fn read(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8])> {
    let Some((b'"', body)) = text.split_first() else {
        return Err(malformed("expected a string"));
    };
    let plain = memchr::memchr2(b'"', b'\\', body);
    match plain.map(|at| (at, body[at])) {
        Some((at, b'"')) => Ok((Cow::Borrowed(&body[..at]), &body[at + 1..])),
        Some((at, _)) => read_escaped(body, at),
        None => Err(malformed("a string has no end")),
    }
}

/// The same without undoing the escapes: for what only passes on. Whether they are right is for who undoes them.
pub fn read_raw(text: &[u8]) -> Result<(&[u8], &[u8])> {
    let Some((b'"', body)) = text.split_first() else {
        return Err(malformed("expected a string"));
    };
    let mut from = 0;
    while let Some(found) = body
        .get(from..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        let at = from + found;
        if body[at] == b'"' {
            return Ok((&body[..at], &body[at + 1..]));
        }
        // Whatever is escaped is no end.
        from = at + 2;
    }
    Err(malformed("a string has no end"))
}

/// Append what `read_raw` gave.
pub fn write_raw(raw: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(raw);
    out.push(b'"');
}

/// `start` is the place of the first backslash.
fn read_escaped(body: &[u8], start: usize) -> Result<(Cow<'_, [u8]>, &[u8])> {
    let mut value = body[..start].to_vec();
    let mut rest = &body[start..];
    loop {
        let plain = memchr::memchr2(b'"', b'\\', rest);
        let Some(at) = plain else {
            return Err(malformed("a string has no end"));
        };
        value.extend_from_slice(&rest[..at]);
        if rest[at] == b'"' {
            return Ok((Cow::Owned(value), &rest[at + 1..]));
        }
        rest = read_escape(&rest[at + 1..], &mut value)?;
    }
}

/// `rest` comes after a backslash.
fn read_escape<'a>(rest: &'a [u8], value: &mut Vec<u8>) -> Result<&'a [u8]> {
    let Some((kind, rest)) = rest.split_first() else {
        return Err(malformed("a string has no end"));
    };
    let byte = match kind {
        b'"' | b'\\' | b'/' => *kind,
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        b'u' => return read_unicode(rest, value),
        _ => return Err(malformed("an unknown escape in a string")),
    };
    value.push(byte);
    Ok(rest)
}

fn read_unit(text: &[u8]) -> Result<(u32, &[u8])> {
    let bad = || malformed("a bad \\u escape in a string");
    let (digits, rest) = text.split_at_checked(4).ok_or_else(bad)?;
    let mut unit = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16).ok_or_else(bad)?;
        unit = unit << 4 | digit;
    }
    Ok((unit, rest))
}

fn read_unicode<'a>(rest: &'a [u8], value: &mut Vec<u8>) -> Result<&'a [u8]> {
    let (unit, mut rest) = read_unit(rest)?;
    let code = match unit {
        // A byte that is not UTF-8.
        0xdc80..=0xdcff => {
            value.push(unit as u8);
            return Ok(rest);
        }
        0xd800..=0xdbff => {
            let low = rest.strip_prefix(b"\\u").map(read_unit).transpose()?;
            let Some((low @ 0xdc00..=0xdfff, after)) = low else {
                return Err(malformed("half a surrogate pair in a string"));
            };
            rest = after;
            0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
        }
        _ => unit,
    };
    let Some(character) = char::from_u32(code) else {
        return Err(malformed("half a surrogate pair in a string"));
    };
    value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(rest)
}

/// Append a number in decimal.
pub fn write_number(number: u32, out: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Read the decimal number at the start of `text`; returns it with what comes after it, which must be something.
pub fn read_number(text: &[u8]) -> Option<(u32, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let digits = std::str::from_utf8(&text[..end]).ok()?;
    Some((digits.parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{read, read_raw, write, write_raw};

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(bytes, &mut out);
        out
    }

    #[test]
    fn looks_like_json() {
        assert_eq!(written(b"it's \"\\\n\x01"), br#""it's \"\\\n\u0001""#);
        assert_eq!(written("é€😀".as_bytes()), "\"é€😀\"".as_bytes());
        assert_eq!(written(b"a\xffb\xe2\x82"), br#""a\udcffb\udce2\udc82""#);
        assert_eq!(read(br#""\ud83d\ude00\/"x"#).unwrap().0, "😀/".as_bytes());
        for bad in [
            &b""[..],
            b"x",
            b"\"",
            b"\"\\",
            b"\"\\u12",
            b"\"\\ud800\"",
            b"\"\\q\"",
        ] {
            assert!(read(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>, after: Vec<u8>) {
            let mut text = written(&bytes);
            prop_assert!(!text.contains(&b'\n'));
            prop_assert!(std::str::from_utf8(&text).is_ok());
            text.extend_from_slice(&after);
            let (value, rest) = read(&text).unwrap();
            prop_assert_eq!(&value[..], &bytes[..]);
            prop_assert_eq!(rest, &after[..]);
            let (raw, rest) = read_raw(&text).unwrap();
            prop_assert_eq!(rest, &after[..]);
            let mut again = Vec::new();
            write_raw(raw, &mut again);
            prop_assert_eq!(again, written(&bytes));
        }

        #[test]
        fn text_is_the_json_that_others_read(text: String) {
            prop_assert_eq!(serde_json::from_slice::<String>(&written(text.as_bytes())).unwrap(), text.clone());
            let theirs = serde_json::to_vec(&text).unwrap();
            let (value, _) = read(&theirs).unwrap();
            prop_assert_eq!(&value[..], text.as_bytes());
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = read_raw(&bytes);
            let quoted = [b"\"".as_slice(), &bytes, b"\"".as_slice()].concat();
            let _ = read(&quoted);
            let _ = read_raw(&quoted);
        }
    }
}
