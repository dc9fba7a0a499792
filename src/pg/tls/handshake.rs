//! One TLS handshake: prepared from the settings, driven step by step over the caller's stream, and judged at the end.
//! Used by the process that owns the connection. It never waits: the caller polls, and gives up when it must.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use openssl::error::ErrorStack;
use openssl::ssl::{
    ErrorCode, Ssl, SslContextBuilder, SslMethod, SslMode as OpensslMode, SslOptions, SslRef,
    SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509StoreContextRef, X509VerifyResult};

use super::files;
use super::host_name::CertificateNames;
use super::settings::{Negotiation, ProtocolVersion, RootCert, SslMode, TlsSettings};
use crate::error::{Error, Result, Side};
use crate::pg::conninfo::HostSpec;

/// The name of the protocol for ALPN, in wire format: a length and the name.
const ALPN: &[u8] = b"\x0apostgresql";

/// Why the server's certificate was refused, filled by the callback that OpenSSL calls during the handshake.
type Refusal = Arc<Mutex<Option<Error>>>;

/// Everything for one handshake with one host.
pub struct TlsConnector {
    ssl: Ssl,
    judge: Judge,
}

/// What the handshake must have shown in the end.
struct Judge {
    side: Side,
    /// The host to be named in the certificate, for `verify-full`.
    expected_name: Option<String>,
    needs_alpn: bool,
    refusal: Refusal,
}

/// A handshake under way.
pub struct TlsHandshake<S> {
    stream: SslStream<S>,
    judge: Judge,
}

/// What a handshake waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    WantsRead,
    WantsWrite,
}

/// Prepare a handshake: load the files, decide what is verified. The name is that of `host.host`, never of `hostaddr`.
pub fn connector(settings: &TlsSettings, side: Side, host: &HostSpec) -> Result<TlsConnector> {
    prepare(settings, side, host).map_err(|error| {
        error
            .context(format!(
                "cannot use TLS with {side} host \"{}\"",
                host.name()
            ))
            .with_side(side)
    })
}

fn prepare(settings: &TlsSettings, side: Side, host: &HostSpec) -> Result<TlsConnector> {
    let mut context = SslContextBuilder::new(SslMethod::tls_client()).map_err(unprepared)?;
    context.set_options(SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION);
    // The caller's buffers may grow, and so move, between two tries to write the same bytes.
    context.set_mode(
        OpensslMode::AUTO_RETRY
            | OpensslMode::ENABLE_PARTIAL_WRITE
            | OpensslMode::ACCEPT_MOVING_WRITE_BUFFER,
    );
    context
        .set_min_proto_version(settings.min_version.map(openssl_version))
        .map_err(unprepared)?;
    context
        .set_max_proto_version(settings.max_version.map(openssl_version))
        .map_err(unprepared)?;
    let is_verified = files::load_trust(&mut context, settings)?;
    files::load_identity(&mut context, settings)?;
    let mut ssl = Ssl::new(&context.build()).map_err(unprepared)?;
    ssl.set_alpn_protos(ALPN).map_err(unprepared)?;
    if let Some(name) = host
        .host
        .as_deref()
        .filter(|name| settings.sends_server_name && is_name(name))
    {
        ssl.set_hostname(name).map_err(unprepared)?;
    }
    let refusal = Refusal::default();
    if is_verified {
        let noted = Arc::clone(&refusal);
        let root_cert = describe_root(&settings.root_cert);
        ssl.set_verify_callback(SslVerifyMode::PEER, move |is_ok, chain| {
            if !is_ok {
                note(&noted, refuse(chain, &root_cert));
            }
            is_ok
        });
    } else {
        ssl.set_verify(SslVerifyMode::NONE);
    }
    let expected_name = match (settings.mode, &host.host) {
        (SslMode::VerifyFull, None) => {
            return Err(Error::config(
                "sslmode \"verify-full\" needs a host name to verify, and only \"hostaddr\" is given",
            ));
        }
        (SslMode::VerifyFull, Some(name)) => Some(name.clone()),
        _ => None,
    };
    Ok(TlsConnector {
        ssl,
        judge: Judge {
            side,
            expected_name,
            needs_alpn: settings.negotiation == Negotiation::Direct,
            refusal,
        },
    })
}

impl TlsConnector {
    /// Begin over a connected stream, blocking or not. Nothing is sent before `advance`.
    pub fn start<S: Read + Write>(self, stream: S) -> Result<TlsHandshake<S>> {
        Ok(TlsHandshake {
            stream: SslStream::new(self.ssl, stream).map_err(unprepared)?,
            judge: self.judge,
        })
    }
}

impl<S: Read + Write> TlsHandshake<S> {
    /// Go as far as the stream allows.
    pub fn advance(&mut self) -> Result<Progress> {
        match self.stream.connect() {
            Ok(()) => Ok(Progress::Done),
            Err(error) => match error.code() {
                ErrorCode::WANT_READ => Ok(Progress::WantsRead),
                ErrorCode::WANT_WRITE => Ok(Progress::WantsWrite),
                _ => Err(self.judge.explain(&error)),
            },
        }
    }

    /// The stream to poll.
    pub fn get_ref(&self) -> &S {
        self.stream.get_ref()
    }

    /// The encrypted stream, after `Progress::Done`. Only here the host name is verified, so there is no other way to
    /// get it.
    pub fn finish(self) -> Result<SslStream<S>> {
        self.judge.check(self.stream.ssl())?;
        Ok(self.stream)
    }
}

