//! Progress bars on a terminal while the data section runs: one for the whole, one for each table or index that takes
//! longer. Drawn by the copy supervisor between two looks at its children, from what these write about themselves; no
//! thread, since the parent forks.
//!
//! indicatif measures and writes each line; where lines go is decided here. A frame is one write(2) that leaves the
//! cursor at the start of its first line, and in a process that may share the terminal with bars every line of the log
//! begins by clearing the screen from there on (`logging::share_terminal`). So no line ever mixes with a bar, whichever
//! process writes it, and the next frame stands below it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::Pool;
use super::supervise::size_done_before;
use crate::logging;
use crate::workdir::done::now_ms;
use crate::workdir::live::{Current, Live, Task, WorkerRecord};

/// Five times a second: it looks alive and costs nothing.
const EVERY: Duration = Duration::from_millis(200);

/// What is done sooner is not worth a line that comes and goes.
const WORTH_A_LINE_MS: u64 = 700;

/// Lines of single tables and indexes at most, if the terminal is that high.
const MOST_LINES: usize = 10;

const WHOLE: &str = "{percent:>3} % [{wide_bar}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta_precise} left, {msg}";
const COPIED: &str = "100 % [{wide_bar}] {binary_total_bytes} copied, {elapsed_precise}, {msg}";
const TABLE: &str = "  {msg:36!} [{wide_bar}] {binary_bytes_per_sec:>14} {eta_precise} left";
const INDEX: &str = "  {msg:60!} {elapsed_precise}";

/// The bars of one run.
pub struct Bars<'a> {
    pool: &'a Pool<'a>,
    whole: Line,
    size_before: u64,
    /// Items to copy, and what to call them.
    items: (u64, &'static str),
    indexes: u64,
    /// By seat of the worker.
    workers: Vec<Option<(Current, Line)>>,
    next: Instant,
}

/// One line: what indicatif knows of it and has written last.
struct Line {
    bar: ProgressBar,
    text: Arc<Mutex<String>>,
}

impl<'a> Bars<'a> {
    /// `None` when there is no terminal to draw on.
    pub fn new(pool: &'a Pool<'a>) -> Option<Bars<'a>> {
        if !logging::shares_terminal() {
            return None;
        }
        let items = || {
            let databases = pool.databases.iter();
            databases.flat_map(|context| &context.plan.items)
        };
        let size_before: u64 = pool.databases.iter().map(size_done_before).sum();
        let left: u64 = items().map(|item| item.bytes).sum();
        let whole = Line::new(WHOLE, size_before + left);
        whole.bar.set_position(size_before);
        // What an earlier run did was not done at this one's rate.
        whole.bar.reset_eta();
        let has_parts = items().any(|item| item.part.is_some());
        let to_build = pool.databases.iter().flat_map(|context| {
            let tables = context.catalog.tables_to_copy();
            tables.map(|table| context.plan.indexes_to_build(context.catalog, table).len() as u64)
        });
        Some(Bars {
            pool,
            whole,
            size_before,
            items: (
                items().count() as u64,
                if has_parts { "parts" } else { "tables" },
            ),
            indexes: to_build.sum(),
            workers: Vec::new(),
            next: Instant::now(),
        })
    }

    /// Draw, if it is time to.
    pub fn draw(&mut self, live: &Live) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + EVERY;
        let (width, height) = logging::terminal_size();
        // A terminal too small for one line and the log above it has no room for bars.
        if height < 3 || width < 40 {
            return;
        }
        let records = live.records();
        self.follow_whole(&records);
        self.follow_workers(&records);
        let lines = self.workers.iter().flatten().map(|(_, line)| line);
        let room = MOST_LINES.min(usize::from(height) - 2);
        let texts: Vec<String> = std::iter::once(&self.whole)
            .chain(lines.take(room))
            .map(Line::render)
            .collect();
        write(&frame(&texts));
    }

    fn follow_whole(&self, records: &[WorkerRecord]) {
        let done: u64 = records.iter().map(|record| record.size).sum();
        let under_way: f64 = records
            .iter()
            .filter_map(|record| record.current.as_ref())
            .filter(|current| current.task == Task::Copy)
            .map(|current| self.share(current) * current.size as f64)
            .sum();
        let position = self.size_before + done + under_way as u64;
        // An estimate that was too high is taken back when the table is done: a bar does not go back.
        self.whole
            .bar
            .set_position(position.max(self.whole.bar.position()));
        let count = |kind: &str| -> u64 {
            let of_kind = records
                .iter()
                .filter(|record| record.worker.starts_with(kind));
            of_kind.map(|record| record.items).sum()
        };
        let (items, word) = self.items;
        let copied = count(super::COPY);
        let mut text = format!("{copied}/{items} {word}");
        if self.indexes > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {}/{} indexes", count(super::INDEX), self.indexes);
        }
        if copied >= items {
            self.whole.bar.set_style(style(COPIED));
        }
        self.whole.bar.set_message(text);
    }

    fn follow_workers(&mut self, records: &[WorkerRecord]) {
        self.workers.resize_with(records.len(), || None);
        let now = now_ms();
        for (place, record) in self.workers.iter_mut().zip(records) {
            let is_shown = |current: &&Current| {
                matches!(current.task, Task::Copy | Task::Index | Task::IndexesOf)
                    && now.saturating_sub(current.since_ms) >= WORTH_A_LINE_MS
            };
            let Some(current) = record.current.as_ref().filter(is_shown) else {
                *place = None;
                continue;
            };
            let is_same = |earlier: &Current| {
                let what = |it: &Current| (it.task, it.database, it.oid, it.part, it.since_ms);
                what(earlier) == what(current)
            };
            if place.as_ref().is_none_or(|(earlier, _)| !is_same(earlier)) {
                *place = name(self.pool, current)
                    .map(|name| (current.clone(), Line::of(current, now, name)));
            }
            if let Some((_, line)) = place
                && current.task == Task::Copy
            {
                let share = share(self.pool, current);
                line.bar.set_position((share * current.size as f64) as u64);
            }
        }
    }

    fn share(&self, current: &Current) -> f64 {
        share(self.pool, current)
    }
}

