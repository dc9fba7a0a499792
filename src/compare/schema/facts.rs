//! The objects of one kind on one server, one after the other, through a cursor: two servers are read in step, and each makes
//! its next batch while the last ones are merged. Runs in the parent.

use std::collections::VecDeque;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::pg::wire::{Connection, Row};

use super::merge::{Fact, Stream};
use super::section::Section;

/// Objects in one answer: few round trips, little memory.
const BATCH: usize = 5_000;

pub struct Facts<'c> {
    connection: &'c mut Connection,
    kind: &'static str,
    columns: usize,
    batch: VecDeque<Fact>,
    /// The next batch is asked for.
    is_under_way: bool,
}

impl<'c> Facts<'c> {
    pub fn open(connection: &'c mut Connection, section: &Section) -> Result<Facts<'c>> {
        let mut facts = Facts {
            connection,
            kind: section.kind,
            columns: section.properties.len() + 3,
            batch: VecDeque::new(),
            is_under_way: false,
        };
        facts.run(&format!(
            "DECLARE facts NO SCROLL CURSOR FOR {}",
            section.sql
        ))?;
        facts.ask()?;
        Ok(facts)
    }

    fn ask(&mut self) -> Result<()> {
        let (kind, side) = (self.kind, self.connection.side());
        self.connection
            .start_query(&format!("FETCH {BATCH} FROM facts"))
            .with_context(|| format!("could not read objects of kind \"{kind}\" on the {side}"))?;
        self.is_under_way = true;
        Ok(())
    }

    pub fn close(mut self) -> Result<()> {
        while self.is_under_way {
            self.fetch()?;
        }
        self.run("CLOSE facts")
    }

    fn run(&mut self, sql: &str) -> Result<()> {
        let (kind, side) = (self.kind, self.connection.side());
        self.connection
            .execute(sql)
            .with_context(|| format!("could not read objects of kind \"{kind}\" on the {side}"))?;
        Ok(())
    }

    fn fetch(&mut self) -> Result<()> {
        let (kind, side, columns) = (self.kind, self.connection.side(), self.columns);
        let batch = &mut self.batch;
        let before = batch.len();
        self.is_under_way = false;
        self.connection
            .finish_query(&mut |row| {
                batch.push_back(fact(row, columns, kind)?);
                Ok(())
            })
            .with_context(|| format!("could not read objects of kind \"{kind}\" on the {side}"))?;
        match self.batch.len() - before < BATCH {
            true => Ok(()),
            false => self.ask(),
        }
    }
}

impl Stream for Facts<'_> {
    fn next(&mut self) -> Result<Option<Fact>> {
        if self.batch.is_empty() && self.is_under_way {
            self.fetch()?;
        }
        Ok(self.batch.pop_front())
    }
}

/// Names and texts of a SQL_ASCII database need not be UTF-8.
fn fact(row: &Row, columns: usize, kind: &str) -> Result<Fact> {
    if row.len() != columns {
        return Err(Error::internal(format!(
            "the query for kind \"{kind}\" has {} columns, not {columns}",
            row.len()
        )));
    }
    let text = |column| {
        row.bytes(column)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let name = text(0).ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            format!("an object of kind \"{kind}\" has no name"),
        )
    })?;
    Ok(Fact {
        name,
        relation: text(1),
        id: text(2),
        values: (3..columns).map(text).collect(),
    })
}
