//! The examples of the man pages and the shell blocks of the README, run as they are written: only names of servers,
//! directories, files and positions are filled in. The list comes from the pages themselves, so that a new command without
//! an example, or an example that nobody runs, fails.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::cluster::Cluster;
use crate::support::cmd::{Outcome, RUN_DEADLINE, Running, Scene};
use crate::support::following::{SOON, start};
use crate::support::version::Version;
use crate::support::{leftovers, wait_until};

/// What the examples are about.
const SHOP: &str = "
    create schema audit; create extension hstore;
    create table film (id bigserial primary key, title text, note text);
    insert into film (title) select 'film ' || g || repeat('.', 200) from generate_series(1, 2000) g;
    create index film_title on film (title);
    create table audit.log (id int primary key, at timestamptz default now());
    create table import_2019 (id int primary key); create table sessions (id int primary key, v text);
    create table orders (id int primary key, film_id bigint references film, note text);
    create index orders_note_idx on orders (note);
    insert into orders select g, g, 'note' from generate_series(1, 50) g; insert into sessions values (1, 'x');
    select lo_from_bytea(4711, 'large'); analyze";

/// Which test runs the examples of which pages, in which order. A page of a command that is missing here fails.
const LOOKING: &[&str] = &[
    "ping",
    "version",
    "completion",
    "check",
    "list-databases",
    "list-extensions",
    "list-collations",
    "list-tables",
    "list-table-parts",
    "list-sequences",
    "list-indexes",
    "list-depends",
    "list-schema",
];
const COPYING: &[&str] = &[
    "copy-roles",
    "dump-roles",
    "restore-roles",
    "copy-extensions",
    "clone",
    "compare",
    "compare-schema",
    "compare-data",
    "copy-db",
    "copy-schema",
    "dump-pre-data",
    "dump-post-data",
    "restore-schema",
    "snapshot",
    "dump-schema",
    "restore-parse-list",
    "restore-pre-data",
    "copy-data",
    "copy-table-data",
    "copy-blobs",
    "copy-sequences",
    "copy-indexes",
    "copy-constraints",
    "restore-post-data",
    "list-progress",
];
const FOLLOWING: &[&str] = &[
    "stream-create-slot",
    "stream-drop-slot",
    "stream-create-origin",
    "stream-drop-origin",
    "stream-sentinel-setup",
    "stream-sentinel-set-startpos",
    "stream-sentinel-drop",
    "stream-setup",
    "stream-prefetch",
    "stream-catchup",
    "stream-receive",
    "stream-transform",
    "stream-apply",
    "stream-replay",
    "stream-sentinel-set-prefetch",
    "stream-sentinel-set-apply",
    "stream-sentinel-set-endpos",
    "stream-sentinel-get",
    "follow",
    "stream-prune",
    "stream-cleanup",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What roff has escaped.
fn unescape(line: &str) -> String {
    line.trim_start_matches("\\&")
        .replace("\\-", "-")
        .replace("\\*(Aq", "'")
        .replace("\\(aq", "'")
        .replace("\\e", "\\")
        .replace("\\\\", "\\")
}

/// The examples of a page, each a line for a shell.
fn examples_in(page: &str) -> Vec<String> {
    let mut examples = Vec::new();
    let mut is_list = false;
    for line in page.lines().map(unescape) {
        let first = ["Example: ", "Examples: "]
            .iter()
            .find_map(|word| line.strip_prefix(word));
        match (first, line.strip_prefix("  ")) {
            (Some(command), _) => examples.push(command.to_owned()),
            (None, Some(command)) if is_list => examples.push(command.to_owned()),
            _ => {}
        }
        is_list = first.is_some() || is_list && line.starts_with("  ");
    }
    examples
}

/// Name of the command ("list-tables"), and its page.
fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = fs::read_dir(root().join("man"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.strip_prefix("pgcopydb-")?;
            Some((name.to_owned(), fs::read_to_string(&path).unwrap()))
        })
        .collect();
    pages.sort();
    pages
}

/// Each command has an example, and each example a test.
#[test]
fn every_command_has_an_example_that_is_run() {
    let run: BTreeSet<&str> = [LOOKING, COPYING, FOLLOWING].concat().into_iter().collect();
    for (name, page) in &pages() {
        let examples = examples_in(page);
        let has_commands = page.contains(".SH SUBCOMMANDS");
        assert!(
            has_commands || !examples.is_empty(),
            "man page of {name} shows no example"
        );
        assert_eq!(
            !examples.is_empty(),
            run.contains(&**name),
            "{name}: which test runs {examples:?}"
        );
        for example in examples {
            assert!(example.starts_with("pgcopydb "), "{name}: {example}");
        }
    }
}

