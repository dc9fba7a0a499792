-- PostgreSQL 11: keys, indexes and foreign keys on partitioned tables, hash and default partitions, INCLUDE.
create table app.sale (id int, part int, amount numeric, parent_id int references app.hen,
  constraint sale_pk primary key (id, part)) partition by hash (part);
create table app.sale_0 partition of app.sale for values with (modulus 3, remainder 0);
create table app.sale_1 partition of app.sale for values with (modulus 3, remainder 1) partition by range (id);
create table app.sale_1_low partition of app.sale_1 for values from (minvalue) to (500);
create table app.sale_1_rest partition of app.sale_1 default;
create table app.sale_2 (amount numeric, parent_id int, part int not null, id int not null);
create unique index sale_2_own_name on app.sale_2 (id, part);
alter table app.sale attach partition app.sale_2 for values with (modulus 3, remainder 2);
insert into app.sale select i, i % 10, i / 3.0, 1 + i % 2 from generate_series(1, 900) i;
create index sale_amount on app.sale (amount) include (parent_id);
create index sale_0_only on app.sale_0 (parent_id);
-- 37: an index on the parent that is not complete yet: one partition's is attached, the others are missing.
create index sale_partial_set on only app.sale (parent_id, amount);
create index sale_0_partial_set on app.sale_0 (parent_id, amount);
alter index app.sale_partial_set attach partition app.sale_0_partial_set;
alter table app.sale add constraint sale_amount_check check (amount >= 0);
create trigger per_partition after insert on app.sale for each row execute procedure app.fire();
create table app.including (id int, payload text, other text,
  constraint including_pk primary key (id) include (payload));
insert into app.including select i, 'p', 'o' from generate_series(1, 100) i;
create unique index including_unique on app.including (other, id) include (payload) where id > 10;
create index including_expression on app.including ((id % 7), (length(other)));
alter index app.including_expression alter column 1 set statistics 444;
alter index app.including_expression alter column 2 set statistics 0;
create procedure app.proceed(inout x int) language plpgsql as $$ begin x := x + 1; commit; end $$;
create domain app.checked_pair as app.pair check ((value).a > 0);
create domain app.few_words as app.word[] check (array_length(value, 1) <= 3);
create table app.few (id int primary key, w app.few_words);
insert into app.few values (1, '{}'), (2, array['', 'null', '"']::app.few_words), (3, null);
