//! The server versions that tests run on, and where scripts/install-postgres has put their programs. A version that is
//! not there fails the test.

use std::path::PathBuf;

use nix::unistd::geteuid;

/// Which server program. `Debian15` is the distribution's own build, whose catalog has peculiarities (trap 55).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    Debian15,
    Pg10,
    Pg11,
    Pg12,
    Pg13,
    Pg14,
    Pg15,
    Pg16,
    Pg17,
    Pg18,
}

impl Version {
    pub const ALL: [Version; 10] = [
        Version::Debian15,
        Version::Pg10,
        Version::Pg11,
        Version::Pg12,
        Version::Pg13,
        Version::Pg14,
        Version::Pg15,
        Version::Pg16,
        Version::Pg17,
        Version::Pg18,
    ];

    pub fn major(self) -> u32 {
        match self {
            Version::Pg10 => 10,
            Version::Pg11 => 11,
            Version::Pg12 => 12,
            Version::Pg13 => 13,
            Version::Pg14 => 14,
            Version::Debian15 | Version::Pg15 => 15,
            Version::Pg16 => 16,
            Version::Pg17 => 17,
            Version::Pg18 => 18,
        }
    }

    /// Where its programs are. 10 to 13 have only the server, without psql and pg_dump.
    pub fn bindir(self) -> PathBuf {
        let dir = match self {
            Version::Debian15 => PathBuf::from("/usr/lib/postgresql/15/bin"),
            _ => side_by_side_dir()
                .join(self.major().to_string())
                .join("bin"),
        };
        assert!(
            dir.join("postgres").exists(),
            "PostgreSQL {self:?} is not in \"{}\": run scripts/install-postgres",
            dir.display()
        );
        dir
    }
}

/// Where scripts/install-postgres puts the versions that Debian does not have.
fn side_by_side_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGCOPYDB_POSTGRES_DIR") {
        PathBuf::from(dir)
    } else if geteuid().is_root() {
        PathBuf::from("/var/cache/pgcopydb/postgres")
    } else {
        PathBuf::from(std::env::var_os("HOME").expect("HOME is set"))
            .join(".cache/pgcopydb/postgres")
    }
}
