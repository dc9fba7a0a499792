//! What has no rows: the database itself, schemas, extensions, types, text search, foreign servers, publications, default
//! privileges. Pure: queries only. No statement here reads a password: options of user mappings and conninfos of
//! subscriptions are left alone.

use super::dialect::{Dialect, IS_USERS, is_no_member, qualified, quoted, sorted};
use super::section::Section;

/// Kinds that others belong to.
pub fn first(d: &Dialect) -> Vec<Section> {
    vec![
        database(d),
        settings(d),
        schemas(d),
        extensions(d),
        types(d),
        collations(d),
    ]
}

pub fn last(d: &Dialect) -> Vec<Section> {
    vec![
        text_search(d, "text search configuration"),
        text_search(d, "text search dictionary"),
        languages(d),
        foreign_data(d),
        publications(d),
        subscriptions(d),
        default_privileges(d),
    ]
}

/// The kinds that are about the database and not about what is in it: partly decided by whoever made the target.
pub const OF_DATABASE: [&str; 2] = ["database", "database setting"];

/// The two that are compared, whatever their names.
fn database(d: &Dialect) -> Section {
    let locale = d.common(15, d.either(17, "b.datlocale", "b.daticulocale"));
    let select = format!(
        "SELECT 'itself' AS name, NULL::text, NULL::text, pg_get_userbyid(b.datdba), {privileges}, \
             shobj_description(b.oid, 'pg_database'), t.spcname, pg_encoding_to_char(b.encoding), b.datcollate, b.datctype, \
             {provider}, {locale}, {rules}, b.datconnlimit \
         FROM pg_database b JOIN pg_tablespace t ON t.oid = b.dattablespace WHERE b.datname = current_database()",
        privileges = d.privileges("b.datacl", 'd', "b.datdba"),
        provider = d.common(15, "b.datlocprovider::text"),
        rules = d.common(16, "b.daticurules"),
    );
    let properties = &[
        "owner",
        "privileges",
        "comment",
        "tablespace",
        "encoding",
        "collation",
        "character type",
        "locale provider",
        "locale",
        "collation rules",
        "connection limit",
    ];
    Section::new(d, OF_DATABASE[0], properties, &select)
}

/// What ALTER DATABASE .. SET and ALTER ROLE .. IN DATABASE .. SET have set.
fn settings(d: &Dialect) -> Section {
    let select = format!(
        "SELECT coalesce('of role ' || {role} || ': ', '') || split_part(s.setting, '=', 1) AS name, NULL::text, NULL::text, \
             substr(s.setting, strpos(s.setting, '=') + 1) \
         FROM pg_db_role_setting v CROSS JOIN LATERAL unnest(v.setconfig) AS s(setting) \
             LEFT JOIN pg_roles r ON r.oid = v.setrole \
         WHERE v.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND (v.setrole = 0 OR r.rolname IS NOT NULL)",
        role = quoted("r.rolname")
    );
    Section::new(d, OF_DATABASE[1], &["value"], &select)
}

/// Who owns "public" by default has changed in 15.
fn schemas(d: &Dialect) -> Section {
    let owner = match d.both_since(15) || d.both_before(15) {
        true => "pg_get_userbyid(n.nspowner)",
        false => "CASE WHEN n.nspname <> 'public' THEN pg_get_userbyid(n.nspowner) END",
    };
    let select = format!(
        "SELECT {name} AS name, NULL::text, n.tableoid || ':' || n.oid, {owner}, {privileges}, obj_description(n.oid, 'pg_namespace') \
         FROM pg_namespace n WHERE {IS_USERS} AND {no_member}",
        name = quoted("n.nspname"),
        privileges = d.privileges("n.nspacl", 'n', "n.nspowner"),
        no_member = is_no_member("pg_namespace", "n.oid"),
    );
    Section::new(d, "schema", &["owner", "privileges", "comment"], &select)
}

/// Another major comes with other versions, and other comments.
fn extensions(d: &Dialect) -> Section {
    let (version, comment) = match d.is_same_major() {
        true => ("x.extversion", "obj_description(x.oid, 'pg_extension')"),
        false => ("NULL", "NULL"),
    };
    let select = format!(
        "SELECT {name} AS name, NULL::text, x.tableoid || ':' || x.oid, {schema}, {version}, {comment} \
         FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace",
        name = quoted("x.extname"),
        schema = quoted("n.nspname"),
    );
    Section::new(d, "extension", &["schema", "version", "comment"], &select)
}

