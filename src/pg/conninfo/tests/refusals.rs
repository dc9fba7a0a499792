//! What is refused, in which words, and without a password in them.

use super::super::ConnInfo;
use super::{environment, parse, parse_in};
use crate::error::{ErrorKind, Side};

#[test]
fn says_what_is_wrong() {
    for (text, expected) in [
        (
            "host=a,b hostaddr=::1",
            "could not match 2 host names to 1 \"hostaddr\" values",
        ),
        (
            "host=a port=1,2",
            "could not match 2 port numbers to 1 hosts",
        ),
        (
            "hostaddr=db",
            "invalid \"hostaddr\": \"db\" is not an IP address",
        ),
        ("port=0", "invalid port number: \"0\""),
        ("port=65536", "invalid port number: expected 1 to 65535"),
        (
            "postgres://[::1",
            "missing \"]\" after an IPv6 address in a URI",
        ),
        ("postgres://[]/x", "empty IPv6 address in a URI"),
        (
            "postgres://[::1]x",
            "unexpected character after an IPv6 address in a URI: expected \":\", \"/\", \"?\" or \",\"",
        ),
        (
            "postgres://db?colour=1",
            "unknown URI query parameter \"colour\"",
        ),
        (
            "postgres://db?user",
            "missing \"=\" in URI query parameter \"user\"",
        ),
        (
            "postgres://db?user=a=b",
            "more than one \"=\" in URI query parameter \"user\"",
        ),
        (
            "postgres://db?&user=a",
            "missing \"=\" in URI query parameter \"\"",
        ),
        (
            "postgres://a b@db",
            "invalid user: it contains a blank, which must be written as %20",
        ),
        (
            "postgres://db/%0",
            "invalid dbname: a \"%\" is not followed by two hexadecimal digits",
        ),
        ("postgres://db/%00", "invalid dbname: %00 is forbidden"),
        (
            "postgres://db/%FF",
            "invalid dbname: the decoded text is not valid UTF-8",
        ),
        (
            "sslmode=maybe",
            "invalid value \"maybe\" for parameter \"sslmode\": unknown value",
        ),
        (
            "connect_timeout=5s",
            "invalid value \"5s\" for parameter \"connect_timeout\": expected an integer",
        ),
        (
            "gssencmode=require",
            "invalid value \"require\" for parameter \"gssencmode\": GSS encryption is not supported",
        ),
        (
            "sslkeylogfile=/x",
            "cannot use parameter \"sslkeylogfile\": logging of TLS keys is not supported",
        ),
        (
            "min_protocol_version=3.2",
            "invalid value \"3.2\" for parameter \"min_protocol_version\": pgcopydb speaks protocol version 3.0",
        ),
        (
            "max_protocol_version=2.0",
            "invalid value \"2.0\" for parameter \"max_protocol_version\": expected 3.0, 3.2 or latest",
        ),
        (
            "require_auth=gss",
            "invalid value \"gss\" for parameter \"require_auth\": GSS, SSPI and OAuth authentication are not supported",
        ),
        (
            "sslnegotiation=direct",
            "weak sslmode \"prefer\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\" or \
             \"verify-full\")",
        ),
        (
            "sslrootcert=system sslmode=require",
            "weak sslmode \"require\" may not be used with sslrootcert=system (use \"verify-full\")",
        ),
        (
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "\"ssl_min_protocol_version\" is higher than \"ssl_max_protocol_version\"",
        ),
        ("service=none", "definition of service \"none\" not found"),
        (
            "service=x servicefile=/nonexistent/f",
            "service file \"/nonexistent/f\" not found",
        ),
    ] {
        assert_eq!(parse(text).err().as_deref(), Some(expected), "{text}");
    }
    let error = ConnInfo::parse_with(Side::Target, "port=x", &environment(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(error.side(), Some(Side::Target));
}

/// The "@" or "/" of these passwords should have been encoded; whatever is made of them, no error shows them.
#[test]
fn never_shows_a_misplaced_password() {
    for text in [
        "postgres://ann@srv:s3cret@db/film",
        "postgres://ann:x@s3cret@db/film",
        "postgres://ann:s3cret/x@db/film",
        "postgres://ann:s3cret%zz@db/film",
        "postgres://ann:s3cret%FF@db/film",
        "postgres://ann:s3cret x@db/film",
        "postgres://db/film?password=x&s3cret=1",
        "postgres://db/film?password=x&s3cret",
        "postgres://db/film?password=x=s3cret",
        "password=x s3cret",
        "password=x s3cret=1",
        "password='s3cret",
        "sslpassword=x s3cret",
    ] {
        let error = ConnInfo::parse_with(Side::Source, text, &environment(&[])).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn names_the_variable_of_a_bad_value() {
    for (name, value, expected) in [
        (
            "PGSSLMODE",
            "bad",
            "invalid value \"bad\" for parameter \"sslmode\" (from environment variable PGSSLMODE): unknown value",
        ),
        (
            "PGGSSENCMODE",
            "require",
            "invalid value \"require\" for parameter \"gssencmode\" (from environment variable PGGSSENCMODE): GSS \
             encryption is not supported",
        ),
        ("PGSERVICE", "x", "definition of service \"x\" not found"),
    ] {
        let error = parse_in("", &environment(&[(name, value)])).err();
        assert_eq!(error.as_deref(), Some(expected));
    }
}
