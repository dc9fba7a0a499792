//! What is sent to the server, and what is agreed on with it.

use std::os::unix::fs::PermissionsExt;

use openssl::hash::{MessageDigest, hash};
use openssl::symm::Cipher;
use openssl::x509::X509;

use super::super::end_point::{certificate_hash, server_end_point};
use super::{Scene, certificate, new_key};

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