/// Enums, domains, ranges, base and composite types; no array, no row type of a table, no multirange of a range.
fn types(d: &Dialect) -> Section {
    let labels = "(SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e \
         WHERE e.enumtypid = t.oid)";
    let multirange = d.common(14, "format_type(g.rngmultitypid, NULL)");
    let range = format!(
        "(SELECT concat_ws(', ', format_type(g.rngsubtype, NULL), (SELECT k.opcname FROM pg_opclass k \
             WHERE k.oid = g.rngsubopc), (SELECT l.collname FROM pg_collation l WHERE l.oid = g.rngcollation), \
             nullif(g.rngcanonical::oid, 0)::regproc, nullif(g.rngsubdiff::oid, 0)::regproc, {multirange}) \
         FROM pg_range g WHERE g.rngtypid = t.oid)"
    );
    let base = "CASE WHEN t.typtype = 'b' THEN concat_ws(', ', t.typlen, t.typbyval, t.typcategory, t.typispreferred, \
         t.typdelim, t.typinput::text, t.typoutput::text, t.typreceive::text, t.typsend::text, t.typmodin::text, \
         t.typalign, t.typstorage, CASE WHEN t.typelem <> 0 THEN format_type(t.typelem, NULL) END) END";
    let collation = "CASE WHEN t.typtype = 'd' THEN (SELECT l.collname FROM pg_collation l WHERE l.oid = t.typcollation) END";
    let select = format!(
        "SELECT {name} AS name, NULL::text, t.tableoid || ':' || t.oid, t.typtype, {labels}, \
             CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END, {collation}, \
             t.typnotnull, pg_get_expr(t.typdefaultbin, 0), {range}, {base}, pg_get_userbyid(t.typowner), {privileges}, \
             obj_description(t.oid, 'pg_type') \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
         WHERE {IS_USERS} AND (t.typtype IN ('d', 'e', 'r') OR t.typtype = 'c' AND c.relkind = 'c' \
                 OR t.typtype IN ('b', 'p') AND NOT EXISTS (SELECT FROM pg_type el WHERE el.typarray = t.oid)) \
             AND {no_member}",
        name = qualified("n.nspname", "t.typname"),
        privileges = d.privileges("t.typacl", 'T', "t.typowner"),
        no_member = is_no_member("pg_type", "t.oid"),
    );
    let properties = &[
        "kind",
        "labels",
        "base type",
        "collation",
        "not null",
        "default",
        "range",
        "base",
        "owner",
        "privileges",
        "comment",
    ];
    Section::new(d, "type", properties, &select).relation()
}

/// By names of locales: versions of the libraries differ with the host.
fn collations(d: &Dialect) -> Section {
    let locale = match (d.since(17), d.since(15)) {
        (true, _) => "concat_ws(', ', l.collcollate, l.collctype, l.colllocale)",
        (_, true) => "concat_ws(', ', l.collcollate, l.collctype, l.colliculocale)",
        // ICU's locale was in both columns.
        _ => {
            "CASE WHEN l.collprovider = 'i' THEN l.collcollate ELSE concat_ws(', ', l.collcollate, l.collctype) END"
        }
    };
    let select = format!(
        "SELECT {name} AS name, NULL::text, l.tableoid || ':' || l.oid, l.collprovider, {locale}, {deterministic}, {rules}, \
             pg_get_userbyid(l.collowner), obj_description(l.oid, 'pg_collation') \
         FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE {IS_USERS} AND {no_member}",
        name = qualified("n.nspname", "l.collname"),
        deterministic = d.common(12, "l.collisdeterministic::text"),
        rules = d.common(16, "l.collicurules"),
        no_member = is_no_member("pg_collation", "l.oid"),
    );
    let properties = &[
        "provider",
        "locale",
        "deterministic",
        "rules",
        "owner",
        "comment",
    ];
    Section::new(d, "collation", properties, &select)
}

