//! `list progress` for people. Pure.

use std::fmt::Write;

use crate::cli::text_table::Align::{Left, Right};
use crate::cli::text_table::{TextTable, printable};
use crate::ident::QualifiedName;
use crate::report::instance::{
    DatabaseProgress, DatabaseSummary, InstanceProgress, InstanceSummary,
};
use crate::report::summary::{Summary, TableSummary};
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
    troubles(&mut text, progress);
    text
}

/// What failed, and who did not answer.
fn troubles(text: &mut String, progress: &Progress) {
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
}

/// All databases together, a line for each, and what is under way in them.
pub fn render_instance(progress: &InstanceProgress) -> String {
    let mut text = String::new();
    let pid = progress.pid.map(|pid| format!(" (pid {pid})"));
    let state = match progress.state {
        State::Running => "The run is under way",
        State::Complete => "All databases are complete",
        State::Incomplete => "The run ended before everything was copied, and can be resumed",
        State::NotStarted => "No copy has begun",
    };
    line!(text, "{state}{}.\n", pid.unwrap_or_default());
    let mut table = TextTable::new(&[
        ("Database", Left),
        ("State", Left),
        ("Tables", Right),
        ("Indexes", Right),
        ("Rows", Right),
        ("Data", Right),
        ("Failed", Right),
        ("Lag", Right),
    ]);
    let of = |done: u64, total: u64| format!("{done}/{total}");
    for DatabaseProgress { database, progress } in &progress.databases {
        let lag = progress
            .replication
            .as_ref()
            .and_then(|it| it.source.as_ref());
        let lag = lag.and_then(|source| source.lag_bytes);
        table.row([
            printable(database.clone()),
            word(progress.state).to_owned(),
            of(progress.tables.done, progress.tables.total),
            of(progress.indexes.done, progress.indexes.total),
            progress.tables.copied_rows.to_string(),
            pretty_size(progress.tables.copied_bytes),
            progress.failures.len().to_string(),
            lag.map_or_else(String::new, pretty_size),
        ]);
    }
    let all = &progress.tables;
    table.row([
        "all together".to_owned(),
        String::new(),
        of(all.done, all.total),
        of(progress.indexes.done, progress.indexes.total),
        all.copied_rows.to_string(),
        pretty_size(all.copied_bytes),
        String::new(),
        String::new(),
    ]);
    text.push_str(&table.render());
    let left = all.seconds_left.map(duration);
    if let (Some(rate), Some(left)) = (all.bytes_per_second, left) {
        line!(text, "\n{}/s, about {left} left.", pretty_size(rate));
    }
    for DatabaseProgress { database, progress } in &progress.databases {
        let mut of_it = String::new();
        running(&mut of_it, progress);
        if let Some(replication) = &progress.replication {
            replicated(&mut of_it, replication);
        }
        troubles(&mut of_it, progress);
        if !of_it.is_empty() {
            line!(text, "\nDatabase \"{}\":", printable(database.clone()));
            text.push_str(&of_it);
        }
    }
    text
}

fn word(state: State) -> &'static str {
    match state {
        State::NotStarted => "not started",
        State::Running => "running",
        State::Complete => "complete",
        State::Incomplete => "incomplete",
    }
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

pub fn render_instance_summary(summary: &InstanceSummary) -> String {
    let mut table = TextTable::new(&[
        ("Database", Left),
        ("Tables", Right),
        ("Rows", Right),
        ("Data", Right),
        ("Copy", Right),
        ("Indexes", Right),
        ("Index", Right),
        ("Failed", Right),
        ("Complete", Left),
    ]);
    for DatabaseSummary { database, summary } in &summary.databases {
        let tables = summary.as_ref().map_or(&[][..], |it| &it.tables);
        let sum = |of: fn(&TableSummary) -> u64| tables.iter().map(of).sum::<u64>();
        let failed = summary.as_ref().map_or(0, |it| it.failures.len());
        let is_complete = summary.as_ref().is_some_and(|it| it.is_complete);
        table.row([
            printable(database.clone()),
            tables.len().to_string(),
            sum(|it| it.rows).to_string(),
            pretty_size(sum(|it| it.bytes)),
            format!("{} ms", sum(|it| it.copy_ms)),
            sum(|it| it.indexes as u64).to_string(),
            format!("{} ms", sum(|it| it.index_ms)),
            failed.to_string(),
            if is_complete { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let end = match summary.is_complete {
        true => "All databases are complete.",
        false => "Not all databases are complete.",
    };
    format!("{}\n{end}\n", table.render())
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
