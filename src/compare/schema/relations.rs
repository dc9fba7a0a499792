//! Tables, views and what belongs to them: columns, indexes, constraints, triggers, rules, policies, statistics. Pure:
//! queries only.

use super::dialect::{Dialect, IS_USERS, is_no_member, qualified, quoted, sorted};
use super::section::Section;

pub fn sections(d: &Dialect) -> Vec<Section> {
    vec![
        tables(d),
        views(d, "view", 'v'),
        views(d, "materialized view", 'm'),
        foreign_tables(d),
        sequences(d),
        columns(d),
        indexes(d),
        constraints(d),
        triggers(d),
        rules(d),
        policies(d),
        statistics(d),
    ]
}

/// `FROM` and `WHERE` of relations of these kinds.
fn of_kinds(kinds: &str) -> String {
    format!(
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ({kinds}) AND c.relpersistence <> 't' AND {IS_USERS} AND {}",
        is_no_member("pg_class", "c.oid")
    )
}

fn relation_name() -> String {
    qualified("n.nspname", "c.relname")
}

/// Owner, privileges and comment of relation c.
fn belongings(d: &Dialect, acl_kind: char) -> String {
    format!(
        "pg_get_userbyid(c.relowner), {}, obj_description(c.oid, 'pg_class')",
        d.privileges("c.relacl", acl_kind, "c.relowner")
    )
}

fn tablespace() -> &'static str {
    "(SELECT ts.spcname FROM pg_tablespace ts WHERE ts.oid = c.reltablespace)"
}

fn tables(d: &Dialect) -> Section {
    // Before 12 there is only heap.
    let method = d.common(
        12,
        "(SELECT am.amname FROM pg_am am WHERE am.oid = c.relam)",
    );
    let parents = format!(
        "(SELECT string_agg({}, ', ' ORDER BY i.inhseqno) FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent \
             JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid)",
        qualified("pn.nspname", "p.relname")
    );
    let toast_options = format!(
        "(SELECT {} FROM pg_class t WHERE t.oid = c.reltoastrelid)",
        sorted("t.reloptions")
    );
    let select = format!(
        "SELECT {name} AS name, NULL::text, c.tableoid || ':' || c.oid, CASE c.relkind WHEN 'p' THEN 'partitioned' ELSE 'ordinary' END, \
             c.relpersistence, {method}, {options}, {toast_options}, {parents}, \
             pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid), \
             CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END, \
             c.relrowsecurity, c.relforcerowsecurity, c.relreplident, {tablespace}, {belongings} {from}",
        name = relation_name(),
        options = sorted("c.reloptions"),
        tablespace = tablespace(),
        belongings = belongings(d, 'r'),
        from = of_kinds("'r', 'p'"),
    );
    let properties = &[
        "kind",
        "persistence",
        "access method",
        "options",
        "TOAST options",
        "parents",
        "partition bound",
        "partition key",
        "type",
        "row security",
        "forced row security",
        "replica identity",
        "tablespace",
        "owner",
        "privileges",
        "comment",
    ];
    Section::new(d, "table", properties, &select).relation()
}

fn views(d: &Dialect, kind: &'static str, relkind: char) -> Section {
    let select = format!(
        "SELECT {name} AS name, NULL::text, c.tableoid || ':' || c.oid, pg_get_viewdef(c.oid), {options}, c.relispopulated, {tablespace}, \
             {belongings} {from}",
        name = relation_name(),
        options = sorted("c.reloptions"),
        tablespace = tablespace(),
        belongings = belongings(d, 'r'),
        from = of_kinds(&format!("'{relkind}'")),
    );
    let properties = &[
        "definition",
        "options",
        "populated",
        "tablespace",
        "owner",
        "privileges",
        "comment",
    ];
    Section::new(d, kind, properties, &select).relation()
}

fn foreign_tables(d: &Dialect) -> Section {
    let select = format!(
        "SELECT {name} AS name, NULL::text, c.tableoid || ':' || c.oid, (SELECT s.srvname FROM pg_foreign_table f JOIN pg_foreign_server s \
             ON s.oid = f.ftserver WHERE f.ftrelid = c.oid), \
             (SELECT {options} FROM pg_foreign_table f WHERE f.ftrelid = c.oid), \
             pg_get_expr(c.relpartbound, c.oid), {belongings} {from}",
        name = relation_name(),
        options = sorted("f.ftoptions"),
        belongings = belongings(d, 'r'),
        from = of_kinds("'f'"),
    );
    let properties = &[
        "server",
        "options",
        "partition bound",
        "owner",
        "privileges",
        "comment",
    ];
    Section::new(d, "foreign table", properties, &select).relation()
}

