//! Tables for people: aligned columns as psql draws them. Pure. Names of objects may hold anything, also newlines and
//! the escape codes of a terminal: what is not printable is shown as psql shows it, `\n` or `\u{1b}`.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Columns with their titles, and rows of as many cells.
pub struct TextTable {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    pub fn new(columns: &[(&'static str, Align)]) -> TextTable {
        TextTable {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Numbers and names that the caller made text of; a missing cell is empty.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells: Vec<String> = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// All of it, with a newline at the end. Lines end where their last cell does.
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .map(|(title, _)| title.width())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut text = String::new();
        let titles: Vec<&str> = self.columns.iter().map(|(title, _)| *title).collect();
        self.line(&mut text, &widths, titles.iter().copied());
        let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        text.push_str(&dashes.join("+"));
        text.push('\n');
        for row in &self.rows {
            self.line(&mut text, &widths, row.iter().map(String::as_str));
        }
        text
    }

    fn line<'a>(&self, text: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
        let start = text.len();
        for (at, (cell, (width, (_, align)))) in
            cells.zip(widths.iter().zip(&self.columns)).enumerate()
        {
            if at > 0 {
                text.push_str(" |");
            }
            let room = width.saturating_sub(cell.width());
            let (before, after) = match align {
                Align::Left => (0, room),
                Align::Right => (room, 0),
            };
            // Writing to a String cannot fail.
            let _ = write!(text, " {:before$}{cell}{:after$}", "", "");
        }
        let end = text.trim_end_matches(' ').len().max(start);
        text.truncate(end);
        text.push('\n');
    }
}

/// Control characters made visible; everything else as it is.
pub fn printable(text: String) -> String {
    if !text.chars().any(char::is_control) {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter.is_control() {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{Align, TextTable};

    #[test]
    fn columns_line_up() {
        let mut table = TextTable::new(&[("OID", Align::Right), ("Name", Align::Left)]);
        table.row(["7".into(), "a".into()]);
        table.row(["16384".into(), "日本 |".into()]);
        assert_eq!(
            table.render(),
            "   OID | Name\n-------+--------\n     7 | a\n 16384 | 日本 |\n"
        );
    }

    #[test]
    fn a_name_cannot_break_the_table_or_the_terminal() {
        let mut table = TextTable::new(&[("Name", Align::Left)]);
        table.row(["a\nb\u{1b}[2J".into()]);
        assert_eq!(table.render(), " Name\n---------------\n a\\nb\\u{1b}[2J\n");
    }
}
