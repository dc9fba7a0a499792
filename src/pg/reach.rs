//! One server at one address: socket, TLS or not, login, in the ways that sslmode allows. Runs in every process that
//! talks to a server. It tries no other server and never waits for one; it only says whether that may help.

use std::io::ErrorKind as IoErrorKind;
use std::time::{Duration, Instant};

use super::conninfo::{ConnInfo, HostSpec};
use super::remedy::Remedy;
use super::tls::{SslMode, TlsAttempt, attempts};
use super::wire::{
    Address, ConnectError, Connection, Login, Socket, StartError, TlsStart, Transport, start_tls,
};
use crate::error::{Error, Result};
use crate::sys::signal::Shutdown;

/// Without connect_timeout in the conninfo: an address that swallows packets must not hold us for the kernel's minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// What is tried after a failure. As libpq: a server that answered and refused is the one that was meant, and asking
/// another one of the list would hide a wrong password, or copy from a server that nobody expects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nobody answered here: the next address of the host, then the next host.
    Address,
    /// This server cannot serve us now, or is of another kind than wanted.
    Host,
    Nothing,
}

/// Why one attempt failed, what comes next, and whether the same attempt may succeed in a moment.
pub struct Failure {
    pub error: Error,
    pub next: Next,
    pub may_pass: bool,
}

impl Failure {
    pub fn lasting(error: Error, next: Next) -> Failure {
        Failure {
            error,
            next,
            may_pass: false,
        }
    }

    pub fn last(error: Error) -> Failure {
        Failure::lasting(error, Next::Nothing)
    }
}

/// The ways that sslmode allows for this address, in its order.
pub fn reach(
    info: &ConnInfo,
    host: &HostSpec,
    address: &Address,
    application_name: &str,
    shutdown: &Shutdown,
) -> std::result::Result<Connection, Failure> {
    let is_unix = matches!(address, Address::Unix(_));
    let mut first: Option<Failure> = None;
    for attempt in attempts(info.tls().mode, is_unix) {
        match open(info, host, address, *attempt, application_name, shutdown) {
            Ok(connection) => return Ok(connection),
            Err(Refused::InAnyWay(failure)) => return Err(first.unwrap_or(failure)),
            // The first refusal is the telling one: "no pg_hba.conf entry" for the fallback would hide it.
            Err(Refused::InThisWay(failure)) => {
                first.get_or_insert(failure);
            }
        }
    }
    Err(first.unwrap_or_else(|| Failure::last(Error::internal("no way to connect was tried"))))
}

/// How far a refusal reaches.
enum Refused {
    /// With TLS, or without, it may be another matter.
    InThisWay(Failure),
    InAnyWay(Failure),
}

impl Refused {
    fn last(error: Error) -> Refused {
        Refused::InAnyWay(Failure::last(error))
    }
}

fn open(
    info: &ConnInfo,
    host: &HostSpec,
    address: &Address,
    attempt: TlsAttempt,
    application_name: &str,
    shutdown: &Shutdown,
) -> std::result::Result<Connection, Refused> {
    let side = info.side();
    let deadline = Some(Instant::now() + info.connect_timeout().unwrap_or(DEFAULT_TIMEOUT));
    let socket = open_socket(info, address, shutdown, deadline).map_err(Refused::InAnyWay)?;
    if let Address::Unix(_) = address {
        check_peer(info, &socket).map_err(Refused::last)?;
    }
    let (transport, server_end_point) = match attempt {
        TlsAttempt::Plain => (Transport::Plain(socket), None),
        TlsAttempt::Tls => match start_tls(info, host, socket, shutdown, deadline) {
            Ok(TlsStart::Done(transport, end_point)) => (transport, end_point),
            Ok(TlsStart::NotOffered(socket)) if goes_on_without_tls(info) => {
                (Transport::Plain(socket), None)
            }
            Ok(TlsStart::NotOffered(_)) => {
                let error = Error::on(
                    side,
                    format!(
                        "{address}: the server does not support TLS, but \"sslmode\" is \"{}\"",
                        info.tls().mode.as_str()
                    ),
                );
                return Err(Refused::InThisWay(Failure::last(error)));
            }
            Err(error) if error.is_interrupted() => return Err(Refused::last(error)),
            Err(error) => {
                return Err(Refused::InThisWay(broken(
                    error.with_side(side).context(address),
                    deadline,
                )));
            }
        },
    };
    let password = info.password_for(host);
    let mut parameters = vec![("application_name".to_string(), application_name.to_string())];
    if let Some(options) = info.options() {
        parameters.push(("options".to_string(), options.to_string()));
    }
    if info.is_replication() {
        parameters.push(("replication".to_string(), "database".to_string()));
    }
    let login = Login {
        user: info.user(),
        dbname: info.dbname(),
        password: password.as_ref().map(|password| password.expose()),
        parameters,
        channel_binding: info.channel_binding(),
        server_end_point,
        require_auth: info.require_auth(),
    };
    Connection::start(side, address.clone(), transport, &login, shutdown, deadline)
        .map_err(|refusal| judge(refusal, address, deadline))
}

