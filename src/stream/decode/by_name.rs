//! From columns by name, as plugins send them, to tuples in the order of our relation. Pure.

use std::borrow::Cow;

use crate::stream::message::{RelationId, Tuple, Value};
use crate::stream::relations::Relations;

/// Columns as sent, with their values.
pub(super) type Pairs<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The columns in the order of the relation; generated ones are not among them.
pub(super) fn tuple<'a>(
    relations: &Relations,
    id: RelationId,
    pairs: &Pairs<'a>,
    missing: &Value<'a>,
) -> Tuple<'a> {
    let columns = &relations.relation(id).columns;
    let mut tuple = vec![missing.clone(); columns.len()];
    let mut next = 0;
    for (name, value) in pairs {
        // They come in the order of the table, with some left out.
        let mut places = (next..columns.len()).chain(0..next);
        if let Some(place) = places.find(|place| columns[*place].name == *name) {
            tuple[place] = value.clone();
            next = place + 1;
        }
    }
    tuple
}

/// The relation with what this old tuple can be found by: the replica identity may have been changed since.
pub(super) fn found_by(relations: &mut Relations, id: RelationId, old: &Tuple<'_>) -> RelationId {
    let relation = relations.relation(id);
    let is_sent = |column: &usize| matches!(old.get(*column), Some(Value::Text(_)));
    let has_key = !relation.key.is_empty() && relation.key.iter().all(is_sent);
    if relation.full || has_key || !old.iter().any(|value| matches!(value, Value::Text(_))) {
        return id;
    }
    relations.as_full(id)
}
