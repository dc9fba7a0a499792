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

/// Load the pagila sample. Its files are handed out beside the repository; `PGCOPYDB_PAGILA_DIR` says where else.
pub fn load_pagila(cluster: &Cluster, db: &str) {
    let dir = pagila_dir();
    for file in ["pagila-schema.sql", "pagila-data.sql"] {
        cluster.load_file(db, &dir.join(file));
    }
}

fn pagila_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGCOPYDB_PAGILA_DIR") {
        return PathBuf::from(dir);
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/pagila");
    assert!(
        dir.join("pagila-schema.sql").exists(),
        "no \"{}\": set PGCOPYDB_PAGILA_DIR to the directory with pagila-schema.sql",
        dir.display()
    );
    dir
}
