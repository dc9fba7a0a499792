//! Whole connection strings through `ConnInfo::parse_with`: forms, precedence, files, secrets, children.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{ChannelBinding, ConnInfo, Environment, LoadBalanceHosts, TargetSessionAttrs};
use crate::error::{ErrorKind, Side};
use crate::pg::tls::{Negotiation, RootCert, SslMode, TlsFile};

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        vars: variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.into()))
            .collect(),
        home: None,
        os_user: Some("me".to_string()),
        socket_dir: PathBuf::from("/run/pg"),
        sysconf_dir: PathBuf::from("/nonexistent"),
    }
}

fn parse(text: &str) -> Result<ConnInfo, String> {
    parse_in(text, &environment(&[]))
}

fn parse_in(text: &str, environment: &Environment) -> Result<ConnInfo, String> {
    ConnInfo::parse_with(Side::Source, text, environment).map_err(|error| {
        assert_eq!(error.side(), Some(Side::Source));
        let prefix = "cannot use the source connection string: ";
        error.to_string().replacen(prefix, "", 1)
    })
}

fn identity(text: &str) -> String {
    match parse(text) {
        Ok(info) => info.identity(),
        Err(error) => format!("error: {error}"),
    }
}

fn password(info: &ConnInfo) -> Option<String> {
    let password = info.password_for(&info.hosts()[0]);
    password.map(|password| password.expose().to_string())
}

#[test]
fn reads_every_form() {
    for (text, expected) in [
        ("", "host=/run/pg port=5432 dbname=me user=me"),
        ("film", "host=/run/pg port=5432 dbname=film user=me"),
        ("user=ann", "host=/run/pg port=5432 dbname=ann user=ann"),
        (
            "user='' dbname=''",
            "host=/run/pg port=5432 dbname=me user=me",
        ),
        ("postgres://", "host=/run/pg port=5432 dbname=me user=me"),
        (
            "postgresql:///film",
            "host=/run/pg port=5432 dbname=film user=me",
        ),
        ("postgres://db", "host=db port=5432 dbname=me user=me"),
        ("postgres://db/", "host=db port=5432 dbname=me user=me"),
        ("postgres://db:1/film", "host=db port=1 dbname=film user=me"),
        (
            "postgres://db:/film",
            "host=db port=5432 dbname=film user=me",
        ),
        (
            "postgres://ann@db/film",
            "host=db port=5432 dbname=film user=ann",
        ),
        (
            "postgres://ann:@db/film",
            "host=db port=5432 dbname=film user=ann",
        ),
        (
            "postgres://@db/film",
            "host=db port=5432 dbname=film user=me",
        ),
        (
            "postgres://ann@/film",
            "host=/run/pg port=5432 dbname=film user=ann",
        ),
        (
            "postgres://ann%40srv@db",
            "host=db port=5432 dbname=ann@srv user=ann@srv",
        ),
        (
            "postgres://db/%66%20%C3%A9",
            "host=db port=5432 dbname='f é' user=me",
        ),
        ("postgres://db/a/b", "host=db port=5432 dbname=a/b user=me"),
        ("postgres://db/a@b", "host=db port=5432 dbname=a@b user=me"),
        (
            "postgres://[::1]/film",
            "host=::1 port=5432 dbname=film user=me",
        ),
        (
            "postgres://[::1]:7/film",
            "host=::1 port=7 dbname=film user=me",
        ),
        ("postgres://[::1]", "host=::1 port=5432 dbname=me user=me"),
        (
            "postgres://[::1],[2001:db8::2]:7/x",
            "host=::1,2001:db8::2 port=5432,7 dbname=x user=me",
        ),
        ("postgres://a:1,b:2/x", "host=a,b port=1,2 dbname=x user=me"),
        (
            "postgres://a,b:2,c/x",
            "host=a,b,c port=5432,2,5432 dbname=x user=me",
        ),
        (
            "postgres://a,,c/x",
            "host=a,/run/pg,c port=5432,5432,5432 dbname=x user=me",
        ),
        (
            "postgres://%2Ftmp/x",
            "host=/tmp port=5432 dbname=x user=me",
        ),
        ("postgres://%2Ftmp:9/x", "host=/tmp port=9 dbname=x user=me"),
        (
            "postgres:///x?host=/tmp&port=9",
            "host=/tmp port=9 dbname=x user=me",
        ),
        (
            "postgres://?host=/tmp&user=ann",
            "host=/tmp port=5432 dbname=ann user=ann",
        ),
        (
            "postgres://db?dbname=x&",
            "host=db port=5432 dbname=x user=me",
        ),
        ("postgres://db/x?", "host=db port=5432 dbname=x user=me"),
        (
            "postgres://db/x?user=a%26b",
            "host=db port=5432 dbname=x user='a&b'",
        ),
        ("postgres:// db /x", "host=db port=5432 dbname=x user=me"),
        ("host=a,b port=7", "host=a,b port=7,7 dbname=me user=me"),
        ("host=a,b port=7,", "host=a,b port=7,5432 dbname=me user=me"),
        ("host=a port=' 7 '", "host=a port=7 dbname=me user=me"),
        (
            "hostaddr=10.0.0.1",
            "host=10.0.0.1 port=5432 dbname=me user=me",
        ),
        (
            "host=db hostaddr=10.0.0.1",
            "host=db port=5432 dbname=me user=me",
        ),
        (
            "host=a, hostaddr=,::1",
            "host=a,::1 port=5432,5432 dbname=me user=me",
        ),
        (
            "host=@abstract",
            "host=@abstract port=5432 dbname=me user=me",
        ),
        (
            "host=db client_encoding=latin1 sslcompression=1 krbsrvname=x gsslib=y",
            "host=db port=5432 dbname=me user=me",
        ),
        (
            "min_protocol_version=3.0 max_protocol_version=latest gssencmode=prefer",
            "host=/run/pg port=5432 dbname=me user=me",
        ),
    ] {
        assert_eq!(identity(text), expected, "{text}");
    }
}

