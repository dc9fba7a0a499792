//! Statements on the tables of tests/sql/workload.sql, made at random from a seed. Pure: the same seed gives the same
//! text. Any of them may fail on the server (a duplicate key, a deadlock): then the transaction is rolled back.

use super::workload_values::{EXTENDED, TYPED, Typed};

/// SplitMix64: the tests need no better randomness, and no dependency for it.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What the database has beyond the common tables.
#[derive(Debug, Clone, Copy)]
pub struct Has {
    pub extended: bool,
    pub log_only: bool,
}

/// One or a few statements, to be sent as one string.
pub fn statement(random: &mut Random, has: Has) -> String {
    match random.below(20) {
        0..=8 => typed(random, pick_typed(random.clone(), has)),
        9 => hostile(random),
        10 => identity_index(random),
        11 | 12 => full_identity(random),
        13 => generated(random),
        14 => swapped(random),
        15 => parted(random),
        16 => family(random),
        17 => equal_keys(random, has),
        18 => emptied(random),
        _ if has.log_only => {
            let text = random.pick(&["'a'", "'it''s'", "null", "'null'"]);
            format!(
                "insert into w.log_only values ({}, {text}, now())",
                random.below(9)
            )
        }
        _ => emptied(random),
    }
}

/// The choice must not depend on how many numbers the statement takes.
fn pick_typed(mut random: Random, has: Has) -> &'static Typed {
    random.next();
    let index = random.below(TYPED.len() as u64 + u64::from(has.extended)) as usize;
    TYPED.get(index).unwrap_or(&EXTENDED)
}

fn typed(random: &mut Random, table: &Typed) -> String {
    let (name, id) = (table.name, 1 + random.below(table.ids));
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for _ in 0..=random.below(4) {
        let (column, values) = table.columns[random.below(table.columns.len() as u64) as usize];
        if columns.iter().all(|(other, _)| *other != column) {
            columns.push((column, random.pick(values)));
        }
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value)| *value).collect();
    let sets: Vec<String> = columns
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    let (names, values, sets) = (names.join(", "), values.join(", "), sets.join(", "));
    match random.below(12) {
        0..=2 => format!(
            "insert into {name} (id, {names}) values ({id}, {values}) on conflict do nothing"
        ),
        3 => format!(
            "insert into {name} (id, {names}) values ({id}, {values}) on conflict (id) do update set {sets}"
        ),
        // The whole table has the same new row twice in a transaction, and the later one counts.
        4 => format!(
            "update {name} set {sets} where id = {id}; delete from {name} where id = {id};
             insert into {name} (id, {names}) values ({id}, {values})"
        ),
        5 => format!("delete from {name} where id = {id}"),
        6 => format!(
            "update {name} set id = {} where id = {id}",
            1 + random.below(table.ids)
        ),
        7 => format!(
            "update {name} set id = id where id between {id} and {}",
            id + 3
        ),
        8 => format!(
            "update {name} set {sets} where id between {id} and {}",
            id + 9
        ),
        _ => format!("update {name} set {sets} where id = {id}"),
    }
}

fn hostile(random: &mut Random) -> String {
    let table = r#""Hostile ""schema"".%s"."select ""表"" $1 ?""#;
    let key = format!(
        r#""k%s" = {} and "Key 'one'" = 'k''{}\'"#,
        random.below(8),
        random.below(5)
    );
    match random.below(4) {
        0 | 1 => format!(
            r#"insert into {table} values ('k''{}\', {}, 'it''s', '{{"%s": "$1"}}', null, 'é') on conflict do nothing"#,
            random.below(5),
            random.below(8)
        ),
        2 => format!(
            r#"update {table} set "select" = {}, "q""uote" = null where {key}"#,
            random.below(99)
        ),
        _ => format!("delete from {table} where {key}"),
    }
}

fn identity_index(random: &mut Random) -> String {
    let (a, b) = (random.below(150), random.below(3));
    match random.below(4) {
        0 => format!("insert into w.by_index values ({a}, 'b{b}', 'new') on conflict do nothing"),
        1 => format!("update w.by_index set v = 'it''s {b}' where a = {a}"),
        2 => format!("update w.by_index set b = 'b{b}' where a = {a}"),
        _ => format!("delete from w.by_index where a = {a} and b = 'b{b}'"),
    }
}

/// Of rows that are alike exactly one is meant.
fn full_identity(random: &mut Random) -> String {
    let a = random.below(7);
    let one = |table: &str| format!("ctid = (select ctid from {table} where a = {a} limit 1)");
    let float = random.pick(&["'-0'", "0", "'NaN'", "1.5", "null"]);
    let text = random.pick(&["null", "'null'", "''", "'text 1'", "'it''s'"]);
    let json = random.pick(&["'{\"a\" : 1}'", "'{\"a\": 1}'", "'null'", "null"]);
    match random.below(9) {
        0 | 1 => format!(
            "insert into w.full_identity values ({a}, {text}, {float}, null), ({a}, {text}, {float}, null)"
        ),
        2 => format!(
            "insert into w.full_identity values ({a}, {text}, {float}, repeat(md5('{a}'), 200))"
        ),
        3 => format!(
            "update w.full_identity set b = {text} where {}",
            one("w.full_identity")
        ),
        4 => format!("update w.full_identity set f = {float} where a = {a}"),
        5 => format!(
            "delete from w.full_identity where {}",
            one("w.full_identity")
        ),
        6 => format!(
            "insert into w.full_no_equality values ({a}, {json}, '(1,2)', '<a/>', '((0,0),(1,1),(2,0))')"
        ),
        7 => format!(
            "update w.full_no_equality set j = {json} where {}",
            one("w.full_no_equality")
        ),
        _ => format!(
            "delete from w.full_no_equality where {}",
            one("w.full_no_equality")
        ),
    }
}

