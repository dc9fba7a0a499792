//! Sequences: last_value and is_called, from source to target. Runs in the parent after the last COPY. Sequences are
//! not covered by snapshots, so they are read when the rows that used them are all there, and again by every resume
//! that copied anything.

use crate::catalog::Sequence;
use crate::error::{Context, Result};
use crate::ident::quote_literal;
use crate::pg::wire::Connection;

/// How many sequences are read or set by one statement: keeps it far from any limit on statement size or depth.
const BATCH: usize = 200;

/// A sequence that could not be set, with the reason.
pub struct SequenceFailure {
    pub name: String,
    pub error: crate::error::Error,
}

/// Set every sequence on the target as it is on the source now. Both connections are outside a transaction.
pub fn copy_sequences(
    source: &mut Connection,
    target: &mut Connection,
    sequences: &[Sequence],
) -> Result<Vec<SequenceFailure>> {
    let mut failures = Vec::new();
    for batch in sequences.chunks(BATCH) {
        if copy_batch(source, target, batch).is_ok() {
            continue;
        }
        // One by one, so that the one that failed is named and the others are set.
        for sequence in batch {
            if let Err(error) = copy_batch(source, target, std::slice::from_ref(sequence)) {
                if error.is_interrupted() || error.is_connection_lost() {
                    return Err(error);
                }
                let name = sequence.qualified_name().to_string();
                let error = error.context(format!("could not set sequence {name}"));
                failures.push(SequenceFailure { name, error });
            }
        }
    }
    Ok(failures)
}

fn copy_batch(source: &mut Connection, target: &mut Connection, batch: &[Sequence]) -> Result<()> {
    let read: Vec<String> = batch
        .iter()
        .enumerate()
        .map(|(number, sequence)| {
            format!(
                "SELECT {number}, last_value, is_called FROM {}",
                sequence.qualified_name()
            )
        })
        .collect();
    let mut set = Vec::with_capacity(batch.len());
    for row in source
        .query(&read.join(" UNION ALL "))
        .context("could not read sequences")?
    {
        let Some(sequence) = batch.get(row.parse::<usize>(0)?) else {
            continue;
        };
        set.push(format!(
            "pg_catalog.setval({}::pg_catalog.regclass, {}, {})",
            quote_literal(&sequence.qualified_name().to_string()),
            row.parse::<i64>(1)?,
            row.bool(2)?,
        ));
    }
    target.execute(&format!("SELECT {}", set.join(", ")))?;
    Ok(())
}
