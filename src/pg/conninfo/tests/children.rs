//! What is handed on: to children, to messages, to the run that resumes. Never with a password that can be seen.

use super::{environment, parse, parse_in};

#[test]
fn pins_the_host_that_answered() {
    let info = parse("host=a,b port=1,2").unwrap();
    let pinned = info.pinned_to_address(1, "10.0.0.9".parse().unwrap());
    assert_eq!(pinned.hosts().len(), 1);
    assert_eq!(pinned.identity(), "host=b port=2 dbname=me user=me");
    let argument = pinned.child().unwrap().dbname_argument;
    assert_eq!(
        argument,
        "host=b hostaddr=10.0.0.9 port=2 user=me dbname=me"
    );
    assert_eq!(info.pinned(9).hosts()[0].name(), "b");
}

/// pg_dump of 15 knows neither of the two, and needs neither.
#[test]
fn says_only_what_an_older_child_can_understand() {
    let argument = |text: &str| parse(text).unwrap().child().unwrap().dbname_argument;
    let asked = argument("host=a sslnegotiation=postgres load_balance_hosts=random");
    assert!(!asked.contains("sslnegotiation") && !asked.contains("load_balance_hosts"));
    let both = "host=a,b sslmode=require sslnegotiation=direct load_balance_hosts=random";
    let asked = argument(both);
    for word in ["sslnegotiation=direct", "load_balance_hosts=random"] {
        assert!(asked.contains(word), "{asked}");
    }
}

#[test]
fn never_prints_a_password() {
    let text =
        "postgres://ann:s3cret@db/film?sslpassword=s3cret&sslmode=require&options=-c%20a%3Db";
    let info = parse(text).unwrap();
    let child = info.child().unwrap();
    let shown = format!(
        "{info} {info:?} {} {}",
        info.identity(),
        child.dbname_argument
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(
        info.redacted(),
        "postgres://ann:****@db/film?options=-c%20a%3Db&sslmode=require"
    );
    assert!(!format!("{:?}", info.tls()).contains("s3cret"));
    assert!(
        child
            .env_set
            .contains(&("PGPASSWORD".into(), "s3cret".into()))
    );
    assert!(!format!("{child:?}").contains("s3cret"), "{child:?}");
}

#[test]
fn gives_a_child_the_key_passphrase_through_a_file_in_memory() {
    let child = parse("host=db sslpassword='a b'").unwrap().child().unwrap();
    assert!(
        child
            .dbname_argument
            .starts_with("service=pgcopydb host=db ")
    );
    let (_, path) = child
        .env_set
        .iter()
        .find(|(name, _)| name == "PGSERVICEFILE")
        .unwrap();
    for _ in 0..2 {
        let content = std::fs::read_to_string(path).unwrap();
        assert_eq!(content, "[pgcopydb]\nsslpassword=a b\n");
    }
    assert!(parse("sslpassword='a\nb'").unwrap().child().is_err());
}

#[test]
fn gives_a_child_only_what_was_given() {
    let environment = environment(&[("PGSSLMODE", "require"), ("PGCLIENTENCODING", "latin1")]);
    let info = parse_in(
        "host=db application_name=x client_encoding=utf8",
        &environment,
    )
    .unwrap();
    let child = info.with_application_name("it's").child().unwrap();
    assert_eq!(
        child.dbname_argument,
        "host=db port=5432 user=me dbname=me application_name='it\\'s' sslmode=require"
    );
    assert!(child.env_set.is_empty());
    for name in [
        "PGHOST",
        "PGSERVICE",
        "PGPASSFILE",
        "PGREQUIRESSL",
        "PGSSLMODE",
    ] {
        assert!(child.env_remove.contains(&name), "{name}");
    }
}
