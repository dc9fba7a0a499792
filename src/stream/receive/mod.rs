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

use nix::poll::PollFlags;

use super::decode::{Decoder, Plugin};
use super::message::{LogicalMessage, RelationId};
use super::positions::{Positions, ReceiveEnd};
use super::relations::Relations;
use super::segment::SegmentWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Filters;
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

/// How often the end of the last flush is looked for.
const FLUSH_TICK: Duration = Duration::from_millis(5);

/// More than this within a window is a flood: about 25 MB a second, far above what an application writes. Then changes may
/// gather for a moment that nobody will notice.
const FLOOD_BYTES: usize = 512 << 10;
const WINDOW: Duration = Duration::from_millis(20);
const GATHER: Duration = Duration::from_micros(100);

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
    /// Whose changes are left out.
    pub filters: Option<Filters>,
    /// Where the base copy notes the tables that fell with something else.
    pub left_out: PathBuf,
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
    let mut source = source::Source::new(spec, positions, shutdown)?;
    let segments = source.segments()?;
    let writer = SegmentWriter::open(&spec.dir, segments, spec.startpos)?;
    let mut feed = pipe.map(Feed::new);
    if let (Some(feed), Some((path, _))) = (&mut feed, writer.file()) {
        feed.begin(path, writer.boundary(), writer.recorded())?;
    }
    // Opening has flushed what is in the files.
    let position = writer.recorded();
    positions.advance_written(position);
    positions.advance_flushed(position);
    let relations = source.relations()?;
    let mut receive = Receive {
        files: Files {
            begun: None,
            is_in_transaction: false,
            position,
            queue,
            positions: *positions,
            flusher: Flusher::start(*positions)?,
            writer,
        },
        decoder: source.decoder(&relations),
        relations,
        feed,
        requested: Lsn::INVALID,
        last_flush: Instant::now(),
        last_status: Instant::now(),
        last_asked: Instant::now(),
        window: Instant::now(),
        window_bytes: 0,
        is_flooded: false,
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
    flusher: Flusher,
}

struct Receive<'a> {
    files: Files<'a>,
    relations: Relations,
    decoder: Box<dyn Decoder>,
    feed: Option<Feed>,
    /// The position of the last flush that was asked for.
    requested: Lsn,
    last_flush: Instant,
    last_status: Instant,
    last_asked: Instant,
    /// How much has come lately.
    window: Instant,
    window_bytes: usize,
    is_flooded: bool,
}

/// What comes after a look at the stream.
enum Step {
    On,
    AtEnd,
    /// Too much waits to be applied.
    Held,
    /// The pipe is of no use any more.
    PipeOver(ReceiveEnd),
}

