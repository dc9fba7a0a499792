//! Whose is what was found on the servers: may a follow use it, must it make it, or does it belong to another run? Pure.
//! To use the slot of somebody else would take changes away from them, as a slot sends each change once.

use super::apply::PositionKeeper;
use super::decode::Plugin;
use super::publication;
use super::slot::Slot;
use crate::error::{Error, Result, Side};
use crate::lsn::Lsn;

/// What the servers and the directory hold.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The directory says that a follow of these names was set up.
    pub is_noted: bool,
    pub slot: Option<Slot>,
    /// What keeps the target's position, and that position.
    pub origin: Option<(PositionKeeper, Lsn)>,
    pub publication: Option<publication::Found>,
    /// The slot that the sentinel's table on the source was made for, if that slot is there.
    pub sentinel_of: Option<String>,
}

/// How a follow begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// There is no slot: everything is made.
    New,
    /// The slot is there: what is missing beside it is made.
    Again,
}

/// The names of what is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub slot: &'a str,
    pub origin: &'a str,
    pub plugin: Plugin,
}

/// Decide how to begin. `Err` is the refusal.
pub fn decide(names: Names<'_>, found: &Found) -> Result<Beginning> {
    let Names { slot, origin, .. } = names;
    if let Some(other) = found.sentinel_of.as_deref().filter(|other| *other != slot) {
        return Err(another_run(
            Side::Source,
            format!(
                "table \"pgcopydb\".\"sentinel\" on the source belongs to the follow of replication slot \"{other}\""
            ),
            "Run \"pgcopydb stream cleanup\" with that --slot-name once its migration is over.",
        ));
    }
    let Some(is) = &found.slot else {
        return decide_without_slot(names, found);
    };
    if found.is_noted {
        if found.origin.is_none() {
            return Err(lost(
                Side::Target,
                format!(
                    "replication origin \"{origin}\" is gone from the target: how far it is cannot be known"
                ),
            ));
        }
    } else {
        decide_for_strange_slot(names, is, found)?;
    }
    // The server looks a publication up as of each change: one that is made after the slot would not be found.
    if names.plugin == Plugin::Pgoutput && found.publication.is_none() {
        return Err(lost(
            Side::Source,
            format!(
                "publication \"{slot}\", which replication slot \"{slot}\" needs, is not on the source"
            ),
        ));
    }
    Ok(Beginning::Again)
}

fn decide_without_slot(names: Names<'_>, found: &Found) -> Result<Beginning> {
    let Names { slot, origin, .. } = names;
    if found.is_noted {
        return Err(lost(
            Side::Source,
            format!("replication slot \"{slot}\" is gone from the source: changes may be lost"),
        ));
    }
    if found.origin.is_some() {
        return Err(another_run(
            Side::Target,
            format!("replication origin \"{origin}\" is on the target already, from another run"),
            "Run \"pgcopydb stream cleanup\", or choose another --origin.",
        ));
    }
    let is_foreign = found.publication == Some(publication::Found::SomebodyElses);
    if names.plugin == Plugin::Pgoutput && is_foreign {
        return Err(another_run(
            Side::Source,
            format!("publication \"{slot}\" on the source was not made by pgcopydb"),
            "Choose another --slot-name: the publication has the name of the slot.",
        ));
    }
    Ok(Beginning::New)
}

