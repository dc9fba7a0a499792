//! The same thing in the words of two majors. Pure. Since 16 the columns of a query that reads one relation are written
//! without that relation's name; views are settled exactly by asking the target, rules and bodies of functions here.

/// Since this version (as server_version_num) names are left away.
const SHORTER_SINCE: u32 = 160_000;

/// Whether two texts of one property mean the same, as far as can be told from them.
pub fn is_same(kind: &str, property: &str, ours: &str, theirs: &str, versions: (u32, u32)) -> bool {
    let is_reworded = (versions.0 >= SHORTER_SINCE) != (versions.1 >= SHORTER_SINCE);
    let is_query = matches!(
        (kind, property),
        ("rule", "definition") | ("function", "body")
    );
    is_reworded && is_query && without_qualifiers(ours) == without_qualifiers(theirs)
}

/// A query in which every column stands alone, with single spaces.
pub fn without_qualifiers(sql: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut rest = sql.trim();
    while !rest.is_empty() {
        let (word, after) = rest.split_at(word_length(rest));
        rest = after.trim_start();
        words.push(word);
        // name . name, unless what follows makes it a function or a longer name.
        if let [.., qualifier, ".", name] = words[..]
            && is_name(qualifier)
            && is_name(name)
            && !rest.starts_with(['(', '.'])
        {
            words.truncate(words.len() - 3);
            words.push(name);
        }
    }
    words.join(" ")
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c == '"' || c == '_' || c.is_alphabetic())
}

/// Of the first word: a name, a quoted name, a literal, or one character. At least 1.
fn word_length(text: &str) -> usize {
    let first = text.chars().next().unwrap_or(' ');
    let end = match first {
        '"' | '\'' => closing_quote(text, first),
        c if c == '_' || c.is_alphanumeric() => {
            text.find(|c: char| c != '_' && c != '$' && !c.is_alphanumeric())
        }
        c => Some(c.len_utf8()),
    };
    end.unwrap_or(text.len())
}

/// Behind the quote that closes the first; doubled ones belong to the text.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        let end = at + text.get(at..)?.find(quote)?;
        if !text[end + 1..].starts_with(quote) {
            return Some(end + 1);
        }
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::{is_same, without_qualifiers};

    #[test]
    fn columns_stand_alone() {
        assert_eq!(
            without_qualifiers(
                "SELECT t.a,\n    \"T\".\"a.b\" FROM s.t WHERE (s.f(t.a) = 'x.y ''z')"
            ),
            "SELECT a , \"a.b\" FROM t WHERE ( s . f ( a ) = 'x.y ''z' )"
        );
        assert_eq!(without_qualifiers("1.5 'open"), "1 . 5 'open");
    }

    #[test]
    fn only_where_the_majors_write_differently() {
        let same = |versions| {
            is_same(
                "function",
                "body",
                "SELECT t.a FROM t",
                "SELECT a FROM t",
                versions,
            )
        };
        assert!(same((150_000, 180_000)));
        assert!(!same((150_000, 150_000)));
        assert!(!same((160_000, 180_000)));
        assert!(!is_same("table", "options", "t.a", "a", (150_000, 180_000)));
    }
}
