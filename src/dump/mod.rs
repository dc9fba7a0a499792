//! Drives pg_dump and pg_restore, and reads and rewrites the archive between them. Runs in the clone parent. The way:
//! `programs` finds the pair, `run` runs pg_dump (`pg_dump` has its arguments), `archive` reads the file, `options`
//! takes out what the target does not know, `select` chooses the entries of a section, `list` writes them down,
//! `run` runs pg_restore with that list, `messages` tells which objects failed.

pub mod archive;
pub mod closure;
pub mod filtered;
pub mod list;
pub mod messages;
pub mod option_lists;
pub mod options;
pub mod outcome;
pub mod pg_dump;
pub mod pg_restore;
mod pieces;
pub mod programs;
pub mod run;
pub mod select;
pub mod sql_tokens;
