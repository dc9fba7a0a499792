//! The receive process: the changes of the source, as the slot sends them, into the segment files, and into the pipe of
//! live replay. It never waits for anybody but the source: files first, the pipe as far as it takes.
//!
//! What it confirms to the slot is what was flushed here, at the end of a transaction: the source may then forget it.

mod feed;
mod flusher;
mod source;

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decode::{Decoder, Plugin, decoder};
use super::message::{LogicalMessage, RelationId};
use super::positions::{Positions, ReceiveEnd};
use super::relations::Relations;
use super::segment::SegmentWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::pg::wire::{ReplicationStream, StreamMessage};
use crate::sys::failpoint::failpoint;
use crate::sys::msgq::{ITEM_BYTES, MessageQueue, QueueItem};
use crate::sys::signal::Shutdown;
use feed::{Fed, Feed};
use flusher::Flusher;

/// Between two keepalive lines, two flushes, two reports: what is new is told this often.
const INTERVAL: Duration = Duration::from_millis(500);

/// Also when nothing is new, the server wants to hear from us: a fraction of its usual timeout of a minute.
const ALIVE: Duration = Duration::from_secs(10);

/// How long one look at the socket may last, so that a new end position is seen.
const TICK: Duration = Duration::from_millis(200);

/// How many bytes of the stream are decoded before the pipe and the clock are looked at.
const BURST: usize = 1 << 20;

/// What to receive, and where it goes.
#[derive(Debug, Clone)]
pub struct ReceiveSpec {
    pub source: ConnInfo,
    pub application_name: String,
    pub slot_name: String,
    pub plugin: Plugin,
    /// For pgoutput.
    pub publication: String,
    /// Where the segment files are.
    pub dir: PathBuf,
    /// Where they begin when there are none yet.
    pub startpos: Lsn,
}

/// What receive tells transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformWork {
    /// A segment file is complete; the position that it ends with.
    Segment(Lsn),
    /// Receive has ended.
    Stop,
}

impl QueueItem for TransformWork {
    fn encode(&self) -> [u8; ITEM_BYTES] {
        let (kind, lsn) = match self {
            TransformWork::Segment(lsn) => (1, lsn.0),
            TransformWork::Stop => (2, 0),
        };
        let mut bytes = [0; ITEM_BYTES];
        bytes[0] = kind;
        bytes[8..].copy_from_slice(&u64::to_be_bytes(lsn));
        bytes
    }

    fn decode(bytes: &[u8; ITEM_BYTES]) -> Option<TransformWork> {
        let lsn = Lsn(u64::from_be_bytes(*bytes.last_chunk()?));
        match bytes[0] {
            1 => Some(TransformWork::Segment(lsn)),
            2 => Some(TransformWork::Stop),
            _ => None,
        }
    }
}

/// Receive until the end position, or until the pipe is of no use any more. A lost connection is opened again for as
/// long as it takes.
pub fn run(
    spec: &ReceiveSpec,
    positions: &Positions,
    pipe: Option<OwnedFd>,
    queue: Option<&MessageQueue<TransformWork>>,
    shutdown: &Shutdown,
) -> Result<ReceiveEnd> {
    let mut source = source::Source::new(spec, shutdown)?;
    let segments = source.segments()?;
    let writer = SegmentWriter::open(&spec.dir, segments, spec.startpos)?;
    let mut feed = pipe.map(Feed::new);
    if let (Some(feed), Some((path, _))) = (&mut feed, writer.file()) {
        feed.begin(path, writer.boundary())?;
    }
    // What is in the files may not be on disk: flushed is said only after a flush of ours.
    let position = writer.recorded();
    let mut receive = Receive {
        files: Files {
            begun: None,
            is_in_transaction: false,
            position,
            queue,
            positions: *positions,
            shutdown: *shutdown,
            writer,
        },
        relations: source.relations()?,
        decoder: decoder(spec.plugin, &spec.publication),
        feed,
        flusher: Flusher::start(*positions)?,
        requested: Lsn::INVALID,
        last_flush: Instant::now(),
        last_status: Instant::now(),
        last_asked: Instant::now(),
    };
    let end = receive.follow(&mut source, shutdown);
    // Also when a signal ends it: what is there is complete up to the last transaction.
    let closed = receive.close();
    let end = end?;
    closed?;
    Ok(end)
}

/// What goes to the files.
struct Files<'a> {
    writer: SegmentWriter,
    /// A transaction that has had no change yet: empty ones leave no trace.
    begun: Option<u32>,
    is_in_transaction: bool,
    /// Everything at or before it has come.
    position: Lsn,
    queue: Option<&'a MessageQueue<TransformWork>>,
    positions: Positions,
    shutdown: Shutdown,
}

