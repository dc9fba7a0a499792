//! Functions, aggregates, procedures, operators and what is made of them. Pure: queries only.

use super::dialect::{Dialect, IS_USERS, is_no_member, qualified, quoted, sorted};
use super::section::Section;

pub fn sections(d: &Dialect) -> Vec<Section> {
    vec![
        functions(d),
        operators(d),
        operator_classes(d),
        casts(d),
        conversions(d),
        event_triggers(d),
    ]
}

/// A function by its OID, in words that do not depend on the search path: `regprocedure` quotes by keyword lists.
fn function(oid: &str) -> String {
    format!(
        "(SELECT {} || '(' || oidvectortypes(fp.proargtypes) || ')' FROM pg_proc fp \
             JOIN pg_namespace fn ON fn.oid = fp.pronamespace WHERE fp.oid = {oid})",
        qualified("fn.nspname", "fp.proname")
    )
}

fn functions(d: &Dialect) -> Section {
    let kind = d.either(
        11,
        "p.prokind::text",
        "CASE WHEN p.proisagg THEN 'a' WHEN p.proiswindow THEN 'w' ELSE 'f' END",
    );
    let aggregate = format!(
        "(SELECT concat_ws(', ', g.aggkind, g.aggnumdirectargs, {transition}, {finish}, {combine}, {moving}, \
             format_type(g.aggtranstype, NULL), g.agginitval, g.aggminitval, g.aggfinalextra, g.aggmfinalextra, \
             CASE WHEN g.aggsortop <> 0 THEN (SELECT so.oprname FROM pg_operator so WHERE so.oid = g.aggsortop) END) \
         FROM pg_aggregate g WHERE g.aggfnoid = p.oid)",
        transition = function("g.aggtransfn"),
        finish = function("g.aggfinalfn"),
        combine = function("g.aggcombinefn"),
        moving = function("g.aggmtransfn"),
    );
    let support = match d.both_since(12) {
        true => function("p.prosupport"),
        false => "NULL".to_owned(),
    };
    let select = format!(
        "SELECT {name} || '(' || oidvectortypes(p.proargtypes) || ')' AS name, NULL::text, p.tableoid || ':' || p.oid, {kind}, \
             pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), \
             (SELECT l.lanname FROM pg_language l WHERE l.oid = p.prolang), p.prosrc, p.probin, {body}, {aggregate}, \
             p.provolatile, p.proisstrict, p.prosecdef, p.proleakproof, p.proparallel, p.procost, p.prorows, \
             {settings}, {support}, pg_get_userbyid(p.proowner), {privileges}, obj_description(p.oid, 'pg_proc') \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
         WHERE {IS_USERS} AND {no_member} AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass \
             AND i.objid = p.oid AND i.deptype = 'i')",
        name = qualified("n.nspname", "p.proname"),
        body = d.either(14, "pg_get_function_sqlbody(p.oid)", "NULL"),
        settings = sorted("p.proconfig"),
        privileges = d.privileges("p.proacl", 'f', "p.proowner"),
        no_member = is_no_member("pg_proc", "p.oid"),
    );
    let properties = &[
        "kind",
        "arguments",
        "result",
        "language",
        "source",
        "library",
        "body",
        "aggregate",
        "volatility",
        "strict",
        "security definer",
        "leakproof",
        "parallel",
        "cost",
        "rows",
        "settings",
        "support",
        "owner",
        "privileges",
        "comment",
    ];
    Section::new(d, "function", properties, &select)
}

fn operators(d: &Dialect) -> Section {
    let other = |oid: &str| {
        format!(
            "(SELECT {} FROM pg_operator oo JOIN pg_namespace oon ON oon.oid = oo.oprnamespace WHERE oo.oid = {oid})",
            qualified("oon.nspname", "oo.oprname")
        )
    };
    let select = format!(
        // A prefix operator has no left side; before 14 there are postfix ones.
        "SELECT {name} || '(' || coalesce(format_type(nullif(o.oprleft, 0), NULL), 'NONE') || ', ' \
                 || coalesce(format_type(nullif(o.oprright, 0), NULL), 'NONE') || ')' AS name, NULL::text, o.tableoid || ':' || o.oid, {code}, {commutator}, {negator}, \
             {restrict}, {join}, o.oprcanhash, o.oprcanmerge, pg_get_userbyid(o.oprowner), \
             obj_description(o.oid, 'pg_operator') \
         FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE {IS_USERS} AND o.oprcode <> 0 AND {no_member}",
        name = qualified("n.nspname", "o.oprname"),
        code = function("o.oprcode"),
        commutator = other("o.oprcom"),
        negator = other("o.oprnegate"),
        restrict = function("o.oprrest"),
        join = function("o.oprjoin"),
        no_member = is_no_member("pg_operator", "o.oid"),
    );
    let properties = &[
        "function",
        "commutator",
        "negator",
        "restriction estimator",
        "join estimator",
        "hashes",
        "merges",
        "owner",
        "comment",
    ];
    Section::new(d, "operator", properties, &select)
}

