//! Signals to the whole run and to single workers, in the middle of every kind of statement: all is gone within ten
//! seconds, and a resume brings the same end. Trap 46.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcopydb::ident::quote_ident;
use pgcopydb::workdir::{done, state::RunSpec};

use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Running, Scene};
use crate::support::interrupted::{Pair, SPLIT, new_work};
use crate::support::leftovers::Process;
use crate::support::{leftovers, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the program promises.
const ALL_GONE: Duration = Duration::from_secs(10);

/// On the target `slow` sleeps where the setting test.slow says so: in a CHECK (COPY), an index, a materialized view.
const STALLING: &str = "
    create function slow(i int, stage text) returns int immutable language plpgsql as $$
        begin
            if pg_catalog.current_setting('test.slow', true) = stage then
                perform pg_catalog.pg_sleep(60);
            end if;
            return i;
        end $$;
    create table t (id int primary key, v text, check (public.slow(id, 'copy') = id));
    insert into t select g, repeat('x', 200) from generate_series(1, 20000) g;
    create index by_slow on t (public.slow(id, 'index'));
    create table other (id int primary key, t_id int references t);
    insert into other select g, g from generate_series(1, 100) g;
    create view v as select 1 as one;
    create materialized view m as select public.slow(id, 'post') as id from t limit 10;
    select lo_from_bytea(700000 + g, 'abc') from generate_series(1, 50) g;";

/// A statement in whose middle a run can be held.
struct Stage {
    /// What comes after `pgcopydb[id] ` in application_name; the name of the process too.
    process: &'static str,
    is_on_source: bool,
    /// What pg_stat_activity shows of a backend that is held.
    wait_event: &'static str,
    /// Whether everything was read from the source before.
    is_read: bool,
    /// For the target: `{db}` is the copy's name.
    hold: &'static str,
    release: &'static str,
    /// Held open by a client of ours, on the server of the stage.
    lock: &'static str,
}

const STAGES: &[Stage] = &[
    Stage {
        process: "pg_dump",
        is_on_source: true,
        wait_event: "relation",
        is_read: false,
        hold: "",
        release: "",
        lock: "lock table v in access exclusive mode",
    },
    // Pre-data, half of which is made by then.
    Stage {
        process: "pg_restore",
        is_on_source: false,
        wait_event: "PgSleep",
        is_read: false,
        hold: "create schema guard;
               create function guard.stall() returns event_trigger language plpgsql as
                   'begin perform pg_catalog.pg_sleep(60); end';
               create event trigger stall on ddl_command_start when tag in ('CREATE VIEW')
                   execute function guard.stall()",
        release: "drop event trigger stall; drop schema guard cascade",
        lock: "",
    },
    Stage {
        process: "large-object worker",
        is_on_source: false,
        wait_event: "relation",
        is_read: false,
        hold: "alter database {db} set test.slow = 'copy'",
        release: "alter database {db} reset test.slow",
        lock: "lock table pg_largeobject in exclusive mode",
    },
    Stage {
        process: "copy worker",
        is_on_source: false,
        wait_event: "PgSleep",
        is_read: false,
        hold: "alter database {db} set test.slow = 'copy'",
        release: "alter database {db} reset test.slow",
        lock: "",
    },
    Stage {
        process: "index worker",
        is_on_source: false,
        wait_event: "PgSleep",
        is_read: true,
        hold: "alter database {db} set test.slow = 'index'",
        release: "alter database {db} reset test.slow",
        lock: "",
    },
    Stage {
        process: "vacuum worker",
        is_on_source: false,
        wait_event: "VacuumDelay",
        is_read: true,
        hold: "alter database {db} set vacuum_cost_delay = 100;
               alter database {db} set vacuum_cost_limit = 1",
        release: "alter database {db} reset vacuum_cost_delay;
                  alter database {db} reset vacuum_cost_limit",
        lock: "",
    },
    // Post-data, in a materialized view.
    Stage {
        process: "pg_restore",
        is_on_source: false,
        wait_event: "PgSleep",
        is_read: true,
        hold: "alter database {db} set test.slow = 'post'",
        release: "alter database {db} reset test.slow",
        lock: "",
    },
];

impl Stage {
    /// Begin or resume a run, as the tool asks for it, until it is held here, then interrupt it. Its end.
    #[track_caller]
    fn interrupt(
        &self,
        scene: &Scene,
        pair: &Pair<'_>,
        is_first: bool,
        interrupt: &dyn Fn(&Running),
    ) -> Outcome {
        let for_copy = |sql: &str| sql.replace("{db}", &quote_ident(&pair.copy));
        pair.target.psql(&pair.copy, &for_copy(self.hold));
        let (server, db) = self.server(pair);
        let mut locker = server.client(db);
        locker
            .batch_execute(&format!("begin; {}", self.lock))
            .unwrap();
        let more: &[&str] = if is_first { &[] } else { &["--resume"] };
        let mut running = pair.clone(scene, more).spawn();
        if self.waits_in_vain(pair, &mut running) {
            let refused = running.wait_deadline(PATIENCE);
            refused.assert_last_error(3, &["cannot resume consistently"]);
            let more = ["--resume", "--not-consistent"];
            running = pair.clone(scene, &more).spawn();
            assert!(
                !self.waits_in_vain(pair, &mut running),
                "{}",
                running.stderr()
            );
        }
        interrupt(&running);
        let since = Instant::now();
        let outcome = running.wait_deadline(ALL_GONE);
        leftovers::assert_no_process(|| scene.processes());
        // The lock goes after them: a backend that waits for it must not need that to end.
        pair.assert_no_backend();
        assert!(since.elapsed() < ALL_GONE, "{:?}", since.elapsed());
        drop(locker);
        pair.target.psql(&pair.copy, &for_copy(self.release));
        outcome
    }

    fn server<'a>(&self, pair: &'a Pair<'_>) -> (&'a Cluster, &'a str) {
        match self.is_on_source {
            true => (pair.source, &pair.db),
            false => (pair.target, &pair.copy),
        }
    }

    /// Wait until the run is held; whether it ended instead.
    fn waits_in_vain(&self, pair: &Pair<'_>, running: &mut Running) -> bool {
        wait_until(PATIENCE, self.process, || {
            !running.is_running()
                || !self.held_processes(pair).is_empty()
                    && (!self.is_read || has_read_all(&running.stderr()))
        });
        !running.is_running()
    }

    /// Names of the processes whose statements are held.
    fn held_processes(&self, pair: &Pair<'_>) -> Vec<String> {
        let (server, db) = self.server(pair);
        let sql = format!(
            "select substring(application_name from '] (.*)') from pg_stat_activity \
             where datname = current_database() and application_name ~ '^pgcopydb.* {}' \
             and wait_event = '{}'",
            self.process, self.wait_event
        );
        server
            .rows(db, &sql)
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    }
}

