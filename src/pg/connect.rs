//! From a conninfo to a connection: which host, which address, again or not. Runs in every process that talks to a
//! server. It only says in which order servers are tried; how one is reached is `reach`'s, the policy `conninfo`'s.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::conninfo::{ConnInfo, HostSpec, LoadBalanceHosts, TargetSessionAttrs};
use super::reach::{Failure, Next, reach};
use super::wire::{Address, Connection};
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

/// How long a server that has lost one of its databases gets to answer for another.
const ANSWER: Duration = Duration::from_secs(5);

/// Whether the server takes connections, be it to this database or not: a refusal is an answer too, unless it is that of a
/// server which is stopping or starting (57P01 to 57P03).
pub fn is_there(info: &ConnInfo, application_name: &str, shutdown: &Shutdown) -> Result<bool> {
    match connect_once(info, application_name, shutdown, ANSWER) {
        Ok(_) => Ok(true),
        Err(error) if error.is_interrupted() => Err(error),
        Err(error) => Ok(error
            .sqlstate()
            .is_some_and(|state| !state.starts_with("57P"))),
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
            let error = failure
                .error
                .context(format!("could not connect to {side}"))
                .with_kind(kind);
            return Err(match failure.may_pass {
                true => error.after_waiting(),
                false => error,
            });
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
                Err(failure) if failure.next == Next::Nothing => {
                    return Err(Failure {
                        error: after(errors, failure.error),
                        ..failure
                    });
                }
                Err(failure) => {
                    may_pass |= failure.may_pass;
                    errors.push(failure.error);
                }
            }
        }
    }
    let Some(last) = errors.pop() else {
        return Err(Failure::last(Error::internal("a conninfo without hosts")));
    };
    Err(Failure {
        error: after(errors, last),
        next: Next::Nothing,
        may_pass,
    })
}

/// The last error with those of the hosts before.
fn after(earlier: Vec<Error>, last: Error) -> Error {
    earlier.into_iter().rev().fold(last, |last, earlier| {
        last.context(format!("{}; then", earlier.message()))
    })
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
    let mut addresses =
        addresses(info.side(), host).map_err(|error| Failure::lasting(error, Next::Host))?;
    if info.load_balance_hosts() == LoadBalanceHosts::Random {
        shuffle(&mut addresses);
    }
    let mut failure = None;
    for address in addresses {
        match reach(info, host, &address, application_name, shutdown) {
            Ok(mut connection) => {
                check_session(&mut connection, wanted).map_err(|error| Failure {
                    may_pass: error.is_connection_lost(),
                    next: Next::Host,
                    error: error.context(&address),
                })?;
                let pinned = match &address {
                    Address::Unix(_) => info.pinned(index),
                    Address::Tcp(address) => info.pinned_to_address(index, address.ip()),
                };
                return Ok((connection, pinned));
            }
            Err(error) if error.next == Next::Address => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| {
        let error = Error::on(info.side(), "the host name has no address");
        Failure::lasting(error, Next::Host)
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
