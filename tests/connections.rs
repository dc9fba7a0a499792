//! Every form in which a user can say where a server is, each tried on real servers with `ping`; and servers that are not
//! there, not there yet, or say nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
};

use crate::support::access::set_hba;
use crate::support::cluster::{Cluster, StopMode};
use crate::support::cmd::{Outcome, Running, Scene, unexpected_lines};
use crate::support::version::Version;
use crate::support::wait_until;

/// "Ends at once", on a machine that does other work at the same time.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A password with everything that a connection string gives a meaning.
const ODD_PASSWORD: &str = r"p@ss:w%rd/ '\?&=#é";

/// The source of these tests: over TCP, a user with an odd name needs his odd password.
fn server() -> &'static Cluster {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Cluster::start(
            Version::Debian15,
            &[
                ("listen_addresses", "127.0.0.1,::1"),
                ("log_connections", "on"),
            ],
        );
        let password = ODD_PASSWORD.replace('\'', "''");
        server.psql(
            "postgres",
            &format!("create role \"a@b\" superuser login password '{password}'"),
        );
        server.create_db("a db");
        set_hba(
            &server,
            "local \"a db\" all scram-sha-256\n\
             host all postgres 127.0.0.1/32 trust\n\
             host all postgres ::1/128 trust\n\
             host all all 127.0.0.1/32 scram-sha-256\n",
        );
        server
    })
}

/// A standby of nobody, of another version, so that the answer tells who gave it.
fn standby() -> &'static Cluster {
    static STANDBY: OnceLock<Cluster> = OnceLock::new();
    STANDBY.get_or_init(|| {
        let standby = Cluster::start(Version::Pg16, &[]);
        standby.stop(StopMode::Fast);
        fs::write(standby.data_dir().join("standby.signal"), "").unwrap();
        standby.start_again();
        standby
    })
}

fn closed_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn ping(source: &str) -> Outcome {
    let scene = Scene::new();
    let command = scene.command(["ping", "--source", source]);
    // A mistake of ours must not cost a minute.
    command.env("PGCOPYDB_TEST_PATIENCE_MS", "5000").run()
}

#[track_caller]
fn assert_answers(outcome: &Outcome, version: Version) {
    outcome.assert_success(&[]);
    let answer = format!("answers, PostgreSQL {}", version.major());
    let log = &outcome.stderr;
    assert!(log.contains(&answer), "no \"{answer}\" in\n{log}");
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The file with only its owner's rights, as password files must be.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn every_form_of_a_connection_string() {
    // Trap 54.
    let server = server();
    let (port, dir) = (server.port(), server.socket_dir().to_str().unwrap());
    let (dir_encoded, password) = (percent(dir), percent(ODD_PASSWORD));
    let password_quoted = ODD_PASSWORD.replace('\\', r"\\").replace('\'', r"\'");
    for source in [
        format!("postgresql://postgres@127.0.0.1:{port}/postgres"),
        format!("postgres://postgres@localhost:{port}"),
        format!("postgres://postgres@localhost:{port}/?connect_timeout=10&keepalives_idle=30"),
        format!("postgresql://a%40b:{password}@127.0.0.1:{port}/a%20db"),
        format!("postgresql:///a%20db?host=127.0.0.1&port={port}&user=a%40b&password={password}"),
        format!("postgresql://postgres@[::1]:{port}/postgres?sslmode=disable"),
        format!("postgresql://postgres@{dir_encoded}:{port}/postgres"),
        format!("postgresql://postgres@:{port}/postgres?host={dir}"),
        format!("postgresql://a%40b:{password}@{dir_encoded}:{port}/a%20db"),
        format!("host={dir} port={port} user=postgres dbname=postgres"),
        format!("host = ::1  port={port} user=postgres"),
        format!("host=127.0.0.1 port={port} user='a@b' password='{password_quoted}' dbname='a db'"),
        format!("host=nowhere.invalid hostaddr=127.0.0.1 port={port} user=postgres"),
        format!("hostaddr=::1 port={port} user=postgres"),
        format!(
            "host={dir} port={port} user=postgres requirepeer={}",
            server_user()
        ),
        // Only a Unix socket has a peer to check.
        format!("host=127.0.0.1 port={port} user=postgres requirepeer=nobody"),
    ] {
        assert_answers(&ping(&source), Version::Debian15);
    }
    let authorized = server.log();
    assert!(authorized.contains("connection authorized: user=a@b database=a db"));
}

