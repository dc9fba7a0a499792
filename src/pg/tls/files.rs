//! The files of a TLS set-up: which authorities and revocation lists to believe, which certificate and key to send.
//! Reads files; asks nobody for a passphrase. Source: `initialize_SSL` in `fe-secure-openssl.c`.

use std::fmt::Display;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslContextBuilder, SslFiletype};
use openssl::x509::store::X509Lookup;
use openssl::x509::verify::X509VerifyFlags;

use super::settings::{RootCert, SslMode, TlsFile, TlsSettings};
use crate::error::{Error, Result};
use crate::pg::conninfo::Password;

/// Load who may sign the server's certificate. Gives whether there is anybody, which means that the certificate must
/// be verified: a root certificate file turns even `require` into `verify-ca`.
pub(super) fn load_trust(context: &mut SslContextBuilder, settings: &TlsSettings) -> Result<bool> {
    let file = match &settings.root_cert {
        RootCert::System => {
            context
                .set_default_verify_paths()
                .map_err(|cause| failure("could not load the system's root certificates", cause))?;
            return Ok(true);
        }
        RootCert::File(file) => file,
    };
    let Some(path) = file.path().filter(|path| path.exists()) else {
        return missing_trust(settings.mode, file);
    };
    let shown = path.display();
    let what = format!("could not read root certificate file \"{shown}\"");
    context
        .set_ca_file(readable(path, &what)?)
        .map_err(|cause| failure(&what, cause))?;
    load_revocations(context, settings)?;
    Ok(true)
}

/// Without a root certificate file nothing can be verified.
fn missing_trust(mode: SslMode, file: &TlsFile) -> Result<bool> {
    if mode < SslMode::VerifyCa {
        return Ok(false);
    }
    let message = match file.path() {
        Some(path) => format!(
            "root certificate file \"{}\" does not exist",
            path.display()
        ),
        None => "there is no home directory to find the root certificate file in".to_string(),
    };
    Err(Error::config(message).with_hint(
        "Provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to not verify \
         the server's certificate.",
    ))
}

/// Lists that exist are used, and then every certificate of the chain needs one.
fn load_revocations(context: &mut SslContextBuilder, settings: &TlsSettings) -> Result<()> {
    let store = context.cert_store_mut();
    let mut has_list = false;
    if let Some(path) = settings.crl_file.path().filter(|path| path.exists()) {
        let what = format!(
            "could not read certificate revocation list \"{}\"",
            path.display()
        );
        let path = readable(path, &what)?;
        store
            .add_lookup(X509Lookup::file())
            .and_then(|lookup| lookup.load_crl_file(path, SslFiletype::PEM))
            .map_err(|cause| failure(&what, cause))?;
        has_list = true;
    }
    if let Some(path) = settings.crl_dir.as_deref().filter(|path| path.is_dir()) {
        let what = format!(
            "could not use directory \"{}\" of certificate revocation lists",
            path.display()
        );
        let name = name_of(path, &what)?;
        store
            .add_lookup(X509Lookup::hash_dir())
            .and_then(|lookup| lookup.add_dir(name, SslFiletype::PEM))
            .map_err(|cause| failure(&what, cause))?;
        has_list = true;
    }
    if has_list {
        store
            .set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)
            .map_err(|cause| failure("could not enable certificate revocation lists", cause))?;
    }
    Ok(())
}

/// Load what is sent to a server that asks who we are. A certificate file that does not exist means no certificate.
pub(super) fn load_identity(context: &mut SslContextBuilder, settings: &TlsSettings) -> Result<()> {
    let Some(path) = settings.cert.path().filter(|_| settings.sends_certificate) else {
        return Ok(());
    };
    let what = format!("could not read certificate file \"{}\"", path.display());
    match std::fs::metadata(path) {
        Err(cause) if is_absent(&cause) => return Ok(()),
        Err(cause) => return Err(failure(&what, cause)),
        Ok(_) => {}
    }
    context
        .set_certificate_chain_file(readable(path, &what)?)
        .map_err(|cause| failure(&what, cause))?;
    let Some(key_path) = settings.key.path() else {
        return Err(Error::config(format!(
            "certificate \"{}\" present, but no home directory to find its private key in",
            path.display()
        )));
    };
    let what = format!("could not use private key file \"{}\"", key_path.display());
    let key = load_key(key_path, settings.key_passphrase.as_ref())?;
    context
        .set_private_key(&key)
        .map_err(|cause| failure(&what, cause))?;
    context.check_private_key().map_err(|cause| {
        failure(
            format!(
                "certificate does not match private key file \"{}\"",
                key_path.display()
            ),
            cause,
        )
    })
}

fn load_key(path: &Path, passphrase: Option<&Password>) -> Result<PKey<Private>> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|cause| {
        if is_absent(&cause) {
            Error::config(format!(
                "certificate present, but not private key file \"{shown}\""
            ))
        } else {
            failure(
                format!("could not read private key file \"{shown}\""),
                cause,
            )
        }
    })?;
    if !metadata.is_file() {
        return Err(Error::config(format!(
            "private key file \"{shown}\" is not a regular file"
        )));
    }
    // A key of root's may be given to a group, so that several servers and clients can share it.
    let forbidden_bits = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden_bits != 0 {
        return Err(Error::config(format!(
            "private key file \"{shown}\" has group or world access"
        ))
        .with_hint(
            "File must have permissions u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r \
             (0640) or less if owned by root.",
        ));
    }
    let content = std::fs::read(path).map_err(|cause| {
        failure(
            format!("could not read private key file \"{shown}\""),
            cause,
        )
    })?;
    // An empty passphrase, instead of none, keeps OpenSSL from asking on the terminal.
    let passphrase = passphrase.map_or("", Password::expose);
    PKey::private_key_from_pem_passphrase(&content, passphrase.as_bytes())
        .or_else(|pem_cause| PKey::private_key_from_der(&content).map_err(|_| pem_cause))
        .map_err(|cause| {
            failure(
                format!("could not load private key file \"{shown}\""),
                cause,
            )
            .with_hint("If the key is encrypted, give its passphrase as \"sslpassword\".")
        })
}

fn is_absent(cause: &std::io::Error) -> bool {
    matches!(
        cause.kind(),
        IoErrorKind::NotFound | IoErrorKind::NotADirectory
    )
}

/// The openssl crate reports an unreadable file in OpenSSL's words and panics on a name that is not UTF-8, so look first.
fn readable<'a>(path: &'a Path, what: &str) -> Result<&'a str> {
    std::fs::File::open(path).map_err(|cause| failure(what, cause))?;
    name_of(path, what)
}

fn name_of<'a>(path: &'a Path, what: &str) -> Result<&'a str> {
    path.to_str()
        .ok_or_else(|| failure(what, "its name is not valid UTF-8"))
}

fn failure(what: impl Display, cause: impl Display) -> Error {
    Error::config(format!("{what}: {cause}"))
}
