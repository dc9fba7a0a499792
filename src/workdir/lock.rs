//! Who uses a work directory: one live process of each service, told by a pid file that is locked. Taken by the parent and
//! inherited by its workers, which keep it until they have ended.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::sys::durable::{HeldBy, LockFile};
use crate::sys::signal::Shutdown;

/// Workers whose parent died are gone within 10 s, also in the middle of CREATE INDEX; a little more for a busy machine.
const ORPHANS_END: Duration = Duration::from_secs(15);

/// Which of the programs that may share a directory; one live process of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Clone,
    Snapshot,
    Follow,
    /// Whoever applies changes: "stream apply" may run beside "stream receive" and beside no other.
    Apply,
    /// The parent of a clone and a follow.
    Online,
    Compare,
    /// The parent of the clones of all databases.
    Instance,
    /// Whoever makes slot, origin and sentinel; in the directory of the changes.
    Setup,
}

/// The one lock that is not at the top of a work directory.
pub const SETUP_LOCK: &str = "setup.pid";

impl Service {
    fn pid_file(self) -> &'static str {
        match self {
            Service::Clone => "pgcopydb.pid",
            Service::Snapshot => "pgcopydb.snapshot.pid",
            Service::Follow => "pgcopydb.service.pid",
            Service::Apply => "pgcopydb.apply.pid",
            Service::Online => "pgcopydb.aux.pid",
            Service::Compare => "pgcopydb.compare.pid",
            Service::Instance => "pgcopydb.instance.pid",
            Service::Setup => SETUP_LOCK,
        }
    }
}

/// The process that uses a directory, as far as can be seen without asking for its lock: whoever is named in the pid file
/// and holds a lock. A pid alone may have been given to somebody else since.
pub fn holder(dir: &Path, service: Service) -> Option<u32> {
    let text = std::fs::read_to_string(dir.join(service.pid_file())).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    if HeldBy(Some(pid)).is_orphaned() {
        return None;
    }
    // "1: FLOCK  ADVISORY  WRITE 4711 00:2f:1234 0 EOF", see proc(5). Without that file the pid has to do.
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else {
        return Some(pid);
    };
    let is_held = locks.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some("FLOCK") && words.nth(2) == Some(text.trim())
    });
    is_held.then_some(pid)
}

/// After kill -9 of the parent its workers hold the lock until they have noticed and cleaned up, which takes seconds: a
/// resume waits for them, so that the two never work on one table at once.
pub fn take(dir: &Path, service: Service) -> Result<LockFile> {
    let deadline = Instant::now() + ORPHANS_END;
    let mut is_told = false;
    loop {
        let held = match LockFile::take(&dir.join(service.pid_file()))
            .with_context(|| format!("cannot use work directory \"{}\"", dir.display()))?
        {
            Ok(lock) => return Ok(lock),
            Err(held) => held,
        };
        let is_orphaned = held.is_orphaned();
        if !is_orphaned || Instant::now() >= deadline {
            return Err(in_use(dir, &held, is_orphaned));
        }
        if !is_told {
            log::info!(
                "waiting for the workers of an earlier run in \"{}\" to end",
                dir.display()
            );
            is_told = true;
        }
        Shutdown::handle().sleep(Duration::from_millis(50))?;
    }
}

fn in_use(dir: &Path, held: &HeldBy, is_orphaned: bool) -> Error {
    let pid = held
        .0
        .map_or_else(|| "unknown".to_string(), |pid| pid.to_string());
    let user = match is_orphaned {
        true => format!("workers of a pgcopydb with pid {pid}, which is gone, are using it"),
        false => format!("another pgcopydb with pid {pid} is using it"),
    };
    Error::state(format!(
        "cannot use work directory \"{}\": {user}",
        dir.display()
    ))
    .with_hint("Wait for it to end, stop it, or choose another --dir.")
}

#[cfg(test)]
mod tests {
    use crate::workdir::{Service, WorkDir};

    #[test]
    fn one_process_of_each_service() {
        let dir = tempfile::tempdir().unwrap();
        let _held = WorkDir::open(dir.path(), Service::Clone).unwrap();
        let _other = WorkDir::open(dir.path(), Service::Snapshot).unwrap();
        let error = WorkDir::open(dir.path(), Service::Clone).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn waits_for_workers_whose_parent_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let worker = WorkDir::open(&path, Service::Clone).unwrap();
        std::fs::write(path.join("pgcopydb.pid"), format!("{}\n", 1 << 23)).unwrap();
        let end = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            drop(worker);
        });
        WorkDir::open(&path, Service::Clone).unwrap();
        end.join().unwrap();
    }
}
