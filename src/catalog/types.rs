//! Which types COPY BINARY carries unharmed from one server to another. Pure.
//!
//! The list is closed on purpose: a type of an extension or of the user may have another OID (arrays, records and
//! ranges carry OIDs in their bytes) or another binary form on the other side. `money` depends on lc_monetary and
//! `xml` carries an encoding of its own, so both travel as text.

use crate::ident::Oid;

/// Whether a column of this type may travel in binary. Text goes through client_encoding as it would in text format,
/// but bytes that are no characters must meet the same check on both sides: hence `has_same_encoding`.
pub(super) fn is_binary_safe(type_oid: Oid, has_same_encoding: bool) -> bool {
    is_fixed_form(type_oid) || (has_same_encoding && is_textual(type_oid))
}

/// Built-in types whose binary form is numbers, and arrays of them. Source: `pg_type.dat`.
fn is_fixed_form(type_oid: Oid) -> bool {
    matches!(
        type_oid,
        // bool, bytea, int8, int2, int4, oid
        16 | 17 | 20 | 21 | 23 | 26
        // float4, float8, numeric
        | 700 | 701 | 1700
        // date, time, timestamp, timestamptz, interval, timetz
        | 1082 | 1083 | 1114 | 1184 | 1186 | 1266
        // uuid, inet, cidr, macaddr, macaddr8, bit, varbit, pg_lsn
        | 2950 | 869 | 650 | 829 | 774 | 1560 | 1562 | 3220
        // point, lseg, path, box, polygon, line, circle
        | 600 | 601 | 602 | 603 | 604 | 628 | 718
        // Arrays, in the same order.
        | 1000 | 1001 | 1016 | 1005 | 1007 | 1028
        | 1021 | 1022 | 1231
        | 1182 | 1183 | 1115 | 1185 | 1187 | 1270
        | 2951 | 1041 | 651 | 1040 | 775 | 1561 | 1563 | 3221
        | 1017 | 1018 | 1019 | 1020 | 1027 | 629 | 719
    )
}

/// Built-in types whose binary form contains characters, and arrays of them.
fn is_textual(type_oid: Oid) -> bool {
    matches!(
        type_oid,
        // "char", name, text, json, bpchar, varchar, jsonb
        18 | 19 | 25 | 114 | 1042 | 1043 | 3802
        // Arrays, in the same order.
        | 1002 | 1003 | 1009 | 199 | 1014 | 1015 | 3807
    )
}

#[cfg(test)]
mod tests {
    use super::is_binary_safe;

    #[test]
    fn text_needs_the_same_encoding() {
        assert!(is_binary_safe(23, false));
        assert!(is_binary_safe(25, true));
        assert!(!is_binary_safe(25, false));
        assert!(!is_binary_safe(1009, false));
    }

    #[test]
    fn other_types_travel_as_text() {
        // money, xml, int4range, record, and a type of the user.
        for oid in [790, 142, 3904, 2249, 16_500] {
            assert!(!is_binary_safe(oid, true), "{oid}");
        }
    }
}
