//! The one test binary: each file here holds the tests of one subject, `support` what they share. One binary, so
//! that all tests of a run share two clusters and link once.

#[cfg(test)]
mod authentication;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod session_settings;
#[cfg(test)]
mod support;
#[cfg(test)]
mod support_works;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod work_dir_faults;
