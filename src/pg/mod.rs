//! Talks to a server; knows no work directory.

pub mod connect;
pub mod conninfo;
mod reach;
pub mod session;
pub mod tls;
pub mod wire;
