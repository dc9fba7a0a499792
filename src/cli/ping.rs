//! `pgcopydb ping`: connect to both servers until they answer; the connection layer retries and gives up after its 60 s.
//! A leaf process that never forks, so each side may have its thread: two servers that are down cost one minute, not two.

use std::thread;

use clap::Args;

use super::options::ConnectionArgs;
use crate::error::{Error, Result, Side};
use crate::pg::connect::connect;
use crate::pg::conninfo::ConnInfo;
use crate::sys::signal::Shutdown;

/// Wait until the servers answer
#[derive(Args)]
#[command(after_help = "\
An attempt that is refused is repeated for a minute.

Example: pgcopydb ping --source postgres://me@old/shop --target postgres://me@new/shop")]
pub struct PingArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
}

pub fn run(args: PingArgs) -> Result<()> {
    let mut servers = Vec::new();
    for side in [Side::Source, Side::Target] {
        servers.extend(args.connections.optional(side)?.map(|info| (side, info)));
    }
    if servers.is_empty() {
        return Err(Error::usage("no database given").with_hint(
            "Use --source, --target or both, or PGCOPYDB_SOURCE_PGURI and PGCOPYDB_TARGET_PGURI.",
        ));
    }
    let shutdown = Shutdown::install()?;
    let answers: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = servers
            .iter()
            .map(|(side, info)| scope.spawn(|| ping(*side, info, &shutdown)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(Error::internal("a thread that pinged a server panicked"))
                })
            })
            .collect()
    });
    one_failure(answers)
}

fn ping(side: Side, info: &ConnInfo, shutdown: &Shutdown) -> Result<()> {
    let connection = connect(info, "pgcopydb ping", shutdown)?;
    log::info!(
        "{side} database {info} answers, PostgreSQL {}",
        connection
            .parameter("server_version")
            .unwrap_or("of unknown version")
    );
    Ok(())
}

/// The caller logs the error it gets; when both sides failed the other one is logged here, so that each is told once.
fn one_failure(answers: Vec<Result<()>>) -> Result<()> {
    let mut failures = answers.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else {
        return Ok(());
    };
    // Being interrupted happens to both sides alike.
    for other in failures.filter(|other| !other.is_interrupted()) {
        log::error!("{other}");
    }
    Err(first)
}
