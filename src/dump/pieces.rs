//! Lines of pg_restore --jobs. Its workers share stderr and write each message in pieces (program, severity, text with
//! its line break), so that the pieces of several messages change places: `pg_restore:pg_restore:  error: error: could
//! not execute query: ...`. Only the text is written at once, so it alone can be trusted. Pure.

/// What the text of a line says, whatever stands before it.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A statement that the server refused: what it said.
    Refused(&'a str),
    /// The entry of the archive that the next failure is probably about.
    Entry(&'a str),
    /// What is being done, which is no error, though the "error:" of another message may stand before it.
    Progress(&'a str),
}

/// What can come before a text.
const PIECES: &[&str] = &[
    "pg_restore:",
    "pg_dump:",
    "pg_dumpall:",
    "error:",
    "warning:",
    "detail:",
    "hint:",
    " ",
];

/// `None` when the line says something else.
pub fn recognise(line: &str) -> Option<Said<'_>> {
    let mut text = line;
    while let Some(rest) = PIECES.iter().find_map(|piece| text.strip_prefix(piece)) {
        text = rest;
    }
    if let Some(answer) = text.strip_prefix("could not execute query: ") {
        Some(Said::Refused(answer))
    } else if let Some(entry) = text.strip_prefix("from TOC entry ") {
        Some(Said::Entry(entry))
    } else {
        is_progress(text).then_some(Said::Progress(text))
    }
}

/// Told narrowly: a line of a refused statement must not be taken for one of these.
fn is_progress(text: &str) -> bool {
    let goes_on = |beginning: &str, with: fn(char) -> bool| {
        text.strip_prefix(beginning)
            .is_some_and(|rest| rest.starts_with(with))
    };
    let about_items = [
        "launching item ",
        "processing item ",
        "skipping item ",
        "finished item ",
    ];
    about_items
        .iter()
        .any(|beginning| goes_on(beginning, |c| c.is_ascii_digit()))
        || goes_on("creating ", |c| c.is_ascii_uppercase())
        || text == "while PROCESSING TOC:"
        || text.ends_with(" main parallel loop")
}

#[cfg(test)]
mod tests {
    use super::{Said, recognise};

    /// As pg_restore 15 --jobs=4 printed them.
    #[test]
    fn finds_the_text_behind_mixed_pieces() {
        for (line, said) in [
            (
                "pg_restore:  error: error: could not execute query: ERROR:  no",
                Said::Refused("ERROR:  no"),
            ),
            (
                "could not execute query: ERROR:  no",
                Said::Refused("ERROR:  no"),
            ),
            (
                "pg_restore:pg_restore: from TOC entry 4726; 2606 1 FK c35",
                Said::Entry("4726; 2606 1 FK c35"),
            ),
            (
                "pg_restore:pg_restore:  error: finished item 4726 FK",
                Said::Progress("finished item 4726 FK"),
            ),
            (
                " creating FK CONSTRAINT \"public.c62 c62_id_fkey\"",
                Said::Progress("creating FK CONSTRAINT \"public.c62 c62_id_fkey\""),
            ),
        ] {
            assert_eq!(recognise(line), Some(said), "{line}");
        }
    }

    #[test]
    fn leaves_other_lines_alone() {
        for line in [
            "Command was: ALTER TABLE x;",
            "    creating the table",
            "-- finished item one",
            "DETAIL:  Key (id)=(1) is not present in table \"p1\".",
            "pg_restore: error: connection to server failed",
            "pg_restore: warning: errors ignored on restore: 600",
            "",
        ] {
            assert_eq!(recognise(line), None, "{line}");
        }
    }
}
