//! Roles of a whole instance: copied once, kept where they exist, never with a password where it does not belong.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::access::files_with;
use crate::support::cluster::Cluster;
use crate::support::cmd::{Outcome, Scene};
use crate::support::version::Version;

/// Everything there is to know of a role, for each of them.
const ROLES: &str = "select a.rolname, a.rolsuper, a.rolinherit, a.rolcreaterole, a.rolcreatedb, a.rolcanlogin,
    a.rolreplication, a.rolbypassrls, a.rolconnlimit, a.rolvaliduntil at time zone 'UTC', a.rolpassword,
    (select string_agg(c, '; ' order by o) from pg_db_role_setting s, unnest(s.setconfig) with ordinality u(c, o)
        where s.setrole = a.oid and s.setdatabase = 0),
    shobj_description(a.oid, 'pg_authid')
from pg_authid a where a.rolname !~ '^pg_' order by a.rolname";

const MEMBERSHIPS: &str = "select r.rolname, m.rolname, a.admin_option
from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles m on m.oid = a.member
where m.rolname !~ '^pg_' order by 1, 2, 3";

const MEMBERSHIPS_16: &str =
    "select r.rolname, m.rolname, g.rolname, a.admin_option, a.inherit_option, a.set_option
from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles m on m.oid = a.member
    join pg_roles g on g.oid = a.grantor
where m.rolname !~ '^pg_' order by 1, 2, 3";

/// Roles of all kinds, with passwords of both kinds.
const MADE: &str = r#"
    set password_encryption = 'scram-sha-256';
    create role app login connection limit 7 password 'open sesame' valid until '2099-12-31 23:59:59+00';
    alter role app set search_path to app, "Odd ""x""", public;
    alter role app set work_mem to '17MB';
    alter role app set "my.setting" to 'a''b\c';
    comment on role app is 'it''s; -- an application';
    set password_encryption = 'md5';
    create role "Odd ""role" noinherit createdb createrole login password 'md5 one' valid until 'infinity';
    create role staff; create role boss superuser bypassrls replication connection limit 0;
    create role old login password 'from the source'; comment on role old is 'the source''s';
    alter role old set work_mem to '1MB';
    grant staff to app with admin option; grant staff to old; grant staff to "Odd ""role";
    grant pg_monitor to app; grant "Odd ""role" to old;
    create role rds_superuser; create role rdsadmin superuser; create role cloudsqladmin;
    grant rds_superuser to app; grant staff to rdsadmin;
"#;

fn copy_roles(scene: &Scene, source: &Cluster, target: &Cluster, more: &[&str]) -> Outcome {
    let (from, to) = (source.uri("postgres"), target.uri("postgres"));
    let dir = scene.work_dir();
    let mut args = vec!["copy", "roles", "--source", &from, "--target", &to];
    args.extend(["--dir", dir.to_str().unwrap()]);
    args.extend(more);
    scene.command(args).run()
}

type Rows = BTreeMap<String, Vec<Option<String>>>;

fn roles(cluster: &Cluster) -> Rows {
    let rows = cluster.rows("postgres", ROLES).into_iter();
    rows.map(|row| (row[0].clone().unwrap(), row)).collect()
}

#[test]
fn roles_are_copied_with_all_they_have() {
    let source = Cluster::start(Version::Debian15, &[]);
    source.psql("postgres", MADE);
    // No provider of labels is at hand: this is what one would leave.
    source.psql(
        "postgres",
        "set allow_system_table_mods = on;
         insert into pg_shseclabel values ('app'::regrole, 'pg_authid'::regclass, 'some_provider', 'it''s secret')",
    );
    let label = [
        "a setting of role \"app\" is left out: security label provider \"some_provider\" is not loaded",
    ];
    for version in [Version::Debian15, Version::Pg18] {
        let target = Cluster::start(version, &[]);
        target.psql(
            "postgres",
            "create role old connection limit 3; comment on role old is 'kept'; create role other; \
             grant other to old",
        );
        let scene = Scene::new();
        let outcome = copy_roles(&scene, &source, &target, &["--trace"]);
        outcome.assert_success(&label);
        assert!(outcome.stderr.contains(label[0]), "{}", outcome.stderr);
        let written = fs::read_to_string(scene.work_dir().join("schema/roles.sql")).unwrap();
        let labelled = "SECURITY LABEL FOR \"some_provider\" ON ROLE \"app\" IS 'it''s secret';";
        assert!(written.contains(labelled), "{written}");
        for text in [
            "roles that exist on the target are kept as they are: old",
            "roles that belong to a provider are left out: cloudsqladmin, rds_superuser, rdsadmin",
            "role \"postgres\" is left out",
            "memberships in a provider's roles that the target does not have are left out: app in rds_superuser",
        ] {
            assert!(outcome.stderr.contains(text), "{text}\n{}", outcome.stderr);
        }
        check_roles(&source, &target);
        check_secrets(&source, &scene, &outcome, &target);

        // Again: nothing to do, with a new file or with the one that is there.
        for more in [&[][..], &["--resume"], &["--restart"]] {
            let before = roles(&target);
            let outcome = copy_roles(&scene, &source, &target, more);
            outcome.assert_success(&[]);
            assert!(
                outcome.stderr.contains("created 0 roles, granted 0"),
                "{}",
                outcome.stderr
            );
            assert_eq!(roles(&target), before);
            assert!(!outcome.stderr.contains("keep their options"));
        }
        // What was granted there in another way stays so, with a line about it.
        target.psql("postgres", "revoke admin option for staff from app");
        let outcome = copy_roles(&scene, &source, &target, &["--restart"]);
        outcome.assert_success(&[]);
        let told = "which differ from the source's: app in staff";
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    }
}

