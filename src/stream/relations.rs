//! What the source's catalog says of the tables whose changes come: their columns, what finds a row, what is left out.
//! Fetched by one query for all tables; asked for each change, so what was asked last is found without a search. Runs in
//! the receive process, which fetches again when something comes that it does not know.
//!
//! The catalog tells of now, a change of the moment when it was made. Where the two differ, what the plugin sent counts; and
//! what was once known of a table is noted in the directory of the follow, for changes that come when it is gone.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::left_out::LeftOutTables;
use super::message::{Column, Equality, Relation, RelationId};
use crate::error::{Context, Error, Result};
use crate::filter::Filters;
use crate::ident::{Oid, QualifiedName};
use crate::pg::wire::{Connection, Row};
use crate::sys::durable::{Sync, write_atomic_with};

/// The name of the note: a line of JSON for each table.
pub const NOTE: &str = "relations.json";

/// What is known of a table by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Table(RelationId),
    /// Never replayed: our own schema, materialized views, what belongs to an extension.
    Skipped,
}

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    relation: Relation,
    is_skipped: bool,
    generated: Vec<String>,
    /// Given on first use; 0 before.
    #[serde(skip)]
    id: RelationId,
}

impl Table {
    fn knows(&self, columns: &[&str]) -> bool {
        columns.iter().enumerate().all(|(index, name)| {
            let is_it = |column: &Column| column.name == *name;
            // Plugins send columns in the order of the table.
            self.relation.columns.get(index).is_some_and(is_it)
                || self.relation.columns.iter().any(is_it)
                || self.generated.iter().any(|generated| generated == name)
        })
    }

    /// The same, whatever its number.
    fn is_like(&self, other: &Table) -> bool {
        (&self.relation, self.is_skipped, &self.generated)
            == (&other.relation, other.is_skipped, &other.generated)
    }
}

/// Where the tables are fetched again.
pub type Reload = Box<dyn FnMut() -> Result<Connection>>;

pub struct Relations {
    tables: Vec<Table>,
    by_name: HashMap<String, HashMap<String, usize>>,
    /// What tables were before they were altered.
    former: Vec<Table>,
    /// By number, from 1.
    relations: Vec<Relation>,
    /// The numbers of relations with another key (none: full) than the catalog's.
    variants: HashMap<RelationId, Vec<(Vec<usize>, RelationId)>>,
    last: usize,
    reload: Option<Reload>,
    /// A condition on `pg_class c` and `pg_namespace n`: what the filters leave out.
    left_out: String,
    /// What was not copied because of something else that the filters leave out.
    fallen: LeftOutTables,
    /// Where all of it is noted, and whether there is more to note.
    note: Option<PathBuf>,
    is_changed: bool,
}

/// Note what there is now, before a slot is made: a table may be dropped before receive runs.
pub fn note(connection: &mut Connection, dir: &Path, filters: Option<&Filters>) -> Result<()> {
    let nobody = Box::new(|| Err(Error::internal("the tables are fetched once")));
    Relations::fetch(connection, filters, LeftOutTables::new(), Some(dir), nobody).map(|_| ())
}

impl Relations {
    /// One query for all tables, after what is noted in `dir`. `reload` opens a connection for when they have to be fetched
    /// again.
    pub fn fetch(
        connection: &mut Connection,
        filters: Option<&Filters>,
        fallen: LeftOutTables,
        dir: Option<&Path>,
        reload: Reload,
    ) -> Result<Relations> {
        let mut relations = Relations {
            tables: Vec::new(),
            by_name: HashMap::new(),
            former: Vec::new(),
            relations: Vec::new(),
            variants: HashMap::new(),
            last: 0,
            reload: Some(reload),
            left_out: filters.map_or_else(|| "false".to_owned(), Filters::changes_left_out),
            fallen,
            note: dir.map(|dir| dir.join(NOTE)),
            is_changed: false,
        };
        relations.read_note()?;
        relations.is_changed = false;
        relations.read(connection)?;
        Ok(relations)
    }

