//! The catalog queries. Each is one statement for the whole database; where majors 10 to 18 differ, a function of
//! the server's version writes it. They expect `search_path = pg_catalog` and work for any role: no pg_authid, no
//! pg_statistic, no contents of pg_largeobject.
//!
//! The order of the columns is what `fetch` and `target` read; change both together.

use super::fetch::FetchOptions;

/// Namespaces that are never the user's. `pgcopydb` is ours, on either side.
pub(super) const IN_USER_SCHEMA: &str =
    r"n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgcopydb')";

/// Whether relation `c` is a member of an extension.
const IS_EXTENSION_MEMBER: &str = "EXISTS (SELECT FROM pg_depend e
    WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0
      AND e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e')";

/// The tables and sequences whose rows an extension declares to be the user's.
fn extension_config(options: &FetchOptions) -> &'static str {
    if options.skip_extensions {
        return "SELECT 0::oid AS oid, ''::text AS condition WHERE false";
    }
    "SELECT u.oid, u.condition
    FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS u(oid, condition)"
}

/// How long a plan for these takes to compile is longer than it runs.
pub(super) const PREPARE_SESSION: &str = "SET LOCAL jit = off";

pub(super) fn tables(version: u32, options: &FetchOptions) -> String {
    let extension_config = extension_config(options);
    // A table that was dropped since the snapshot has no size any more; the COPY will say so by its name.
    let (bytes, pages) = if options.estimate_sizes {
        // An analyzed partitioned table has -1 pages.
        (
            "(greatest(c.relpages::int8, 0) + coalesce(toast.relpages, 0)) * current_setting('block_size')::int8",
            "greatest(c.relpages::int8, 0)",
        )
    } else {
        (
            "coalesce(pg_table_size(c.oid), 0)",
            "coalesce(pg_relation_size(c.oid, 'main'), 0) / current_setting('block_size')::int8",
        )
    };
    // The rows of one that is being detached are not among those of its parent any more.
    let is_attached = if version >= 14_00_00 {
        " AND NOT i.inhdetachpending"
    } else {
        ""
    };
    // Before 12 there is only heap, and relam is 0.
    let is_heap = if version >= 12_00_00 {
        "c.relam = (SELECT am.oid FROM pg_am am WHERE am.amname = 'heap')"
    } else {
        "true"
    };
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relfilenode,
    {bytes}, {pages},
    CASE WHEN c.reltuples > 0 OR (c.reltuples = 0 AND c.relpages > 0) THEN c.reltuples::int8 END,
    coalesce({is_heap}, false), c.relrowsecurity,
    CASE WHEN c.relispartition THEN (SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid{is_attached}) END,
    pg_get_userbyid(c.relowner), ts.spcname, config.oid IS NOT NULL, config.condition
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
    LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
    LEFT JOIN ({extension_config}) config ON config.oid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
    AND (config.oid IS NOT NULL OR NOT {IS_EXTENSION_MEMBER})
ORDER BY c.oid"
    )
}

/// Every column of every table that may hold rows; generated ones are told apart by the last field.
pub(super) fn columns(version: u32) -> String {
    let is_generated = if version >= 12_00_00 {
        "a.attgenerated <> ''"
    } else {
        "false"
    };
    format!(
        "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, {is_generated}
FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped
    AND c.relkind = 'r' AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
ORDER BY a.attrelid, a.attnum"
    )
}

/// One integer key per table to split by, the primary key where it is one. The column must hold no NULL, or a range
/// would miss its row: since 18 `attnotnull` may belong to a constraint that is NOT VALID.
pub(super) fn split_keys(version: u32) -> String {
    let key_columns = if version >= 11_00_00 {
        "i.indnkeyatts"
    } else {
        "i.indnatts"
    };
    let is_not_null_valid = if version >= 18_00_00 {
        "(i.indisprimary OR NOT EXISTS (SELECT FROM pg_constraint k
        WHERE k.conrelid = i.indrelid AND k.contype = 'n' AND NOT k.convalidated
          AND k.conkey[1] = a.attnum))"
    } else {
        "true"
    };
    format!(
        "SELECT DISTINCT ON (i.indrelid) i.indrelid, a.attname, a.atttypid
FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
    AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate AND i.indpred IS NULL
    AND {key_columns} = 1 AND a.attnotnull AND a.atttypid IN (20, 21, 23) AND {is_not_null_valid}
ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid"
    )
}

