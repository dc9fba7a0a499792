//! The copy supervisor: makes the queues, forks the workers, feeds them, and ends them. Runs in the parent, which is
//! blocked here for the whole data section of all databases; it moves no data itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bars::Bars;
use super::order::order;
use super::work::{Item, Work};
use super::worker::Worker;
use super::{
    COPY, CopyContext, INDEX, Instance, LARGE_OBJECTS, Pool, VACUUM, indexes, large_objects,
    tables, vacuum,
};
use crate::error::{Error, Result};
use crate::sys::msgq::{MessageQueue, QueueNote};
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::{Ended, WorkerSet};
use crate::workdir::done::now_ms;
use crate::workdir::live::{self, Live, LiveRun};
use crate::workdir::{QueuesOf, WorkDir};

/// How long a full queue is left alone; a child's end wakes the parent earlier.
const TICK: Duration = Duration::from_millis(50);

/// Workers of each kind at most, for all databases together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jobs {
    pub table: u32,
    pub index: u32,
    pub vacuum: u32,
    pub large_objects: u32,
}

/// How something came to its end for a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything was tried; what failed of it is recorded.
    Tried,
    /// The database was lost: a failure of kind "database" is recorded, and nothing more is done for it.
    GivenUp,
}

/// What the caller does while the workers are at work, in the parent. Databases are told by their positions. An error
/// ends the run of all.
pub trait Watch {
    /// Nothing of this database is left to read from the source; before its `over`.
    fn read(&mut self, database: usize, end: End) -> Result<()>;

    /// Nothing of it is left to do.
    fn over(&mut self, database: usize, end: End) -> Result<()>;

    /// Several times a second.
    fn look(&mut self) -> Result<()>;
}

/// A queue with what the parent still has to put on it.
struct Feed<'a> {
    queue: &'a MessageQueue<Item>,
    waiting: VecDeque<Item>,
    /// Workers that get a Stop once everything was fed and nobody else feeds this queue.
    workers: u32,
    is_closed: bool,
}

impl<'a> Feed<'a> {
    fn new(
        queue: &'a MessageQueue<Item>,
        first: impl IntoIterator<Item = Item>,
        workers: u32,
    ) -> Feed<'a> {
        Feed {
            queue,
            waiting: first.into_iter().collect(),
            workers,
            is_closed: false,
        }
    }

    /// Put on the queue what fits, never waiting.
    fn feed(&mut self) -> Result<()> {
        while let Some(item) = self.waiting.front() {
            if !self.queue.try_send(item)? {
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
            self.waiting.extend((0..self.workers).map(|_| Item::STOP));
        }
    }
}

struct Feeds<'a> {
    copy: Feed<'a>,
    blobs: Feed<'a>,
    index: Feed<'a>,
    vacuum: Feed<'a>,
}

