//! A hostile server, fast: the input is what it says, at once, on a Unix socket. The first byte says what we ask it for.

use std::io::Write;
use std::net::Shutdown as Half;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use pgcopydb::error::{Result, Side};
use pgcopydb::pg::connect::connect_once;
use pgcopydb::pg::conninfo::{ConnInfo, Environment};
use pgcopydb::pg::wire::{Connection, CopyChunk};
use pgcopydb::sys::signal::Shutdown;

/// A server of 17 that asks for no password and is ready: what stands before most conversations.
const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0017.2\0S\0\0\0\x19client_encoding\0UTF8\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x09Z\0\0\0\x05I";

/// Far longer than bytes that are there already take to be read.
const LIMIT: Duration = Duration::from_secs(5);

pub fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    let server = server();
    let mut said = Vec::new();
    // Kinds from 128 on say the greeting themselves.
    if *kind < 128 {
        said.extend_from_slice(READY);
    }
    said.extend_from_slice(bytes);
    server.says.send(said).expect("the server thread runs");
    let info = if *kind % 2 == 0 {
        &server.plain
    } else {
        &server.secret
    };
    let Ok(connection) = connect_once(info, "fuzz", &Shutdown::deaf(), LIMIT) else {
        return;
    };
    let _ = talk(connection, *kind % 128 / 2);
}

fn talk(mut connection: Connection, kind: u8) -> Result<()> {
    connection.set_deadline(Some(LIMIT));
    match kind % 7 {
        0 => {
            for row in connection.query("SELECT 1")? {
                for column in 0..row.len().min(2000) {
                    let _ = (
                        row.bytes(column),
                        row.opt_text(column),
                        row.opt_parse::<u32>(column),
                    );
                }
                let _ = (row.bool(0), row.text(usize::MAX));
            }
            connection.execute("COMMIT").map(drop)
        }
        1 => {
            let mut copy =
                connection.copy_out("COPY t TO STDOUT", &mut |row| row.bool(0).map(drop))?;
            let began = Instant::now();
            loop {
                assert!(began.elapsed() < LIMIT, "COPY has no end");
                if matches!(copy.next_chunk()?, CopyChunk::Done) {
                    break;
                }
            }
            copy.finish().map(drop)
        }
        2 => {
            let mut copy =
                connection.copy_in("COPY t FROM STDIN", &mut |row| row.bool(0).map(drop))?;
            copy.write(b"d\0\0\0\x07a\t1\n")?;
            copy.finish().map(drop)
        }
        3 => {
            let mut stream =
                connection.start_replication("START_REPLICATION SLOT s LOGICAL 0/0")?;
            let began = Instant::now();
            loop {
                assert!(began.elapsed() < LIMIT, "the stream has no end");
                if stream.take_message()?.is_none() {
                    stream.wait(None, Instant::now() + LIMIT, &Shutdown::deaf())?;
                }
            }
        }
        4 => {
            connection.add_parse("a", "SELECT $1")?;
            connection.add_execute("a", [Some(&b"1"[..]), None])?;
            connection.add_execute("a", [])?;
            connection.run_pipeline().map(drop)
        }
        5 => {
            connection.add_parse("a", "COPY t FROM STDIN")?;
            connection.add_execute("a", [])?;
            connection.add_copy_data(b"1\n")?;
            connection.run_pipeline().map(drop)
        }
        _ => {
            connection.start_query("SELECT 1")?;
            let _ = connection.recover();
            connection.commit()
        }
    }
}

struct Server {
    says: Sender<Vec<u8>>,
    plain: ConnInfo,
    /// With a password, so that authentication gets further.
    secret: ConnInfo,
}

/// A thread that says to each connection what it was told last.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let dir = std::env::current_dir().unwrap();
        let listener = UnixListener::bind(dir.join(".s.PGSQL.5432")).unwrap();
        let (says, told) = channel::<Vec<u8>>();
        std::thread::spawn(move || {
            // Closing a socket with unread bytes would cut off what was said, so the last few stay open.
            let mut open: Vec<UnixStream> = Vec::new();
            let mut said = Vec::new();
            for stream in listener.incoming().flatten() {
                said = told.try_iter().last().unwrap_or(said);
                let mut writer = stream.try_clone().unwrap();
                let bytes = said.clone();
                // The client may hang up before it has read all.
                let _ = writer.set_write_timeout(Some(LIMIT));
                let _ = writer.write_all(&bytes);
                let _ = writer.shutdown(Half::Write);
                open.push(stream);
                if open.len() > 8 {
                    open.remove(0);
                }
            }
        });
        let info = |more: &str| {
            let text = format!(
                "host={} port=5432 user=u dbname=d sslmode=disable {more}",
                dir.display()
            );
            ConnInfo::parse_with(Side::Source, &text, &Environment::of_process()).unwrap()
        };
        Server {
            says,
            plain: info("application_name=x"),
            secret: info("password=secret"),
        }
    })
}
