//! The databases of an instance: which there are on the source, and how one is made on the target with the same encoding,
//! locale and properties. Runs in the instance's parent.

use super::NAME;
use crate::clone::CloneSpec;
use crate::error::{Context, Error, Result, Side};
use crate::ident::{Oid, quote_ident, quote_literal};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{TargetSettings, flush_commits, open_target};
use crate::pg::wire::{Connection, Row};
use crate::sys::signal::Shutdown;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub oid: Oid,
    pub name: String,
    owner: String,
    encoding: String,
    collate: String,
    ctype: String,
    /// `c` libc, `i` ICU, `b` builtin.
    provider: char,
    locale: Option<String>,
    icu_rules: Option<String>,
    connection_limit: i32,
    tablespace: String,
    comment: Option<String>,
    /// GRANT and REVOKE, in order.
    privileges: Vec<String>,
}

/// Every database that allows connections and is no template, the largest first.
pub fn fetch(source: &mut Connection) -> Result<Vec<Database>> {
    let version = source.server_version();
    let (provider, locale) = match version {
        17_00_00.. => ("d.datlocprovider", "d.datlocale"),
        15_00_00.. => ("d.datlocprovider", "d.daticulocale"),
        _ => ("'c'", "NULL"),
    };
    let rules = match version >= 16_00_00 {
        true => "d.daticurules",
        false => "NULL",
    };
    let rows = source
        .query(&format!(
            "SELECT d.oid, d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
    {provider}, {locale}, {rules}, d.datconnlimit, t.spcname, shobj_description(d.oid, 'pg_database'),
    has_database_privilege(d.oid, 'CONNECT')
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
WHERE d.datallowconn AND NOT d.datistemplate
ORDER BY CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END DESC NULLS LAST, d.datname"
        ))
        .context("could not list the databases of the source")?;
    let mut databases = Vec::with_capacity(rows.len());
    for row in &rows {
        if !row.bool(12)? {
            return Err(Error::on(
                Side::Source,
                format!("this role may not connect to database \"{}\"", row.text(1)?),
            )
            .with_hint(format!(
                "GRANT CONNECT ON DATABASE {} TO CURRENT_USER;",
                quote_ident(row.text(1)?)
            )));
        }
        databases.push(read(row)?);
    }
    for database in &mut databases {
        database.privileges = privileges(source, database)?;
    }
    Ok(databases)
}

fn read(row: &Row) -> Result<Database> {
    let owned = |column| -> Result<Option<String>> { Ok(row.opt_text(column)?.map(str::to_owned)) };
    Ok(Database {
        oid: row.parse(0)?,
        name: row.text(1)?.to_owned(),
        owner: row.text(2)?.to_owned(),
        encoding: row.text(3)?.to_owned(),
        collate: row.text(4)?.to_owned(),
        ctype: row.text(5)?.to_owned(),
        provider: row.text(6)?.chars().next().unwrap_or('c'),
        locale: owned(7)?,
        icu_rules: owned(8)?,
        connection_limit: row.parse(9)?,
        tablespace: row.text(10)?.to_owned(),
        comment: owned(11)?,
        privileges: Vec::new(),
    })
}

/// What the database's privileges are made of, if they were ever changed.
fn privileges(source: &mut Connection, database: &Database) -> Result<Vec<String>> {
    let name = quote_ident(&database.name);
    let rows = source.query(&format!(
        "SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable
FROM pg_database d, aclexplode(d.datacl) WITH ORDINALITY a (grantor, grantee, privilege_type, is_grantable, n)
WHERE d.oid = {} ORDER BY n",
        database.oid
    ))?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut statements = vec![
        format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC"),
        format!(
            "REVOKE ALL ON DATABASE {name} FROM {}",
            quote_ident(&database.owner)
        ),
    ];
    for row in &rows {
        let grantee = row
            .opt_text(0)?
            .map_or_else(|| "PUBLIC".to_owned(), quote_ident);
        let option = match row.bool(2)? {
            true => " WITH GRANT OPTION",
            false => "",
        };
        statements.push(format!(
            "GRANT {} ON DATABASE {name} TO {grantee}{option}",
            row.text(1)?
        ));
    }
    Ok(statements)
}

/// What is not wanted of a database.
#[derive(Debug, Clone, Copy, Default)]
struct Without {
    owner: bool,
    acl: bool,
    comment: bool,
    tablespace: bool,
}

impl Without {
    fn of(spec: &CloneSpec) -> Without {
        Without {
            owner: spec.no_owner,
            acl: spec.no_acl || spec.no_owner,
            comment: spec.no_comments,
            tablespace: spec.no_tablespaces,
        }
    }
}