fn text_search(d: &Dialect, kind: &'static str) -> Section {
    let properties = &["definition", "owner", "comment"];
    let select = match kind {
        "text search configuration" => {
            // Names of token types, as numbers are the parser's.
            let mappings = "(SELECT string_agg(w.word, '; ' ORDER BY w.word) FROM (\
                     SELECT (tt.alias || ': ' || string_agg(di.dictname, ', ' ORDER BY m.mapseqno)) COLLATE \"C\" AS word \
                     FROM pg_ts_config_map m JOIN pg_ts_dict di ON di.oid = m.mapdict \
                         JOIN ts_token_type(k.cfgparser) tt ON tt.tokid = m.maptokentype \
                     WHERE m.mapcfg = k.oid GROUP BY tt.alias) w)";
            format!(
                "SELECT {name} AS name, NULL::text, k.tableoid || ':' || k.oid, (SELECT r.prsname FROM pg_ts_parser r WHERE r.oid = k.cfgparser) \
                         || ': ' || coalesce({mappings}, ''), pg_get_userbyid(k.cfgowner), \
                     obj_description(k.oid, 'pg_ts_config') \
                 FROM pg_ts_config k JOIN pg_namespace n ON n.oid = k.cfgnamespace WHERE {IS_USERS} AND {no_member}",
                name = qualified("n.nspname", "k.cfgname"),
                no_member = is_no_member("pg_ts_config", "k.oid"),
            )
        }
        _ => format!(
            "SELECT {name} AS name, NULL::text, k.tableoid || ':' || k.oid, (SELECT e.tmplname FROM pg_ts_template e WHERE e.oid = k.dicttemplate) \
                     || ': ' || coalesce(k.dictinitoption, ''), pg_get_userbyid(k.dictowner), \
                 obj_description(k.oid, 'pg_ts_dict') \
             FROM pg_ts_dict k JOIN pg_namespace n ON n.oid = k.dictnamespace WHERE {IS_USERS} AND {no_member}",
            name = qualified("n.nspname", "k.dictname"),
            no_member = is_no_member("pg_ts_dict", "k.oid"),
        ),
    };
    Section::new(d, kind, properties, &select)
}

fn languages(d: &Dialect) -> Section {
    let select = format!(
        "SELECT {name} AS name, NULL::text, l.tableoid || ':' || l.oid, l.lanpltrusted, pg_get_userbyid(l.lanowner), {privileges}, \
             obj_description(l.oid, 'pg_language') \
         FROM pg_language l WHERE l.oid >= 16384 AND {no_member}",
        name = quoted("l.lanname"),
        privileges = d.privileges("l.lanacl", 'l', "l.lanowner"),
        no_member = is_no_member("pg_language", "l.oid"),
    );
    let properties = &["trusted", "owner", "privileges", "comment"];
    Section::new(d, "language", properties, &select)
}

/// Wrappers and servers by what they are made of; of user mappings only that they are there.
fn foreign_data(d: &Dialect) -> Section {
    let select = format!(
        "SELECT 'wrapper ' || {wrapper} AS name, NULL::text, NULL::text, {wrapper_options}, pg_get_userbyid(w.fdwowner), \
             {wrapper_privileges}, obj_description(w.oid, 'pg_foreign_data_wrapper') \
         FROM pg_foreign_data_wrapper w WHERE {wrapper_no_member} \
         UNION ALL SELECT 'server ' || {server}, NULL, NULL, concat_ws('; ', (SELECT w.fdwname FROM pg_foreign_data_wrapper w \
                 WHERE w.oid = s.srvfdw), s.srvtype, s.srvversion, {server_options}), pg_get_userbyid(s.srvowner), \
             {server_privileges}, obj_description(s.oid, 'pg_foreign_server') \
         FROM pg_foreign_server s WHERE {server_no_member} \
         UNION ALL SELECT 'user mapping of ' || {user} || ' for ' || {mapped_server}, NULL, NULL, NULL, NULL, NULL, NULL \
         FROM pg_user_mappings m",
        wrapper = quoted("w.fdwname"),
        wrapper_options = sorted("w.fdwoptions"),
        wrapper_privileges = d.privileges("w.fdwacl", 'F', "w.fdwowner"),
        wrapper_no_member = is_no_member("pg_foreign_data_wrapper", "w.oid"),
        server = quoted("s.srvname"),
        server_options = sorted("s.srvoptions"),
        server_privileges = d.privileges("s.srvacl", 'S', "s.srvowner"),
        server_no_member = is_no_member("pg_foreign_server", "s.oid"),
        user = quoted("m.usename"),
        mapped_server = quoted("m.srvname"),
    );
    let properties = &["definition", "owner", "privileges", "comment"];
    Section::new(d, "foreign data", properties, &select)
}

