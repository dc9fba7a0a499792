//! The plan of the data section: what is still to be done, given what an earlier run has done. Pure; made by the
//! parent before the workers are forked, so that all of them see the same.

use std::collections::HashSet;

use super::indexes::is_small;
use super::large_objects::Batch;
use super::work::Work;
use crate::catalog::{Catalog, Index, Table, WorkItem};
use crate::ident::Oid;

/// What earlier runs have done, read from the done-files; object ids are the source's.
#[derive(Debug, Default)]
pub struct CopyProgress {
    pub tables: HashSet<Oid>,
    /// Parts that count: those copied under the snapshot that is used now.
    pub parts: HashSet<(Oid, u32)>,
    pub indexes: HashSet<Oid>,
    /// By the id of the constraint's index.
    pub constraints: HashSet<Oid>,
    pub vacuumed: HashSet<Oid>,
    pub batches: HashSet<u32>,
}

/// What is done with a table once its rows are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub indexes: bool,
    /// And what else ALTER TABLE says about an index.
    pub constraints: bool,
    pub vacuum: bool,
}

/// What is left to do.
#[derive(Debug, Default)]
pub struct CopyPlan {
    /// Tables and parts to copy, largest first.
    pub items: Vec<WorkItem>,
    pub batches: Vec<Batch>,
    /// Batches that earlier runs have not done, as positions.
    pub batches_left: Vec<u32>,
    /// What the parent queues at the start: the rest of tables that are copied already.
    pub first: Vec<Work>,
    done: CopyProgress,
    wanted: Wanted,
}

/// Compare what there is with what is done.
pub fn plan(
    catalog: &Catalog,
    items: Vec<WorkItem>,
    batches: Vec<Batch>,
    done: CopyProgress,
    wanted: Wanted,
) -> CopyPlan {
    let is_left = |item: &WorkItem| {
        let is_part_done = item
            .part
            .as_ref()
            .is_some_and(|part| done.parts.contains(&(item.table, part.number)));
        !done.tables.contains(&item.table) && !is_part_done
    };
    let mut plan = CopyPlan {
        items: items.into_iter().filter(is_left).collect(),
        batches_left: (0..batches.len() as u32)
            .filter(|number| !done.batches.contains(number))
            .collect(),
        batches,
        first: Vec::new(),
        done,
        wanted,
    };
    plan.first = catalog
        .tables_to_copy()
        .filter(|table| plan.done.tables.contains(&table.oid))
        .flat_map(|table| plan.after_copy(catalog, table))
        .collect();
    plan
}

impl CopyPlan {
    /// What follows once a table's rows are there.
    pub fn after_copy(&self, catalog: &Catalog, table: &Table) -> Vec<Work> {
        let left = self.indexes_to_build(catalog, table);
        if left.is_empty() && self.indexes_to_attach(catalog, table).is_empty() {
            return self
                .wants_vacuum(table)
                .then_some(Work::Vacuum(table.oid))
                .into_iter()
                .collect();
        }
        if is_small(table) || left.len() <= 1 {
            return vec![Work::BuildIndexesOf(table.oid)];
        }
        left.into_iter()
            .map(|index| Work::BuildIndex(index.oid))
            .collect()
    }

    pub fn indexes_to_build<'a>(&self, catalog: &'a Catalog, table: &Table) -> Vec<&'a Index> {
        let is_left =
            |index: &&Index| self.wanted.indexes && !self.done.indexes.contains(&index.oid);
        catalog
            .indexes_of(table.oid)
            .iter()
            .filter(is_left)
            .collect()
    }

    /// Indexes that still want their constraint attached, or what else ALTER TABLE has to say about them.
    pub fn indexes_to_attach<'a>(&self, catalog: &'a Catalog, table: &Table) -> Vec<&'a Index> {
        let is_left = |index: &&Index| {
            self.wanted.constraints
                && !self.done.constraints.contains(&index.oid)
                && !index.attach_sql(table).is_empty()
        };
        catalog
            .indexes_of(table.oid)
            .iter()
            .filter(is_left)
            .collect()
    }

    pub fn wants_vacuum(&self, table: &Table) -> bool {
        self.wanted.vacuum && !self.done.vacuumed.contains(&table.oid)
    }

    /// Whether there may be anything to do for index workers.
    pub fn wants_index_workers(&self) -> bool {
        self.wanted.indexes || self.wanted.constraints
    }

    pub fn wants_vacuum_workers(&self) -> bool {
        self.wanted.vacuum
    }

    /// Whether anything is left to read from the source.
    pub fn reads_source(&self) -> bool {
        !self.items.is_empty() || !self.batches_left.is_empty()
    }
}
