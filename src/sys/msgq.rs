//! System V message queues: work items between processes. The creator removes the queue; everybody else inherits the
//! id across fork. Taking an item is the claim on it. Knows nothing of what the items mean.
//!
//! Removing a queue is a race-free "everybody stop": every blocked msgrcv and msgsnd returns EIDRM.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::failpoint::failpoint;
use super::signal::Shutdown;
use crate::error::{Error, Result};

/// Bytes of one item on the queue; fixed, so that a message of another program cannot be taken for ours.
pub const ITEM_BYTES: usize = 16;

/// How often a blocked call looks at the stop flag. A signal that arrives just before the system call would not wake
/// it, so a timer does.
const ALARM: Duration = Duration::from_millis(200);

/// The message type of an item that is like any other.
pub const ANY: libc::c_long = 1;

/// What travels on a queue: an enum coded to fixed bytes, in one place.
pub trait QueueItem: Sized {
    /// The type of its message, above zero: whoever takes items may ask for those of one type.
    fn kind(&self) -> libc::c_long {
        ANY
    }
    fn encode(&self) -> [u8; ITEM_BYTES];
    fn decode(bytes: &[u8; ITEM_BYTES]) -> Option<Self>;
}

/// The outcome of waiting for an item.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<M> {
    Item(M),
    /// Nothing there (only from `try_recv`).
    Empty,
    /// The queue was removed: stop.
    Closed,
}

/// A queue to be, and what recognises it when its run has died. Written down before the queue is made: whatever moment a
/// run is killed at, the next one finds the queue by its key. Others may come to use the same key, so it proves nothing
/// alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueNote {
    pub key: i32,
    pub uid: u32,
    /// The queue is not older, as far as clocks can tell; seconds since 1970.
    pub noted_at: i64,
    pub boot_id: String,
}

impl QueueNote {
    /// With a key that nobody else is likely to use.
    pub fn of_new() -> QueueNote {
        // Its keys come from the system's randomness. Zero would be IPC_PRIVATE.
        let random = RandomState::new().build_hasher().finish();
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        QueueNote {
            key: (random as i32 & i32::MAX).max(1),
            uid: nix::unistd::geteuid().as_raw(),
            noted_at: since_1970.as_secs() as i64,
            boot_id: boot_id(),
        }
    }

    /// The kernel stamps a queue with the time of its last tick, which may be of the second before; and a clock may be set back
    /// meanwhile.
    fn fits(&self, created_at: i64) -> bool {
        const CLOCKS_DIFFER: i64 = 60;
        created_at >= self.noted_at.saturating_sub(CLOCKS_DIFFER)
    }
}

/// A queue of `M`. Dropped in the process that created it, it is removed.
#[derive(Debug)]
pub struct MessageQueue<M> {
    id: i32,
    owner: u32,
    items: PhantomData<fn(M) -> M>,
}

#[repr(C)]
struct Buffer {
    mtype: libc::c_long,
    mtext: [u8; ITEM_BYTES],
}

impl<M: QueueItem> MessageQueue<M> {
    /// Make the queue of a note that is on disk.
    pub fn create(note: &QueueNote) -> Result<MessageQueue<M>> {
        let id = sys_create(note.key).map_err(|error| {
            Error::io("could not create a System V message queue", error)
                .with_hint("See ipcs -q and the kernel settings kernel.msgmni and kernel.msgmnb.")
        })?;
        Ok(MessageQueue {
            id,
            owner: std::process::id(),
            items: PhantomData,
        })
    }

    /// Put an item if there is room; `Ok(false)` when the queue is full.
    pub fn try_send(&self, item: &M) -> Result<bool> {
        failpoint("queue.before_send")?;
        match sys_send(self.id, item.kind(), &item.encode(), libc::IPC_NOWAIT) {
            Ok(()) => failpoint("queue.after_send").map(|()| true),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(queue_error("send to", error)),
        }
    }

