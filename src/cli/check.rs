//! `pgcopydb check`: what a clone with these options would meet, on stdout; the exit code says whether it would work.

use clap::Args;

use super::follow_options::{SlotArgs, typed_slot_option};
use super::given::Given;
use super::options::{ConnectionArgs, DirArgs, FilterArgs, JobArgs, parse_flag};
use super::stdout;
use crate::check::{self, CheckSpec, Scope, Verdict};
use crate::error::{Error, Result, Side};
use crate::instance;
use crate::stream::setup::SetupSpec;
use crate::sys::signal::Shutdown;
use crate::workdir::cdc_location;

/// Look at both servers and say what a clone would meet
#[derive(Args)]
#[command(after_help = "\
Looks at versions, programs, rights, roles, extensions, encodings, limits and, with --follow, at all that following \
changes needs. Nothing is changed on either server and nothing is written. Each line is PASS, WARN or FAIL; for the last \
two it says what mends it. The exit code is 0 unless something fails; then it is the one that a clone would end with.

With --all-databases the two URIs name any database of each server: what all databases take together is added up, and each \
database that the target has already is looked at by itself.

With --json: verdict, exit_code, passed, warnings, failures, and findings, a list of id, group, verdict, side, objects, \
reason and fix.

Example: pgcopydb check --source postgres://me@old/shop --target postgres://me@new/shop --follow --jobs 8")]
pub struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Check what a clone of all databases needs: connections, slots and senders are added up
    #[arg(long)]
    all_databases: bool,
    /// Also check what replaying the source's changes needs
    #[arg(short = 'f', long)]
    follow: bool,
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    jobs: JobArgs,
    #[command(flatten)]
    scope: CheckScopeArgs,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    slot: SlotArgs,
}

/// What the clone will be told to leave out or replace: it need not be possible then.
#[derive(Args)]
#[command(next_help_heading = "Scope")]
struct CheckScopeArgs {
    /// What is on the target will be replaced
    #[arg(short = 'c', long, env = "PGCOPYDB_DROP_IF_EXISTS", hide_env_values = true, value_parser = parse_flag)]
    drop_if_exists: bool,
    /// Everything will be owned by the role that connects to the target
    #[arg(short = 'O', long)]
    no_owner: bool,
    /// GRANT and REVOKE will be left out
    #[arg(short = 'x', long)]
    no_acl: bool,
    /// Roles will be copied before
    #[arg(long)]
    roles: bool,
    /// Everything will be in the default tablespace of the target
    #[arg(long, env = "PGCOPYDB_SKIP_TABLESPACES", hide_env_values = true, value_parser = parse_flag)]
    no_tablespaces: bool,
    /// Large objects will be left out
    #[arg(long, visible_alias = "skip-blobs")]
    skip_large_objects: bool,
    /// Extensions will be left out
    #[arg(long)]
    skip_extensions: bool,
}

pub fn run(args: CheckArgs, given: &Given) -> Result<()> {
    let (is_json, all_databases) = (args.json, args.all_databases);
    let spec = validate(args, given)?;
    let shutdown = Shutdown::install()?;
    let report = match all_databases {
        true => instance::check(&spec, &shutdown)?,
        false => check::run(&spec, &shutdown)?,
    };
    match is_json {
        true => stdout::print_line(&check::json(&report)?)?,
        false => stdout::print(&check::text(&report))?,
    }
    match report.refusal() {
        None => Ok(()),
        // The report has said it all; the kind decides the exit code.
        Some(first) => Err(Error::new(
            first.kind(),
            format!(
                "{} of the checks failed: a clone would not work",
                report.count(Verdict::Fail)
            ),
        )),
    }
}

fn validate(args: CheckArgs, given: &Given) -> Result<CheckSpec> {
    if !args.follow
        && let Some(option) = typed_slot_option(given)
    {
        return Err(Error::usage(format!("option {option} needs --follow")));
    }
    let filters = args.filters.read()?;
    let (source, target) = (
        args.connections.required(Side::Source)?,
        args.connections.required(Side::Target)?,
    );
    let follow = args.follow.then(|| SetupSpec {
        source: source.clone(),
        target: target.clone(),
        plugin: args.slot.plugin,
        slot_name: args.slot.slot_name,
        origin: args.slot.origin,
        dir: cdc_location(args.dir.dir.as_deref()),
        application_name: "pgcopydb check".to_owned(),
        filters: filters.clone(),
    });
    Ok(CheckSpec {
        source: Some(source),
        target: Some(target),
        dir: args.dir.dir,
        jobs: args.jobs.resolve(given),
        scope: Scope {
            copies_roles: args.scope.roles,
            drop_if_exists: args.scope.drop_if_exists,
            no_owner: args.scope.no_owner,
            no_acl: args.scope.no_acl,
            no_tablespaces: args.scope.no_tablespaces,
            skip_extensions: args.scope.skip_extensions,
            skip_large_objects: args.scope.skip_large_objects,
        },
        filters,
        follow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_for_test;

    fn spec(words: &[&str]) -> Result<CheckSpec> {
        let line = ["check", "-S", "dbname=a", "-T", "dbname=b"];
        let (args, given) = parse_for_test::<CheckArgs>(&[&line, words].concat())?;
        validate(args, &given)
    }

    #[test]
    fn options_reach_the_spec() {
        let all = spec(&[
            "-cOx",
            "--no-tablespaces",
            "--skip-blobs",
            "--skip-extensions",
            "--jobs",
            "8",
            "-I",
            "2",
        ]);
        let all = all.unwrap();
        assert!(all.scope.drop_if_exists && all.scope.no_owner && all.scope.no_acl);
        assert!(all.scope.no_tablespaces && all.scope.skip_extensions);
        assert!(all.scope.skip_large_objects && all.follow.is_none());
        assert_eq!((all.jobs.table, all.jobs.index), (8, 2));
        let follow = spec(&["--follow", "--plugin", "pgoutput", "-s", "other"]);
        let follow = follow.unwrap().follow.unwrap();
        assert_eq!(follow.slot_name, "other");
        let error = spec(&["--plugin", "pgoutput"]).unwrap_err();
        assert_eq!(error.message(), "option --plugin needs --follow");
        assert_eq!(error.exit_code(), 1);
    }
}
