//! Splits the SQL of an archive entry into tokens, far enough to tell what is inside a literal, a quoted identifier or
//! a comment from what is not. Pure; used in the clone parent. It checks no grammar, and on foreign input (an open
//! quote) the rest is one token: nothing is ever found inside what the server would not have parsed that way.

/// What a token is; its text is `sql[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword, a plain identifier or a number.
    Word,
    /// `"..."`.
    QuotedIdentifier,
    /// `'...'`, `E'...'`, `$tag$...$tag$`.
    Literal,
    /// One byte of anything else: `( ) , ; . =` and operators.
    Symbol(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        &sql[self.start..self.end]
    }

    /// Is it this keyword? A quoted identifier never is.
    pub fn is_word(&self, sql: &[u8], word: &str) -> bool {
        self.kind == TokenKind::Word && self.text(sql).eq_ignore_ascii_case(word.as_bytes())
    }

    pub fn is_symbol(&self, symbol: u8) -> bool {
        self.kind == TokenKind::Symbol(symbol)
    }
}

/// All tokens, without white space and comments. `standard_strings` says whether a backslash in a plain literal is an
/// ordinary character (`Archive::has_standard_strings`).
pub fn tokenize(sql: &[u8], standard_strings: bool) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = sql.get(at) {
        let rest = &sql[at..];
        let next = sql.get(at + 1).copied();
        let (kind, length) = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                at += 1;
                continue;
            }
            b'-' if next == Some(b'-') => {
                at += line_length(rest);
                continue;
            }
            b'/' if next == Some(b'*') => {
                at += block_comment_length(rest);
                continue;
            }
            b'\'' => (TokenKind::Literal, quoted_length(rest, !standard_strings)),
            b'"' => (TokenKind::QuotedIdentifier, quoted_length(rest, false)),
            b'e' | b'E' if next == Some(b'\'') => {
                (TokenKind::Literal, 1 + quoted_length(&rest[1..], true))
            }
            b'$' => match dollar_quoted_length(rest) {
                Some(length) => (TokenKind::Literal, length),
                None => (TokenKind::Symbol(byte), 1),
            },
            _ if is_word_start(byte) => (TokenKind::Word, word_length(rest)),
            _ => (TokenKind::Symbol(byte), 1),
        };
        tokens.push(Token {
            kind,
            start: at,
            end: at + length,
        });
        at += length;
    }
    tokens
}

/// The tokens statement by statement, each with its closing semicolon. A semicolon inside parentheses (CREATE RULE)
/// does not end a statement. The bodies of SQL functions (BEGIN ATOMIC) are not understood.
pub fn statements(tokens: &[Token]) -> Vec<&[Token]> {
    let mut statements = Vec::new();
    let mut depth = 0_usize;
    let mut first = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Symbol(b'(') => depth += 1,
            TokenKind::Symbol(b')') => depth = depth.saturating_sub(1),
            TokenKind::Symbol(b';') if depth == 0 => {
                statements.push(&tokens[first..=index]);
                first = index + 1;
            }
            _ => {}
        }
    }
    if first < tokens.len() {
        statements.push(&tokens[first..]);
    }
    statements
}

/// Bytes above ASCII are letters to PostgreSQL's scanner, whatever the encoding.
fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// A `$` inside a word belongs to it, so that `a$b$c` opens no dollar quote.
fn word_length(sql: &[u8]) -> usize {
    sql.iter()
        .position(|&byte| !(is_word_start(byte) || byte == b'$'))
        .unwrap_or(sql.len())
}

fn line_length(sql: &[u8]) -> usize {
    sql.iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(sql.len())
}

/// PostgreSQL's block comments nest.
fn block_comment_length(sql: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < sql.len() {
        if sql[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if sql[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    sql.len()
}

/// From the opening to the closing quote; a doubled quote is a character.
fn quoted_length(sql: &[u8], has_escapes: bool) -> usize {
    let quote = sql[0];
    let mut at = 1;
    while let Some(&byte) = sql.get(at) {
        if byte == b'\\' && has_escapes {
            at += 2;
        } else if byte != quote {
            at += 1;
        } else if sql.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    sql.len()
}

/// `$$...$$` or `$tag$...$tag$`; `None` when the dollar opens no quote.
fn dollar_quoted_length(sql: &[u8]) -> Option<usize> {
    let tag_end = 1 + sql[1..].iter().position(|&byte| byte == b'$')?;
    let tag = &sql[1..tag_end];
    let is_tag = tag.iter().all(|&byte| is_word_start(byte))
        && !tag.first().is_some_and(|byte| byte.is_ascii_digit());
    if !is_tag {
        return None;
    }
    let delimiter = &sql[..=tag_end];
    let body = &sql[delimiter.len()..];
    let close = body
        .windows(delimiter.len())
        .position(|window| window == delimiter);
    Some(match close {
        Some(close) => close + 2 * delimiter.len(),
        None => sql.len(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{TokenKind, statements, tokenize};

    fn texts(sql: &str, standard_strings: bool) -> Vec<&str> {
        tokenize(sql.as_bytes(), standard_strings)
            .iter()
            .map(|token| &sql[token.start..token.end])
            .collect()
    }

    #[test]
    fn splits_what_is_quoted() {
        let cases: [(&str, &[&str]); 11] = [
            ("a  b\n;", &["a", "b", ";"]),
            ("'it''s; x' y", &["'it''s; x'", "y"]),
            (r"'\' y", &[r"'\'", "y"]),
            (r"E'\'; ' y", &[r"E'\'; '", "y"]),
            (r#""a"";'b" y"#, &[r#""a"";'b""#, "y"]),
            ("$$ ' ; $a$ $$ y", &["$$ ' ; $a$ $$", "y"]),
            ("$a$ $$ ; $a$ y", &["$a$ $$ ; $a$", "y"]),
            ("a$b$c ; $1", &["a$b$c", ";", "$", "1"]),
            ("a -- ; '\nb /* /* ' */ ; */ c", &["a", "b", "c"]),
            ("größe=1", &["größe", "=", "1"]),
            ("'open; ", &["'open; "]),
        ];
        for (sql, expected) in cases {
            assert_eq!(texts(sql, true), expected, "{sql}");
        }
        assert_eq!(texts(r"'\'; ' y", false), [r"'\'; '", "y"]);
    }

    #[test]
    fn statements_end_at_a_semicolon_outside_parentheses() {
        let tokens = tokenize(b"a (b; c); d 'e;'; f", true);
        let lengths: Vec<usize> = statements(&tokens).iter().map(|s| s.len()).collect();
        assert_eq!(lengths, [7, 3, 1]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_tokens_in_order(
            sql in prop::collection::vec(prop::sample::select(b"a$'\"\\E-/*();1\n\xc3 ".to_vec()), 0..60),
            standard_strings: bool,
        ) {
            let mut end = 0;
            for token in tokenize(&sql, standard_strings) {
                prop_assert!(token.start >= end && token.end > token.start && token.end <= sql.len());
                let is_symbol = matches!(token.kind, TokenKind::Symbol(_));
                prop_assert!(!is_symbol || token.end == token.start + 1);
                end = token.end;
            }
        }
    }
}
