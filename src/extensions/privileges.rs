//! Privileges that the user gave or took on what belongs to an extension: the right to use a foreign-data wrapper, a
//! function that not everybody may call. `copy extensions` repeats them; a clone that creates extensions itself has them
//! in its archive.

use std::collections::HashMap;

use postgres::error::SqlState;

use crate::error::{Context, Result};
use crate::ident::{Oid, quote_ident};
use crate::pg::wire::Connection;

/// By the oid of the extension: the statements, those that take something first.
pub type Privileges = HashMap<Oid, Vec<String>>;

/// What the extension's own script said is in pg_init_privs, or else was the default. The owner's privileges come with
/// the object.
const CHANGED: &str = "WITH member AS (
    SELECT classid, objid, refobjid AS extension FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
), object AS (
    SELECT m.*, 0 AS subid, NULL::name AS column, 'ROUTINE' AS kind, o.proacl AS acl, o.proowner AS owner, acldefault('f', o.proowner) AS standard
    FROM member m JOIN pg_proc o ON m.classid = 'pg_proc'::regclass AND o.oid = m.objid
    UNION ALL SELECT m.*, 0, NULL, CASE o.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, o.relacl, o.relowner,
        acldefault(CASE o.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", o.relowner)
    FROM member m JOIN pg_class o ON m.classid = 'pg_class'::regclass AND o.oid = m.objid
    UNION ALL SELECT m.*, a.attnum, a.attname, 'TABLE', a.attacl, o.relowner, acldefault('c', o.relowner)
    FROM member m JOIN pg_class o ON m.classid = 'pg_class'::regclass AND o.oid = m.objid
        JOIN pg_attribute a ON a.attrelid = o.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL SELECT m.*, 0, NULL, 'TYPE', o.typacl, o.typowner, acldefault('T', o.typowner)
    FROM member m JOIN pg_type o ON m.classid = 'pg_type'::regclass AND o.oid = m.objid
    UNION ALL SELECT m.*, 0, NULL, 'SCHEMA', o.nspacl, o.nspowner, acldefault('n', o.nspowner)
    FROM member m JOIN pg_namespace o ON m.classid = 'pg_namespace'::regclass AND o.oid = m.objid
    UNION ALL SELECT m.*, 0, NULL, 'FOREIGN DATA WRAPPER', o.fdwacl, o.fdwowner, acldefault('F', o.fdwowner)
    FROM member m JOIN pg_foreign_data_wrapper o ON m.classid = 'pg_foreign_data_wrapper'::regclass AND o.oid = m.objid
    UNION ALL SELECT m.*, 0, NULL, 'FOREIGN SERVER', o.srvacl, o.srvowner, acldefault('S', o.srvowner)
    FROM member m JOIN pg_foreign_server o ON m.classid = 'pg_foreign_server'::regclass AND o.oid = m.objid
    UNION ALL SELECT m.*, 0, NULL, 'LANGUAGE', o.lanacl, o.lanowner, acldefault('l', o.lanowner)
    FROM member m JOIN pg_language o ON m.classid = 'pg_language'::regclass AND o.oid = m.objid
), changed AS (
    SELECT o.*, coalesce(o.acl, o.standard) AS now, coalesce(i.initprivs, o.standard) AS before
    FROM object o LEFT JOIN pg_init_privs i ON i.classoid = o.classid AND i.objoid = o.objid AND i.objsubid = o.subid
    WHERE o.acl IS DISTINCT FROM i.initprivs
)
SELECT c.extension, c.kind, (pg_identify_object(c.classid, c.objid, 0)).identity, d.is_given, d.privilege_type,
    d.is_grantable, r.rolname, c.column
FROM changed c CROSS JOIN LATERAL (
        (SELECT false AS is_given, grantee, privilege_type, is_grantable FROM aclexplode(c.before)
         EXCEPT SELECT false, grantee, privilege_type, is_grantable FROM aclexplode(c.now))
        UNION ALL
        (SELECT true, grantee, privilege_type, is_grantable FROM aclexplode(c.now)
         EXCEPT SELECT true, grantee, privilege_type, is_grantable FROM aclexplode(c.before))
    ) d
    LEFT JOIN pg_roles r ON r.oid = d.grantee
WHERE d.grantee <> c.owner AND (d.grantee = 0 OR r.rolname IS NOT NULL)
ORDER BY c.extension, d.is_given, c.kind, 3, c.subid, r.rolname, d.privilege_type";

pub fn fetch(source: &mut Connection) -> Result<Privileges> {
    let mut privileges = Privileges::new();
    source
        .query_each(CHANGED, &mut |row| {
            let grantee = row.opt_text(6)?.map_or("PUBLIC".to_string(), quote_ident);
            let (kind, name) = (row.text(1)?, row.text(2)?);
            let privilege = match row.opt_text(7)? {
                Some(column) => format!("{} ({})", row.text(4)?, quote_ident(column)),
                None => row.text(4)?.to_owned(),
            };
            let statement = match (row.bool(3)?, row.bool(5)?) {
                (false, _) => format!("REVOKE {privilege} ON {kind} {name} FROM {grantee}"),
                (true, false) => format!("GRANT {privilege} ON {kind} {name} TO {grantee}"),
                (true, true) => {
                    format!("GRANT {privilege} ON {kind} {name} TO {grantee} WITH GRANT OPTION")
                }
            };
            let statements = privileges.entry(row.parse(0)?).or_default();
            statements.push(statement);
            Ok(())
        })
        .context("could not read the privileges on what belongs to the source's extensions")?;
    Ok(privileges)
}

/// A role that the target lacks, or an object that the target's version of the extension lacks, costs that privilege.
const LEFT_OUT: &[SqlState] = &[
    SqlState::UNDEFINED_OBJECT,
    SqlState::UNDEFINED_FUNCTION,
    SqlState::UNDEFINED_TABLE,
    SqlState::UNDEFINED_COLUMN,
    SqlState::INVALID_SCHEMA_NAME,
];

/// Inside the transaction that created the extension.
pub fn repeat(statements: &[String], target: &mut Connection) -> Result<()> {
    for statement in statements {
        let sql = format!("SAVEPOINT one; {statement}; RELEASE SAVEPOINT one");
        match target.execute(&sql) {
            Ok(_) => {}
            Err(error) if error.is_any_of(LEFT_OUT) => {
                log::warn!("a privilege is left out: {error}: {statement}");
                target.execute("ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")?;
            }
            Err(error) => return Err(error.context(format!("could not run {statement}"))),
        }
    }
    Ok(())
}