/// Two servers, a database shop on each, and what the placeholders of the examples stand for.
struct Reader {
    source: Cluster,
    target: Cluster,
    scene: Scene,
    /// Pages to come, in their order.
    to_come: RefCell<Vec<&'static str>>,
}

impl Reader {
    fn new(pages: &[&'static str]) -> Reader {
        let (source, target) = (start(Version::Debian15), start(Version::Debian15));
        for cluster in [&source, &target] {
            cluster.create_db("shop");
        }
        source.psql("shop", SHOP);
        Reader {
            source,
            target,
            scene: Scene::new(),
            to_come: RefCell::new(pages.to_vec()),
        }
    }

    /// The target and the work directories as they were at first.
    fn start_over(&self) {
        leftovers::assert_no_backend(&self.target, "shop");
        self.target.psql("postgres", "drop database shop");
        self.target.create_db("shop");
        for dir in [self.work_dir(), self.scene.path("tmp").join("pgcopydb")] {
            let _ = fs::remove_dir_all(dir);
        }
    }

    fn work_dir(&self) -> std::path::PathBuf {
        self.scene.path("shop")
    }

    fn fill_in(&self, text: &str) -> String {
        let dir = self.work_dir();
        let dir = dir.to_str().unwrap();
        let mut text = text.to_owned();
        for (side, old, new) in [
            (&self.source, "@old", "@old.example"),
            (&self.target, "@new", "@new.example"),
        ] {
            for host in [new, old] {
                for db in ["shop", "postgres"] {
                    for role in ["me", "postgres"] {
                        let written = format!("postgres://{role}{host}/{db}");
                        let uri = format!("'{}'", side.uri(db));
                        text = text.replace(&written, &uri);
                    }
                }
            }
        }
        text = text.replace("--dir DIR", &format!("--dir {dir}"));
        for place in ["/var/tmp/shop", "/var/lib/pgcopydb/shop"] {
            text = text.replace(place, dir);
        }
        for place in [
            "/etc/bash_completion.d/",
            "\"${fpath[1]}/",
            "~/.config/fish/completions/",
        ] {
            let quote = &place[..usize::from(place.starts_with('"'))];
            text = text.replace(place, &format!("{quote}completion-"));
        }
        text
    }

    /// The command as it is written, in bash.
    fn start(&self, command: &str) -> Running {
        let env = [
            ("PGCOPYDB_SOURCE_PGURI", self.source.uri("shop")),
            ("PGCOPYDB_TARGET_PGURI", self.target.uri("shop")),
        ];
        let mut invocation = self.scene.bash(&self.fill_in(command));
        // An example that names no server means those of the environment.
        let names_servers = command.contains("postgres://");
        for (name, uri) in env.iter().filter(|_| !names_servers) {
            invocation = invocation.env(name, uri);
        }
        for (name, uri) in [
            ("SOURCE", &env[0].1),
            ("SOURCE_SU", &env[0].1),
            ("TARGET", &env[1].1),
            ("TARGET_SU", &env[1].1),
        ] {
            invocation = invocation.env(name, uri);
        }
        invocation.spawn()
    }

    #[track_caller]
    fn bash(&self, command: &str) -> Outcome {
        let outcome = self.start(command).wait_deadline(RUN_DEADLINE);
        let (status, log) = (outcome.status, &outcome.stderr);
        assert!(status.success(), "{command}\n{status}\n{log}");
        leftovers::assert_no_queue(&outcome.pids);
        outcome
    }

    /// The examples of the next page, which must be this one.
    fn turn_to(&self, page: &str) -> Vec<String> {
        let mut to_come = self.to_come.borrow_mut();
        assert!(!to_come.is_empty(), "{page} comes after the last page");
        assert_eq!(to_come.remove(0), page);
        let path = root().join("man").join(format!("pgcopydb-{page}.1"));
        let examples = examples_in(&fs::read_to_string(path).unwrap());
        assert!(!examples.is_empty(), "{page}");
        examples
    }

    /// Run the examples of the next page; `words` are somewhere in what each says.
    #[track_caller]
    fn run(&self, page: &str, words: &str) {
        self.run_with(page, words, |example| example.to_owned());
    }

    #[track_caller]
    fn run_with(&self, page: &str, words: &str, change: impl Fn(&str) -> String) {
        for example in self.turn_to(page) {
            let outcome = self.bash(&change(&example));
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(said.contains(words), "{example}: no \"{words}\" in\n{said}");
        }
    }

    #[track_caller]
    fn assert_all_run(&self) {
        let left = self.to_come.borrow();
        assert!(left.is_empty(), "not run: {left:?}");
    }

    fn count(&self, table: &str) -> String {
        self.target
            .value("shop", &format!("select count(*) from {table}"))
    }

    #[track_caller]
    fn assert_copied(&self) {
        assert_eq!(self.count("film"), "2000");
        assert_eq!(
            self.count("pg_index where indrelid = 'film'::regclass"),
            "2"
        );
        assert_eq!(self.count("pg_largeobject_metadata"), "1");
        let keys = "pg_constraint where contype = 'f' and convalidated";
        assert_eq!(self.count(keys), "1");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.scene.path("tmp").join(name), text).unwrap();
    }
}