impl<'a> Feeds<'a> {
    fn new(pool: &'a Pool<'a>, jobs: Jobs) -> Feeds<'a> {
        let databases = || (0..).zip(pool.databases);
        let copies = order(
            &sizes(pool, |context| {
                context.plan.items.iter().map(|item| item.bytes).collect()
            }),
            jobs.table as usize,
        );
        let batches = order(
            &sizes(pool, |context| vec![0; context.plan.batches_left.len()]),
            jobs.large_objects as usize,
        );
        let copies = copies
            .into_iter()
            .map(|(database, item)| pool.item(database, Work::Copy(item)));
        let batches = batches.into_iter().filter_map(|(database, at)| {
            let context = pool.databases.get(database as usize)?;
            let batch = context.plan.batches_left.get(at as usize)?;
            Some(pool.item(database, Work::CopyLargeObjects(*batch)))
        });
        let first = databases().flat_map(|(database, context)| {
            let work = context.plan.first.iter().copied();
            work.map(move |work| pool.item(database, work))
        });
        let (first_vacuum, first_index): (Vec<Item>, Vec<Item>) =
            first.partition(|item| matches!(item.work, Work::Vacuum(_)));
        let if_any = |is_wanted: fn(&CopyContext<'_>) -> bool, jobs: u32| {
            if pool.databases.iter().any(is_wanted) {
                jobs
            } else {
                0
            }
        };
        let index_workers = if_any(|context| context.plan.wants_index_workers(), jobs.index);
        let vacuum_workers = if_any(|context| context.plan.wants_vacuum_workers(), jobs.vacuum);
        let mut feeds = Feeds {
            copy: Feed::new(&pool.tables, copies, 0),
            blobs: Feed::new(&pool.large_objects, batches, 0),
            index: Feed::new(&pool.indexes, first_index, index_workers),
            vacuum: Feed::new(&pool.vacuum, first_vacuum, vacuum_workers),
        };
        // No more workers than items: a connection costs the server a process.
        feeds.copy.workers = jobs.table.min(feeds.copy.waiting.len() as u32);
        feeds.blobs.workers = jobs.large_objects.min(feeds.blobs.waiting.len() as u32);
        for item in feeds.all().into_iter().flat_map(|feed| &feed.waiting) {
            pool.tally.queued(item.database, item.work);
        }
        // The copy and large-object queues have no other source than the parent: they are complete from the start.
        feeds.copy.close();
        feeds.blobs.close();
        feeds
    }

    fn all(&self) -> [&Feed<'a>; 4] {
        [&self.copy, &self.blobs, &self.index, &self.vacuum]
    }

    fn feed(&mut self) -> Result<()> {
        let Feeds {
            copy,
            blobs,
            index,
            vacuum,
        } = self;
        [copy, blobs, index, vacuum]
            .into_iter()
            .try_for_each(Feed::feed)
    }
}

fn sizes(pool: &Pool<'_>, of: impl Fn(&CopyContext<'_>) -> Vec<u64>) -> Vec<Vec<u64>> {
    pool.databases.iter().map(of).collect()
}

/// Run the whole data section of all these databases. `home` is where queues and workers are noted: the work directory of
/// the only database, or that of the instance.
pub fn run(
    databases: &[CopyContext<'_>],
    instance: Option<Instance<'_>>,
    home: &WorkDir,
    jobs: Jobs,
    shutdown: &Shutdown,
    watch: &mut dyn Watch,
) -> Result<()> {
    if databases.is_empty() {
        return Ok(());
    }
    // Queues outlive a process that is killed: noted before they are made, so that the next run removes exactly these.
    let notes = [(); 4].map(|()| QueueNote::of_new());
    home.note_queues(QueuesOf::Copy, &notes)?;
    let pool = Pool::create(databases, instance, &notes)?;
    let mut feeds = Feeds::new(&pool, jobs);
    let live = make_live(&pool, home, jobs, &feeds);
    let mut workers = WorkerSet::new();
    start(&pool, &live, &mut workers, &feeds)?;
    let mut run = Run {
        pool: &pool,
        workers,
        states: vec![State::default(); databases.len()],
        watch,
        bars: Bars::new(&pool),
    };
    let result = run.supervise(&mut feeds, &live, shutdown);
    drop(run.bars.take());
    if result.is_err() {
        log_failures(&run.workers.stop());
    }
    drop((run, feeds, live));
    // The queues first: whoever is killed between the two must leave a note of what is there.
    drop(pool);
    home.forget_queues(QueuesOf::Copy)?;
    result
}

/// On the source's disk: what is copied already, of what was to be copied in all.
pub(super) fn size_done_before(context: &CopyContext<'_>) -> u64 {
    let all: u64 = context
        .catalog
        .tables_to_copy()
        .map(|table| table.bytes)
        .sum();
    let left: u64 = context.plan.items.iter().map(|item| item.bytes).sum();
    all.saturating_sub(left)
}

/// Where the workers say how far they are. The directory of each database of several says where that is.
fn make_live(pool: &Pool<'_>, home: &WorkDir, jobs: Jobs, feeds: &Feeds<'_>) -> Live {
    let run = LiveRun {
        pid: std::process::id(),
        started_at_ms: now_ms(),
        table_jobs: jobs.table,
        index_jobs: jobs.index,
        skips_vacuum: feeds.vacuum.workers == 0,
        size_done_before: pool.databases.iter().map(size_done_before).sum(),
        database: None,
    };
    let workers = feeds.all().iter().map(|feed| feed.workers).sum();
    let live = Live::create(&home.paths.workers(), &run, workers);
    if pool.instance.is_some() {
        for (database, context) in (0..).zip(pool.databases) {
            let run = LiveRun {
                size_done_before: size_done_before(context),
                database: Some(database),
                ..run.clone()
            };
            live::note(&context.workdir.paths.workers(), &run);
        }
    }
    live
}

fn start(pool: &Pool<'_>, live: &Live, workers: &mut WorkerSet, feeds: &Feeds<'_>) -> Result<()> {
    type Body = fn(Worker<'_>) -> Result<()>;
    let groups: [(&'static str, &Feed<'_>, Body); 4] = [
        (COPY, &feeds.copy, tables::run),
        (LARGE_OBJECTS, &feeds.blobs, large_objects::run),
        (INDEX, &feeds.index, indexes::run),
        (VACUUM, &feeds.vacuum, vacuum::run),
    ];
    let mut seats = 0;
    for (group, feed, body) in groups {
        for number in 1..=feed.workers {
            seats += 1;
            let process = format!("{group} {number}");
            let seat = live.seat(seats, process.clone());
            workers.start(group, number, |shutdown| {
                body(Worker::new(pool, feed.queue, process, seat, &shutdown)?)
            })?;
        }
    }
    Ok(())
}

/// What the caller was told of a database.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_read: bool,
    is_over: bool,
}

struct Run<'r> {
    pool: &'r Pool<'r>,
    workers: WorkerSet,
    states: Vec<State>,
    watch: &'r mut dyn Watch,
    bars: Option<Bars<'r>>,
}