    /// Put an item, waiting for room.
    pub fn send(&self, item: &M, shutdown: &Shutdown) -> Result<()> {
        if self.try_send(item)? {
            return Ok(());
        }
        let bytes = item.encode();
        let _alarm = Alarm::start();
        loop {
            shutdown.check()?;
            match sys_send(self.id, item.kind(), &bytes, 0) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(queue_error("send to", error)),
            }
        }
    }

    /// Take the first item if there is one.
    pub fn try_recv(&self) -> Result<Received<M>> {
        self.try_recv_kind(0)
    }

    /// Take the first item of one kind if there is one.
    pub fn try_recv_kind(&self, kind: libc::c_long) -> Result<Received<M>> {
        loop {
            match sys_recv(self.id, kind, libc::IPC_NOWAIT) {
                Ok(bytes) => {
                    failpoint("queue.after_receive")?;
                    return decode(&bytes);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOMSG) => {
                    return Ok(Received::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_removed(&error) => return Ok(Received::Closed),
                Err(error) => return Err(queue_error("receive from", error)),
            }
        }
    }

    /// Take the first item, waiting for one.
    pub fn recv(&self, shutdown: &Shutdown) -> Result<Received<M>> {
        let _alarm = Alarm::start();
        loop {
            shutdown.check()?;
            match sys_recv(self.id, 0, 0) {
                Ok(bytes) => {
                    failpoint("queue.after_receive")?;
                    return decode(&bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_removed(&error) => return Ok(Received::Closed),
                Err(error) => return Err(queue_error("receive from", error)),
            }
        }
    }
}

impl<M> Drop for MessageQueue<M> {
    fn drop(&mut self) {
        // A child's copy must not take the queue away from the others.
        if self.owner == std::process::id() {
            let _ = sys_remove(self.id);
        }
    }
}

/// Remove the queue of a dead run; only if boot, owner and creation time fit to the note. `Ok(false)` when it is gone, was
/// never made, or is somebody else's.
pub fn remove_noted(note: &QueueNote) -> Result<bool> {
    if note.boot_id != boot_id() {
        return Ok(false);
    }
    let Ok(id) = sys_find(note.key) else {
        return Ok(false);
    };
    match sys_stat(id) {
        Ok((uid, created_at)) if uid == note.uid && note.fits(created_at) => {
            sys_remove(id).map_err(|error| Error::io("could not remove a message queue", error))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Which start of this machine this is; empty where that cannot be told.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_string()
}

fn decode<M: QueueItem>(bytes: &[u8; ITEM_BYTES]) -> Result<Received<M>> {
    M::decode(bytes)
        .map(Received::Item)
        .ok_or_else(|| Error::internal(format!("unknown item {bytes:?} in a message queue")))
}

fn is_removed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIDRM) | Some(libc::EINVAL))
}

fn queue_error(what: &str, error: io::Error) -> Error {
    if is_removed(&error) {
        // Whoever removes a queue has told everybody to stop.
        Error::interrupted()
    } else {
        Error::io(format!("could not {what} a message queue"), error)
    }
}

fn sys_create(key: i32) -> io::Result<i32> {
    sys_get(key, 0o600 | libc::IPC_CREAT | libc::IPC_EXCL)
}

fn sys_find(key: i32) -> io::Result<i32> {
    sys_get(key, 0)
}

fn sys_get(key: i32, flags: i32) -> io::Result<i32> {
    // SAFETY: no pointers are involved.
    #[expect(unsafe_code, reason = "msgget(2)")]
    let id = unsafe { libc::msgget(key, flags) };
    if id < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(id)
    }
}

fn sys_stat(id: i32) -> io::Result<(u32, i64)> {
    // SAFETY: msqid_ds is plain data that the kernel fills.
    #[expect(unsafe_code, reason = "msgctl(2)")]
    let (code, stat) = unsafe {
        let mut stat: libc::msqid_ds = std::mem::zeroed();
        (libc::msgctl(id, libc::IPC_STAT, &mut stat), stat)
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((stat.msg_perm.cuid, stat.msg_ctime))
    }
}

fn sys_remove(id: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID takes no buffer.
    #[expect(unsafe_code, reason = "msgctl(2)")]
    let code = unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn sys_send(id: i32, kind: libc::c_long, bytes: &[u8; ITEM_BYTES], flags: i32) -> io::Result<()> {
    let buffer = Buffer {
        mtype: kind,
        mtext: *bytes,
    };
    // SAFETY: the buffer starts with a positive long and holds ITEM_BYTES after it, as msgsnd expects.
    #[expect(unsafe_code, reason = "msgsnd(2)")]
    let code = unsafe { libc::msgsnd(id, (&raw const buffer).cast(), ITEM_BYTES, flags) };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The first message of this kind; zero is any.
fn sys_recv(id: i32, kind: libc::c_long, flags: i32) -> io::Result<[u8; ITEM_BYTES]> {
    let mut buffer = Buffer {
        mtype: 0,
        mtext: [0; ITEM_BYTES],
    };
    // SAFETY: the kernel writes a long and at most ITEM_BYTES into the buffer; a longer message is E2BIG.
    #[expect(unsafe_code, reason = "msgrcv(2)")]
    let count = unsafe { libc::msgrcv(id, (&raw mut buffer).cast(), ITEM_BYTES, kind, flags) };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(buffer.mtext)
    }
}

/// A repeating SIGALRM while it lives, so that a blocked call returns EINTR and the stop flag is seen.
struct Alarm;

impl Alarm {
    fn start() -> Alarm {
        set_alarm(ALARM);
        Alarm
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        set_alarm(Duration::ZERO);
    }
}

fn set_alarm(every: Duration) {
    let interval = libc::timeval {
        tv_sec: 0,
        tv_usec: every.subsec_micros() as libc::suseconds_t,
    };
    let timer = libc::itimerval {
        it_interval: interval,
        it_value: interval,
    };
    // SAFETY: the timer is a valid value, the old one is not asked for.
    #[expect(unsafe_code, reason = "setitimer(2)")]
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::{QueueNote, remove_noted, sys_create, sys_find, sys_remove};

    #[test]
    fn the_queue_of_a_note_is_removed_and_nobody_elses() {
        let note = QueueNote::of_new();
        // Its run was killed before it made the queue.
        assert!(!remove_noted(&note).unwrap());
        let id = sys_create(note.key).unwrap();
        let other_boot = QueueNote {
            boot_id: "another".to_owned(),
            ..note.clone()
        };
        let older = QueueNote {
            noted_at: note.noted_at + 120,
            ..note.clone()
        };
        let other_user = QueueNote {
            uid: note.uid + 1,
            ..note.clone()
        };
        for foreign in [other_boot, older, other_user] {
            assert!(!remove_noted(&foreign).unwrap());
            assert_eq!(sys_find(note.key).unwrap(), id);
        }
        assert!(remove_noted(&note).unwrap());
        sys_remove(id).unwrap_err();
    }

    /// Made right after the note, stamped with the second before.
    #[test]
    fn a_queue_that_seems_a_little_older_than_its_note_is_removed() {
        let note = QueueNote::of_new();
        let id = sys_create(note.key).unwrap();
        let later = QueueNote {
            noted_at: note.noted_at + 2,
            ..note
        };
        assert!(remove_noted(&later).unwrap());
        sys_remove(id).unwrap_err();
    }
}
