//! TLS as a careful administrator sets it up, with certificates of an authority that the tests make: each sslmode, each
//! reason to distrust a server, client certificates, channel binding, direct TLS; and a whole clone over all of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use pgcopydb::error::Side;
use pgcopydb::pg::connect::connect_once;
use pgcopydb::pg::conninfo::ConnInfo;
use pgcopydb::sys::signal::Shutdown;

use crate::support::access::set_hba;
use crate::support::authority::{Authority, Identity};
use crate::support::cluster::{Cluster, StopMode, shared_source};
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;
use crate::support::leftovers;
use crate::support::version::Version;

const PASSWORD: &str = "lion-4c19d0";
const PASSPHRASE: &str = "open sesame-88e1";

/// Who signs, what was signed, and a server that shows it.
struct World {
    authority: Authority,
    stranger: Authority,
    by_cert: Identity,
    server: Cluster,
    _dir: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(&dir.path().join("ours"), "our authority");
        let stranger = Authority::new(&dir.path().join("theirs"), "another authority");
        let names = "DNS:localhost,IP:127.0.0.1,DNS:*.example.com";
        let server = tls_server(Version::Pg17, &authority, &authority.issue("server", names));
        server.psql(
            "postgres",
            &format!(
                "create role tls_only login; create role plain_only login;
                 create role by_cert superuser login;
                 create role by_scram superuser login password '{PASSWORD}';
                 set password_encryption = 'md5';
                 create role by_md5 login password '{PASSWORD}'"
            ),
        );
        set_hba(
            &server,
            "hostssl all tls_only 127.0.0.1/32 trust\n\
             hostnossl all plain_only 127.0.0.1/32 trust\n\
             hostssl all by_cert 127.0.0.1/32 cert\n\
             hostssl all by_scram 127.0.0.1/32 scram-sha-256\n\
             hostssl all by_md5 127.0.0.1/32 md5\n",
        );
        World {
            by_cert: authority.issue("by_cert", ""),
            authority,
            stranger,
            server,
            _dir: dir,
        }
    })
}

fn tls_server(version: Version, authority: &Authority, identity: &Identity) -> Cluster {
    let server = Cluster::start(version, &[]);
    let data = server.data_dir();
    install(&authority.certificate(), &data.join("ca.crt"));
    show(&server, identity);
    server.configure(&[("ssl", "on"), ("ssl_ca_file", "ca.crt")]);
    server.stop(StopMode::Fast);
    server.start_again();
    server
}

/// Make this the server's certificate; it takes effect at the next start.
fn show(server: &Cluster, identity: &Identity) {
    let data = server.data_dir();
    install(&identity.certificate, &data.join("server.crt"));
    install(&identity.key, &data.join("server.key"));
}

