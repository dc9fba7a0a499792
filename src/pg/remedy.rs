//! What may help against an error of a server, told by its SQLSTATE and by whether the connection broke. Pure; used by
//! every process that tries something again. How often and how long is tried is each caller's.

use postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// What may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same fails again: a wrong password, a missing right, a statement that is refused, a signal to us.
    Nothing,
    /// The connection is gone, or the server is stopping or starting: another connection, as soon as one can be had.
    Connection,
    /// The server is short of something that it may have again: room, memory, connections.
    Room,
    /// Somebody else was in the way: a deadlock, a serialization failure, a conflict with recovery. The same again.
    Attempt,
}

/// What is done when a server's disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Until somebody makes room, as long as it takes.
    Wait,
    Stop,
}

/// Of all shortages the one that ends only when somebody does something about it.
pub fn is_disk_full(error: &Error) -> bool {
    error.is_any_of(&[SqlState::DISK_FULL])
}

impl Remedy {
    pub fn of(error: &Error) -> Remedy {
        if error.kind() == ErrorKind::Interrupted {
            return Remedy::Nothing;
        }
        match Remedy::as_told(error) {
            Some(remedy) => remedy,
            // FATAL with a code of its own ends the session all the same.
            None if error.is_connection_lost() => Remedy::Connection,
            None => Remedy::Nothing,
        }
    }

    /// What the server's code alone says. At a login everything is FATAL, also what stays: an unknown setting.
    pub fn as_told(error: &Error) -> Option<Remedy> {
        error.sqlstate().and_then(Remedy::of_sqlstate)
    }

    /// `None`: the code alone does not tell.
    fn of_sqlstate(state: &str) -> Option<Remedy> {
        let class = state.get(..2).unwrap_or_default();
        Some(match (class, state) {
            // A limit that somebody has set stays as it is: temp_file_limit, max_replication_slots.
            ("53", "53400") => Remedy::Nothing,
            ("53", _) => Remedy::Room,
            // Administrator, crash, starting or recovering, idle too long. A database that is dropped stays so.
            ("57", "57P01" | "57P02" | "57P03" | "57P05") => Remedy::Connection,
            ("57", "57P04") => Remedy::Nothing,
            // A pooler's words for a server that it cannot reach are of this class too.
            ("08", _) => Remedy::Connection,
            // Idle in a transaction, or in one for too long: FATAL, and the next session has other settings.
            ("25", "25P03" | "25P04") => Remedy::Connection,
            ("40", "40001" | "40P01") => Remedy::Attempt,
            // Password, pg_hba.conf; no such database.
            ("28" | "3D", _) => Remedy::Nothing,
            _ => return None,
        })
    }

    /// Whether it is worth trying again at all.
    pub fn exists(self) -> bool {
        self != Remedy::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::Remedy;
    use crate::error::{Error, ServerError, Side};

    fn said(severity: &str, sqlstate: &str) -> Error {
        Error::server(Side::Target, ServerError::of(severity, sqlstate))
    }

    #[test]
    fn what_goes_away_is_told_from_what_stays() {
        for (severity, sqlstate, remedy) in [
            ("FATAL", "57P01", Remedy::Connection),
            ("FATAL", "57P02", Remedy::Connection),
            ("FATAL", "57P03", Remedy::Connection),
            ("FATAL", "57P05", Remedy::Connection),
            ("FATAL", "25P03", Remedy::Connection),
            ("FATAL", "25P04", Remedy::Connection),
            ("FATAL", "08P01", Remedy::Connection),
            ("ERROR", "08006", Remedy::Connection),
            ("FATAL", "53300", Remedy::Room),
            ("ERROR", "53100", Remedy::Room),
            ("ERROR", "53200", Remedy::Room),
            ("ERROR", "40001", Remedy::Attempt),
            ("ERROR", "40P01", Remedy::Attempt),
            ("FATAL", "XX000", Remedy::Connection),
            ("ERROR", "53400", Remedy::Nothing),
            ("FATAL", "57P04", Remedy::Nothing),
            ("FATAL", "28P01", Remedy::Nothing),
            ("FATAL", "28000", Remedy::Nothing),
            ("FATAL", "3D000", Remedy::Nothing),
            ("ERROR", "42501", Remedy::Nothing),
            ("ERROR", "25P02", Remedy::Nothing),
            ("ERROR", "57014", Remedy::Nothing),
            ("ERROR", "23505", Remedy::Nothing),
        ] {
            assert_eq!(Remedy::of(&said(severity, sqlstate)), remedy, "{sqlstate}");
        }
        let lost =
            Error::connection_lost(Side::Source, "server closed the connection unexpectedly");
        assert_eq!(Remedy::of(&lost), Remedy::Connection);
        assert_eq!(Remedy::of(&Error::interrupted()), Remedy::Nothing);
    }
}