#[test]
fn examples_that_look() {
    let reader = Reader::new(LOOKING);
    reader.run("ping", "answers, PostgreSQL 15");
    reader.run("version", "\"oldest_postgres\": 10");
    reader.run("completion", "");
    for script in ["pgcopydb", "_pgcopydb", "pgcopydb.fish"] {
        let path = reader
            .scene
            .path("tmp")
            .join(format!("completion-{script}"));
        assert!(fs::read_to_string(path).unwrap().contains("sentinel"));
    }
    reader.run("check", "PASS");
    reader.run("list-databases", "\"shop\"");
    reader.run("list-extensions", "");
    let requirements = reader.scene.path("tmp").join("requirements.json");
    assert!(fs::read_to_string(requirements).unwrap().contains("hstore"));
    reader.run("list-collations", "");
    reader.run("list-tables", "");
    reader.run("list-table-parts", "film");
    reader.run("list-sequences", "film_id_seq");
    reader.run("list-indexes", "film_title");
    reader.write("filters.ini", "[exclude-table]\npublic.film\n");
    reader.run("list-depends", "needs");
    reader.run("list-schema", "film");
    reader.assert_all_run();
}

#[test]
fn examples_that_copy() {
    let reader = Reader::new(COPYING);
    reader.source.psql("postgres", "create role clerk");
    reader.run("copy-roles", "");
    assert_eq!(reader.count("pg_roles where rolname = 'clerk'"), "1");
    reader.run("dump-roles", "");
    reader.run("restore-roles", "");
    reader.run("copy-extensions", "hstore");

    reader.start_over();
    reader.run("clone", "all is copied");
    reader.assert_copied();
    for page in ["compare", "compare-schema"] {
        reader.run(page, "");
    }
    reader.run("compare-data", "");

    reader.start_over();
    reader.run("copy-db", "all is copied");
    reader.assert_copied();

    reader.start_over();
    reader.run("copy-schema", "");
    assert_eq!(reader.count("film"), "0");

    reader.start_over();
    for page in ["dump-pre-data", "dump-post-data", "restore-schema"] {
        reader.run(page, "");
    }

    reader.start_over();
    let snapshot = reader.turn_to("snapshot").remove(0);
    let holder = reader.hold_snapshot(&snapshot);
    reader.run("dump-schema", "");
    reader.run("restore-parse-list", "TABLE public film");
    reader.run("restore-pre-data", "");
    reader.run("copy-data", "");
    reader.end(holder);

    reader.start_over();
    let holder = reader.hold_snapshot(&snapshot);
    for section in ["dump schema", "restore pre-data"] {
        let both = "--source postgres://me@old/shop --target postgres://me@new/shop";
        reader.bash(&format!(
            "pgcopydb {section} {both} --dir /var/tmp/shop --resume"
        ));
    }
    for page in [
        "copy-table-data",
        "copy-blobs",
        "copy-sequences",
        "copy-indexes",
        "copy-constraints",
        "restore-post-data",
    ] {
        reader.run(page, "");
    }
    reader.assert_copied();
    reader.end(holder);
    // The second example means the default directory.
    let copy = format!(
        "cp -a '{}' \"$TMPDIR/pgcopydb\"",
        reader.work_dir().display()
    );
    reader.bash(&copy);
    reader.run("list-progress", "");
    reader.assert_all_run();
}

