//! From raw values to a `ConnInfo`: defaults, precedence, and every value checked. Reads the service file and the
//! password file, nothing else. Precedence as libpq: connection string, service, environment, default.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::environment::Environment;
use super::keyword::is_blank;
use super::options::{OPTIONS, Origin, RawOptions, Treatment};
use super::password::Password;
use super::pgpass::PasswordFile;
use super::policy::{
    ChannelBinding, Keepalives, LoadBalanceHosts, RequireAuth, TargetSessionAttrs,
};
use super::{ConnInfo, hosts, keyword, service, uri};
use crate::error::{Error, Result, Side};
use crate::pg::tls::{Negotiation, ProtocolVersion, RootCert, SslMode, TlsFile, TlsSettings};

/// Read a URI, a keyword/value string or a database name, and everything it leaves open.
pub(super) fn resolve(side: Side, text: &str, environment: &Environment) -> Result<ConnInfo> {
    let mut options = RawOptions::default();
    if let Some(rest) = uri::strip_scheme(text) {
        uri::parse(rest, &mut options)?;
    } else if text.contains('=') || text.trim_matches(is_blank).is_empty() {
        keyword::parse(text, &mut options)?;
    } else {
        options.set("dbname", text.to_string())?;
    }
    service::apply(&mut options, environment)?;
    apply_variables(&mut options, environment)?;
    check_unused(&options)?;
    build(side, &options, environment)
}

fn apply_variables(options: &mut RawOptions, environment: &Environment) -> Result<()> {
    for option in OPTIONS {
        let Some(variable) = option.variable else {
            continue;
        };
        if let Some(value) = environment.var(variable)? {
            options.set_default(
                option.keyword,
                value.to_string(),
                Origin::Variable(variable),
            )?;
        }
    }
    // The old way to say sslmode=require.
    let requires_ssl = environment.var("PGREQUIRESSL")?;
    if requires_ssl.is_some_and(|value| value.starts_with('1')) {
        let origin = Origin::Variable("PGREQUIRESSL");
        options.set_default("sslmode", "require".to_string(), origin)?;
    }
    Ok(())
}

/// Parameters that we do not use still have to be possible.
fn check_unused(options: &RawOptions) -> Result<()> {
    one_of(options, "gssencmode", |name| match name {
        "disable" | "prefer" => Some(Ok(())),
        "require" => Some(Err("GSS encryption is not supported")),
        _ => None,
    })?
    .unwrap_or(Ok(()))
    .map_err(|reason| options.invalid("gssencmode", reason))?;
    let is_version = |name: &str| matches!(name, "3.0" | "3.2" | "latest");
    for keyword in ["min_protocol_version", "max_protocol_version"] {
        if let Some(version) = options.non_empty(keyword) {
            if !is_version(version) {
                return Err(options.invalid(keyword, "expected 3.0, 3.2 or latest"));
            }
        }
    }
    match options.non_empty("min_protocol_version") {
        None | Some("3.0") => Ok(()),
        Some(_) => Err(options.invalid(
            "min_protocol_version",
            "pgcopydb speaks protocol version 3.0",
        )),
    }
}

