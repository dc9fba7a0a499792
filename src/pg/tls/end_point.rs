//! The `tls-server-end-point` channel binding of SCRAM: a hash of the server's certificate that ties the password
//! exchange to this TLS connection. Pure. Source: RFC 5929, section 4.1.

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ssl::SslRef;
use openssl::x509::X509Ref;

/// The hash of the certificate on the other end. None without a certificate, or with one whose signature names no
/// digest (Ed25519), for which the RFC defines none and servers fail as well.
pub fn server_end_point(ssl: &SslRef) -> Option<Vec<u8>> {
    certificate_hash(&*ssl.peer_certificate()?)
}

pub(super) fn certificate_hash(certificate: &X509Ref) -> Option<Vec<u8>> {
    let algorithm = certificate.signature_algorithm().object().nid();
    let digest = if algorithm.short_name().ok() == Some("RSASSA-PSS") {
        pss_digest(&certificate.to_der().ok()?)?
    } else {
        algorithm.signature_algorithms()?.digest
    };
    // MD5 and SHA-1 are too weak, the RFC says to use SHA-256 instead.
    let digest = match digest {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        other => MessageDigest::from_nid(other)?,
    };
    certificate.digest(digest).ok().map(|hash| hash.to_vec())
}

const DER_SEQUENCE: u8 = 0x30;
const DER_OBJECT_IDENTIFIER: u8 = 0x06;
/// The first, explicitly tagged field of `RSASSA-PSS-params`.
const DER_HASH_ALGORITHM: u8 = 0xA0;

/// The digest of an RSA-PSS signature is a parameter of the algorithm, which the openssl crate does not show: Certificate
/// ::= { tbsCertificate, signatureAlgorithm { oid, params { [0] { hash oid } DEFAULT sha1, .. } }, .. }.
fn pss_digest(certificate: &[u8]) -> Option<Nid> {
    let (certificate, _) = der_value(certificate, DER_SEQUENCE)?;
    let (_, rest) = der_value(certificate, DER_SEQUENCE)?;
    let (algorithm, _) = der_value(rest, DER_SEQUENCE)?;
    let (_, parameters) = der_value(algorithm, DER_OBJECT_IDENTIFIER)?;
    let (parameters, _) = der_value(parameters, DER_SEQUENCE)?;
    let Some((hash, _)) = der_value(parameters, DER_HASH_ALGORITHM) else {
        return Some(Nid::SHA1);
    };
    let (hash, _) = der_value(hash, DER_SEQUENCE)?;
    let (oid, _) = der_value(hash, DER_OBJECT_IDENTIFIER)?;
    match oid {
        // 1.3.14.3.2.26, and the last arcs of 2.16.840.1.101.3.4.2.
        [0x2B, 0x0E, 0x03, 0x02, 0x1A] => Some(Nid::SHA1),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, arc] => match arc {
            1 => Some(Nid::SHA256),
            2 => Some(Nid::SHA384),
            3 => Some(Nid::SHA512),
            4 => Some(Nid::SHA224),
            _ => None,
        },
        _ => None,
    }
}

/// The content of the first DER element, if it has this tag, and what follows it.
fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first != tag {
        return None;
    }
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let count = usize::from(length & 0x7F);
        // Four bytes are enough for any certificate, and cannot overflow.
        if count == 0 || count > 4 {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        let length = digits
            .iter()
            .fold(0usize, |sum, &digit| sum << 8 | usize::from(digit));
        (length, rest)
    };
    rest.split_at_checked(length)
}
