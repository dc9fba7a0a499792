//! Named fault points for the tests that prove recovery: `PGCOPYDB_FAILPOINT=copy.before_done_file=kill` kills the
//! process that comes by there. Read from the environment so that it crosses fork. Without the cargo feature
//! `failpoint` the call is empty.
//!
//! Entries are separated by commas: `NAME[/DETAIL][@ROLE]=ACTION`. Actions: `kill` or `kill:N` (SIGKILL, the Nth time this
//! process comes by), `stop` or `stop:N` (SIGSTOP, so that a test can kill the whole tree at this moment), `error` or
//! `error:N`, `sleep:MS` (every time). DETAIL is what a point that many steps pass says of the one at hand, such as the kind
//! of file. ROLE is the beginning of the process's name in `ps -o comm`, which the kernel cuts to 15 bytes: `copy worker`,
//! `copy worker 3`. A mistake in an entry is an error at every fault point: a test that names a point which does not exist
//! must not pass.
//!
//! `PGCOPYDB_FAILPOINT_TRACE=FILE` appends each point that is passed to a file, once a process: what a sweep kills at.

use std::path::Path;

use crate::error::Result;

/// Every fault point there is, in the order of the alphabet. A test reads the calls in the source and compares.
pub const ALL: &[&str] = &[
    "apply.after_commit",
    "apply.after_file",
    "apply.after_flush",
    "apply.before_commit",
    "apply.before_flush",
    "blobs.after_commit",
    "blobs.before_commit",
    "cleanup.after_schema",
    "clone.after_dump",
    "clone.after_restore_post",
    "clone.after_restore_pre",
    "clone.after_sequences",
    "clone.before_dump",
    "clone.before_post_flush",
    "clone.before_properties",
    "clone.before_restore_post",
    "clone.before_restore_pre",
    "clone.before_sequences",
    "clone.before_sequences_flush",
    "clone.before_summary",
    "clone.before_waiting",
    "clone.noted_tables",
    "clone.resume_noted",
    "clone.resume_slot",
    "compare.paused",
    "constraint.after_attach",
    "constraint.before_attach",
    "copy.after_commit",
    "copy.after_done_file",
    "copy.before_commit",
    "copy.before_done_file",
    "copy.before_flush",
    "copy.started",
    "disk.after_sync",
    "disk.before_sync",
    "extensions.after_one",
    "extensions.before_commit",
    "file.after_link",
    "file.after_remove",
    "file.after_rename",
    "file.before_link",
    "file.before_remove",
    "file.before_rename",
    "follow.after_mode",
    "follow.after_sequences",
    "follow.before_done",
    "follow.before_finish",
    "follow.before_mode",
    "index.after_build",
    "index.before_build",
    "online.before_follow",
    "online.before_forget",
    "origin.after_create",
    "origin.after_drop",
    "origin.before_create",
    "publication.after_create",
    "publication.after_drop",
    "publication.before_create",
    "queue.after_receive",
    "queue.after_send",
    "queue.before_send",
    "receive.after_file",
    "receive.after_flush",
    "receive.after_write",
    "receive.before_flush",
    "receive.before_write",
    "restore.after_program",
    "restore.before_program",
    "roles.before_commit",
    "sentinel.after_apply",
    "sentinel.after_create",
    "sentinel.after_drop",
    "sentinel.after_mark",
    "sentinel.after_reached",
    "sentinel.before_apply",
    "sentinel.before_create",
    "sentinel.before_reached",
    "slot.after_create",
    "slot.after_drop",
    "slot.before_create",
    "slot.before_drop",
    "snapshot.after_export",
    "snapshot.before_export",
    "snapshot.before_release",
    "target.after_flush",
    "target.before_flush",
    "transform.after_file",
    "transform.before_rename",
    "triggers.after_disable",
    "triggers.after_restore",
];

fn is_listed(name: &str) -> bool {
    ALL.binary_search(&name).is_ok()
}

/// Pass a point that is one step.
pub fn failpoint(name: &'static str) -> Result<()> {
    failpoint_at(name, String::new)
}

/// Pass a point that many steps pass; `detail` tells them apart.
#[cfg(not(feature = "failpoint"))]
pub fn failpoint_at(name: &'static str, _detail: impl FnOnce() -> String) -> Result<()> {
    debug_assert!(is_listed(name), "fault point {name} is not listed");
    Ok(())
}

/// Do what the environment says for this point.
#[cfg(feature = "failpoint")]
pub fn failpoint_at(name: &'static str, detail: impl FnOnce() -> String) -> Result<()> {
    debug_assert!(is_listed(name), "fault point {name} is not listed");
    let plan = plan::from_environment()?;
    match plan.is_empty() {
        true => Ok(()),
        false => plan.pass(name, &detail()),
    }
}

