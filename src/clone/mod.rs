//! The clone engine; the command line calls `run`.

mod spec;

pub use spec::{CloneSpec, SplitOptions};

use crate::error::{Error, Result};
use crate::sys::signal::Shutdown;

pub fn run(_spec: &CloneSpec, _shutdown: &Shutdown) -> Result<()> {
    Err(Error::internal("the clone engine is not linked in yet"))
}
