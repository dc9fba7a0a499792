//! Changes that a resumed copy has already: skipped, table by table (see `stream::meeting`). Runs in the apply process, until
//! everything up to the latest position is behind it; in every other run there is none of this.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::ident::QualifiedName;
use crate::lsn::Lsn;
use crate::stream::json_text::read_number;
use crate::stream::meeting::{TablesAsOf, is_in_copy};
use crate::stream::script::{StatementId, StatementIs};

/// What is known of the copy.
pub struct InCopy {
    tables: TablesAsOf,
    /// Of the statements of this script, those on tables that were copied later than the first.
    statements: HashMap<StatementId, Lsn>,
    skipped: u64,
}

impl InCopy {
    /// `None` when nothing after `replayed` is in the copy.
    pub fn read(dir: &Path, replayed: Lsn) -> Result<Option<InCopy>> {
        let tables = TablesAsOf::read(dir)?.filter(|tables| replayed < tables.latest());
        Ok(tables.map(|tables| InCopy {
            tables,
            statements: HashMap::new(),
            skipped: 0,
        }))
    }

    /// Nothing that comes after this position is in the copy.
    pub fn latest(&self) -> Lsn {
        self.tables.latest()
    }

    /// The last changes that were skipped lie behind us.
    pub fn tell(&self) {
        log::info!(
            "everything up to {} is applied: {} changes before it were in the copy already",
            self.tables.latest(),
            self.skipped
        );
    }

    /// A new script: its statements have other numbers.
    pub fn begin_script(&mut self) {
        self.statements.clear();
    }

    pub fn prepare(&mut self, id: StatementId, is: &StatementIs) {
        match self.tables.get(&QualifiedName::new(&is.schema, &is.table)) {
            Some(as_of) => self.statements.insert(id, as_of),
            None => self.statements.remove(&id),
        };
    }

    /// Whether the copy has the change of this EXECUTE line. Of a transaction whose end is not known it has none: it would
    /// have been kept.
    pub fn has_change(&mut self, line: &[u8], commit_lsn: Option<Lsn>) -> bool {
        let statement = line.strip_prefix(b"EXECUTE ").and_then(read_number);
        let as_of = statement.and_then(|(statement, _)| self.statements.get(&statement));
        let has = as_of
            .zip(commit_lsn)
            .is_some_and(|(as_of, commit_lsn)| is_in_copy(commit_lsn, *as_of));
        self.skipped += u64::from(has);
        has
    }

    /// Leave those tables of a TRUNCATE that the copy has as they were after it.
    pub fn left_to_truncate(
        &mut self,
        tables: &[(String, String)],
        commit_lsn: Option<Lsn>,
    ) -> Vec<(String, String)> {
        let is_left = |(schema, table): &&(String, String)| {
            let as_of = self.tables.get(&QualifiedName::new(schema, table));
            !as_of
                .zip(commit_lsn)
                .is_some_and(|(as_of, commit_lsn)| is_in_copy(commit_lsn, as_of))
        };
        let left: Vec<(String, String)> = tables.iter().filter(is_left).cloned().collect();
        self.skipped += u64::from(left.is_empty());
        left
    }
}
