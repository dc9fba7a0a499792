//! The statements and values of grouped rows: sets by key from arrays, rows as COPY text. Pure.

use super::target::{TargetColumn, TargetTable};
use crate::ident::quote_literal;
use crate::stream::script::{Operation, StatementIs, quote_on_one_line};

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

/// The script's own statement, as the target wants it. `name` is the table's.
pub fn for_target(sql: &str, is: &StatementIs, table: &TargetTable) -> String {
    let whole = table_name(&is.schema, &is.table, false);
    let only = table_name(&is.schema, &is.table, true);
    // The source's table has heirs of its own; here it is partitioned, and ONLY it holds no row.
    let sql = match is.only && table.is_partitioned {
        true => sql.replace(&only, &whole),
        false => sql.to_owned(),
    };
    let sets_identity = is.set.iter().any(|name| {
        let column = table.column(name).and_then(|index| column(table, index));
        column.is_some_and(|column| column.is_always_identity)
    });
    let condition = match is.operation == Operation::Update && sets_identity {
        true => after_where(&sql),
        false => None,
    };
    let Some(condition) = condition else {
        return sql;
    };
    // Trap 23: an identity column takes a value from an INSERT only.
    let from = match is.only && !table.is_partitioned {
        true => &only,
        false => &whole,
    };
    let columns: Vec<&TargetColumn> = table
        .columns
        .iter()
        .filter(|column| !column.is_generated)
        .collect();
    let names = columns.iter().map(|column| quote_on_one_line(&column.name));
    let values = columns.iter().map(|column| {
        let place = is.set.iter().position(|name| *name == column.name);
        match place {
            Some(place) => format!("${}::{}", place + 1, column.type_name),
            None => format!("old.{}", quote_on_one_line(&column.name)),
        }
    });
    format!(
        "WITH old AS (DELETE FROM {from} WHERE {condition} RETURNING *) INSERT INTO {whole} ({}) \
         OVERRIDING SYSTEM VALUE SELECT {} FROM old",
        names.collect::<Vec<_>>().join(", "),
        values.collect::<Vec<_>>().join(", ")
    )
}

/// What follows the first WHERE that is not part of a name.
fn after_where(sql: &str) -> Option<&str> {
    const WHERE: &str = " WHERE ";
    let mut is_quoted = false;
    for (at, byte) in sql.bytes().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b' ' if !is_quoted && sql[at..].starts_with(WHERE) => {
                return Some(&sql[at + WHERE.len()..]);
            }
            _ => {}
        }
    }
    None
}

/// Empty exactly these tables (as `table_name` writes them), and restart the sequences that their columns own. A table that
/// others refer to cannot be truncated without them, though no foreign key is checked here: its rows are deleted then.
pub fn truncate(tables: &[String], restart_identity: bool) -> String {
    if tables.is_empty() {
        return "SELECT".to_owned();
    }
    let identity = if restart_identity {
        "RESTART"
    } else {
        "CONTINUE"
    };
    let deletes: String = tables
        .iter()
        .map(|table| format!("DELETE FROM {table}; "))
        .collect();
    let restart = match restart_identity {
        true => {
            let owners = tables.iter().map(|table| {
                let name = table.strip_prefix("ONLY ").unwrap_or(table);
                format!("{}::regclass", quote_literal(name))
            });
            format!(
                "PERFORM setval(s.seqrelid::regclass, s.seqstart, false) FROM pg_depend d \
                 JOIN pg_sequence s ON s.seqrelid = d.objid WHERE d.classid = 'pg_class'::regclass \
                 AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjid IN ({}); ",
                owners.collect::<Vec<_>>().join(", ")
            )
        }
        false => String::new(),
    };
    let body = format!(
        "BEGIN TRUNCATE {} {identity} IDENTITY; EXCEPTION WHEN feature_not_supported THEN {deletes}{restart}END",
        tables.join(", ")
    );
    format!("DO {}", quote_literal(&body))
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
            is_always_identity: name == "id",
            is_generated: name == "v",
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
    fn identities_are_set_by_an_insert() {
        let mut is = StatementIs {
            operation: Operation::Update,
            schema: "s".into(),
            table: "t".into(),
            only: true,
            set: vec!["id".into()],
            find: vec!["v WHERE ".into()],
            is_key: true,
            changes_key: false,
        };
        let sql = "UPDATE ONLY \"s\".\"t\" SET \"id WHERE \" = $1 WHERE \"v\" = $2";
        assert_eq!(
            for_target(sql, &is, &table()),
            "WITH old AS (DELETE FROM ONLY \"s\".\"t\" WHERE \"v\" = $2 RETURNING *) INSERT INTO \"s\".\"t\" \
             (\"id\", \"a\"\"\") OVERRIDING SYSTEM VALUE SELECT $1::bigint, old.\"a\"\"\" FROM old"
        );
        is.set.clear();
        let partitioned = TargetTable {
            is_partitioned: true,
            ..table()
        };
        assert_eq!(
            for_target(
                "DELETE FROM ONLY \"s\".\"t\" WHERE \"v\" = $1",
                &is,
                &partitioned
            ),
            "DELETE FROM \"s\".\"t\" WHERE \"v\" = $1"
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
