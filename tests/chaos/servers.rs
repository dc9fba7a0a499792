//! The servers of the rounds: each pair is started when a round first wants it, and outlives its crashes.

use std::collections::HashMap;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::plan::Pair;
use crate::support::cluster::Cluster;
use crate::support::following::SETTINGS;
use crate::support::version::Version;
use crate::support::wait_until;

/// A crash recovery on a busy machine.
const UP: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Pairs {
    started: HashMap<Pair, (Cluster, Cluster)>,
}

impl Pairs {
    pub fn get(&mut self, pair: Pair) -> (&Cluster, &Cluster) {
        let start = |version| {
            let mut settings = SETTINGS.to_vec();
            // Only there is a plugin that has to be allowed, and not every release knows the setting.
            settings
                .retain(|(name, _)| version == Version::Debian15 || !name.ends_with("_libraries"));
            // What is committed and not flushed is lost by an immediate restart: as much as possible.
            settings.extend([("wal_writer_delay", "2s"), ("autovacuum_naptime", "5s")]);
            Cluster::start(version, &settings)
        };
        let started = self.started.entry(pair);
        let (source, target) = started.or_insert_with(|| (start(pair.0), start(pair.1)));
        (source, target)
    }
}

/// A connection, if there is a server.
pub fn try_connect(cluster: &Cluster, db: &str) -> Option<Client> {
    let mut client = Client::connect(&cluster.uri(db), NoTls).ok()?;
    client
        .batch_execute("set application_name = 'test client'")
        .ok()?;
    Some(client)
}

pub fn wait_until_up(cluster: &Cluster) {
    wait_until(UP, "the server to be up again", || {
        try_connect(cluster, "postgres").is_some()
    });
}
