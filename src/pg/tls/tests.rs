//! Handshakes over a socket pair with a server of our own: what is trusted, what is refused and in which words.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::{MessageDigest, hash};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use tempfile::TempDir;

use super::end_point::certificate_hash;
use super::{Progress, connector, server_end_point};
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

#[test]
fn verifies_nothing_without_a_root_certificate() {
    let scene = Scene::new("db");
    for mode in ["allow", "prefer", "require"] {
        let (stream, _) = scene
            .connect(&format!("host=other sslmode={mode}"), None)
            .unwrap();
        assert!(stream.ssl().selected_alpn_protocol().is_none());
    }
    for mode in ["verify-ca", "verify-full"] {
        let error = scene.refusal(&format!("host=db sslmode={mode}"));
        let expected = "/.postgresql/root.crt\" does not exist";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn verifies_the_name_only_in_full() {
    let scene = Scene::new("db.example.org");
    scene.trust();
    for text in [
        "host=other sslmode=require",
        "host=other sslmode=verify-ca",
        "host=db.example.org sslmode=verify-full",
        "host=db.example.org hostaddr=10.9.9.9 sslmode=verify-full",
        "host=10.0.0.1 sslmode=verify-full",
    ] {
        scene
            .connect(text, None)
            .unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    for text in [
        "host=other",
        "host=10.0.0.2",
        "host=other hostaddr=10.0.0.1",
    ] {
        let error = scene.refusal(&format!("{text} sslmode=verify-full"));
        let expected = "the server's certificate for \"db.example.org\", \"10.0.0.1\" does not match host name";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let error = scene.refusal("hostaddr=10.0.0.1 sslmode=verify-full");
    assert!(error.to_string().contains("needs a host name"), "{error}");
}

#[test]
fn says_why_a_certificate_is_refused() {
    let scene = Scene::new("expired.example.org");
    scene.trust();
    let error = scene.refusal("host=db sslmode=verify-ca");
    assert!(
        error.to_string().ends_with("\"10.0.0.1\": it has expired"),
        "{error}"
    );
    let scene = Scene::new("db");
    let stranger = new_key();
    scene.write(
        "root.crt",
        &certificate("stranger", &stranger, None).to_pem().unwrap(),
    );
    // A root certificate file turns even "prefer" into a verification.
    for mode in ["prefer", "require", "verify-full"] {
        let error = scene.refusal(&format!("host=db sslmode={mode}"));
        assert!(
            error
                .to_string()
                .contains("its certificate authority is not in root"),
            "{error}"
        );
    }
    scene.write("root.crt", b"not a certificate");
    let error = scene.refusal("host=db");
    assert!(
        error
            .to_string()
            .contains("could not read root certificate file"),
        "{error}"
    );
}

#[test]
fn obeys_a_revocation_list() {
    let scene = Scene::new("db");
    scene.trust();
    let dir = scene.home.path();
    std::fs::write(dir.join("ca.crt"), scene.authority.to_pem().unwrap()).unwrap();
    std::fs::write(
        dir.join("ca.key"),
        scene.authority_key.private_key_to_pem_pkcs8().unwrap(),
    )
    .unwrap();
    std::fs::write(dir.join("server.crt"), scene.server.to_pem().unwrap()).unwrap();
    std::fs::write(dir.join("index.txt"), "").unwrap();
    std::fs::write(
        dir.join("ca.cnf"),
        "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n",
    )
    .unwrap();
    let ca = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl")
            .args([
                "ca", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key",
            ])
            .args(arguments)
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    ca(&["-gencrl", "-out", ".postgresql/root.crl"]);
    scene.connect("host=db sslmode=verify-full", None).unwrap();
    ca(&["-revoke", "server.crt"]);
    ca(&["-gencrl", "-out", ".postgresql/root.crl"]);
    let error = scene.refusal("host=db sslmode=verify-full");
    assert!(
        error.to_string().ends_with("it has been revoked"),
        "{error}"
    );
    // A list that does not exist is not used.
    scene
        .connect("host=db sslmode=verify-full sslcrl=/nonexistent", None)
        .unwrap();
}

#[test]
fn sends_a_client_certificate_when_there_is_one() {
    let scene = Scene::new("db");
    assert_eq!(scene.connect("host=db", None).unwrap().1, None);
    let key = new_key();
    let own = certificate("ann", &key, Some((&scene.authority, &scene.authority_key)));
    scene.write("postgresql.crt", &own.to_pem().unwrap());
    let error = scene.refusal("host=db");
    assert!(
        error
            .to_string()
            .contains("certificate present, but not private key file"),
        "{error}"
    );
    assert_eq!(
        scene
            .connect("host=db sslcertmode=disable", None)
            .unwrap()
            .1,
        None
    );
    scene.write("postgresql.key", &key.private_key_to_der().unwrap());
    assert_eq!(
        scene.connect("host=db", None).unwrap().1.as_deref(),
        Some("ann")
    );
    let encrypted = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"s3cret");
    scene.write("postgresql.key", &encrypted.unwrap());
    let (_, subject) = scene.connect("host=db sslpassword=s3cret", None).unwrap();
    assert_eq!(subject.as_deref(), Some("ann"));
    for text in ["host=db", "host=db sslpassword=wr0ng"] {
        let error = scene.refusal(text);
        assert!(
            error
                .to_string()
                .contains("could not load private key file"),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
    }
    scene.write(
        "postgresql.key",
        &new_key().private_key_to_pem_pkcs8().unwrap(),
    );
    let error = scene.refusal("host=db");
    assert!(error.to_string().contains("key values mismatch"), "{error}");
    let path = scene.home.path().join(".postgresql/postgresql.key");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = scene.refusal("host=db");
    assert!(
        error.to_string().ends_with("has group or world access"),
        "{error}"
    );
}

#[test]
fn direct_negotiation_needs_alpn() {
    let scene = Scene::new("db");
    let text = "host=db sslmode=require sslnegotiation=direct";
    scene.connect(text, Some(b"postgresql")).unwrap();
    let error = scene.refusal(text);
    assert!(
        error.to_string().contains("without the ALPN extension"),
        "{error}"
    );
}

#[test]
fn keeps_to_the_protocol_versions() {
    let scene = Scene::new("db");
    let version = |text: &str| scene.connect(text, None).unwrap().0.ssl().version_str();
    assert_eq!(version("host=db"), "TLSv1.3");
    assert_eq!(
        version("host=db ssl_max_protocol_version=tlsv1.2"),
        "TLSv1.2"
    );
}

#[test]
fn hashes_the_certificate_for_channel_binding() {
    let scene = Scene::new("db");
    let (stream, _) = scene.connect("host=db", None).unwrap();
    let expected = hash(MessageDigest::sha384(), &scene.server.to_der().unwrap()).unwrap();
    assert_eq!(server_end_point(stream.ssl()).as_deref(), Some(&*expected));
}

/// Signed by the command line tool, because the openssl crate cannot choose the padding of a certificate's signature.
#[test]
fn hashes_by_the_digest_of_any_signature() {
    let dir = tempfile::tempdir().unwrap();
    for (options, digest) in [
        (
            &["-newkey", "rsa:2048", "-sha512"][..],
            Some(MessageDigest::sha512()),
        ),
        (
            &["-newkey", "rsa:2048", "-sha1"],
            Some(MessageDigest::sha256()),
        ),
        (
            &[
                "-newkey",
                "rsa:2048",
                "-sha384",
                "-sigopt",
                "rsa_padding_mode:pss",
            ],
            Some(MessageDigest::sha384()),
        ),
        (
            &[
                "-newkey",
                "rsa:2048",
                "-sha1",
                "-sigopt",
                "rsa_padding_mode:pss",
            ],
            Some(MessageDigest::sha256()),
        ),
        (&["-newkey", "ed25519"], None),
    ] {
        let output = std::process::Command::new("openssl")
            .args([
                "req", "-x509", "-nodes", "-subj", "/CN=db", "-keyout", "key.pem",
            ])
            .args(options)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let certificate = X509::from_pem(&output.stdout).unwrap();
        let expected = digest.map(|digest| {
            hash(digest, &certificate.to_der().unwrap())
                .unwrap()
                .to_vec()
        });
        assert_eq!(certificate_hash(&certificate), expected, "{options:?}");
    }
}
