//! The relay: COPY bytes from the source's socket to the target's, in large pieces, untouched. Runs in a copy worker.
//! Must not parse rows, hold a whole frame, or end the target's COPY before the source has confirmed its own.

use crate::error::{Error, ErrorKind, Result};
use crate::pg::wire::{CopyChunk, CopyIn, CopyOut};
use crate::workdir::live::Seat;

/// What went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    pub rows: u64,
    /// Bytes of CopyData messages, their headers included.
    pub bytes: u64,
}

/// Move everything. When this returns an error nothing has been committed: dropping either guard breaks its
/// connection. A worker's `seat` shows others how far it is. When it returns `Ok`, both servers have counted the same rows, and the target's transaction is open.
pub fn relay(
    mut from: CopyOut<'_>,
    mut to: CopyIn<'_>,
    mut seat: Option<&mut Seat<'_>>,
) -> Result<Relayed> {
    let mut bytes = 0u64;
    while let CopyChunk::Data(chunk) = from.next_chunk()? {
        to.write(chunk)?;
        bytes += chunk.len() as u64;
        if let Some(seat) = &mut seat {
            seat.reached(from.rows_so_far(), bytes);
        }
    }
    // The order matters: a source that fails at its very end must not leave a COPY that the target took for complete.
    let sent = from.finish()?;
    if let Some(seat) = seat {
        seat.passed(sent, bytes);
    }
    let rows = to.finish()?;
    if rows != sent {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("the source sent {sent} rows and the target stored {rows}"),
        )
        .with_hint("A trigger or rule on the target may drop rows; nothing was committed."));
    }
    Ok(Relayed { rows, bytes })
}
