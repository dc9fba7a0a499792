//! Finds the option lists in the definition of an archive entry, `WITH (fillfactor='70')` and
//! `ALTER TABLE .. ALTER COLUMN .. SET (n_distinct=5)`, and takes options out of them. Pure; used in the clone parent.
//! Never touches anything inside a literal, a quoted identifier or a query: only the shapes that pg_dump writes are
//! recognised, anything else is left as it is.

use std::ops::Range;

use crate::dump::archive::Entry;
use crate::dump::sql_tokens::{Token, TokenKind, statements, tokenize};

/// What an option belongs to, which decides who on the target is asked whether it exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OptionKind {
    /// Of a column: `ALTER COLUMN .. SET (..)`.
    Attribute,
    /// Of a table, a partition, a materialized view or their TOAST table.
    Table,
    View,
    /// Of an index or of the index behind a constraint.
    Index {
        method: String,
    },
}

/// One option, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundOption {
    pub kind: OptionKind,
    /// Folded and unquoted, with its namespace: `toast.autovacuum_enabled`.
    pub name: String,
    /// The SQL of the value; empty when the option stands alone.
    pub value: String,
}

/// A parenthesised list and what to delete when nothing stays in it.
struct OptionList {
    options: Vec<ListItem>,
    /// The whole clause, or the whole statement.
    whole: Range<usize>,
}

struct ListItem {
    found: FoundOption,
    range: Range<usize>,
}

/// The options an entry sets.
pub fn find_options(entry: &Entry, standard_strings: bool) -> Vec<FoundOption> {
    option_lists(entry, standard_strings)
        .into_iter()
        .flat_map(|list| list.options)
        .map(|item| item.found)
        .collect()
}

/// The entry's definition without the options for which `is_dropped` says so; `None` when it stays as it is.
pub fn drop_options(
    entry: &Entry,
    standard_strings: bool,
    is_dropped: &dyn Fn(&FoundOption) -> bool,
) -> Option<Vec<u8>> {
    let mut cuts = Vec::new();
    for list in option_lists(entry, standard_strings) {
        let dropped = |item: &ListItem| is_dropped(&item.found);
        if list.options.iter().all(dropped) {
            cuts.push(list.whole);
            continue;
        }
        // An option goes with the separator behind it, the last one with the separator before it.
        let kept_last = list.options.iter().rposition(|item| !dropped(item));
        for (index, item) in list.options.iter().enumerate() {
            if dropped(item) {
                let is_behind_kept = kept_last.is_some_and(|kept| index > kept);
                cuts.push(if is_behind_kept {
                    list.options[index - 1].range.end..item.range.end
                } else {
                    item.range.start..list.options[index + 1].range.start
                });
            }
        }
    }
    if cuts.is_empty() {
        return None;
    }
    let defn = entry.defn.as_bytes();
    let mut kept = Vec::with_capacity(defn.len());
    let mut at = 0;
    for cut in cuts {
        kept.extend_from_slice(&defn[at..cut.start]);
        at = cut.end;
    }
    kept.extend_from_slice(&defn[at..]);
    Some(kept)
}

/// In the order of the text, not overlapping, none of them empty.
fn option_lists(entry: &Entry, standard_strings: bool) -> Vec<OptionList> {
    let desc = entry.desc.lossy();
    let is_table_like = matches!(
        &*desc,
        "TABLE" | "FOREIGN TABLE" | "MATERIALIZED VIEW" | "VIEW" | "RULE" | "INDEX" | "CONSTRAINT"
    );
    if !is_table_like {
        return Vec::new();
    }
    let sql = entry.defn.as_bytes();
    let tokens = tokenize(sql, standard_strings);
    statements(&tokens)
        .into_iter()
        .filter_map(|statement| statement_list(sql, statement))
        .filter(|list| !list.options.is_empty())
        .collect()
}

/// The option list of one statement. pg_dump writes at most one into each.
fn statement_list(sql: &[u8], statement: &[Token]) -> Option<OptionList> {
    let is = |index: usize, word: &str| {
        let token = statement.get(index);
        token.is_some_and(|token| token.is_word(sql, word))
    };
    if is(0, "ALTER") {
        return attribute_list(sql, statement).or_else(|| constraint_list(sql, statement));
    }
    if !is(0, "CREATE") {
        return None;
    }
    // OR REPLACE, UNLOGGED, UNIQUE and the like stand between CREATE and the kind; a name never does.
    let kinds = ["TABLE", "VIEW", "INDEX"];
    let kind = (1..statement.len().min(5)).find_map(|index| {
        let word = *kinds.iter().find(|word| is(index, word))?;
        Some((word, is(index - 1, "MATERIALIZED")))
    })?;
    let kind = match kind {
        ("INDEX", _) => index_kind(sql, statement),
        ("VIEW", false) => OptionKind::View,
        _ => OptionKind::Table,
    };
    with_list(sql, statement, &kind)
}

