//! `list progress` for people. Pure.

use std::fmt::Write;

use crate::cli::text_table::Align::{Left, Right};
use crate::cli::text_table::{TextTable, printable};
use crate::ident::QualifiedName;
use crate::report::summary::Summary;
use crate::report::{Answer, Progress, Replication, State};
use crate::size::pretty_size;

/// Writing to a String cannot fail.
macro_rules! line {
    ($text:expr, $($words:tt)*) => {
        let _ = writeln!($text, $($words)*);
    };
}

pub fn render(progress: &Progress) -> String {
    let mut text = String::new();
    heading(&mut text, progress);
    counts(&mut text, progress);
    rows(&mut text, progress);
    running(&mut text, progress);
    if let Some(replication) = &progress.replication {
        replicated(&mut text, replication);
    }
    for failure in &progress.failures {
        line!(
            text,
            "failed: {} {}: {}",
            failure.kind,
            printable(failure.name.clone()),
            printable(failure.message.clone())
        );
    }
    let servers = &progress.servers;
    for (side, answer) in [("source", &servers.source), ("target", &servers.target)] {
        if let Answer::Failed(reason) = answer {
            line!(
                text,
                "the {side} did not answer: {}",
                printable(reason.clone())
            );
        }
    }
    text
}

fn heading(text: &mut String, progress: &Progress) {
    let pid = progress.pid.map(|pid| format!(" (pid {pid})"));
    let pid = pid.unwrap_or_default();
    let elapsed = progress
        .elapsed_ms
        .map(|elapsed| format!(", copying data for {}", duration(elapsed / 1000)));
    let elapsed = elapsed.unwrap_or_default();
    match progress.state {
        State::Running => {
            line!(text, "The run is under way{pid}{elapsed}.");
        }
        State::Complete => {
            line!(text, "The run is complete.");
        }
        State::Incomplete => {
            line!(
                text,
                "The run ended before everything was copied; it can be resumed."
            );
        }
        State::NotStarted => {
            line!(text, "No copy has begun.");
        }
    }
    let steps: Vec<&str> = progress
        .steps
        .iter()
        .map(|step| step.step.as_str())
        .collect();
    if !steps.is_empty() {
        line!(text, "Steps done: {}.", steps.join(", "));
    }
    text.push('\n');
}

/// The table that users know.
fn counts(text: &mut String, progress: &Progress) {
    let mut table = TextTable::new(&[
        ("", Right),
        ("Total Count", Right),
        ("In Progress", Right),
        ("Done", Right),
    ]);
    let mut row = |name: &str, total: u64, running: usize, done: u64| {
        table.row([
            name.to_owned(),
            total.to_string(),
            running.to_string(),
            done.to_string(),
        ]);
    };
    let (tables, indexes) = (&progress.tables, &progress.indexes);
    // Parts of one table are one table.
    let mut copying: Vec<u32> = tables.in_progress.iter().map(|table| table.oid).collect();
    copying.sort_unstable();
    copying.dedup();
    row("Tables", tables.total, copying.len(), tables.done);
    row(
        "Indexes",
        indexes.total,
        indexes.in_progress.len(),
        indexes.done,
    );
    row(
        "Constraints",
        progress.constraints.total,
        0,
        progress.constraints.done,
    );
    row("Vacuum", progress.vacuum.total, 0, progress.vacuum.done);
    row(
        "Large objects",
        progress.large_objects.total,
        0,
        progress.large_objects.done,
    );
    text.push_str(&table.render());
    text.push('\n');
}

fn rows(text: &mut String, progress: &Progress) {
    let tables = &progress.tables;
    let percent = match tables.bytes {
        0 => 100,
        bytes => u128::from(tables.bytes_done) * 100 / u128::from(bytes),
    };
    line!(
        text,
        "Copied {} of {} on the source's disk ({percent} %): {} rows, {} of data{}{}.",
        pretty_size(tables.bytes_done),
        pretty_size(tables.bytes),
        tables.copied_rows,
        pretty_size(tables.copied_bytes),
        tables
            .bytes_per_second
            .map_or_else(String::new, |rate| format!(", {}/s", pretty_size(rate))),
        tables.seconds_left.map_or_else(String::new, |left| format!(
            ", about {} left",
            duration(left)
        )),
    );
}

