//! Databases to copy: `everything`, which has each kind of object and value that broke a tool like this one, and
//! pagila, which looks like a real application.

use std::path::{Path, PathBuf};

use super::cluster::Cluster;

/// The parts of `everything`, each with the first major version that understands it.
const EVERYTHING: [(u32, &str); 8] = [
    (10, include_str!("../sql/everything.sql")),
    (10, include_str!("../sql/types.sql")),
    (11, include_str!("../sql/since_11.sql")),
    (12, include_str!("../sql/since_12.sql")),
    (14, include_str!("../sql/since_14.sql")),
    (15, include_str!("../sql/since_15.sql")),
    (17, include_str!("../sql/since_17.sql")),
    (18, include_str!("../sql/since_18.sql")),
];

/// The roles that own things in `everything`: a target must have them too.
const ROLES: &str = include_str!("../sql/roles.sql");

/// Make the fixture's roles, once per cluster, whoever else does it at the same time.
pub fn create_roles(cluster: &Cluster) {
    cluster.psql("postgres", ROLES);
}

/// Fill a new database with everything that the server's version knows. Objects larger in number than size: it
/// loads in about a second.
pub fn load_everything(cluster: &Cluster, db: &str) {
    create_roles(cluster);
    for (since, sql) in EVERYTHING {
        if cluster.version().major() >= since {
            cluster.psql(db, sql);
        }
    }
}

/// Add to `everything` what needs ICU, which of our builds only Debian's and 10 to 13 have.
pub fn load_icu(cluster: &Cluster, db: &str) {
    cluster.psql(db, include_str!("../sql/icu.sql"));
}

/// Load the pagila sample, if it is there: its files are handed out beside the repository, or where
/// `PGCOPYDB_PAGILA_DIR` says. Without them the caller has nothing to test, and says so.
#[must_use]
pub fn load_pagila(cluster: &Cluster, db: &str) -> bool {
    let dir = match std::env::var_os("PGCOPYDB_PAGILA_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/pagila"),
    };
    if !dir.join("pagila-schema.sql").exists() {
        println!(
            "skipped: no pagila in \"{}\" (PGCOPYDB_PAGILA_DIR)",
            dir.display()
        );
        return false;
    }
    for file in ["pagila-schema.sql", "pagila-data.sql"] {
        cluster.load_file(db, &dir.join(file));
    }
    true
}