struct Receive<'a> {
    files: Files<'a>,
    relations: Relations,
    decoder: Box<dyn Decoder>,
    feed: Option<Feed>,
    flusher: Flusher,
    /// The position of the last flush that was asked for.
    requested: Lsn,
    last_flush: Instant,
    last_status: Instant,
    last_asked: Instant,
}

impl Receive<'_> {
    fn follow(
        &mut self,
        source: &mut source::Source<'_>,
        shutdown: &Shutdown,
    ) -> Result<ReceiveEnd> {
        if let Some(end) = self.reached_end(shutdown)? {
            return Ok(end);
        }
        let mut stream = source.start(self.files.position, self.decoder.as_mut())?;
        loop {
            match self.step(&mut stream, shutdown) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    stream.stop();
                    return Ok(end);
                }
                Err(error) if error.is_connection_lost() => {
                    log::warn!("{error}; connecting again");
                    drop(stream);
                    self.forget_transaction()?;
                    stream = source.start(self.files.position, self.decoder.as_mut())?;
                    log::info!("receiving again from {}", self.files.position);
                }
                Err(error) => {
                    stream.stop();
                    return Err(error);
                }
            }
        }
    }

    /// Take what has come, write it, tell the server; then wait for more.
    fn step(
        &mut self,
        stream: &mut ReplicationStream,
        shutdown: &Shutdown,
    ) -> Result<Option<ReceiveEnd>> {
        shutdown.check()?;
        let mut seen = 0;
        let mut is_drained = false;
        let mut must_reply = false;
        while seen < BURST {
            match stream.take_message()? {
                None => {
                    is_drained = true;
                    break;
                }
                Some(StreamMessage::Data { start, payload }) => {
                    seen += payload.len() + 32;
                    self.decode(start, payload)?;
                }
                Some(StreamMessage::Keepalive {
                    end,
                    reply_requested,
                }) => {
                    must_reply |= reply_requested;
                    if !self.files.is_in_transaction {
                        self.files.position = self.files.position.max(end);
                    }
                }
            }
        }
        self.files.writer.write()?;
        self.flush_if_due()?;
        self.report(stream, must_reply)?;
        if let Some(end) = self.reached_end(shutdown)? {
            self.send_status(stream, false)?;
            return Ok(Some(end));
        }
        match self.pump()? {
            Some(Fed::Stalled) => return Ok(Some(ReceiveEnd::PipeStalled)),
            Some(Fed::Closed) => return Ok(Some(ReceiveEnd::PipeClosed)),
            Some(Fed::Full) if is_drained => {
                let fd = self.feed.as_ref().map(Feed::fd);
                stream.wait(fd, Instant::now() + TICK, shutdown)?;
            }
            _ if is_drained => stream.wait(None, Instant::now() + TICK, shutdown)?,
            _ => {}
        }
        Ok(None)
    }

    fn decode(&mut self, start: Lsn, payload: &[u8]) -> Result<()> {
        let files = &mut self.files;
        self.decoder.decode(
            &mut self.relations,
            start,
            payload,
            &mut |message, relations| files.take(message, relations),
        )
    }

    fn pump(&mut self) -> Result<Option<Fed>> {
        match &mut self.feed {
            Some(feed) => feed.pump(self.files.writer.file()).map(Some),
            None => Ok(None),
        }
    }

    /// Note a position that no transaction has, and ask for a flush of what is complete.
    fn flush_if_due(&mut self) -> Result<()> {
        self.flusher.check()?;
        if self.last_flush.elapsed() < INTERVAL {
            return Ok(());
        }
        self.last_flush = Instant::now();
        self.files.note_position()?;
        self.request_flush()
    }

    fn request_flush(&mut self) -> Result<()> {
        let recorded = self.files.writer.recorded();
        if recorded <= self.requested {
            return Ok(());
        }
        failpoint("receive.before_flush")?;
        if let Some(file) = self.files.writer.handle() {
            self.requested = recorded;
            self.flusher.request(file, recorded)?;
        }
        Ok(())
    }

    /// Tell the server where we are: at once if it asks, soon if something is new, now and then if not.
    fn report(&mut self, stream: &mut ReplicationStream, must_reply: bool) -> Result<()> {
        // With an end position that lies ahead on an idle source, a keepalive is what tells that it has passed.
        let is_waiting_for_end = self
            .files
            .positions
            .endpos()
            .is_some_and(|endpos| self.files.position < endpos);
        let must_ask = is_waiting_for_end && self.last_asked.elapsed() >= INTERVAL;
        let limit = match self.files.positions.flushed() >= self.files.position {
            true => ALIVE,
            false => INTERVAL,
        };
        if !must_reply && !must_ask && self.last_status.elapsed() < limit {
            return Ok(());
        }
        // A server that is busy with other databases says by itself where it is only once it has caught up.
        let asks = must_ask || self.last_asked.elapsed() >= ALIVE;
        if asks {
            self.last_asked = Instant::now();
        }
        self.send_status(stream, asks)
    }

    fn send_status(&mut self, stream: &mut ReplicationStream, ask: bool) -> Result<()> {
        self.last_status = Instant::now();
        let positions = &self.files.positions;
        let written = self.files.writer.recorded();
        stream.send_status(written, positions.flushed(), positions.replayed(), ask)
    }

    /// At the end position, with everything written, flushed and passed on?
    fn reached_end(&mut self, shutdown: &Shutdown) -> Result<Option<ReceiveEnd>> {
        let files = &mut self.files;
        let endpos = files.positions.endpos();
        // Only between transactions: one that begins before the end position may end before it too.
        if files.is_in_transaction || endpos.is_none_or(|endpos| files.position < endpos) {
            return Ok(None);
        }
        files.note_position()?;
        files.writer.write()?;
        self.request_flush()?;
        log::info!(
            "received everything up to the end position: now at {}",
            self.files.position
        );
        loop {
            let is_fed = match self.pump()? {
                None | Some(Fed::All) => true,
                Some(Fed::Closed) => return Ok(Some(ReceiveEnd::PipeClosed)),
                Some(Fed::Stalled) => return Ok(Some(ReceiveEnd::PipeStalled)),
                Some(Fed::Full) => false,
            };
            self.flusher.check()?;
            let is_flushed = self.files.positions.flushed() >= self.requested;
            if is_fed && is_flushed {
                return Ok(Some(ReceiveEnd::EndPos));
            }
            shutdown.sleep(Duration::from_millis(5))?;
        }
    }

    /// The rest of the transaction under way will not come on this connection; it comes again, whole.
    fn forget_transaction(&mut self) -> Result<()> {
        let files = &mut self.files;
        files.begun = None;
        files.is_in_transaction = false;
        files.writer.abort()?;
        if let Some(feed) = &mut self.feed {
            feed.abort(files.writer.boundary());
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        self.forget_transaction()?;
        self.files.writer.write()?;
        self.request_flush()?;
        self.flusher.finish()
    }
}

