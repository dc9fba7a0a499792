-- PostgreSQL 12: stored generated columns, foreign keys to partitioned tables, jsonpath.
create table app.generated (
  a int, doubled int generated always as (a * 2) stored, b text,
  folded text generated always as (app.with_path(b)) stored, c int, constraint generated_pk primary key (doubled));
insert into app.generated (a, b, c) select i, 'B' || i, i from generate_series(1, 200) i;
create index generated_folded on app.generated (folded);
-- 23: every column that can be given is generated.
create table app.only_generated (x int generated always as (1) stored);
insert into app.only_generated default values;
insert into app.only_generated default values;
create table app.of_sale (id int, part int, foreign key (id, part) references app.sale);
insert into app.of_sale select i, i % 10 from generate_series(1, 100) i;
create statistics app.mcv (mcv) on tenant, code from app.parent;
create table app.paths (p jsonpath);
insert into app.paths values ('$.a[*] ? (@ > 1 && @.b like_regex "^x")');