/// Their values are not in a snapshot, and are read elsewhere.
fn sequences(d: &Dialect) -> Section {
    let owned_by = format!(
        "(SELECT {} || '.' || {} FROM pg_depend o JOIN pg_class t ON t.oid = o.refobjid \
             JOIN pg_namespace tn ON tn.oid = t.relnamespace \
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = o.refobjsubid \
             WHERE o.classid = 'pg_class'::regclass AND o.objid = c.oid AND o.objsubid = 0 \
                 AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i') LIMIT 1)",
        qualified("tn.nspname", "t.relname"),
        quoted("a.attname")
    );
    let select = format!(
        "SELECT {name} AS name, NULL::text, c.tableoid || ':' || c.oid, format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, \
             q.seqmax, q.seqcache, q.seqcycle, {owned_by}, {persistence}, {belongings} {from}",
        name = relation_name(),
        persistence = d.common(15, "c.relpersistence::text"),
        belongings = belongings(d, 's'),
        from = of_kinds("'S'").replacen(
            " WHERE ",
            " JOIN pg_sequence q ON q.seqrelid = c.oid WHERE ",
            1
        ),
    );
    let properties = &[
        "type",
        "start",
        "increment",
        "minimum",
        "maximum",
        "cache",
        "cycle",
        "owned by",
        "persistence",
        "owner",
        "privileges",
        "comment",
    ];
    Section::new(d, "sequence", properties, &select).relation()
}

fn columns(d: &Dialect) -> Section {
    let generated = d.either(
        12,
        "CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END",
        "NULL",
    );
    let compression = d.common(14, "nullif(a.attcompression::text, '')");
    // Debian's 15.20 keeps an attribute version among the options (trap 55).
    let options = "(SELECT string_agg(u.v, ', ' ORDER BY u.v COLLATE \"C\") FROM unnest(a.attoptions) u(v) \
         WHERE u.v NOT LIKE 'pg\\_attver=%')";
    let collation = format!(
        "CASE WHEN a.attcollation <> t.typcollation THEN (SELECT {} FROM pg_collation l \
             JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = a.attcollation) END",
        qualified("ln.nspname", "l.collname")
    );
    let select = format!(
        "SELECT {relation} || '.' || {column} AS name, {relation} AS relation, NULL::text, \
             rank() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), {collation}, \
             a.attnotnull, pg_get_expr(f.adbin, f.adrelid), {generated}, nullif(a.attidentity::text, ''), \
             CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END, {compression}, \
             nullif(a.attstattarget::int, -1), {options}, {fdw_options}, {privileges}, m.description \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
             LEFT JOIN pg_description m ON m.classoid = 'pg_class'::regclass AND m.objoid = a.attrelid \
                 AND m.objsubid = a.attnum \
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') \
             AND c.relpersistence <> 't' AND {IS_USERS} AND {no_member}",
        relation = relation_name(),
        column = quoted("a.attname"),
        fdw_options = sorted("a.attfdwoptions"),
        privileges = d.privileges("a.attacl", 'c', "c.relowner"),
        no_member = is_no_member("pg_class", "c.oid"),
    );
    let properties = &[
        "position",
        "type",
        "collation",
        "not null",
        "default",
        "generated",
        "identity",
        "storage",
        "compression",
        "statistics target",
        "options",
        "foreign options",
        "privileges",
        "comment",
    ];
    Section::new(d, "column", properties, &select)
}

fn indexes(d: &Dialect) -> Section {
    // An index that is not valid on the source serves nobody and is not copied. A partitioned one is not until each
    // partition has its own.
    let is_wanted = match d.is_source() {
        true => "(i.indisvalid OR x.relkind = 'I')",
        false => "true",
    };
    let statistics = "(SELECT string_agg(a.attnum || ': ' || a.attstattarget, ', ' ORDER BY a.attnum) \
         FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attnum > 0 AND a.attstattarget >= 0)";
    let parent = format!(
        "(SELECT {} FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent \
             JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE h.inhrelid = x.oid)",
        qualified("pn.nspname", "p.relname")
    );
    let select = format!(
        "SELECT {index} AS name, {relation} AS relation, x.tableoid || ':' || x.oid, pg_get_indexdef(x.oid), i.indisvalid, i.indisclustered, \
             i.indisreplident, {parent}, {statistics}, \
             (SELECT ts.spcname FROM pg_tablespace ts WHERE ts.oid = x.reltablespace), obj_description(x.oid, 'pg_class') \
         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND {IS_USERS} AND {is_wanted} AND {no_member}",
        index = qualified("n.nspname", "x.relname"),
        relation = relation_name(),
        no_member = is_no_member("pg_class", "c.oid"),
    );
    let properties = &[
        "definition",
        "valid",
        "clustered",
        "replica identity",
        "parent",
        "statistics targets",
        "tablespace",
        "comment",
    ];
    Section::new(d, "index", properties, &select)
}

