//! Drives pg_dump and pg_restore, and reads and rewrites the archive between them.

pub mod archive;
pub mod option_lists;
pub mod options;
pub mod sql_tokens;