impl Judge {
    fn check(&self, ssl: &SslRef) -> Result<()> {
        if !ssl.is_init_finished() {
            return Err(Error::internal("a TLS handshake was taken for finished"));
        }
        if self.needs_alpn && ssl.selected_alpn_protocol() != ALPN.get(1..) {
            return Err(Error::on(
                self.side,
                "direct TLS connection was established without the ALPN extension for PostgreSQL",
            )
            .with_hint("Servers before version 17 need sslnegotiation=postgres."));
        }
        let Some(expected_name) = &self.expected_name else {
            return Ok(());
        };
        let Some(certificate) = ssl.peer_certificate() else {
            return Err(Error::on(self.side, "the server sent no certificate"));
        };
        let names = CertificateNames::of(&certificate);
        if names.matches(expected_name) {
            return Ok(());
        }
        Err(Error::on(
            self.side,
            format!(
                "the server's certificate for {} does not match host name \"{expected_name}\"",
                names.describe()
            ),
        ))
    }

    /// The reason of a failed handshake: our own refusal, else what the other end or OpenSSL said.
    fn explain(&self, error: &openssl::ssl::Error) -> Error {
        let refusal = match self.refusal.lock() {
            Ok(mut refusal) => refusal.take(),
            Err(_) => None,
        };
        if let Some(refusal) = refusal {
            return refusal
                .with_kind(Error::on(self.side, "").kind())
                .with_side(self.side);
        }
        let reason = match (error.io_error(), error.ssl_error()) {
            (Some(cause), _) => cause.to_string(),
            (None, Some(stack)) => describe_stack(stack),
            (None, None) => "the server closed the connection".to_string(),
        };
        Error::connection_lost(self.side, format!("TLS handshake failed: {reason}"))
    }
}

/// OpenSSL's numbers for the reasons that deserve our words. Source: `x509_vfy.h`.
mod reason {
    pub const UNABLE_TO_GET_ISSUER_CERT: i32 = 2;
    pub const UNABLE_TO_GET_CRL: i32 = 3;
    pub const CERT_NOT_YET_VALID: i32 = 9;
    pub const CERT_HAS_EXPIRED: i32 = 10;
    pub const CRL_HAS_EXPIRED: i32 = 12;
    pub const DEPTH_ZERO_SELF_SIGNED_CERT: i32 = 18;
    pub const SELF_SIGNED_CERT_IN_CHAIN: i32 = 19;
    pub const UNABLE_TO_GET_ISSUER_CERT_LOCALLY: i32 = 20;
    pub const UNABLE_TO_VERIFY_LEAF_SIGNATURE: i32 = 21;
    pub const CERT_REVOKED: i32 = 23;
}

fn refuse(chain: &X509StoreContextRef, root_cert: &str) -> Error {
    let result: X509VerifyResult = chain.error();
    let why = match result.as_raw() {
        reason::CERT_HAS_EXPIRED => "it has expired".to_string(),
        reason::CERT_NOT_YET_VALID => "it is not valid yet".to_string(),
        reason::CERT_REVOKED => "it has been revoked".to_string(),
        reason::UNABLE_TO_GET_CRL => {
            "no certificate revocation list of its issuer was found".to_string()
        }
        reason::CRL_HAS_EXPIRED => "the certificate revocation list has expired".to_string(),
        reason::UNABLE_TO_GET_ISSUER_CERT
        | reason::DEPTH_ZERO_SELF_SIGNED_CERT
        | reason::SELF_SIGNED_CERT_IN_CHAIN
        | reason::UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        | reason::UNABLE_TO_VERIFY_LEAF_SIGNATURE => {
            format!("its certificate authority is not in {root_cert}")
        }
        _ => "it is not valid".to_string(),
    };
    let subject = match chain.current_cert() {
        Some(certificate) => CertificateNames::of(certificate).describe(),
        None => "unknown".to_string(),
    };
    Error::config(format!(
        "certificate verification failed: cannot trust the server's certificate for {subject}: {why}"
    ))
    .with_detail(format!(
        "OpenSSL: {} (error {}, depth {}).",
        result.error_string(),
        result.as_raw(),
        chain.error_depth()
    ))
}

/// The first refusal is the cause of the others.
fn note(refusal: &Refusal, error: Error) {
    if let Ok(mut refusal) = refusal.lock() {
        refusal.get_or_insert(error);
    }
}

fn describe_root(root_cert: &RootCert) -> String {
    match root_cert {
        RootCert::System => "the system's root certificates".to_string(),
        RootCert::File(file) => match file.path() {
            Some(path) => format!("root certificate file \"{}\"", path.display()),
            None => "the root certificate file".to_string(),
        },
    }
}

/// OpenSSL's reasons without its file names and function names.
fn describe_stack(stack: &ErrorStack) -> String {
    let reasons: Vec<&str> = stack
        .errors()
        .iter()
        .filter_map(|error| error.reason())
        .collect();
    if reasons.is_empty() {
        stack.to_string()
    } else {
        reasons.join(", ")
    }
}

fn unprepared(cause: ErrorStack) -> Error {
    Error::internal(format!("could not prepare TLS: {}", describe_stack(&cause)))
}

fn openssl_version(version: ProtocolVersion) -> SslVersion {
    match version {
        ProtocolVersion::Tls1_0 => SslVersion::TLS1,
        ProtocolVersion::Tls1_1 => SslVersion::TLS1_1,
        ProtocolVersion::Tls1_2 => SslVersion::TLS1_2,
        ProtocolVersion::Tls1_3 => SslVersion::TLS1_3,
    }
}

/// Whether it may be sent as SNI, which has no form for addresses.
fn is_name(host: &str) -> bool {
    !host.is_empty() && !host.starts_with(['/', '@']) && host.parse::<IpAddr>().is_err()
}
