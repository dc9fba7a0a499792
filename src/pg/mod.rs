//! Talks to a server; knows no work directory.

pub mod wire;
