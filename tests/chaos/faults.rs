//! What breaks: processes, sessions, servers, connections, disks. Each fault is over when its function returns; what
//! follows from it is the program's business. A fault that has no victim just now did not happen.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::round::Round;
use super::servers::{try_connect, wait_until_up};
use crate::support::cluster::{Cluster, StopMode};
use crate::support::leftovers::Process;

/// What was done, to whom; `None` when there was no victim.
type Inflicted = Option<String>;

/// Each as often as it is there.
const FAULTS: &[fn(&mut Round<'_>) -> Inflicted] = &[
    kill_parent,
    stop_parent,
    kill_tree,
    kill_worker,
    kill_worker,
    kill_worker,
    kill_worker,
    stop_worker,
    freeze_worker,
    terminate_backend,
    terminate_backend,
    terminate_backend,
    terminate_all_backends,
    cancel_backend,
    kill_server_process,
    restart_server,
    restart_server,
    restart_server,
    cut_connections,
    cut_connections,
    cut_soon,
    slow_network,
    refuse_connections,
    fill_work_disk,
    fill_target_disk,
    lock_table,
    switch_modes,
];

/// Let one happen; says which.
pub fn inflict(round: &mut Round<'_>) -> Inflicted {
    let fault = FAULTS[round.random.below(FAULTS.len() as u64) as usize];
    fault(round)
}

fn millis(round: &mut Round<'_>, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + round.random.below(to - from))
}

/// The role of a process, without its number; programs by their names.
fn role(process: &Process) -> String {
    match process.title.strip_prefix("pgcopydb: ") {
        Some(role) => role
            .trim()
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .trim()
            .to_owned(),
        None => {
            let program = process.title.split(' ').next().unwrap_or_default();
            let name = Path::new(program).file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        }
    }
}

/// A process of the run that is not its parent. Each role is as likely as the others, however many there are of it.
fn pick_worker(round: &mut Round<'_>) -> Option<(Pid, String)> {
    let (processes, parent) = round.processes();
    let mut found: Vec<(String, i32)> = processes
        .iter()
        .filter(|process| process.pid != parent)
        .map(|process| (role(process), process.pid))
        .collect();
    found.sort();
    let mut roles: Vec<&str> = found.iter().map(|(role, _)| role.as_str()).collect();
    roles.dedup();
    if roles.is_empty() {
        return None;
    }
    let wanted = round.random.pick(&roles).to_owned();
    let of_role: Vec<i32> = found
        .iter()
        .filter(|(role, _)| *role == wanted)
        .map(|(_, pid)| *pid)
        .collect();
    let pid = of_role[round.random.below(of_role.len() as u64) as usize];
    Some((Pid::from_raw(pid), wanted))
}

fn signal(pid: Pid, signal: Signal) -> Option<()> {
    kill(pid, signal).ok()
}

fn kill_parent(round: &mut Round<'_>) -> Inflicted {
    round.signal_parent(Signal::SIGKILL);
    Some("kill -9 of the parent".to_owned())
}

fn stop_parent(round: &mut Round<'_>) -> Inflicted {
    let sent = match round.random.below(3) {
        0 => Signal::SIGTERM,
        1 => Signal::SIGINT,
        _ => Signal::SIGQUIT,
    };
    round.signal_parent(sent);
    Some(format!("{sent} to the parent"))
}

fn kill_tree(round: &mut Round<'_>) -> Inflicted {
    let (processes, _) = round.processes();
    round.signal_parent(Signal::SIGKILL);
    for process in processes {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    Some("kill -9 of the whole tree".to_owned())
}

fn kill_worker(round: &mut Round<'_>) -> Inflicted {
    let (pid, role) = pick_worker(round)?;
    signal(pid, Signal::SIGKILL)?;
    Some(format!("kill -9 of {role}"))
}

fn stop_worker(round: &mut Round<'_>) -> Inflicted {
    let (pid, role) = pick_worker(round)?;
    signal(pid, Signal::SIGTERM)?;
    Some(format!("SIGTERM to {role}"))
}

fn freeze_worker(round: &mut Round<'_>) -> Inflicted {
    let (pid, role) = pick_worker(round)?;
    signal(pid, Signal::SIGSTOP)?;
    std::thread::sleep(millis(round, 200, 4_000));
    let _ = kill(pid, Signal::SIGCONT);
    Some(format!("{role} frozen for a while"))
}

/// Source or target, with its name and the database there.
fn pick_side<'a>(round: &mut Round<'a>) -> (&'static str, &'a Cluster, String) {
    match round.random.one_in(2) {
        true => ("source", round.following.source, round.following.db.clone()),
        false => (
            "target",
            round.following.target,
            round.following.copy.clone(),
        ),
    }
}

/// Backends of the run, walsenders among them.
fn backends(cluster: &Cluster, db: &str) -> Vec<i32> {
    let sql = "select pid from pg_stat_activity where datname = $1 and pid <> pg_backend_pid() \
               and application_name like 'pgcopydb%' order by application_name, pid";
    let found = try_connect(cluster, "postgres").map(|mut client| client.query(sql, &[&db]));
    match found {
        Some(Ok(rows)) => rows.iter().map(|row| row.get(0)).collect(),
        _ => Vec::new(),
    }
}

fn on_backend(round: &mut Round<'_>, function: &str) -> Option<&'static str> {
    let (side, cluster, db) = pick_side(round);
    let pids = backends(cluster, &db);
    if pids.is_empty() {
        return None;
    }
    let pid = pids[round.random.below(pids.len() as u64) as usize];
    let mut client = try_connect(cluster, "postgres")?;
    let done = client.query_one(&format!("select {function}($1)"), &[&pid]);
    done.is_ok_and(|row| row.get(0)).then_some(side)
}

fn terminate_backend(round: &mut Round<'_>) -> Inflicted {
    let side = on_backend(round, "pg_terminate_backend")?;
    Some(format!("a backend of the {side} terminated"))
}

fn cancel_backend(round: &mut Round<'_>) -> Inflicted {
    let side = on_backend(round, "pg_cancel_backend")?;
    Some(format!("a statement on the {side} cancelled"))
}

fn terminate_all_backends(round: &mut Round<'_>) -> Inflicted {
    let (side, cluster, db) = pick_side(round);
    let pids = backends(cluster, &db);
    let mut client = try_connect(cluster, "postgres")?;
    for pid in &pids {
        let _ = client.query_one("select pg_terminate_backend($1)", &[pid]);
    }
    (!pids.is_empty()).then(|| format!("all backends of the {side} terminated"))
}

/// The server ends all sessions then, and recovers.
fn kill_server_process(round: &mut Round<'_>) -> Inflicted {
    let (side, cluster, db) = pick_side(round);
    let pid = *backends(cluster, &db).first()?;
    signal(Pid::from_raw(pid), Signal::SIGKILL)?;
    wait_until_up(cluster);
    Some(format!(
        "kill -9 of a backend of the {side}: crash recovery"
    ))
}

fn restart_server(round: &mut Round<'_>) -> Inflicted {
    let (side, cluster, _) = pick_side(round);
    let (mode, word) = match round.random.one_in(2) {
        true => (StopMode::Fast, "fast"),
        false => (StopMode::Immediate, "immediate"),
    };
    let down = match round.random.below(4) {
        0 => millis(round, 2_000, 8_000),
        _ => Duration::ZERO,
    };
    cluster.stop(mode);
    std::thread::sleep(down);
    cluster.start_again();
    wait_until_up(cluster);
    Some(format!("{word} restart of the {side}"))
}

fn cut_connections(round: &mut Round<'_>) -> Inflicted {
    let (side, proxy) = round.pick_proxy()?;
    proxy.cut();
    Some(format!("all connections to the {side} cut"))
}

/// In the middle of a message.
fn cut_soon(round: &mut Round<'_>) -> Inflicted {
    let bytes = 1 + round.random.below(300_000);
    let (side, proxy) = round.pick_proxy()?;
    proxy.cut_after(bytes);
    Some(format!(
        "connections to the {side} cut in the middle of a message"
    ))
}

fn slow_network(round: &mut Round<'_>) -> Inflicted {
    let delay = match round.random.below(3) {
        0 => millis(round, 500, 2_500),
        _ => millis(round, 1, 60),
    };
    let time = millis(round, 1_000, 6_000);
    let (side, proxy) = round.pick_proxy()?;
    proxy.delay(delay);
    std::thread::sleep(time);
    proxy.delay(Duration::ZERO);
    Some(format!("connections to the {side} delayed"))
}

fn refuse_connections(round: &mut Round<'_>) -> Inflicted {
    let time = millis(round, 200, 8_000);
    let (side, proxy) = round.pick_proxy()?;
    proxy.refuse(true);
    proxy.cut();
    std::thread::sleep(time);
    proxy.refuse(false);
    Some(format!(
        "connections to the {side} cut and refused for a while"
    ))
}

const ROOMY: &str = "size=2g";

fn fill_work_disk(round: &mut Round<'_>) -> Inflicted {
    let (room, time) = (round.random.below(64), millis(round, 300, 5_000));
    let disk = round.work_disk.as_ref()?;
    disk.fill(room);
    std::thread::sleep(time);
    disk.change(ROOMY);
    Some("the disk of the work directory full".to_owned())
}

fn fill_target_disk(round: &mut Round<'_>) -> Inflicted {
    let (room, time) = (round.random.below(512), millis(round, 500, 5_000));
    let disk = round.target_disk.as_ref()?;
    disk.fill(room);
    std::thread::sleep(time);
    disk.change(ROOMY);
    Some("the disk of the target full".to_owned())
}

/// Somebody else's, on the target; as by a DBA who looks at a table.
fn lock_table(round: &mut Round<'_>) -> Inflicted {
    let tables = ["c.big", "c.t1", "c.gone", "c.wide"];
    let (table, mode) = (
        round.random.pick(&tables),
        round.random.pick(&["share", "access share"]),
    );
    let time = millis(round, 500, 4_000);
    let mut client = try_connect(round.following.target, &round.following.copy)?;
    let sql = format!("set lock_timeout = '1s'; begin; lock table {table} in {mode} mode");
    client.batch_execute(&sql).ok()?;
    std::thread::sleep(time);
    Some("a table of the target locked by another session".to_owned())
}

/// No fault, but the same to whoever is in the middle of something.
fn switch_modes(round: &mut Round<'_>) -> Inflicted {
    if !round.following.is_apply_enabled() {
        return None;
    }
    let time = millis(round, 100, 3_000);
    round.following.sentinel_command(&["set", "prefetch"]);
    std::thread::sleep(time);
    round.following.sentinel_command(&["set", "apply"]);
    Some("apply switched off and on by the sentinel".to_owned())
}
