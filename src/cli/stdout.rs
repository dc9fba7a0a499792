//! Results for the caller go to stdout, and only from here: `println!` panics when the reader has gone away.

use std::io::{BufWriter, ErrorKind, Write};

use serde::Serialize;

use crate::error::{Context, Error, Result};

/// One line, flushed: the reader of a snapshot id waits for it while we live on.
pub fn print_line(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}

/// A reader that left (`pgcopydb help | head -1`) is no failure.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("could not write to stdout"),
    }
}

/// A document, written as it is made: that of 50,000 tables would take as much memory as the tables do.
pub fn print_json<T: Serialize>(document: &T) -> Result<()> {
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut stdout, document)
        .map_err(std::io::Error::from)
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::io("could not write to stdout", error)),
        Ok(()) => Ok(()),
    }
}
