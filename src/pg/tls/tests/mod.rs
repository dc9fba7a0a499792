//! Handshakes over a socket pair with a server of our own: what is trusted, what is refused and in which words.

mod connection;
mod trust;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use tempfile::TempDir;

use super::{Progress, connector};
use crate::error::{Error, Result, Side};
use crate::pg::conninfo::{ConnInfo, Environment};

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// A certificate for `name`, signed by `issuer` or by itself.
fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(if issuer.is_some() { 2 } else { 1 }).unwrap();
    builder
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(0).unwrap())
        .unwrap();
    let is_expired = name.starts_with("expired");
    let end = if is_expired {
        Asn1Time::from_unix(1000)
    } else {
        Asn1Time::days_from_now(2)
    };
    builder.set_not_after(&end.unwrap()).unwrap();
    match issuer {
        Some((issuer, issuer_key)) => {
            builder.set_issuer_name(issuer.subject_name()).unwrap();
            let mut names = SubjectAlternativeName::new();
            names.dns(name).ip("10.0.0.1");
            let names = names
                .build(&builder.x509v3_context(Some(issuer), None))
                .unwrap();
            builder.append_extension(names).unwrap();
            builder.sign(issuer_key, MessageDigest::sha384()).unwrap();
        }
        None => {
            builder.set_issuer_name(&subject).unwrap();
            builder
                .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
                .unwrap();
            builder.sign(key, MessageDigest::sha256()).unwrap();
        }
    }
    builder.build()
}

/// A certification authority, a server's identity, and a home directory for the client.
struct Scene {
    home: TempDir,
    authority: X509,
    authority_key: PKey<Private>,
    server: X509,
    server_key: PKey<Private>,
}

impl Scene {
    fn new(server_name: &str) -> Scene {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".postgresql")).unwrap();
        let (authority_key, server_key) = (new_key(), new_key());
        let authority = certificate("authority", &authority_key, None);
        let server = certificate(server_name, &server_key, Some((&authority, &authority_key)));
        Scene {
            home,
            authority,
            authority_key,
            server,
            server_key,
        }
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.home.path().join(".postgresql").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn trust(&self) {
        self.write("root.crt", &self.authority.to_pem().unwrap());
    }

    /// Connect with these parameters. Gives the client's stream and the subject of the client's certificate.
    fn connect(
        &self,
        text: &str,
        alpn: Option<&'static [u8]>,
    ) -> Result<(SslStream<UnixStream>, Option<String>)> {
        let (client, server) = UnixStream::pair().unwrap();
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        context.set_certificate(&self.server).unwrap();
        context.set_private_key(&self.server_key).unwrap();
        context.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        if let Some(alpn) = alpn {
            context.set_alpn_select_callback(move |_, _| Ok(alpn));
        }
        let ssl = Ssl::new(&context.build()).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = SslStream::new(ssl, server).unwrap();
            stream.accept().ok()?;
            stream.write_all(b"x").ok()?;
            let certificate = stream.ssl().peer_certificate()?;
            let entry = certificate
                .subject_name()
                .entries()
                .next()?
                .data()
                .to_string();
            entry.ok()
        });
        let result = self.handshake(text, client);
        let stream = result.map(|mut stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream
        });
        let subject = server.join().unwrap();
        stream.map(|stream| (stream, subject))
    }

    fn handshake(&self, text: &str, socket: UnixStream) -> Result<SslStream<UnixStream>> {
        let info = ConnInfo::parse_with(Side::Target, text, &environment(self.home.path()))?;
        let mut handshake = connector(info.tls(), Side::Target, &info.hosts()[0])?.start(socket)?;
        assert_eq!(handshake.advance()?, Progress::Done);
        handshake.finish()
    }

    fn refusal(&self, text: &str) -> Error {
        match self.connect(text, None) {
            Ok(_) => panic!("{text} was accepted"),
            Err(error) => {
                assert_eq!(error.side(), Some(Side::Target));
                error
            }
        }
    }
}

fn environment(home: &Path) -> Environment {
    Environment {
        vars: Default::default(),
        home: Some(home.to_path_buf()),
        os_user: Some("me".to_string()),
        socket_dir: "/tmp".into(),
        sysconf_dir: "/nonexistent".into(),
    }
}
