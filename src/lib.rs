//! pgcopydb: copy a PostgreSQL database to another server.

pub mod catalog;
pub mod cli;
pub mod copy;
pub mod dump;
pub mod clone;
pub mod error;
pub mod ident;
pub mod lsn;
pub mod pg;
pub mod snapshot;
pub mod sys;
pub mod workdir;
