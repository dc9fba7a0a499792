-- PostgreSQL 14: multiranges, infinite numerics, functions with an SQL body, compression, expression statistics.
create table app.newer_values (id int primary key, mr int4multirange, n numeric, c text compression pglz, xid xid8);
insert into app.newer_values values
  (1, '{}', 'Infinity', repeat('c', 10000), '18446744073709551615'),
  (2, '{[1,3),[5,)}', '-Infinity', '', '0');
create function app.sql_body(i int) returns bigint language sql stable
  begin atomic
    select count(*) + i from app.newer_values;
  end;
create view app.uses_body as select app.sql_body(1) as n;
create function app.inout_args(inout a int, variadic b text[] default '{}') language sql as 'select 1';
create statistics app.of_expressions on (id % 3), (n > 0) from app.newer_values;
alter statistics app.of_expressions set statistics 222;
create index newer_values_pages on app.newer_values using brin (id int4_minmax_multi_ops);
alter table app.event_2024 detach partition app.event_2024_rest;