/// Old roles are as they were, new ones as on the source, and all memberships are there.
fn check_roles(source: &Cluster, target: &Cluster) {
    let (mut wanted, mut found) = (roles(source), roles(target));
    for name in [
        "postgres",
        "rds_superuser",
        "rdsadmin",
        "cloudsqladmin",
        "old",
    ] {
        wanted.remove(name);
    }
    found.remove("postgres");
    let old = found.remove("old").unwrap();
    assert_eq!(old[5].as_deref(), Some("f"), "it may not log in");
    assert_eq!(old[8].as_deref(), Some("3"));
    assert_eq!((&old[10], &old[11]), (&None, &None));
    assert_eq!(old[12].as_deref(), Some("kept"));
    assert!(found.remove("other").is_some());
    assert_eq!(found, wanted);
    let memberships = |cluster: &Cluster, but: &str| -> Vec<_> {
        let rows = cluster.rows("postgres", MEMBERSHIPS).into_iter();
        let is_other = |row: &Vec<Option<String>>| {
            let names = row.iter().flatten();
            !names
                .clone()
                .any(|name| name == but || name.starts_with("rds"))
        };
        rows.filter(is_other).collect()
    };
    assert_eq!(memberships(target, "other"), memberships(source, ""));
    let kept = "select count(*) from pg_auth_members where roleid = 'other'::regrole";
    assert_eq!(target.value("postgres", kept), "1");
}

/// Hashes are in one file, which nobody else may read, and in no log: neither ours nor, where we may say so, the server's.
fn check_secrets(source: &Cluster, scene: &Scene, outcome: &Outcome, target: &Cluster) {
    let file = scene.work_dir().join("schema/roles.sql");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for name in ["app", "Odd \"role"] {
        let hash = roles(source)[name][10].clone().unwrap();
        assert_eq!(
            files_with(&scene.work_dir(), &hash),
            std::slice::from_ref(&file)
        );
        assert!(!outcome.stderr.contains(&hash), "{}", outcome.stderr);
        assert!(!target.log().contains(&hash));
    }
}

const DROP: &str =
    r#"drop role app; drop role "Odd ""role"; drop role staff, boss, old, deputy, helper"#;

