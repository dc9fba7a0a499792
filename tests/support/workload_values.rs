//! The values that the workload writes into tables of many types: each lost something in some tool (traps 29 to 31).

/// A table with key "id" from 1 to `ids`, and for each further column the values that it may get.
pub struct Typed {
    pub name: &'static str,
    pub ids: u64,
    pub columns: &'static [(&'static str, &'static [&'static str])],
}

pub const TYPED: &[Typed] = &[
    Typed {
        name: "w.numbers",
        ids: 400,
        columns: &[
            ("i2", &["32767", "-32768", "0", "null"]),
            (
                "i8",
                &[
                    "9223372036854775807",
                    "-9223372036854775808",
                    "35500000",
                    "null",
                ],
            ),
            (
                "n",
                &[
                    "'NaN'",
                    "0.00000000000000006938893903907228",
                    "1.0",
                    "1.00",
                    "-0.0",
                    "1e-300",
                    "repeat('9', 500)::numeric + 0.5",
                    "12345678901234567890.1234",
                    "null",
                ],
            ),
            (
                "n2",
                &["'NaN'", "0.00001", "-1.5", "123456789012345.67891", "null"],
            ),
            (
                "f4",
                &[
                    "'NaN'",
                    "'-0'",
                    "0",
                    "'Infinity'",
                    "3.4028235e38",
                    "0.1::real + 0.2::real",
                    "null",
                ],
            ),
            (
                "f8",
                &[
                    "'NaN'",
                    "'-0'",
                    "0",
                    "'-Infinity'",
                    "4.9e-324",
                    "0.1::float8 + 0.2::float8",
                    "null",
                ],
            ),
            (
                "m",
                &["'-92233720368547758.08'", "'0.10'", "'1234.56'", "null"],
            ),
            ("b", &["true", "false", "null"]),
            ("o", &["4294967295", "0", "null"]),
        ],
    },
    Typed {
        name: "w.texts",
        ids: 400,
        columns: &[
            (
                "t",
                &[
                    "''",
                    "'null'",
                    "'NULL'",
                    "null",
                    r"E'a\\b\\\\'",
                    r"E'line\nline\r\n\ttab'",
                    "'it''s \"quoted\"'",
                    r"'\.'",
                    r"'\N'",
                    "'ünïcödé 表 😀'",
                    "'unchanged-toast-datum'",
                    "repeat('compressible ', 3000)",
                    r"E'\b\f\v\001\177'",
                    "'COMMIT; -- '",
                    "'[1]:2'",
                    "' '",
                ],
            ),
            (
                "v",
                &["''", "'single '' quote'", r"'E\'''", "'%s $1 ?'", "null"],
            ),
            ("c", &["''", "'é'", "'abc'", "null"]),
            ("ch", &["'a'", "''", r"'\'", "null"]),
            (
                "b",
                &[
                    r"'\x'",
                    r"'\x00010227ff5c'",
                    "convert_to('it''s', 'UTF8')",
                    "null",
                ],
            ),
            (
                "j",
                &[
                    "'null'",
                    "null",
                    r#"'{"a" : 1, "a":2,  "b":[]}'"#,
                    r#"'"\u00e9 \\ \" \n"'"#,
                    "'12345678901234567890.10'",
                ],
            ),
            (
                "jb",
                &[
                    "'null'",
                    "null",
                    r#"'{"k": "it''s \\ \" ", "n": 1.00}'"#,
                    "'[]'",
                    r#"'"\\x"'"#,
                ],
            ),
            ("x", &["'<a b=\"c\">&lt;d/></a>'", "'content'", "null"]),
            ("tv", &[r"'a:1A ''it''''s'':2'", "''", "null"]),
        ],
    },
    Typed {
        name: "w.times",
        ids: 400,
        columns: &[
            (
                "d",
                &[
                    "'infinity'",
                    "'-infinity'",
                    "'4713-01-01 BC'",
                    "'5874897-12-31'",
                    "'2024-02-29'",
                    "null",
                ],
            ),
            ("tt", &["'24:00:00'", "'00:00:00.000001'", "null"]),
            ("ttz", &["'23:59:59.999999-15:59'", "'12:00+05:30'", "null"]),
            (
                "ts",
                &[
                    "'infinity'",
                    "'4713-01-01 00:00 BC'",
                    "'294276-12-31 23:59:59.999999'",
                    "'2024-10-27 02:30'",
                    "null",
                ],
            ),
            (
                "tstz",
                &[
                    "'-infinity'",
                    "'4713-01-01 00:00 BC+00'",
                    "'1883-11-18 12:03:58-04:56:02'",
                    "now()",
                    "null",
                ],
            ),
            (
                "iv",
                &[
                    "'178000000 years'",
                    "'-1 year +2 days -03:04:05.000006'",
                    "'-00:00:00.000001'",
                    "'1 mon -1 day'",
                    "null",
                ],
            ),
        ],
    },
    Typed {
        name: "w.shapes",
        ids: 400,
        columns: &[
            ("n", &["'10.1.2.3/8'", "'::1'", "null"]),
            ("ci", &["'10.0.0.0/8'", "'fe80::/10'", "null"]),
            ("mac", &["'08:00:2b:01:02:03'", "null"]),
            ("u", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "null"]),
            ("bt", &["b'10101'", "b'00000'", "null"]),
            ("vb", &["b''", "b'1111000011110000'", "null"]),
            ("p", &["'(1e-300,-0)'", "'(NaN,Infinity)'", "null"]),
            ("bx", &["'(3,4),(1,2)'", "null"]),
            ("pg", &["'((0,0),(1,1),(2,0))'", "null"]),
            ("lsn", &["'16/B374D848'", "'0/0'", "null"]),
        ],
    },
    Typed {
        name: "w.composed",
        ids: 400,
        columns: &[
            ("ia", &["'{}'", "'{NULL,1}'", "'[0:1]={1,2}'", "null"]),
            (
                "ta",
                &[
                    r#"'{NULL,"NULL","",a b,"\"","\\","{}",",","it''s"}'"#,
                    "'{}'",
                    "null",
                ],
            ),
            (
                "mo",
                &[
                    "'sad'",
                    r#"'it''s "fine", \really'"#,
                    "''",
                    "'NULL'",
                    "null",
                ],
            ),
            (
                "ma",
                &[
                    r#"array['it''s "fine", \really', '', null, 'NULL']::w.mood[]"#,
                    "null",
                ],
            ),
            (
                "pr",
                &["'(,)'", r#"row(1, '")(\,')"#, "row(null, 'null')", "null"],
            ),
            (
                "pa",
                &[
                    "array[row(1, null), null, row(2, 'a''b')]::w.pair[]",
                    "'{}'",
                    "null",
                ],
            ),
            ("pos", &["1", "2147483647", "null"]),
            ("wo", &[r#"'{a,"b c"}'"#, "null"]),
            ("ir", &["'empty'", "'[1,5)'", "'(,)'", "null"]),
            ("nr", &["'[0.1,0.20)'", "'empty'", "null"]),
            (
                "tr",
                &[
                    "'[-infinity,infinity]'",
                    "'[\"2024-01-01 00:00+00\",)'",
                    "null",
                ],
            ),
        ],
    },
    Typed {
        name: "w.toasted",
        ids: 80,
        columns: &[
            ("small", &["1", "2", "null"]),
            ("small", &["3", "4", "5"]),
            (
                "big",
                &["repeat(md5(random()::text), 150)", "'short'", "null"],
            ),
            ("other", &["repeat(md5('x'), 300)", "null"]),
            (
                "jb",
                &[
                    "jsonb_build_object('a', repeat('x', 20), 'b', null)",
                    "null",
                ],
            ),
        ],
    },
];

/// Where hstore, citext and multiranges are.
pub const EXTENDED: Typed = Typed {
    name: "w.extended",
    ids: 200,
    columns: &[
        ("mr", &["'{}'", "'{[1,3),[5,9)}'", "null"]),
        ("mt", &["'{[\"2024-01-01 00:00+00\",infinity)}'", "null"]),
        (
            "h",
            &[
                r#"'a=>1, "b c"=>NULL, "q\"uote"=>"\\", "it''s"=>""'"#,
                "''",
                "null",
            ],
        ),
        ("ci", &["'NULL'", "'ÉÈ'", "'It''s'", "''", "null"]),
    ],
};
