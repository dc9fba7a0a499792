//! Each way to prove who one is, without TLS; and that a password is seen by nobody: not in the log, not in the work
//! directory, not in the command line of any process.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use pgcopydb::ident::quote_ident;

use crate::support::access::{Spies, files_with, set_hba};
use crate::support::cluster::Cluster;
use crate::support::cmd::{Outcome, Scene};
use crate::support::compare::assert_same;
use crate::support::leftovers;
use crate::support::version::Version;

const AT_ONCE: Duration = Duration::from_secs(5);

/// Of every role here; found nowhere else.
const PASSWORD: &str = "tiger-7f3a91";

/// Of one role: processes of other tests show theirs in their first moment.
const SEEN_BY_NOBODY: &str = "otter-d0e44b";

fn server() -> &'static Cluster {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Cluster::start(Version::Debian15, &[]);
        server.psql(
            "postgres",
            &format!(
                "set password_encryption = 'md5';
                 create role by_md5 login password '{PASSWORD}';
                 set password_encryption = 'scram-sha-256';
                 create role by_scram superuser login password '{PASSWORD}';
                 create role by_secret superuser login password '{SEEN_BY_NOBODY}';
                 create role by_password login password '{PASSWORD}';
                 create role of_two_schemes login password 'caf\u{e9} \u{ff21}';
                 create role nobody login password '{PASSWORD}';
                 create role by_gss login; create role by_trust login;
                 create role {} superuser login",
                quote_ident(&os_user())
            ),
        );
        set_hba(
            &server,
            "local all by_scram scram-sha-256\n\
             local all all peer\n\
             host all by_md5 127.0.0.1/32 md5\n\
             host all by_password 127.0.0.1/32 password\n\
             host all by_gss 127.0.0.1/32 gss\n\
             host all by_trust 127.0.0.1/32 trust\n\
             host all rejected 127.0.0.1/32 reject\n\
             host all all 127.0.0.1/32 scram-sha-256\n",
        );
        server
    })
}

fn os_user() -> String {
    User::from_uid(geteuid()).unwrap().unwrap().name
}

fn ping(side: &str, conninfo: &str) -> Outcome {
    let scene = Scene::new();
    let outcome = scene.command(["ping", side, conninfo]).run();
    assert!(outcome.elapsed < AT_ONCE, "{:?}", outcome.elapsed);
    let output = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!output.contains(PASSWORD), "{output}");
    outcome
}

fn tcp(user: &str, more: &str) -> String {
    let port = server().port();
    format!("host=127.0.0.1 port={port} dbname=postgres user={user} {more}")
}

#[test]
fn each_method() {
    let password = format!("password={PASSWORD}");
    for (user, more) in [
        ("by_scram", password.as_str()),
        ("by_md5", &password),
        ("by_password", &password),
        ("by_trust", ""),
        // The form that SASLprep makes of a full-width A.
        ("of_two_schemes", "password='café A'"),
        (
            "by_scram",
            &format!("{password} require_auth=scram-sha-256"),
        ),
        ("by_md5", &format!("{password} require_auth=md5,password")),
        ("by_trust", "require_auth=none"),
        ("by_scram", &format!("{password} channel_binding=disable")),
    ] {
        ping("--source", &tcp(user, more)).assert_success(&[]);
    }
}

#[test]
fn the_user_of_the_operating_system() {
    let server = server();
    let (dir, port) = (server.socket_dir().display(), server.port());
    // Without a user name it is the one of the operating system.
    let conninfo = format!("host={dir} port={port} dbname=postgres");
    ping("--source", &conninfo).assert_success(&[]);
    let outcome = ping("--source", &format!("{conninfo} user=nobody"));
    outcome.assert_last_error(
        6,
        &["Peer authentication failed for user \"nobody\"", "28000"],
    );
}

#[test]
fn a_wrong_password_ends_it_at_once() {
    let wrong = "password=wolf-55b0c2";
    for user in ["by_scram", "by_md5", "by_password"] {
        for (side, code) in [("--source", 6), ("--target", 7)] {
            let outcome = ping(side, &tcp(user, wrong));
            let failed = format!("password authentication failed for user \"{user}\"");
            outcome.assert_last_error(code, &[&failed, &side[2..], "28P01"]);
            assert!(!outcome.stderr.contains("wolf"), "{}", outcome.stderr);
            assert!(!outcome.stderr.contains("again"), "{}", outcome.stderr);
        }
    }
    // Tried once, though sslmode "prefer" has two ways to connect.
    let tries = |log: String| {
        let text = "password authentication failed for user \"of_two_schemes\"";
        log.matches(text).count()
    };
    let before = tries(server().log());
    ping("--source", &tcp("of_two_schemes", wrong)).assert_failure(6, &[]);
    assert_eq!(tries(server().log()), before + 1);
}

