//! Two streams of objects in one order, merged: what is on one side only, and what differs. Pure, apart from reading.

use std::cmp::Ordering;
use std::collections::HashSet;

use serde::Serialize;

use crate::error::Result;

use super::SchemaReport;
use super::section::Section;
use super::wording::is_same;

/// An object as one server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub name: String,
    /// The table, view or type that it belongs to.
    pub relation: Option<String>,
    /// Its row in the catalogs: "tableoid:oid".
    pub id: Option<String>,
    pub values: Vec<Option<String>>,
}

/// Objects in the order of their names.
pub trait Stream {
    fn next(&mut self) -> Result<Option<Fact>>;
}

/// In what way an object differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum What {
    /// Only on the source.
    Missing,
    /// Only on the target.
    Extra,
    Differs {
        property: &'static str,
        source: Option<String>,
        target: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub kind: &'static str,
    pub name: String,
    #[serde(flatten)]
    pub what: What,
}

/// The comparison of one kind.
pub struct Comparison<'a> {
    pub section: &'a Section,
    /// As server_version_num, of the source and of the target.
    pub versions: (u32, u32),
    pub leaves_out: &'a dyn Fn(&str) -> bool,
    /// Relations that are on one side only: what belongs to them is told with them.
    pub missing_relations: &'a mut HashSet<String>,
    /// What the filters leave out on the source, by catalog row; and the names of relations among it.
    pub left_out: &'a HashSet<String>,
    pub left_out_relations: &'a mut HashSet<String>,
    pub report: &'a mut SchemaReport,
}

pub fn merge(
    left: &mut dyn Stream,
    right: &mut dyn Stream,
    comparison: &mut Comparison<'_>,
) -> Result<()> {
    let (mut ours, mut theirs) = (left.next()?, right.next()?);
    loop {
        let order = match (&ours, &theirs) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(ours), Some(theirs)) => ours.name.cmp(&theirs.name),
        };
        match (order, &ours, &theirs) {
            (Ordering::Equal, Some(source), Some(target)) => comparison.both(source, target),
            (_, Some(source), _) if order == Ordering::Less => comparison.one(source, true),
            (_, _, Some(target)) => comparison.one(target, false),
            _ => return Ok(()),
        }
        if order != Ordering::Greater {
            ours = left.next()?;
        }
        if order != Ordering::Less {
            theirs = right.next()?;
        }
    }
}

impl Comparison<'_> {
    /// Whether the filters leave out this object of the source, or what it belongs to.
    fn is_left_out(&mut self, fact: &Fact) -> bool {
        let is_ruled_out = fact
            .id
            .as_ref()
            .is_some_and(|id| self.left_out.contains(id));
        if is_ruled_out && self.section.is_relation {
            self.left_out_relations.insert(fact.name.clone());
        }
        is_ruled_out || self.belongs_to_left_out(fact)
    }

    fn belongs_to_left_out(&self, fact: &Fact) -> bool {
        let relation = fact.relation.as_ref();
        relation.is_some_and(|relation| self.left_out_relations.contains(relation))
    }

    fn both(&mut self, source: &Fact, target: &Fact) {
        if self.is_left_out(source) {
            return;
        }
        let kind = self.section.kind;
        let count = self.report.kinds.entry(kind).or_default();
        count.source += 1;
        count.target += 1;
        let values = source.values.iter().zip(&target.values);
        for (property, (ours, theirs)) in self.section.properties.iter().zip(values) {
            if ours == theirs || (self.leaves_out)(property) {
                continue;
            }
            if let (Some(ours), Some(theirs)) = (ours, theirs)
                && is_same(kind, property, ours, theirs, self.versions)
            {
                continue;
            }
            self.tell(
                &source.name,
                What::Differs {
                    property,
                    source: ours.clone(),
                    target: theirs.clone(),
                },
            );
        }
    }

    fn one(&mut self, fact: &Fact, is_source: bool) {
        let is_left_out = match is_source {
            true => self.is_left_out(fact),
            false => self.belongs_to_left_out(fact),
        };
        if is_left_out {
            return;
        }
        let count = self.report.kinds.entry(self.section.kind).or_default();
        let what = match is_source {
            true => {
                count.source += 1;
                What::Missing
            }
            false => {
                count.target += 1;
                What::Extra
            }
        };
        if self.section.is_relation {
            self.missing_relations.insert(fact.name.clone());
        }
        let relation = fact.relation.as_ref();
        if !relation.is_some_and(|relation| self.missing_relations.contains(relation)) {
            self.tell(&fact.name, what);
        }
    }

    fn tell(&mut self, name: &str, what: What) {
        self.report.differences.push(Difference {
            kind: self.section.kind,
            name: name.to_owned(),
            what,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct List(std::vec::IntoIter<Fact>);

    impl Stream for List {
        fn next(&mut self) -> Result<Option<Fact>> {
            Ok(self.0.next())
        }
    }

    fn list(facts: &[(&str, Option<&str>, &str)]) -> List {
        let facts: Vec<Fact> = facts
            .iter()
            .map(|(name, relation, value)| Fact {
                name: (*name).to_owned(),
                relation: relation.map(str::to_owned),
                id: None,
                values: vec![Some((*value).to_owned())],
            })
            .collect();
        List(facts.into_iter())
    }

    fn compare(
        is_relation: bool,
        source: &[(&str, Option<&str>, &str)],
        target: &[(&str, Option<&str>, &str)],
        missing: &mut HashSet<String>,
    ) -> SchemaReport {
        let section = Section {
            kind: "thing",
            properties: &["size"],
            sql: String::new(),
            is_relation,
        };
        let mut report = SchemaReport::default();
        let mut comparison = Comparison {
            section: &section,
            versions: (150_000, 150_000),
            leaves_out: &|_| false,
            missing_relations: missing,
            left_out: &HashSet::new(),
            left_out_relations: &mut HashSet::new(),
            report: &mut report,
        };
        merge(&mut list(source), &mut list(target), &mut comparison).unwrap();
        report
    }

    #[test]
    fn finds_what_is_missing_extra_and_different() {
        let report = compare(
            false,
            &[("a", None, "1"), ("b", None, "1"), ("d", None, "1")],
            &[("b", None, "2"), ("c", None, "1"), ("d", None, "1")],
            &mut HashSet::new(),
        );
        let found: Vec<_> = report
            .differences
            .iter()
            .map(|difference| (difference.name.as_str(), &difference.what))
            .collect();
        let differs = What::Differs {
            property: "size",
            source: Some("1".into()),
            target: Some("2".into()),
        };
        assert_eq!(
            found,
            [("a", &What::Missing), ("b", &differs), ("c", &What::Extra)]
        );
        let counts = report.kinds["thing"];
        assert_eq!((counts.source, counts.target), (3, 3));
    }

    #[test]
    fn a_missing_table_is_told_once() {
        let mut missing = HashSet::new();
        let tables = compare(true, &[("t", None, "1")], &[], &mut missing);
        assert_eq!(tables.differences.len(), 1);
        let columns = compare(
            false,
            &[("t.a", Some("t"), "1"), ("u.a", Some("u"), "1")],
            &[("u.a", Some("u"), "2")],
            &mut missing,
        );
        assert_eq!(columns.differences.len(), 1);
        assert_eq!(columns.differences[0].name, "u.a");
    }
}
