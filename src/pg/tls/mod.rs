//! One TLS policy for every connection: which attempts are made, what a certificate must prove, what is sent to the
//! server. It opens no socket and waits for nothing: the wire client gives the stream and polls.

mod attempts;
mod end_point;
mod files;
mod handshake;
mod host_name;
mod settings;

#[cfg(test)]
mod tests;

pub use self::attempts::{TlsAttempt, attempts};
pub use self::end_point::server_end_point;
pub use self::handshake::{Progress, TlsConnector, TlsHandshake, connector};
pub use self::settings::{Negotiation, ProtocolVersion, RootCert, SslMode, TlsFile, TlsSettings};