fn build(side: Side, options: &RawOptions, environment: &Environment) -> Result<ConnInfo> {
    let text = |keyword: &str| options.non_empty(keyword).map(str::to_string);
    let user = match text("user").or_else(|| environment.os_user.clone()) {
        Some(user) => user,
        None => {
            return Err(Error::usage(
                "no user name given, and the operating system has none for this process",
            ));
        }
    };
    let password = text("password").map(Password::new);
    let password_file = match &password {
        // The file does not matter, so neither do its permissions.
        Some(_) => PasswordFile::default(),
        None => read_password_file(options, environment),
    };
    let passed = OPTIONS
        .iter()
        .filter(|option| option.treatment == Treatment::Passed)
        .filter_map(|option| Some((option.keyword, options.get(option.keyword)?.to_string())))
        .collect();
    Ok(ConnInfo {
        side,
        hosts: hosts::resolve(options, &environment.socket_dir)?,
        dbname: text("dbname").unwrap_or_else(|| user.clone()),
        user,
        password,
        password_file: Arc::new(password_file),
        password_path: text("passfile"),
        socket_dir: environment.socket_dir.display().to_string(),
        options: text("options"),
        application_name: text("application_name").or_else(|| text("fallback_application_name")),
        connect_timeout: whole(options, "connect_timeout")?
            .filter(|&seconds| seconds > 0)
            .map(Duration::from_secs),
        keepalives: keepalives(options)?,
        tls: tls(options, environment)?,
        channel_binding: one_of(options, "channel_binding", ChannelBinding::from_name)?
            .unwrap_or(ChannelBinding::Prefer),
        require_auth: RequireAuth::parse(options.get("require_auth").unwrap_or(""))
            .map_err(|reason| options.invalid("require_auth", reason))?,
        requirepeer: text("requirepeer"),
        target_session_attrs: one_of(
            options,
            "target_session_attrs",
            TargetSessionAttrs::from_name,
        )?
        .unwrap_or(TargetSessionAttrs::Any),
        is_replication: false,
        load_balance_hosts: one_of(options, "load_balance_hosts", LoadBalanceHosts::from_name)?
            .unwrap_or(LoadBalanceHosts::Disable),
        passed,
    })
}

fn read_password_file(options: &RawOptions, environment: &Environment) -> PasswordFile {
    let path = match options.non_empty("passfile") {
        Some(path) => Some(PathBuf::from(path)),
        None => environment.home_file(".pgpass"),
    };
    path.map_or_else(PasswordFile::default, |path| PasswordFile::read(&path))
}

fn keepalives(options: &RawOptions) -> Result<Keepalives> {
    let positive = |keyword| -> Result<Option<u64>> {
        // Zero and less leave the system's value.
        Ok(whole(options, keyword)?.filter(|&value| value > 0))
    };
    Ok(Keepalives {
        is_enabled: integer::<i32>(options, "keepalives")? != Some(0),
        idle: positive("keepalives_idle")?.map(Duration::from_secs),
        interval: positive("keepalives_interval")?.map(Duration::from_secs),
        count: positive("keepalives_count")?.and_then(|count| u32::try_from(count).ok()),
        user_timeout: positive("tcp_user_timeout")?.map(Duration::from_millis),
    })
}

fn tls(options: &RawOptions, environment: &Environment) -> Result<TlsSettings> {
    let file = |keyword: &str, default: &str| match options.non_empty(keyword) {
        Some(path) => TlsFile::Given(PathBuf::from(path)),
        None => match environment.home_file(".postgresql") {
            Some(directory) => TlsFile::Default(directory.join(default)),
            None => TlsFile::Nowhere,
        },
    };
    let root_cert = match options.get("sslrootcert") {
        Some("system") => RootCert::System,
        _ => RootCert::File(file("sslrootcert", "root.crt")),
    };
    let mode = ssl_mode(options, &root_cert)?;
    let (min_version, max_version) = versions(options)?;
    let key_file = file("sslkey", "postgresql.key");
    // libpq takes such a name for a key in an OpenSSL engine.
    if options.get("sslkey").is_some_and(|name| name.contains(':')) {
        return Err(options.invalid("sslkey", "OpenSSL engines are not supported"));
    }
    let has_given_crl = ["sslcrl", "sslcrldir"]
        .iter()
        .any(|keyword| options.non_empty(keyword).is_some());
    Ok(TlsSettings {
        mode,
        negotiation: negotiation(options, mode)?,
        root_cert,
        cert: file("sslcert", "postgresql.crt"),
        sends_certificate: sends_certificate(options)?,
        key: key_file,
        key_passphrase: options.non_empty("sslpassword").map(Password::new),
        // A directory alone replaces the default file.
        crl_file: match options.non_empty("sslcrl") {
            None if has_given_crl => TlsFile::Nowhere,
            _ => file("sslcrl", "root.crl"),
        },
        crl_dir: options.non_empty("sslcrldir").map(PathBuf::from),
        min_version,
        max_version,
        sends_server_name: options.get("sslsni").is_none_or(|value| value != "0"),
    })
}

