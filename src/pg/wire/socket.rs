//! Sockets and the TLS layer over them: non-blocking descriptors whose waits go through `Shutdown::poll`. Runs in the
//! process that owns the connection; knows nothing of the protocol.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockopt, setsockopt,
    socket, sockopt,
};

use crate::error::Result;
use crate::pg::conninfo::Keepalives;
use crate::sys::signal::{Shutdown, poll_one};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The socket file itself (`/var/run/postgresql/.s.PGSQL.5432`); a leading `@` is Linux's abstract namespace.
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "socket \"{}\"", path.display()),
            Address::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A connected non-blocking socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        nix::unistd::read(&self.fd, buffer).map_err(io::Error::from)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        nix::unistd::write(&self.fd, bytes).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a connection attempt did not get a socket.
#[derive(Debug)]
pub enum ConnectError {
    /// The operating system's answer.
    Refused(io::Error),
    TimedOut,
    Stopped(crate::error::Error),
}

impl Socket {
    /// Connect, waiting at most until `deadline`.
    pub fn connect(
        address: &Address,
        keepalives: &Keepalives,
        shutdown: &Shutdown,
        deadline: Option<Instant>,
    ) -> std::result::Result<Socket, ConnectError> {
        let (fd, target) = open(address).map_err(|errno| ConnectError::Refused(errno.into()))?;
        let begun = match &target {
            Target::Unix(path) => connect(std::os::fd::AsRawFd::as_raw_fd(&fd), path),
            Target::Tcp(storage) => connect(std::os::fd::AsRawFd::as_raw_fd(&fd), storage),
        };
        match begun {
            Ok(()) => {}
            // A Unix socket with a full backlog says EAGAIN and cannot be waited for; the caller retries.
            Err(Errno::EINPROGRESS) | Err(Errno::EINTR) => {
                let ready = poll_one(shutdown, &fd, PollFlags::POLLOUT, deadline)
                    .map_err(ConnectError::Stopped)?;
                if ready.is_empty() {
                    return Err(ConnectError::TimedOut);
                }
                let error = getsockopt(&fd, sockopt::SocketError).unwrap_or(libc::EIO);
                if error != 0 {
                    return Err(ConnectError::Refused(io::Error::from_raw_os_error(error)));
                }
            }
            Err(errno) => return Err(ConnectError::Refused(errno.into())),
        }
        if matches!(address, Address::Tcp(_)) {
            // Failing to set an option is no reason not to connect.
            let _ = set_tcp_options(&fd, keepalives);
        }
        Ok(Socket { fd })
    }

    /// Wait until the blocked operation can go on; `false` when the deadline passed.
    pub fn wait(
        &self,
        blocked: Blocked,
        shutdown: &Shutdown,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        let flags = match blocked {
            Blocked::OnRead => PollFlags::POLLIN,
            Blocked::OnWrite => PollFlags::POLLOUT,
        };
        Ok(!poll_one(shutdown, self, flags, deadline)?.is_empty())
    }

    /// The user name of the process at the other end of a Unix socket (`requirepeer`).
    pub fn peer_user(&self) -> Option<String> {
        let credentials = getsockopt(&self.fd, sockopt::PeerCredentials).ok()?;
        let uid = nix::unistd::Uid::from_raw(credentials.uid());
        nix::unistd::User::from_uid(uid).ok()?.map(|user| user.name)
    }
}

enum Target {
    Unix(UnixAddr),
    Tcp(SockaddrStorage),
}

fn open(address: &Address) -> nix::Result<(OwnedFd, Target)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(match address {
        Address::Unix(path) => {
            let target = match path.to_str().and_then(|text| text.strip_prefix('@')) {
                Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
                None => UnixAddr::new(path)?,
            };
            (
                socket(AddressFamily::Unix, SockType::Stream, flags, None)?,
                Target::Unix(target),
            )
        }
        Address::Tcp(address) => {
            let family = if address.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            (
                socket(family, SockType::Stream, flags, None)?,
                Target::Tcp(SockaddrStorage::from(*address)),
            )
        }
    })
}

fn set_tcp_options(fd: &OwnedFd, keepalives: &Keepalives) -> nix::Result<()> {
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    if keepalives.is_enabled {
        setsockopt(fd, sockopt::KeepAlive, &true)?;
        let seconds = |duration: Duration| duration.as_secs().min(u64::from(u32::MAX)) as u32;
        // Without a value of the user's, a dead peer is noticed in about two minutes instead of the kernel's two hours.
        setsockopt(
            fd,
            sockopt::TcpKeepIdle,
            &keepalives.idle.map_or(60, seconds),
        )?;
        setsockopt(
            fd,
            sockopt::TcpKeepInterval,
            &keepalives.interval.map_or(10, seconds),
        )?;
        setsockopt(fd, sockopt::TcpKeepCount, &keepalives.count.unwrap_or(6))?;
    }
    if let Some(timeout) = keepalives.user_timeout {
        setsockopt(
            fd,
            sockopt::TcpUserTimeout,
            &(timeout.as_millis().min(u128::from(u32::MAX)) as u32),
        )?;
    }
    Ok(())
}