/// Of tables and of domains. Foreign keys that a partitioned table makes for its partitions are its own business, and
/// their names differ between majors. NOT NULL is compared with the column where one side has no constraint for it.
fn constraints(d: &Dialect) -> Section {
    let kinds = match d.both_since(18) {
        true => "'p', 'u', 'c', 'f', 'x', 'n'",
        false => "'p', 'u', 'c', 'f', 'x'",
    };
    let is_cloned = d.either(11, "k.contype = 'f' AND k.conparentid <> 0", "false");
    let of_table = format!(
        "SELECT {relation} || ' ' || {name} AS name, {relation} AS relation, k.tableoid || ':' || k.oid, pg_get_constraintdef(k.oid), \
             obj_description(k.oid, 'pg_constraint') \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE k.contype IN ({kinds}) AND NOT ({is_cloned}) AND c.relpersistence <> 't' AND {IS_USERS} AND {no_member}",
        relation = relation_name(),
        name = quoted("k.conname"),
        no_member = is_no_member("pg_class", "c.oid"),
    );
    let of_domain = format!(
        "SELECT {domain} || ' ' || {name}, {domain}, k.tableoid || ':' || k.oid, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint') \
         FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE k.contype = 'c' AND {IS_USERS} AND {no_member}",
        domain = qualified("n.nspname", "t.typname"),
        name = quoted("k.conname"),
        no_member = is_no_member("pg_type", "t.oid"),
    );
    Section::new(
        d,
        "constraint",
        &["definition", "comment"],
        &format!("{of_table} UNION ALL {of_domain}"),
    )
}

/// Without those that constraints and partitioned tables make. `EXECUTE PROCEDURE` is called so up to 11.
fn triggers(d: &Dialect) -> Section {
    let is_cloned = d.either(13, "t.tgparentid <> 0", "false");
    let select = format!(
        "SELECT {relation} || ' ' || {name} AS name, {relation} AS relation, t.tableoid || ':' || t.oid, \
             replace(pg_get_triggerdef(t.oid), ' EXECUTE PROCEDURE ', ' EXECUTE FUNCTION '), t.tgenabled, \
             obj_description(t.oid, 'pg_trigger') \
         FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT t.tgisinternal AND NOT ({is_cloned}) AND c.relpersistence <> 't' AND {IS_USERS} AND {no_member}",
        relation = relation_name(),
        name = quoted("t.tgname"),
        no_member = is_no_member("pg_class", "c.oid"),
    );
    Section::new(d, "trigger", &["definition", "enabled", "comment"], &select)
}

fn rules(d: &Dialect) -> Section {
    let select = format!(
        "SELECT {relation} || ' ' || {name} AS name, {relation} AS relation, r.tableoid || ':' || r.oid, pg_get_ruledef(r.oid), r.ev_enabled, \
             obj_description(r.oid, 'pg_rewrite') \
         FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE r.rulename <> '_RETURN' AND {IS_USERS} AND {no_member}",
        relation = relation_name(),
        name = quoted("r.rulename"),
        no_member = is_no_member("pg_class", "c.oid"),
    );
    Section::new(d, "rule", &["definition", "enabled", "comment"], &select)
}

fn policies(d: &Dialect) -> Section {
    let roles = format!(
        "(SELECT string_agg(w.word, ', ' ORDER BY w.word) FROM (SELECT CASE WHEN u.role = 0 THEN 'PUBLIC' ELSE {} END \
             COLLATE \"C\" AS word FROM unnest(p.polroles) u(role)) w)",
        quoted("pg_get_userbyid(u.role)")
    );
    let select = format!(
        "SELECT {relation} || ' ' || {name} AS name, {relation} AS relation, p.tableoid || ':' || p.oid, p.polcmd, p.polpermissive, {roles}, \
             pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), \
             obj_description(p.oid, 'pg_policy') \
         FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE {IS_USERS} AND {no_member}",
        relation = relation_name(),
        name = quoted("p.polname"),
        no_member = is_no_member("pg_class", "c.oid"),
    );
    let properties = &[
        "command",
        "permissive",
        "roles",
        "using",
        "check",
        "comment",
    ];
    Section::new(d, "policy", properties, &select)
}

/// By their parts: the definition's wording depends on what a major knows. MCV lists exist since 12, and an older dump
/// that names no kind gets them too.
fn statistics(d: &Dialect) -> Section {
    let kinds = match d.both_since(12) {
        true => "true",
        false => "u.kind <> 'm'",
    };
    let columns = format!(
        "(SELECT string_agg({}, ', ' ORDER BY a.attnum) FROM pg_attribute a \
             WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys::int2[]))",
        quoted("a.attname")
    );
    let target = d.common(13, "nullif(s.stxstattarget::int, -1)");
    let select = format!(
        "SELECT {name} AS name, NULL::text, s.tableoid || ':' || s.oid, {relation}, {columns}, {expressions}, \
             (SELECT string_agg(u.kind::text, '' ORDER BY u.kind::text COLLATE \"C\") FROM unnest(s.stxkind) u(kind) \
                 WHERE {kinds}), {target}, pg_get_userbyid(s.stxowner), \
             obj_description(s.oid, 'pg_statistic_ext') \
         FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace \
             JOIN pg_class c ON c.oid = s.stxrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace \
         WHERE {IS_USERS} AND {no_member}",
        name = qualified("n.nspname", "s.stxname"),
        relation = qualified("cn.nspname", "c.relname"),
        expressions = d.either(14, "pg_get_expr(s.stxexprs, s.stxrelid)", "NULL"),
        no_member = is_no_member("pg_statistic_ext", "s.oid"),
    );
    let properties = &[
        "table",
        "columns",
        "expressions",
        "kinds",
        "target",
        "owner",
        "comment",
    ];
    Section::new(d, "statistics", properties, &select)
}
