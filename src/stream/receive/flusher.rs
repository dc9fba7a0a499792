//! The thread of the receive process that flushes its files: receive must go on reading, or the server waits for the
//! disk with it. The position is announced only after the flush.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::stream::positions::Positions;
use crate::stream::segment::{FileToFlush, flush_directory};
use crate::sys::failpoint::failpoint;

/// A file to flush, and the position that is then on disk. Everything before it was asked for earlier, or is in the same
/// file.
struct Request {
    target: FileToFlush,
    lsn: Lsn,
}

pub struct Flusher {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Flusher {
    /// Start the thread; only in a process that forks no more.
    pub fn start(positions: Positions) -> Result<Flusher> {
        let (requests, incoming) = channel();
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let thread = std::thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || run(&incoming, positions, &told))
            .map_err(|error| Error::io("could not start a thread", error))?;
        Ok(Flusher {
            requests: Some(requests),
            thread: Some(thread),
            failure,
        })
    }

    pub fn request(&self, target: FileToFlush, lsn: Lsn) -> Result<()> {
        self.check()?;
        if let Some(requests) = &self.requests {
            // It fails when the thread has ended, which `check` then explains.
            let _ = requests.send(Request { target, lsn });
        }
        Ok(())
    }

    /// The error of an earlier flush: after it nothing may be called flushed any more.
    pub fn check(&self) -> Result<()> {
        let failure = self.failure.lock().ok().and_then(|error| error.clone());
        failure.map_or(Ok(()), Err)
    }

    /// Wait until everything that was asked for is done.
    pub fn finish(mut self) -> Result<()> {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.check()
    }
}

fn run(incoming: &Receiver<Request>, positions: Positions, failure: &Mutex<Option<Error>>) {
    let mut named = None;
    while let Ok(mut request) = incoming.recv() {
        let mut flushed = Ok(());
        // One flush serves all that is waiting for the same file.
        while let Ok(next) = incoming.try_recv() {
            if !Arc::ptr_eq(&next.target.file, &request.target.file) {
                flushed = flushed.and_then(|()| flush(&request.target, &mut named));
            }
            request = next;
        }
        match flushed.and_then(|()| flush(&request.target, &mut named)) {
            Ok(()) => positions.advance_flushed(request.lsn),
            Err(error) => {
                if let Ok(mut told) = failure.lock() {
                    *told = Some(error);
                }
                return;
            }
        }
    }
}

/// `named` is the file whose name is known to be on disk.
fn flush(target: &FileToFlush, named: &mut Option<PathBuf>) -> Result<()> {
    target.file.sync_data().map_err(|error| {
        Error::io(
            format!("could not flush file \"{}\"", target.path.display()),
            error,
        )
    })?;
    if named.as_ref() != Some(&target.path) {
        flush_directory(target.path.parent().unwrap_or(Path::new(".")))?;
        *named = Some(target.path.clone());
    }
    failpoint("receive.after_flush")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_position_is_announced_after_its_flush_and_never_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let positions = Positions::create().unwrap();
        let flusher = Flusher::start(positions).unwrap();
        let target = |name: &str| FileToFlush {
            path: dir.path().join(name),
            file: Arc::new(File::create(dir.path().join(name)).unwrap()),
        };
        flusher.request(target("a"), Lsn(5)).unwrap();
        flusher.request(target("b"), Lsn(9)).unwrap();
        flusher.finish().unwrap();
        assert_eq!(positions.flushed(), Lsn(9));
        // A pipe cannot be flushed.
        let (_read, write) = nix::unistd::pipe().unwrap();
        let flusher = Flusher::start(positions).unwrap();
        let pipe = FileToFlush {
            path: dir.path().join("c"),
            file: Arc::new(File::from(write)),
        };
        flusher.request(pipe, Lsn(12)).unwrap();
        let error = flusher.finish().unwrap_err();
        assert!(error.to_string().contains("/c\""), "{error}");
        assert_eq!(positions.flushed(), Lsn(9));
    }
}
