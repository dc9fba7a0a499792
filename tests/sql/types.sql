-- 29 to 31: values whose text form loses something under the wrong settings.
create table app.numbers (
  id int primary key, i2 smallint, i8 bigint, n numeric, n2 numeric(20, 5), f4 real, f8 double precision,
  m money, o oid, b bool);
insert into app.numbers values
  (1, 32767, 9223372036854775807, 12345678901234567890.1234, 0.00001, 3.4028235e38, 1.7976931348623157e308,
   '-92233720368547758.08', 4294967295, true),
  (2, -32768, -9223372036854775808, 0.00000000000000006938893903907228, -1.5, 1.17549435e-38, 4.9e-324,
   '92233720368547758.07', 0, false),
  (3, 0, 0, 'NaN', 'NaN', 'NaN', 'NaN', '0.10', 1, null),
  (4, null, null, null, null, '-0', '-0', null, null, null),
  (5, 1, 1, repeat('9', 1000)::numeric + 0.5, 0, 'Infinity', '-Infinity', '1234.56', 2, true),
  (6, 1, 35500000, 1e-300, 0, 0.1::real + 0.2::real, 0.1::float8 + 0.2::float8, '-0.01', 3, true);
create table app.times (
  id int primary key, d date, t time, ttz timetz, ts timestamp, tstz timestamptz, iv interval, ts3 timestamp(3));
insert into app.times values
  (1, 'infinity', '24:00:00', '23:59:59.999999-15:59', 'infinity', '-infinity', '178000000 years', '2000-01-01'),
  (2, '4713-01-01 BC', '00:00', '00:00+15:59', '4713-01-01 00:00 BC', '4713-01-01 00:00 BC+00',
   '-1 year +2 days -03:04:05.000006', '2000-01-01 00:00:00.0015'),
  (3, '5874897-12-31', '12:34:56.789', '12:00+05:30', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59+00',
   '1 mon -1 day', null),
  (4, '2024-02-03', '01:02:03', '01:02:03+00', '2024-02-03 04:05:06.7', '2024-10-27 02:30:00+02', '0', null),
  (5, '0001-12-31 BC', null, null, '12345-01-02 03:04:05', '1883-11-18 12:03:58-04:56:02', '-00:00:00.000001', null);
create table app.texts (id int primary key, t text, v varchar(10), c char(5), c1 "char", n name, b bytea, ci ext.citext);
insert into app.texts values
  (1, '', '', '', '', '', '', ''),
  (2, null, null, null, null, null, null, null),
  (3, 'null', 'NULL', '\N', '\', '\.', 'null', 'NULL'),
  (4, '\.', '\N', 'a', 'a', 'a', '\x5c2e', 'It''s'),
  (5, E'\b\f\n\r\t\v\\ \001\177', E'\\n', E'\t', 'b', E'\n', '\x000102ff275c0a0d', E'\\'),
  (6, 'ünïcödé 表 😀', '表', 'é', 'c', '表', convert_to('表', 'UTF8'), 'ÉÈ'),
  (7, E'ends in a backslash\\', '"', '''', 'd', '{}', E'\\047', '{"a",b}'),
  (8, (select string_agg(md5(i::text), '') from generate_series(1, 5000) i), 'toast', 't', 'e', 't',
   (select decode(string_agg(md5(i::text), ''), 'hex') from generate_series(1, 20000) i), 'toast'),
  (9, repeat('compressible ', 100000), 'toast', 't', 'e', 't', null, 'x');
create table app.documents (id int primary key, j json, jb jsonb, x xml, h ext.hstore, tv tsvector, tq tsquery);
insert into app.documents values
  (1, '{"a" : 1, "a":2,  "b":[]}', '{"n": 12345678901234567890.1234, "e": 1e400}', '<a b="c">&lt;d/></a>',
   'a=>1, "b c"=>NULL, "q\"uote"=>"\\"', 'a:1A ''it''''s'':2', '''it''''s'' & !b:*'),
  (2, 'null', 'null', 'content only', '', '', ''),
  (3, null, null, null, null, null, null),
  (4, '"\u00e9 \\ \" \n"', '"\u00e9 \\ \" \n"', '<?xml version="1.0"?><r>é</r>', '"=>"=>","', 'b c', 'a <-> b');
create table app.shapes (
  id int primary key, p point, l line, ls lseg, bx box, pa path, pg polygon, c circle, n inet, ci cidr, m macaddr,
  m8 macaddr8, u uuid, b bit(5), vb bit varying, lsn pg_lsn, snap txid_snapshot, iv int2vector, ov oidvector);
insert into app.shapes values
  (1, '(1e-300,-0)', '{1,2,3}', '[(0,0),(1,1)]', '(3,4),(1,2)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))',
   '<(0.1,0.2),0.3>', '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', b'10101', b'', '16/B374D848', '10:20:10,14,15', '1 2 3', '1 2 3'),
  (2, '(NaN,Infinity)', null, null, null, '((0,0),(1,1))', null, null, '::1', 'fe80::/10', null, null, null, null,
   b'1111000011110000', '0/0', null, '', '');
create table app.composed (
  id int primary key, ia int[], ta text[], i2d int[][], ma app.mood[], mood app.mood, p app.pair, pa app.pair[],
  pos app.positive, w app.word, ir int4range, nr app.price_range, tr tstzrange, dr daterange,
  rc regclass, rt regtype, rp regprocedure);
insert into app.composed values
  (1, '{}', '{}', '{}', '{}', 'it''s "fine", \really', '(,)', '{}', 1, 'w', 'empty', 'empty', 'empty', 'empty',
   'app.parent', 'app.mood', 'app.twice(int)'),
  (2, '{NULL,1}', '{NULL,"NULL","",a b,"\"","\\","{}",","}', '[0:1][-1:0]={{1,2},{3,4}}',
   array['it''s "fine", \really', '', 'sad', null]::app.mood[], '', row(null, '")(\,'), array[row(1, null), null]::app.pair[],
   2, '', '(,)', '[0.1,0.2)', '[-infinity,infinity]', '[2024-01-01,)',
   '"Hostile ""schema"".%s"."select"', '"char"', null);
insert into app.composed (id, w) select i, 'x' from generate_series(3, 40) i;