fn operator_classes(d: &Dialect) -> Section {
    let members = "(SELECT string_agg(m.word, ', ' ORDER BY m.word) FROM (\
             SELECT (ao.amopstrategy || ' ' || o.oprname || ' ' || ao.amoppurpose::text) COLLATE \"C\" AS word \
             FROM pg_amop ao JOIN pg_operator o ON o.oid = ao.amopopr WHERE ao.amopfamily = k.opcfamily \
             UNION ALL SELECT (ap.amprocnum || ' ' || f.proname) COLLATE \"C\" FROM pg_amproc ap \
             JOIN pg_proc f ON f.oid = ap.amproc WHERE ap.amprocfamily = k.opcfamily) m)";
    let select = format!(
        "SELECT {name} || ' USING ' || am.amname AS name, NULL::text, k.tableoid || ':' || k.oid, {family}, format_type(k.opcintype, NULL), \
             k.opcdefault, CASE WHEN k.opckeytype <> 0 THEN format_type(k.opckeytype, NULL) END, {members}, \
             pg_get_userbyid(k.opcowner), obj_description(k.oid, 'pg_opclass') \
         FROM pg_opclass k JOIN pg_namespace n ON n.oid = k.opcnamespace JOIN pg_am am ON am.oid = k.opcmethod \
             JOIN pg_opfamily y ON y.oid = k.opcfamily JOIN pg_namespace yn ON yn.oid = y.opfnamespace \
         WHERE {IS_USERS} AND {no_member}",
        name = qualified("n.nspname", "k.opcname"),
        family = qualified("yn.nspname", "y.opfname"),
        no_member = is_no_member("pg_opclass", "k.oid"),
    );
    let properties = &[
        "family", "type", "default", "key type", "members", "owner", "comment",
    ];
    Section::new(d, "operator class", properties, &select)
}

/// Casts have no schema: those made by initdb have OIDs below the first normal one. A range makes one to its multirange.
fn casts(d: &Dialect) -> Section {
    let select = format!(
        "SELECT format_type(k.castsource, NULL) || ' AS ' || format_type(k.casttarget, NULL) AS name, NULL::text, k.tableoid || ':' || k.oid, \
             {function}, k.castcontext, k.castmethod, obj_description(k.oid, 'pg_cast') \
         FROM pg_cast k WHERE k.oid >= 16384 AND {no_member} AND NOT EXISTS (SELECT FROM pg_depend i \
             WHERE i.classid = 'pg_cast'::regclass AND i.objid = k.oid AND i.deptype = 'i')",
        function = function("k.castfunc"),
        no_member = is_no_member("pg_cast", "k.oid"),
    );
    let properties = &["function", "context", "method", "comment"];
    Section::new(d, "cast", properties, &select)
}

fn conversions(d: &Dialect) -> Section {
    let select = format!(
        "SELECT {name} AS name, NULL::text, k.tableoid || ':' || k.oid, pg_encoding_to_char(k.conforencoding), pg_encoding_to_char(k.contoencoding), \
             {function}, k.condefault, pg_get_userbyid(k.conowner), obj_description(k.oid, 'pg_conversion') \
         FROM pg_conversion k JOIN pg_namespace n ON n.oid = k.connamespace WHERE {IS_USERS} AND {no_member}",
        name = qualified("n.nspname", "k.conname"),
        function = function("k.conproc"),
        no_member = is_no_member("pg_conversion", "k.oid"),
    );
    let properties = &["from", "to", "function", "default", "owner", "comment"];
    Section::new(d, "conversion", properties, &select)
}

fn event_triggers(d: &Dialect) -> Section {
    let select = format!(
        "SELECT {name} AS name, NULL::text, t.tableoid || ':' || t.oid, t.evtevent, {function}, t.evtenabled, {tags}, pg_get_userbyid(t.evtowner), \
             obj_description(t.oid, 'pg_event_trigger') \
         FROM pg_event_trigger t WHERE {no_member}",
        name = quoted("t.evtname"),
        function = function("t.evtfoid"),
        tags = sorted("t.evttags"),
        no_member = is_no_member("pg_event_trigger", "t.oid"),
    );
    let properties = &["event", "function", "enabled", "tags", "owner", "comment"];
    Section::new(d, "event trigger", properties, &select)
}