    /// A line that is not ours is passed over: all that it can cost is a name.
    fn read_note(&mut self) -> Result<()> {
        let Some(path) = self.note.clone() else {
            return Ok(());
        };
        let what = || format!("could not read file \"{}\"", path.display());
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.with_context(what)?,
        };
        for line in BufReader::new(file).split(b'\n') {
            match serde_json::from_slice(&line.with_context(what)?) {
                Ok(table) => self.put(table),
                Err(error) => log::warn!("{}: {error}", what()),
            }
        }
        Ok(())
    }

    /// Tables that are there, and those that once were.
    fn write_note(&mut self) -> Result<()> {
        let (Some(path), true) = (&self.note, self.is_changed) else {
            return Ok(());
        };
        let what = || format!("could not write file \"{}\"", path.display());
        write_atomic_with(path, Sync::Now, &mut |file| {
            let mut file = BufWriter::new(file);
            let mut put_all = || -> std::io::Result<()> {
                // What is read last holds.
                for table in self.former.iter().chain(&self.tables) {
                    serde_json::to_writer(&mut file, table)?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            };
            put_all().with_context(what)
        })?;
        self.is_changed = false;
        Ok(())
    }

    #[cfg(any(test, feature = "failpoint"))]
    pub fn for_test(tables: Vec<Relation>) -> Relations {
        let mut relations = Relations {
            tables: Vec::new(),
            by_name: HashMap::new(),
            former: Vec::new(),
            relations: Vec::new(),
            variants: HashMap::new(),
            last: 0,
            reload: None,
            left_out: String::new(),
            fallen: LeftOutTables::new(),
            note: None,
            is_changed: false,
        };
        for relation in tables {
            relations.put(Table {
                relation,
                is_skipped: false,
                generated: Vec::new(),
                id: 0,
            });
        }
        relations
    }

    /// The tables whose changes need not even be sent.
    pub fn skipped(&self) -> Vec<(&str, &str)> {
        let skipped = self.tables.iter().filter(|table| table.is_skipped);
        skipped
            .map(|table| (&*table.relation.schema, &*table.relation.table))
            .collect()
    }

    fn read(&mut self, connection: &mut Connection) -> Result<()> {
        let mut fetched: Vec<Fetched> = Vec::new();
        connection
            .query_each(
                &query(connection.server_version(), &self.left_out),
                &mut |row| add_row(&mut fetched, row),
            )
            .context("could not list the tables of the source")?;
        // WITH OIDS, which 12 has ended: test_decoding sends what is no column of the table.
        let has_oids = connection.server_version() < 12_00_00;
        for fetched in fetched {
            let mut table = fetched.into_table();
            if has_oids {
                table.generated.push("oid".to_owned());
            }
            self.put(table);
        }
        self.write_note()
    }

    /// Put what was fetched in the place of what was known; a relation that has changed gets a new number.
    fn put(&mut self, mut table: Table) {
        if !self.fallen.is_empty() {
            let Relation {
                schema,
                table: name,
                ..
            } = &table.relation;
            let name = QualifiedName::new(schema, name);
            table.is_skipped |= self.fallen.contains(&name);
        }
        let schema = self
            .by_name
            .entry(table.relation.schema.clone())
            .or_default();
        match schema.get(&table.relation.table) {
            Some(place) => {
                let known = &mut self.tables[*place];
                let id = match known.relation == table.relation {
                    true => known.id,
                    false => 0,
                };
                let was = std::mem::replace(known, Table { id, ..table });
                if !was.is_like(known) {
                    self.is_changed = true;
                    self.former.retain(|former| !former.is_like(&was));
                    self.former.push(was);
                }
            }
            None => {
                self.is_changed = true;
                schema.insert(table.relation.table.clone(), self.tables.len());
                self.tables.push(table);
            }
        }
    }

    fn place(&self, schema: &str, table: &str) -> Option<usize> {
        let is_it =
            |found: &Table| found.relation.table == table && found.relation.schema == schema;
        if self.tables.get(self.last).is_some_and(is_it) {
            return Some(self.last);
        }
        self.by_name.get(schema)?.get(table).copied()
    }

    fn knows(&self, place: usize, columns: &[&str]) -> bool {
        self.tables[place].knows(columns)
    }

    /// Find a table by its name and the columns that were sent. What is not known is looked for on the source once more;
    /// what is not known there either is taken as it was sent, so that apply names what the target lacks.
    pub fn resolve(&mut self, schema: &str, table: &str, columns: &[&str]) -> Result<Known> {
        let mut place = self.place(schema, table);
        if !place.is_some_and(|place| self.knows(place, columns)) {
            self.fetch_again()?;
            place = self.place(schema, table);
            if place.is_none() && is_transient(table) {
                return Ok(Known::Skipped);
            }
            let is_known = place.is_some_and(|place| self.knows(place, columns));
            if !is_known && !self.put_back(schema, table, columns) {
                self.put_as_sent(schema, table, columns);
            }
            if !is_known {
                place = self.place(schema, table);
            }
        }
        let Some(place) = place else {
            return Ok(Known::Skipped);
        };
        self.last = place;
        let table = &mut self.tables[place];
        if table.is_skipped {
            return Ok(Known::Skipped);
        }
        if table.id == 0 {
            self.relations.push(table.relation.clone());
            table.id = self.relations.len() as RelationId;
        }
        Ok(Known::Table(table.id))
    }

    fn fetch_again(&mut self) -> Result<()> {
        let Some(mut reload) = self.reload.take() else {
            return Ok(());
        };
        let result = reload().and_then(|mut connection| self.read(&mut connection));
        self.reload = Some(reload);
        result
    }

    /// A table that was altered since the change was made: what it was before; whether that is known.
    fn put_back(&mut self, schema: &str, table: &str, columns: &[&str]) -> bool {
        let was = |former: &Table| {
            former.relation.table == table
                && former.relation.schema == schema
                && former.knows(columns)
        };
        let Some(at) = self.former.iter().rposition(was) else {
            return false;
        };
        let former = self.former.remove(at);
        self.put(former);
        true
    }

    /// A table that is gone from the source, or has lost columns, since the change was made.
    fn put_as_sent(&mut self, schema: &str, table: &str, columns: &[&str]) {
        let known = self.place(schema, table).map(|place| &self.tables[place]);
        let mut relation = match known {
            Some(known) => known.relation.clone(),
            None => Relation {
                schema: schema.to_owned(),
                table: table.to_owned(),
                only: false,
                columns: Vec::new(),
                key: Vec::new(),
                full: false,
            },
        };
        let generated = known.map_or_else(Vec::new, |known| known.generated.clone());
        let is_skipped = known.is_some_and(|known| known.is_skipped) || schema == OWN_SCHEMA;
        for name in columns {
            let is_known = relation.columns.iter().any(|column| column.name == *name)
                || generated.iter().any(|generated| generated == name);
            if !is_known {
                relation.columns.push(Column {
                    name: (*name).to_owned(),
                    type_name: "text".to_owned(),
                    equality: Equality::Bytes,
                });
            }
        }
        self.put(Table {
            relation,
            is_skipped,
            generated,
            id: 0,
        });
    }

    /// What the R line says. `id` is one that this value has given out: any other is a mistake of ours.
    pub fn relation(&self, id: RelationId) -> &Relation {
        &self.relations[id as usize - 1]
    }

    /// The same relation, a row of which is found by all of the old one that was sent: the replica identity was another
    /// when the change was made.
    pub fn as_full(&mut self, id: RelationId) -> RelationId {
        self.with_key(id, Vec::new())
    }

    /// The same relation with the columns that were its replica identity when the change was made; none is all of them.
    pub fn with_key(&mut self, id: RelationId, key: Vec<usize>) -> RelationId {
        let relation = self.relation(id);
        let full = key.is_empty();
        // The order of a key's columns means nothing.
        let is_key = |column: &usize| relation.key.contains(column);
        let is_same = key.len() == relation.key.len() && key.iter().all(is_key);
        if full == relation.full && is_same {
            return id;
        }
        let known = self.variants.get(&id).into_iter().flatten();
        for (known_key, variant) in known {
            if *known_key == key {
                return *variant;
            }
        }
        let variant = Relation {
            key: key.clone(),
            full,
            ..relation.clone()
        };
        self.relations.push(variant);
        let number = self.relations.len() as RelationId;
        self.variants.entry(id).or_default().push((key, number));
        number
    }
}

