-- PostgreSQL 18: virtual generated columns, keys WITHOUT OVERLAPS, constraints that are named NOT NULL, not valid or
-- not enforced.
create table app.virtual (id int primary key, v int generated always as (id * 3) virtual,
  s int generated always as (id * 4) stored, t text not null no inherit);
insert into app.virtual (id, t) select i, 't' || i from generate_series(1, 50) i;
create table app.booking (room int, during daterange, note text,
  constraint booking_pk primary key (room, during without overlaps));
insert into app.booking select i % 5, daterange(date '2025-01-01' + i, date '2025-01-02' + i), 'n'
  from generate_series(1, 60) i;
create table app.visit (room int, during daterange,
  foreign key (room, period during) references app.booking (room, period during));
insert into app.visit values (1, '[2025-01-02,2025-01-03)');
create table app.unforced (id int constraint unforced_null not null, a int,
  constraint unforced_check check (a > 0) not enforced,
  constraint unforced_parent foreign key (a) references app.hen not enforced);
insert into app.unforced values (1, -1);
create table app.some_nulls (a int);
insert into app.some_nulls values (null);
alter table app.some_nulls add constraint later not null a not valid;
