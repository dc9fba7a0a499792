//! One kind of object: its name, what is told of each, and the query that tells it. Pure. A query is written for the
//! server that will answer it, in words that mean the same on the other side's major.

use super::dialect::Dialect;
use super::{relations, routines, types};

/// A kind of object.
#[derive(Debug)]
pub struct Section {
    pub kind: &'static str,
    /// What is compared of each object, in the order of the query's columns after the first three.
    pub properties: &'static [&'static str],
    /// Columns: the object's name, unique within its kind and quoted the same by every major; the relation it belongs to,
    /// or NULL; its row in the catalogs as "tableoid:oid", or NULL; then the properties as text. In the order of the names' bytes.
    pub sql: String,
    /// Objects of other kinds may belong to it.
    pub is_relation: bool,
}

impl Section {
    /// `select` has the columns of `sql`, without the order.
    pub fn new(
        dialect: &Dialect,
        kind: &'static str,
        properties: &'static [&'static str],
        select: &str,
    ) -> Section {
        Section {
            kind,
            properties,
            sql: format!(
                "SELECT s.* FROM ({select}) s ORDER BY {}",
                dialect.order_of("s.name")
            ),
            is_relation: false,
        }
    }

    pub fn relation(self) -> Section {
        Section {
            is_relation: true,
            ..self
        }
    }
}

/// All kinds; relations come before what belongs to them, so that a missing table is told once.
pub fn all(dialect: &Dialect) -> Vec<Section> {
    let mut sections = types::first(dialect);
    sections.extend(relations::sections(dialect));
    sections.extend(routines::sections(dialect));
    sections.extend(types::last(dialect));
    sections
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Dialect;
    use super::all;

    /// Both sides' sections are compared one by one.
    #[test]
    fn every_major_tells_the_same_of_the_same_kinds() {
        let kinds = |version, other| {
            let sections = all(&Dialect::of(version, other, true));
            let told: Vec<_> = sections
                .iter()
                .map(|section| (section.kind, section.properties))
                .collect();
            told
        };
        for version in [10, 11, 12, 13, 14, 15, 16, 17, 18] {
            let version = version * 10_000;
            assert_eq!(kinds(version, 180_000), kinds(180_000, version));
        }
    }
}
