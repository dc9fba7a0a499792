//! Read a file of roles: ours, that of pg_dumpall --roles-only, or either of them after somebody has edited it. Pure. A
//! statement about anything else is refused, and no message repeats one: it may hold a password.

use crate::dump::sql_tokens::{Token, TokenKind, statements, tokenize};
use crate::error::{Error, Result};

/// What a statement does to its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Create,
    /// ALTER ROLE with attributes: pg_dumpall writes a CREATE ROLE without any.
    Attributes,
    /// A setting or a label: no role is worse for the lack of it.
    Setting,
    Comment,
    /// `role` is granted to `member`.
    Membership {
        member: String,
        options: Options,
        /// The statement without its GRANTED BY, where it has one.
        without_grantor: Option<String>,
    },
    /// A right on a parameter.
    Privilege,
}

/// What a member may do with a membership. INHERIT and SET are known since 16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub admin: bool,
    pub inherits: Option<bool>,
    pub may_set: Option<bool>,
}

impl Options {
    /// What the grants of several grantors come to.
    pub fn join(&mut self, other: Options) {
        let either = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(a), Some(b)) => Some(a || b),
            (a, b) => a.or(b),
        };
        self.admin |= other.admin;
        self.inherits = either(self.inherits, other.inherits);
        self.may_set = either(self.may_set, other.may_set);
    }

    /// Whether they are the same, as far as both sides know.
    pub fn fits(self, other: Options) -> bool {
        let fits = |a: Option<bool>, b: Option<bool>| a.is_none() || b.is_none() || a == b;
        self.admin == other.admin
            && fits(self.inherits, other.inherits)
            && fits(self.may_set, other.may_set)
    }
}

/// One statement of the file. No Debug: it may hold a password.
#[derive(Clone)]
pub struct Statement {
    pub kind: Kind,
    pub role: String,
    /// Without the semicolon.
    pub sql: String,
}

pub fn parse(text: &[u8]) -> Result<Vec<Statement>> {
    let text = std::str::from_utf8(text).map_err(|error| {
        Error::state(format!("it is not UTF-8 from byte {}", error.valid_up_to()))
    })?;
    let tokens = tokenize(text.as_bytes(), true);
    let mut found = Vec::new();
    for tokens in statements(&tokens) {
        let tokens = without_meta_commands(text, tokens);
        let reader = Reader { text, tokens };
        // What pg_dumpall sets for its session is set for ours anyway.
        if reader.is_empty() || reader.is(0, &["SET", "SELECT"]) {
            continue;
        }
        let Some(statement) = reader.statement() else {
            let line = 1 + text[..reader.start()].matches('\n').count();
            return Err(Error::state(format!(
                "the statement on line {line} is not about a role"
            )));
        };
        found.push(statement);
    }
    Ok(found)
}

/// `\restrict` and `\unrestrict` of pg_dumpall are lines for psql and end without a semicolon.
fn without_meta_commands<'a>(text: &str, mut tokens: &'a [Token]) -> &'a [Token] {
    while let Some(first) = tokens.first().filter(|token| token.is_symbol(b'\\')) {
        let end = text[first.start..]
            .find('\n')
            .map_or(text.len(), |length| first.start + length);
        let behind = tokens.iter().position(|token| token.start >= end);
        tokens = &tokens[behind.unwrap_or(tokens.len())..];
    }
    tokens
}

/// The tokens of one statement.
struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