fn generated(random: &mut Random) -> String {
    let id = 1 + random.below(150);
    match random.below(5) {
        0 => format!("insert into w.generated (a) values ({id})"),
        1 => format!(
            "insert into w.generated (id, a) overriding system value values ({}, 1) on conflict do nothing",
            900_000 + id
        ),
        2 => format!(
            "update w.generated set a = {} where id = {id}",
            random.below(99)
        ),
        3 => format!(
            "update w.generated set other = {} where id = {id}",
            random.below(99)
        ),
        _ => format!("delete from w.generated where id = {id}"),
    }
}

/// What is unique only at the commit, and keys that change places.
fn swapped(random: &mut Random) -> String {
    let (a, b) = (1 + random.below(50), 1 + random.below(50));
    match random.below(3) {
        0 => format!(
            "update w.swapped x set pos = y.pos from w.swapped y
             where x.id <> y.id and x.id in ({a}, {b}) and y.id in ({a}, {b})"
        ),
        1 => format!(
            "update w.swapped set id = -{a} where id = {a}; update w.swapped set id = {a} where id = {b};
             update w.swapped set id = {b} where id = -{a}"
        ),
        _ => format!("update w.swapped set v = 'v{b}' where id in ({a}, {b})"),
    }
}

fn parted(random: &mut Random) -> String {
    let (id, k) = (1 + random.below(300), random.below(300));
    match random.below(5) {
        0 => format!(
            "insert into w.parted values ({k}, {}, 'new') on conflict do nothing",
            1000 + id
        ),
        1 | 2 => format!("update w.parted set k = {k} where id = {id}"),
        3 => format!(
            "update w.parted set v = 'it''s {k}' where id between {id} and {}",
            id + 5
        ),
        _ => format!("delete from w.parted where id = {id}"),
    }
}

/// Cascades and a trigger on the source.
fn family(random: &mut Random) -> String {
    let id = 1 + random.below(60);
    match random.below(6) {
        0 => format!("insert into w.parent values ({id}, 'new') on conflict do nothing"),
        1 => format!("delete from w.parent where id = {id}"),
        2 => format!(
            "update w.parent set id = {} where id = {id}",
            100 + random.below(20)
        ),
        3 => format!(
            "update w.parent set v = 'v{}' where id = {id}",
            random.below(9)
        ),
        _ => {
            format!("insert into w.child (parent, v) select id, null from w.parent where id = {id}")
        }
    }
}

/// Keys that are equal and look different.
fn equal_keys(random: &mut Random, has: Has) -> String {
    let key = 1 + random.below(60);
    let scale = random.pick(&["", ".0", ".00"]);
    match random.below(6) {
        0 => format!(
            "insert into w.numeric_key values ({key}{scale}, 1) on conflict (k) do update set v = 2"
        ),
        1 => format!("update w.numeric_key set k = {key}{scale} where k = {key}"),
        2 => format!(
            "update w.numeric_key set v = v + 1 where k between {key} and {}",
            key + 5
        ),
        3 if has.extended => {
            format!("update w.citext_key set k = 'KEY{key}', v = v + 1 where k = 'key{key}'")
        }
        4 if has.extended => format!(
            "delete from w.citext_key where k = 'KEY{key}'; insert into w.citext_key values ('keY{key}', 1)"
        ),
        _ => format!("delete from w.numeric_key where k = {key}"),
    }
}

fn emptied(random: &mut Random) -> String {
    match random.below(12) {
        0 => "truncate w.emptied_a, w.emptied_b restart identity".to_owned(),
        1 => "insert into w.emptied_a (v) values ('gone'); truncate only w.emptied_a;
              insert into w.emptied_a (v) values ('stays')"
            .to_owned(),
        2 => "refresh materialized view w.refreshed".to_owned(),
        3 => "select pg_logical_emit_message(true, 'pgcopydb test', 'it''s no change'),
                     pg_logical_emit_message(false, '', '{\"not\": \"json')"
            .to_owned(),
        4..=6 => {
            "insert into w.emptied_a (v) select 'v' || g from generate_series(1, 5) g".to_owned()
        }
        7 => "insert into w.scratch values ((random() * 1000)::int) on conflict do nothing;
              delete from w.scratch"
            .to_owned(),
        _ => "insert into w.emptied_b (v) values (null), ('null')".to_owned(),
    }
}