impl Run<'_> {
    /// Feed and reap until every worker has left in good order.
    fn supervise(&mut self, feeds: &mut Feeds<'_>, live: &Live, shutdown: &Shutdown) -> Result<()> {
        loop {
            shutdown.check()?;
            feeds.feed()?;
            let ended = self.workers.reap();
            if let Some(failed) = ended.iter().position(|ended| !ended.reason.is_success()) {
                log_failures(&ended[failed + 1..]);
                return Err(ended[failed].error());
            }
            // Only copy workers queue indexes, and only these and index workers queue vacuum.
            if self.workers.count(COPY) == 0 {
                feeds.index.close();
                if self.workers.count(INDEX) == 0 {
                    feeds.vacuum.close();
                }
            }
            self.tell()?;
            self.watch.look()?;
            if self.workers.is_empty() {
                return self.check_all_over();
            }
            if let Some(bars) = &mut self.bars {
                bars.draw(live);
            }
            shutdown.poll(&[], Some(Instant::now() + TICK))?;
        }
    }

    /// Tell the caller what has come to its end.
    fn tell(&mut self) -> Result<()> {
        let tally = self.pool.tally;
        for (at, state) in self.states.iter_mut().enumerate() {
            let database = at as u32;
            let end = match tally.is_given_up(database) {
                true => End::GivenUp,
                false => End::Tried,
            };
            if !state.is_read && tally.is_read(database) {
                state.is_read = true;
                self.watch.read(at, end)?;
            }
            if !state.is_over && tally.is_over(database) {
                state.is_over = true;
                self.watch.over(at, end)?;
            }
        }
        Ok(())
    }

    /// Every worker took every item that there was.
    fn check_all_over(&self) -> Result<()> {
        match self.states.iter().all(|state| state.is_over) {
            true => Ok(()),
            false => Err(Error::internal(
                "the workers have left, and not everything was tried",
            )),
        }
    }
}

/// Workers that failed beside the one whose error ends the run, with reasons of their own.
fn log_failures(ended: &[Ended]) {
    for ended in ended.iter().filter(|ended| ended.last_error.is_some()) {
        ended.error().log("");
    }
}
