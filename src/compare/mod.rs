//! `compare`: the source against the target, schema or rows, under one snapshot a side. Runs in the parent of the command;
//! `data` forks workers. Nothing is changed on either side, and nothing here prints: `cli::compare` does.

pub mod data;
pub mod schema;
