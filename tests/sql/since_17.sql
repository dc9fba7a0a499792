-- PostgreSQL 16 and 17: infinite intervals, identity columns of partitioned tables, storage of a column type.
create table app.endless (id int primary key, iv interval, t text storage external);
insert into app.endless values (1, 'infinity', repeat('x', 5000)), (2, '-infinity', '');
create table app.identified (id int generated always as identity, v text) partition by range (id);
create table app.identified_1 partition of app.identified for values from (1) to (1000);
insert into app.identified (v) select 'v' || i from generate_series(1, 40) i;