/// Without the one that a follow of ours has made on the source.
fn publications(d: &Dialect) -> Section {
    let relation = qualified("tn.nspname", "t.relname");
    let (columns, filter) = match d.since(15) {
        true => (
            format!(
                "coalesce(' (' || (SELECT string_agg({}, ', ' ORDER BY a.attnum) FROM pg_attribute a \
                     WHERE a.attrelid = t.oid AND a.attnum = ANY (r.prattrs::int2[])) || ')', '')",
                quoted("a.attname")
            ),
            "coalesce(' WHERE ' || pg_get_expr(r.prqual, t.oid), '')",
        ),
        false => ("''".to_owned(), "''"),
    };
    let tables = format!(
        "(SELECT string_agg(w.word, ', ' ORDER BY w.word) FROM (SELECT ({relation} || {columns} || {filter}) COLLATE \"C\" \
             AS word FROM pg_publication_rel r JOIN pg_class t ON t.oid = r.prrelid \
             JOIN pg_namespace tn ON tn.oid = t.relnamespace WHERE r.prpubid = p.oid) w)"
    );
    let schemas = match d.since(15) {
        true => format!(
            "(SELECT string_agg(w.word, ', ' ORDER BY w.word) FROM (SELECT {} COLLATE \"C\" AS word \
                 FROM pg_publication_namespace pn JOIN pg_namespace sn ON sn.oid = pn.pnnspid WHERE pn.pnpubid = p.oid) w)",
            quoted("sn.nspname")
        ),
        false => "NULL".to_owned(),
    };
    let select = format!(
        "SELECT {name} AS name, NULL::text, p.tableoid || ':' || p.oid, p.puballtables, {tables}, {schemas}, \
             concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END, \
                 CASE WHEN p.pubdelete THEN 'delete' END, {truncate}), {root}, pg_get_userbyid(p.pubowner), \
             obj_description(p.oid, 'pg_publication') \
         FROM pg_publication p WHERE {no_member} \
             AND coalesce(obj_description(p.oid, 'pg_publication'), '') NOT LIKE 'made by pgcopydb for replication slot%'",
        name = quoted("p.pubname"),
        truncate = d.common(11, "CASE WHEN p.pubtruncate THEN 'truncate' END"),
        root = d.common(13, "p.pubviaroot::text"),
        no_member = is_no_member("pg_publication", "p.oid"),
    );
    let properties = &[
        "all tables",
        "tables",
        "schemas",
        "actions",
        "via root",
        "owner",
        "comment",
    ];
    Section::new(d, "publication", properties, &select)
}

/// A copy never comes alive by itself, so whether it is enabled and which slot it uses differs on purpose.
fn subscriptions(d: &Dialect) -> Section {
    let select = format!(
        "SELECT {name} AS name, NULL::text, NULL::text, {publications}, pg_get_userbyid(s.subowner) \
         FROM pg_subscription s \
         WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        name = quoted("s.subname"),
        publications = sorted("s.subpublications"),
    );
    Section::new(d, "subscription", &["publications", "owner"], &select)
}

fn default_privileges(d: &Dialect) -> Section {
    // An entry for a schema adds to the default, one for all schemas replaces it.
    let select = format!(
        "SELECT {role} || coalesce(' in schema ' || {schema}, '') || ' on ' || CASE a.defaclobjtype WHEN 'r' THEN 'tables' \
                 WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' \
                 ELSE a.defaclobjtype::text END AS name, NULL::text, a.tableoid || ':' || a.oid, {privileges} \
         FROM pg_default_acl a LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace",
        role = quoted("pg_get_userbyid(a.defaclrole)"),
        schema = quoted("n.nspname"),
        privileges = d.privileges("a.defaclacl", 'c', "a.defaclrole"),
    );
    Section::new(d, "default privileges", &["privileges"], &select)
}
