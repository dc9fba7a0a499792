//! Live replay: the script as it comes through the pipe. Runs in the apply process.

use std::os::fd::OwnedFd;

use super::apply::{Applied, Applier, ApplySpec};
use super::positions::{ApplyEnd, Positions};
use crate::error::Result;
use crate::sys::signal::Shutdown;

/// Apply until the end position, or until transform closes the pipe. A pipe cannot be read again: when the target goes
/// away, the files have what is needed, and catchup goes on from them.
pub fn run(
    spec: &ApplySpec,
    input: OwnedFd,
    positions: &Positions,
    shutdown: &Shutdown,
) -> Result<ApplyEnd> {
    let replayed = Applier::connect(spec, positions, shutdown).and_then(|mut applier| {
        let applied = applier.run_pipe(input)?;
        applier.finish()?;
        Ok(applied)
    });
    match replayed {
        Ok(Applied::EndPos) => Ok(ApplyEnd::EndPos),
        Ok(Applied::EndOfInput) => Ok(ApplyEnd::EndOfInput),
        Err(error) if spec.may_pass(&error) => {
            log::warn!("{error}; going on from the files");
            Ok(ApplyEnd::LostTarget)
        }
        Err(error) => Err(error),
    }
}
