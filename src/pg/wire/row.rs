//! One row of a result in text format. Owns its bytes; refuses rather than guesses.

use std::str::FromStr;

use super::frame::Body;
use crate::error::{Error, ErrorKind, Result};

/// A DataRow message: its body and where each value stands; a NULL has no place.
#[derive(Debug, Clone, Default)]
pub struct Row {
    bytes: Vec<u8>,
    values: Vec<Option<(u32, u32)>>,
}

impl Row {
    /// Read a message body into this row, reusing its room.
    pub(super) fn load(&mut self, body: &[u8]) -> Result<()> {
        self.bytes.clear();
        self.bytes.extend_from_slice(body);
        self.values.clear();
        let mut rest = Body::new(body);
        let count = rest.i16()?;
        for _ in 0..count {
            let length = rest.i32()?;
            if length < 0 {
                self.values.push(None);
                continue;
            }
            let start = (body.len() - rest.rest().len()) as u32;
            rest.take(length as usize)?;
            self.values.push(Some((start, start + length as u32)));
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The raw value; `None` for NULL and for a column that is not there.
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        let (start, end) = (*self.values.get(column)?)?;
        self.bytes.get(start as usize..end as usize)
    }

    pub fn opt_text(&self, column: usize) -> Result<Option<&str>> {
        match self.bytes(column) {
            None => Ok(None),
            Some(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| {
                unexpected(format!(
                    "column {column} of a result is not UTF-8: \"{}\"",
                    String::from_utf8_lossy(bytes)
                ))
            }),
        }
    }

    pub fn text(&self, column: usize) -> Result<&str> {
        self.opt_text(column)?
            .ok_or_else(|| unexpected(format!("column {column} of a result is NULL")))
    }

    pub fn opt_parse<T: FromStr>(&self, column: usize) -> Result<Option<T>> {
        match self.opt_text(column)? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                unexpected(format!(
                    "column {column} of a result has unexpected value \"{text}\""
                ))
            }),
        }
    }

    pub fn parse<T: FromStr>(&self, column: usize) -> Result<T> {
        self.opt_parse(column)?
            .ok_or_else(|| unexpected(format!("column {column} of a result is NULL")))
    }

    pub fn bool(&self, column: usize) -> Result<bool> {
        match self.text(column)? {
            "t" => Ok(true),
            "f" => Ok(false),
            other => Err(unexpected(format!(
                "column {column} of a result is no boolean: \"{other}\""
            ))),
        }
    }
}

fn unexpected(what: String) -> Error {
    Error::new(ErrorKind::Protocol, what)
}
