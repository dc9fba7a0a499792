//! One TLS policy for every connection: which attempts are made, what a certificate must prove, what is sent to the
//! server. It opens no socket: the wire client does the handshake with what it gets from here.

mod settings;

pub use self::settings::{
    CertMode, Negotiation, ProtocolVersion, RootCert, SslMode, TlsFile, TlsSettings,
};