/// Make the database on the target, unless it is there; then give it its properties.
pub fn create(
    database: &Database,
    target: &ConnInfo,
    spec: &CloneSpec,
    shutdown: &Shutdown,
) -> Result<()> {
    let settings = TargetSettings::default();
    let mut target = open_target(target, NAME, &settings, shutdown)?;
    let name = quote_literal(&database.name);
    let found = target.query(&format!(
        "SELECT pg_encoding_to_char(encoding) FROM pg_catalog.pg_database WHERE datname = {name}"
    ))?;
    match found.first() {
        Some(row) => check_encoding(database, row.text(0)?)?,
        None => {
            let sql = create_sql(database, Without::of(spec), target.server_version());
            target
                .execute(&sql)
                .with_context(|| format!("could not create database \"{}\"", database.name))?;
            log::info!("created database \"{}\"", database.name);
        }
    }
    if spec.skip_db_properties {
        return Ok(());
    }
    for sql in properties_sql(database, Without::of(spec)) {
        if let Err(error) = target.execute(&sql) {
            if error.is_connection_lost() || error.is_interrupted() {
                return Err(error);
            }
            target.recover();
            log::warn!(
                "a property of database \"{}\" is left out: {error}: {sql}",
                database.name
            );
        }
    }
    flush_commits(&mut target)
}

fn check_encoding(database: &Database, there: &str) -> Result<()> {
    if there == database.encoding {
        return Ok(());
    }
    log::warn!(
        "database \"{}\" is there already with encoding {there}, the source's is {}",
        database.name,
        database.encoding
    );
    Ok(())
}

fn create_sql(database: &Database, without: Without, version: u32) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote_ident(&database.name),
        quote_literal(&database.encoding),
        quote_literal(&database.collate),
        quote_literal(&database.ctype)
    );
    if !without.owner {
        sql.push_str(&format!(" OWNER {}", quote_ident(&database.owner)));
    }
    if let (Some(locale), true) = (&database.locale, version >= 15_00_00) {
        let (provider, option) = match database.provider {
            'b' => ("builtin", "BUILTIN_LOCALE"),
            _ => ("icu", "ICU_LOCALE"),
        };
        sql.push_str(&format!(
            " LOCALE_PROVIDER {provider} {option} {}",
            quote_literal(locale)
        ));
    }
    if let (Some(rules), true) = (&database.icu_rules, version >= 16_00_00) {
        sql.push_str(&format!(" ICU_RULES {}", quote_literal(rules)));
    }
    if database.tablespace != "pg_default" && !without.tablespace {
        sql.push_str(&format!(
            " TABLESPACE {}",
            quote_ident(&database.tablespace)
        ));
    }
    sql
}

fn properties_sql(database: &Database, without: Without) -> Vec<String> {
    let name = quote_ident(&database.name);
    let mut statements = Vec::new();
    if database.connection_limit >= 0 {
        statements.push(format!(
            "ALTER DATABASE {name} CONNECTION LIMIT {}",
            database.connection_limit
        ));
    }
    if let (Some(comment), false) = (&database.comment, without.comment) {
        statements.push(format!(
            "COMMENT ON DATABASE {name} IS {}",
            quote_literal(comment)
        ));
    }
    if !without.acl {
        statements.extend(database.privileges.iter().cloned());
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_come_last_and_only_with_owners() {
        let database = Database {
            oid: 1,
            name: "a b".to_owned(),
            owner: "me".to_owned(),
            encoding: "UTF8".to_owned(),
            collate: "C".to_owned(),
            ctype: "C".to_owned(),
            provider: 'i',
            locale: Some("de".to_owned()),
            icu_rules: None,
            connection_limit: 3,
            tablespace: "pg_default".to_owned(),
            comment: Some("it's".to_owned()),
            privileges: vec!["GRANT CONNECT ON DATABASE \"a b\" TO PUBLIC".to_owned()],
        };
        let all = Without::default();
        assert_eq!(
            create_sql(&database, all, 15_00_00),
            "CREATE DATABASE \"a b\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' OWNER \"me\" \
             LOCALE_PROVIDER icu ICU_LOCALE 'de'"
        );
        assert!(!create_sql(&database, all, 14_00_00).contains("ICU"));
        assert_eq!(
            properties_sql(&database, all),
            [
                "ALTER DATABASE \"a b\" CONNECTION LIMIT 3",
                "COMMENT ON DATABASE \"a b\" IS 'it''s'",
                "GRANT CONNECT ON DATABASE \"a b\" TO PUBLIC"
            ]
        );
    }
}
