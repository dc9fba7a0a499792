-- Only for test_decoding: a table that is inserted into and has no replica identity.
create table w.log_only (a int, t text, at timestamptz);
insert into w.log_only select g, 'old', '2024-01-01' from generate_series(1, 30) g;
