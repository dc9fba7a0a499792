//! Whether the two servers can be source and target of one copy: versions, one and the same database, standbys, encodings,
//! locales. Pure.

use super::finding::{Finding, Group};
use super::server::{Locale, Server};
use crate::error::{ErrorKind, Side};
use crate::ident::{quote_ident, quote_literal};

/// The majors that the tests run against, as source or as target.
pub const OLDEST_MAJOR: u32 = 10;
pub const NEWEST_MAJOR: u32 = 18;
/// Older ones may work as a target, and nobody has looked.
const OLDEST_TARGET: u32 = 14;

const GROUP: Group = Group::Servers;

/// What must hold for a run that begins and for one that goes on.
pub fn decide(source: &Server, target: &Server) -> Vec<Finding> {
    let mut findings = vec![source_version(source), target_version(source, target)];
    findings.push(
        match source.identity.is_some() && source.identity == target.identity {
            true => Finding::fail(
                GROUP,
                "same-database",
                Side::Target,
                format!(
                    "source and target are the same database \"{}\" of the same server",
                    source.database
                ),
            )
            .of_no_side()
            .with_fix("Use --target with another database.")
            .with_kind(ErrorKind::Usage),
            false => Finding::pass(
                GROUP,
                "same-database",
                Side::Target,
                "source and target are two databases",
            )
            .of_no_side(),
        },
    );
    findings
}

pub fn source_version(source: &Server) -> Finding {
    let major = source.major();
    let (id, side) = ("source-version", Side::Source);
    if major < OLDEST_MAJOR {
        Finding::fail(
            GROUP,
            id,
            side,
            format!("the source is PostgreSQL {major}: {OLDEST_MAJOR} is the oldest supported"),
        )
        .with_fix(format!(
            "Upgrade the source to {OLDEST_MAJOR} or later first."
        ))
    } else {
        known_version(id, side, major)
    }
}

fn target_version(source: &Server, target: &Server) -> Finding {
    let (from, to) = (source.major(), target.major());
    let (id, side) = ("target-version", Side::Target);
    if to < from {
        Finding::fail(
            GROUP,
            id,
            side,
            format!("the target is PostgreSQL {to}, older than the source, which is {from}"),
        )
        .with_fix(
            "A dump of a newer server cannot be restored into an older one; use a newer target.",
        )
    } else if to < OLDEST_TARGET {
        let reason =
            format!("the target is PostgreSQL {to}: {OLDEST_TARGET} is the oldest that was tested");
        Finding::warn(GROUP, id, side, reason)
    } else {
        known_version(id, side, to)
    }
}

fn known_version(id: &'static str, side: Side, major: u32) -> Finding {
    match major > NEWEST_MAJOR {
        true => Finding::warn(
            GROUP,
            id,
            side,
            format!(
                "the {side} is PostgreSQL {major}: {NEWEST_MAJOR} is the newest that this release was tested with"
            ),
        ),
        false => Finding::pass(GROUP, id, side, format!("the {side} is PostgreSQL {major}")),
    }
}

/// How characters are stored and sorted on both sides.
pub fn decide_texts(source: &Server, target: &Server) -> Vec<Finding> {
    let mut findings = vec![encoding(source, target), locale(source, target)];
    findings.extend([source, target].map(collation_version));
    findings
}

