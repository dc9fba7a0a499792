//! The thread of the receive process that flushes its files: receive must go on reading, or the server waits for the
//! disk with it. The position is announced only after the flush.

use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::stream::positions::Positions;

/// A file to flush, and the position that is then on disk. Everything before it was flushed or is in the same file.
struct Request {
    file: Arc<File>,
    lsn: Lsn,
}

pub struct Flusher {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<String>>>,
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

    pub fn request(&self, file: Arc<File>, lsn: Lsn) -> Result<()> {
        self.check()?;
        if let Some(requests) = &self.requests {
            // It fails when the thread has ended, which `check` then explains.
            let _ = requests.send(Request { file, lsn });
        }
        Ok(())
    }

    /// The error of an earlier flush: after it nothing may be called flushed any more.
    pub fn check(&self) -> Result<()> {
        let failure = self.failure.lock().ok().and_then(|text| text.clone());
        match failure {
            Some(text) => Err(Error::new(crate::error::ErrorKind::Io, text)),
            None => Ok(()),
        }
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

fn run(incoming: &Receiver<Request>, positions: Positions, failure: &Mutex<Option<String>>) {
    while let Ok(mut request) = incoming.recv() {
        // One flush serves all that is waiting for the same file.
        while let Ok(next) = incoming.try_recv() {
            if !Arc::ptr_eq(&next.file, &request.file) && !flush(&request, failure) {
                return;
            }
            request = next;
        }
        if !flush(&request, failure) {
            return;
        }
        positions.advance_flushed(request.lsn);
    }
}

fn flush(request: &Request, failure: &Mutex<Option<String>>) -> bool {
    match request.file.sync_data() {
        Ok(()) => true,
        Err(error) => {
            if let Ok(mut told) = failure.lock() {
                *told = Some(format!("could not flush a file of changes: {error}"));
            }
            false
        }
    }
}
