//! What the slot costs the source: the WAL that it keeps there, and whether the server will keep it. Runs in the follow
//! parent, on the sentinel's connection, now and then; it warns early and changes nothing.

use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result, Side};
use crate::ident::quote_literal;
use crate::pg::wire::Connection;
use crate::size::pretty_size;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Without a limit on the server, this much is worth a word, and each time that it has doubled.
const WORTH_A_WORD: u64 = 8 << 30;

/// How often a slot that the server is about to give up is told of.
const REPEAT: Duration = Duration::from_secs(300);

/// What the source says of the slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// Bytes of WAL from the slot's restart position on.
    retained: u64,
    /// From 13 on.
    status: Option<String>,
    /// Bytes that may still be written before the server gives the slot up (safe_wal_size).
    room: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// It grows: said when it has doubled.
    Grows,
    /// The server's own limit is near, or passed.
    Endangered,
    Lost,
}

/// `told`: how much was retained when it was last said.
fn judge(seen: &Seen, told: u64) -> Verdict {
    match seen.status.as_deref() {
        Some("lost") => return Verdict::Lost,
        Some("unreserved") => return Verdict::Endangered,
        _ => {}
    }
    // More than half of what the server would keep is used.
    if seen.room.is_some_and(|room| room < seen.retained) {
        return Verdict::Endangered;
    }
    match seen.retained >= WORTH_A_WORD.max(told.saturating_mul(2)) {
        true => Verdict::Grows,
        false => Verdict::Fine,
    }
}

/// The watch over one slot.
pub struct Retention {
    slot_name: String,
    next: Instant,
    told: u64,
    warned: Option<Instant>,
}

impl Retention {
    pub fn new(slot_name: &str) -> Retention {
        Retention {
            slot_name: slot_name.to_owned(),
            next: Instant::now(),
            told: 0,
            warned: None,
        }
    }

    /// Look, if it is time to. Errors: the slot is lost, and with it changes that nobody has.
    pub fn look(&mut self, source: &mut Connection) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + INTERVAL;
        let Some(seen) = self.ask(source)? else {
            // Receive says what is wrong with a slot that is not there.
            return Ok(());
        };
        match judge(&seen, self.told) {
            Verdict::Fine => Ok(()),
            Verdict::Grows => {
                self.told = seen.retained;
                self.warn(&seen, "");
                Ok(())
            }
            Verdict::Endangered => {
                if self.warned.is_none_or(|warned| warned.elapsed() >= REPEAT) {
                    self.warned = Some(Instant::now());
                    let room = match seen.room {
                        Some(room) => format!("after {} more ", pretty_size(room)),
                        None => String::new(),
                    };
                    self.warn(&seen, &format!("; {room}it gives the slot up (max_slot_wal_keep_size)"));
                }
                Ok(())
            }
            Verdict::Lost => Err(Error::on(
                Side::Source,
                format!(
                    "replication slot \"{}\" is lost: the source has removed WAL that was not received yet",
                    self.slot_name
                ),
            )
            .with_hint(
                "Raise max_slot_wal_keep_size on the source, then start over with --restart: the changes since cannot be had \
                 any more.",
            )),
        }
    }

    /// How much WAL is kept for the slot, if that can be learned.
    pub fn bytes(&self, source: &mut Connection) -> Option<u64> {
        let seen = self.ask(source).ok().flatten();
        seen.map(|seen| seen.retained)
    }

    fn warn(&self, seen: &Seen, more: &str) {
        log::warn!(
            "the source keeps {} of WAL for replication slot \"{}\"{more}: receiving is behind, or a long transaction runs \
             there. If this migration is given up, \"pgcopydb stream cleanup\" drops the slot",
            pretty_size(seen.retained),
            self.slot_name
        );
    }

    fn ask(&self, source: &mut Connection) -> Result<Option<Seen>> {
        let more = match source.server_version() >= 130_000 {
            true => "wal_status, CASE WHEN safe_wal_size < 0 THEN 0 ELSE safe_wal_size END",
            false => "NULL, NULL",
        };
        let rows = source
            .query(&format!(
                "SELECT greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                     ELSE pg_current_wal_lsn() END, restart_lsn))::bigint, {more} \
                 FROM pg_replication_slots WHERE slot_name = {}",
                quote_literal(&self.slot_name)
            ))
            .context("could not ask the source about its replication slot")?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(Seen {
            // A slot that is lost has no restart position any more.
            retained: row.opt_parse(0)?.unwrap_or(0),
            status: row.opt_text(1)?.map(str::to_owned),
            room: row.opt_parse(2)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, Verdict, WORTH_A_WORD, judge};

    fn seen(retained: u64, status: &str, room: Option<u64>) -> Seen {
        Seen {
            retained,
            status: Some(status.to_owned()),
            room,
        }
    }

    #[test]
    fn what_is_worth_a_word() {
        assert_eq!(judge(&seen(1 << 30, "reserved", None), 0), Verdict::Fine);
        let much = WORTH_A_WORD;
        assert_eq!(judge(&seen(much, "extended", None), 0), Verdict::Grows);
        assert_eq!(judge(&seen(much, "extended", None), much), Verdict::Fine);
        assert_eq!(
            judge(&seen(2 * much, "extended", None), much),
            Verdict::Grows
        );
        // Of 10 GB that the server keeps, 6 are used.
        assert_eq!(
            judge(&seen(6 << 30, "extended", Some(4 << 30)), 0),
            Verdict::Endangered
        );
        assert_eq!(
            judge(&seen(4 << 30, "reserved", Some(6 << 30)), 0),
            Verdict::Fine
        );
        assert_eq!(
            judge(&seen(9, "unreserved", Some(0)), 0),
            Verdict::Endangered
        );
        assert_eq!(judge(&seen(0, "lost", None), 0), Verdict::Lost);
    }
}
