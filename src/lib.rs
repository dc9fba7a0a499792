//! pgcopydb: copy a PostgreSQL database to another server, fast, resumable, safe to kill.
//!
//! # Processes
//!
//! ```text
//! pgcopydb clone (parent): holds the snapshot, runs pg_dump and pg_restore, feeds the queues, reaps
//!   |- copy worker 1..N          COPY from socket to socket          queue: tables and parts
//!   |- large-object worker 1..N  lo_get to lo_from_bytea             queue: batches
//!   |- index worker 1..N         CREATE INDEX, then ADD CONSTRAINT   queue: indexes, fed by copy workers
//!   |- vacuum worker 1..N        VACUUM ANALYZE                      queue: tables, fed by index workers
//!   `- watch                     looks now and then what hangs, and who is in its way; also beside a follow
//!
//! pgcopydb follow (parent): exchanges positions with the sentinel, switches modes, reaps
//!   |- receive     replication stream to JSON segment files           to transform: System V queue, or pipe (live)
//!   |- transform   JSON lines to script lines                         to apply: script files, or pipe (live)
//!   `- apply       script lines to committed transactions             shared memory: positions
//! pgcopydb clone --follow (parent): a clone and a follow as its children, joined by the slot's snapshot; after a resume in
//!                                   another one the clone runs twice, the second time once changes are applied that far
//! ```
//!
//! The parent blocks, has one thread and forks; workers leave through `_exit`. They share nothing but what they inherited
//! (catalog, plan), System V queues (what to do next) and the work directory (what is done). A worker commits with
//! synchronous_commit off, and writes a done-file only after the target has flushed that commit.
//!
//! # Layers: a module may use those below it, never those above (a test reads the `use` lines)
//!
//! | layer | modules |
//! |---|---|
//! | command line | [`cli`]: options to a spec, errors to an exit code |
//! | stories | [`clone`]: the phases, top to bottom; [`roles`], [`extensions`]: before anything else; [`follow`]: the modes, and both together; [`instance`]: all databases of one; [`check`]: whether they can work; [`report`]: how far they are; [`compare`]: source against target |
//! | engines | [`copy`]: rows, indexes, large objects, sequences; [`stream`]: changes; [`dump`]: pg_dump, pg_restore and the archive between; [`watch`]: who waits for whom |
//! | knowledge | [`catalog`]: what exists; [`filter`]: what is meant; [`snapshot`]: export, hold, import; [`sentinel`]: the remote control; [`workdir`]: what is on disk |
//! | servers | [`pg`]: conninfo, TLS, the wire protocol, session settings |
//! | system | [`sys`]: the only `unsafe`: processes, signals, queues, durable files |
//! | words | [`error`], [`ident`], [`lsn`], [`size`], [`logging`] |

pub mod catalog;
pub mod check;
pub mod cli;
pub mod clone;
pub mod compare;
pub mod copy;
pub mod dump;
pub mod error;
pub mod extensions;
pub mod filter;
pub mod follow;
pub mod ident;
pub mod instance;
pub mod logging;
pub mod lsn;
pub mod pg;
pub mod report;
pub mod roles;
pub mod sentinel;
pub mod size;
pub mod snapshot;
pub mod stream;
pub mod sys;
pub mod watch;
pub mod workdir;
