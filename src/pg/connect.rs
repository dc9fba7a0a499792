//! From a conninfo to a connection: which host, which address, TLS or not, again or not. Runs in every process that
//! talks to a server. It only says in which order things are tried; the protocol is `wire`'s, the policy `conninfo`'s.

use std::io::ErrorKind as IoErrorKind;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::conninfo::{ConnInfo, HostSpec, LoadBalanceHosts, TargetSessionAttrs};
use super::tls::{SslMode, TlsAttempt, attempts};
use super::wire::{
    Address, ConnectError, Connection, Login, Socket, TlsStart, Transport, start_tls,
};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::sys::signal::Shutdown;

/// How long a server that refuses connections or is starting is waited for. Builds for the tests can shorten it by
/// PGCOPYDB_TEST_PATIENCE_MS.
pub fn patience() -> Duration {
    const PATIENCE: Duration = Duration::from_secs(60);
    #[cfg(feature = "failpoint")]
    if let Some(shorter) = std::env::var("PGCOPYDB_TEST_PATIENCE_MS")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return Duration::from_millis(shorter);
    }
    PATIENCE
}

/// The first pause between attempts; each is longer than the one before, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Without connect_timeout in the conninfo: an address that swallows packets must not hold us for the kernel's minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Why one attempt failed, and whether the same attempt may succeed in a moment.
struct Failure {
    error: Error,
    may_pass: bool,
}

impl Failure {
    fn lasting(error: Error) -> Failure {
        Failure {
            error,
            may_pass: false,
        }
    }
}

/// Connect to any host of the conninfo that fits, waiting for a server that is starting.
pub fn connect(info: &ConnInfo, application_name: &str, shutdown: &Shutdown) -> Result<Connection> {
    connect_and_pin(info, application_name, shutdown).map(|(connection, _)| connection)
}

/// Connect if the server answers now; for clean-up, which must not wait for a server that may be the one that failed.
pub fn connect_once(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
    timeout: Duration,
) -> Result<Connection> {
    let info = info.with_connect_timeout(timeout);
    match try_hosts(&info, application_name, shutdown) {
        Ok((connection, _)) => Ok(connection),
        Err(failure) => Err(failure.error),
    }
}

/// Like `connect`, with a conninfo that names only the server that answered: a snapshot belongs to one server.
pub fn connect_and_pin(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
) -> Result<(Connection, ConnInfo)> {
    let give_up = Instant::now() + patience();
    let mut pause = FIRST_PAUSE;
    let mut is_announced = false;
    loop {
        shutdown.check()?;
        let failure = match try_hosts(info, application_name, shutdown) {
            Ok(connected) => return Ok(connected),
            Err(failure) => failure,
        };
        let side = info.side();
        if failure.error.is_interrupted() {
            return Err(failure.error);
        }
        if !failure.may_pass || Instant::now() + pause >= give_up {
            let kind = match side {
                Side::Source => ErrorKind::Source,
                Side::Target => ErrorKind::Target,
            };
            return Err(failure
                .error
                .context(format!("could not connect to {side}"))
                .with_kind(kind));
        }
        if !is_announced {
            is_announced = true;
            log::warn!(
                "could not connect to {side}: {}; trying again for {} s",
                failure.error,
                patience().as_secs()
            );
        }
        shutdown.sleep(pause)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One round over all hosts, or two: prefer-standby takes any server only when no standby answered.
fn try_hosts(
    info: &ConnInfo,
    application_name: &str,
    shutdown: &Shutdown,
) -> std::result::Result<(Connection, ConnInfo), Failure> {
    let rounds: &[TargetSessionAttrs] = match info.target_session_attrs() {
        TargetSessionAttrs::PreferStandby => {
            &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any]
        }
        TargetSessionAttrs::Any => &[TargetSessionAttrs::Any],
        TargetSessionAttrs::ReadWrite => &[TargetSessionAttrs::ReadWrite],
        TargetSessionAttrs::ReadOnly => &[TargetSessionAttrs::ReadOnly],
        TargetSessionAttrs::Primary => &[TargetSessionAttrs::Primary],
        TargetSessionAttrs::Standby => &[TargetSessionAttrs::Standby],
    };
    let mut errors = Vec::new();
    let mut may_pass = false;
    for wanted in rounds {
        for index in host_order(info) {
            match try_host(info, index, *wanted, application_name, shutdown) {
                Ok(connected) => return Ok(connected),
                Err(failure) if failure.error.is_interrupted() => return Err(failure),
                Err(failure) => {
                    may_pass |= failure.may_pass;
                    errors.push(failure.error);
                }
            }
        }
    }
    let Some(last) = errors.pop() else {
        return Err(Failure::lasting(Error::internal(
            "a conninfo without hosts",
        )));
    };
    let error = errors
        .into_iter()
        .rev()
        .fold(last, |last, earlier| last.context(earlier.message()));
    Err(Failure { error, may_pass })
}

fn host_order(info: &ConnInfo) -> Vec<usize> {
    let mut order: Vec<usize> = (0..info.hosts().len()).collect();
    if info.load_balance_hosts() == LoadBalanceHosts::Random {
        shuffle(&mut order);
    }
    order
}

/// Good enough to spread connections; nothing depends on the numbers being hard to guess.
fn shuffle<T>(items: &mut [T]) {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.subsec_nanos());
    let mut state = u64::from(nanos) << 16 | u64::from(std::process::id());
    for at in (1..items.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        items.swap(at, (state >> 33) as usize % (at + 1));
    }
}