/// Rows travel through UTF-8, as every encoding but two can be converted to it.
fn encoding(source: &Server, target: &Server) -> Finding {
    let (from, to) = (source.encoding.as_str(), target.encoding.as_str());
    let (id, side) = ("encoding", Side::Target);
    let fix = create_database(source, target, from);
    match (from, to) {
        _ if from == to => Finding::pass(
            GROUP,
            id,
            side,
            format!("both databases have encoding {to}"),
        ),
        ("MULE_INTERNAL", _) => Finding::fail(
            GROUP,
            id,
            side,
            format!("encoding {from} of the source cannot be converted to {to}"),
        )
        .with_fix(fix),
        ("SQL_ASCII", _) => Finding::warn(
            GROUP,
            id,
            side,
            format!(
                "encoding of the source is SQL_ASCII: bytes that are no valid {to} will be refused"
            ),
        )
        .with_fix(format!("Mend such rows on the source, or {fix}")),
        (_, "UTF8") => Finding::pass(
            GROUP,
            id,
            side,
            format!("encoding {from} of the source becomes UTF8, which has all its characters"),
        ),
        (_, "SQL_ASCII") => Finding::warn(
            GROUP,
            id,
            side,
            format!(
                "encoding of the target is SQL_ASCII: it will not know that its texts were {from}"
            ),
        )
        .with_fix(fix),
        _ => Finding::warn(
            GROUP,
            id,
            side,
            format!(
                "encoding of the target is {to}: characters of {from} that it lacks will be refused"
            ),
        )
        .with_fix(fix),
    }
}

/// `C.utf8` and `C.UTF-8` are one locale.
fn normal(name: &str) -> String {
    name.to_lowercase().replace('-', "")
}

fn is_same(a: &Locale, b: &Locale) -> bool {
    a.provider == b.provider
        && normal(&a.collate) == normal(&b.collate)
        && normal(&a.ctype) == normal(&b.ctype)
        && a.locale == b.locale
}

fn describe(locale: &Locale) -> String {
    let Locale { collate, ctype, .. } = locale;
    let libc = match collate == ctype {
        true => collate.clone(),
        false => format!("{collate} (characters: {ctype})"),
    };
    match (locale.provider, &locale.locale) {
        ('i', Some(name)) => format!("ICU's {name}"),
        ('b', Some(name)) => format!("the built-in {name}"),
        _ => libc,
    }
}

fn locale(source: &Server, target: &Server) -> Finding {
    let (id, side) = ("locale", Side::Target);
    if is_same(&source.locale, &target.locale) {
        let same = format!("both databases have locale {}", describe(&source.locale));
        return Finding::pass(GROUP, id, side, same);
    }
    Finding::warn(
        GROUP,
        id,
        side,
        format!(
            "the databases have different locales, {} on the source and {} on the target: texts will be sorted \
             differently",
            describe(&source.locale),
            describe(&target.locale)
        ),
    )
    .with_fix(create_database(source, target, &target.encoding))
}

/// A target database that is like the source's.
fn create_database(source: &Server, target: &Server, encoding: &str) -> String {
    let locale = &source.locale;
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote_ident(&target.database),
        quote_literal(encoding),
        quote_literal(&locale.collate),
        quote_literal(&locale.ctype),
    );
    match (locale.provider, &locale.locale) {
        ('i', Some(name)) => {
            sql.push_str(&format!(
                " LOCALE_PROVIDER icu ICU_LOCALE {}",
                quote_literal(name)
            ));
        }
        ('b', Some(name)) => {
            sql.push_str(&format!(
                " LOCALE_PROVIDER builtin BUILTIN_LOCALE {}",
                quote_literal(name)
            ));
        }
        // 15 and 16 take the template's provider, which may be another.
        _ if target.major() >= 15 => sql.push_str(" LOCALE_PROVIDER libc"),
        _ => {}
    }
    format!("make the target database anew: {sql}")
}