fn open_socket(
    info: &ConnInfo,
    address: &Address,
    shutdown: &Shutdown,
    deadline: Option<Instant>,
) -> std::result::Result<Socket, Failure> {
    let side = info.side();
    Socket::connect(address, &info.keepalives(), shutdown, deadline).map_err(|error| match error {
        ConnectError::Refused(error) => Failure {
            may_pass: is_not_listening(&error),
            next: Next::Address,
            error: Error::connection_lost(side, format!("{address}: {error}")),
        },
        ConnectError::TimedOut => Failure::lasting(
            Error::connection_lost(side, format!("{address}: timeout expired")),
            Next::Address,
        ),
        ConnectError::Stopped(error) => Failure::last(error),
    })
}

/// What a server that was reached had against us.
fn judge(refusal: StartError, address: &Address, deadline: Option<Instant>) -> Refused {
    let StartError { error, was_asked } = refusal;
    if error.is_interrupted() {
        return Refused::last(error);
    }
    // Starting up, shutting down, recovering, without a connection to spare: the server says so itself.
    if Remedy::as_told(&error).is_some_and(Remedy::exists) {
        return Refused::InAnyWay(Failure {
            error: error.context(address),
            next: Next::Host,
            may_pass: true,
        });
    }
    let failure = broken(error.context(address), deadline);
    if was_asked {
        // pg_hba.conf has let us in this way; a wrong password must not be sent again without TLS.
        return Refused::InAnyWay(failure);
    }
    Refused::InThisWay(failure)
}

/// A server that is being stopped, or a proxy before one that is down, takes connections and breaks them without a word:
/// that passes. One that says nothing at all has had its time.
fn broken(error: Error, deadline: Option<Instant>) -> Failure {
    let is_in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
    Failure {
        may_pass: is_in_time && error.is_connection_lost() && error.sqlstate().is_none(),
        next: Next::Nothing,
        error,
    }
}

/// With prefer a server without TLS is good enough; with allow it has refused the plain way already.
fn goes_on_without_tls(info: &ConnInfo) -> bool {
    info.tls().mode == SslMode::Prefer
}

/// Refused, no socket file, backlog full: what a server that is being restarted looks like. No way there, or reset by what
/// stands before it: what a fail-over or a network that is mended looks like.
fn is_not_listening(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        IoErrorKind::ConnectionRefused
            | IoErrorKind::NotFound
            | IoErrorKind::WouldBlock
            | IoErrorKind::ConnectionReset
            | IoErrorKind::HostUnreachable
            | IoErrorKind::NetworkUnreachable
            | IoErrorKind::NetworkDown
            | IoErrorKind::TimedOut
    )
}

fn check_peer(info: &ConnInfo, socket: &Socket) -> Result<()> {
    let Some(wanted) = info.requirepeer() else {
        return Ok(());
    };
    match socket.peer_user() {
        Some(user) if user == wanted => Ok(()),
        user => Err(Error::on(
            info.side(),
            format!(
                "\"requirepeer\" asks for a server of user \"{wanted}\", but it runs as \"{}\"",
                user.unwrap_or_default()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::is_not_listening;

    #[test]
    fn what_may_pass_is_waited_for() {
        for (code, may_pass) in [
            (libc::ECONNREFUSED, true),
            (libc::ENOENT, true),
            (libc::EAGAIN, true),
            (libc::ECONNRESET, true),
            (libc::EHOSTUNREACH, true),
            (libc::ENETUNREACH, true),
            (libc::ENETDOWN, true),
            (libc::ETIMEDOUT, true),
            (libc::EACCES, false),
            (libc::EINVAL, false),
        ] {
            let error = std::io::Error::from_raw_os_error(code);
            assert_eq!(is_not_listening(&error), may_pass, "{error}");
        }
    }
}
