//! Change data capture: receive, transform and apply, three processes under a parent that waits. Each message passes
//! through three forms, and each form has one file that writes and reads it: what the output plugin sends (`decode`), a
//! JSON line in a segment file (`message`), a script line for the target (`script`).
//!
//! A position counts as applied by one rule: commit LSN (the end of the commit record) <= the origin's progress.

pub mod after_crash;
pub mod apply;
pub mod attempt;
pub mod catchup;
pub mod cleanup;
pub mod decode;
pub mod identity;
pub mod json_text;
pub mod lag;
mod last_line;
pub mod left_out;
pub mod meeting;
pub mod message;
pub mod missed;
pub mod origin;
pub mod ownership;
pub mod pause;
pub mod positions;
pub mod preconditions;
pub mod prune;
pub mod publication;
pub mod receive;
pub mod relations;
pub mod replay;
pub mod script;
pub mod segment;
pub mod setup;
pub mod slot;
pub mod slot_snapshot;
pub mod statement;
pub mod transform;
pub mod transform_process;
pub mod triggers;
