//! Talks to a server; knows no work directory.

pub mod connect;
pub mod conninfo;
pub mod incarnation;
mod reach;
pub mod remedy;
pub mod session;
pub mod tls;
pub mod waits;
pub mod wire;