/// A socket, with or without TLS.
pub enum Transport {
    Plain(Socket),
    Tls(Box<openssl::ssl::SslStream<Socket>>),
    /// Left behind by `forget_tls`.
    Closed,
}

/// What a non-blocking read or write has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    OnRead,
    OnWrite,
}

/// One step of I/O: how many bytes, or what to wait for.
pub type Step = io::Result<std::result::Result<usize, Blocked>>;

impl Transport {
    pub fn socket(&self) -> Option<&Socket> {
        match self {
            Transport::Plain(socket) => Some(socket),
            Transport::Tls(stream) => Some(stream.get_ref()),
            Transport::Closed => None,
        }
    }

    /// Read what is there. `Ok(Ok(0))` is the end of the stream.
    pub fn read_once(&mut self, buffer: &mut [u8]) -> Step {
        match self {
            Transport::Plain(socket) => step(socket.read(buffer), Blocked::OnRead),
            Transport::Tls(stream) => tls_step(stream.ssl_read(buffer)),
            Transport::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub fn write_once(&mut self, bytes: &[u8]) -> Step {
        match self {
            Transport::Plain(socket) => step(socket.write(bytes), Blocked::OnWrite),
            Transport::Tls(stream) => tls_step(stream.ssl_write(bytes)),
            Transport::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whether TLS holds decrypted bytes that poll() cannot see.
    pub fn has_buffered_input(&self) -> bool {
        match self {
            Transport::Tls(stream) => stream.ssl().pending() > 0,
            _ => false,
        }
    }

    /// Close the descriptor without a TLS close-notify.
    pub fn forget_tls(&mut self) {
        *self = Transport::Closed;
    }

    /// Wait until the blocked operation can go on; `false` when the deadline passed.
    pub fn wait(
        &self,
        blocked: Blocked,
        shutdown: &Shutdown,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        match self.socket() {
            Some(socket) => socket.wait(blocked, shutdown, deadline),
            None => Ok(true),
        }
    }
}

fn step(result: io::Result<usize>, blocked: Blocked) -> Step {
    match result {
        Ok(count) => Ok(Ok(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Err(blocked)),
        // Nothing was transferred: the wait that follows sees the stop flag.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Err(blocked)),
        Err(error) => Err(error),
    }
}

fn tls_step(result: std::result::Result<usize, openssl::ssl::Error>) -> Step {
    use openssl::ssl::ErrorCode;
    match result {
        Ok(count) => Ok(Ok(count)),
        Err(error) => match error.code() {
            ErrorCode::WANT_READ => Ok(Err(Blocked::OnRead)),
            ErrorCode::WANT_WRITE => Ok(Err(Blocked::OnWrite)),
            ErrorCode::ZERO_RETURN => Ok(Ok(0)),
            _ => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Keepalive on or off, seconds of idleness, seconds between probes, probes, milliseconds unacknowledged.
    fn options(keepalives: Keepalives) -> (bool, u32, u32, u32, u32) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let socket = Socket::connect(&address, &keepalives, &Shutdown::deaf(), None).unwrap();
        let fd = &socket.fd;
        (
            getsockopt(fd, sockopt::KeepAlive).unwrap(),
            getsockopt(fd, sockopt::TcpKeepIdle).unwrap(),
            getsockopt(fd, sockopt::TcpKeepInterval).unwrap(),
            getsockopt(fd, sockopt::TcpKeepCount).unwrap(),
            getsockopt(fd, sockopt::TcpUserTimeout).unwrap(),
        )
    }

    #[test]
    fn dead_peers_are_noticed_in_two_minutes_or_as_the_user_says() {
        let mut keepalives = Keepalives {
            is_enabled: true,
            idle: None,
            interval: None,
            count: None,
            user_timeout: None,
        };
        assert_eq!(options(keepalives), (true, 60, 10, 6, 0));
        keepalives.idle = Some(Duration::from_secs(7));
        keepalives.interval = Some(Duration::from_secs(8));
        keepalives.count = Some(9);
        keepalives.user_timeout = Some(Duration::from_millis(1500));
        assert_eq!(options(keepalives), (true, 7, 8, 9, 1500));
        keepalives.is_enabled = false;
        assert!(!options(keepalives).0);
    }
}