#[test]
fn says_what_is_wrong() {
    for (text, expected) in [
        (
            "host=a,b hostaddr=::1",
            "could not match 2 host names to 1 \"hostaddr\" values",
        ),
        (
            "host=a port=1,2",
            "could not match 2 port numbers to 1 hosts",
        ),
        (
            "hostaddr=db",
            "invalid \"hostaddr\": \"db\" is not an IP address",
        ),
        ("port=0", "invalid port number: \"0\""),
        ("port=65536", "invalid port number: expected 1 to 65535"),
        (
            "postgres://[::1",
            "missing \"]\" after an IPv6 address in a URI",
        ),
        ("postgres://[]/x", "empty IPv6 address in a URI"),
        (
            "postgres://[::1]x",
            "unexpected character after an IPv6 address in a URI: expected \":\", \"/\", \"?\" or \",\"",
        ),
        (
            "postgres://db?colour=1",
            "unknown URI query parameter \"colour\"",
        ),
        (
            "postgres://db?user",
            "missing \"=\" in URI query parameter \"user\"",
        ),
        (
            "postgres://db?user=a=b",
            "more than one \"=\" in URI query parameter \"user\"",
        ),
        (
            "postgres://db?&user=a",
            "missing \"=\" in URI query parameter \"\"",
        ),
        (
            "postgres://a b@db",
            "invalid user: it contains a blank, which must be written as %20",
        ),
        (
            "postgres://db/%0",
            "invalid dbname: a \"%\" is not followed by two hexadecimal digits",
        ),
        ("postgres://db/%00", "invalid dbname: %00 is forbidden"),
        (
            "postgres://db/%FF",
            "invalid dbname: the decoded text is not valid UTF-8",
        ),
        (
            "sslmode=maybe",
            "invalid value \"maybe\" for parameter \"sslmode\": unknown value",
        ),
        (
            "connect_timeout=5s",
            "invalid value \"5s\" for parameter \"connect_timeout\": expected an integer",
        ),
        (
            "gssencmode=require",
            "invalid value \"require\" for parameter \"gssencmode\": GSS encryption is not supported",
        ),
        (
            "sslkeylogfile=/x",
            "cannot use parameter \"sslkeylogfile\": logging of TLS keys is not supported",
        ),
        (
            "min_protocol_version=3.2",
            "invalid value \"3.2\" for parameter \"min_protocol_version\": pgcopydb speaks protocol version 3.0",
        ),
        (
            "max_protocol_version=2.0",
            "invalid value \"2.0\" for parameter \"max_protocol_version\": expected 3.0, 3.2 or latest",
        ),
        (
            "require_auth=gss",
            "invalid value \"gss\" for parameter \"require_auth\": GSS, SSPI and OAuth authentication are not supported",
        ),
        (
            "sslnegotiation=direct",
            "weak sslmode \"prefer\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\" or \
             \"verify-full\")",
        ),
        (
            "sslrootcert=system sslmode=require",
            "weak sslmode \"require\" may not be used with sslrootcert=system (use \"verify-full\")",
        ),
        (
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "\"ssl_min_protocol_version\" is higher than \"ssl_max_protocol_version\"",
        ),
        ("service=none", "definition of service \"none\" not found"),
        (
            "service=x servicefile=/nonexistent/f",
            "service file \"/nonexistent/f\" not found",
        ),
    ] {
        assert_eq!(parse(text).err().as_deref(), Some(expected), "{text}");
    }
    let error = ConnInfo::parse_with(Side::Target, "port=x", &environment(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(error.side(), Some(Side::Target));
}

/// The "@" or "/" of these passwords should have been encoded; whatever is made of them, no error shows them.
#[test]
fn never_shows_a_misplaced_password() {
    for text in [
        "postgres://ann@srv:s3cret@db/film",
        "postgres://ann:x@s3cret@db/film",
        "postgres://ann:s3cret/x@db/film",
        "postgres://ann:s3cret%zz@db/film",
        "postgres://ann:s3cret%FF@db/film",
        "postgres://ann:s3cret x@db/film",
        "postgres://db/film?password=x&s3cret=1",
        "postgres://db/film?password=x&s3cret",
        "postgres://db/film?password=x=s3cret",
        "password=x s3cret",
        "password=x s3cret=1",
        "password='s3cret",
        "sslpassword=x s3cret",
    ] {
        let error = ConnInfo::parse_with(Side::Source, text, &environment(&[])).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn takes_the_environment_last() {
    let environment = environment(&[
        ("PGHOST", "envhost"),
        ("PGPORT", "77"),
        ("PGUSER", "envuser"),
        ("PGDATABASE", "envdb"),
        ("PGPASSWORD", "envpassword"),
        ("PGOPTIONS", "-c geqo=off"),
        ("PGAPPNAME", "envapp"),
        ("PGCONNECT_TIMEOUT", "9"),
        ("PGREQUIRESSL", "1"),
        ("PGCHANNELBINDING", "disable"),
        ("PGTARGETSESSIONATTRS", "primary"),
        ("PGLOADBALANCEHOSTS", "random"),
        ("PGREQUIREPEER", "postgres"),
    ]);
    let info = parse_in("", &environment).unwrap();
    assert_eq!(
        info.identity(),
        "host=envhost port=77 dbname=envdb user=envuser"
    );
    assert_eq!(password(&info).as_deref(), Some("envpassword"));
    assert_eq!(info.options(), Some("-c geqo=off"));
    assert_eq!(info.application_name(), Some("envapp"));
    assert_eq!(info.connect_timeout().unwrap().as_secs(), 9);
    assert_eq!(info.tls().mode, SslMode::Require);
    assert_eq!(info.channel_binding(), ChannelBinding::Disable);
    assert_eq!(info.target_session_attrs(), TargetSessionAttrs::Primary);
    assert_eq!(info.load_balance_hosts(), LoadBalanceHosts::Random);
    assert_eq!(info.requirepeer(), Some("postgres"));
    let info = parse_in("postgres://u:p@h:1/d?sslmode=allow", &environment).unwrap();
    assert_eq!(info.identity(), "host=h port=1 dbname=d user=u");
    assert_eq!(password(&info).as_deref(), Some("p"));
    assert_eq!(info.tls().mode, SslMode::Allow);
    // Without a database name the user's is taken, but only when the environment has none.
    assert_eq!(parse_in("user=u", &environment).unwrap().dbname(), "envdb");
}

#[test]
fn names_the_variable_of_a_bad_value() {
    for (name, value, expected) in [
        (
            "PGSSLMODE",
            "bad",
            "invalid value \"bad\" for parameter \"sslmode\" (from environment variable PGSSLMODE): unknown value",
        ),
        (
            "PGGSSENCMODE",
            "require",
            "invalid value \"require\" for parameter \"gssencmode\" (from environment variable PGGSSENCMODE): GSS \
             encryption is not supported",
        ),
        ("PGSERVICE", "x", "definition of service \"x\" not found"),
    ] {
        let error = parse_in("", &environment(&[(name, value)])).err();
        assert_eq!(error.as_deref(), Some(expected));
    }
}

#[test]
fn reads_numbers_and_switches() {
    let info =
        parse("connect_timeout=-1 keepalives=0 keepalives_idle=0 keepalives_count=3").unwrap();
    assert_eq!(info.connect_timeout(), None);
    assert!(!info.keepalives().is_enabled);
    assert_eq!(info.keepalives().idle, None);
    assert_eq!(info.keepalives().count, Some(3));
    let info = parse("keepalives_idle=10 keepalives_interval=20 tcp_user_timeout=30").unwrap();
    assert!(info.keepalives().is_enabled);
    assert_eq!(info.keepalives().idle.unwrap().as_secs(), 10);
    assert_eq!(info.keepalives().interval.unwrap().as_secs(), 20);
    assert_eq!(info.keepalives().user_timeout.unwrap().as_millis(), 30);
    let info = parse("fallback_application_name=f").unwrap();
    assert_eq!(info.application_name(), Some("f"));
    let info = parse("fallback_application_name=f application_name=a").unwrap();
    assert_eq!(info.application_name(), Some("a"));
}

#[test]
fn reads_tls_settings() {
    let mode = |text: &str| parse(text).unwrap().tls().mode;
    assert_eq!(mode(""), SslMode::Prefer);
    assert_eq!(mode("postgres://db?ssl=true"), SslMode::Require);
    assert_eq!(mode("sslrootcert=system"), SslMode::VerifyFull);
    let info =
        parse("sslrootcert=system sslnegotiation=direct sslsni=0 sslcertmode=disable").unwrap();
    assert_eq!(info.tls().root_cert, RootCert::System);
    assert_eq!(info.tls().negotiation, Negotiation::Direct);
    assert!(!info.tls().sends_server_name);
    assert!(!info.tls().sends_certificate);
    assert_eq!(info.tls().cert, TlsFile::Nowhere);
    let mut environment = environment(&[]);
    environment.home = Some(PathBuf::from("/home/me"));
    let info = parse_in("sslcert=/c.crt", &environment).unwrap();
    let default = |name: &str| TlsFile::Default(Path::new("/home/me/.postgresql").join(name));
    assert_eq!(info.tls().cert, TlsFile::Given(PathBuf::from("/c.crt")));
    assert_eq!(info.tls().key, default("postgresql.key"));
    assert_eq!(info.tls().root_cert, RootCert::File(default("root.crt")));
    assert_eq!(info.tls().crl_file, default("root.crl"));
    let info = parse_in("sslcrldir=/crls", &environment).unwrap();
    assert_eq!(info.tls().crl_file, TlsFile::Nowhere);
}

#[test]
fn reads_service_files() {
    let dir = tempfile::tempdir().unwrap();
    let content = "# comment\n[other]\nhost=wrong\n\n[prod]\n# inside\n host=db1\nport=7\nuser=svc \n\
                   password=svc=pw\nsslmode=require\n[prod]\nhost=second\n[bad]\nhost\n[odd]\ncolour=1\n\
                   [nested]\nservice=prod\n[directory]\nldap://x/y\n";
    let file = dir.path().join("services.conf");
    std::fs::write(&file, content).unwrap();
    let mut environment = environment(&[
        ("PGSERVICEFILE", file.to_str().unwrap()),
        ("PGUSER", "envuser"),
        ("PGPORT", "99"),
    ]);
    let info = parse_in("service=prod dbname=film", &environment).unwrap();
    assert_eq!(info.identity(), "host=db1 port=7 dbname=film user=svc");
    assert_eq!(password(&info).as_deref(), Some("svc=pw"));
    assert_eq!(info.tls().mode, SslMode::Require);
    let info = parse_in("postgres://ann@/?service=prod&port=8", &environment).unwrap();
    assert_eq!(info.identity(), "host=db1 port=8 dbname=ann user=ann");
    for (service, reason) in [
        ("bad", "line 15: syntax error: missing \"=\""),
        ("odd", "line 17: unknown parameter \"colour\""),
        ("nested", "line 19: a service cannot name another service"),
        (
            "directory",
            "line 21: services defined by an \"ldap:\" URL are not supported",
        ),
        ("missing", "definition of service \"missing\" not found"),
    ] {
        let error = parse_in(&format!("service={service}"), &environment).unwrap_err();
        assert!(error.ends_with(reason), "{error}");
    }
    // The user's file, then the system's.
    environment.vars.remove("PGSERVICEFILE");
    environment.home = Some(dir.path().to_path_buf());
    std::fs::write(dir.path().join(".pg_service.conf"), "[mine]\nhost=home\n").unwrap();
    std::fs::write(dir.path().join("pg_service.conf"), "[all]\nhost=system\n").unwrap();
    environment
        .vars
        .insert("PGSYSCONFDIR".to_string(), dir.path().into());
    for (service, host) in [("mine", "home"), ("all", "system")] {
        environment
            .vars
            .insert("PGSERVICE".to_string(), service.into());
        let info = parse_in("", &environment).unwrap();
        assert_eq!(info.hosts()[0].name(), host);
    }
}

#[test]
fn finds_passwords() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".pgpass");
    std::fs::write(
        &file,
        "db:5432:film:me:one\ndb:5432:postgres:me:two\nlocalhost:*:*:me:local\n10.0.0.1:*:*:*:address\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut environment = environment(&[]);
    environment.home = Some(dir.path().to_path_buf());
    for (text, expected) in [
        ("host=db dbname=film", Some("one")),
        ("host=db dbname=film password=given", Some("given")),
        ("host=db dbname=film password=''", Some("one")),
        ("host=db dbname=other", None),
        ("host=db dbname=film passfile=/nonexistent", None),
        ("dbname=film", Some("local")),
        ("host=/run/pg", Some("local")),
        ("host=/tmp", None),
        ("host=localhost", Some("local")),
        ("hostaddr=10.0.0.1", Some("address")),
        ("host=db hostaddr=10.0.0.1 dbname=film", Some("one")),
    ] {
        let info = parse_in(text, &environment).unwrap();
        assert_eq!(password(&info).as_deref(), expected, "{text}");
    }
    let info = parse_in("host=db dbname=film", &environment).unwrap();
    assert_eq!(
        password(&info.with_dbname("postgres")).as_deref(),
        Some("two")
    );
    let info = parse_in("host=other,db dbname=film", &environment).unwrap();
    assert_eq!(password(&info), None);
    assert_eq!(password(&info.pinned(1)).as_deref(), Some("one"));
    let child = info.pinned(1).child().unwrap();
    assert!(child.env_set.contains(&("PGPASSWORD".into(), "one".into())));
}

#[test]
fn pins_the_host_that_answered() {
    let info = parse("host=a,b port=1,2").unwrap();
    let pinned = info.pinned_to_address(1, "10.0.0.9".parse().unwrap());
    assert_eq!(pinned.hosts().len(), 1);
    assert_eq!(pinned.identity(), "host=b port=2 dbname=me user=me");
    let argument = pinned.child().unwrap().dbname_argument;
    assert_eq!(
        argument,
        "host=b hostaddr=10.0.0.9 port=2 user=me dbname=me"
    );
    assert_eq!(info.pinned(9).hosts()[0].name(), "b");
}

#[test]
fn never_prints_a_password() {
    let text =
        "postgres://ann:s3cret@db/film?sslpassword=s3cret&sslmode=require&options=-c%20a%3Db";
    let info = parse(text).unwrap();
    let child = info.child().unwrap();
    let shown = format!(
        "{info} {info:?} {} {}",
        info.identity(),
        child.dbname_argument
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(
        info.redacted(),
        "postgres://ann:****@db/film?options=-c%20a%3Db&sslmode=require"
    );
    assert!(!format!("{:?}", info.tls()).contains("s3cret"));
    assert!(
        child
            .env_set
            .contains(&("PGPASSWORD".into(), "s3cret".into()))
    );
    assert!(!format!("{child:?}").contains("s3cret"), "{child:?}");
}

#[test]
fn gives_a_child_the_key_passphrase_through_a_file_in_memory() {
    let child = parse("host=db sslpassword='a b'").unwrap().child().unwrap();
    assert!(
        child
            .dbname_argument
            .starts_with("service=pgcopydb host=db ")
    );
    let (_, path) = child
        .env_set
        .iter()
        .find(|(name, _)| name == "PGSERVICEFILE")
        .unwrap();
    for _ in 0..2 {
        let content = std::fs::read_to_string(path).unwrap();
        assert_eq!(content, "[pgcopydb]\nsslpassword=a b\n");
    }
    assert!(parse("sslpassword='a\nb'").unwrap().child().is_err());
}

#[test]
fn gives_a_child_only_what_was_given() {
    let environment = environment(&[("PGSSLMODE", "require"), ("PGCLIENTENCODING", "latin1")]);
    let info = parse_in(
        "host=db application_name=x client_encoding=utf8",
        &environment,
    )
    .unwrap();
    let child = info.with_application_name("it's").child().unwrap();
    assert_eq!(
        child.dbname_argument,
        "host=db port=5432 user=me dbname=me application_name='it\\'s' sslmode=require"
    );
    assert!(child.env_set.is_empty());
    for name in [
        "PGHOST",
        "PGSERVICE",
        "PGPASSFILE",
        "PGREQUIRESSL",
        "PGSSLMODE",
    ] {
        assert!(child.env_remove.contains(&name), "{name}");
    }
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>(), rest in "[ -~]*") {
        let _ = parse(&text);
        let _ = parse(&format!("postgres://{text}"));
        let _ = parse(&format!("postgres://{rest}"));
    }

    #[test]
    fn a_child_reads_what_we_read(
        host in "[^\\x00,]+", port in 1u16.., user in "[^\\x00]+", dbname in "[^\\x00]+", options in "[^\\x00]+",
    ) {
        let mut text = String::new();
        for (keyword, value) in [
            ("host", host.as_str()), ("port", &port.to_string()), ("user", &user), ("dbname", &dbname),
            ("options", &options), ("channel_binding", "require"),
        ] {
            super::keyword::append(&mut text, keyword, value);
        }
        let info = parse(&text).unwrap();
        let argument = info.child().unwrap().dbname_argument;
        let again = parse(&argument).unwrap();
        prop_assert_eq!(again.hosts(), info.hosts());
        prop_assert_eq!(again.user(), &user);
        prop_assert_eq!(again.dbname(), &dbname);
        prop_assert_eq!(again.options(), Some(options.as_str()));
        prop_assert_eq!(again.channel_binding(), ChannelBinding::Require);
        prop_assert_eq!(again.child().unwrap().dbname_argument, argument);
    }

    #[test]
    fn a_uri_reads_what_was_encoded(user in "[^\\x00]+", password in "[^\\x00]+", dbname in "[^\\x00]+") {
        let encode = |text: &str| super::uri::encode(text, "");
        let text = format!("postgresql://{}:{}@h/{}", encode(&user), encode(&password), encode(&dbname));
        let info = parse(&text).unwrap();
        prop_assert_eq!(info.user(), &user);
        prop_assert_eq!(info.dbname(), &dbname);
        prop_assert_eq!(super::tests::password(&info), Some(password));
    }
}
