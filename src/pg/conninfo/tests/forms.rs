//! What URIs, keyword/value strings and bare names mean, and that no text makes the parser panic.

use proptest::prelude::*;

use super::super::{ChannelBinding, keyword, uri};
use super::{identity, parse};

#[test]
fn reads_every_form() {
    for (text, expected) in [
        ("", "host=/run/pg port=5432 dbname=me user=me"),
        ("film", "host=/run/pg port=5432 dbname=film user=me"),
        ("user=ann", "host=/run/pg port=5432 dbname=ann user=ann"),
        (
            "user='' dbname=''",
            "host=/run/pg port=5432 dbname=me user=me",
        ),
        ("postgres://", "host=/run/pg port=5432 dbname=me user=me"),
        (
            "postgresql:///film",
            "host=/run/pg port=5432 dbname=film user=me",
        ),
        ("postgres://db", "host=db port=5432 dbname=me user=me"),
        ("postgres://db/", "host=db port=5432 dbname=me user=me"),
        ("postgres://db:1/film", "host=db port=1 dbname=film user=me"),
        (
            "postgres://db:/film",
            "host=db port=5432 dbname=film user=me",
        ),
        (
            "postgres://ann@db/film",
            "host=db port=5432 dbname=film user=ann",
        ),
        (
            "postgres://ann:@db/film",
            "host=db port=5432 dbname=film user=ann",
        ),
        (
            "postgres://@db/film",
            "host=db port=5432 dbname=film user=me",
        ),
        (
            "postgres://ann@/film",
            "host=/run/pg port=5432 dbname=film user=ann",
        ),
        (
            "postgres://ann%40srv@db",
            "host=db port=5432 dbname=ann@srv user=ann@srv",
        ),
        (
            "postgres://db/%66%20%C3%A9",
            "host=db port=5432 dbname='f é' user=me",
        ),
        ("postgres://db/a/b", "host=db port=5432 dbname=a/b user=me"),
        ("postgres://db/a@b", "host=db port=5432 dbname=a@b user=me"),
        (
            "postgres://[::1]/film",
            "host=::1 port=5432 dbname=film user=me",
        ),
        (
            "postgres://[::1]:7/film",
            "host=::1 port=7 dbname=film user=me",
        ),
        ("postgres://[::1]", "host=::1 port=5432 dbname=me user=me"),
        (
            "postgres://[::1],[2001:db8::2]:7/x",
            "host=::1,2001:db8::2 port=5432,7 dbname=x user=me",
        ),
        ("postgres://a:1,b:2/x", "host=a,b port=1,2 dbname=x user=me"),
        (
            "postgres://a,b:2,c/x",
            "host=a,b,c port=5432,2,5432 dbname=x user=me",
        ),
        (
            "postgres://a,,c/x",
            "host=a,/run/pg,c port=5432,5432,5432 dbname=x user=me",
        ),
        (
            "postgres://%2Ftmp/x",
            "host=/tmp port=5432 dbname=x user=me",
        ),
        ("postgres://%2Ftmp:9/x", "host=/tmp port=9 dbname=x user=me"),
        (
            "postgres:///x?host=/tmp&port=9",
            "host=/tmp port=9 dbname=x user=me",
        ),
        (
            "postgres://?host=/tmp&user=ann",
            "host=/tmp port=5432 dbname=ann user=ann",
        ),
        (
            "postgres://db?dbname=x&",
            "host=db port=5432 dbname=x user=me",
        ),
        ("postgres://db/x?", "host=db port=5432 dbname=x user=me"),
        (
            "postgres://db/x?user=a%26b",
            "host=db port=5432 dbname=x user='a&b'",
        ),
        ("postgres:// db /x", "host=db port=5432 dbname=x user=me"),
        ("host=a,b port=7", "host=a,b port=7,7 dbname=me user=me"),
        ("host=a,b port=7,", "host=a,b port=7,5432 dbname=me user=me"),
        ("host=a port=' 7 '", "host=a port=7 dbname=me user=me"),
        (
            "hostaddr=10.0.0.1",
            "host=10.0.0.1 port=5432 dbname=me user=me",
        ),
        (
            "host=db hostaddr=10.0.0.1",
            "host=db port=5432 dbname=me user=me",
        ),
        (
            "host=a, hostaddr=,::1",
            "host=a,::1 port=5432,5432 dbname=me user=me",
        ),
        (
            "host=@abstract",
            "host=@abstract port=5432 dbname=me user=me",
        ),
        (
            "host=db client_encoding=latin1 sslcompression=1 krbsrvname=x gsslib=y",
            "host=db port=5432 dbname=me user=me",
        ),
        (
            "min_protocol_version=3.0 max_protocol_version=latest gssencmode=prefer",
            "host=/run/pg port=5432 dbname=me user=me",
        ),
    ] {
        assert_eq!(identity(text), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>(), rest in "[ -~]*") {
        let _ = parse(&text);
        let _ = parse(&format!("postgres://{text}"));
        let _ = parse(&format!("postgres://{rest}"));
    }

    #[test]
    fn a_child_reads_what_we_read(
        host in "[^\\x00,]+", port in 1u16.., user in "[^\\x00]+", dbname in "[^\\x00]+", options in "[^\\x00]+",
    ) {
        let mut text = String::new();
        for (keyword, value) in [
            ("host", host.as_str()), ("port", &port.to_string()), ("user", &user), ("dbname", &dbname),
            ("options", &options), ("channel_binding", "require"),
        ] {
            keyword::append(&mut text, keyword, value);
        }
        let info = parse(&text).unwrap();
        let argument = info.child().unwrap().dbname_argument;
        let again = parse(&argument).unwrap();
        prop_assert_eq!(again.hosts(), info.hosts());
        prop_assert_eq!(again.user(), &user);
        prop_assert_eq!(again.dbname(), &dbname);
        prop_assert_eq!(again.options(), Some(options.as_str()));
        prop_assert_eq!(again.channel_binding(), ChannelBinding::Require);
        prop_assert_eq!(again.child().unwrap().dbname_argument, argument);
    }

    #[test]
    fn a_uri_reads_what_was_encoded(user in "[^\\x00]+", password in "[^\\x00]+", dbname in "[^\\x00]+") {
        let encode = |text: &str| uri::encode(text, "");
        let text = format!("postgresql://{}:{}@h/{}", encode(&user), encode(&password), encode(&dbname));
        let info = parse(&text).unwrap();
        prop_assert_eq!(info.user(), &user);
        prop_assert_eq!(info.dbname(), &dbname);
        prop_assert_eq!(super::password(&info), Some(password));
    }
}
