//! The table of libpq's connection parameters and the raw values given for them. Pure. It decides which names exist
//! and where a value came from, not what a value means. Source: `PQconninfoOptions` in `fe-connect.c`.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

/// What we do with a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It has a typed place in `ConnInfo`, and never goes to a child as it was written.
    Core,
    /// It has a meaning for us, and a child gets it when it was given.
    Passed,
    /// Accepted, without a meaning for us or a child: our sessions set their own.
    Ignored,
    /// Cannot be honoured; the text says why.
    Refused(&'static str),
}

/// One parameter.
pub(super) struct OptionSpec {
    pub keyword: &'static str,
    pub variable: Option<&'static str>,
    pub treatment: Treatment,
}

const fn spec(keyword: &'static str, variable: &'static str, treatment: Treatment) -> OptionSpec {
    OptionSpec {
        keyword,
        variable: if variable.is_empty() {
            None
        } else {
            Some(variable)
        },
        treatment,
    }
}

const NO_OAUTH: Treatment = Treatment::Refused("OAuth authentication is not supported");
const NO_SCRAM_KEYS: Treatment = Treatment::Refused("SCRAM pass-through keys are not supported");

/// Every parameter of libpq 18, in the order in which a child's connection string lists them.
pub(super) const OPTIONS: &[OptionSpec] = {
    use Treatment::{Core, Ignored, Passed, Refused};
    &[
        spec("service", "PGSERVICE", Core),
        spec("servicefile", "PGSERVICEFILE", Core),
        spec("host", "PGHOST", Core),
        spec("hostaddr", "PGHOSTADDR", Core),
        spec("port", "PGPORT", Core),
        spec("dbname", "PGDATABASE", Core),
        spec("user", "PGUSER", Core),
        spec("password", "PGPASSWORD", Core),
        spec("passfile", "PGPASSFILE", Core),
        spec("sslpassword", "", Core),
        spec("application_name", "PGAPPNAME", Core),
        spec("fallback_application_name", "", Core),
        spec("options", "PGOPTIONS", Passed),
        spec("connect_timeout", "PGCONNECT_TIMEOUT", Passed),
        spec("keepalives", "", Passed),
        spec("keepalives_idle", "", Passed),
        spec("keepalives_interval", "", Passed),
        spec("keepalives_count", "", Passed),
        spec("tcp_user_timeout", "", Passed),
        spec("sslmode", "PGSSLMODE", Passed),
        spec("sslnegotiation", "PGSSLNEGOTIATION", Passed),
        spec("sslcert", "PGSSLCERT", Passed),
        spec("sslkey", "PGSSLKEY", Passed),
        spec("sslcertmode", "PGSSLCERTMODE", Passed),
        spec("sslrootcert", "PGSSLROOTCERT", Passed),
        spec("sslcrl", "PGSSLCRL", Passed),
        spec("sslcrldir", "PGSSLCRLDIR", Passed),
        spec("sslsni", "PGSSLSNI", Passed),
        spec(
            "ssl_min_protocol_version",
            "PGSSLMINPROTOCOLVERSION",
            Passed,
        ),
        spec(
            "ssl_max_protocol_version",
            "PGSSLMAXPROTOCOLVERSION",
            Passed,
        ),
        spec("channel_binding", "PGCHANNELBINDING", Passed),
        spec("require_auth", "PGREQUIREAUTH", Passed),
        spec("requirepeer", "PGREQUIREPEER", Passed),
        spec("target_session_attrs", "PGTARGETSESSIONATTRS", Passed),
        spec("load_balance_hosts", "PGLOADBALANCEHOSTS", Passed),
        spec("gssencmode", "PGGSSENCMODE", Passed),
        // Our sessions and pg_dump choose the encoding themselves; nothing compresses TLS any more; both sides of a
        // protocol version range that allows 3.0 mean 3.0 for us.
        spec("client_encoding", "PGCLIENTENCODING", Ignored),
        spec("sslcompression", "PGSSLCOMPRESSION", Ignored),
        spec("min_protocol_version", "PGMINPROTOCOLVERSION", Ignored),
        spec("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
        // Only meaningful with GSS, which is never used by us.
        spec("krbsrvname", "PGKRBSRVNAME", Ignored),
        spec("gsslib", "PGGSSLIB", Ignored),
        spec("gssdelegation", "PGGSSDELEGATION", Ignored),
        spec(
            "replication",
            "",
            Refused("pgcopydb opens replication connections itself"),
        ),
        spec("scram_client_key", "", NO_SCRAM_KEYS),
        spec("scram_server_key", "", NO_SCRAM_KEYS),
        spec(
            "sslkeylogfile",
            "",
            Refused("logging of TLS keys is not supported"),
        ),
        spec("oauth_issuer", "", NO_OAUTH),
        spec("oauth_client_id", "", NO_OAUTH),
        spec("oauth_client_secret", "", NO_OAUTH),
        spec("oauth_scope", "", NO_OAUTH),
    ]
};

/// The variables of libpq that are no default of a parameter, and would still change what a child does.
pub(super) const OTHER_VARIABLES: &[&str] = &["PGREQUIRESSL", "PGDATESTYLE", "PGTZ", "PGGEQO"];

/// Where a value was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    ConnectionString,
    Service,
    Variable(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::ConnectionString => Ok(()),
            Origin::Service => f.write_str(" (from the service file)"),
            Origin::Variable(name) => write!(f, " (from environment variable {name})"),
        }
    }
}

