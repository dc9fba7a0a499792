//! What exists in the source database, and what the target has already. Fetched in a few bulk queries whatever the
//! number of tables, by the parent before it forks; immutable afterwards and inherited by the workers.
//!
//! Must not: decide what is copied (filters do), write to a server, or run one query per table.

pub mod fetch;
pub mod inventory;
pub mod json;
pub mod objects;
mod queries;
mod settings;
pub mod split;
mod sql;
pub mod target;
mod types;

pub use fetch::{
    FetchOptions, fetch, fetch_extensions, fetch_key_bounds, fetch_large_objects, fetch_sequences,
    fetch_tables_only,
};
pub use objects::{
    Catalog, Column, Constraint, ConstraintKind, Database, DatabaseSetting, Extension, Index,
    LargeObjects, Persistence, RoleInUse, Sequence, SplitKey, Table, TableKind,
};
pub use settings::is_name_not_found;
pub use split::{KeyBounds, Part, PartRange, SplitOptions, WorkItem};
pub use sql::{CopyFormat, copy_encoding};
pub use target::{Target, TargetIndex, TargetKind, TargetTable};
