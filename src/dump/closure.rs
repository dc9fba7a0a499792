//! What cannot be restored because something it needs is left out: the archive's own dependencies, followed to their end.
//! Pure; used in the clone parent and for `list depends`. An entry that is left out is always listed with its reason.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::dump::archive::{Archive, CatalogId, Entry};
use crate::filter::{LeftOut, Selection};
use crate::ident::{Oid, quote_ident};

/// An entry of the archive that is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    pub dump_id: i32,
    pub catalog_id: CatalogId,
    /// As pg_dump calls it.
    pub kind: String,
    /// With its kind, as in the log.
    pub object: String,
    pub reason: String,
    /// By a rule, and not because of what it needs.
    pub is_by_rule: bool,
}

/// The entries to leave out, in the order of the archive.
pub fn close(archive: &Archive, selection: &Selection) -> Vec<Omitted> {
    let mut closure = Closure::new(archive, selection);
    // What only its table needs is decided last: by then it is known what else stays.
    closure.follow();
    for left in selection.left_out.iter().filter(|left| left.may_be_needed) {
        closure.omit_if_unused(left);
    }
    closure.follow();
    let reasons = closure.reasons;
    archive
        .entries
        .iter()
        .filter_map(|entry| {
            let (reason, is_by_rule) = reasons.get(&entry.dump_id)?;
            Some(Omitted {
                dump_id: entry.dump_id,
                catalog_id: entry.catalog_id,
                kind: entry.desc.lossy().into_owned(),
                object: entry.describe(),
                reason: reason.clone(),
                is_by_rule: *is_by_rule,
            })
        })
        .collect()
}

struct Closure<'a> {
    archive: &'a Archive,
    by_dump_id: HashMap<i32, &'a Entry>,
    /// Why, and whether a rule says so.
    reasons: HashMap<i32, (String, bool)>,
}

impl<'a> Closure<'a> {
    fn new(archive: &'a Archive, selection: &Selection) -> Closure<'a> {
        let there: HashSet<CatalogId> = archive
            .entries
            .iter()
            .map(|entry| entry.catalog_id)
            .collect();
        let mut matched: HashMap<CatalogId, &LeftOut> = HashMap::new();
        for left in selection.left_out.iter().filter(|left| !left.may_be_needed) {
            let id = match left.holder {
                Some(holder) if !there.contains(&id_of(left)) => id_of_pair(holder),
                _ => id_of(left),
            };
            // A rule is the better reason.
            let known = matched.entry(id).or_insert(left);
            if left.is_by_rule {
                *known = left;
            }
        }
        let mut closure = Closure {
            archive,
            by_dump_id: archive
                .entries
                .iter()
                .map(|entry| (entry.dump_id, entry))
                .collect(),
            reasons: HashMap::new(),
        };
        for entry in &archive.entries {
            if let Some(left) = matched.get(&entry.catalog_id) {
                closure
                    .reasons
                    .insert(entry.dump_id, (left.reason.clone(), left.is_by_rule));
            } else if let Some(schema) = left_out_schema(entry, &selection.schemas) {
                let reason = format!("schema {} is left out", quote_ident(schema));
                closure.reasons.insert(entry.dump_id, (reason, true));
            }
        }
        closure
    }

    /// Entries come after what they need, but for a few circles: until nothing is new.
    fn follow(&mut self) {
        loop {
            let before = self.reasons.len();
            for entry in &self.archive.entries {
                if self.reasons.contains_key(&entry.dump_id) {
                    continue;
                }
                let missing = entry
                    .deps
                    .iter()
                    .filter_map(|id| self.by_dump_id.get(id))
                    .find(|needed| {
                        self.reasons.contains_key(&needed.dump_id) && is_needed(entry, needed)
                    });
                if let Some(missing) = missing {
                    let reason = format!("needs {}", missing.describe());
                    self.reasons.insert(entry.dump_id, (reason, false));
                }
            }
            if self.reasons.len() == before {
                return;
            }
        }
    }

    /// A sequence whose table is left out goes with it, unless a column of another table takes its values from it.
    fn omit_if_unused(&mut self, left: &LeftOut) {
        let id = id_of(left);
        let Some(sequence) = self
            .archive
            .entries
            .iter()
            .find(|entry| entry.catalog_id == id && entry.desc == "SEQUENCE")
        else {
            return;
        };
        let is_used = self.archive.entries.iter().any(|entry| {
            let is_about_it = matches!(
                &*entry.desc.lossy(),
                "SEQUENCE OWNED BY" | "ACL" | "COMMENT" | "SECURITY LABEL" | "SEQUENCE SET"
            );
            !is_about_it
                && !self.reasons.contains_key(&entry.dump_id)
                && entry.deps.contains(&sequence.dump_id)
        });
        if !is_used {
            self.reasons
                .insert(sequence.dump_id, (left.reason.clone(), true));
            return;
        }
        // It stays, and belongs to nobody: this entry does not say that it needs the table too.
        for entry in &self.archive.entries {
            if entry.desc == "SEQUENCE OWNED BY" && entry.deps.contains(&sequence.dump_id) {
                self.reasons
                    .insert(entry.dump_id, (left.reason.clone(), false));
            }
        }
    }
}

fn id_of(left: &LeftOut) -> CatalogId {
    id_of_pair((left.catalog, left.oid))
}

fn id_of_pair((tableoid, oid): (Oid, Oid)) -> CatalogId {
    CatalogId { tableoid, oid }
}

fn left_out_schema<'s>(
    entry: &Entry,
    schemas: &'s std::collections::BTreeSet<String>,
) -> Option<&'s str> {
    let namespace = std::str::from_utf8(entry.namespace.as_bytes()).ok()?;
    schemas.get(namespace).map(String::as_str)
}

/// That a table owns a sequence does not mean that the sequence needs the table.
fn is_needed(entry: &Entry, needed: &Entry) -> bool {
    !(entry.desc == "SEQUENCE" && (needed.desc == "TABLE" || needed.desc == "FOREIGN TABLE"))
}

/// Whether these relations and constraints are among what is left out.
pub fn ids(omitted: &[Omitted]) -> HashSet<CatalogId> {
    omitted
        .iter()
        .map(|omitted| omitted.catalog_id)
        .filter(|id| id.oid != 0)
        .collect()
}
