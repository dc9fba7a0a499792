//! Which servers are trusted, and why others are not.

use super::{Scene, certificate, new_key};

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
