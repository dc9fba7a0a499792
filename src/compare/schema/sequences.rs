//! Where the sequences stand. No snapshot covers them: what is compared is their state now. Runs in the parent.

use std::collections::HashSet;

use crate::catalog::{FetchOptions, Persistence, Sequence, fetch_sequences};
use crate::error::{Context, Error, Result};
use crate::pg::wire::Connection;

use super::merge::{Comparison, Fact, Stream, merge};
use super::section::Section;

/// Sequences read by one statement.
const BATCH: usize = 200;

pub const SECTION: Section = Section {
    kind: "sequence value",
    properties: &["last value", "called"],
    sql: String::new(),
    is_relation: false,
};

struct Values(std::vec::IntoIter<Fact>);

impl Stream for Values {
    fn next(&mut self) -> Result<Option<Fact>> {
        Ok(self.0.next())
    }
}

pub fn compare(
    source: &mut Connection,
    target: &mut Connection,
    comparison: &mut Comparison<'_>,
) -> Result<()> {
    let left_out = &*comparison.left_out_relations;
    let (mut ours, mut theirs) = (read(source, left_out)?, read(target, left_out)?);
    merge(&mut ours, &mut theirs, comparison)
}

/// Without those that the filters leave out: our role need not be allowed to read them.
fn read(connection: &mut Connection, left_out: &HashSet<String>) -> Result<Values> {
    let side = connection.side();
    let is_standby = connection
        .query_one("SELECT pg_is_in_recovery()")?
        .bool(0)?;
    let options = FetchOptions {
        skip_extensions: true,
        ..FetchOptions::default()
    };
    let mut sequences = fetch_sequences(connection, &options)?;
    // An unlogged one cannot be read there.
    sequences.retain(|sequence| !(is_standby && sequence.persistence == Persistence::Unlogged));
    sequences.retain(|sequence| !left_out.contains(&sequence.qualified_name().to_string()));
    sequences.sort_by_cached_key(|sequence| sequence.qualified_name().to_string());
    let mut facts = Vec::with_capacity(sequences.len());
    for batch in sequences.chunks(BATCH) {
        read_batch(connection, batch, &mut facts)
            .with_context(|| format!("could not read sequences of the {side}"))?;
    }
    Ok(Values(facts.into_iter()))
}

/// Going back to the savepoint gives the locks back: those of 50,000 sequences would fill the server's lock table.
fn read_batch(
    connection: &mut Connection,
    batch: &[Sequence],
    facts: &mut Vec<Fact>,
) -> Result<()> {
    let selects: Vec<String> = batch
        .iter()
        .enumerate()
        .map(|(number, sequence)| {
            let name = sequence.qualified_name();
            format!("SELECT {number} AS number, last_value, is_called FROM {name}")
        })
        .collect();
    connection.execute("SAVEPOINT unlocked")?;
    connection.query_each(
        &format!("{} ORDER BY number", selects.join(" UNION ALL ")),
        &mut |row| {
            let sequence = batch
                .get(row.parse::<usize>(0)?)
                .ok_or_else(|| Error::internal("a sequence that nobody asked for"))?;
            let name = sequence.qualified_name().to_string();
            facts.push(Fact {
                relation: Some(name.clone()),
                name,
                id: None,
                values: vec![
                    row.opt_text(1)?.map(str::to_owned),
                    row.opt_text(2)?.map(str::to_owned),
                ],
            });
            Ok(())
        },
    )?;
    connection.execute("ROLLBACK TO SAVEPOINT unlocked; RELEASE SAVEPOINT unlocked")?;
    Ok(())
}
