//! What is kept of a round that failed, and what is learned of a run that hangs: who waits for what.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::round::Round;
use super::servers::try_connect;
use crate::support::cluster::Cluster;

/// What each process does, as its stack tells, and what each backend waits for.
pub fn describe_hang(round: &Round<'_>) -> String {
    let mut text = String::new();
    for process in round.following.scene.processes() {
        let stat = fs::read_to_string(format!("/proc/{}/wchan", process.pid)).unwrap_or_default();
        let _ = writeln!(text, "== {} {} (wchan {stat})", process.pid, process.title);
        let mut gdb = Command::new("timeout");
        gdb.args(["20", "gdb", "-p", &process.pid.to_string()]);
        gdb.args(["-batch", "-ex", "thread apply all bt 25"]);
        if let Ok(output) = gdb.output() {
            let stack = String::from_utf8_lossy(&output.stdout);
            for line in stack.lines().filter(|line| line.starts_with('#')) {
                let _ = writeln!(text, "   {line}");
            }
        }
    }
    for (side, cluster) in [
        ("source", round.following.source),
        ("target", round.following.target),
    ] {
        let _ = writeln!(text, "== backends of the {side}\n{}", activity(cluster));
    }
    text
}

fn activity(cluster: &Cluster) -> String {
    let sql = "select concat_ws(' | ', pid, application_name, backend_type, state, wait_event_type, wait_event, \
                   pg_blocking_pids(pid)::text, now() - query_start, left(query, 200)) from pg_stat_activity \
               where backend_type in ('client backend', 'walsender') or wait_event_type = 'Lock'
               union all select concat_ws(' | ', 'slot', slot_name, active_pid, confirmed_flush_lsn, restart_lsn) \
               from pg_replication_slots";
    let found = try_connect(cluster, "postgres").map(|mut client| client.query(sql, &[]));
    match found {
        Some(Ok(rows)) => {
            let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            lines.join("\n")
        }
        Some(Err(error)) => format!("{error:?}"),
        None => "it does not answer".to_owned(),
    }
}

/// Logs, work directory, server logs and the story of the round, in a directory that stays. Says which.
pub fn keep_evidence(round: &Round<'_>) -> PathBuf {
    let plan = &round.plan;
    let kept = std::env::temp_dir().join(format!("pgcopydb-chaos-{}-{}", plan.seed, plan.number));
    let _ = fs::create_dir_all(&kept);
    let scene = round.following.scene.dir();
    let _ = Command::new("cp").arg("-a").arg(scene).arg(&kept).status();
    let _ = fs::write(kept.join("story"), round.story());
    let _ = fs::write(kept.join("source.log"), round.following.source.log());
    let _ = fs::write(kept.join("target.log"), round.following.target.log());
    kept
}
