//! Named fault points for the tests that prove recovery: `PGCOPYDB_FAILPOINT=copy.before_done_file=kill` kills the
//! process that comes by there. Read from the environment so that it crosses fork. Without the cargo feature
//! `failpoint` the call is empty.
//!
//! Entries are separated by commas: `NAME[@ROLE]=ACTION`. Actions: `kill` or `kill:N` (SIGKILL, the Nth time this process
//! comes by), `error` or `error:N`, `sleep:MS` (every time). ROLE is the beginning of the process's name in `ps -o comm`,
//! which the kernel cuts to 15 bytes: `copy worker`, `copy worker 3`. A mistake in an entry is an error at every fault
//! point: a test that names a point which does not exist must not pass.

use crate::error::Result;

/// Every fault point there is. A test walks this list, so a new one cannot be forgotten.
pub const ALL: &[&str] = &[
    "clone.after_dump",
    "clone.before_restore_pre",
    "clone.after_restore_pre",
    "copy.started",
    "copy.before_commit",
    "copy.after_commit",
    "copy.before_flush",
    "copy.before_done_file",
    "copy.after_done_file",
    "index.before_build",
    "index.after_build",
    "constraint.before_attach",
    "constraint.after_attach",
    "blobs.before_commit",
    "clone.before_sequences",
    "clone.after_sequences",
    "clone.before_restore_post",
    "clone.after_restore_post",
    "clone.before_summary",
];

/// The names that a follow passes.
pub const FOLLOW: &[&str] = &[
    "follow.before_mode",
    "receive.before_flush",
    "receive.after_file",
    "transform.after_file",
    "apply.before_commit",
    "apply.after_commit",
    "apply.after_file",
];

/// The names that `clone --follow` passes when it is resumed after its snapshot is lost.
pub const MEETING: &[&str] = &[
    "clone.resume_slot",
    "clone.resume_noted",
    "clone.noted_tables",
    "clone.before_waiting",
    "online.before_forget",
];

/// The names that a comparison passes.
pub const COMPARE: &[&str] = &["compare.paused"];

/// The names that `copy extensions` and `copy roles` pass, which are no steps of a clone.
pub const BEFORE: &[&str] = &[
    "extensions.before_commit",
    "extensions.after_one",
    "roles.before_commit",
];

fn is_listed(name: &str) -> bool {
    [ALL, FOLLOW, MEETING, COMPARE, BEFORE]
        .iter()
        .any(|names| names.contains(&name))
}

#[cfg(not(feature = "failpoint"))]
pub fn failpoint(name: &'static str) -> Result<()> {
    debug_assert!(is_listed(name), "fault point {name} is not listed");
    Ok(())
}

/// Do what the environment says for this point.
#[cfg(feature = "failpoint")]
pub fn failpoint(name: &'static str) -> Result<()> {
    debug_assert!(is_listed(name), "fault point {name} is not listed");
    plan::from_environment()?.pass(name)
}

#[cfg(feature = "failpoint")]
mod plan {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::is_listed;
    use crate::error::{Error, Result};

    /// What the environment asks for.
    #[derive(Debug)]
    pub(super) struct Plan {
        entries: Vec<Entry>,
    }

    #[derive(Debug)]
    struct Entry {
        name: String,
        role: Option<String>,
        action: Action,
        /// How often this process came by; a child goes on from its parent's count.
        passes: AtomicU32,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Kill { nth: u32 },
        Error { nth: u32 },
        Sleep(Duration),
    }

    /// Read once: the environment does not change, and a point may be passed for every row.
    pub(super) fn from_environment() -> Result<&'static Plan> {
        static PLAN: OnceLock<Result<Plan>> = OnceLock::new();
        PLAN.get_or_init(|| Plan::parse(&std::env::var("PGCOPYDB_FAILPOINT").unwrap_or_default()))
            .as_ref()
            .map_err(Clone::clone)
    }

    impl Plan {
        pub(super) fn parse(text: &str) -> Result<Plan> {
            let entries = text.split(',').filter(|entry| !entry.is_empty());
            Ok(Plan {
                entries: entries.map(Entry::parse).collect::<Result<_>>()?,
            })
        }

        pub(super) fn pass(&self, name: &str) -> Result<()> {
            if self.entries.is_empty() {
                return Ok(());
            }
            let role = nix::sys::prctl::get_name().unwrap_or_default();
            match self.due(name, &role.to_string_lossy()) {
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
            }
        }

        /// What is to be done now, counting this pass. The first entry that is due wins.
        pub(super) fn due(&self, name: &str, role: &str) -> Option<Action> {
            self.entries
                .iter()
                .filter(|entry| entry.name == name && entry.is_for(role))
                .filter_map(|entry| {
                    let pass = entry.passes.fetch_add(1, Ordering::SeqCst) + 1;
                    match entry.action {
                        Action::Kill { nth } | Action::Error { nth } => {
                            (pass == nth).then_some(entry.action)
                        }
                        Action::Sleep(_) => Some(entry.action),
                    }
                })
                .next()
        }
    }

    impl Entry {
        fn parse(text: &str) -> Result<Entry> {
            let invalid =
                |why: &str| Error::config(format!("invalid PGCOPYDB_FAILPOINT \"{text}\": {why}"));
            let (point, action) = text.split_once('=').ok_or_else(|| invalid("no action"))?;
            let (name, role) = match point.split_once('@') {
                Some((name, role)) => (name, Some(role.to_string())),
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
                ("error", _) if nth > 0 => Action::Error { nth },
                ("sleep", Some(ms)) => Action::Sleep(Duration::from_millis(u64::from(ms))),
                _ => return Err(invalid("the actions are kill[:N], error[:N], sleep:MS")),
            };
            Ok(Entry {
                name: name.to_string(),
                role,
                action,
                passes: AtomicU32::new(0),
            })
        }

        /// `copy worker` means all of them, `copy worker 1` does not mean the 10th.
        fn is_for(&self, role: &str) -> bool {
            self.role.as_ref().is_none_or(|wanted| {
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

    use super::failpoint;
    use super::plan::{Action, Plan};

    #[test]
    fn each_entry_counts_for_itself() {
        let plan = Plan::parse("copy.started=kill:2,copy.after_commit=error,copy.started=sleep:5")
            .unwrap();
        let sleep = Some(Action::Sleep(Duration::from_millis(5)));
        assert_eq!(plan.due("copy.started", "x"), sleep);
        let error = Some(Action::Error { nth: 1 });
        assert_eq!(plan.due("copy.after_commit", "x"), error);
        assert_eq!(plan.due("copy.after_commit", "x"), None);
        assert_eq!(plan.due("copy.started", "x"), Some(Action::Kill { nth: 2 }));
        assert_eq!(plan.due("copy.before_commit", "x"), None);
    }

    #[test]
    fn a_role_is_meant_whole() {
        let plan = Plan::parse("copy.started@copy worker=sleep:0").unwrap();
        assert!(plan.due("copy.started", "copy worker 3").is_some());
        assert!(plan.due("copy.started", "copy workers").is_none());
        let plan = Plan::parse("copy.started@copy worker 1=sleep:0").unwrap();
        assert!(plan.due("copy.started", "copy worker 1").is_some());
        assert!(plan.due("copy.started", "copy worker 10").is_none());
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
        assert!(Plan::parse("").unwrap().due("copy.started", "x").is_none());
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
