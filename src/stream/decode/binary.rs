//! The pieces of pgoutput's messages. Pure; a length is checked against the bytes that are there before anything is done
//! with it.

use std::borrow::Cow;

use super::malformed;
use crate::error::{Error, Result};
use crate::stream::message::Value;

/// Reads the pieces of one message; every step may say "too short".
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Reader<'a> {
        Reader { rest: message }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or_else(too_short)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk().ok_or_else(too_short)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn tag(&mut self, expected: u8) -> Result<()> {
        match self.u8()? {
            tag if tag == expected => Ok(()),
            tag => Err(malformed(format!(
                "a part '{}' where '{}' belongs",
                tag.escape_ascii(),
                expected.escape_ascii()
            ))),
        }
    }

    /// A name that ends with a zero byte.
    pub(super) fn name(&mut self) -> Result<&'a str> {
        let end = self.rest.iter().position(|byte| *byte == 0);
        let bytes = self.take(end.ok_or_else(too_short)?)?;
        self.take(1)?;
        std::str::from_utf8(bytes).map_err(|_| {
            malformed(format!(
                "a name that is not UTF-8: \"{}\"",
                bytes.escape_ascii()
            ))
        })
    }

    pub(super) fn value(&mut self) -> Result<Value<'a>> {
        match self.u8()? {
            b't' => {
                let length = self.u32()?;
                // On a 16-bit machine this would be wrong; the server makes no value of more than a gigabyte.
                Ok(Value::Text(Cow::Borrowed(self.take(length as usize)?)))
            }
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::NotSent),
            kind => Err(malformed(format!(
                "a value of kind '{}', which was not asked for",
                kind.escape_ascii()
            ))),
        }
    }

    pub(super) fn end(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(malformed(format!(
                "a message of pgoutput with {count} bytes after its end"
            ))),
        }
    }
}

fn too_short() -> Error {
    malformed("a message of pgoutput with fewer bytes than it claims")
}