fn server_user() -> String {
    let user = if nix::unistd::geteuid().is_root() {
        nix::unistd::User::from_name("postgres").unwrap()
    } else {
        nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap()
    };
    user.unwrap().name
}

#[test]
fn mistakes_in_a_connection_string_are_named() {
    let port = server().port();
    let uri = |rest: &str| format!("postgresql://postgres@127.0.0.1:{port}/postgres?{rest}");
    for (source, texts) in [
        (uri("gssencmode=require"), ["gssencmode", "GSS"]),
        (
            uri("sslkeylogfile=/tmp/keys"),
            ["sslkeylogfile", "TLS keys"],
        ),
        (uri("require_auth=sspi"), ["require_auth", "SSPI"]),
        (uri("sslmode=sometimes"), ["sslmode", "sometimes"]),
        (uri("no_such=1"), ["no_such", "source"]),
        (uri("service=nowhere"), ["service", "nowhere"]),
        ("postgresql://h:70000/d".to_owned(), ["port", "65535"]),
        ("host=h password='open".to_owned(), ["source", "quote"]),
        (
            "postgresql://a:b%zz@h/d".to_owned(),
            ["source", "hexadecimal"],
        ),
        ("postgresql://[::1/d".to_owned(), ["source", "]"]),
    ] {
        let outcome = ping(&source);
        assert!(outcome.elapsed < AT_ONCE);
        assert!(!outcome.stderr.contains("open'"), "{}", outcome.stderr);
        let code = outcome.status.code().unwrap();
        assert!(matches!(code, 1 | 2), "{code} {source} {}", outcome.stderr);
        outcome.assert_last_error(code, &texts);
    }
}

#[test]
fn a_peer_that_is_somebody_else_is_refused() {
    let server = server();
    let source = format!("{}&requirepeer=nobody", server.uri("postgres"));
    ping(&source).assert_last_error(6, &["requirepeer", "\"nobody\"", &server_user()]);
}

#[test]
fn options_reach_the_server() {
    let server = server();
    let source = format!(
        "{}&options=-c%20no_such_setting%3D1",
        server.uri("postgres")
    );
    ping(&source).assert_last_error(6, &["no_such_setting", "source", "42704"]);
    let outcome = Scene::new()
        .command(["ping", "--source", &server.uri("postgres")])
        .env("PGOPTIONS", "-c other_setting=1")
        .run();
    outcome.assert_last_error(6, &["other_setting", "42704"]);
}