impl Drop for Bars<'_> {
    /// What comes next on the terminal begins where the bars were.
    fn drop(&mut self) {
        write(logging::CLEAR_BELOW);
    }
}

fn share(pool: &Pool<'_>, current: &Current) -> f64 {
    let context = pool.context(current.database).ok();
    let table = context.and_then(|context| context.catalog.table(current.oid));
    current.share(
        table.and_then(|table| table.row_estimate),
        table.map_or(0, |table| table.bytes),
    )
}

/// What a worker is busy with, in words; `None` for what is not in the catalog.
fn name(pool: &Pool<'_>, current: &Current) -> Option<String> {
    let catalog = pool.context(current.database).ok()?.catalog;
    let name = match current.task {
        Task::Index => {
            let index = catalog.index(current.oid)?;
            let table = catalog.table(index.table)?;
            format!("index {}", index.qualified_name(table))
        }
        Task::IndexesOf => {
            format!(
                "indexes of {}",
                catalog.table(current.oid)?.qualified_name()
            )
        }
        Task::Copy | Task::Vacuum | Task::LargeObjects => {
            let name = catalog.table(current.oid)?.qualified_name();
            match current.part {
                0 => name.to_string(),
                part => format!("part {part} of {name}"),
            }
        }
    };
    let name = match pool.instance.is_some() {
        true => format!("{}: {name}", catalog.database.name),
        false => name,
    };
    Some(name.replace(char::is_control, "?"))
}

/// In ASCII, which every terminal has.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates above are right, as a test shows")
        .progress_chars("=> ")
}

impl Line {
    fn new(template: &str, length: u64) -> Line {
        let text = Arc::new(Mutex::new(String::new()));
        let pen = Pen {
            text: Arc::clone(&text),
            line: Mutex::new(String::new()),
        };
        let target = ProgressDrawTarget::term_like(Box::new(pen));
        let bar = ProgressBar::with_draw_target(Some(length), target);
        bar.set_style(style(template));
        Line { bar, text }
    }

    /// The line of a table or an index.
    fn of(current: &Current, now: u64, name: String) -> Line {
        let template = match current.task {
            Task::Copy => TABLE,
            _ => INDEX,
        };
        let line = Line::new(template, current.size.max(1));
        let since = Duration::from_millis(now.saturating_sub(current.since_ms));
        let bar = line.bar.clone().with_elapsed(since).with_message(name);
        Line { bar, ..line }
    }

    fn render(&self) -> String {
        self.bar.tick();
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What indicatif takes for a terminal: it keeps the one line that was drawn last.
#[derive(Debug)]
struct Pen {
    text: Arc<Mutex<String>>,
    line: Mutex<String>,
}

impl TermLike for Pen {
    fn width(&self) -> u16 {
        // In the last column some terminals have begun the next line already.
        logging::terminal_size().0.saturating_sub(1)
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        let line = std::mem::take(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner));
        line.trim_end()
            .clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// The lines in place of those before, and the cursor back at the start of the first one.
fn frame(lines: &[String]) -> String {
    let mut text = logging::CLEAR_BELOW.to_owned();
    text.push_str(&lines.join("\n"));
    if lines.len() > 1 {
        // Writing to a String cannot fail.
        let _ = write!(text, "\x1b[{}A", lines.len() - 1);
    }
    text.push('\r');
    text
}

/// A terminal that is gone is no reason to stop the copy.
fn write(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{COPIED, INDEX, Line, TABLE, WHOLE, frame};

    #[test]
    fn lines_are_written_once_each() {
        for template in [WHOLE, COPIED, TABLE, INDEX] {
            let line = Line::new(template, 1 << 30);
            line.bar.set_message("film");
            line.bar.set_position(1 << 29);
            for _ in 0..2 {
                let text = line.render();
                assert!(text.matches("film").count() == 1, "{text}");
                assert!(!text.contains('\n') && !text.contains('\x1b'), "{text}");
            }
        }
    }

    #[test]
    fn a_frame_ends_where_it_began() {
        let lines = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(frame(&lines), "\r\x1b[Ja\nb\nc\x1b[2A\r");
        assert_eq!(frame(&lines[..1]), "\r\x1b[Ja\r");
    }
}