/// One value as it was written. No `Debug`: it may be the password.
#[derive(Clone)]
pub(super) struct RawValue {
    pub text: String,
    pub origin: Origin,
}

/// All values given so far.
#[derive(Clone, Default)]
pub(super) struct RawOptions(BTreeMap<&'static str, RawValue>);

/// Whether a value of this parameter must not be shown.
pub(super) fn is_secret(keyword: &str) -> bool {
    matches!(
        keyword,
        "password"
            | "sslpassword"
            | "scram_client_key"
            | "scram_server_key"
            | "oauth_client_secret"
    )
}

impl RawOptions {
    /// Set a value of the connection string; the last one wins. `Ok(false)` if there is no such parameter.
    pub fn set(&mut self, keyword: &str, text: String) -> Result<bool> {
        // Older than sslmode, and libpq still translates it.
        let (keyword, text) = match keyword {
            "requiressl" if text.starts_with('1') => ("sslmode", "require".to_string()),
            "requiressl" => ("sslmode", "prefer".to_string()),
            _ => (keyword, text),
        };
        let Some(option) = find(keyword)? else {
            return Ok(false);
        };
        check(keyword, &text)?;
        let origin = Origin::ConnectionString;
        self.0.insert(option.keyword, RawValue { text, origin });
        Ok(true)
    }

    /// Set a value unless there is one. `Ok(false)` if there is no such parameter.
    pub fn set_default(&mut self, keyword: &str, text: String, origin: Origin) -> Result<bool> {
        let Some(option) = find(keyword)? else {
            return Ok(false);
        };
        check(keyword, &text)?;
        self.0
            .entry(option.keyword)
            .or_insert(RawValue { text, origin });
        Ok(true)
    }

    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(|value| value.text.as_str())
    }

    /// The value, where libpq takes an empty one for none.
    pub fn non_empty(&self, keyword: &str) -> Option<&str> {
        self.get(keyword).filter(|text| !text.is_empty())
    }

    /// An error about the value of a parameter, which is shown: not for secrets.
    pub fn invalid(&self, keyword: &str, reason: impl fmt::Display) -> Error {
        match self.0.get(keyword) {
            Some(RawValue { text, origin }) => Error::usage(format!(
                "invalid value \"{text}\" for parameter \"{keyword}\"{origin}: {reason}"
            )),
            None => Error::usage(format!("invalid parameter \"{keyword}\": {reason}")),
        }
    }
}

/// A zero byte ends a string in the protocol, for the system and in OpenSSL.
fn check(keyword: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::usage(format!(
            "invalid parameter \"{keyword}\": it contains a zero byte"
        )));
    }
    Ok(())
}

/// The parameter of that name. An error if it exists and cannot be honoured.
fn find(keyword: &str) -> Result<Option<&'static OptionSpec>> {
    let Some(option) = OPTIONS.iter().find(|option| option.keyword == keyword) else {
        return Ok(None);
    };
    match option.treatment {
        Treatment::Refused(reason) => Err(Error::usage(format!(
            "cannot use parameter \"{keyword}\": {reason}"
        ))),
        _ => Ok(Some(option)),
    }
}
