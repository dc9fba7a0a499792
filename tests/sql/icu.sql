-- Collations of ICU, which not every build has; equal to each other are texts that are not the same (trap 40).
create collation app.ignoring_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table app.folded (t text collate app.ignoring_case primary key);
insert into app.folded values ('Abc'), ('def');
create domain app.folded_text as text collate app.ignoring_case;
