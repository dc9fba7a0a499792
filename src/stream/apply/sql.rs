//! The statements and values of grouped rows: sets by key from arrays, rows as COPY text. Pure.

use super::target::{TargetColumn, TargetTable};
use crate::stream::script::quote_on_one_line;

/// `[ONLY ]"schema"."table"`.
pub fn table_name(schema: &str, table: &str, only: bool) -> String {
    let only = if only { "ONLY " } else { "" };
    format!(
        "{only}{}.{}",
        quote_on_one_line(schema),
        quote_on_one_line(table)
    )
}

fn column(table: &TargetTable, index: usize) -> Option<&TargetColumn> {
    table.columns.get(index)
}

fn name(table: &TargetTable, index: usize) -> String {
    column(table, index).map_or_else(String::new, |column| quote_on_one_line(&column.name))
}

/// The arrays as rows `s(c1, c2, ...)`; columns by their place, as a name may come twice.
fn unnest(table: &TargetTable, columns: &[usize]) -> String {
    let arrays = columns.iter().enumerate().map(|(place, index)| {
        let type_name = match column(table, *index) {
            Some(column) if !column.travels_as_text => column.type_name.as_str(),
            _ => "text",
        };
        format!("${}::{type_name}[]", place + 1)
    });
    let names = (1..=columns.len()).map(|place| format!("c{place}"));
    format!(
        "unnest({}) AS s({})",
        arrays.collect::<Vec<_>>().join(", "),
        names.collect::<Vec<_>>().join(", ")
    )
}

/// The value of a column in the row `s`.
fn from_row(table: &TargetTable, index: usize, place: usize) -> String {
    match column(table, index) {
        Some(column) if column.travels_as_text => format!("s.c{place}::{}", column.type_name),
        _ => format!("s.c{place}"),
    }
}

fn on_key(table: &TargetTable, key: &[usize], first: usize) -> String {
    let conditions = key.iter().enumerate().map(|(offset, index)| {
        let value = from_row(table, *index, first + offset);
        format!("t.{} = {value}", name(table, *index))
    });
    conditions.collect::<Vec<_>>().join(" AND ")
}

/// Parameters: an array for each column of the key.
pub fn delete(target: &str, table: &TargetTable, key: &[usize]) -> String {
    format!(
        "DELETE FROM {target} AS t USING {} WHERE {}",
        unnest(table, key),
        on_key(table, key, 1)
    )
}

/// Parameters: an array for each column that is set, then for each of the key.
pub fn update(target: &str, table: &TargetTable, set: &[usize], key: &[usize]) -> String {
    let columns: Vec<usize> = set.iter().chain(key).copied().collect();
    let sets = set.iter().enumerate().map(|(place, index)| {
        let value = from_row(table, *index, place + 1);
        format!("{} = {value}", name(table, *index))
    });
    format!(
        "UPDATE {target} AS t SET {} FROM {} WHERE {}",
        sets.collect::<Vec<_>>().join(", "),
        unnest(table, &columns),
        on_key(table, key, set.len() + 1)
    )
}

/// Rows come as text. ONLY has no place here: rows go to the table itself.
pub fn copy(target: &str, table: &TargetTable, columns: &[usize]) -> String {
    let names = columns.iter().map(|index| name(table, *index));
    format!(
        "COPY {target} ({}) FROM STDIN",
        names.collect::<Vec<_>>().join(", ")
    )
}

/// Append a value to an array literal that was begun with `{`.
pub fn add_element(array: &mut Vec<u8>, value: Option<&[u8]>) {
    if array.len() > 1 {
        array.push(b',');
    }
    let Some(value) = value else {
        array.extend_from_slice(b"NULL");
        return;
    };
    let is_plain = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !value.is_empty() && value.iter().all(is_plain) {
        array.extend_from_slice(value);
        return;
    }
    array.push(b'"');
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            array.push(b'\\');
        }
        array.push(*byte);
    }
    array.push(b'"');
}

/// Append a row of COPY text.
pub fn add_row<'v>(rows: &mut Vec<u8>, values: impl Iterator<Item = Option<&'v [u8]>>) {
    for (place, value) in values.enumerate() {
        if place > 0 {
            rows.push(b'\t');
        }
        match value {
            Some(value) => add_copy_value(rows, value),
            None => rows.extend_from_slice(b"\\N"),
        }
    }
    rows.push(b'\n');
}

fn add_copy_value(rows: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t'))
    {
        rows.extend_from_slice(&rest[..at]);
        let letter = match rest[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => b'\\',
        };
        rows.extend_from_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    rows.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TargetTable {
        let column = |name: &str, type_name: &str, travels_as_text| TargetColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            travels_as_text,
        };
        TargetTable {
            columns: vec![
                column("id", "bigint", false),
                column("a\"", "integer[]", true),
                column("v", "bpchar", false),
            ],
            ..TargetTable::default()
        }
    }

    #[test]
    fn sets_by_key() {
        let target = table_name("s", "t", true);
        assert_eq!(
            update(&target, &table(), &[1, 2], &[0]),
            "UPDATE ONLY \"s\".\"t\" AS t SET \"a\"\"\" = s.c1::integer[], \"v\" = s.c2 FROM \
             unnest($1::text[], $2::bpchar[], $3::bigint[]) AS s(c1, c2, c3) WHERE t.\"id\" = s.c3"
        );
        assert_eq!(
            delete("t", &table(), &[0, 2]),
            "DELETE FROM t AS t USING unnest($1::bigint[], $2::bpchar[]) AS s(c1, c2) \
             WHERE t.\"id\" = s.c1 AND t.\"v\" = s.c2"
        );
        assert_eq!(
            copy("t", &table(), &[2, 0]),
            "COPY t (\"v\", \"id\") FROM STDIN"
        );
    }

    #[test]
    fn literals() {
        let mut array = b"{".to_vec();
        for value in [
            Some(&b"-1.5"[..]),
            None,
            Some(b""),
            Some(b"NULL"),
            Some(b"a\"b\\"),
        ] {
            add_element(&mut array, value);
        }
        assert_eq!(array, br#"{-1.5,NULL,"","NULL","a\"b\\""#);
        let mut rows = Vec::new();
        add_row(
            &mut rows,
            [Some(&b"a\tb\\"[..]), None, Some(b"\n\r")].into_iter(),
        );
        assert_eq!(rows, b"a\\tb\\\\\t\\N\t\\n\\r\n");
    }
}