/// `ALTER [FOREIGN] TABLE ONLY x ALTER COLUMN c SET (..);`, to be deleted with the line's end.
fn attribute_list(sql: &[u8], statement: &[Token]) -> Option<OptionList> {
    let (semicolon, clause) = statement.split_last()?;
    let close = clause.len().checked_sub(1)?;
    if !semicolon.is_symbol(b';') || !clause[close].is_symbol(b')') {
        return None;
    }
    let open = top_level(clause).find(|&index| {
        clause[index].is_symbol(b'(')
            && index >= 4
            && clause[index - 1].is_word(sql, "SET")
            && clause[index - 3].is_word(sql, "COLUMN")
            && clause[index - 4].is_word(sql, "ALTER")
    })?;
    if close_of(clause, open)? != close {
        return None;
    }
    let mut end = semicolon.end;
    if sql.get(end) == Some(&b'\n') {
        end += 1;
    }
    Some(OptionList {
        options: items(sql, &clause[open + 1..close], &OptionKind::Attribute)?,
        whole: statement[0].start..end,
    })
}

/// `ALTER TABLE ONLY x ADD CONSTRAINT c UNIQUE (..) WITH (..)`, or EXCLUDE.
fn constraint_list(sql: &[u8], statement: &[Token]) -> Option<OptionList> {
    let add = statement
        .windows(2)
        .position(|pair| pair[0].is_word(sql, "ADD") && pair[1].is_word(sql, "CONSTRAINT"))?;
    with_list(sql, statement, &index_kind(sql, &statement[add..]))
}

/// The access method behind the first USING outside parentheses. Without one it is a b-tree, or GiST for a temporal
/// constraint of 18.
fn index_kind(sql: &[u8], statement: &[Token]) -> OptionKind {
    let is_temporal = statement
        .windows(2)
        .any(|pair| pair[0].is_word(sql, "WITHOUT") && pair[1].is_word(sql, "OVERLAPS"));
    let default = if is_temporal { "gist" } else { "btree" };
    let method = top_level(statement)
        .find(|&index| statement[index].is_word(sql, "USING"))
        .and_then(|index| identifier(sql, statement.get(index + 1)?))
        .unwrap_or_else(|| default.to_owned());
    OptionKind::Index { method }
}

/// The first `WITH (..)` outside parentheses and before any query or predicate, with the white space before it.
fn with_list(sql: &[u8], statement: &[Token], kind: &OptionKind) -> Option<OptionList> {
    let mut with = None;
    for index in top_level(statement) {
        let token = &statement[index];
        if token.is_word(sql, "AS") || token.is_word(sql, "WHERE") {
            return None;
        }
        let is_list = statement
            .get(index + 1)
            .is_some_and(|next| next.is_symbol(b'('));
        if token.is_word(sql, "WITH") && is_list {
            with = Some(index);
            break;
        }
    }
    let with = with?;
    let close = close_of(statement, with + 1)?;
    // There is always something before WITH, at least the name.
    let previous = statement.get(with.checked_sub(1)?)?;
    Some(OptionList {
        options: items(sql, &statement[with + 2..close], kind)?,
        whole: previous.end..statement[close].end,
    })
}

/// The indexes of the tokens outside parentheses; an opening parenthesis itself counts as outside.
fn top_level(tokens: &[Token]) -> impl Iterator<Item = usize> + '_ {
    let mut depth = 0_usize;
    (0..tokens.len()).filter(move |&index| match tokens[index].kind {
        TokenKind::Symbol(b'(') => {
            depth += 1;
            depth == 1
        }
        TokenKind::Symbol(b')') => {
            depth = depth.saturating_sub(1);
            false
        }
        _ => depth == 0,
    })
}

/// Where the parenthesis at `open` is closed.
fn close_of(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            TokenKind::Symbol(b'(') => depth += 1,
            TokenKind::Symbol(b')') => {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// `name`, `namespace.name`, each with or without `= value`, between commas. `None` when it is anything else, so that a
/// list that is not understood is not touched.
fn items(sql: &[u8], tokens: &[Token], kind: &OptionKind) -> Option<Vec<ListItem>> {
    tokens
        .split(|token| token.is_symbol(b','))
        .map(|item| {
            let mut name = identifier(sql, item.first()?)?;
            let mut rest = &item[1..];
            if rest.first().is_some_and(|token| token.is_symbol(b'.')) {
                name = format!("{name}.{}", identifier(sql, rest.get(1)?)?);
                rest = &rest[2..];
            }
            let range = item.first()?.start..item.last()?.end;
            let value = match rest.split_first() {
                None => "",
                Some((equals, value)) if equals.is_symbol(b'=') => {
                    let text = &sql[value.first()?.start..range.end];
                    std::str::from_utf8(text).ok()?
                }
                Some(_) => return None,
            };
            Some(ListItem {
                found: FoundOption {
                    kind: kind.clone(),
                    name,
                    value: value.to_owned(),
                },
                range,
            })
        })
        .collect()
}

/// The name an identifier means: quotes removed, or folded to lower case.
fn identifier(sql: &[u8], token: &Token) -> Option<String> {
    let text = std::str::from_utf8(token.text(sql)).ok()?;
    match token.kind {
        TokenKind::Word => Some(text.to_ascii_lowercase()),
        TokenKind::QuotedIdentifier => {
            let inner = text.strip_prefix('"')?.strip_suffix('"')?;
            Some(inner.replace("\"\"", "\""))
        }
        TokenKind::Literal | TokenKind::Symbol(_) => None,
    }
}

#[cfg(test)]
mod tests;
