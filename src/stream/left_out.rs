//! Tables that no rule of the filters names and that were not copied all the same: what they need is left out (a type, a
//! schema's function, an extension). The dump tells, which is made after the slot, so the base copy notes them in the work
//! directory. Read by receive and apply when they start; neither may skip any other table that the target lacks.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::ident::QualifiedName;
use crate::sys::durable::Sync;
use crate::workdir::done;

/// By their names on the source, as changes have them.
pub type LeftOutTables = HashSet<QualifiedName>;

/// Nothing was left out where nothing is noted. Receive may begin before the dump is made; it is started anew when the copy
/// is done, and what it has received by then meets the list in apply.
pub fn read(path: &Path) -> Result<LeftOutTables> {
    let noted: Option<Vec<QualifiedName>> = done::read(path)?;
    Ok(noted.into_iter().flatten().collect())
}

/// Note them, before anything is applied.
pub fn write(path: &Path, tables: &[QualifiedName]) -> Result<()> {
    done::write(path, &tables, Sync::Now)
}
