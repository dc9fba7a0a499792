//! One round: forks the workers, feeds them, waits for them, reads what they have found. Runs in the parent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::plan::Item;
use super::work::Work;
use super::{Context, worker};
use crate::error::{Context as _, Error, Result};
use crate::sys::msgq::{MessageQueue, QueueNote};
use crate::sys::signal::Shutdown;
use crate::sys::supervisor::WorkerSet;
use crate::workdir::QueuesOf;

const COMPARE: &str = "compare worker";

/// How long a full queue is left alone; a child's end wakes the parent earlier.
const TICK: Duration = Duration::from_millis(50);

/// All answers to these items, in no order.
pub fn round(context: &Context<'_>, items: &[Item], shutdown: &Shutdown) -> Result<Vec<Answer>> {
    let count = context.jobs.min(items.len() as u32);
    let note = QueueNote::of_new();
    context
        .workdir
        .note_queues(QueuesOf::Compare, std::slice::from_ref(&note))?;
    let queue = MessageQueue::create(&note)?;
    let mut workers = WorkerSet::new();
    for number in 1..=count {
        workers.start(COMPARE, number, |shutdown| {
            worker::run(context, items, &queue, number, &shutdown)
        })?;
    }
    let works = (0..items.len() as u32).map(Work::Item);
    let mut waiting: VecDeque<Work> = works.chain((0..count).map(|_| Work::Stop)).collect();
    let fed = feed(&mut workers, &queue, &mut waiting, shutdown);
    if fed.is_err() {
        workers.stop();
    }
    drop(queue);
    context.workdir.forget_queues(QueuesOf::Compare)?;
    let answers = read_answers(context, count);
    fed?;
    answers
}

fn feed(
    workers: &mut WorkerSet,
    queue: &MessageQueue<Work>,
    waiting: &mut VecDeque<Work>,
    shutdown: &Shutdown,
) -> Result<()> {
    loop {
        shutdown.check()?;
        while let Some(work) = waiting.front() {
            if !queue.try_send(work)? {
                break;
            }
            waiting.pop_front();
        }
        if let Some(failed) = workers
            .reap()
            .into_iter()
            .find(|ended| !ended.reason.is_success())
        {
            return Err(failed.error());
        }
        if workers.is_empty() {
            return Ok(());
        }
        shutdown.poll(&[], Some(Instant::now() + TICK))?;
    }
}

/// The files are gone afterwards, whatever is in them.
fn read_answers(context: &Context<'_>, workers: u32) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut failure = None;
    for number in 1..=workers {
        let path = context.workdir.paths.compare_answers(number);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(Error::io(
                    format!("could not read file \"{}\"", path.display()),
                    error,
                ));
            }
        };
        std::fs::remove_file(&path)
            .with_context(|| format!("could not remove file \"{}\"", path.display()))?;
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    failure.get_or_insert(Error::internal(format!(
                        "a worker's answer makes no sense: {error}"
                    )));
                }
            }
        }
    }
    failure.map_or(Ok(answers), Err)
}