const OWN_SCHEMA: &str = "pgcopydb";

/// The heap that a rewrite fills, which 10 sends too: the rows are in the table already.
fn is_transient(table: &str) -> bool {
    table
        .strip_prefix("pg_temp_")
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A table while its rows, one for each column, come in.
struct Fetched {
    oid: Oid,
    relation: Relation,
    is_skipped: bool,
    generated: Vec<String>,
    identity: char,
    /// (position in the index, column), of the index that may find a row.
    primary: Vec<(i32, usize)>,
    index: Vec<(i32, usize)>,
    unique: Vec<(i32, usize)>,
}

impl Fetched {
    fn into_table(mut self) -> Table {
        let columns = |mut found: Vec<(i32, usize)>| -> Vec<usize> {
            found.sort_unstable();
            found.into_iter().map(|(_, column)| column).collect()
        };
        // Only the old values of the replica identity are sent: another key may change without a word. FULL sends all,
        // so any key will do.
        let key = match self.identity {
            'd' => columns(self.primary),
            'i' => columns(self.index),
            'f' if !self.primary.is_empty() => columns(self.primary),
            'f' => columns(self.unique),
            _ => Vec::new(),
        };
        self.relation.full = self.identity == 'f' && key.is_empty();
        self.relation.key = key;
        Table {
            relation: self.relation,
            is_skipped: self.is_skipped,
            generated: self.generated,
            id: 0,
        }
    }
}

fn add_row(fetched: &mut Vec<Fetched>, row: &Row) -> Result<()> {
    let oid: Oid = row.parse(0)?;
    if fetched.last().is_none_or(|last| last.oid != oid) {
        fetched.push(Fetched {
            oid,
            relation: Relation {
                schema: row.text(1)?.to_owned(),
                table: row.text(2)?.to_owned(),
                only: row.bool(3)?,
                columns: Vec::new(),
                key: Vec::new(),
                full: false,
            },
            is_skipped: row.bool(5)?,
            generated: Vec::new(),
            identity: row.text(4)?.chars().next().unwrap_or('d'),
            primary: Vec::new(),
            index: Vec::new(),
            unique: Vec::new(),
        });
    }
    let (Some(last), Some(name)) = (fetched.last_mut(), row.opt_text(6)?) else {
        return Ok(());
    };
    if row.bool(9)? {
        last.generated.push(name.to_owned());
        return Ok(());
    }
    let column = last.relation.columns.len();
    last.relation.columns.push(Column {
        name: name.to_owned(),
        type_name: row.text(7)?.to_owned(),
        equality: match row.text(8)? {
            "bytes" => Equality::Bytes,
            "loose" => Equality::Loose,
            _ => Equality::None,
        },
    });
    for (field, positions) in [
        (10, &mut last.primary),
        (11, &mut last.index),
        (12, &mut last.unique),
    ] {
        if let Some(position) = row.opt_parse(field)? {
            positions.push((position, column));
        }
    }
    Ok(())
}

/// One row for each column of each table that may have changes; one row for a table without columns.
fn query(version: u32, left_out: &str) -> String {
    let generated = match version >= 12_00_00 {
        true => "a.attgenerated <> ''",
        false => "false",
    };
    let deterministic = match version >= 12_00_00 {
        true => "(SELECT l.collisdeterministic FROM pg_collation l WHERE l.oid = a.attcollation)",
        false => "true",
    };
    // Key columns only, without those that INCLUDE added.
    let keys = match version >= 11_00_00 {
        true => "i.indnkeyatts",
        false => "i.indnatts",
    };
    let position = |condition: &str| {
        format!(
            "(SELECT array_position(i.indkey::int2[], a.attnum)
              FROM pg_index i
              WHERE i.indrelid = c.oid AND {condition}
                AND array_position((i.indkey::int2[])[0:{keys} - 1], a.attnum) IS NOT NULL)"
        )
    };
    // Types whose `=` holds exactly when their text is the same; text itself if its collation is deterministic.
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind = 'r' AND c.relhassubclass, c.relreplident,
    n.nspname = '{OWN_SCHEMA}' OR c.relkind = 'm' OR {left_out} OR EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'),
    a.attname, format_type(a.atttypid, -1),
    CASE WHEN t.typtype = 'e' OR b.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype,
            'bool'::regtype, 'uuid'::regtype, 'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype,
            'time'::regtype, 'bytea'::regtype, 'macaddr'::regtype, 'macaddr8'::regtype, 'pg_lsn'::regtype,
            'bit'::regtype, 'varbit'::regtype, '\"char\"'::regtype, 'name'::regtype)
        OR (b.oid IN ('text'::regtype, 'varchar'::regtype) OR b.oid = 'bpchar'::regtype AND a.atttypmod > 0)
            AND {deterministic} THEN 'bytes'
    WHEN b.typtype IN ('r', 'm') OR EXISTS (SELECT FROM pg_opclass o
        WHERE o.opcmethod IN (403, 405) AND o.opcdefault
          AND o.opcintype = CASE WHEN b.typcategory = 'A' THEN b.typelem ELSE b.oid END) THEN 'loose'
    ELSE 'none' END,
    {generated},
    {primary}, {index}, {unique}
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence = 'p'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY c.oid, a.attnum",
        // One that is deferrable is no identity (RelationGetIndexList in relcache.c), and two rows may have it for a while.
        primary = position("i.indisprimary AND i.indisvalid AND i.indimmediate"),
        index = position("i.indisreplident"),
        unique = position(
            "i.indexrelid = (SELECT min(u.indexrelid::oid) FROM pg_index u
                WHERE u.indrelid = c.oid AND u.indisunique AND u.indimmediate AND u.indisvalid
                  AND u.indpred IS NULL AND u.indexprs IS NULL
                  AND NOT EXISTS (SELECT FROM pg_attribute k WHERE k.attrelid = c.oid AND NOT k.attnotnull
                    AND k.attnum = ANY (u.indkey::int2[])))"
        ),
    )
}