/// A copy that the server may read, and nobody else.
fn install(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    if geteuid().is_root() {
        let user = User::from_name("postgres").unwrap().unwrap();
        chown(to, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

fn conninfo(user: &str, more: &str) -> String {
    let port = world().server.port();
    format!("host=localhost hostaddr=127.0.0.1 port={port} dbname=postgres user={user} {more}")
}

/// `sslrootcert` of our authority.
fn root() -> String {
    format!(
        "sslrootcert='{}'",
        world().authority.certificate().display()
    )
}

fn ping(source: &str) -> Outcome {
    let scene = Scene::new();
    let command = scene.command(["ping", "--source", source]);
    command.env("PGCOPYDB_TEST_PATIENCE_MS", "5000").run()
}

#[track_caller]
fn assert_refused(source: &str, texts: &[&str]) {
    ping(source).assert_last_error(6, &[&["source"], texts].concat());
}

/// The same by everybody who connects: we for ordinary sessions and for replication, and pg_dump with what we give it.
#[track_caller]
fn assert_refused_by_all(source: &str, texts: &[&str]) {
    assert_refused(source, texts);
    let info = ConnInfo::parse(Side::Source, source).unwrap();
    let told = connect_once(
        &info.for_replication(),
        "test",
        &Shutdown::deaf(),
        Duration::from_secs(10),
    );
    let told = told.map(drop).unwrap_err().to_string();
    for text in texts {
        assert!(told.contains(text), "no \"{text}\" in: {told}");
    }
    let child = info.child().unwrap();
    let mut pg_dump = Command::new(Version::Pg17.bindir().join("pg_dump"));
    for name in &child.env_remove {
        pg_dump.env_remove(name);
    }
    let output = pg_dump
        .envs(child.env_set.iter().map(|(name, value)| (name, value)))
        .args(["--schema-only", "--dbname", &child.dbname_argument])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "pg_dump got in");
    let is_about_it =
        told.contains("SSL error: certificate") || told.contains("server certificate for");
    assert!(is_about_it, "{told}");
}

#[test]
fn each_sslmode_connects_with_or_without_tls() {
    let root = root();
    for (mode, with_tls, without) in [
        ("disable", false, true),
        ("allow", true, true),
        ("prefer", true, true),
        ("require", true, false),
        ("verify-ca", true, false),
        ("verify-full", true, false),
    ] {
        for (user, is_let_in) in [("tls_only", with_tls), ("plain_only", without)] {
            let source = conninfo(user, &format!("sslmode={mode} {root}"));
            if is_let_in {
                ping(&source).assert_success(&[]);
            } else {
                assert_refused(&source, &["no pg_hba.conf entry", user, "28000"]);
            }
        }
    }
    ping(&conninfo("tls_only", "")).assert_success(&[]);
}

#[test]
fn a_server_without_tls() {
    let source = shared_source();
    let conninfo = format!("host=127.0.0.1 port={} user=postgres", source.port());
    for mode in ["disable", "allow", "prefer"] {
        ping(&format!("{conninfo} sslmode={mode}")).assert_success(&[]);
    }
    let texts = ["does not support TLS", "sslmode", "require"];
    assert_refused(&format!("{conninfo} sslmode=require"), &texts);
    let texts = ["TLS handshake failed"];
    assert_refused(
        &format!("{conninfo} sslmode=require sslnegotiation=direct"),
        &texts,
    );
}

#[test]
fn the_root_certificate_is_found_where_libpq_looks() {
    let scene = Scene::new();
    let ping = |more: &str| scene.command(["ping", "--source", &conninfo("tls_only", more)]);
    let outcome = ping("sslmode=verify-ca").run();
    outcome.assert_failure(6, &["root certificate file", "root.crt", "does not exist"]);
    let home = scene.path("home").join(".postgresql");
    fs::create_dir(&home).unwrap();
    fs::copy(world().authority.certificate(), home.join("root.crt")).unwrap();
    ping("sslmode=verify-full").run().assert_success(&[]);
    // With that file, "require" means verify-ca.
    fs::copy(world().stranger.certificate(), home.join("root.crt")).unwrap();
    let texts = ["its certificate authority is not in", "root.crt"];
    ping("sslmode=require").run().assert_failure(6, &texts);
    let outcome = ping("")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", world().authority.certificate());
    outcome.run().assert_success(&[]);
}

#[test]
fn the_name_in_the_certificate() {
    let (port, root) = (world().server.port(), root());
    let full = |host: &str| {
        format!("{host} port={port} user=tls_only dbname=postgres sslmode=verify-full {root}")
    };
    ping(&full("host=localhost")).assert_success(&[]);
    ping(&full("host=127.0.0.1")).assert_success(&[]);
    ping(&full("host=db1.example.com hostaddr=127.0.0.1")).assert_success(&[]);
    for name in ["db1.example.org", "a.b.example.com", "example.com"] {
        let host = format!("host={name} hostaddr=127.0.0.1");
        let texts = ["does not match host name", name, "localhost"];
        assert_refused(&full(&host), &texts);
        ping(&full(&host).replace("verify-full", "verify-ca")).assert_success(&[]);
    }
    assert_refused(&full("hostaddr=127.0.0.1"), &["host name"]);
}

#[test]
fn servers_that_are_not_to_be_trusted() {
    let world = world();
    let root = root();
    let server = tls_server(
        Version::Debian15,
        &world.authority,
        &world.authority.issue_expired("old", "DNS:localhost"),
    );
    let source = |more: &str| {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=postgres {more}",
            server.port()
        )
    };
    let verified = source(&format!("sslmode=verify-full {root}"));
    assert_refused_by_all(&verified, &["it has expired", "\"localhost\""]);
    // Who does not ask is not told.
    ping(&source("sslmode=require")).assert_success(&[]);
    let restart_with = |identity: &Identity| {
        show(&server, identity);
        server.stop(StopMode::Fast);
        server.start_again();
    };
    restart_with(&world.stranger.issue("theirs", "DNS:localhost"));
    assert_refused_by_all(
        &verified,
        &["its certificate authority is not in", "ca.crt"],
    );
    let revoked = world.authority.issue("revoked", "DNS:localhost");
    restart_with(&revoked);
    ping(&verified).assert_success(&[]);
    let list = world.authority.revoke(&revoked);
    let checked = format!("{verified} sslcrl='{}'", list.display());
    assert_refused_by_all(&checked, &["it has been revoked"]);
    restart_with(&world.authority.issue("localhost", "DNS:other.example.com"));
    // Where there are alternative names, the common name does not count.
    assert_refused_by_all(&verified, &["does not match host name \"localhost\""]);
    // Not revoked, and the list is there to say so.
    let checked = checked.replace("verify-full", "verify-ca");
    ping(&checked).assert_success(&[]);
    assert_refused(
        &source("sslrootcert=system"),
        &["its certificate authority is not in the system's root certificates"],
    );
    let outcome = ping(&source("sslrootcert=system sslmode=require"));
    outcome.assert_last_error(1, &["weak sslmode", "sslrootcert=system"]);
    // This one does not know direct TLS.
    assert_refused(&source("sslmode=require sslnegotiation=direct"), &["TLS"]);
}

#[test]
fn certificates_of_users() {
    let world = world();
    let with = |identity: &Identity, more: &str| {
        let (certificate, key) = (identity.certificate.display(), identity.key.display());
        conninfo(
            "by_cert",
            &format!("sslmode=require sslcert='{certificate}' sslkey='{key}' {more}"),
        )
    };
    ping(&with(&world.by_cert, "")).assert_success(&[]);
    let needed = ["connection requires a valid client certificate", "28000"];
    assert_refused(&conninfo("by_cert", "sslmode=require"), &needed);
    assert_refused(&with(&world.by_cert, "sslcertmode=disable"), &needed);
    let other = world.authority.issue("tls_only", "");
    assert_refused(
        &with(&other, ""),
        &["certificate authentication failed", "28000"],
    );
    let foreign = world.stranger.issue("by_cert", "");
    assert_refused(&with(&foreign, ""), &["unknown ca"]);
    let expired = world.authority.issue_expired("by_cert", "");
    // The server hangs up at once: with bad luck the reset overtakes the alert that says why, as for libpq.
    let outcome = ping(&with(&expired, ""));
    let is_told = ["certificate expired", "Connection reset"];
    outcome.assert_last_error(6, &[]);
    assert!(
        is_told.iter().any(|text| outcome.stderr.contains(text)),
        "{}",
        outcome.stderr
    );
    // The key: of another certificate, readable for all, under a passphrase.
    let mixed = Identity {
        certificate: world.by_cert.certificate.clone(),
        key: other.key.clone(),
    };
    assert_refused(&with(&mixed, ""), &["private key file", "key"]);
    fs::set_permissions(&other.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(&with(&other, ""), &["has group or world access"]);
    let absent = Identity {
        certificate: other.certificate.clone(),
        key: PathBuf::from("/nonexistent/key"),
    };
    assert_refused(&with(&absent, ""), &["\"/nonexistent/key\""]);
    let encrypted = world.authority.encrypt(&world.by_cert, PASSPHRASE);
    let sslpassword = format!("sslpassword='{PASSPHRASE}'");
    ping(&with(&encrypted, &sslpassword)).assert_success(&[]);
    assert_refused(&with(&encrypted, ""), &["could not load private key file"]);
    let wrong = with(&encrypted, "sslpassword=wolf-310a");
    assert_refused(&wrong, &["could not load private key file"]);
    assert!(!ping(&wrong).stderr.contains("wolf"));
}

#[test]
fn channel_binding_and_protocol_versions() {
    let password = format!("password={PASSWORD}");
    let with = |user: &str, more: &str| conninfo(user, &format!("{password} {more}"));
    for more in [
        "channel_binding=require sslmode=require",
        "channel_binding=require sslmode=require ssl_max_protocol_version=TLSv1.2",
        "channel_binding=prefer",
        "channel_binding=disable sslmode=require ssl_min_protocol_version=TLSv1.3",
        "require_auth=scram-sha-256 sslmode=require",
    ] {
        ping(&with("by_scram", more)).assert_success(&[]);
    }
    let required = "channel_binding=require sslmode=require";
    assert_refused(&with("by_md5", required), &["channel binding"]);
    assert_refused(&conninfo("tls_only", required), &["channel binding"]);
    let wrong = conninfo("by_scram", "password=wolf channel_binding=require");
    assert_refused(&wrong, &["28P01"]);
}

#[test]
fn direct_tls() {
    let root = root();
    let direct = format!("sslnegotiation=direct sslmode=verify-full {root}");
    ping(&conninfo("tls_only", &direct)).assert_success(&[]);
    let outcome = ping(&conninfo("tls_only", "sslnegotiation=direct"));
    outcome.assert_last_error(1, &["sslnegotiation=direct", "weak sslmode \"prefer\""]);
}

/// The source is reached with an encrypted client key, the target with a channel-bound password over direct TLS. Nobody
/// gets in without, so pg_dump and pg_restore must have come the same way.
#[test]
fn a_clone_over_verified_tls() {
    let world = world();
    let server = &world.server;
    let (db, copy) = (server.new_db("sealed"), server.new_db("sealed"));
    server.psql(
        &db,
        "create table t (id int primary key, v text); create index on t (v);
         insert into t select g, repeat('row ' || g, 20) from generate_series(1, 20000) g;
         create materialized view w as select count(*) from t;
         select lo_from_bytea(0, 'large')",
    );
    let encrypted = world.authority.encrypt(&world.by_cert, PASSPHRASE);
    let root = root();
    let from = conninfo(
        "by_cert",
        &format!(
            "sslmode=verify-full {root} sslcert='{}' sslkey='{}' sslpassword='{PASSPHRASE}'",
            encrypted.certificate.display(),
            encrypted.key.display()
        ),
    );
    let to = conninfo(
        "by_scram",
        &format!(
            "sslmode=verify-full {root} password={PASSWORD} channel_binding=require sslnegotiation=direct"
        ),
    );
    let of_db =
        |conninfo: String, db: &str| conninfo.replace("dbname=postgres", &format!("dbname={db}"));
    let scene = Scene::new();
    let outcome = scene
        .clone_db(&of_db(from, &db), &of_db(to, &copy), &["--trace"])
        .tools(Version::Pg17)
        .run();
    outcome.assert_success(&[]);
    for secret in [PASSWORD, PASSPHRASE] {
        assert!(!outcome.stderr.contains(secret), "{}", outcome.stderr);
    }
    assert_same(server, &db, server, &copy);
    scene.assert_nothing_left(&outcome);
    leftovers::assert_no_backend(server, &db);
    leftovers::assert_no_backend(server, &copy);
}