/// A run that has nothing to read takes no snapshot.
fn has_read_all(log: &str) -> bool {
    log.contains("everything is read") || !log.contains("exported snapshot")
}

/// The same run is interrupted in the middle of one kind of statement after the other, and goes on each time.
#[track_caller]
fn is_interrupted_everywhere_by(signal: Signal) {
    let (pair, scene) = (Pair::new(STALLING), Scene::new());
    let mut pids = Vec::new();
    for (number, stage) in STAGES.iter().enumerate() {
        let outcome = stage.interrupt(&scene, &pair, number == 0, &|running| {
            running.signal(signal)
        });
        outcome.assert_signalled(signal);
        if signal != Signal::SIGKILL {
            leftovers::assert_no_queue(&outcome.pids);
            // What stalls the schema on the target is an event trigger, which the checks see.
            outcome.assert_no_unexpected(&[
                "interrupted by a signal",
                "event triggers of the target will fire",
            ]);
        }
        pids.extend(outcome.pids);
        if number > 0 && STAGES[number - 1].is_read {
            assert!(
                !outcome.stderr.contains("exported snapshot"),
                "{}",
                outcome.stderr
            );
        }
    }
    let resumed = pair.resume(&scene, &[]);
    pair.assert_whole(&scene, &resumed);
    // What a killed run could not remove, the next one has.
    leftovers::assert_no_queue(&pids);
    assert!(!resumed.stderr.contains("exported snapshot"));
}

#[test]
fn sigterm_ends_every_kind_of_statement() {
    is_interrupted_everywhere_by(Signal::SIGTERM);
}

#[test]
fn sigint_ends_every_kind_of_statement() {
    is_interrupted_everywhere_by(Signal::SIGINT);
}

#[test]
fn sigquit_ends_every_kind_of_statement() {
    is_interrupted_everywhere_by(Signal::SIGQUIT);
}

/// Nobody is left to tell the children: they notice.
#[test]
fn kill_9_of_the_parent_ends_every_kind_of_statement() {
    is_interrupted_everywhere_by(Signal::SIGKILL);
}

