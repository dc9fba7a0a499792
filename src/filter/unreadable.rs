//! What needs a relation that is left out and that this role may not read. pg_dump is not shown such a relation, so its
//! archive does not say what needs it: the catalog of the source does. Read-only; one statement, whatever the number.

use super::resolve::{LeftOut, Selection, relation_kind};
use crate::error::Result;
use crate::ident::QualifiedName;
use crate::pg::wire::Connection;

/// Add what needs one of them directly. What needs that in turn is in the archive, and `dump::closure` follows it.
pub fn add_dependents(source: &mut Connection, selection: &mut Selection) -> Result<()> {
    if selection.unreadable_tables.is_empty() {
        return Ok(());
    }
    let oids: Vec<String> = selection
        .unreadable_tables
        .iter()
        .map(|(oid, _)| oid.to_string())
        .collect();
    for row in &source.query(&dependents_sql(&oids.join(", ")))? {
        let needed = QualifiedName::new(row.text(6)?, row.text(7)?);
        let kind = relation_kind(row.text(5)?).to_lowercase();
        selection.left_out.push(LeftOut {
            catalog: row.parse(0)?,
            oid: row.parse(1)?,
            kind: row.text(2)?.to_owned(),
            name: String::new(),
            reason: format!("needs {kind} {needed}"),
            may_be_needed: false,
            is_by_rule: false,
            holder: match (row.opt_parse(3)?, row.opt_parse(4)?) {
                (Some(catalog), Some(oid)) => Some((catalog, oid)),
                _ => None,
            },
        });
    }
    Ok(())
}

/// The row type of a relation, and an array of it, stand for the relation. Whatever is a part of something (the query of a
/// view, a column of a composite type) is told as pg_dump's archive has it; defaults and check constraints may have an
/// entry of their own there or not, so what holds them is told too. That sequences belong to a table is no need of theirs.
fn dependents_sql(oids: &str) -> String {
    format!(
        "WITH gone (classid, objid, relation) AS (
    SELECT 'pg_class'::regclass::oid, c.oid, c.oid FROM pg_class c WHERE c.oid IN ({oids})
    UNION ALL SELECT 'pg_type'::regclass, t.oid, t.typrelid FROM pg_type t WHERE t.typrelid IN ({oids})
    UNION ALL SELECT 'pg_type'::regclass, t.typarray, t.typrelid FROM pg_type t
        WHERE t.typrelid IN ({oids}) AND t.typarray <> 0)
SELECT DISTINCT
    CASE WHEN v.relkind IN ('v', 'm') THEN 'pg_class'::regclass::oid
         WHEN o.relkind = 'c' THEN 'pg_type'::regclass::oid ELSE d.classid END,
    CASE WHEN v.relkind IN ('v', 'm') THEN v.oid WHEN o.relkind = 'c' THEN o.reltype ELSE d.objid END,
    CASE WHEN o.relkind IN ('r', 'p') THEN 'TABLE' ELSE 'DEPENDENT' END,
    CASE WHEN a.oid IS NOT NULL OR k.conrelid <> 0 THEN 'pg_class'::regclass::oid
         WHEN k.contypid <> 0 THEN 'pg_type'::regclass::oid END,
    CASE WHEN a.oid IS NOT NULL THEN a.adrelid WHEN k.conrelid <> 0 THEN k.conrelid
         WHEN k.contypid <> 0 THEN k.contypid END,
    c.relkind, n.nspname, c.relname
FROM gone g
    JOIN pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid AND d.deptype <> 'e'
    JOIN pg_class c ON c.oid = g.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class o ON d.classid = 'pg_class'::regclass AND o.oid = d.objid
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    LEFT JOIN pg_class v ON v.oid = w.ev_class
    LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.contype <> 'f'
WHERE o.relkind IS DISTINCT FROM 'S'"
    )
}