impl Receive<'_> {
    fn follow(
        &mut self,
        source: &mut source::Source<'_>,
        shutdown: &Shutdown,
    ) -> Result<ReceiveEnd> {
        let mut stream = source.start(self.files.position, self.decoder.as_mut())?;
        // All may be here already; the slot has to hear of it all the same, or the source keeps its WAL.
        if self.is_at_end() {
            return self.finish(stream, shutdown);
        }
        loop {
            match self.step(&mut stream, shutdown) {
                Ok(Step::On) => {}
                Ok(Step::AtEnd) => return self.finish(stream, shutdown),
                Ok(Step::Held) => {
                    stream.stop();
                    if let Some(end) = self.wait_held(shutdown)? {
                        return Ok(end);
                    }
                    self.decoder = source.decoder(&self.relations);
                    stream = source.start(self.files.position, self.decoder.as_mut())?;
                }
                Ok(Step::PipeOver(end)) => {
                    stream.stop();
                    return Ok(end);
                }
                Err(error) if error.is_connection_lost() => {
                    drop(stream);
                    self.forget_transaction()?;
                    // It may be in the middle of a transaction too.
                    self.decoder = source.decoder(&self.relations);
                    let position = self.files.position;
                    stream = source.start_again(position, error, self.decoder.as_mut())?;
                }
                Err(error) => {
                    stream.stop();
                    return Err(error);
                }
            }
        }
    }

    /// Take what has come, write it, tell the server; then wait for more.
    fn step(&mut self, stream: &mut ReplicationStream, shutdown: &Shutdown) -> Result<Step> {
        shutdown.check()?;
        if self.is_held() {
            return Ok(Step::Held);
        }
        let mut seen = 0;
        let mut is_drained = false;
        let mut must_reply = false;
        while seen < BURST {
            if self.is_held() {
                break;
            }
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
        self.files.write()?;
        self.flush_if_due()?;
        self.report(stream, must_reply)?;
        if self.is_at_end() {
            return Ok(Step::AtEnd);
        }
        let fed = self.pump()?;
        if let Some(end) = fed.and_then(Fed::end) {
            return Ok(Step::PipeOver(end));
        }
        match fed {
            Some(Fed::Full) if is_drained => {
                let fd = self.feed.as_ref().map(Feed::fd);
                stream.wait(fd, Instant::now() + TICK, shutdown)?;
            }
            _ if is_drained => self.wait(stream, seen, shutdown)?,
            _ => {}
        }
        Ok(Step::On)
    }

    /// Wait for more. The server sends each change by itself: waking up for every one of them would cost both sides more than
    /// the change, so while they come by the thousand, some are let gather in the socket.
    fn wait(&mut self, stream: &ReplicationStream, seen: usize, shutdown: &Shutdown) -> Result<()> {
        self.window_bytes += seen;
        if self.window.elapsed() > WINDOW {
            self.is_flooded = self.window_bytes >= FLOOD_BYTES;
            self.window = Instant::now();
            self.window_bytes = 0;
        }
        if self.is_flooded && seen > 0 {
            std::thread::sleep(GATHER);
            return Ok(());
        }
        stream.wait(None, Instant::now() + TICK, shutdown)
    }

    /// Too much waits to be applied. Only between transactions: the rest of one that has begun is what lets it be applied.
    fn is_held(&self) -> bool {
        self.files.positions.is_held() && !self.files.is_in_transaction
    }

    /// Wait without a connection until there is room; `Some` when the pipe is of no use any more. A socket that was only left
    /// unread would keep the server from ending its sender: it could neither shut down nor give the slot up.
    fn wait_held(&mut self, shutdown: &Shutdown) -> Result<Option<ReceiveEnd>> {
        while self.is_held() && !self.is_at_end() {
            shutdown.check()?;
            self.flush_if_due()?;
            let fed = self.pump()?;
            if let Some(end) = fed.and_then(Fed::end) {
                return Ok(Some(end));
            }
            match (&self.feed, fed) {
                (Some(feed), Some(Fed::Full)) => {
                    let deadline = Instant::now() + TICK;
                    shutdown.poll(&[(feed.fd(), PollFlags::POLLOUT)], Some(deadline))?;
                }
                _ => shutdown.sleep(TICK)?,
            }
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
        self.files.flusher.check()?;
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
            self.files.flusher.request(file, recorded)?;
        }
        Ok(())
    }

    /// Tell the server where we are: at once if it asks, soon if something is new, now and then if not.
    fn report(&mut self, stream: &mut ReplicationStream, must_reply: bool) -> Result<()> {
        // With a position to stop or to pause at that lies ahead on an idle source, a keepalive is what tells that it has
        // passed.
        let positions = &self.files.positions;
        let pause = positions.pause().map(|(_, at)| at);
        let is_waited_for = positions
            .endpos()
            .into_iter()
            .chain(pause)
            .any(|lsn| self.files.position < lsn);
        let must_ask = is_waited_for && self.last_asked.elapsed() >= INTERVAL;
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

    /// Only between transactions: one that begins before the end position may end before it too.
    fn is_at_end(&self) -> bool {
        let files = &self.files;
        let endpos = files.positions.endpos();
        !files.is_in_transaction && endpos.is_some_and(|endpos| files.position >= endpos)
    }

    /// At the end position: flush, tell the server, let it go; then the pipe gets the rest, which may take its time.
    fn finish(&mut self, mut stream: ReplicationStream, shutdown: &Shutdown) -> Result<ReceiveEnd> {
        self.files.note_position()?;
        self.files.write()?;
        self.request_flush()?;
        log::info!(
            "received everything up to the end position: now at {}",
            self.files.position
        );
        while self.files.positions.flushed() < self.requested {
            self.files.flusher.check()?;
            shutdown.sleep(FLUSH_TICK)?;
        }
        // A connection that breaks now has done its work; the next one reports the same.
        let _ = self.send_status(&mut stream, false);
        stream.stop();
        loop {
            let fed = self.pump()?;
            if fed != Some(Fed::Full) {
                return Ok(fed.and_then(Fed::end).unwrap_or(ReceiveEnd::EndPos));
            }
            if let Some(feed) = &self.feed {
                let deadline = Some(Instant::now() + TICK);
                shutdown.poll(&[(feed.fd(), PollFlags::POLLOUT)], deadline)?;
            }
        }
    }

    /// The rest of the transaction under way will not come on this connection; it comes again, whole.
    fn forget_transaction(&mut self) -> Result<()> {
        let files = &mut self.files;
        files.begun = None;
        files.is_in_transaction = false;
        files.writer.abort()?;
        if let (Some(feed), Some((path, _))) = (&mut self.feed, files.writer.file()) {
            feed.abort(path, files.writer.boundary());
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        self.forget_transaction()?;
        self.files.write()?;
        self.request_flush()?;
        self.files.flusher.finish()
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
        if let Some(complete) = self.writer.choose_file()? {
            self.flusher.request(complete, ends_with)?;
            failpoint("receive.after_file")?;
            if let Some(queue) = self.queue {
                // A queue that is full needs no more: transform looks for all files at each item, and has one to come. Waiting for
                // it here would keep the source waiting.
                queue.try_send(&TransformWork::Segment(ends_with))?;
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
        Ok(())
    }

    /// Hand over what was gathered; only then it counts as written.
    fn write(&mut self) -> Result<()> {
        failpoint("receive.before_write")?;
        self.writer.write()?;
        failpoint("receive.after_write")?;
        self.positions.advance_written(self.writer.recorded());
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
        self.write()
    }
}