/// With "require", libpq also checks that the server did ask for the certificate. The openssl crate cannot tell, and a
/// check that is not made must not look as if it were.
fn sends_certificate(options: &RawOptions) -> Result<bool> {
    match options.get("sslcertmode") {
        None | Some("allow") => Ok(true),
        Some("disable") => Ok(false),
        Some("require") => Err(options.invalid(
            "sslcertmode",
            "pgcopydb cannot check that the server asked for the certificate; use \"allow\"",
        )),
        Some(_) => Err(options.invalid("sslcertmode", "unknown value")),
    }
}

/// Public authorities sign for anybody, so with them only the name proves which server this is.
fn ssl_mode(options: &RawOptions, root_cert: &RootCert) -> Result<SslMode> {
    let given = one_of(options, "sslmode", SslMode::from_name)?;
    match (root_cert, given) {
        (RootCert::System, None | Some(SslMode::VerifyFull)) => Ok(SslMode::VerifyFull),
        (RootCert::System, Some(mode)) => Err(Error::usage(format!(
            "weak sslmode \"{}\" may not be used with sslrootcert=system (use \"verify-full\")",
            mode.as_str()
        ))),
        (RootCert::File(_), given) => Ok(given.unwrap_or(SslMode::Prefer)),
    }
}

/// Without asking first there is no way to go on without TLS.
fn negotiation(options: &RawOptions, mode: SslMode) -> Result<Negotiation> {
    let negotiation = one_of(options, "sslnegotiation", |name| match name {
        "postgres" => Some(Negotiation::Postgres),
        "direct" => Some(Negotiation::Direct),
        _ => None,
    })?
    .unwrap_or(Negotiation::Postgres);
    if negotiation == Negotiation::Direct && mode < SslMode::Require {
        return Err(Error::usage(format!(
            "weak sslmode \"{}\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\" or \
             \"verify-full\")",
            mode.as_str()
        )));
    }
    Ok(negotiation)
}

/// The lowest and the highest version, where none means no limit.
fn versions(options: &RawOptions) -> Result<(Option<ProtocolVersion>, Option<ProtocolVersion>)> {
    let min_version = version(options, "ssl_min_protocol_version")?;
    let min_version = match options.get("ssl_min_protocol_version") {
        None => Some(ProtocolVersion::Tls1_2),
        Some(_) => min_version,
    };
    let max_version = version(options, "ssl_max_protocol_version")?;
    if matches!((min_version, max_version), (Some(min), Some(max)) if min > max) {
        return Err(Error::usage(
            "\"ssl_min_protocol_version\" is higher than \"ssl_max_protocol_version\"",
        ));
    }
    Ok((min_version, max_version))
}

/// A protocol version; none for an empty value, which lifts the limit.
fn version(options: &RawOptions, keyword: &str) -> Result<Option<ProtocolVersion>> {
    let Some(name) = options.non_empty(keyword) else {
        return Ok(None);
    };
    match name.to_ascii_lowercase().as_str() {
        "tlsv1" => Ok(Some(ProtocolVersion::Tls1_0)),
        "tlsv1.1" => Ok(Some(ProtocolVersion::Tls1_1)),
        "tlsv1.2" => Ok(Some(ProtocolVersion::Tls1_2)),
        "tlsv1.3" => Ok(Some(ProtocolVersion::Tls1_3)),
        _ => Err(options.invalid(keyword, "expected TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3")),
    }
}

/// A value out of a fixed set, if it was given.
fn one_of<T>(
    options: &RawOptions,
    keyword: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    match options.get(keyword) {
        None => Ok(None),
        Some(name) => match read(name) {
            Some(value) => Ok(Some(value)),
            None => Err(options.invalid(keyword, "unknown value")),
        },
    }
}

fn integer<T: FromStr>(options: &RawOptions, keyword: &str) -> Result<Option<T>> {
    match options.non_empty(keyword) {
        None => Ok(None),
        Some(text) => match text.trim_matches(is_blank).parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(options.invalid(keyword, "expected an integer")),
        },
    }
}

/// An integer whose negative values mean zero.
fn whole(options: &RawOptions, keyword: &str) -> Result<Option<u64>> {
    let value = integer::<i32>(options, keyword)?;
    Ok(value.map(|value| u64::try_from(value).unwrap_or(0)))
}