/// Dumped, dropped and restored on one server of 18, where a membership has options and a grantor: by our file and by one
/// of pg_dumpall.
#[test]
fn a_dump_restores_what_it_was_taken_of() {
    let cluster = Cluster::start(Version::Pg18, &[]);
    cluster.psql("postgres", MADE);
    cluster.psql(
        "postgres",
        "drop role rds_superuser, rdsadmin, cloudsqladmin;
         create role deputy; create role helper;
         grant staff to deputy with admin true, inherit false, set false;
         grant boss to helper with inherit true, set false granted by postgres;
         grant staff to helper with inherit false, set true granted by app;
         grant staff to helper with admin false granted by deputy;
         grant set on parameter log_min_messages to app",
    );
    let state = || (roles(&cluster), cluster.rows("postgres", MEMBERSHIPS_16));
    let (before, scene) = (state(), Scene::new());
    let (uri, dir) = (cluster.uri("postgres"), scene.work_dir());
    let dir = dir.to_str().unwrap();
    let run = |args: &[&str]| {
        let outcome = scene.command(args).run();
        outcome.assert_success(&[]);
    };
    run(&["dump", "roles", "--source", &uri, "--dir", dir]);
    let drop = "revoke set on parameter log_min_messages from app;
        revoke staff from helper granted by app; revoke staff from helper granted by deputy; ";
    cluster.psql("postgres", &format!("{drop}{DROP}"));
    assert_eq!(roles(&cluster).len(), 1);
    // All or none, so that the next run need not know of this one.
    scene
        .command(["restore", "roles", "--target", &uri, "--dir", dir])
        .env("PGCOPYDB_FAILPOINT", "roles.before_commit=kill")
        .run()
        .assert_signalled(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(roles(&cluster).len(), 1);
    run(&["restore", "roles", "--target", &uri, "--dir", dir]);
    assert_eq!(state(), before);
    let right = "select count(*) from pg_parameter_acl";
    assert_eq!(cluster.value("postgres", right), "1");

    let file = scene.work_dir().join("schema/roles.sql");
    let dumped = std::process::Command::new(Version::Pg18.bindir().join("pg_dumpall"))
        .env_clear()
        .args(["--roles-only", "-d", &uri])
        .output()
        .unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    fs::write(&file, dumped.stdout).unwrap();
    cluster.psql("postgres", &format!("{drop}{DROP}"));
    run(&["restore", "roles", "--target", &uri, "--dir", dir]);
    assert_eq!(state(), before);

    // What is not about roles is not run.
    fs::write(&file, "create role new;\ndrop role app;\n").unwrap();
    let args = ["restore", "roles", "--target", &uri, "--dir", dir];
    let outcome = scene.command(args).run();
    outcome.assert_last_error(3, &["roles.sql", "line 2 is not about a role"]);
    assert_eq!(state(), before);
    fs::remove_file(&file).unwrap();
    let outcome = scene.command(args).run();
    outcome.assert_last_error(12, &["could not read file", "roles.sql"]);
}

/// A source role that may not read passwords, and a target role that may not create everybody.
#[test]
fn roles_of_few_rights_do_what_they_can_and_say_the_rest() {
    let source = Cluster::start(Version::Debian15, &[]);
    source.psql("postgres", MADE);
    source.psql("postgres", "create role reader login");
    let from = source
        .uri("postgres")
        .replace("user=postgres", "user=reader");
    for version in [Version::Debian15, Version::Pg18] {
        let target = Cluster::start(version, &[]);
        target.psql("postgres", "create role maker login; create role staff");
        let to = target
            .uri("postgres")
            .replace("user=postgres", "user=maker");
        let scene = Scene::new();
        let dir = scene.work_dir();
        let mut args = vec!["copy", "roles", "--source", &from, "--target", &to];
        args.extend(["--dir", dir.to_str().unwrap()]);
        let told = &["passwords are left out as with --no-role-passwords: role \"reader\""];

        let outcome = scene.command(&args).run();
        outcome.assert_failure(7, told);
        outcome.assert_last_error(7, &["role \"maker\" may not create roles"]);
        assert_eq!(roles(&target).len(), 3);

        target.psql("postgres", "alter role maker createrole createdb");
        let outcome = scene.command(&args).run();
        outcome.assert_failure(4, told);
        outcome.assert_failure(
            4,
            &["could not create role \"boss\"", "HINT: Make them by hand"],
        );
        // What could be made is there, and complete but for the password.
        let made = roles(&target);
        assert!(!made.contains_key("boss"));
        let expected = |name: &str| {
            let mut row = roles(&source)[name].clone();
            row[10] = None;
            // Nobody knows this one, so only a superuser may set it.
            row[11] = row[11]
                .take()
                .map(|all| all.split("; my.").next().unwrap().to_owned());
            row
        };
        for name in ["app", "Odd \"role", "old", "reader"] {
            assert_eq!(made[name], expected(name));
        }

        // As the hint says: made by hand, with what the target allows.
        target.psql(
            "postgres",
            "create role boss; grant staff to maker with admin option; grant pg_monitor to maker with admin option",
        );
        let outcome = scene.command(&args).run();
        outcome.assert_success(told);
        let memberships = "select count(*) from pg_auth_members where member = 'app'::regrole";
        assert_eq!(target.value("postgres", memberships), "2");
    }
    // Asked for, it is no warning.
    let scene = Scene::new();
    let dir = scene.work_dir();
    let dir = dir.to_str().unwrap();
    let args = [
        "dump",
        "roles",
        "--source",
        &from,
        "--dir",
        dir,
        "--no-role-passwords",
    ];
    scene.command(args).run().assert_success(&[]);
    let text = fs::read_to_string(scene.work_dir().join("schema/roles.sql")).unwrap();
    assert!(text.contains("Passwords are left out.") && !text.contains("PASSWORD"));
}

/// A clone needs the owners first.
#[test]
fn a_clone_brings_the_roles_it_needs() {
    let source = Cluster::start(Version::Debian15, &[]);
    source.psql(
        "postgres",
        "create role owner login password 'x'; create role reader; create role rds_owner",
    );
    source.create_db("shop");
    source.psql(
        "shop",
        "create table t (id int primary key); insert into t values (1); alter table t owner to owner;
         grant select on t to reader; alter role owner in database shop set work_mem to '7MB'",
    );
    let target = Cluster::start(Version::Pg18, &[]);
    target.create_db("shop");
    let (from, to) = (source.uri("shop"), target.uri("shop"));
    let scene = Scene::new();
    let clone = |more: &[&str]| scene.clone_db(&from, &to, more).tools(Version::Pg18).run();

    let outcome = clone(&[]);
    outcome.assert_failure(7, &["do not exist on the target: owner, reader", "--roles"]);
    // A role that nobody copies and that owns something: nothing is done.
    source.psql(
        "shop",
        "create table u (); alter table u owner to rds_owner",
    );
    let outcome = clone(&["--roles"]);
    outcome.assert_last_error(7, &["not copied: rds_owner"]);
    assert_eq!(roles(&target).len(), 1);

    source.psql("shop", "drop table u");
    // Debian's 15 keeps an option on columns that others do not know.
    let told = &["does not know option pg_attver"];
    let outcome = clone(&["--roles"]);
    outcome.assert_success(told);
    let row = "select tableowner || has_table_privilege('reader', 't', 'select') from pg_tables where tablename = 't'";
    assert_eq!(target.value("shop", row), "ownertrue");
    let password = roles(&source)["owner"][10].clone();
    assert_eq!(roles(&target)["owner"][10], password);
    let settings = "select array_to_string(setconfig, ',') from pg_db_role_setting where setrole = 'owner'::regrole";
    assert_eq!(target.value("shop", settings), "work_mem=7MB");

    // The roles are there now: kept, and the run without passwords needs none.
    target.psql("postgres", "drop database shop");
    target.create_db("shop");
    let outcome = clone(&["--roles", "--no-role-passwords", "--restart"]);
    outcome.assert_success(told);
    assert_eq!(roles(&target)["owner"][10], password);
}

/// The catalogs of the oldest source, and of the first one with options of memberships; with an extension and what was
/// granted on it.
#[test]
fn older_sources_are_understood() {
    let target = Cluster::start(Version::Pg18, &[]);
    for version in [Version::Pg10, Version::Pg16] {
        let source = Cluster::start(version, &[]);
        let (group, user) = (format!("group{version:?}"), format!("user{version:?}"));
        let options = match version {
            Version::Pg16 => "inherit false, set false",
            _ => "admin option",
        };
        let db = source.new_db("old");
        source.psql(
            &db,
            &format!(
                "create role \"{group}\"; create role \"{user}\" login password 'x' valid until '2030-01-01';
                 alter role \"{user}\" set work_mem = '3MB'; grant \"{group}\" to \"{user}\" with {options};
                 create schema s; create extension postgres_fdw schema s; create extension earthdistance schema s cascade;
                 grant usage on foreign data wrapper postgres_fdw to \"{user}\"; grant usage on schema s to \"{user}\""
            ),
        );
        let (scene, copy) = (Scene::new(), target.new_db("old"));
        let (from, to) = (source.uri(&db), target.uri(&copy));
        for command in ["roles", "extensions"] {
            let args = ["copy", command, "--source", &from, "--target", &to];
            scene.command(args).run().assert_success(&[]);
        }
        assert_eq!(roles(&target)[&user], roles(&source)[&user]);
        let membership = format!(
            "select inherit_option::text || admin_option from pg_auth_members where roleid = '\"{group}\"'::regrole \
             and member = '\"{user}\"'::regrole"
        );
        let expected = match version {
            Version::Pg16 => "falsefalse",
            _ => "truetrue",
        };
        assert_eq!(target.value(&copy, &membership), expected);
        let rights = format!(
            "select has_foreign_data_wrapper_privilege('{user}', 'postgres_fdw', 'usage') \
             and has_schema_privilege('{user}', 's', 'usage') and count(*) = 3 \
             from pg_extension where extnamespace = 's'::regnamespace"
        );
        assert_eq!(target.value(&copy, &rights), "t");
    }
}