/// A slot that this directory knows nothing of: made by "stream create slot" or "snapshot --follow", or used by a run in
/// another directory.
fn decide_for_strange_slot(names: Names<'_>, is: &Slot, found: &Found) -> Result<()> {
    let Names { slot, origin, .. } = names;
    const HINT: &str = "Use the --dir of that run, or choose another --slot-name and --origin.";
    if let Some(pid) = is.active_pid {
        return Err(another_run(
            Side::Source,
            format!(
                "replication slot \"{slot}\" belongs to another run: process {pid} on the source uses it"
            ),
            HINT,
        ));
    }
    let confirmed = is.confirmed_flush.unwrap_or(Lsn::INVALID);
    match found.origin {
        // What the source was told to be safe must be on the target, or it is in files that we do not have.
        Some((_, applied)) if applied < confirmed => Err(another_run(
            Side::Target,
            format!(
                "replication slot \"{slot}\" belongs to another run: its changes up to {confirmed} are in that run's \
                 directory, and origin \"{origin}\" on the target is at {applied}"
            ),
            HINT,
        )),
        Some(_) => Ok(()),
        None if found.sentinel_of.is_some() => Err(lost(
            Side::Target,
            format!(
                "replication slot \"{slot}\" was set up before, but there is no replication origin \"{origin}\" on the target"
            ),
        )),
        None => Ok(()),
    }
}

fn another_run(side: Side, message: String, hint: &str) -> Error {
    Error::on(side, message).with_hint(hint)
}

fn lost(side: Side, message: String) -> Error {
    Error::on(side, message)
        .with_hint("Start over: \"pgcopydb clone --follow --restart\", or \"pgcopydb stream cleanup\" and a new clone.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = Names {
        slot: "s",
        origin: "o",
        plugin: Plugin::Pgoutput,
    };

    fn slot(active_pid: Option<i32>) -> Slot {
        Slot {
            plugin: "pgoutput".to_owned(),
            database: Some("db".to_owned()),
            confirmed_flush: Some(Lsn(100)),
            active_pid,
            user: None,
            is_lost: false,
        }
    }

    fn refusal(found: &Found) -> String {
        decide(NAMES, found).unwrap_err().to_string()
    }

    #[test]
    fn nothing_there_is_a_new_beginning() {
        let mut found = Found::default();
        assert_eq!(decide(NAMES, &found).unwrap(), Beginning::New);
        // What an interrupted setup left.
        found.publication = Some(publication::Found::Ours);
        assert_eq!(decide(NAMES, &found).unwrap(), Beginning::New);
        found.publication = Some(publication::Found::SomebodyElses);
        assert!(refusal(&found).contains("not made by pgcopydb"));
        found.publication = None;
        found.origin = Some((PositionKeeper::Origin, Lsn(1)));
        assert!(refusal(&found).contains("from another run"));
        found.origin = None;
        found.is_noted = true;
        assert!(refusal(&found).contains("gone from the source"));
    }

    #[test]
    fn our_own_goes_on_when_all_of_it_is_there() {
        let mut found = Found {
            is_noted: true,
            slot: Some(slot(Some(7))),
            origin: Some((PositionKeeper::Table, Lsn(1))),
            publication: Some(publication::Found::Ours),
            sentinel_of: Some("s".to_owned()),
        };
        assert_eq!(decide(NAMES, &found).unwrap(), Beginning::Again);
        found.publication = None;
        assert!(refusal(&found).contains("publication \"s\""));
        found.origin = None;
        assert!(refusal(&found).contains("gone from the target"));
        found.sentinel_of = Some("other".to_owned());
        assert!(refusal(&found).contains("\"other\""));
    }

    #[test]
    fn a_strange_slot_is_used_only_when_nothing_can_be_lost() {
        let mut found = Found {
            slot: Some(slot(None)),
            publication: Some(publication::Found::Ours),
            ..Found::default()
        };
        // Fresh, from "stream create slot".
        assert_eq!(decide(NAMES, &found).unwrap(), Beginning::Again);
        found.origin = Some((PositionKeeper::Origin, Lsn(100)));
        assert_eq!(decide(NAMES, &found).unwrap(), Beginning::Again);
        found.origin = Some((PositionKeeper::Origin, Lsn(99)));
        assert!(refusal(&found).contains("0/63"));
        found.slot = Some(slot(Some(42)));
        assert!(refusal(&found).contains("process 42"));
        found.slot = Some(slot(None));
        found.origin = None;
        found.sentinel_of = Some("s".to_owned());
        assert!(refusal(&found).contains("no replication origin"));
    }
}
