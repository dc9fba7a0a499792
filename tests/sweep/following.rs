//! `clone --follow` and what it sets up, killed: everything that was written to the source meanwhile arrives once.

use std::path::Path;
use std::time::Instant;

use super::copying::{end, kill_all_if_one_is_stopped};
use super::points::{Action, Fault};
use crate::support::cmd::{RUN_DEADLINE, Running};
use crate::support::following::{Following, shared};
use crate::support::leftovers;
use crate::support::version::Version;

/// A trigger that fires for replicated changes too, which is switched off meanwhile; a sequence; large rows.
const TABLES: &str = "
    create table marks (mark int primary key);
    create table t (id serial primary key, v text);
    insert into t (v) select repeat(md5(g::text), 20) from generate_series(1, 500) g;
    create table log (n serial primary key);
    create function touched() returns trigger language plpgsql as 'begin insert into public.log default values; return new; end';
    create trigger touch after insert on t for each row execute function touched();
    alter table t enable always trigger touch;";

/// Some of everything, in more than one file of changes.
const CHANGES: &str = "
    insert into t (v) select 'more' from generate_series(1, 200);
    update t set v = v || '!' where id % 3 = 0;
    delete from t where id % 7 = 0;
    select pg_switch_wal();
    insert into t (v) values ('last')";

const TOLD: &[&str] = &["was terminated", "is not whole"];

fn new() -> Following<'static> {
    Following::of(shared(Version::Pg17), "pgoutput", TABLES)
}

pub fn trace(file: &Path) {
    let following = new();
    let run = following
        .command(&["clone", "--follow"], &[])
        .env("PGCOPYDB_FAILPOINT_TRACE", file)
        .spawn();
    go_through(&following, run, None);
}

pub fn survives(fault: &Fault) {
    let following = new();
    let run = following
        .command(&["clone", "--follow"], &[])
        .env("PGCOPYDB_FAILPOINT", fault.to_string())
        .spawn();
    go_through(&following, run, Some(fault));
}

/// What happens on the source, one after the other, each as soon as the migration is that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The slot is there: what is written from now on comes as changes.
    Begun,
    /// The copy is done: changes are applied.
    Applying,
    /// What was written has arrived.
    Live,
    /// Files that the target has passed are gone.
    Passed,
    /// The end position was set: it ends by itself.
    Ending,
}

/// Go on until the cut-over, over however many runs it takes.
fn go_through(following: &Following<'_>, run: Running, fault: Option<&Fault>) {
    let (mut run, mut stage, mut runs) = (run, Stage::Begun, 1);
    let mut pids = Vec::new();
    let began = Instant::now();
    loop {
        assert!(
            began.elapsed() < 3 * RUN_DEADLINE,
            "{stage:?}:\n{}",
            run.stderr()
        );
        if runs == 1 && fault.is_some_and(|fault| fault.action == Action::KillTree) {
            kill_all_if_one_is_stopped(&run, &[]);
        }
        if run.is_running() {
            stage = advance(following, stage);
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        let outcome = run.wait_deadline(RUN_DEADLINE);
        let log = outcome.stderr.clone();
        assert!(!log.contains("panicked at"), "{log}");
        leftovers::assert_no_process(|| following.scene.processes());
        // A queue outlives whoever is killed with the run; the next run removes it.
        pids.extend(&outcome.pids);
        if outcome.status.success() {
            assert_eq!(stage, Stage::Ending, "it ended before its end:\n{log}");
            assert!(
                runs > 1 || fault.is_none_or(|fault| fault.nth > 1),
                "it was not reached:\n{log}"
            );
            outcome.assert_success(TOLD);
            break;
        }
        assert!(runs == 1 && fault.is_some(), "it failed:\n{log}");
        run = following.resume(&[]);
        runs += 1;
    }
    leftovers::assert_no_queue(&pids);
    following.clean_up();
    following.assert_same();
}

/// Do what comes next when it is time for it.
fn advance(following: &Following<'_>, stage: Stage) -> Stage {
    let write = |mark: i32| {
        following.source.psql(&following.db, CHANGES);
        let sql = format!("insert into marks values ({mark}) on conflict do nothing");
        following.source.psql(&following.db, &sql);
    };
    let has_arrived = |mark: i32| {
        let has_table = "select to_regclass('public.marks') is not null";
        following.on_target(has_table) == "t"
            && following.on_target(&format!("select count(*) from marks where mark = {mark}"))
                == "1"
    };
    match stage {
        Stage::Begun if following.slot("confirmed_flush_lsn is not null") == "true" => {
            write(1);
            Stage::Applying
        }
        Stage::Applying if following.is_apply_enabled() && has_arrived(1) => {
            write(2);
            Stage::Live
        }
        Stage::Live if has_arrived(2) => {
            write(3);
            Stage::Passed
        }
        Stage::Passed if has_arrived(3) && following.cdc_files("json").len() < 3 => {
            following.set_endpos_current();
            Stage::Ending
        }
        _ => stage,
    }
}

fn setup(following: &Following<'_>) -> crate::support::cmd::Invocation {
    following.command(&["stream", "setup"], &["--plugin", following.plugin])
}

pub fn trace_setup(file: &Path) {
    let following = new();
    setup(&following)
        .env("PGCOPYDB_FAILPOINT_TRACE", file)
        .run()
        .assert_success(&[]);
    following.clean_up();
}

/// Interrupted, it is made again; and all of it can be removed.
pub fn survives_in_setup(fault: &Fault) {
    let following = new();
    let run = setup(&following).env("PGCOPYDB_FAILPOINT", fault.to_string());
    end(run.spawn(), fault, &[]);
    leftovers::assert_no_process(|| following.scene.processes());
    setup(&following).run().assert_success(TOLD);
    following.clean_up();
}

pub fn trace_cleanup(file: &Path) {
    let following = new();
    setup(&following).run().assert_success(&[]);
    following
        .command(&["stream", "cleanup"], &[])
        .env("PGCOPYDB_FAILPOINT_TRACE", file)
        .run()
        .assert_success(&[]);
    following.clean_up();
}

pub fn survives_in_cleanup(fault: &Fault) {
    let following = new();
    setup(&following).run().assert_success(&[]);
    let run = following
        .command(&["stream", "cleanup"], &[])
        .env("PGCOPYDB_FAILPOINT", fault.to_string());
    end(run.spawn(), fault, &[]);
    leftovers::assert_no_process(|| following.scene.processes());
    following.clean_up();
}
