//! Talks to a server; knows no work directory.

pub mod conninfo;
pub mod tls;