/// The system's library may sort otherwise than when the indexes were built.
fn collation_version(server: &Server) -> Finding {
    let (id, side) = ("collation-version", server.side);
    let (recorded, actual) = (
        &server.locale.recorded_version,
        &server.locale.actual_version,
    );
    match (recorded, actual) {
        (Some(recorded), Some(actual)) if recorded != actual => {
            let what = match side {
                Side::Source => {
                    "its unique indexes may have let doubles in, which the target would refuse"
                }
                Side::Target => "what it holds already may be sorted in another order",
            };
            Finding::warn(
                GROUP,
                id,
                side,
                format!(
                    "the {side} database was made with collation version {recorded}, and the system has {actual}: {what}"
                ),
            )
            .with_fix(format!(
                "REINDEX DATABASE {name}; ALTER DATABASE {name} REFRESH COLLATION VERSION",
                name = quote_ident(&server.database)
            ))
        }
        _ => Finding::pass(
            GROUP,
            id,
            side,
            format!("the {side} database's collation has the version that it was made with"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Verdict;
    use crate::check::server::tests::server;

    fn both() -> (Server, Server) {
        (server(Side::Source), server(Side::Target))
    }

    fn verdicts(findings: &[Finding]) -> Vec<(&'static str, Verdict)> {
        findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Pass)
            .map(|finding| (finding.id, finding.verdict))
            .collect()
    }

    #[test]
    fn versions() {
        let of = |from: u32, to: u32| {
            let (mut source, mut target) = both();
            (source.version, target.version) = (from * 10_000, to * 10_000);
            verdicts(&decide(&source, &target))
        };
        assert!(of(10, 18).is_empty() && of(15, 15).is_empty());
        assert_eq!(of(9, 15), [("source-version", Verdict::Fail)]);
        assert_eq!(of(16, 15), [("target-version", Verdict::Fail)]);
        assert_eq!(of(15, 19), [("target-version", Verdict::Warn)]);
        assert_eq!(of(12, 13), [("target-version", Verdict::Warn)]);
        assert_eq!(
            of(19, 19),
            [
                ("source-version", Verdict::Warn),
                ("target-version", Verdict::Warn)
            ]
        );
    }

    #[test]
    fn a_database_is_not_its_own_target() {
        let (source, mut target) = both();
        target.identity = source.identity.clone();
        let findings = decide(&source, &target);
        assert_eq!(verdicts(&findings), [("same-database", Verdict::Fail)]);
        let (mut source, mut target) = both();
        (source.identity, target.identity) = (None, None);
        assert!(verdicts(&decide(&source, &target)).is_empty());
    }

    #[test]
    fn encodings() {
        for (from, to, verdict) in [
            ("UTF8", "UTF8", Verdict::Pass),
            ("LATIN1", "UTF8", Verdict::Pass),
            ("SQL_ASCII", "SQL_ASCII", Verdict::Pass),
            ("UTF8", "LATIN1", Verdict::Warn),
            ("SQL_ASCII", "UTF8", Verdict::Warn),
            ("LATIN1", "SQL_ASCII", Verdict::Warn),
            ("MULE_INTERNAL", "UTF8", Verdict::Fail),
        ] {
            let (mut source, mut target) = both();
            (source.encoding, target.encoding) = (from.to_owned(), to.to_owned());
            let finding = encoding(&source, &target);
            assert_eq!(finding.verdict, verdict, "{from} {to}");
            assert_eq!(finding.fix.is_some(), verdict != Verdict::Pass);
        }
    }

    #[test]
    fn locales() {
        let (source, mut target) = both();
        target.locale.collate = "C.utf8".to_owned();
        assert_eq!(locale(&source, &target).verdict, Verdict::Pass);
        target.locale.collate = "de_DE.utf8".to_owned();
        let finding = locale(&source, &target);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.reason.contains("de_DE.utf8 (characters: C.UTF-8)"));
        assert_eq!(
            finding.fix.as_deref(),
            Some(
                "make the target database anew: CREATE DATABASE \"shop\" TEMPLATE template0 ENCODING 'UTF8' \
                 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' LOCALE_PROVIDER libc"
            )
        );
    }

    #[test]
    fn collation_versions() {
        let mut server = server(Side::Source);
        assert_eq!(collation_version(&server).verdict, Verdict::Pass);
        server.locale.recorded_version = Some("2.31".to_owned());
        server.locale.actual_version = Some("2.36".to_owned());
        let finding = collation_version(&server);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.fix.unwrap().contains("REFRESH COLLATION VERSION"));
    }
}