#[test]
fn services_password_files_and_variables() {
    let server = server();
    let (port, password) = (server.port().to_string(), ODD_PASSWORD);
    let escaped = password.replace('\\', r"\\").replace(':', r"\:");
    let line = format!("127.0.0.1:{port}:a db:a@b:{escaped}\n");
    let scene = Scene::new();
    let (services, passwords) = (scene.path("services"), scene.path("passwords"));
    fs::write(
        &services,
        format!(
            "# ours\n[other]\nhost=nowhere.invalid\n\n\
             [ours]\nhost=127.0.0.1\nport={port}\nuser=a@b\ndbname=a db\n"
        ),
    )
    .unwrap();
    write_private(&passwords, &format!("# ours\n*:1:*:*:wrong\n{line}"));
    let ping = |source: &str| scene.command(["ping", "--source", source]);
    let uri = format!("postgresql://a%40b@127.0.0.1:{port}/a%20db");
    // The files of variables.
    let with_files = |source: &str| {
        ping(source)
            .env("PGSERVICEFILE", &services)
            .env("PGPASSFILE", &passwords)
    };
    for source in ["service=ours", "postgresql://?service=ours", &uri] {
        assert_answers(&with_files(source).run(), Version::Debian15);
    }
    let outcome = with_files("postgresql://").env("PGSERVICE", "ours").run();
    assert_answers(&outcome, Version::Debian15);
    // What the string says comes before what the service says.
    let outcome = with_files("service=ours user=postgres dbname=postgres").run();
    assert_answers(&outcome, Version::Debian15);
    // The file of a parameter.
    let source = format!("{uri}?passfile={}", passwords.to_str().unwrap());
    assert_answers(&ping(&source).run(), Version::Debian15);
    // The files of the home directory.
    let home = scene.path("home");
    fs::copy(&services, home.join(".pg_service.conf")).unwrap();
    write_private(&home.join(".pgpass"), &line);
    assert_answers(&ping("service=ours").run(), Version::Debian15);
    // A password file that others can read is none.
    fs::set_permissions(home.join(".pgpass"), fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = ping("service=ours").run();
    outcome.assert_failure(6, &[".pgpass", "a password is needed for user \"a@b\""]);
    // Nothing but variables.
    let outcome = ping("postgresql://")
        .env("PGHOST", "nowhere.invalid")
        .env("PGHOSTADDR", "127.0.0.1")
        .env("PGPORT", &port)
        .env("PGUSER", "a@b")
        .env("PGDATABASE", "a db")
        .env("PGPASSWORD", password)
        .env("PGSSLMODE", "prefer")
        .env("PGCONNECT_TIMEOUT", "10")
        .env("PGAPPNAME", "mine")
        .run();
    assert_answers(&outcome, Version::Debian15);
}

#[test]
fn several_hosts_and_the_kind_of_server_that_is_wanted() {
    let (primary, standby) = (server().port(), standby().port());
    let closed = closed_port();
    let hosts = |ports: [u16; 2], wanted: &str| {
        let [one, other] = ports;
        ping(&format!(
            "postgresql://postgres@127.0.0.1:{one},127.0.0.1:{other}/postgres?target_session_attrs={wanted}"
        ))
    };
    let (p, s) = (Version::Debian15, Version::Pg16);
    for (ports, wanted, answer) in [
        ([closed, primary], "any", p),
        ([standby, primary], "any", s),
        ([standby, primary], "primary", p),
        ([standby, primary], "read-write", p),
        ([primary, standby], "standby", s),
        ([primary, standby], "read-only", s),
        ([primary, standby], "prefer-standby", s),
        ([closed, primary], "prefer-standby", p),
    ] {
        assert_answers(&hosts(ports, wanted), answer);
    }
    let outcome = hosts([standby, standby], "read-write");
    outcome.assert_last_error(6, &["not read-write", "target_session_attrs"]);
    assert!(outcome.elapsed < AT_ONCE);
    let outcome = ping(&format!(
        "host=a.invalid,b.invalid hostaddr=127.0.0.1,127.0.0.1 port={closed},{primary} user=postgres load_balance_hosts=random"
    ));
    assert_answers(&outcome, p);
}

/// Each connection begins with another host; the one that was written first is not the one that gets them all.
#[test]
fn load_balance_hosts_spreads_connections() {
    let hosts = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?load_balance_hosts=",
        server().port(),
        standby().port()
    );
    let answers = |way: &str| {
        let mut answers = BTreeSet::new();
        // One in half a million runs would see one server only.
        for _ in 0..20 {
            let outcome = ping(&format!("{hosts}{way}"));
            outcome.assert_success(&[]);
            let word = outcome.stderr.split("PostgreSQL ").nth(1).unwrap();
            answers.insert(word[..2].to_owned());
            if answers.len() == 2 {
                break;
            }
        }
        answers.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(answers("random"), ["15", "16"]);
    assert_eq!(answers("disable"), ["15"]);
    let outcome = ping(&format!("{hosts}often"));
    outcome.assert_last_error(1, &["load_balance_hosts", "often"]);
}

/// As libpq's documentation says: "if a connection is established successfully, but authentication fails, the remaining
/// hosts in the list are not tried".
#[test]
fn a_refusal_by_the_first_host_is_the_answer() {
    let (first, second) = (server().port(), standby().port());
    let outcome = ping(&format!(
        "host=127.0.0.1,127.0.0.1 port={first},{second} user=a@b password=wrong dbname=postgres"
    ));
    outcome.assert_last_error(6, &["28P01", &format!("127.0.0.1:{first}")]);
    let log = &outcome.stderr;
    assert!(!log.contains(&format!("127.0.0.1:{second}:")), "{log}");
    assert!(outcome.elapsed < AT_ONCE);
}

#[test]
fn an_address_that_swallows_packets_is_left_after_connect_timeout() {
    // Once the backlog is full the kernel drops what comes in.
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let address = SockaddrIn::new(127, 0, 0, 1, 0);
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).unwrap();
    listen(&fd, Backlog::new(1).unwrap()).unwrap();
    let listener = TcpListener::from(fd);
    let address = listener.local_addr().unwrap();
    let waiting = Duration::from_millis(300);
    let mut fillers = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, waiting) {
        fillers.push(stream);
    }
    let port = address.port();
    let source = format!("postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=2");
    let outcome = ping(&source);
    outcome.assert_last_error(6, &["timeout expired", "source", "127.0.0.1"]);
    assert!(outcome.elapsed >= Duration::from_secs(2));
    assert!(outcome.elapsed < AT_ONCE + Duration::from_secs(2));
    // The next one of the list is tried.
    let source = format!(
        "host=127.0.0.1,127.0.0.1 port={port},{} user=postgres connect_timeout=2",
        server().port()
    );
    assert_answers(&ping(&source), Version::Debian15);
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_left_after_connect_timeout() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for mode in ["disable", "prefer", "require"] {
        let outcome = ping(&format!(
            "postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=2&sslmode={mode}"
        ));
        outcome.assert_failure(6, &["source"]);
        assert!(outcome.elapsed < AT_ONCE + Duration::from_secs(2), "{mode}");
    }
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let late = Cluster::start(Version::Debian15, &[]);
    late.stop(StopMode::Fast);
    for source in [late.tcp_uri("postgres", late.port()), late.uri("postgres")] {
        let scene = Scene::new();
        let running = scene.command(["ping", "--source", &source]).spawn();
        wait_until(AT_ONCE, "a line about it", || {
            running.stderr().contains("trying again")
        });
        late.start_again();
        let outcome = running.wait_deadline(AT_ONCE * 2);
        outcome.assert_success(&["trying again"]);
        // One line, however often it is tried.
        assert_eq!(unexpected_lines(&outcome.stderr, &[]).len(), 1);
        late.stop(StopMode::Fast);
    }
}

