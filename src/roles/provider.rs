//! Which roles are nobody's to copy: PostgreSQL's own and those that a provider makes for itself on each of its servers.
//! Pure.

/// Beginnings of names.
const PREFIXES: &[&str] = &[
    // Amazon RDS and Aurora.
    "rds_",
    "rdsproxy",
    // Google Cloud SQL and AlloyDB.
    "cloudsql",
    "alloydb",
    // Azure.
    "azure_",
    // Supabase, Neon, Aiven.
    "supabase_",
    "neon_",
    "_aiven",
];

const NAMES: &[&str] = &[
    "rdsadmin",
    "rdsrepladmin",
    "rdstopmgr",
    "rdswriteforwarduser",
    "azuresu",
    "azure_superuser",
    "cloud_admin",
    "databasesync",
    "_doadmin_managed",
    "_dodb",
];

/// Made by initdb, on every server of a version; nobody can create them.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("pg_") || name == "public" || name == "none"
}

pub fn is_providers(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::{is_providers, is_reserved};

    #[test]
    fn tells_whose_a_role_is() {
        for name in [
            "rds_superuser",
            "rdsadmin",
            "cloudsqladmin",
            "azure_pg_admin",
            "alloydbsuperuser",
        ] {
            assert!(is_providers(name) && !is_reserved(name), "{name}");
        }
        assert!(is_reserved("pg_monitor") && !is_providers("pg_monitor"));
        for name in ["app", "rd", "rdstation", "pgbouncer", "postgres", "Azure_x"] {
            assert!(!is_providers(name) && !is_reserved(name), "{name}");
        }
    }
}
