//! What a connection string says about TLS, typed. Pure; the files are only looked at when a handshake is prepared.

use std::path::PathBuf;

use crate::pg::conninfo::Password;

/// `sslmode`, in the order of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }

    pub fn from_name(name: &str) -> Option<SslMode> {
        [
            SslMode::Disable,
            SslMode::Allow,
            SslMode::Prefer,
            SslMode::Require,
            SslMode::VerifyCa,
            SslMode::VerifyFull,
        ]
        .into_iter()
        .find(|mode| mode.as_str() == name)
    }
}

/// `sslnegotiation`: ask with an SSLRequest first, or begin the handshake at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    Postgres,
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    Tls1_0,
    Tls1_1,
    Tls1_2,
    Tls1_3,
}

/// A file of the TLS set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFile {
    /// Named by the user.
    Given(PathBuf),
    /// In `~/.postgresql`, used if it exists.
    Default(PathBuf),
    /// Not named, and there is no home directory.
    Nowhere,
}

impl TlsFile {
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            TlsFile::Given(path) | TlsFile::Default(path) => Some(path),
            TlsFile::Nowhere => None,
        }
    }
}

/// Who may sign the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    File(TlsFile),
    /// The certification authorities that OpenSSL was installed with.
    System,
}

/// Everything a handshake depends on but the server's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: SslMode,
    pub negotiation: Negotiation,
    pub root_cert: RootCert,
    pub cert: TlsFile,
    /// `sslcertmode`: false for `disable`.
    pub sends_certificate: bool,
    pub key: TlsFile,
    pub key_passphrase: Option<Password>,
    pub crl_file: TlsFile,
    pub crl_dir: Option<PathBuf>,
    pub min_version: Option<ProtocolVersion>,
    pub max_version: Option<ProtocolVersion>,
    pub sends_server_name: bool,
}