/// The indexes we build: those pg_dump would dump, without exclusion and WITHOUT OVERLAPS constraints, which cannot be
/// attached with USING INDEX and stay in post-data.
pub(super) fn indexes(version: u32) -> String {
    let is_without_overlaps = if version >= 18_00_00 {
        "coalesce(k.conperiod, false)"
    } else {
        "false"
    };
    format!(
        "SELECT i.indrelid, i.indexrelid, ic.relname, i.indisunique, i.indisprimary,
    pg_get_indexdef(i.indexrelid), i.indisclustered, i.indisreplident, ts.spcname,
    k.oid, k.conname, k.contype, k.condeferrable, k.condeferred
FROM pg_index i
    JOIN pg_class ic ON ic.oid = i.indexrelid
    JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_tablespace ts ON ts.oid = ic.reltablespace
    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
        AND k.contype IN ('p', 'u', 'x')
WHERE c.relkind = 'r' AND ic.relkind = 'i' AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
    AND i.indisvalid AND i.indisready
    AND k.contype IS DISTINCT FROM 'x' AND NOT {is_without_overlaps}
    AND NOT {IS_EXTENSION_MEMBER}"
    )
}

/// Statistics targets of expression columns; the statement that sets them exists since 11. NULL (since 17) or -1 is
/// the default.
pub(super) const INDEX_STATISTICS: &str = "SELECT a.attrelid, a.attnum, a.attstattarget
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relkind = 'i' AND a.attnum > 0 AND a.attstattarget >= 0
ORDER BY a.attrelid, a.attnum";

pub(super) const INDEX_EXTENSIONS: &str = "SELECT d.objid, x.extname
FROM pg_depend d
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'i'
    JOIN pg_extension x ON x.oid = d.refobjid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
ORDER BY d.objid, x.extname";

/// All sequences of the user: also those of identity and serial columns, and those an extension calls configuration.
pub(super) fn sequences(options: &FetchOptions) -> String {
    let extension_config = extension_config(options);
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relpersistence
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
    AND (NOT {IS_EXTENSION_MEMBER} OR c.oid IN (SELECT u.oid FROM ({extension_config}) u))
ORDER BY c.oid"
    )
}

pub(super) const EXTENSIONS: &str = "SELECT x.oid, x.extname, n.nspname, x.extversion,
    EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = 'pg_namespace'::regclass AND d.objid = x.extnamespace
            AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid AND d.deptype = 'e')
FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace
ORDER BY x.oid";

/// What an extension needs: others by its control file, and whose schema it was put into.
pub(super) const EXTENSION_REQUIREMENTS: &str = "SELECT DISTINCT x.oid, r.extname
FROM pg_extension x
    JOIN pg_depend d ON (d.classid = 'pg_extension'::regclass AND d.objid = x.oid)
        OR (d.classid = 'pg_namespace'::regclass AND d.objid = x.extnamespace AND d.deptype = 'e')
    JOIN pg_extension r ON r.oid = d.refobjid AND r.oid <> x.oid
WHERE d.refclassid = 'pg_extension'::regclass
ORDER BY x.oid, r.extname";

pub(super) const LARGE_OBJECTS: &str = "SELECT (SELECT count(*) FROM pg_largeobject_metadata),
    pg_relation_size('pg_largeobject'::regclass)";

pub(super) fn database(version: u32) -> String {
    let (provider, locale) = match version {
        17_00_00.. => ("d.datlocprovider", "d.datlocale"),
        15_00_00.. => ("d.datlocprovider", "d.daticulocale"),
        _ => ("'c'", "NULL"),
    };
    format!(
        "SELECT d.oid, d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding),
    d.datcollate, d.datctype, {provider}, {locale}, pg_is_in_recovery()
FROM pg_database d WHERE d.datname = current_database()"
    )
}

/// Settings of the database for everyone come first, then those of single roles.
pub(super) const DATABASE_SETTINGS: &str = "SELECT r.rolname, split_part(s.setting, '=', 1),
    substr(s.setting, strpos(s.setting, '=') + 1)
