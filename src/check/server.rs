//! The facts about one server that fit into one row, and the query that fetches them. Runs in the process that checks, on
//! a prepared session; changes nothing.

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result, Side};
use crate::pg::wire::{Connection, Row};

/// Roles of providers whose members may do more than their attributes say, such as creating extensions.
const PROVIDER_ROLES: &str = "'rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'alloydbsuperuser', \
     'neon_superuser', 'supabase_admin', 'aiven_extras', '_aiven_managed'";

/// Settings of libraries with which providers lend their users rights, such as creating listed extensions.
const PROVIDER_SETTINGS: &str = r"'^(rds|azure|cloudsql|alloydb|neon|aiven|supautils|extwlist)\.'";

/// One server as this role sees it in this database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub side: Side,
    /// As server_version_num.
    pub version: u32,
    pub database: String,
    pub user: String,
    pub is_superuser: bool,
    /// A provider may let this role do a superuser's work.
    pub may_be_provider_admin: bool,
    pub can_create: bool,
    pub is_standby: bool,
    /// A standby whose primary does not hear which rows are still needed here.
    pub lacks_feedback: bool,
    pub encoding: String,
    pub locale: Locale,
    pub connections: Connections,
    /// How many relations all sessions together may lock at a time.
    pub lock_places: u64,
    /// Of the oldest transaction id and multixact id that the database has not frozen.
    pub xid_age: u64,
    pub multixact_age: u64,
    /// Tells one database of one server from all others; `None` where the role may not ask for it.
    pub identity: Option<String>,
}

/// How a database sorts and classifies characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locale {
    /// `c` libc, `i` ICU, `b` builtin.
    pub provider: char,
    pub collate: String,
    pub ctype: String,
    /// The ICU or builtin locale.
    pub locale: Option<String>,
    /// The collation's version when the database was made, and that of the library now.
    pub recorded_version: Option<String>,
    pub actual_version: Option<String>,
}

/// How many connections there may be, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// max_connections without those kept back for others.
    pub most: u64,
    pub used: u64,
    /// The role's and the database's own limits, with what is used of each.
    pub role: Option<(u64, u64)>,
    pub database: Option<(u64, u64)>,
}

pub fn fetch(connection: &mut Connection) -> Result<Server> {
    let (side, version) = (connection.side(), connection.server_version());
    let row = connection
        .query_one(&sql(version))
        .with_context(|| format!("could not look at the settings of the {side}"))?;
    let mut server = read(side, version, &row)?;
    server.identity = identity(connection);
    Ok(server)
}

fn sql(version: u32) -> String {
    let (provider, locale) = match version {
        17_00_00.. => ("d.datlocprovider", "d.datlocale"),
        15_00_00.. => ("d.datlocprovider", "d.daticulocale"),
        _ => ("'c'", "NULL"),
    };
    let versions = match version {
        15_00_00.. => "d.datcollversion, pg_database_collation_actual_version(d.oid)",
        _ => "NULL, NULL",
    };
    let reserved = match version {
        16_00_00.. => {
            "CASE WHEN r.rolsuper OR pg_has_role('pg_use_reserved_connections', 'MEMBER') THEN 0 \
             ELSE current_setting('reserved_connections')::int8 END"
        }
        _ => "0",
    };
    let autovacuum = match version {
        18_00_00.. => "autovacuum_worker_slots",
        _ => "autovacuum_max_workers",
    };
    format!(
        "SELECT d.datname, r.rolname, r.rolsuper,
    EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ({PROVIDER_ROLES}) AND pg_has_role(m.oid, 'MEMBER'))
        OR EXISTS (SELECT FROM pg_settings WHERE name ~ {PROVIDER_SETTINGS}),
    has_database_privilege(d.oid, 'CREATE'), pg_is_in_recovery(),
    pg_encoding_to_char(d.encoding), {provider}, d.datcollate, d.datctype, {locale}, {versions},
    current_setting('max_connections')::int8
        - CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int8 END - {reserved},
    (SELECT coalesce(sum(numbackends), 0)::int8 FROM pg_stat_database),
    r.rolconnlimit, (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid),
    d.datconnlimit, (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid),
    current_setting('max_locks_per_transaction')::int8 * (current_setting('max_connections')::int8
        + current_setting('max_prepared_transactions')::int8 + current_setting('{autovacuum}')::int8
        + current_setting('max_worker_processes')::int8 + current_setting('max_wal_senders')::int8 + 1),
    age(d.datfrozenxid)::int8, mxid_age(d.datminmxid)::int8,
    pg_is_in_recovery() AND current_setting('hot_standby_feedback') = 'off'
FROM pg_database d CROSS JOIN pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user"
    )
}