impl Reader<'_> {
    fn is_empty(&self) -> bool {
        self.tokens.iter().all(|token| token.is_symbol(b';'))
    }

    fn start(&self) -> usize {
        self.tokens.first().map_or(0, |token| token.start)
    }

    /// Is the token at this place one of these words?
    fn is(&self, at: usize, words: &[&str]) -> bool {
        let sql = self.text.as_bytes();
        self.tokens
            .get(at)
            .is_some_and(|token| words.iter().any(|word| token.is_word(sql, word)))
    }

    fn find(&self, word: &str) -> Option<usize> {
        (0..self.tokens.len()).find(|at| self.is(*at, &[word]))
    }

    /// The name at this place, as the server understands it.
    fn name(&self, at: usize) -> Option<String> {
        let token = self.tokens.get(at)?;
        let text = &self.text[token.start..token.end];
        match token.kind {
            TokenKind::Word => Some(text.to_ascii_lowercase()),
            TokenKind::QuotedIdentifier => {
                let inner = text.strip_prefix('"')?.strip_suffix('"')?;
                Some(inner.replace("\"\"", "\""))
            }
            TokenKind::Literal | TokenKind::Symbol(_) => None,
        }
    }

    /// Of a membership: `WITH ADMIN OPTION`, or `WITH ADMIN TRUE, INHERIT FALSE, SET TRUE`. What is not said is the default
    /// of the server that will be told.
    fn options(&self) -> Options {
        let said = |word: &str| {
            let at = (4..self.tokens.len()).find(|at| self.is(*at, &[word]))?;
            Some(!self.is(at + 1, &["FALSE"]))
        };
        Options {
            admin: said("ADMIN").unwrap_or(false),
            inherits: said("INHERIT"),
            may_set: said("SET"),
        }
    }

    /// The text of the tokens before this place.
    fn sql(&self, end: usize) -> String {
        let tokens = &self.tokens[..end.min(self.tokens.len())];
        let last = tokens.iter().rev().find(|token| !token.is_symbol(b';'));
        let end = last.map_or(self.start(), |token| token.end);
        self.text[self.start()..end].to_string()
    }

    fn statement(&self) -> Option<Statement> {
        const ROLE: &[&str] = &["ROLE", "USER", "GROUP"];
        let (kind, name_at) = if self.is(0, &["CREATE"]) && self.is(1, ROLE) {
            (Kind::Create, 2)
        } else if self.is(0, &["ALTER"]) && self.is(1, ROLE) && !self.is(2, &["ALL"]) {
            match self.is(3, &["SET", "RESET", "IN"]) {
                true => (Kind::Setting, 2),
                false if self.is(3, &["RENAME"]) => return None,
                false => (Kind::Attributes, 2),
            }
        } else if self.is(0, &["COMMENT"]) && self.is(2, &["ROLE"]) {
            (Kind::Comment, 3)
        } else if self.is(0, &["SECURITY"]) && self.is(1, &["LABEL"]) {
            (Kind::Setting, self.find("ROLE")? + 1)
        } else if self.is(0, &["GRANT"]) && self.is(2, &["TO"]) {
            let grantor = self.find("GRANTED");
            let membership = Kind::Membership {
                member: self.name(3)?,
                options: self.options(),
                without_grantor: grantor.map(|at| self.sql(at)),
            };
            (membership, 1)
        } else if self.is(0, &["GRANT"]) && self.find("PARAMETER").is_some() {
            (Kind::Privilege, self.find("TO")? + 1)
        } else {
            return None;
        };
        Some(Statement {
            kind,
            role: self.name(name_at)?,
            sql: self.sql(self.tokens.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, Options, Statement, parse};

    fn parsed(text: &str) -> Vec<(Kind, String, String)> {
        let statements = parse(text.as_bytes()).unwrap();
        let parts = |statement: Statement| (statement.kind, statement.role, statement.sql);
        statements.into_iter().map(parts).collect()
    }

    #[test]
    fn reads_what_pg_dumpall_writes() {
        let found = parsed(
            "\\restrict abc\n\
             --\n-- PostgreSQL database cluster dump\n--\n\n\
             SET default_transaction_read_only = off;\n\
             SET standard_conforming_strings = on;\n\n\
             CREATE ROLE app;\n\
             ALTER ROLE app WITH NOSUPERUSER INHERIT LOGIN PASSWORD 'md5;x';\n\
             COMMENT ON ROLE app IS 'a\n;b';\n\
             ALTER ROLE \"B\"\"x\" SET search_path TO 'a', 'b';\n\
             GRANT app TO \"B\"\"x\" WITH INHERIT TRUE GRANTED BY postgres;\n\
             GRANT SET ON PARAMETER work_mem TO app;\n\
             \\unrestrict abc\n",
        );
        let kinds: Vec<&str> = found.iter().map(|(_, role, _)| role.as_str()).collect();
        assert_eq!(kinds, ["app", "app", "app", "B\"x", "app", "app"]);
        assert_eq!(found[0].0, Kind::Create);
        assert_eq!(found[1].0, Kind::Attributes);
        assert_eq!(found[2].0, Kind::Comment);
        assert_eq!(found[2].2, "COMMENT ON ROLE app IS 'a\n;b'");
        assert_eq!(found[3].0, Kind::Setting);
        let Kind::Membership {
            member,
            options,
            without_grantor,
        } = &found[4].0
        else {
            panic!("{:?}", found[4].0);
        };
        assert_eq!(member, "B\"x");
        let inherits = Some(true);
        let said = Options {
            inherits,
            ..Options::default()
        };
        assert_eq!(*options, said);
        assert_eq!(
            without_grantor.as_deref(),
            Some("GRANT app TO \"B\"\"x\" WITH INHERIT TRUE")
        );
        assert_eq!(found[5].0, Kind::Privilege);
    }

    #[test]
    fn refuses_what_is_not_about_roles() {
        for text in [
            "CREATE ROLE a;\nDROP TABLE t;",
            "\n ALTER ROLE ALL SET work_mem = 1;",
            "\nGRANT SELECT ON t TO a;",
            "\nALTER ROLE a RENAME TO b",
            "\nCREATE ROLE 'secret';",
        ] {
            let error = parse(text.as_bytes()).err().expect("it is refused");
            assert_eq!(error.exit_code(), 3);
            let message = error.to_string();
            assert!(message.contains("line 2"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        assert!(parse(b"CREATE ROLE a\xff").is_err());
        assert!(parsed("-- nothing\n;;").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r#"[CREATOLGNUSER "';$\\\n]{0,80}"#) {
            let _ = parse(text.as_bytes());
        }
    }
}
