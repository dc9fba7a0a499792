//! Results for the caller go to stdout, and only from here: `println!` panics when the reader has gone away.

use std::io::{ErrorKind, Write};

use crate::error::{Context, Result};

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
