//! Live replay: the script as it comes through the pipe. Runs in the apply process.

use std::os::fd::OwnedFd;

use super::apply::{Applied, Applier, ApplySpec};
use super::positions::{ApplyEnd, Positions};
use crate::error::Result;
use crate::sys::signal::Shutdown;

/// Apply until the end position, or until transform closes the pipe. A pipe cannot be read again: when the target goes
/// away, the files have what is needed, and catchup goes on from them. So it does when the target is found to have lost
/// what was applied before the pipe began.
pub fn run(
    spec: &ApplySpec,
    input: OwnedFd,
    positions: &Positions,
    shutdown: &Shutdown,
) -> Result<ApplyEnd> {
    let committed = positions.committed();
    let replayed = Applier::connect(spec, positions, shutdown).and_then(|mut applier| {
        if positions.committed() < committed {
            return Ok(ApplyEnd::LostTarget);
        }
        applier.pass_what_was_applied();
        let applied = applier.run_pipe(input)?;
        applier.finish()?;
        Ok(match applied {
            Applied::EndPos => ApplyEnd::EndPos,
            Applied::EndOfInput => ApplyEnd::EndOfInput,
        })
    });
    match replayed {
        Ok(end) => Ok(end),
        Err(error) if spec.may_pass(&error) => {
            log::warn!("{error}; going on from the files");
            Ok(ApplyEnd::LostTarget)
        }
        Err(error) => Err(error),
    }
}
