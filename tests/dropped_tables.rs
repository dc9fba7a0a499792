//! Tables that are gone from the source, or have another name there, when their last changes are received: what finds their
//! rows was noted while they were there.

use crate::support::following::{Following, SOON, shared};
use crate::support::version::Version;

const TABLES: &str = "
    create table public.marks (mark int primary key);
    create table gone (id int primary key, v text); insert into gone select g, 'v' from generate_series(1, 10) g;
    create table renamed (id bigint, k text primary key, v text);
    insert into renamed select g, 'k' || g, 'v' from generate_series(1, 10) g;
    create table rekeyed (id int primary key, v text); insert into rekeyed select g, 'v' from generate_series(1, 10) g";

#[test]
fn the_last_changes_of_tables_that_are_gone_are_applied() {
    for plugin in ["test_decoding", "wal2json", "pgoutput"] {
        let following = Following::of(shared(Version::Debian15), plugin, TABLES);
        let mut run = following.clone_and_apply(&[]);
        following.wait_for_mark(&mut run);
        run.term();
        run.wait_deadline(SOON);
        following.source.psql(
            &following.db,
            "update gone set v = 'w' where id < 4; delete from gone where id > 8; drop table gone;
             update renamed set v = 'w' where id < 4; delete from renamed where id > 8;
             alter table renamed rename to moved;
             update rekeyed set v = 'w' where id < 4; alter table rekeyed rename id to number",
        );
        let mut run = following.resume(&[]);
        for table in ["gone", "renamed"] {
            let sql = format!("select string_agg(id || v, ' ' order by id) from {table}");
            following.wait_on_target(&mut run, &sql, "1w 2w 3w 4v 5v 6v 7v 8v");
        }
        let sql = "select string_agg(id || v, ' ' order by id) from rekeyed";
        following.wait_on_target(&mut run, sql, "1w 2w 3w 4v 5v 6v 7v 8v 9v 10v");
        // What the target lacks of the source's DDL is the user's to make.
        following.target.psql(
            &following.copy,
            "drop table gone; alter table renamed rename to moved; alter table rekeyed rename id to number",
        );
        following.cut_over(run, &[]);
    }
}
