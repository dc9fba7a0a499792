//! The copy supervisor: makes the queues, forks the workers, feeds them, and ends them. Runs in the parent, which is
//! blocked here for the whole data section; it moves no data itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bars::Bars;
use super::work::Work;
use super::{
    COPY, CopyContext, INDEX, LARGE_OBJECTS, VACUUM, indexes, large_objects, tables, vacuum,
};
use crate::error::Result;
use crate::sys::msgq::MessageQueue;
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::{Ended, WorkerSet};
use crate::workdir::done::now_ms;
use crate::workdir::live::{Live, LiveRun};

/// How long a full queue is left alone; a child's end wakes the parent earlier.
const TICK: Duration = Duration::from_millis(50);

/// A queue with what the parent still has to put on it.
struct Feed {
    queue: MessageQueue<Work>,
    waiting: VecDeque<Work>,
    /// Workers that get a Stop once everything was fed and nobody else feeds this queue.
    workers: u32,
    is_closed: bool,
}

impl Feed {
    fn new(first: impl IntoIterator<Item = Work>, workers: u32) -> Result<Feed> {
        Ok(Feed {
            queue: MessageQueue::create()?,
            waiting: first.into_iter().collect(),
            workers,
            is_closed: false,
        })
    }

    /// Put on the queue what fits, never waiting.
    fn feed(&mut self) -> Result<()> {
        while let Some(work) = self.waiting.front() {
            if !self.queue.try_send(work)? {
                return Ok(());
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// No more work will come: tell each worker, once.
    fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.waiting.extend((0..self.workers).map(|_| Work::Stop));
        }
    }
}

/// Run the whole data section. `on_source_read` is called as soon as nothing is left to read from the source.
pub fn run(
    context: &CopyContext<'_>,
    shutdown: &Shutdown,
    on_source_read: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let plan = context.plan;
    let spec = context.spec;
    let (first_vacuum, first_index): (Vec<Work>, Vec<Work>) = plan
        .first
        .iter()
        .copied()
        .partition(|work| matches!(work, Work::Vacuum(_)));
    let copies = (0..plan.items.len() as u32).map(Work::Copy);
    let batches = plan
        .batches_left
        .iter()
        .copied()
        .map(Work::CopyLargeObjects);
    // No more workers than items: a connection costs the server a process.
    let copy_workers = spec.table_jobs.min(plan.items.len() as u32);
    let blob_workers = spec.large_objects_jobs.min(plan.batches_left.len() as u32);
    let mut copy = Feed::new(copies, copy_workers)?;
    let mut blobs = Feed::new(batches, blob_workers)?;
    let if_wanted = |is_wanted: bool, jobs: u32| if is_wanted { jobs } else { 0 };
    let index_workers = if_wanted(plan.wants_index_workers(), spec.index_jobs);
    let vacuum_workers = if_wanted(plan.wants_vacuum_workers(), spec.vacuum_jobs);
    let mut index = Feed::new(first_index, index_workers)?;
    let mut vacuum = Feed::new(first_vacuum, vacuum_workers)?;
    note_queues(context, &[&copy, &blobs, &index, &vacuum])?;
    // The copy and large-object queues have no other source than the parent: they are complete from the start.
    copy.close();
    blobs.close();

    let size_before = size_done_before(context);
    let live = make_live(context, size_before, [&copy, &blobs, &index, &vacuum]);
    let mut workers = WorkerSet::new();
    start(
        context,
        &live,
        &mut workers,
        [&copy, &blobs, &index, &vacuum],
    )?;
    let mut bars = Bars::new(context, size_before);
    let result = supervise(
        &mut workers,
        shutdown,
        [&mut copy, &mut blobs, &mut index, &mut vacuum],
        on_source_read,
        &mut || {
            if let Some(bars) = &mut bars {
                bars.draw(&live);
            }
        },
    );
    drop(bars);
    if result.is_err() {
        log_failures(&workers.stop());
    }
    context.workdir.forget_queues()?;
    result
}

/// On the source's disk: what is copied already, of what was to be copied in all.
fn size_done_before(context: &CopyContext<'_>) -> u64 {
    let all: u64 = context
        .catalog
        .tables_to_copy()
        .map(|table| table.bytes)
        .sum();
    let left: u64 = context.plan.items.iter().map(|item| item.bytes).sum();
    all.saturating_sub(left)
}

/// Where the workers say how far they are.
fn make_live(context: &CopyContext<'_>, size_done_before: u64, feeds: [&Feed; 4]) -> Live {
    let run = LiveRun {
        pid: std::process::id(),
        started_at_ms: now_ms(),
        table_jobs: context.spec.table_jobs,
        index_jobs: context.spec.index_jobs,
        skips_vacuum: !context.plan.wants_vacuum_workers(),
        size_done_before,
    };
    let workers = feeds.iter().map(|feed| feed.workers).sum();
    Live::create(&context.workdir.paths.workers(), &run, workers)
}

fn start(
    context: &CopyContext<'_>,
    live: &Live,
    workers: &mut WorkerSet,
    feeds: [&Feed; 4],
) -> Result<()> {
    let [copy, blobs, index, vacuum] = feeds;
    let mut seats = 0;
    let mut seat = |group: &str, number: u32| {
        seats += 1;
        let process = format!("{group} {number}");
        (live.seat(seats, process.clone()), process)
    };
    for number in 1..=copy.workers {
        let queues = tables::Queues {
            tables: &copy.queue,
            indexes: &index.queue,
            vacuum: &vacuum.queue,
        };
        let (seat, process) = seat(COPY, number);
        workers.start(COPY, number, |shutdown| {
            tables::run(context, &queues, process, seat, &shutdown)
        })?;
    }
    for number in 1..=blobs.workers {
        let (seat, process) = seat(LARGE_OBJECTS, number);
        workers.start(LARGE_OBJECTS, number, |shutdown| {
            large_objects::run(context, &blobs.queue, process, seat, &shutdown)
        })?;
    }
    for number in 1..=index.workers {
        let queues = indexes::Queues {
            indexes: &index.queue,
            vacuum: &vacuum.queue,
        };
        let (seat, process) = seat(INDEX, number);
        workers.start(INDEX, number, |shutdown| {
            indexes::run(context, &queues, process, seat, &shutdown)
        })?;
    }
    for number in 1..=vacuum.workers {
        let (seat, process) = seat(VACUUM, number);
        workers.start(VACUUM, number, |shutdown| {
            vacuum::run(context, &vacuum.queue, process, seat, &shutdown)
        })?;
    }
    Ok(())
}

/// Feed and reap until every worker has left in good order.
fn supervise(
    workers: &mut WorkerSet,
    shutdown: &Shutdown,
    feeds: [&mut Feed; 4],
    on_source_read: &mut dyn FnMut() -> Result<()>,
    draw: &mut dyn FnMut(),
) -> Result<()> {
    let [copy, blobs, index, vacuum] = feeds;
    let mut is_source_read = false;
    loop {
        shutdown.check()?;
        for feed in [&mut *copy, &mut *blobs, &mut *index, &mut *vacuum] {
            feed.feed()?;
        }
        let ended = workers.reap();
        if let Some(failed) = ended.iter().position(|ended| !ended.reason.is_success()) {
            log_failures(&ended[failed + 1..]);
            return Err(ended[failed].error());
        }
        let is_copied = workers.count(COPY) == 0;
        if is_copied && workers.count(LARGE_OBJECTS) == 0 && !is_source_read {
            is_source_read = true;
            on_source_read()?;
        }
        // Only copy workers queue indexes, and only these and index workers queue vacuum.
        if is_copied {
            index.close();
            if workers.count(INDEX) == 0 {
                vacuum.close();
            }
        }
        if workers.is_empty() {
            return Ok(());
        }
        draw();
        shutdown.poll(&[], Some(Instant::now() + TICK))?;
    }
}

/// Workers that failed beside the one whose error ends the run, with reasons of their own.
fn log_failures(ended: &[Ended]) {
    for ended in ended.iter().filter(|ended| ended.last_error.is_some()) {
        ended.error().log("");
    }
}

/// Queues outlive a process that is killed: note them, so that the next run removes exactly these.
fn note_queues(context: &CopyContext<'_>, feeds: &[&Feed]) -> Result<()> {
    let notes = feeds
        .iter()
        .map(|feed| feed.queue.note())
        .collect::<Result<Vec<_>>>()?;
    context.workdir.note_queues(&notes)
}