FROM pg_db_role_setting d
    CROSS JOIN LATERAL unnest(d.setconfig) WITH ORDINALITY AS s(setting, position)
    LEFT JOIN pg_roles r ON r.oid = d.setrole
WHERE d.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (d.setrole = 0 OR r.rolname IS NOT NULL)
ORDER BY d.setrole <> 0, r.rolname, s.position";

/// Owners, grantees, and roles that are named whatever is left out: of policies and user mappings. Default privileges are
/// owned by whom they are of, which goes with the privileges. The role that made the cluster (oid 10) is pinned and has no rows in
/// pg_shdepend, so whether it owns something is asked separately. What belongs to an extension is made by CREATE
/// EXTENSION and needs no owner of that name.
pub(super) const ROLES: &str = "WITH member AS (
    SELECT classid, objid FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
), owned AS (
    SELECT 'pg_class'::regclass::oid AS classid, oid AS objid FROM pg_class WHERE relowner = 10
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspowner = 10
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typowner = 10
)
SELECT r.rolname, bool_or(u.owns), bool_or(u.is_granted), bool_or(u.is_named) FROM pg_roles r JOIN (
    SELECT s.refobjid AS oid,
        s.deptype = 'o' AND s.classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) AS owns,
        s.deptype = 'a' OR s.classid = 'pg_default_acl'::regclass AS is_granted,
        s.deptype = 'r' OR s.deptype = 'o' AND s.classid = 'pg_user_mapping'::regclass AS is_named
    FROM pg_shdepend s
    WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND s.refclassid = 'pg_authid'::regclass AND s.deptype IN ('o', 'a', 'r')
      AND (s.deptype <> 'o' OR (s.classid, s.objid) NOT IN (SELECT classid, objid FROM member))
    UNION ALL
    SELECT 10, true, false, false WHERE EXISTS (SELECT FROM owned o WHERE o.objid >= 16384
      AND (o.classid, o.objid) NOT IN (SELECT classid, objid FROM member))) u ON u.oid = r.oid
GROUP BY r.rolname ORDER BY r.rolname";

pub(super) const TABLESPACES: &str = "SELECT DISTINCT ts.spcname
FROM pg_class c JOIN pg_tablespace ts ON ts.oid = c.reltablespace
WHERE c.relpersistence <> 't' AND ts.spcname <> 'pg_global'
ORDER BY ts.spcname";

/// What the target has under a table's name. A size of zero proves that it holds no rows; a partitioned or foreign
/// table has none to go by. A table that a foreign key refers to cannot be truncated: the user, or an earlier restore of
/// the post-data, may have made one.
pub(super) fn target_tables() -> String {
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind,
    c.relkind <> 'r' OR coalesce(pg_relation_size(c.oid, 'main'), 0) > 0,
    coalesce(has_table_privilege(c.oid, 'TRUNCATE'), false) AND c.oid NOT IN
        (SELECT confrelid FROM pg_constraint WHERE contype = 'f' AND confrelid <> conrelid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
ORDER BY c.oid"
    )
}

pub(super) fn target_columns() -> String {
    format!(
        "SELECT a.attrelid, a.attname
FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped
    AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}
ORDER BY a.attrelid, a.attnum"
    )
}

pub(super) fn target_indexes() -> String {
    format!(
        "SELECT n.nspname, ic.relname, c.relname, i.indexrelid, i.indisvalid AND i.indisready, k.conname
FROM pg_index i
    JOIN pg_class ic ON ic.oid = i.indexrelid
    JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
        AND k.contype IN ('p', 'u', 'x')
WHERE ic.relkind = 'i' AND c.relkind = 'r' AND c.relpersistence <> 't' AND {IN_USER_SCHEMA}"
    )
}

pub(super) const TARGET_ROLES: &str = "SELECT rolname FROM pg_roles ORDER BY rolname";

pub(super) const TARGET_TABLESPACES: &str = "SELECT spcname FROM pg_tablespace ORDER BY spcname";

pub(super) const TARGET_EXTENSIONS: &str =
    "SELECT name, default_version, installed_version FROM pg_available_extensions ORDER BY name";