#[test]
fn a_server_in_recovery_is_waited_for() {
    let recovering = Cluster::start(Version::Pg16, &[("hot_standby", "off")]);
    recovering.stop(StopMode::Fast);
    let signal = recovering.data_dir().join("standby.signal");
    fs::write(&signal, "").unwrap();
    recovering.start_again();
    let scene = Scene::new();
    let uri = recovering.tcp_uri("postgres", recovering.port());
    let running = scene.command(["ping", "--target", &uri]).spawn();
    wait_until(AT_ONCE, "a line about it", || {
        running.stderr().contains("trying again")
    });
    recovering.stop(StopMode::Fast);
    fs::remove_file(&signal).unwrap();
    recovering.start_again();
    let outcome = running.wait_deadline(AT_ONCE * 2);
    outcome.assert_success(&["trying again"]);
    let lines = unexpected_lines(&outcome.stderr, &[]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("57P03"), "{lines:#?}");
}

#[test]
fn a_signal_ends_the_waiting() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let clone_from = |port: u16, is_waiting: &dyn Fn(&Running) -> bool| {
        let source = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        let scene = Scene::new();
        let target = server().uri("postgres");
        let running = scene.clone_db(&source, &target, &[]).spawn();
        wait_until(AT_ONCE, "it to wait", || is_waiting(&running));
        running.term();
        let outcome = running.wait_deadline(AT_ONCE);
        outcome.assert_signalled(Signal::SIGTERM);
        scene.assert_nothing_left(&outcome);
    };
    // For a server that may come, and for the answer of one that is there.
    clone_from(closed_port(), &|running| {
        running.stderr().contains("trying again")
    });
    let port = silent.local_addr().unwrap().port();
    let kept = RefCell::new(None);
    clone_from(port, &|_| {
        // Closing it would be an answer.
        kept.replace(silent.accept().ok());
        kept.borrow().is_some()
    });
}
