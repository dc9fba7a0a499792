//! Servers that speak nonsense: at once, in the middle of authentication, of a result, of a COPY. The run ends with an error,
//! soon, and without the memory that the nonsense asks for. (What single frames can do is the fuzzer's: tests/fuzz.)

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::cluster::{shared_source, shared_target};
use crate::support::cmd::{Outcome, Scene};

/// Kilobytes of address space: far more than a small clone needs, far less than a frame can claim.
const MEMORY: u32 = 1_500_000;

const GARBAGE: &[&[u8]] = &[
    b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<html>",
    &[0; 64],
    &[0xff; 64],
    // A row of a gigabyte, with more columns than bytes; an error without an end; a COPY that was not asked for.
    b"D\x3f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"E\0\0\0\x20SERROR\0C42P01\0Mno end of this",
    b"H\0\0\0\x08\x01\xff\xff\xffd\0\0\0\x03G\0\0\0\x04Z\0\0\0\x05?",
];

/// Listens, and gives each connection to `serve` in a thread that ends with the test.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

#[track_caller]
fn assert_ends(scene: &Scene, source: &str, what: &str) -> Outcome {
    let target = shared_target();
    let script = format!(
        "ulimit -v {MEMORY}; exec pgcopydb clone --dir '{}' --source '{source}' --target '{}'",
        scene.work_dir().display(),
        target.uri(&target.new_db("nonsense"))
    );
    let outcome = scene
        .bash(&script)
        .env("PGCOPYDB_TEST_PATIENCE_MS", "2000")
        .run();
    let log = &outcome.stderr;
    assert!(!outcome.status.success(), "{what}: {log}");
    assert!(
        outcome.status.code().is_some(),
        "{what}: {}",
        outcome.status
    );
    assert!(!log.contains("panicked at"), "{what}: {log}");
    assert!(log.contains(" ERROR "), "{what}: {log}");
    assert!(outcome.elapsed < Duration::from_secs(60), "{what}: {log}");
    scene.assert_nothing_left(&outcome);
    outcome
}

#[test]
fn a_server_that_is_none_is_told() {
    for garbage in GARBAGE {
        let port = listen(move |mut stream| {
            let mut startup = [0; 1024];
            let _ = stream.read(&mut startup);
            let _ = stream.write_all(garbage);
            let _ = stream.shutdown(Shutdown::Write);
        });
        let scene = Scene::new();
        let source = format!("host=127.0.0.1 port={port} user=u dbname=d sslmode=disable");
        assert_ends(&scene, &source, &garbage.escape_ascii().to_string());
    }
}

/// From some byte on what the server says is replaced: in the catalog, in the dump, in the rows.
#[test]
fn nonsense_in_the_middle_ends_the_run() {
    let source = shared_source();
    let db = source.new_db("nonsense");
    source.psql(
        &db,
        "create table t (id int primary key, v text);
         insert into t select g, repeat(md5(g::text), 10) from generate_series(1, 3000) g",
    );
    let port = source.port();
    for (number, bytes) in [300, 700, 3_000, 9_000, 200_000, 900_000]
        .into_iter()
        .enumerate()
    {
        let garbage = GARBAGE[number % GARBAGE.len()];
        let through = listen(move |client| relay(client, port, bytes, garbage));
        let scene = Scene::new();
        assert_ends(
            &scene,
            &source.tcp_uri(&db, through),
            &format!("after {bytes} bytes"),
        );
    }
}

fn relay(mut client: TcpStream, port: u16, bytes: usize, garbage: &[u8]) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let mut left = bytes;
    let mut buffer = [0; 8192];
    loop {
        let wanted = buffer.len().min(left);
        match server.read(&mut buffer[..wanted]) {
            Ok(0) | Err(_) if left > 0 => break,
            Ok(count) if count > 0 => {
                left -= count;
                if client.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            _ => {
                let _ = client.write_all(garbage);
                break;
            }
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// A server may ask for any number of rounds of hashing; what would take an hour is refused.
#[test]
fn scram_with_billions_of_iterations_is_refused() {
    let port = listen(|mut stream| {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer);
        let _ = stream.write_all(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
        let count = stream.read(&mut buffer).unwrap_or(0);
        let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let nonce = said.rsplit_once("r=").map_or("", |(_, nonce)| nonce);
        let answer = format!("r={nonce}more,s=c2FsdHNhbHQ=,i=4294967295");
        let mut frame = b"R".to_vec();
        frame.extend_from_slice(&(8 + answer.len() as u32).to_be_bytes());
        frame.extend_from_slice(&11u32.to_be_bytes());
        frame.extend_from_slice(answer.as_bytes());
        let _ = stream.write_all(&frame);
        let _ = stream.read(&mut buffer);
    });
    let scene = Scene::new();
    let source = format!("host=127.0.0.1 port={port} user=u password=x dbname=d sslmode=disable");
    let outcome = assert_ends(&scene, &source, "SCRAM");
    assert!(
        outcome.stderr.contains("4294967295 iterations"),
        "{}",
        outcome.stderr
    );
}