fn try_host(
    info: &ConnInfo,
    index: usize,
    wanted: TargetSessionAttrs,
    application_name: &str,
    shutdown: &Shutdown,
) -> std::result::Result<(Connection, ConnInfo), Failure> {
    let host = &info.hosts()[index];
    let mut addresses = addresses(info.side(), host).map_err(Failure::lasting)?;
    if info.load_balance_hosts() == LoadBalanceHosts::Random {
        shuffle(&mut addresses);
    }
    let mut failure = None;
    for address in addresses {
        match try_address(info, host, &address, application_name, shutdown) {
            Ok(mut connection) => {
                check_session(&mut connection, wanted).map_err(Failure::lasting)?;
                let pinned = match &address {
                    Address::Unix(_) => info.pinned(index),
                    Address::Tcp(address) => info.pinned_to_address(index, address.ip()),
                };
                return Ok((connection, pinned));
            }
            Err(error) if error.error.is_interrupted() => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| {
        Failure::lasting(Error::on(info.side(), "the host name has no address"))
    }))
}

/// Names are resolved here, in the one thread that there is.
fn addresses(side: Side, host: &HostSpec) -> Result<Vec<Address>> {
    if let Some(path) = host.socket_path() {
        return Ok(vec![Address::Unix(PathBuf::from(path))]);
    }
    if let Some(address) = host.hostaddr {
        return Ok(vec![Address::Tcp((address, host.port).into())]);
    }
    let name = host.name();
    (name.as_str(), host.port)
        .to_socket_addrs()
        .map(|found| found.map(Address::Tcp).collect())
        .map_err(|error| {
            Error::on(
                side,
                format!("could not resolve host name \"{name}\": {error}"),
            )
        })
}

