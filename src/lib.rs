//! pgcopydb: copy a PostgreSQL database to another server.

pub mod catalog;
pub mod cli;
pub mod clone;
pub mod error;
pub mod ident;
pub mod lsn;
pub mod pg;
pub mod sys;
