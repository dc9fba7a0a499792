//! Drives pg_dump and pg_restore, and reads and rewrites the archive between them.

pub mod archive;
pub mod list;
pub mod messages;
pub mod option_lists;
pub mod options;
pub mod pg_dump;
pub mod pg_restore;
pub mod programs;
pub mod run;
pub mod select;
pub mod sql_tokens;
