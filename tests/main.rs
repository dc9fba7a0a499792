//! The one test binary: each file here holds the tests of one subject, `support` what they share. One binary, so
//! that all tests of a run share two clusters and link once.
#![cfg(test)]

mod authentication;
#[cfg(test)]
mod authentication;
mod cli;
#[cfg(test)]
mod cli;
mod connections;
#[cfg(test)]
mod connections;
mod failed_objects;
#[cfg(test)]
mod failed_objects;
mod faults;
#[cfg(test)]
mod faults;
mod large_objects;
#[cfg(test)]
mod large_objects;
mod layering;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod run_rules;
#[cfg(test)]
mod server_faults;
#[cfg(test)]
mod session_settings;
#[cfg(test)]
mod snapshot_command;
#[cfg(test)]
mod source_changes;
#[cfg(test)]
mod support;
#[cfg(test)]
mod support_works;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod versions;
#[cfg(test)]
mod work_dir_faults;
