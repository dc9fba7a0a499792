//! The one test binary: each file here holds the tests of one subject, `support` what they share. One binary, so
//! that all tests of a run share two clusters and link once.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod failed_objects;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod large_objects;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod server_faults;
#[cfg(test)]
mod snapshot_command;
#[cfg(test)]
mod support;
#[cfg(test)]
mod support_works;
#[cfg(test)]
mod work_dir_faults;