impl Reader {
    /// In the background; the shell becomes the program.
    fn start_alone(&self, command: &str) -> Running {
        self.start(&format!("exec {command}"))
    }

    fn hold_snapshot(&self, command: &str) -> Running {
        let mut holder = self.start_alone(command);
        wait_until(SOON, "the snapshot to be held", || {
            assert!(holder.is_running(), "{}", holder.stderr());
            holder.stderr().contains("holding")
        });
        holder
    }

    #[track_caller]
    fn end(&self, holder: Running) {
        holder.term();
        let outcome = holder.wait_deadline(SOON);
        assert!(outcome.status.success(), "{}", outcome.stderr);
        self.scene.assert_nothing_left(&outcome);
    }

    /// A row more on the source; where its commit ends.
    fn change(&self, number: u32) -> String {
        let sql = format!("insert into orders values ({number}, 1, 'new')");
        self.source.psql("shop", &sql);
        self.source
            .value("shop", "select pg_current_wal_insert_lsn()")
    }

    fn assert_applied(&self, number: u32) {
        assert_eq!(self.count(&format!("orders where id = {number}")), "1");
    }

    /// The newest file of changes, without its ending.
    fn newest_file(&self) -> String {
        let files = fs::read_dir(self.work_dir().join("cdc")).unwrap();
        let newest = files
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
            .filter(|path| path.file_stem().unwrap().len() == 24)
            .max();
        let newest = newest.expect("changes were received");
        newest.with_extension("").to_str().unwrap().to_owned()
    }
}

const SOME_LSN: &str = "0/1A2B3C8";
const SOME_FILE: &str = "000000010000000000000002";

#[test]
fn examples_that_follow() {
    let reader = Reader::new(FOLLOWING);
    let now = reader
        .source
        .value("shop", "select pg_current_wal_insert_lsn()");
    let at = |lsn: &str| {
        let lsn = lsn.to_owned();
        move |example: &str| example.replace(SOME_LSN, &lsn)
    };
    reader.run("stream-create-slot", "created replication slot \"shop\"");
    reader.run("stream-drop-slot", "dropped replication slot \"shop\"");
    reader.run_with("stream-create-origin", "", at(&now));
    reader.run("stream-drop-origin", "dropped replication origin \"shop\"");
    reader.run("stream-sentinel-setup", "");
    reader.run_with("stream-sentinel-set-startpos", "", at(&now));
    reader.run("stream-sentinel-drop", "dropped the sentinel");

    // The slot's snapshot is what is copied.
    let both =
        "--source postgres://me@old/shop --target postgres://me@new/shop --dir /var/tmp/shop";
    reader.bash(&format!("pgcopydb clone {both}"));
    reader.run("stream-setup", "created replication slot \"pgcopydb\"");
    reader.run_with("stream-prefetch", "", at(&reader.change(1001)));
    reader.run("stream-catchup", "");
    reader.assert_applied(1001);
    reader.run_with("stream-receive", "", at(&reader.change(1002)));
    let file = reader.newest_file();
    let lsn = reader.change(1003);
    // The first takes the file of the receive before it, the second is a pipe of three.
    let transform = reader.turn_to("stream-transform");
    reader.bash(&transform[0].replace(SOME_FILE, &file));
    for example in reader.turn_to("stream-apply") {
        reader.bash(&example.replace(SOME_FILE, &file));
    }
    reader.assert_applied(1002);
    assert_eq!(reader.count("orders where id = 1003"), "0");
    reader.bash(&transform[1].replace(SOME_LSN, &lsn));
    reader.assert_applied(1003);
    reader.run_with("stream-replay", "", at(&reader.change(1004)));
    reader.assert_applied(1004);

    let lsn = reader.change(1005);
    reader.run("stream-sentinel-set-prefetch", "");
    reader.run("stream-sentinel-set-apply", "");
    reader.run_with("stream-sentinel-set-endpos", "", at(&lsn));
    reader.run("stream-sentinel-get", "\"apply\": true");
    reader.run("follow", "");
    reader.assert_applied(1005);
    reader.run("stream-prune", "");
    reader.run("stream-cleanup", "");

    // The second example of snapshot, which needs another directory: this one has a copy.
    fs::remove_dir_all(reader.work_dir()).unwrap();
    let page = fs::read_to_string(root().join("man/pgcopydb-snapshot.1")).unwrap();
    let holder = reader.hold_snapshot(&examples_in(&page)[1]);
    reader.end(holder);
    reader.bash(&format!("pgcopydb stream cleanup {both}"));
    let slots = "select count(*) from pg_replication_slots";
    assert_eq!(reader.source.value("shop", slots), "0");
    reader.assert_all_run();
}

