//! In which order a connection is tried with and without TLS. Pure. Source: the table of `sslmode` in "SSL Support" of
//! the libpq documentation.

use super::settings::SslMode;

/// One try to connect to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsAttempt {
    /// No TLS.
    Plain,
    /// Ask for TLS. When the server answers that it has none, a following `Plain` may go on over the same socket.
    Tls,
}

/// What to try. The next attempt is made when the server refused the connection (or the handshake failed) before it
/// asked for authentication; the last one's error is reported. A Unix socket never has TLS, whatever the mode.
pub fn attempts(mode: SslMode, is_unix_socket: bool) -> &'static [TlsAttempt] {
    use TlsAttempt::{Plain, Tls};
    if is_unix_socket {
        return &[Plain];
    }
    match mode {
        SslMode::Disable => &[Plain],
        SslMode::Allow => &[Plain, Tls],
        SslMode::Prefer => &[Tls, Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Tls],
    }
}

#[cfg(test)]
mod tests {
    use super::{SslMode, TlsAttempt, attempts};

    #[test]
    fn tries_what_the_mode_says() {
        use TlsAttempt::{Plain, Tls};
        for (name, expected) in [
            ("disable", &[Plain][..]),
            ("allow", &[Plain, Tls]),
            ("prefer", &[Tls, Plain]),
            ("require", &[Tls]),
            ("verify-ca", &[Tls]),
            ("verify-full", &[Tls]),
        ] {
            let mode = SslMode::from_name(name).unwrap();
            assert_eq!(attempts(mode, false), expected, "{name}");
            assert_eq!(attempts(mode, true), [Plain], "{name}");
        }
    }
}
