//! The note of the System V queues that a run makes, so that a later run can remove them should this one be killed. Written
//! by the parent before it makes them.

use std::path::PathBuf;

use super::paths::Paths;
use super::{WorkDir, done};
use crate::error::Result;
use crate::sys::durable::{Sync, remove_file};
use crate::sys::msgq::{QueueNote, remove_noted};

/// Whose queues: those that may run beside each other in one directory have a note each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuesOf {
    Copy,
    Follow,
    Compare,
}

impl QueuesOf {
    fn note(self, paths: &Paths) -> PathBuf {
        match self {
            QueuesOf::Copy => paths.queues(),
            QueuesOf::Follow => paths.follow_queues(),
            QueuesOf::Compare => paths.compare_queues(),
        }
    }
}

impl WorkDir {
    pub fn note_queues(&self, of: QueuesOf, notes: &[QueueNote]) -> Result<()> {
        done::write(&of.note(&self.paths), &notes, Sync::Now)
    }

    pub fn forget_queues(&self, of: QueuesOf) -> Result<()> {
        remove_file(&of.note(&self.paths))
    }

    /// Remove the queues of a run that was killed.
    pub fn remove_noted_queues(&self, of: QueuesOf) -> Result<()> {
        let notes: Option<Vec<QueueNote>> = done::read(&of.note(&self.paths))?;
        for note in notes.unwrap_or_default() {
            if remove_noted(&note)? {
                log::info!(
                    "removed a message queue of an earlier run, with key {:#x}",
                    note.key
                );
            }
        }
        self.forget_queues(of)
    }
}
