//! A certification authority that a test makes with openssl, and what it signs: servers, users, revocations.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A certificate and its private key.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// `dir` is made.
    pub fn new(dir: &Path, name: &str) -> Authority {
        fs::create_dir(dir).unwrap();
        let authority = Authority {
            dir: dir.to_owned(),
        };
        fs::write(dir.join("index.txt"), "").unwrap();
        fs::write(dir.join("serial"), "1000\n").unwrap();
        let config = format!(
            "[ca]\ndefault_ca = here\n\
             [here]\ndatabase = {dir}/index.txt\nserial = {dir}/serial\nnew_certs_dir = {dir}\n\
             certificate = {dir}/ca.crt\nprivate_key = {dir}/ca.key\ndefault_md = sha256\n\
             default_days = 2\ndefault_crl_days = 2\npolicy = any\nunique_subject = no\n\
             copy_extensions = copy\n\
             [any]\ncommonName = supplied\n",
            dir = dir.display()
        );
        fs::write(dir.join("ca.conf"), config).unwrap();
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-x509", "-days", "2", "-subj", &subject];
        arguments.extend(NEW_KEY);
        arguments.extend(["-keyout", "ca.key", "-out", "ca.crt"]);
        authority.openssl(&arguments);
        authority
    }

    /// For `sslrootcert` and `ssl_ca_file`.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A certificate for `name` and the further names of `alternatives`, as in `DNS:localhost,IP:127.0.0.1`.
    pub fn issue(&self, name: &str, alternatives: &str) -> Identity {
        self.sign(name, alternatives, &[])
    }

    /// One that was valid for a day of the last century.
    pub fn issue_expired(&self, name: &str, alternatives: &str) -> Identity {
        let validity = [
            "-startdate",
            "19990101000000Z",
            "-enddate",
            "19990102000000Z",
        ];
        self.sign(name, alternatives, &validity)
    }

    fn sign(&self, name: &str, alternatives: &str, validity: &[&str]) -> Identity {
        let count = fs::read_dir(&self.dir).unwrap().count();
        let file = |extension: &str| format!("{count}.{extension}");
        let (key, request, certificate) = (file("key"), file("csr"), file("crt"));
        let subject = format!("/CN={name}");
        let extension = format!("subjectAltName={alternatives}");
        let mut arguments = vec!["req", "-new", "-subj", &subject];
        if !alternatives.is_empty() {
            arguments.extend(["-addext", &extension]);
        }
        arguments.extend(NEW_KEY);
        arguments.extend(["-keyout", &key, "-out", &request]);
        self.openssl(&arguments);
        let mut arguments = vec!["ca", "-batch", "-notext", "-config", "ca.conf"];
        arguments.extend(["-in", &request, "-out", &certificate]);
        arguments.extend(validity);
        self.openssl(&arguments);
        Identity {
            certificate: self.dir.join(certificate),
            key: self.dir.join(key),
        }
    }

    /// The list of what is revoked, with this certificate on it.
    pub fn revoke(&self, identity: &Identity) -> PathBuf {
        let certificate = identity.certificate.to_str().unwrap();
        self.openssl(&["ca", "-config", "ca.conf", "-revoke", certificate]);
        self.openssl(&["ca", "-config", "ca.conf", "-gencrl", "-out", "revoked.crl"]);
        self.dir.join("revoked.crl")
    }

    /// The same key under a passphrase.
    pub fn encrypt(&self, identity: &Identity, passphrase: &str) -> Identity {
        let key = identity.key.with_extension("encrypted.key");
        let passphrase = format!("pass:{passphrase}");
        let (from, to) = (identity.key.to_str().unwrap(), key.to_str().unwrap());
        self.openssl(&[
            "pkcs8",
            "-topk8",
            "-in",
            from,
            "-out",
            to,
            "-passout",
            &passphrase,
        ]);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Identity {
            certificate: identity.certificate.clone(),
            key,
        }
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .expect("the tests need the program openssl");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {errors}");
    }
}

/// Elliptic, as the keys of RSA take their time.
const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];
