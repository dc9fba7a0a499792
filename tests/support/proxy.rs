//! A TCP proxy in front of a server that breaks in the ways a network does: it cuts after a number of bytes, refuses
//! connections, delays. Runs as threads of the test binary.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait_until;

/// What the threads share with the test.
#[derive(Default)]
struct State {
    /// Bytes that went through, by direction.
    to_server: AtomicU64,
    from_server: AtomicU64,
    /// How many more bytes may come from the server before all connections are cut; `u64::MAX` is no limit.
    budget: Mutex<u64>,
    delay: Mutex<Duration>,
    is_refusing: AtomicBool,
    is_listening: AtomicBool,
    is_over: AtomicBool,
    /// Both ends of every connection, to cut them.
    streams: Mutex<Vec<TcpStream>>,
}

impl State {
    fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

pub struct Proxy {
    port: u16,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listen on a free port and forward to 127.0.0.1:`server_port`.
    pub fn start(server_port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            budget: Mutex::new(u64::MAX),
            is_listening: AtomicBool::new(true),
            ..State::default()
        });
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || accept_all(listener, port, server_port, &shared));
        Proxy {
            port,
            state,
            acceptor: Some(acceptor),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes sent to the server, and received from it, so far.
    pub fn bytes(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (load(&self.state.to_server), load(&self.state.from_server))
    }

    /// Let this many more bytes come from the server, then cut every connection, once.
    pub fn cut_after(&self, bytes: u64) {
        *self.state.budget.lock().unwrap() = bytes;
    }

    /// Cut every connection now.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Wait this long before each forwarded chunk, in both directions.
    pub fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// From now on new connections are refused (`true`), as by a server that is down, or accepted again.
    pub fn refuse(&self, refuse: bool) {
        self.state.is_refusing.store(refuse, Ordering::SeqCst);
        wait_until(Duration::from_secs(5), "the proxy to follow", || {
            self.state.is_listening.load(Ordering::SeqCst) != refuse
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.state.cut();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all(listener: TcpListener, port: u16, server_port: u16, state: &Arc<State>) {
    let mut listener = Some(listener);
    while !state.is_over.load(Ordering::SeqCst) {
        if state.is_refusing.load(Ordering::SeqCst) {
            // Closing the socket is what makes the kernel answer "connection refused".
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(("127.0.0.1", port)).ok();
        }
        state
            .is_listening
            .store(listener.is_some(), Ordering::SeqCst);
        if let Some(listener) = &listener {
            // A blocking accept would not see the flags.
            listener.set_nonblocking(true).unwrap();
            if let Ok((client, _)) = listener.accept() {
                client.set_nonblocking(false).unwrap();
                forward(client, server_port, state);
                continue;
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Connect to the server and copy both directions. A server that is down closes the client's connection.
fn forward(client: TcpStream, server_port: u16, state: &Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        let copy = stream.try_clone().unwrap();
        state.streams.lock().unwrap().push(copy);
    }
    let (client2, server2) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (up, down) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || pump(client, server, &up, false));
    std::thread::spawn(move || pump(server2, client2, &down, true));
}

/// Copy one direction until either end closes.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, is_from_server: bool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let received = from.read(&mut buffer).unwrap_or(0);
        if received == 0 {
            break;
        }
        let delay = *state.delay.lock().unwrap();
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let (allowed, is_cut) = if is_from_server {
            take_from_budget(state, received)
        } else {
            (received, false)
        };
        let counter = if is_from_server {
            &state.from_server
        } else {
            &state.to_server
        };
        counter.fetch_add(allowed as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..allowed]).is_err() {
            break;
        }
        if is_cut {
            state.cut();
            // What the kernel has received already would still be readable.
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// How many of these bytes may pass, and whether that was the end.
fn take_from_budget(state: &State, received: usize) -> (usize, bool) {
    let mut budget = state.budget.lock().unwrap();
    if *budget == u64::MAX {
        return (received, false);
    }
    if *budget > received as u64 {
        *budget -= received as u64;
        return (received, false);
    }
    let allowed = *budget as usize;
    *budget = u64::MAX;
    (allowed, true)
}
