//! The plan of the data section: what is still to be done, given what an earlier run has done. Pure; made by the
//! parent before the workers are forked, so that all of them see the same.

use std::collections::{HashMap, HashSet};

use super::indexes::is_small;
use super::large_objects::Batch;
use super::work::Work;
use crate::catalog::Catalog;
use crate::catalog::split::WorkItem;
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

/// What is left to do, as positions in the catalog's lists.
#[derive(Debug, Default)]
pub struct CopyPlan {
    /// Tables and parts to copy, largest first.
    pub items: Vec<WorkItem>,
    pub batches: Vec<Batch>,
    /// Batches that earlier runs have not done, as positions.
    pub batches_left: Vec<u32>,
    /// What the parent queues at the start: the rest of tables that are copied already.
    pub first: Vec<Work>,
    /// Positions of all indexes of a table, and of the table of each index.
    indexes_of: Vec<Vec<u32>>,
    table_of: Vec<u32>,
    indexes_done: HashSet<Oid>,
    constraints_done: HashSet<Oid>,
    index_oids: Vec<Oid>,
    has_attachment: Vec<bool>,
    is_small: Vec<bool>,
    wants_vacuum: Vec<bool>,
}

/// Compare what there is with what is done.
pub fn plan(
    catalog: &Catalog,
    items: Vec<WorkItem>,
    batches: Vec<Batch>,
    progress: CopyProgress,
    skip_vacuum: bool,
) -> CopyPlan {
    let positions: HashMap<Oid, u32> =
        catalog.tables.iter().enumerate().map(|(position, table)| (table.oid, position as u32)).collect();
    let mut indexes_of = vec![Vec::new(); catalog.tables.len()];
    let mut table_of = Vec::with_capacity(catalog.indexes.len());
    for (position, index) in catalog.indexes.iter().enumerate() {
        // The catalog only lists indexes of its own tables.
        let table = positions.get(&index.table_oid).copied().unwrap_or_default();
        table_of.push(table);
        indexes_of[table as usize].push(position as u32);
    }
    let batches_left =
        (0..batches.len() as u32).filter(|number| !progress.batches.contains(number)).collect();
    let mut plan = CopyPlan {
        items: items
            .into_iter()
            .filter(|item| {
                let oid = catalog.tables[item.table as usize].oid;
                let is_part_done =
                    item.part.as_ref().is_some_and(|part| progress.parts.contains(&(oid, part.number)));
                !progress.tables.contains(&oid) && !is_part_done
            })
            .collect(),
        batches,
        batches_left,
        first: Vec::new(),
        indexes_of,
        table_of,
        indexes_done: progress.indexes,
        constraints_done: progress.constraints,
        index_oids: catalog.indexes.iter().map(|index| index.oid).collect(),
        has_attachment: catalog.indexes.iter().map(|index| !index.attach_sql().is_empty()).collect(),
        is_small: catalog.tables.iter().map(is_small).collect(),
        wants_vacuum: catalog
            .tables
            .iter()
            .map(|table| !skip_vacuum && !progress.vacuumed.contains(&table.oid))
            .collect(),
    };
    plan.first = (0..catalog.tables.len() as u32)
        .filter(|table| progress.tables.contains(&catalog.tables[*table as usize].oid))
        .flat_map(|table| plan.after_copy(table))
        .collect();
    plan
}

impl CopyPlan {
    /// What follows once a table's rows are there.
    pub fn after_copy(&self, table: u32) -> Vec<Work> {
        let left = self.indexes_to_build(table);
        let is_all_done = left.is_empty() && self.constraints_to_attach(table).is_empty();
        if is_all_done {
            let vacuum = self.wants_vacuum(table).then_some(Work::Vacuum(table));
            return vacuum.into_iter().collect();
        }
        if self.is_small[table as usize] || left.len() <= 1 {
            return vec![Work::BuildIndexesOf(table)];
        }
        left.into_iter().map(Work::BuildIndex).collect()
    }

    pub fn table_of(&self, index: u32) -> u32 {
        self.table_of[index as usize]
    }

    pub fn indexes_of(&self, table: u32) -> &[u32] {
        &self.indexes_of[table as usize]
    }

    pub fn indexes_to_build(&self, table: u32) -> Vec<u32> {
        let is_left = |index: &u32| !self.indexes_done.contains(&self.index_oids[*index as usize]);
        self.indexes_of(table).iter().copied().filter(is_left).collect()
    }

    /// Indexes that still want their constraint attached, or what else ALTER TABLE has to say about them.
    pub fn constraints_to_attach(&self, table: u32) -> Vec<u32> {
        let is_left = |index: &u32| {
            self.has_attachment[*index as usize]
                && !self.constraints_done.contains(&self.index_oids[*index as usize])
        };
        self.indexes_of(table).iter().copied().filter(is_left).collect()
    }

    pub fn wants_vacuum(&self, table: u32) -> bool {
        self.wants_vacuum[table as usize]
    }

    /// Whether anything is left to read from the source.
    pub fn reads_source(&self) -> bool {
        !self.items.is_empty() || !self.batches_left.is_empty()
    }
}