impl Files<'_> {
    fn take(&mut self, message: &LogicalMessage<'_>, relations: &Relations) -> Result<()> {
        match message {
            LogicalMessage::Begin { xid } => {
                if self.is_in_transaction {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        "the source began a transaction inside another",
                    ));
                }
                self.is_in_transaction = true;
                self.begun = Some(*xid);
                Ok(())
            }
            LogicalMessage::Insert { relation, .. }
            | LogicalMessage::Update { relation, .. }
            | LogicalMessage::Delete { relation, .. } => {
                self.begin_if_needed()?;
                self.describe(*relation, relations)?;
                self.writer.add(message)
            }
            LogicalMessage::Truncate { relations: all, .. } => {
                self.begin_if_needed()?;
                for relation in all {
                    self.describe(*relation, relations)?;
                }
                self.writer.add(message)
            }
            LogicalMessage::Commit { lsn, .. } => self.commit(message, *lsn),
            LogicalMessage::Relation { .. }
            | LogicalMessage::Start { .. }
            | LogicalMessage::Keepalive { .. }
            | LogicalMessage::File { .. }
            | LogicalMessage::Abort => Ok(()),
        }
    }

    fn begin_if_needed(&mut self) -> Result<()> {
        let Some(xid) = self.begun.take() else {
            return Ok(());
        };
        self.choose_file()?;
        self.writer.add(&LogicalMessage::Begin { xid })
    }

    fn choose_file(&mut self) -> Result<()> {
        let ends_with = self.writer.recorded();
        if self.writer.choose_file()? {
            failpoint("receive.after_file")?;
            if let Some(queue) = self.queue {
                queue.send(&TransformWork::Segment(ends_with), &self.shutdown)?;
            }
        }
        Ok(())
    }

    fn describe(&mut self, id: RelationId, relations: &Relations) -> Result<()> {
        if self.writer.describe(id) {
            return Ok(());
        }
        self.writer.add(&LogicalMessage::Relation {
            relation: id,
            is: Cow::Borrowed(relations.relation(id)),
        })
    }

    fn commit(&mut self, message: &LogicalMessage<'_>, lsn: Lsn) -> Result<()> {
        self.is_in_transaction = false;
        self.position = lsn;
        if self.begun.take().is_some() {
            // Nothing in it concerns us; its position is noted like a keepalive's.
            return Ok(());
        }
        self.writer.add(message)?;
        self.positions.advance_activity(lsn);
        self.positions.advance_written(lsn);
        Ok(())
    }

    /// Write a keepalive line when the log has moved on without a transaction of ours.
    fn note_position(&mut self) -> Result<()> {
        if self.is_in_transaction || self.position <= self.writer.recorded() {
            return Ok(());
        }
        self.choose_file()?;
        self.writer
            .add(&LogicalMessage::Keepalive { lsn: self.position })?;
        self.writer.write()?;
        self.positions.advance_written(self.position);
        Ok(())
    }
}