/// The ways that sslmode allows for this address, in its order.
fn try_address(
    info: &ConnInfo,
    host: &HostSpec,
    address: &Address,
    application_name: &str,
    shutdown: &Shutdown,
) -> std::result::Result<Connection, Failure> {
    let is_unix = matches!(address, Address::Unix(_));
    let mut failure = None;
    for attempt in attempts(info.tls().mode, is_unix) {
        match open(info, host, address, *attempt, application_name, shutdown) {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                // Nobody listens: the other way of asking would find that too.
                let is_final = error.may_pass
                    || error.error.is_interrupted()
                    // A wrong password stays wrong, and must not be sent again without TLS.
                    || error.error.is_any_of(&[SqlState::INVALID_PASSWORD]);
                // The first refusal is the telling one: "no pg_hba.conf entry" for the fallback would hide it.
                failure.get_or_insert(error);
                if is_final {
                    break;
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| Failure::lasting(Error::internal("no way to connect was tried"))))
}

fn open(
    info: &ConnInfo,
    host: &HostSpec,
    address: &Address,
    attempt: TlsAttempt,
    application_name: &str,
    shutdown: &Shutdown,
) -> std::result::Result<Connection, Failure> {
    let side = info.side();
    let deadline = Some(Instant::now() + info.connect_timeout().unwrap_or(DEFAULT_TIMEOUT));
    let socket =
        Socket::connect(address, &info.keepalives(), shutdown, deadline).map_err(|error| {
            match error {
                ConnectError::Refused(error) => Failure {
                    may_pass: is_not_listening(&error),
                    error: Error::connection_lost(side, format!("{address}: {error}")),
                },
                ConnectError::TimedOut => Failure::lasting(Error::connection_lost(
                    side,
                    format!("{address}: timeout expired"),
                )),
                ConnectError::Stopped(error) => Failure::lasting(error),
            }
        })?;
    check_peer(info, &socket).map_err(Failure::lasting)?;
    let (transport, server_end_point) = match attempt {
        TlsAttempt::Plain => (Transport::Plain(socket), None),
        TlsAttempt::Tls => match start_tls(info, host, socket, shutdown, deadline) {
            Ok(TlsStart::Done(transport, end_point)) => (transport, end_point),
            Ok(TlsStart::NotOffered(socket)) if goes_on_without_tls(info) => {
                (Transport::Plain(socket), None)
            }
            Ok(TlsStart::NotOffered(_)) => {
                return Err(Failure::lasting(Error::on(
                    side,
                    format!(
                        "{address}: the server does not support TLS, but \"sslmode\" is \"{}\"",
                        info.tls().mode.as_str()
                    ),
                )));
            }
            Err(error) => return Err(Failure::lasting(error.with_side(side).context(address))),
        },
    };
    let password = info.password_for(host);
    let mut parameters = vec![("application_name".to_string(), application_name.to_string())];
    if let Some(options) = info.options() {
        parameters.push(("options".to_string(), options.to_string()));
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
    Connection::start(side, address.clone(), transport, &login, shutdown, deadline).map_err(
        |error| {
            // Starting up, shutting down, recovering: the server says so itself.
            let may_pass = error.is_any_of(&[SqlState::CANNOT_CONNECT_NOW]);
            Failure {
                error: error.context(address),
                may_pass,
            }
        },
    )
}

/// With prefer a server without TLS is good enough; with allow it has refused the plain way already.
fn goes_on_without_tls(info: &ConnInfo) -> bool {
    info.tls().mode == SslMode::Prefer
}

/// Refused, no socket file, backlog full: what a server that is being restarted looks like.
fn is_not_listening(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        IoErrorKind::ConnectionRefused | IoErrorKind::NotFound | IoErrorKind::WouldBlock
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

/// Whether this server is of the wanted kind.
fn check_session(connection: &mut Connection, wanted: TargetSessionAttrs) -> Result<()> {
    if wanted == TargetSessionAttrs::Any {
        return Ok(());
    }
    let row = connection.query_one(
        "SELECT pg_catalog.pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'",
    )?;
    let (is_standby, is_read_only) = (row.bool(0)?, row.bool(1)?);
    let (fits, name) = match wanted {
        TargetSessionAttrs::ReadWrite => (!is_read_only, "read-write"),
        TargetSessionAttrs::ReadOnly => (is_read_only, "read-only"),
        TargetSessionAttrs::Primary => (!is_standby, "primary"),
        TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => (is_standby, "standby"),
        TargetSessionAttrs::Any => (true, "any"),
    };
    if fits {
        Ok(())
    } else {
        Err(Error::on(
            connection.side(),
            format!("the server is not {name}, as \"target_session_attrs\" asks for"),
        ))
    }
}
