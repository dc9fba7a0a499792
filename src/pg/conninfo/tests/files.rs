//! Service files and password files.

use super::{environment, parse_in, password};
use crate::pg::tls::SslMode;

#[test]
fn reads_service_files() {
    let dir = tempfile::tempdir().unwrap();
    let content = "# comment\n[other]\nhost=wrong\n\n[prod]\n# inside\n host=db1\nport=7\nuser=svc \n\
                   password=svc=pw\nsslmode=require\n[prod]\nhost=second\n[bad]\nhost\n[odd]\ncolour=1\n\
                   [nested]\nservice=prod\n[directory]\nldap://x/y\n";
    let file = dir.path().join("services.conf");
    std::fs::write(&file, content).unwrap();
    let mut environment = environment(&[
        ("PGSERVICEFILE", file.to_str().unwrap()),
        ("PGUSER", "envuser"),
        ("PGPORT", "99"),
    ]);
    let info = parse_in("service=prod dbname=film", &environment).unwrap();
    assert_eq!(info.identity(), "host=db1 port=7 dbname=film user=svc");
    assert_eq!(password(&info).as_deref(), Some("svc=pw"));
    assert_eq!(info.tls().mode, SslMode::Require);
    let info = parse_in("postgres://ann@/?service=prod&port=8", &environment).unwrap();
    assert_eq!(info.identity(), "host=db1 port=8 dbname=ann user=ann");
    for (service, reason) in [
        ("bad", "line 15: syntax error: missing \"=\""),
        ("odd", "line 17: unknown parameter \"colour\""),
        ("nested", "line 19: a service cannot name another service"),
        (
            "directory",
            "line 21: services defined by an \"ldap:\" URL are not supported",
        ),
        ("missing", "definition of service \"missing\" not found"),
    ] {
        let error = parse_in(&format!("service={service}"), &environment).unwrap_err();
        assert!(error.ends_with(reason), "{error}");
    }
    // The user's file, then the system's.
    environment.vars.remove("PGSERVICEFILE");
    environment.home = Some(dir.path().to_path_buf());
    std::fs::write(dir.path().join(".pg_service.conf"), "[mine]\nhost=home\n").unwrap();
    std::fs::write(dir.path().join("pg_service.conf"), "[all]\nhost=system\n").unwrap();
    environment
        .vars
        .insert("PGSYSCONFDIR".to_string(), dir.path().into());
    for (service, host) in [("mine", "home"), ("all", "system")] {
        environment
            .vars
            .insert("PGSERVICE".to_string(), service.into());
        let info = parse_in("", &environment).unwrap();
        assert_eq!(info.hosts()[0].name(), host);
    }
}

#[test]
fn finds_passwords() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".pgpass");
    std::fs::write(
        &file,
        "db:5432:film:me:one\ndb:5432:postgres:me:two\nlocalhost:*:*:me:local\n10.0.0.1:*:*:*:address\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut environment = environment(&[]);
    environment.home = Some(dir.path().to_path_buf());
    for (text, expected) in [
        ("host=db dbname=film", Some("one")),
        ("host=db dbname=film password=given", Some("given")),
        ("host=db dbname=film password=''", Some("one")),
        ("host=db dbname=other", None),
        ("host=db dbname=film passfile=/nonexistent", None),
        ("dbname=film", Some("local")),
        ("host=/run/pg", Some("local")),
        ("host=/tmp", None),
        ("host=localhost", Some("local")),
        ("hostaddr=10.0.0.1", Some("address")),
        ("host=db hostaddr=10.0.0.1 dbname=film", Some("one")),
    ] {
        let info = parse_in(text, &environment).unwrap();
        assert_eq!(password(&info).as_deref(), expected, "{text}");
    }
    let info = parse_in("host=db dbname=film", &environment).unwrap();
    assert_eq!(
        password(&info.with_dbname("postgres")).as_deref(),
        Some("two")
    );
    let info = parse_in("host=other,db dbname=film", &environment).unwrap();
    assert_eq!(password(&info), None);
    assert_eq!(password(&info.pinned(1)).as_deref(), Some("one"));
    let child = info.pinned(1).child().unwrap();
    assert!(child.env_set.contains(&("PGPASSWORD".into(), "one".into())));
}
