//! What the kernel says of a process and its children: read from `/proc/PID/stat` (proc(5)), by the watch. Changes nothing.

use std::fs;

/// One process, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relative {
    pub pid: u32,
    /// As `ps -o comm` shows it: 15 bytes at most.
    pub name: String,
    parent: u32,
    /// R, S, D, T, ...
    state: char,
    /// Processor time so far, in clock ticks.
    ticks: u64,
}

impl Relative {
    /// Why it cannot go on by itself, in words; `None` while it runs or waits in peace, for a server or for a sibling.
    pub fn halted(&self) -> Option<&'static str> {
        match self.state {
            'T' => Some("was stopped by a signal (SIGSTOP or a terminal)"),
            't' => Some("is held by a debugger"),
            'D' => Some("waits for a disk or a network file system"),
            _ => None,
        }
    }

    /// `4711 (copy worker 1) S 4700 ...`; the name may hold anything, so its end is the last parenthesis.
    fn parse(stat: &str) -> Option<Relative> {
        let (head, tail) = stat.rsplit_once(") ")?;
        let (pid, name) = head.split_once(" (")?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Relative {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            ticks: ticks(11)?.saturating_add(ticks(12)?),
        })
    }
}

/// The process and its children, as far as they can be seen; none without `/proc`.
pub fn of(pid: u32) -> Vec<Relative> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        // Some end while we look.
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|stat| Relative::parse(&stat))
        .filter(|relative| relative.pid == pid || relative.parent == pid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Relative, of};

    #[test]
    fn a_line_of_proc_is_read() {
        let line = "47 (a) b (c)) T 40 47 40 0 -1 4194560 9 0 0 0 7 5 0 0 20 0 1 0 100 1 1\n";
        let found = Relative::parse(line).unwrap();
        assert_eq!(
            (found.pid, found.name.as_str(), found.parent, found.ticks),
            (47, "a) b (c)", 40, 12)
        );
        assert!(found.halted().is_some_and(|why| why.contains("SIGSTOP")));
        for cut in 0..line.len() - 30 {
            let _ = Relative::parse(&line[..cut]);
        }
        assert_eq!(Relative::parse(""), None);
    }

    #[test]
    fn we_are_of_our_family() {
        let own = std::process::id();
        let found = of(own);
        let own = found.iter().find(|relative| relative.pid == own).unwrap();
        assert_eq!(own.halted(), None);
    }
}
