//! `snapshot --follow`: a slot, and the snapshot that came with it, held until a signal. A clone that follows, in the same
//! work directory, uses both. Runs in the process of that command.

use std::path::Path;

use super::preconditions::{self, Wanted};
use super::setup::{NewSlotSpec, make_slot, publication_of};
use super::{attempt, publication, slot};
use crate::error::{Error, Result, Side};
use crate::pg::session::open_source;
use crate::snapshot::{Snapshot, hold_until_signal};
use crate::sys::signal::Shutdown;
use crate::workdir::{Service, WorkDir, location};

const NAME: &str = "pgcopydb snapshot";

/// Make the slot, tell `announce` the snapshot's id and hold it. The slot stays.
pub fn hold_slot_snapshot(
    new: NewSlotSpec<'_>,
    dir: Option<&Path>,
    shutdown: &Shutdown,
    announce: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let new = NewSlotSpec {
        application_name: NAME,
        ..new
    };
    let (info, slot_name) = (new.source, new.slot_name);
    let workdir = WorkDir::open(&location(dir), Service::Snapshot)?;
    let mut source = open_source(info, NAME, shutdown)?;
    if slot::find(&mut source, slot_name)?.is_some() {
        return Err(Error::on(
            Side::Source,
            format!(
                "replication slot \"{slot_name}\" is there already: its snapshot cannot be exported again"
            ),
        )
        .with_hint("Run \"pgcopydb stream cleanup\", or choose another --slot-name."));
    }
    let wanted = Wanted {
        plugin: new.plugin,
        makes_slot: true,
        filters: new.filters,
    };
    preconditions::check(&mut source, None, wanted)?;
    attempt::supersede(&mut source, slot_name)?;
    let new = make_slot(&mut source, &new, shutdown)?;
    let lsn = new.consistent_point;
    let noted = Snapshot::of_slot(info, &new.snapshot, lsn, Some(new.exporter), NAME, shutdown)
        .and_then(|snapshot| {
            workdir.note_slot_snapshot(snapshot.id(), lsn, slot_name)?;
            Ok(snapshot)
        });
    let mut snapshot = match noted {
        Ok(snapshot) => snapshot,
        Err(error) => {
            // Nobody was told of the slot, and it would fill the source's disk.
            slot::drop(&mut source, slot_name, &Shutdown::deaf())?;
            publication::drop(&mut source, publication_of(slot_name))?;
            return Err(error);
        }
    };
    drop(source);
    log::info!(
        "replication slot \"{slot_name}\" stays; holding snapshot {} until a signal",
        snapshot.id()
    );
    let held = hold_until_signal(&mut snapshot, shutdown, announce);
    workdir.forget_snapshot()?;
    held
}
