-- What tests/support/workload.rs changes, for servers that know multiranges (14) and have the two contrib modules.
create extension hstore with schema public;
create extension citext with schema public;
create table w.extended (id int primary key, mr int4multirange, mt tstzmultirange, h public.hstore, ci public.citext);
insert into w.extended (id) select generate_series(1, 100);
-- Two keys that are equal may have different bytes.
create table w.citext_key (k public.citext primary key, v int);
insert into w.citext_key select 'Key' || g, 0 from generate_series(1, 50) g;
