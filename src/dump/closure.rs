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
    let undecided = Undecided::new(archive, selection);
    for left in selection.left_out.iter().filter(|left| left.may_be_needed) {
        closure.omit_if_unused(left, &undecided);
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

/// Sequences that may be needed, and what depends on them: the archive is gone through once for all of them.
struct Undecided<'a> {
    sequences: HashMap<CatalogId, &'a Entry>,
    /// By the dump id of the sequence, in the order of the archive.
    dependents: HashMap<i32, Vec<&'a Entry>>,
}

impl<'a> Undecided<'a> {
    fn new(archive: &'a Archive, selection: &Selection) -> Undecided<'a> {
        let may_be_needed = selection.left_out.iter().filter(|left| left.may_be_needed);
        let asked: HashSet<CatalogId> = may_be_needed.map(id_of).collect();
        let is_asked =
            |entry: &&Entry| entry.desc == "SEQUENCE" && asked.contains(&entry.catalog_id);
        let sequences: HashMap<CatalogId, &Entry> = archive
            .entries
            .iter()
            .filter(is_asked)
            .map(|entry| (entry.catalog_id, entry))
            .collect();
        let mut dependents: HashMap<i32, Vec<&Entry>> = sequences
            .values()
            .map(|sequence| (sequence.dump_id, Vec::new()))
            .collect();
        for entry in &archive.entries {
            for needed in &entry.deps {
                if let Some(dependents) = dependents.get_mut(needed) {
                    dependents.push(entry);
                }
            }
        }
        Undecided {
            sequences,
            dependents,
        }
    }
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
    fn omit_if_unused(&mut self, left: &LeftOut, undecided: &Undecided<'_>) {
        let Some(sequence) = undecided.sequences.get(&id_of(left)) else {
            return;
        };
        let dependents = undecided.dependents.get(&sequence.dump_id);
        let dependents = dependents.map_or(&[][..], Vec::as_slice);
        let is_used = dependents.iter().any(|entry| {
            let is_about_it = matches!(
                &*entry.desc.lossy(),
                "SEQUENCE OWNED BY" | "ACL" | "COMMENT" | "SECURITY LABEL" | "SEQUENCE SET"
            );
            !is_about_it && !self.reasons.contains_key(&entry.dump_id)
        });
        if !is_used {
            self.reasons
                .insert(sequence.dump_id, (left.reason.clone(), true));
            return;
        }
        // It stays, and belongs to nobody: this entry does not say that it needs the table too.
        for entry in dependents {
            if entry.desc == "SEQUENCE OWNED BY" {
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::close;
    use crate::dump::archive::tests::golden;
    use crate::dump::archive::{CatalogId, Entry};
    use crate::filter::{LeftOut, Selection};

    const PG_CLASS: u32 = 1259;

    fn left_out(oid: u32, kind: &str, may_be_needed: bool) -> LeftOut {
        LeftOut {
            catalog: PG_CLASS,
            oid,
            kind: kind.to_owned(),
            name: String::new(),
            reason: "so said".to_owned(),
            may_be_needed,
            is_by_rule: true,
            holder: None,
        }
    }

    /// Tables with a serial column each, as pg_dump has them: what a rule that names a few tables leaves out. Each five
    /// thousandth sequence is needed by a table that stays.
    #[test]
    fn sequences_of_many_tables_are_decided_at_once() {
        const TABLES: i32 = 15_000;
        let mut archive = golden("15");
        let model = archive.entries.remove(0);
        archive.entries.clear();
        let mut put = |dump_id: i32, desc: &str, deps: &[i32]| {
            archive.entries.push(Entry {
                dump_id,
                desc: desc.into(),
                catalog_id: match desc {
                    "SEQUENCE OWNED BY" => CatalogId {
                        tableoid: 0,
                        oid: 0,
                    },
                    _ => CatalogId::relation(dump_id as u32),
                },
                namespace: "public".into(),
                deps: deps.into(),
                ..model.clone()
            });
        };
        let mut selection = Selection::default();
        for table in (1..=TABLES).map(|number| number * 10) {
            put(table, "TABLE", &[]);
            put(table + 1, "SEQUENCE", &[table]);
            put(table + 2, "SEQUENCE OWNED BY", &[table + 1]);
            put(table + 3, "DEFAULT", &[table, table + 1]);
            selection
                .left_out
                .push(left_out(table as u32, "TABLE", false));
            let sequence = left_out(table as u32 + 1, "SEQUENCE", true);
            selection.left_out.push(sequence);
            if table % 50_000 == 0 {
                put(table + 4, "TABLE", &[table + 1]);
            }
        }
        let started = Instant::now();
        let omitted = close(&archive, &selection);
        // One look through the archive for each takes minutes.
        assert!(started.elapsed() < Duration::from_secs(20));
        let count = |kind: &str| omitted.iter().filter(|it| it.kind == kind).count();
        assert_eq!(count("TABLE"), 15_000);
        assert_eq!(count("DEFAULT"), 15_000);
        assert_eq!(count("SEQUENCE"), 15_000 - 3);
        // What stays belongs to nobody.
        assert_eq!(count("SEQUENCE OWNED BY"), 15_000);
    }
}
