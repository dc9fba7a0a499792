//! The types of parameters that say which servers and which ways to authenticate are good enough. Pure.

use std::time::Duration;

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby if there is one among the hosts, else any.
    PreferStandby,
}

impl TargetSessionAttrs {
    pub(super) fn from_name(name: &str) -> Option<TargetSessionAttrs> {
        Some(match name {
            "any" => TargetSessionAttrs::Any,
            "read-write" => TargetSessionAttrs::ReadWrite,
            "read-only" => TargetSessionAttrs::ReadOnly,
            "primary" => TargetSessionAttrs::Primary,
            "standby" => TargetSessionAttrs::Standby,
            "prefer-standby" => TargetSessionAttrs::PreferStandby,
            _ => return None,
        })
    }
}

/// `load_balance_hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadBalanceHosts {
    /// In the order written.
    Disable,
    /// Hosts and their addresses in random order.
    Random,
}

impl LoadBalanceHosts {
    pub(super) fn from_name(name: &str) -> Option<LoadBalanceHosts> {
        Some(match name {
            "disable" => LoadBalanceHosts::Disable,
            "random" => LoadBalanceHosts::Random,
            _ => return None,
        })
    }
}

/// `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

impl ChannelBinding {
    pub(super) fn from_name(name: &str) -> Option<ChannelBinding> {
        Some(match name {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return None,
        })
    }
}

/// What a server may ask for. `Trust` is no request at all, `none` in `require_auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    Trust,
    Password,
    Md5,
    ScramSha256,
    Gss,
    Sspi,
    Oauth,
}

impl AuthMethod {
    fn from_name(name: &str) -> Option<AuthMethod> {
        Some(match name {
            "none" => AuthMethod::Trust,
            "password" => AuthMethod::Password,
            "md5" => AuthMethod::Md5,
            "scram-sha-256" => AuthMethod::ScramSha256,
            "gss" => AuthMethod::Gss,
            "sspi" => AuthMethod::Sspi,
            "oauth" => AuthMethod::Oauth,
            _ => return None,
        })
    }

    fn is_supported(self) -> bool {
        match self {
            AuthMethod::Trust
            | AuthMethod::Password
            | AuthMethod::Md5
            | AuthMethod::ScramSha256 => true,
            AuthMethod::Gss | AuthMethod::Sspi | AuthMethod::Oauth => false,
        }
    }
}

/// `require_auth`: the ways to authenticate that the user accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequireAuth {
    Any,
    OneOf(Vec<AuthMethod>),
    NoneOf(Vec<AuthMethod>),
}

impl RequireAuth {
    /// Whether a server that asks for this may go on.
    pub fn allows(&self, method: AuthMethod) -> bool {
        match self {
            RequireAuth::Any => true,
            RequireAuth::OneOf(methods) => methods.contains(&method),
            RequireAuth::NoneOf(methods) => !methods.contains(&method),
        }
    }

    /// Read the list; the error is the reason.
    pub(super) fn parse(text: &str) -> Result<RequireAuth, String> {
        if text.is_empty() {
            return Ok(RequireAuth::Any);
        }
        let is_negative = text.starts_with('!');
        let mut methods = Vec::new();
        for item in text.split(',') {
            let name = item.strip_prefix('!');
            if name.is_some() != is_negative {
                return Err("methods with and without \"!\" cannot be mixed".to_string());
            }
            let name = name.unwrap_or(item);
            let method = AuthMethod::from_name(name)
                .ok_or_else(|| format!("unknown authentication method \"{name}\""))?;
            if methods.contains(&method) {
                return Err(format!(
                    "authentication method \"{name}\" is given more than once"
                ));
            }
            methods.push(method);
        }
        if is_negative {
            return Ok(RequireAuth::NoneOf(methods));
        }
        if !methods.iter().any(|method| method.is_supported()) {
            return Err("GSS, SSPI and OAuth authentication are not supported".to_string());
        }
        Ok(RequireAuth::OneOf(methods))
    }
}

/// TCP keepalives. `None` leaves the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    pub is_enabled: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    /// `tcp_user_timeout`: how long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::{AuthMethod, RequireAuth};

    #[test]
    fn reads_require_auth() {
        use AuthMethod::{Md5, ScramSha256, Trust};
        for (text, allowed, refused) in [
            ("", vec![Trust, Md5, ScramSha256], vec![]),
            ("scram-sha-256", vec![ScramSha256], vec![Md5, Trust]),
            ("md5,none", vec![Md5, Trust], vec![ScramSha256]),
            ("!md5,!none", vec![ScramSha256], vec![Md5, Trust]),
            ("gss,md5", vec![Md5], vec![Trust]),
        ] {
            let require_auth = RequireAuth::parse(text).unwrap();
            assert!(allowed.iter().all(|&m| require_auth.allows(m)), "{text}");
            assert!(!refused.iter().any(|&m| require_auth.allows(m)), "{text}");
        }
        for text in [
            "md5,!none",
            "!md5,none",
            "x",
            "md5,md5",
            ",",
            "!",
            "gss",
            "gss,sspi",
            "oauth",
        ] {
            assert!(RequireAuth::parse(text).is_err(), "{text}");
        }
    }
}