/// The detail of a file: its directory and name without what differs between two files of a kind.
pub fn kind_of_file(path: &Path) -> String {
    let name =
        |path: Option<&std::ffi::OsStr>| path.unwrap_or_default().to_string_lossy().into_owned();
    let directory = name(path.parent().and_then(Path::file_name));
    let mut kind = String::new();
    for c in format!("{directory}/{}", name(path.file_name())).chars() {
        match c {
            // A segment's name is all of hexadecimal digits; no other name has upper case letters.
            '0'..='9' | 'A'..='F' if kind.ends_with('*') => {}
            '0'..='9' | 'A'..='F' => kind.push('*'),
            // What separates entries.
            ',' | '=' | '@' => kind.push('_'),
            c => kind.push(c),
        }
    }
    kind
}

#[cfg(feature = "failpoint")]
mod plan {
    use std::collections::HashSet;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Mutex, OnceLock};
    use std::time::Duration;

    use super::is_listed;
    use crate::error::{Error, Result};

    /// What the environment asks for.
    #[derive(Debug)]
    pub(super) struct Plan {
        entries: Vec<Entry>,
        trace: Option<Trace>,
    }

    /// Where passes are told of.
    #[derive(Debug)]
    struct Trace {
        path: PathBuf,
        /// What this process, and those it comes from, have told.
        told: Mutex<HashSet<String>>,
    }

    #[derive(Debug)]
    struct Entry {
        name: String,
        detail: Option<String>,
        role: Option<String>,
        action: Action,
        /// How often this process came by; a child goes on from its parent's count.
        passes: AtomicU32,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Kill { nth: u32 },
        Stop { nth: u32 },
        Error { nth: u32 },
        Sleep(Duration),
    }

    /// Read once: the environment does not change, and a point may be passed for every row.
    pub(super) fn from_environment() -> Result<&'static Plan> {
        static PLAN: OnceLock<Result<Plan>> = OnceLock::new();
        PLAN.get_or_init(|| {
            let mut plan = Plan::parse(&std::env::var("PGCOPYDB_FAILPOINT").unwrap_or_default())?;
            plan.trace = std::env::var_os("PGCOPYDB_FAILPOINT_TRACE").map(|path| Trace {
                path: path.into(),
                told: Mutex::default(),
            });
            Ok(plan)
        })
        .as_ref()
        .map_err(Clone::clone)
    }

    impl Plan {
        pub(super) fn parse(text: &str) -> Result<Plan> {
            let entries = text.split(',').filter(|entry| !entry.is_empty());
            Ok(Plan {
                entries: entries.map(Entry::parse).collect::<Result<_>>()?,
                trace: None,
            })
        }

        pub(super) fn is_empty(&self) -> bool {
            self.entries.is_empty() && self.trace.is_none()
        }

        pub(super) fn pass(&self, name: &str, detail: &str) -> Result<()> {
            if let Some(trace) = &self.trace {
                trace.tell(name, detail)?;
            }
            let role = nix::sys::prctl::get_name().unwrap_or_default();
            match self.due(name, detail, &role.to_string_lossy()) {
                None => Ok(()),
                Some(Action::Sleep(duration)) => {
                    std::thread::sleep(duration);
                    Ok(())
                }
                Some(Action::Error { .. }) => Err(Error::internal(format!("fault point {name}"))),
                Some(Action::Kill { .. }) => {
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                    Ok(())
                }
                Some(Action::Stop { .. }) => {
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
                    Ok(())
                }
            }
        }

        /// What is to be done now, counting this pass. The first entry that is due wins.
        pub(super) fn due(&self, name: &str, detail: &str, role: &str) -> Option<Action> {
            self.entries
                .iter()
                .filter(|entry| entry.name == name && entry.is_for(detail, role))
                .filter_map(|entry| {
                    let pass = entry.passes.fetch_add(1, Ordering::SeqCst) + 1;
                    match entry.action {
                        Action::Kill { nth } | Action::Stop { nth } | Action::Error { nth } => {
                            (pass == nth).then_some(entry.action)
                        }
                        Action::Sleep(_) => Some(entry.action),
                    }
                })
                .next()
        }
    }

    impl Trace {
        fn tell(&self, name: &str, detail: &str) -> Result<()> {
            let point = match detail {
                "" => format!("{name}\n"),
                detail => format!("{name}/{detail}\n"),
            };
            let is_new = self
                .told
                .lock()
                .is_ok_and(|mut told| told.insert(point.clone()));
            if !is_new {
                return Ok(());
            }
            let tell = || -> std::io::Result<()> {
                let mut file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&self.path)?;
                file.write_all(point.as_bytes())
            };
            tell().map_err(|error| Error::io(format!("could not trace fault point {name}"), error))
        }
    }

    impl Entry {
        fn parse(text: &str) -> Result<Entry> {
            let invalid =
                |why: &str| Error::config(format!("invalid PGCOPYDB_FAILPOINT \"{text}\": {why}"));
            let (point, action) = text.split_once('=').ok_or_else(|| invalid("no action"))?;
            let (point, role) = match point.split_once('@') {
                Some((point, role)) => (point, Some(role.to_string())),
                None => (point, None),
            };
            let (name, detail) = match point.split_once('/') {
                Some((name, detail)) => (name, Some(detail.to_string())),
                None => (point, None),
            };
            if !is_listed(name) {
                return Err(invalid("there is no such fault point"));
            }
            let (verb, number) = match action.split_once(':') {
                Some((verb, number)) => {
                    let number = number.parse::<u32>();
                    (verb, Some(number.map_err(|_| invalid("not a number"))?))
                }
                None => (action, None),
            };
            let nth = number.unwrap_or(1);
            let action = match (verb, number) {
                ("kill", _) if nth > 0 => Action::Kill { nth },
                ("stop", _) if nth > 0 => Action::Stop { nth },
                ("error", _) if nth > 0 => Action::Error { nth },
                ("sleep", Some(ms)) => Action::Sleep(Duration::from_millis(u64::from(ms))),
                _ => {
                    return Err(invalid(
                        "the actions are kill[:N], stop[:N], error[:N], sleep:MS",
                    ));
                }
            };
            Ok(Entry {
                name: name.to_string(),
                detail,
                role,
                action,
                passes: AtomicU32::new(0),
            })
        }

        /// `copy worker` means all of them, `copy worker 1` does not mean the 10th.
        fn is_for(&self, detail: &str, role: &str) -> bool {
            let is_meant = self.detail.as_ref().is_none_or(|wanted| wanted == detail);
            is_meant
                && self.role.as_ref().is_none_or(|wanted| {
                    role.strip_prefix(wanted.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
                })
        }
    }
}

