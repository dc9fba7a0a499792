-- PostgreSQL 15: NULLS NOT DISTINCT, security_invoker views, publications with columns, rows and schemas.
create table app.not_distinct (id int primary key, a int, b int,
  constraint not_distinct_a unique nulls not distinct (a));
insert into app.not_distinct values (1, null, 1), (2, 1, null), (3, 2, 3);
create unique index not_distinct_b on app.not_distinct (b) nulls not distinct;
create view app.invoked with (security_invoker = true) as select id from app.secret;
create publication of_rows for table app.parent (id, tenant, code) where (tenant > 1);
create publication of_schema for tables in schema other;
create table app.coarse (id int primary key, n numeric(5, -2), p numeric(3, 5));
insert into app.coarse values (1, 1234567, 0.00123);
create table app.of_two (a int, b int, primary key (a, b));
create table app.set_null (id int primary key, a int, b int,
  foreign key (a, b) references app.of_two on delete set null (b));
