//! From a plain socket to TLS: the SSLRequest, the server's one-byte answer, the handshake. Runs in the process that will
//! own the connection. The policy is `pg::tls`'s; this file only moves bytes and waits.

use std::time::Instant;

use super::socket::{Blocked, Socket, Transport};
use crate::error::{Error, Result};
use crate::pg::conninfo::{ConnInfo, HostSpec};
use crate::pg::tls::{Negotiation, Progress, connector, server_end_point};
use crate::sys::signal::Shutdown;

/// SSLRequest: its length and its number.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How asking for TLS went.
pub enum TlsStart {
    /// The transport, and the certificate's hash for channel binding.
    Done(Transport, Option<Vec<u8>>),
    /// The server has no TLS; the socket can go on without, if that is allowed.
    NotOffered(Socket),
}

/// Ask for TLS on a fresh socket.
pub fn start_tls(
    info: &ConnInfo,
    host: &HostSpec,
    socket: Socket,
    shutdown: &Shutdown,
    deadline: Option<Instant>,
) -> Result<TlsStart> {
    let lost = |what: String| Error::connection_lost(info.side(), what);
    let mut transport = Transport::Plain(socket);
    if info.tls().negotiation == Negotiation::Postgres {
        write_all(&mut transport, &SSL_REQUEST, shutdown, deadline, &lost)?;
        match read_byte(&mut transport, shutdown, deadline, &lost)? {
            b'S' => {}
            b'N' => match transport {
                Transport::Plain(socket) => return Ok(TlsStart::NotOffered(socket)),
                _ => return Err(Error::internal("a plain socket changed")),
            },
            // A server from before TLS, or one that cannot fork: its error text is not protected, so it is not shown.
            b'E' => {
                return Err(lost(
                    "the server answered the request for TLS with an error".to_string(),
                ));
            }
            other => {
                return Err(lost(format!(
                    "unexpected answer {other:#04x} to the request for TLS"
                )));
            }
        }
    }
    let Transport::Plain(socket) = transport else {
        return Err(Error::internal("a plain socket changed"));
    };
    let mut handshake = connector(info.tls(), info.side(), host)?.start(socket)?;
    loop {
        let blocked = match handshake.advance()? {
            Progress::Done => break,
            Progress::WantsRead => Blocked::OnRead,
            Progress::WantsWrite => Blocked::OnWrite,
        };
        if !handshake.get_ref().wait(blocked, shutdown, deadline)? {
            return Err(lost("timeout expired during the TLS handshake".to_string()));
        }
    }
    let stream = handshake.finish()?;
    let end_point = server_end_point(stream.ssl());
    Ok(TlsStart::Done(Transport::Tls(Box::new(stream)), end_point))
}

fn write_all(
    transport: &mut Transport,
    mut bytes: &[u8],
    shutdown: &Shutdown,
    deadline: Option<Instant>,
    lost: &dyn Fn(String) -> Error,
) -> Result<()> {
    while !bytes.is_empty() {
        match transport.write_once(bytes) {
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(blocked)) => wait(transport, blocked, shutdown, deadline, lost)?,
            Err(error) => return Err(lost(format!("could not ask for TLS: {error}"))),
        }
    }
    Ok(())
}

/// Exactly one byte: bytes behind it would be from somebody who wants to be taken for the encrypted server
/// (CVE-2021-23222), and are left to the handshake, which fails on them.
fn read_byte(
    transport: &mut Transport,
    shutdown: &Shutdown,
    deadline: Option<Instant>,
    lost: &dyn Fn(String) -> Error,
) -> Result<u8> {
    let mut byte = [0u8; 1];
    loop {
        match transport.read_once(&mut byte) {
            Ok(Ok(0)) => {
                return Err(lost(
                    "server closed the connection unexpectedly".to_string(),
                ));
            }
            Ok(Ok(_)) => return Ok(byte[0]),
            Ok(Err(blocked)) => wait(transport, blocked, shutdown, deadline, lost)?,
            Err(error) => {
                return Err(lost(format!(
                    "could not receive the answer about TLS: {error}"
                )));
            }
        }
    }
}

fn wait(
    transport: &Transport,
    blocked: Blocked,
    shutdown: &Shutdown,
    deadline: Option<Instant>,
    lost: &dyn Fn(String) -> Error,
) -> Result<()> {
    if transport.wait(blocked, shutdown, deadline)? {
        return Ok(());
    }
    Err(lost("timeout expired while asking for TLS".to_string()))
}
