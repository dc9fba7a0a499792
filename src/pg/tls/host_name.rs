//! Whether a certificate was made for the host that we wanted: the last step of `verify-full`. Pure. Source: "Client
//! Verification of Server Certificates" in the libpq documentation.

use std::net::IpAddr;

use openssl::nid::Nid;
use openssl::x509::X509Ref;

/// The names in a certificate.
#[derive(Debug, Default)]
pub(super) struct CertificateNames {
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    common_name: Option<String>,
}

impl CertificateNames {
    pub fn of(certificate: &X509Ref) -> CertificateNames {
        let mut names = CertificateNames::default();
        for name in certificate.subject_alt_names().into_iter().flatten() {
            // A name with a zero byte is an attempt to be taken for another one; it matches no host.
            if let Some(dns_name) = name.dnsname() {
                names.dns_names.push(dns_name.to_string());
            } else if let Some(address) = name.ipaddress().and_then(address_of) {
                names.addresses.push(address);
            }
        }
        names.common_name = certificate
            .subject_name()
            .entries_by_nid(Nid::COMMONNAME)
            .next()
            .and_then(|entry| entry.data().to_string().ok());
        names
    }

    /// A name of the host's own kind rules the common name out, even when it does not match.
    pub fn matches(&self, host: &str) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        let has_same_kind = match address {
            Some(address) => {
                if self.addresses.contains(&address) {
                    return true;
                }
                !self.addresses.is_empty()
            }
            None => !self.dns_names.is_empty(),
        };
        let is_match = |pattern: &String| match address {
            Some(_) => pattern.eq_ignore_ascii_case(host),
            None => matches_pattern(pattern, host),
        };
        self.dns_names.iter().any(is_match)
            || (!has_same_kind && self.common_name.as_ref().is_some_and(is_match))
    }

    /// For the message about a mismatch.
    pub fn describe(&self) -> String {
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        let mut names: Vec<String> = self.dns_names.iter().cloned().chain(addresses).collect();
        if names.is_empty() {
            names.extend(self.common_name.clone());
        }
        names
            .iter()
            .map(|name| format!("\"{}\"", name.escape_debug()))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// `*.` stands for exactly one label, and nothing else is special.
fn matches_pattern(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix("*.").filter(|s| !s.is_empty()) else {
        return false;
    };
    host.split_once('.')
        .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
}

#[cfg(test)]
mod tests {
    use super::CertificateNames;

    fn names(dns_names: &[&str], addresses: &[&str], common_name: &str) -> CertificateNames {
        CertificateNames {
            dns_names: dns_names.iter().map(|name| name.to_string()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            common_name: Some(common_name.to_string()),
        }
    }

    #[test]
    fn matches_like_libpq() {
        for (dns_names, addresses, common_name, host, expected) in [
            (
                &["db.example.org"][..],
                &[][..],
                "x",
                "db.example.org",
                true,
            ),
            (&["db.example.org"], &[], "x", "DB.Example.ORG", true),
            (&["db.example.org"], &[], "other", "other", false),
            (&[], &[], "db", "db", true),
            (&[], &["10.0.0.1"], "db", "db", true),
            (&["*.example.org"], &[], "x", "db.example.org", true),
            (&["*.example.org"], &[], "x", "a.db.example.org", false),
            (&["*.example.org"], &[], "x", "example.org", false),
            (&["*.example.org"], &[], "x", ".example.org", false),
            (&["d*.example.org"], &[], "x", "db.example.org", false),
            (&["*"], &[], "x", "db", false),
            (&["*."], &[], "x", "db.", false),
            (&[], &["10.0.0.1"], "x", "10.0.0.1", true),
            (&[], &["10.0.0.1"], "10.0.0.2", "10.0.0.2", false),
            (&["10.0.0.2"], &[], "x", "10.0.0.2", true),
            (&["db"], &[], "10.0.0.2", "10.0.0.2", true),
            (&["*.0.0.2"], &[], "x", "10.0.0.2", false),
            (&[], &["2001:db8::1"], "x", "2001:DB8:0::1", true),
        ] {
            let names = names(dns_names, addresses, common_name);
            assert_eq!(names.matches(host), expected, "{names:?} {host}");
        }
    }
}
