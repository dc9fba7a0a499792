//! Extensions on their own and before a clone: in their schemas, after what they need, kept where they exist; and the
//! tutorial's "Copy Postgres users and extensions".

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::clone_extensions;
use crate::support::cluster::{Cluster, shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene, program};
use crate::support::migration::Migration;
use crate::support::version::Version;

/// Debian's 15 keeps an option on columns that others do not know.
const ATTVER: &str = "does not know option pg_attver";

const EXTENSIONS: &str = "select x.extname, n.nspname, pg_get_userbyid(n.nspowner), n.nspacl,
    obj_description(x.oid, 'pg_extension'), obj_description(n.oid, 'pg_namespace')
from pg_extension x join pg_namespace n on n.oid = x.extnamespace where n.nspname !~ '^(pg_|public)' order by 1";

fn copy_extensions(scene: &Scene, from: &str, to: &str, more: &[&str]) -> Outcome {
    let dir = scene.work_dir();
    let mut args = vec!["copy", "extensions", "--source", from, "--target", to];
    args.extend(["--dir", dir.to_str().unwrap()]);
    args.extend(more);
    scene.command(args).run()
}

fn requirements(scene: &Scene, text: &str) -> PathBuf {
    let path = scene.path("requirements.json");
    fs::write(&path, text).unwrap();
    path
}

/// Installed extensions with their versions and schemas.
fn installed(cluster: &Cluster, db: &str) -> String {
    let sql = "select string_agg(extname || ' ' || extversion || ' ' || extnamespace::regnamespace, ', ' order by extname) \
               from pg_extension where extname <> 'plpgsql'";
    cluster.value(db, sql)
}

