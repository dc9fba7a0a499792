//! Talks to a server; knows no work directory.
