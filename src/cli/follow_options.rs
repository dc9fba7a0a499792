//! The options of everything that follows changes, and the one place where they become a `FollowSpec`. Pure: nothing is
//! opened here.

use std::time::Duration;

use clap::Args;

use super::given::Given;
use super::options::{ConnectionArgs, DirArgs, RoomArgs, parse_flag};
use crate::error::{Result, Side};
use crate::filter::Filters;
use crate::follow::FollowSpec;
use crate::lsn::Lsn;
use crate::pg::conninfo::ConnInfo;
use crate::size::parse_size;
use crate::stream::apply::ApplyMode;
use crate::stream::decode::Plugin;

/// What carries the changes, by name.
#[derive(Args)]
#[command(next_help_heading = "Following")]
pub struct SlotArgs {
    /// Output plugin: test_decoding, wal2json or pgoutput
    #[arg(
        short = 'p',
        long,
        value_name = "NAME",
        env = "PGCOPYDB_OUTPUT_PLUGIN",
        hide_env_values = true,
        default_value = "test_decoding"
    )]
    pub plugin: Plugin,
    /// Have wal2json send numbers as strings; it is always done where the plugin can
    #[arg(long, env = "PGCOPYDB_WAL2JSON_NUMERIC_AS_STRING", hide_env_values = true, value_parser = parse_flag)]
    pub wal2json_numeric_as_string: bool,
    /// Replication slot on the source
    #[arg(short = 's', long, value_name = "NAME", value_parser = parse_slot_name, default_value = "pgcopydb")]
    pub slot_name: String,
    /// Replication origin on the target
    #[arg(short = 'o', long, value_name = "NAME", value_parser = parse_origin, default_value = "pgcopydb")]
    pub origin: String,
}

/// How changes are applied, and until when.
#[derive(Args)]
#[command(next_help_heading = "Following")]
pub struct ApplyArgs {
    /// Create the replication slot; it is done anyway when there is none
    #[arg(long)]
    pub create_slot: bool,
    /// Stop once everything that committed up to this position is applied
    #[arg(short = 'E', long, value_name = "LSN")]
    pub endpos: Option<Lsn>,
    /// Also replay updates that change nothing
    #[arg(long, env = "PGCOPYDB_REPLAY_NO_OP_UPDATES", hide_env_values = true, value_parser = parse_flag)]
    pub replay_no_op_updates: bool,
    /// How changes are applied: auto (by sets where that gives the same) or rows (one by one)
    #[arg(long, value_name = "MODE", value_parser = parse_mode, default_value = "auto")]
    pub apply_mode: ApplyMode,
    /// Keep the files of changes that the target has
    #[arg(long)]
    pub keep_cdc_files: bool,
    /// Receive no more while this much waits in complete files to be applied; the source keeps its WAL meanwhile. A transaction
    /// is always received whole
    #[arg(long, value_name = "SIZE", conflicts_with = "keep_cdc_files", value_parser = parse_size)]
    pub cdc_max_size: Option<u64>,
}

/// How a run relates to an earlier one.
#[derive(Debug, Clone, Copy)]
pub struct Again {
    pub restart: bool,
    pub resume: bool,
}

/// The groups of options that say what is followed, and how.
pub struct How<'a> {
    pub dir: &'a DirArgs,
    pub slot: &'a SlotArgs,
    pub apply: &'a ApplyArgs,
    pub room: &'a RoomArgs,
    pub filters: Option<Filters>,
    pub again: Again,
}

/// What `clone --follow`, `follow` and the parts of follow have to do: the same options, read in the same way.
pub fn follow_spec(connections: &ConnectionArgs, how: How<'_>) -> Result<FollowSpec> {
    // In the order in which a user names them.
    let source = connections.required(Side::Source)?;
    follow_spec_to(source, connections.required(Side::Target)?, how)
}

/// The same, to a target that is known in another way.
pub fn follow_spec_to(source: ConnInfo, target: ConnInfo, how: How<'_>) -> Result<FollowSpec> {
    let How {
        dir,
        slot,
        apply,
        room,
        filters,
        again,
    } = how;
    Ok(FollowSpec {
        source,
        target,
        dir: dir.dir.clone(),
        plugin: slot.plugin,
        slot_name: slot.slot_name.clone(),
        origin: slot.origin.clone(),
        endpos: apply.endpos,
        apply_mode: apply.apply_mode,
        replay_no_op_updates: apply.replay_no_op_updates,
        keep_files: apply.keep_cdc_files,
        cdc_max_size: apply.cdc_max_size,
        when_full: room.when_full(),
        // Not of the parts of follow that are commands of their own, which somebody watches.
        stall_timeout: Duration::ZERO,
        lock_timeout: Duration::ZERO,
        filters,
        restart: again.restart,
        resume: again.resume,
    })
}

/// The first of the slot's options that was typed: without --follow they mean nothing.
pub fn typed_slot_option(given: &Given) -> Option<&'static str> {
    const OPTIONS: [(&str, &str); 4] = [
        ("plugin", "--plugin"),
        ("slot_name", "--slot-name"),
        ("origin", "--origin"),
        ("wal2json_numeric_as_string", "--wal2json-numeric-as-string"),
    ];
    let typed = OPTIONS.iter().find(|(id, _)| given.is_typed(id));
    typed.map(|(_, option)| *option)
}

/// The server's own rule: lower case, digits and underscores, 63 of them.
fn parse_slot_name(text: &str) -> std::result::Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match !text.is_empty() && text.len() <= 63 && text.chars().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => {
            Err("lower case letters, digits and underscores are needed, at most 63".to_owned())
        }
    }
}

fn parse_origin(text: &str) -> std::result::Result<String, String> {
    match text.is_empty() || text.starts_with("pg_") || text.contains(char::is_control) {
        true => Err(
            "a name without control characters that does not begin with \"pg_\" is needed"
                .to_owned(),
        ),
        false => Ok(text.to_owned()),
    }
}

fn parse_mode(text: &str) -> std::result::Result<ApplyMode, String> {
    match text {
        "auto" => Ok(ApplyMode::Auto),
        "rows" => Ok(ApplyMode::Rows),
        _ => Err("auto or rows is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_origin, parse_slot_name};

    #[test]
    fn names_that_the_server_would_refuse_are_refused_here() {
        assert!(parse_slot_name("pgcopydb_2").is_ok());
        for bad in ["", "My Slot", "a-b", &"x".repeat(64)] {
            assert!(parse_slot_name(bad).is_err(), "{bad}");
        }
        assert!(parse_origin("My origin").is_ok());
        assert!(parse_origin("pg_1").is_err() && parse_origin("").is_err());
    }
}