fn read(side: Side, version: u32, row: &Row) -> Result<Server> {
    let text = |column: usize| row.text(column).map(str::to_owned);
    let opt_text =
        |column: usize| Ok::<_, crate::error::Error>(row.opt_text(column)?.map(str::to_owned));
    // Ages of databases that are frozen ahead are negative.
    let whole =
        |column: usize| Ok::<_, crate::error::Error>(row.parse::<i64>(column)?.max(0) as u64);
    let is_superuser = row.bool(2)?;
    // A superuser is held by neither limit; -1 is none, and -2 marks a database that is being dropped.
    let limit = |column: usize| -> Result<Option<(u64, u64)>> {
        let most: i64 = row.parse(column)?;
        match is_superuser || most < 0 {
            true => Ok(None),
            false => Ok(Some((most as u64, whole(column + 1)?))),
        }
    };
    Ok(Server {
        side,
        version,
        database: text(0)?,
        user: text(1)?,
        is_superuser,
        may_be_provider_admin: row.bool(3)?,
        can_create: row.bool(4)?,
        is_standby: row.bool(5)?,
        encoding: text(6)?,
        locale: Locale {
            provider: row.parse(7)?,
            collate: text(8)?,
            ctype: text(9)?,
            locale: opt_text(10)?,
            recorded_version: opt_text(11)?,
            actual_version: opt_text(12)?,
        },
        connections: Connections {
            most: whole(13)?,
            used: whole(14)?,
            role: limit(15)?,
            database: limit(17)?,
        },
        lock_places: whole(19)?,
        xid_age: whole(20)?,
        multixact_age: whole(21)?,
        lacks_feedback: row.bool(22)?,
        identity: None,
    })
}

/// Servers restored from one base backup have one system identifier, so port and start count too.
const IDENTITY: &str = "SELECT concat_ws(' ', current_database(), \
     extract(epoch FROM pg_postmaster_start_time()), current_setting('port'), s.system_identifier) FROM pg_control_system() s";

/// A role that may not ask this has no rights to mix up two databases with either.
fn identity(connection: &mut Connection) -> Option<String> {
    let row = connection.query_one(IDENTITY).ok()?;
    row.text(0).map(str::to_owned).ok()
}

impl Server {
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// May do what only superusers may, for all that can be told from here.
    pub fn is_unlimited(&self) -> bool {
        self.is_superuser || self.may_be_provider_admin
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Connections, Locale, Server, Side};

    /// An ordinary server, and a role that owns its database.
    pub(crate) fn server(side: Side) -> Server {
        Server {
            side,
            version: 150_020,
            database: "shop".to_owned(),
            user: "owner".to_owned(),
            is_superuser: false,
            may_be_provider_admin: false,
            can_create: true,
            is_standby: false,
            lacks_feedback: false,
            encoding: "UTF8".to_owned(),
            locale: Locale {
                provider: 'c',
                collate: "C.UTF-8".to_owned(),
                ctype: "C.UTF-8".to_owned(),
                locale: None,
                recorded_version: None,
                actual_version: None,
            },
            connections: Connections {
                most: 97,
                used: 5,
                role: None,
                database: None,
            },
            lock_places: 7_808,
            xid_age: 1_000,
            multixact_age: 0,
            identity: Some(side.to_string()),
        }
    }
}
