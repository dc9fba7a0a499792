//! The one test binary: each file here holds the tests of one subject, `support` what they share. One binary, so
//! that all tests of a run share two clusters and link once.
#![cfg(test)]

mod apply;
mod apply_faults;
mod authentication;
mod cli;
mod clone_effects;
mod clone_extensions;
mod clone_indexes;
mod clone_options;
mod clone_rows;
mod clone_schema;
mod clone_split;
mod connections;
mod decoding;
mod durability;
mod encodings;
mod extensions;
mod failed_objects;
mod faults;
mod follow;
mod follow_faults;
mod follow_live;
mod follow_rows;
mod follow_versions;
mod large_objects;
mod layering;
mod receive;
mod resume;
mod roles;
mod run_rules;
mod server_faults;
mod session_settings;
mod signals;
mod snapshot_command;
mod source_changes;
mod stream_commands;
mod stream_setup;
mod support;
mod support_works;
mod tls;
mod versions;
mod work_dir_faults;