#[cfg(all(test, feature = "failpoint"))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    use super::plan::{Action, Plan};
    use super::{failpoint, kind_of_file};

    #[test]
    fn each_entry_counts_for_itself() {
        let plan = Plan::parse("copy.started=kill:2,copy.after_commit=error,copy.started=sleep:5")
            .unwrap();
        let sleep = Some(Action::Sleep(Duration::from_millis(5)));
        assert_eq!(plan.due("copy.started", "", "x"), sleep);
        let error = Some(Action::Error { nth: 1 });
        assert_eq!(plan.due("copy.after_commit", "", "x"), error);
        assert_eq!(plan.due("copy.after_commit", "", "x"), None);
        assert_eq!(
            plan.due("copy.started", "", "x"),
            Some(Action::Kill { nth: 2 })
        );
        assert_eq!(plan.due("copy.before_commit", "", "x"), None);
    }

    #[test]
    fn a_role_is_meant_whole() {
        let plan = Plan::parse("copy.started@copy worker=sleep:0").unwrap();
        assert!(plan.due("copy.started", "", "copy worker 3").is_some());
        assert!(plan.due("copy.started", "", "copy workers").is_none());
        let plan = Plan::parse("copy.started@copy worker 1=sleep:0").unwrap();
        assert!(plan.due("copy.started", "", "copy worker 1").is_some());
        assert!(plan.due("copy.started", "", "copy worker 10").is_none());
    }

    #[test]
    fn mistakes_are_errors() {
        for text in [
            "copy.starting=kill",
            "copy.started",
            "copy.started=explode",
            "copy.started=kill:0",
            "copy.started=kill:x",
            "copy.started=sleep",
        ] {
            let error = Plan::parse(text).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(
            Plan::parse("")
                .unwrap()
                .due("copy.started", "", "x")
                .is_none()
        );
    }

    #[test]
    fn a_detail_tells_steps_apart() {
        let path = std::path::Path::new("/d/run/tables/16385.12.done");
        assert_eq!(kind_of_file(path), "tables/*.*.done");
        let segment = std::path::Path::new("/d/cdc/0000000100000000000000AB.json");
        assert_eq!(kind_of_file(segment), "cdc/*.json");
        let plan = Plan::parse("file.after_rename/tables/*.done=kill").unwrap();
        assert!(plan.due("file.after_rename", "run/a.done", "x").is_none());
        let due = plan.due("file.after_rename", "tables/*.done", "x");
        assert_eq!(due, Some(Action::Kill { nth: 1 }));
    }

    /// Run again in a process of its own by the next test.
    #[test]
    fn passes_by() {
        failpoint("copy.started").unwrap();
    }

    #[test]
    fn kills_for_sure() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::failpoint::tests::passes_by"])
            .env("PGCOPYDB_FAILPOINT", "copy.started=kill")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