fn running(text: &mut String, progress: &Progress) {
    if !progress.tables.in_progress.is_empty() {
        let mut table = TextTable::new(&[
            ("Table", Left),
            ("Part", Right),
            ("Rows", Right),
            ("Data", Right),
            ("Done", Right),
            ("Rate", Right),
            ("Left", Right),
            ("Process", Left),
        ]);
        for running in &progress.tables.in_progress {
            table.row([
                QualifiedName::new(&*running.schema, &*running.name).to_string(),
                running
                    .part
                    .map_or_else(String::new, |part| part.to_string()),
                running.copied_rows.to_string(),
                pretty_size(running.copied_bytes),
                percent(running.fraction),
                format!("{}/s", pretty_size(running.bytes_per_second)),
                running.seconds_left.map_or_else(String::new, duration),
                format!("{} ({})", running.process.worker, running.process.pid),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    if progress.indexes.in_progress.is_empty() {
        return;
    }
    let mut table = TextTable::new(&[
        ("Index", Left),
        ("Table", Left),
        ("Phase", Left),
        ("Done", Right),
        ("Time", Right),
        ("Left", Right),
        ("Process", Left),
    ]);
    for running in &progress.indexes.in_progress {
        let build = running.build.as_ref();
        let left = build.and_then(|build| build.seconds_left);
        table.row([
            QualifiedName::new(&*running.schema, &*running.name).to_string(),
            running.table.to_string(),
            build.map_or_else(String::new, |build| build.phase.clone()),
            build
                .and_then(|build| build.fraction)
                .map_or_else(String::new, percent),
            duration(running.elapsed_ms / 1000),
            left.map_or_else(String::new, duration),
            format!("{} ({})", running.process.worker, running.process.pid),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
}

fn replicated(text: &mut String, replication: &Replication) {
    let state = match replication.pid {
        Some(pid) => format!("is running (pid {pid})"),
        None => "is not running".to_owned(),
    };
    line!(
        text,
        "\nThe follow of slot \"{}\" {state}.",
        replication.slot_name
    );
    if let Some(row) = &replication.sentinel {
        let apply = if row.apply { "enabled" } else { "disabled" };
        line!(
            text,
            "Applying is {apply}; received {}, flushed {}, replayed {}, end position {}.",
            row.write_lsn,
            row.flush_lsn,
            row.replay_lsn,
            row.endpos
        );
    }
    if let Some(source) = &replication.source {
        let bytes = source
            .lag_bytes
            .map_or_else(|| "of unknown size".to_owned(), pretty_size);
        let seconds = source
            .lag_seconds
            .map_or_else(String::new, |seconds| format!(", {seconds:.1} s"));
        line!(
            text,
            "The source is at {}; lag: {bytes}{seconds}; the slot keeps {} of its log.",
            source.current_lsn,
            source
                .retained_bytes
                .map_or_else(|| "nothing".to_owned(), pretty_size)
        );
    }
}

pub fn render_summary(summary: &Summary) -> String {
    let mut table = TextTable::new(&[
        ("Table Name", Left),
        ("Rows", Right),
        ("Data", Right),
        ("Copy", Right),
        ("Indexes", Right),
        ("Index", Right),
        ("Vacuum", Right),
    ]);
    let ms = |ms: u64| format!("{ms} ms");
    for entry in &summary.tables {
        table.row([
            entry.name.clone(),
            entry.rows.to_string(),
            pretty_size(entry.bytes),
            ms(entry.copy_ms),
            entry.indexes.to_string(),
            ms(entry.index_ms),
            ms(entry.vacuum_ms),
        ]);
    }
    let mut text = table.render();
    let rows: u64 = summary.tables.iter().map(|table| table.rows).sum();
    let bytes: u64 = summary.tables.iter().map(|table| table.bytes).sum();
    line!(
        text,
        "\n{} tables, {rows} rows, {}; {} large objects, {}; {} sequences\n",
        summary.tables.len(),
        pretty_size(bytes),
        summary.large_objects,
        pretty_size(summary.large_objects_bytes),
        summary.sequences
    );
    let mut phases = TextTable::new(&[("Step", Left), ("Duration", Right)]);
    for phase in &summary.phases {
        phases.row([phase.name.clone(), ms(phase.duration_ms)]);
    }
    phases.row(["all".to_owned(), ms(summary.duration_ms)]);
    text.push_str(&phases.render());
    for failure in &summary.failures {
        line!(
            text,
            "failed: {} {}: {}",
            failure.kind,
            printable(failure.name.clone()),
            printable(failure.message.clone())
        );
    }
    let end = match (summary.is_complete, summary.failures.is_empty()) {
        (true, _) => "Everything is copied.",
        (false, true) => "Not everything is copied yet.",
        (false, false) => "Not everything could be copied.",
    };
    line!(text, "\n{end}");
    text
}

fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction * 100.0)
}

/// `HH:MM:SS`, and days before that if there are any.
fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        days => format!("{days} d {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_a_clock() {
        assert_eq!(duration(59), "00:00:59");
        assert_eq!(duration(3_725), "01:02:05");
        assert_eq!(duration(90_000), "1 d 01:00:00");
    }
}