/// The shell blocks of the README with their headings, in order.
fn readme() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut heading = String::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.strip_prefix("## ")) {
            (None, Some(words)) => heading = words.to_owned(),
            (None, None) if line.starts_with("```") => block = Some(String::new()),
            (Some(lines), _) if line.starts_with("```") => {
                blocks.push((heading.clone(), std::mem::take(lines)));
                block = None;
            }
            (Some(lines), _) => *lines += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// Everything in the README that a reader may paste into a shell.
#[test]
fn the_readme_works() {
    let reader = Reader::new(&[]);
    for (heading, block) in readme() {
        reader.start_over();
        match &*heading {
            // The first block: one line for a copy, one for a copy that is followed.
            "" => {
                for line in block.lines().filter(|line| !line.contains("--follow")) {
                    reader.bash(line);
                }
                reader.assert_copied();
            }
            // These are what runs this test, and what the pipeline runs.
            "Two commands" => assert_eq!(block.lines().count(), 2),
            "A first migration" => {
                reader.target.psql("postgres", "drop database shop");
                let (dir, port) = (reader.target.socket_dir().display(), reader.target.port());
                let block = block.replace("-h new.example", &format!("-h {dir} -p {port}"));
                let outcome =
                    reader.bash(&format!("{block}cat /var/lib/pgcopydb/shop/summary.json"));
                assert!(outcome.stdout.contains("\"is_complete\": true"));
                reader.assert_copied();
            }
            "Before a migration" => {
                reader.bash(&block);
            }
            "Roles and extensions" => {
                reader.bash(&block);
                reader.assert_copied();
            }
            "A part of a database" => {
                reader.bash(&block);
                assert_eq!(reader.count("sessions"), "0");
                assert_eq!(reader.count("pg_namespace where nspname = 'audit'"), "0");
            }
            "One section at a time" => {
                reader.write("schema-changes.sql", "create table mine (v text);");
                reader.bash(&block);
                reader.assert_copied();
                assert_eq!(reader.count("mine"), "0");
            }
            "Looking and comparing" => look_while_following(&reader, &block),
            "A migration without downtime" => follow_to_the_end(&reader, &block),
            "All databases" => {
                reader.bash(&block);
                reader.assert_copied();
            }
            other => panic!("a new block under \"{other}\": which run is it?\n{block}"),
        }
    }
}

const ONLINE: &str = "pgcopydb clone --follow --dir /var/lib/pgcopydb/shop --plugin pgoutput";

fn wait_for_live(reader: &Reader, run: &mut Running) {
    wait_until(RUN_DEADLINE, "changes to be replayed", || {
        assert!(run.is_running(), "{}", run.stderr());
        run.stderr().contains("replaying changes live")
    });
    reader.change(1001);
    wait_until(RUN_DEADLINE, "a change to be there", || {
        assert!(run.is_running(), "{}", run.stderr());
        reader.count("orders where id = 1001") == "1"
    });
}

/// The last of these lines wants a follow that runs.
fn look_while_following(reader: &Reader, block: &str) {
    let mut run = reader.start_alone(ONLINE);
    wait_for_live(reader, &mut run);
    reader.bash(block);
    reader
        .source
        .psql("shop", "delete from orders where id = 1001");
    reader.bash("pgcopydb stream sentinel set endpos --current --dir DIR");
    let outcome = run.wait_deadline(RUN_DEADLINE);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    reader.bash("pgcopydb stream cleanup --dir DIR");
}

/// The first line runs in one shell, the others in another; before the last one, the first has ended.
fn follow_to_the_end(reader: &Reader, block: &str) {
    let lines: Vec<&str> = block.lines().collect();
    let (first, others) = lines.split_first().unwrap();
    let (last, others) = others.split_last().unwrap();
    let mut run = reader.start_alone(first);
    wait_for_live(reader, &mut run);
    reader.bash(&others.join("\n"));
    let outcome = run.wait_deadline(RUN_DEADLINE);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    reader.bash(last);
    reader.assert_applied(1001);
    reader
        .source
        .psql("shop", "delete from orders where id = 1001");
}
