//! What the output plugins send, to logical messages. Runs in the receive process. One file for each plugin; all yield
//! the same messages for the same changes, but for what a plugin does not send (tests/decoding.rs compares them):
//!
//! | what | test_decoding | wal2json | pgoutput |
//! |---|---|---|---|
//! | transactions without changes | sent | sent | not sent from 15 on |
//! | NULL in an old tuple | not sent: `NotSent`, but NULL where all columns find the row | sent | sent |
//! | UPDATE that keeps the key | no old tuple | old tuple: dropped unless it says more | no old tuple |
//! | the same, all columns being the key | no old tuple | old tuple | no old tuple |
//! | the replica identity of then, where the catalog has another now | told by old tuples only: an update that changes the key of now and keeps that of then meets no row, which is counted | told by every old tuple | sent |
//! | UPDATE of a table without replica identity | without old tuple | not sent | refused to the application |
//! | DELETE of a table without replica identity | an old tuple of nothing | not sent | refused to the application |
//! | TRUNCATE of a partitioned table | it and its partitions | it and its partitions | its partitions |
//! | TRUNCATE .. RESTART IDENTITY | sent | not sent | sent |
//! | TRUNCATE on PostgreSQL 10, whose log has no record of it to decode | not sent | not sent | not sent |
//! | NaN and infinities in real, double precision, numeric | sent | sent from 2.6 on; before, a null there is an error | sent |
//! | tables that are not in the publication | sent | sent | not sent |

mod binary;
mod by_name;
mod json_scan;
pub mod pgoutput;
pub mod test_decoding;
mod timestamp;
pub mod wal2json;

use std::fmt;
use std::str::FromStr;

use super::message::{LogicalMessage, RelationId};
use super::relations::Relations;
use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;

/// The output plugins that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plugin {
    TestDecoding,
    Wal2json,
    Pgoutput,
}

impl Plugin {
    /// Its name on the server.
    pub fn name(self) -> &'static str {
        match self {
            Plugin::TestDecoding => "test_decoding",
            Plugin::Wal2json => "wal2json",
            Plugin::Pgoutput => "pgoutput",
        }
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plugin {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Plugin, String> {
        [Plugin::TestDecoding, Plugin::Wal2json, Plugin::Pgoutput]
            .into_iter()
            .find(|plugin| plugin.name() == text)
            .ok_or_else(|| "test_decoding, wal2json or pgoutput is needed".to_owned())
    }
}

/// Where decoded messages go.
pub type Sink<'a> = dyn FnMut(&LogicalMessage<'_>, &Relations) -> Result<()> + 'a;

/// One plugin's output.
pub trait Decoder {
    /// The options of START_REPLICATION, as (name, value).
    fn options(&self) -> Vec<(String, String)>;

    /// The server refused the options with this error: whether `options` are others now, to be tried at once.
    fn has_other_options(&mut self, _error: &Error) -> bool {
        false
    }

    /// Decode one message of the stream. `start` is where its WAL starts: for a COMMIT, the end of the commit record.
    fn decode(
        &mut self,
        relations: &mut Relations,
        start: Lsn,
        payload: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<()>;
}

/// The decoder of a plugin; `publication` is for pgoutput, which sends no other tables. `skipped` are tables that wal2json
/// need not send; test_decoding sends everything.
pub fn decoder(plugin: Plugin, publication: &str, skipped: &[(&str, &str)]) -> Box<dyn Decoder> {
    match plugin {
        Plugin::TestDecoding => Box::new(test_decoding::TestDecoding::default()),
        Plugin::Wal2json => Box::new(wal2json::Wal2json::new(skipped)),
        Plugin::Pgoutput => Box::new(pgoutput::Pgoutput::new(publication)),
    }
}

/// Pass a TRUNCATE on, less the tables that are not followed: with none left it concerns nobody.
fn truncate(
    tables: Vec<RelationId>,
    restart_identity: bool,
    relations: &Relations,
    sink: &mut Sink<'_>,
) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let message = LogicalMessage::Truncate {
        relations: tables,
        restart_identity,
    };
    sink(&message, relations)
}

/// `what` must not hold values of rows: it ends in a log.
fn malformed(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Protocol, format!("source sent {what}"))
}