#[test]
fn refusals_say_why() {
    let password = format!("password={PASSWORD}");
    for (user, more, text) in [
        ("by_scram", "", "a password is needed for user \"by_scram\""),
        ("by_md5", "", "a password is needed for user \"by_md5\""),
        (
            "by_gss",
            "",
            "the server asks for GSS authentication, which is not supported",
        ),
        ("rejected", "", "pg_hba.conf rejects connection"),
        ("stranger", &password, "password authentication failed"),
        (
            "by_scram",
            &format!("{password} require_auth=md5"),
            "require_auth",
        ),
        ("by_trust", "require_auth=!none", "require_auth"),
        (
            "by_password",
            &format!("{password} require_auth=scram-sha-256"),
            "require_auth",
        ),
        (
            "by_scram",
            &format!("{password} channel_binding=require"),
            "channel binding",
        ),
        (
            "by_md5",
            &format!("{password} channel_binding=require"),
            "channel binding",
        ),
        ("by_trust", "channel_binding=require", "channel binding"),
    ] {
        ping("--target", &tcp(user, more)).assert_last_error(7, &[text, "target"]);
    }
}

/// A clone with a password on both sides, in the connection string where it is most likely to leak.
#[test]
fn nobody_sees_the_password_of_a_clone() {
    let server = server();
    let (db, copy) = (server.new_db("secret"), server.new_db("secret"));
    server.psql(
        &db,
        "create table t (id int primary key, v text); create index on t (v);
         insert into t select g, 'row ' || g from generate_series(1, 1000) g;
         create view w as select * from t",
    );
    let uri = |db: &str| {
        let port = server.port();
        format!("postgresql://by_secret:{SEEN_BY_NOBODY}@127.0.0.1:{port}/{db}")
    };
    let scene = Scene::new();
    let spies = Spies::new(&scene.path("spies"), Version::Debian15);
    let work_dir = scene.work_dir();
    let outcome = scene
        .clone_db(&uri(&db), &uri(&copy), &["--trace"])
        .env("PATH", spies.path())
        .run();
    outcome.assert_success(&[]);
    assert_same(server, &db, server, &copy);
    let seen = spies.command_lines();
    // The lines are those of the whole machine, so a failure must not print them.
    for text in [
        "user=by_secret",
        "pg_restore --format=custom",
        "clone --source postgres://by_secret:****@",
    ] {
        assert!(seen.contains(text), "no command line has \"{text}\"");
    }
    assert!(!seen.contains(SEEN_BY_NOBODY), "seen in a command line");
    let output = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!output.contains(SEEN_BY_NOBODY), "{output}");
    assert_eq!(
        files_with(&work_dir, SEEN_BY_NOBODY),
        Vec::<std::path::PathBuf>::new()
    );
    scene.assert_nothing_left(&outcome);
    leftovers::assert_no_backend(server, &copy);
}

/// A parameter that the pg_dump beside the server does not know yet cannot be handed on, and must not be dropped.
#[test]
fn a_parameter_that_is_newer_than_pg_dump_is_named() {
    let server = server();
    let (db, copy) = (server.new_db("newer"), server.new_db("newer"));
    let of = |db: &str, more: &str| {
        let more = format!("password={PASSWORD} {more}");
        tcp("by_scram", &more).replace("dbname=postgres", &format!("dbname={db}"))
    };
    let scene = Scene::new();
    let (from, to) = (of(&db, "require_auth=scram-sha-256"), of(&copy, ""));
    let outcome = scene
        .clone_db(&from, &to, &[])
        .tools(Version::Debian15)
        .run();
    outcome.assert_last_error(12, &["could not dump the schema", "require_auth"]);
    // Where one host is left there is nothing to balance.
    let scene = Scene::new();
    let from = of(&db, "load_balance_hosts=random");
    let outcome = scene
        .clone_db(&from, &to, &[])
        .tools(Version::Debian15)
        .run();
    outcome.assert_success(&[]);
}

/// With several hosts the password file is the only one who knows which password is whose.
#[test]
fn a_clone_with_a_password_file_and_a_host_list() {
    let server = server();
    let (db, copy) = (server.new_db("listed"), server.new_db("listed"));
    server.psql(
        &db,
        "create table t (id int primary key); insert into t values (1)",
    );
    let scene = Scene::new();
    let (port, closed) = (server.port(), 1);
    let file = scene.path("passwords");
    fs::write(
        &file,
        format!("*:{port}:*:by_scram:{PASSWORD}\n*:*:*:*:wrong\n"),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, mode).unwrap();
    let uri = |db: &str| {
        format!(
            "postgresql://by_scram@localhost:{closed},127.0.0.1:{port}/{db}?target_session_attrs=read-write&passfile={}",
            file.display()
        )
    };
    let outcome = scene.clone_db(&uri(&db), &uri(&copy), &[]).run();
    outcome.assert_success(&[]);
    assert_same(server, &db, server, &copy);
    scene.assert_nothing_left(&outcome);
}