/// A worker or program that is killed ends the run within seconds, with its name.
#[track_caller]
fn workers_are_ended_by(signal: Signal, word: &str) {
    let (pair, scene) = (Pair::new(STALLING), Scene::new());
    for (number, stage) in STAGES.iter().enumerate() {
        let outcome = stage.interrupt(&scene, &pair, number == 0, &|running| {
            let held = stage.held_processes(&pair).remove(0);
            let processes = running.processes();
            let is_held = |process: &&Process| {
                let title = &process.title;
                let is_program = title.contains(&format!("/{held} "));
                process.parent == running.pid() && (is_program || title.ends_with(&held))
            };
            let victim = processes.iter().find(is_held);
            let victim = victim.unwrap_or_else(|| panic!("no {held} in {processes:#?}"));
            kill(Pid::from_raw(victim.pid), signal).unwrap();
        });
        let code = outcome.status.code();
        assert!(code.is_some_and(|code| code != 0), "{outcome:?}");
        outcome.assert_last_error(code.unwrap(), &[stage.process, word]);
        leftovers::assert_no_queue(&outcome.pids);
    }
    let resumed = pair.resume(&scene, &[]);
    pair.assert_whole(&scene, &resumed);
}

#[test]
fn a_killed_worker_ends_the_run() {
    workers_are_ended_by(Signal::SIGKILL, "SIGKILL");
}

#[test]
fn a_worker_told_to_stop_ends_the_run() {
    workers_are_ended_by(Signal::SIGTERM, "");
}

/// A backend of the killed run that is still there is ended by the next one; those of other runs are left alone.
#[test]
fn backends_of_a_killed_run_are_ended_by_the_next_one() {
    let (pair, scene) = (Pair::new(STALLING), Scene::new());
    let killed = pair
        .clone(&scene, &[])
        .env("PGCOPYDB_FAILPOINT", "clone.after_restore_pre=kill")
        .run();
    killed.assert_signalled(Signal::SIGKILL);
    let spec: RunSpec = done::read(&scene.work_dir().join("run/spec.json"))
        .unwrap()
        .unwrap();
    let connect = |id: &str| {
        let name = format!("set application_name = 'pgcopydb[{id}] copy worker 1'");
        [(pair.source, &pair.db), (pair.target, &pair.copy)].map(|(server, db)| {
            let mut client = server.client(db);
            client.batch_execute(&name).unwrap();
            client
        })
    };
    let (mut ours, mut others) = (connect(&spec.id), connect("0123456789ab"));
    let resumed = pair.resume(&scene, &[]);
    resumed.assert_success(&[]);
    for client in &mut ours {
        client.batch_execute("select 1").unwrap_err();
    }
    for client in &mut others {
        client.batch_execute("select 1").unwrap();
    }
    drop(others);
    pair.assert_whole(&scene, &resumed);
}

/// SIGTERM, SIGINT, SIGQUIT and SIGKILL of the parent, at moments spread over the run.
#[test]
fn signals_at_any_moment_end_everything_within_ten_seconds() {
    let db = new_work(shared_source());
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGKILL,
        Signal::SIGQUIT,
    ];
    for (number, moment) in MOMENTS.iter().enumerate() {
        let signal = signals[number % signals.len()];
        let pair = Pair::to_new_copy(shared_source(), shared_target(), &db);
        let scene = Scene::new();
        let mut running = pair.clone(&scene, &SPLIT).spawn();
        wait_until(PATIENCE, moment, || {
            running.stderr().contains(moment) || !running.is_running()
        });
        if running.is_running() {
            running.signal(signal);
        }
        let outcome = running.wait_deadline(ALL_GONE);
        if outcome.status.success() {
            // The run was faster than we: then it must be whole.
            pair.assert_whole(&scene, &outcome);
            continue;
        }
        outcome.assert_signalled(signal);
        leftovers::assert_no_process(|| scene.processes());
        pair.assert_no_backend();
        let resumed = pair.resume(&scene, &SPLIT);
        pair.assert_whole(&scene, &resumed);
    }
}

/// Log lines after which a signal is sent.
const MOMENTS: &[&str] = &[
    "exported snapshot",
    "dumping the schema",
    "restoring pre",
    "copied table",
    "part 2 of",
    "built index",
    "everything is read",
    "restoring post",
    "copied large objects",
    "tables to copy",
    "set ",
    "copied table \"public\".\"small\"",
];
