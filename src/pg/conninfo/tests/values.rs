//! What single parameters mean, and where they come from first.

use std::path::{Path, PathBuf};

use super::super::{ChannelBinding, LoadBalanceHosts, TargetSessionAttrs};
use super::{environment, parse, parse_in, password};
use crate::pg::tls::{Negotiation, RootCert, SslMode, TlsFile};

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