#[test]
fn extensions_are_copied_with_their_schemas() {
    let (source, other) = (shared_source(), Cluster::start(Version::Pg18, &[]));
    let db = source.new_db("extensions");
    source.psql(
        &db,
        r#"create schema "Geo x"; comment on schema "Geo x" is 'it''s';
           grant usage on schema "Geo x" to public; grant create on schema "Geo x" to pg_monitor with grant option;
           create extension earthdistance schema "Geo x" cascade;
           create schema text; create extension pg_trgm schema text; create extension citext;
           comment on extension citext is 'my own words'; create extension ltree schema text"#,
    );
    let from = source.uri(&db);
    for target in [shared_target(), &other] {
        let (scene, copy) = (Scene::new(), target.new_db("extensions"));
        target.psql(
            &copy,
            "create extension pg_trgm; comment on extension pg_trgm is 'kept'; create schema text; create table text.mine ()",
        );
        let to = target.uri(&copy);
        let kept = "\"pg_trgm\" is kept in schema \"public\"";

        // What the target does not offer stops everything, before anything.
        let before = installed(target, &copy);
        let file = requirements(&scene, r#"[{"name": "cube", "version": "99"}]"#);
        let more = ["--requirements", file.to_str().unwrap()];
        let outcome = copy_extensions(&scene, &from, &to, &more);
        outcome.assert_last_error(7, &["--requirements names: cube 99 (it offers", "1.4, 1.5"]);
        assert_eq!(installed(target, &copy), before);

        let file = requirements(
            &scene,
            r#"[{"name": "cube", "version": "1.4"}, {"name": "pg_trgm", "version": "1.5"}, {"name": "other", "version": "1"}]"#,
        );
        let more = ["--requirements", file.to_str().unwrap(), "--resume"];
        let outcome = copy_extensions(&scene, &from, &to, &more);
        outcome.assert_success(&[kept, "\"pg_trgm\" is kept in version 1.6"]);
        let found = installed(target, &copy);
        for text in [
            "cube 1.4 \"Geo x\"",
            "pg_trgm 1.6 public",
            "ltree 1.",
            "earthdistance 1.",
        ] {
            assert!(found.contains(text), "{found}");
        }
        let all = |cluster: &Cluster, db: &str| -> Vec<_> {
            let rows = cluster.rows(db, EXTENSIONS).into_iter();
            rows.filter(|row| row[0].as_deref() != Some("pg_trgm"))
                .collect()
        };
        assert_eq!(all(target, &copy), all(source, &db));
        let comments = "select string_agg(obj_description(oid, 'pg_extension'), ',' order by extname) from pg_extension \
                        where extname in ('citext', 'pg_trgm')";
        assert_eq!(target.value(&copy, comments), "my own words,kept");

        // Again, with the target's own versions as the list gives them: everything is kept as it is.
        let list = [
            "list",
            "extensions",
            "--requirements",
            "--json",
            "--source",
            &to,
        ];
        let listed = scene.command(list).run();
        listed.assert_success(&[]);
        let file = requirements(&scene, &listed.stdout);
        let more = ["--requirements", file.to_str().unwrap()];
        let outcome = copy_extensions(&scene, &from, &to, &more);
        outcome.assert_success(&[kept]);
        assert!(
            outcome.stderr.contains("copied 0 extensions"),
            "{}",
            outcome.stderr
        );
        assert_eq!(installed(target, &copy), found);
    }

    // The new server does not come with this one any more.
    source.psql(&db, "create extension adminpack");
    let (scene, copy) = (Scene::new(), other.new_db("extensions"));
    let to = other.uri(&copy);
    let outcome = copy_extensions(&scene, &from, &to, &[]);
    outcome.assert_last_error(7, &["not available on the target: adminpack"]);
    outcome.assert_failure(7, &["HINT: Install their packages", "--skip-extensions"]);
    assert_eq!(installed(&other, &copy), "");
    let outcome = scene.clone_db(&from, &to, &[]).tools(Version::Pg18).run();
    outcome.assert_last_error(7, &["not available on the target: adminpack"]);
    assert_eq!(installed(&other, &copy), "");
    // The way out.
    let filters = scene.path("filters.ini");
    fs::write(
        &filters,
        "[exclude-extension]\nadminpack\nearthdistance\ncube\n",
    )
    .unwrap();
    let more = ["--filters", filters.to_str().unwrap(), "--requirements"];
    let file = requirements(&scene, r#"[{"name": "ltree", "version": "1.2"}]"#);
    let more = [&more[..], &[file.to_str().unwrap()]].concat();
    let outcome = scene.clone_db(&from, &to, &more).tools(Version::Pg18).run();
    outcome.assert_success(&[]);
    let found = installed(&other, &copy);
    assert!(
        found.starts_with("citext ") && found.contains("ltree 1.2 text, pg_trgm "),
        "{found}"
    );
    let copy = other.new_db("extensions");
    let outcome = copy_extensions(&scene, &from, &other.uri(&copy), &more);
    outcome.assert_success(&[]);
    assert_eq!(installed(&other, &copy), found);
}

/// The rows of configuration tables, against the order of their names, for a role that may turn no triggers off, too.
#[test]
fn configuration_comes_with_its_extension() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    clone_extensions::write_extensions(dir.path());
    let cluster = clone_extensions::cluster(dir.path());
    let db = cluster.new_db("from");
    cluster.psql(
        &db,
        "create schema elsewhere; create extension shop_base; create extension shop_more schema elsewhere;
         create extension own_schema;
         insert into shop.z_parent values (10, 'mine'), (11, 'WHERE');
         insert into shop.a_child values (10, 10), (11, 1), (12, null);
         insert into elsewhere.more values (1, 10), (2, 12);
         insert into shop.all_rows select i, 'row ' || i from generate_series(1, 3000) i;
         select setval('shop.numbers', 77);
         insert into made_by_extension.jobs (command) values ('vacuum'), ('analyze');
         create table of_the_user (id int primary key); insert into of_the_user values (1)",
    );
    let (scene, copy) = (Scene::new(), cluster.new_db("to"));
    let (from, to) = (cluster.uri(&db), cluster.uri(&copy));
    // Killed before it is done, there is nothing of one; killed after it, it is whole, and the next run goes on behind it.
    for (point, there) in [
        ("extensions.before_commit", ""),
        ("extensions.after_one", "shop_base 1 shop"),
    ] {
        scene
            .command(["copy", "extensions", "--source", &from, "--target", &to])
            .env("PGCOPYDB_FAILPOINT", format!("{point}=kill"))
            .run()
            .assert_signalled(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(installed(&cluster, &copy), there);
    }
    copy_extensions(&scene, &from, &to, &[]).assert_success(&[]);
    let state = "select (select string_agg(id || v, ',' order by id) from shop.z_parent)
        || (select string_agg(id || ':' || coalesce(parent, 0), ',' order by id) from shop.a_child)
        || (select string_agg(id || ':' || child, ',' order by id) from elsewhere.more)
        || (select count(*) from shop.all_rows) || nextval('shop.numbers')
        || (select string_agg(id || command, ',' order by id) from made_by_extension.jobs)
        || nextval('made_by_extension.jobs_id_seq')";
    assert_eq!(
        cluster.value(&copy, state),
        "1by the extension,10mine1:1,10:10,11:1,12:01:10,2:1230007812vacuum,2analyze3"
            .replace("7812vacuum", "781vacuum")
    );
    // What is there is kept, rows of the target's own included.
    cluster.psql(
        &copy,
        "insert into shop.z_parent values (99, 'of the target')",
    );
    copy_extensions(&scene, &from, &to, &[]).assert_success(&[]);
    let own = "select count(*) from shop.z_parent where id = 99";
    assert_eq!(cluster.value(&copy, own), "1");
    // The rest of the database then comes without them.
    let outcome = scene
        .clone_db(&from, &to, &["--skip-extensions"])
        .tools(Version::Pg18)
        .run();
    outcome.assert_success(&[]);
    assert_eq!(cluster.value(&copy, own), "1");
    assert_eq!(
        cluster.value(&copy, "select count(*) from of_the_user"),
        "1"
    );
}

/// A clone creates them by the same rules.
#[test]
fn a_clone_takes_versions_and_leaves_collations() {
    let migration = Migration::shared(
        r#"create schema geo; create extension earthdistance schema geo cascade;
           create collation german (provider = icu, locale = 'de'); comment on collation german is 'x';
           create table t (a text collate german, b geo.cube); insert into t values ('ä', '(1,2)');
           create index on t (a)"#,
    );
    let scene = Scene::new();
    let file = requirements(&scene, r#"[{"name": "cube", "version": "1.4"}]"#);
    let more = [
        "--requirements",
        file.to_str().unwrap(),
        "--skip-collations",
    ];
    let outcome = migration.invocation(&more).run();
    outcome.assert_last_error(7, &["--skip-collations leaves them out: public.german"]);
    assert_eq!(installed(migration.target, &migration.copy), "");
    // The user's own mapping.
    migration.target.psql(
        &migration.copy,
        "create collation german (provider = icu, locale = 'de-AT')",
    );
    migration.clone_with(&more, &[]);
    assert!(installed(migration.target, &migration.copy).contains("cube 1.4 geo"));
    let locale = "select coalesce(obj_description(oid, 'pg_collation'), 'none') || count(*) over () from pg_collation \
                  where collname = 'german'";
    assert_eq!(migration.on_target(locale), "none1");
    assert_eq!(migration.on_target("select count(*) from t"), "1");

    // A file that is none is refused before any server is asked.
    for (text, words) in [("{}", "JSON"), ("[{\"name\": 1}]", "JSON")] {
        fs::write(&file, text).unwrap();
        let outcome = migration.again().invocation(&more).run();
        outcome.assert_failure(2, &["could not read requirements file", words]);
    }
}

/// The shell block of the tutorial, with its URIs filled in, and waiting for the first line of the coproc.
const TUTORIAL: &str = r#"
    set -e
    # for a failure on the way: nobody waits for a coproc
    trap 'kill ${COPROC_PID:-$$} 2>/dev/null' ERR
    coproc ( pgcopydb snapshot --source "$SOURCE_SU" )
    read -r snapshot <&"${COPROC[0]}"

    # first two commands would use a superuser role
    pgcopydb copy roles --source "$SOURCE_SU" --target "$TARGET_SU"
    pgcopydb copy extensions --source "$SOURCE_SU" --target "$TARGET_SU"
    echo "$snapshot"
    eval "$MEANWHILE"

    # now it's possible to use a non-superuser role
    pgcopydb clone --skip-extensions --source "$SOURCE" --target "$TARGET"

    kill -TERM ${COPROC_PID}
    wait ${COPROC_PID}
"#;

/// A directory for PATH where the program under test is called pgcopydb.
fn path_with_pgcopydb(dir: &Path, tools: Version) -> String {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(program(), bin.join("pgcopydb")).unwrap();
    let rest = std::env::var("PATH").unwrap();
    format!("{}:{}:{rest}", bin.display(), tools.bindir().display())
}

#[test]
fn the_tutorial_copies_users_and_extensions() {
    let source = Cluster::start(Version::Debian15, &[]);
    source.psql(
        "postgres",
        "create role shop login password 'secret'; create role clerk login; grant shop to clerk",
    );
    source.create_db("shop");
    source.psql("postgres", "alter database shop owner to shop");
    source.psql(
        "shop",
        "create schema ext; grant usage on schema ext to public; create extension hstore schema ext;
         create extension citext; create extension earthdistance schema ext cascade; create extension postgres_fdw;
         grant usage on foreign data wrapper postgres_fdw to shop with grant option; revoke execute on function ext.akeys from public;
         grant execute on function ext.akeys to clerk; create extension pg_buffercache schema ext;
         grant select (bufferid, pinning_backends) on ext.pg_buffercache to clerk;
         comment on extension citext is 'ours'; set role shop;
         create schema app; create server elsewhere foreign data wrapper postgres_fdw; create type app.state as enum ('open', 'done');
         create table app.customer (id serial primary key, name citext unique, data ext.hstore, place ext.cube);
         create table app.orders (id int primary key, customer int references app.customer, state app.state);
         create index on app.customer using gist (data); grant usage on schema app to clerk;
         grant select on app.orders to clerk; comment on table app.orders is 'what was ordered';
         create view app.open_orders as select * from app.orders where state = 'open';
         insert into app.customer (name, data, place) select 'c' || i, 'a=>1', '(1,2)' from generate_series(1, 100) i;
         insert into app.orders select i, i, 'open' from generate_series(1, 100) i",
    );
    for version in [Version::Debian15, Version::Pg18] {
        let target = Cluster::start(version, &[]);
        target.create_db("shop");
        let scene = Scene::new();
        let as_owner = |uri: String| uri.replace("user=postgres", "user=shop");
        // Made with the database, once the role is there; and a row that the snapshot does not see.
        let psql = format!(
            "{}/psql -Xq -v ON_ERROR_STOP=1",
            Version::Pg18.bindir().display()
        );
        let meanwhile = format!(
            "{psql} '{}' -c 'alter database shop owner to shop'; {psql} '{}' -c \"insert into app.orders values (101)\"",
            target.uri("postgres"),
            source.uri("shop"),
        );
        let output = Command::new("bash")
            .args(["-c", TUTORIAL])
            .env_clear()
            .env("PATH", path_with_pgcopydb(&scene.path(""), version))
            .env("HOME", scene.path("home"))
            .env("TMPDIR", scene.path("tmp"))
            .env("SOURCE_SU", source.uri("shop"))
            .env("TARGET_SU", target.uri("shop"))
            .env("SOURCE", as_owner(source.uri("shop")))
            .env("TARGET", as_owner(target.uri("shop")))
            .env("MEANWHILE", meanwhile)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        let unexpected = crate::support::cmd::unexpected_lines(&log, &[ATTVER]);
        assert!(unexpected.is_empty(), "{unexpected:#?}\n{log}");
        assert!(String::from_utf8_lossy(&output.stdout).contains('-'));
        check_tutorial(&source, &target);
        source.psql("shop", "delete from app.orders where id = 101");
    }
}

fn check_tutorial(source: &Cluster, target: &Cluster) {
    let same = [
        "select rolname, rolpassword from pg_authid where rolname !~ '^pg_' order by 1",
        "select r.rolname, m.rolname from pg_auth_members a join pg_roles r on r.oid = a.roleid \
         join pg_roles m on m.oid = a.member where m.rolname !~ '^pg_' order by 1",
        "select extname, extnamespace::regnamespace, obj_description(oid, 'pg_extension') from pg_extension order by 1",
        "select nspname, pg_get_userbyid(nspowner), nspacl from pg_namespace where nspname in ('app', 'ext') order by 1",
        "select c.relname, pg_get_userbyid(c.relowner), has_table_privilege('clerk', c.oid, 'select'), obj_description(c.oid, 'pg_class') from pg_class c \
         where c.relnamespace = 'app'::regnamespace order by 1",
        "select fdwacl from pg_foreign_data_wrapper",
        "select srvname, pg_get_userbyid(srvowner) from pg_foreign_server",
        "select proacl from pg_proc where proname in ('akeys', 'avals') order by proname",
        "select attname, attacl from pg_attribute where attrelid = 'ext.pg_buffercache'::regclass order by attnum",
        "select * from app.customer order by 1",
        "select conname, pg_get_constraintdef(oid) from pg_constraint where connamespace = 'app'::regnamespace \
         and contype <> 'n' order by 1",
        "select nextval('app.customer_id_seq')",
    ];
    for sql in same {
        assert_eq!(target.rows("shop", sql), source.rows("shop", sql), "{sql}");
    }
    // As the snapshot saw it.
    let orders = "select count(*) from app.open_orders";
    assert_eq!(target.value("shop", orders), "100");
    assert_eq!(
        target.value("shop", "select count(*) from app.orders"),
        "100"
    );
}
