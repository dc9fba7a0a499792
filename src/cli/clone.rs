//! `pgcopydb clone` (also `fork`, `copy-db` and `copy db`): from what the user typed to a `CloneSpec`. All validation of
//! the command line ends here; whether the two servers and the work directory allow the run is for the engine to say.

use clap::Args;

use super::extensions::RequirementsArgs;
use super::follow_options::{self, Again, ApplyArgs, How, SlotArgs, typed_slot_option};
use super::given::Given;
use super::options::{
    ConnectionArgs, DirArgs, FilterArgs, HangArgs, JobArgs, RoomArgs, SnapshotIdArgs, SplitArgs,
    parse_flag,
};
use crate::clone::{self, CloneSpec, Phases, RolesOptions, SplitOptions};
use crate::error::{Error, Result, Side};
use crate::follow::{self, FollowSpec, OnlineSpec};
use crate::instance::{self, InstanceSpec};
use crate::logging;
use crate::size::parse_memory_setting;
use crate::sys::signal::Shutdown;
use crate::workdir::cdc_location;

/// Copy a whole database from the source to the target
#[derive(Args)]
#[command(after_help = "\
Both databases must exist and the target must hold none of the objects yet. Schema, rows, large objects and sequences are \
read in one snapshot of the source; indexes are built as soon as their table is complete. A run that ended early \
carries on with --resume. With --follow that is consistent also when the snapshot is gone: complete tables stay, the others are \
copied as of a later position, and changes that they hold are skipped.

With --all-databases the two URIs name any database of each server. Databases that the target lacks are made there with the \
source's encoding, locale, owner, privileges and settings; then one pool of --table-jobs, --index-jobs, --vacuum-jobs and \
--large-objects-jobs workers copies the tables of all databases, the largest first. No consistency across databases is \
promised: each is copied as of a moment of its own, and followed from there, with a snapshot, slot, origin (their names end in \
the database's oid), sentinel and folder (DIR/databases/NAME) of its own. A database that fails is listed at the end, does not \
keep the others from being copied, and makes the exit code non-zero; --resume tries it again. --restore-jobs is how many \
databases are prepared, and finished after the workers, at a time. pgcopydb list progress, stream sentinel get and set, and \
stream cleanup --all-databases know the directory.

Example: pgcopydb clone --source postgres://me@old/shop --target postgres://me@new/shop --jobs 8")]
pub struct CloneArgs {
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    jobs: JobArgs,
    #[command(flatten)]
    split: SplitArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    requirements: RequirementsArgs,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    state: StateArgs,
    /// Clone every database of the source's instance that is no template, with the roles; --source and --target name any database
    #[arg(long, conflicts_with = "snapshot")]
    all_databases: bool,
    /// Replay the source's changes after the copy, until the sentinel's end position
    #[arg(short = 'f', long)]
    follow: bool,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    apply: ApplyArgs,
}

/// What is copied and what is left out.
#[derive(Args)]
#[command(next_help_heading = "Scope")]
struct ScopeArgs {
    #[command(flatten)]
    filters: FilterArgs,
    /// Drop each object on the target before creating it
    #[arg(short = 'c', long, env = "PGCOPYDB_DROP_IF_EXISTS", hide_env_values = true, value_parser = parse_flag)]
    drop_if_exists: bool,
    /// Leave everything owned by the role that connects to the target
    #[arg(short = 'O', long)]
    no_owner: bool,
    /// Leave out GRANT and REVOKE
    #[arg(short = 'x', long)]
    no_acl: bool,
    /// Leave out comments
    #[arg(short = 'X', long)]
    no_comments: bool,
    /// Create everything in the default tablespace of the target
    #[arg(long, env = "PGCOPYDB_SKIP_TABLESPACES", hide_env_values = true, value_parser = parse_flag)]
    no_tablespaces: bool,
    /// Leave out large objects
    #[arg(long, visible_alias = "skip-blobs")]
    skip_large_objects: bool,
    /// Leave out CREATE EXTENSION and what belongs to extensions
    #[arg(long)]
    skip_extensions: bool,
    /// Leave out comments on extensions
    #[arg(long)]
    skip_ext_comments: bool,
    /// Leave out CREATE COLLATION: the target has those of the source already
    #[arg(long)]
    skip_collations: bool,
    /// Copy the roles of the source instance first; those that exist on the target are kept
    #[arg(long)]
    roles: bool,
    /// With --roles, leave out passwords
    #[arg(long)]
    no_role_passwords: bool,
    /// Leave out what ALTER DATABASE .. SET and ALTER ROLE .. IN DATABASE .. SET have set
    #[arg(long, env = "PGCOPYDB_SKIP_DB_PROPERTIES", hide_env_values = true, value_parser = parse_flag)]
    skip_db_properties: bool,
    /// Do not run VACUUM on the target
    #[arg(long, env = "PGCOPYDB_SKIP_VACUUM", hide_env_values = true, value_parser = parse_flag)]
    skip_vacuum: bool,
    /// Do not run ANALYZE on the target
    #[arg(long, env = "PGCOPYDB_SKIP_ANALYZE", hide_env_values = true, value_parser = parse_flag)]
    skip_analyze: bool,
}

/// How the work is done.
#[derive(Args)]
#[command(next_help_heading = "Work")]
struct WorkArgs {
    /// Copy rows in binary format where every column's type allows it
    #[arg(long, env = "PGCOPYDB_USE_COPY_BINARY", hide_env_values = true, value_parser = parse_flag)]
    use_copy_binary: bool,
    /// maintenance_work_mem of each connection that builds indexes on the target
    #[arg(long, value_name = "SIZE", value_parser = parse_memory_setting, default_value = "512MB")]
    maintenance_work_mem: String,
    /// End the run at the first object that fails
    #[arg(long, env = "PGCOPYDB_FAIL_FAST", hide_env_values = true, value_parser = parse_flag)]
    fail_fast: bool,
    #[command(flatten)]
    hangs: HangArgs,
}

/// How this run relates to an earlier one and to a snapshot.
#[derive(Args)]
#[command(next_help_heading = "State")]
struct StateArgs {
    /// Forget an earlier run on the work directory and start over
    #[arg(long, conflicts_with = "resume")]
    restart: bool,
    /// Carry on with an earlier run and skip what it has done
    #[arg(long)]
    resume: bool,
    /// Allow reading the source in another snapshot than an earlier run did
    #[arg(long)]
    not_consistent: bool,
    #[command(flatten)]
    snapshot: SnapshotIdArgs,
}

pub fn run(args: CloneArgs, given: &Given) -> Result<()> {
    let (all_databases, no_role_passwords) = (args.all_databases, args.scope.no_role_passwords);
    if no_role_passwords && !all_databases && !args.scope.roles {
        return Err(Error::usage("option --no-role-passwords needs --roles"));
    }
    let follow = follow_spec(&args, given)?;
    let sides = (
        args.connections.required(Side::Source)?,
        args.connections.required(Side::Target)?,
    );
    let mut spec = validate(args, given, Phases::ALL)?;
    let shutdown = Shutdown::install()?;
    // Before the first fork: the lines of every process must make room for the bars.
    logging::share_terminal();
    if all_databases {
        let (source, target) = sides;
        let spec = InstanceSpec {
            source,
            target,
            clone: spec,
            follow,
            no_role_passwords,
        };
        return instance::run(&spec, &shutdown);
    }
    let Some(follow) = follow else {
        return clone::run(&spec, &shutdown);
    };
    spec.follow = Some(follow.setup(&cdc_location(spec.dir.as_deref())));
    let online = OnlineSpec {
        clone: spec,
        follow,
    };
    follow::run_online(&online, &shutdown)
}

/// What follows the copy, if anything does. Options about it mean nothing without it.
fn follow_spec(args: &CloneArgs, given: &Given) -> Result<Option<FollowSpec>> {
    if !args.follow {
        const OPTIONS: [(&str, &str); 5] = [
            ("create_slot", "--create-slot"),
            ("endpos", "--endpos"),
            ("apply_mode", "--apply-mode"),
            ("keep_cdc_files", "--keep-cdc-files"),
            ("cdc_max_size", "--cdc-max-size"),
        ];
        let typed = OPTIONS.iter().find(|(id, _)| given.is_typed(id));
        let option = typed_slot_option(given).or(typed.map(|(_, option)| *option));
        return match option {
            Some(option) => Err(Error::usage(format!("option {option} needs --follow"))),
            None => Ok(None),
        };
    }
    if args.state.not_consistent {
        return Err(Error::usage(
            "option --not-consistent cannot be used with --follow, which resumes consistently without it",
        ));
    }
    let again = Again {
        restart: args.state.restart,
        resume: args.state.resume,
    };
    let how = How {
        dir: &args.dir,
        slot: &args.slot,
        apply: &args.apply,
        room: &args.room,
        filters: args.scope.filters.read()?,
        again,
    };
    let spec = follow_options::follow_spec(&args.connections, how)?;
    Ok(Some(FollowSpec {
        stall_timeout: args.work.hangs.stall_timeout(),
        lock_timeout: args.work.hangs.lock_timeout(),
        ..spec
    }))
}

/// What the engine needs for these phases of a clone.
pub fn validate(args: CloneArgs, given: &Given, phases: Phases) -> Result<CloneSpec> {
    let CloneArgs {
        connections,
        dir,
        jobs,
        split,
        scope,
        requirements,
        work,
        state,
        ..
    } = args;
    let jobs = jobs.resolve(given);
    Ok(CloneSpec {
        phases,
        said: None,
        source: match phases.need_source() {
            true => Some(connections.required(Side::Source)?),
            false => connections.optional(Side::Source)?,
        },
        target: match phases.need_target() {
            true => Some(connections.required(Side::Target)?),
            false => connections.optional(Side::Target)?,
        },
        dir: dir.dir,
        table_jobs: jobs.table,
        index_jobs: jobs.index,
        restore_jobs: jobs.restore,
        large_objects_jobs: jobs.large_objects,
        vacuum_jobs: jobs.vacuum,
        split: SplitOptions {
            larger_than: Some(split.split_tables_larger_than).filter(|bytes| *bytes > 0),
            max_parts: Some(split.split_max_parts).filter(|parts| *parts > 0),
            estimate_sizes: split.estimate_table_sizes,
            skip_ctid: split.skip_split_by_ctid,
        },
        use_copy_binary: work.use_copy_binary,
        maintenance_work_mem: work.maintenance_work_mem,
        filters: scope.filters.read()?,
        drop_if_exists: scope.drop_if_exists,
        no_owner: scope.no_owner,
        no_acl: scope.no_acl,
        no_comments: scope.no_comments,
        no_tablespaces: scope.no_tablespaces,
        skip_large_objects: scope.skip_large_objects,
        skip_extensions: scope.skip_extensions,
        skip_ext_comments: scope.skip_ext_comments,
        skip_collations: scope.skip_collations,
        roles: scope.roles.then_some(RolesOptions {
            no_passwords: scope.no_role_passwords,
        }),
        requirements: requirements.read()?,
        skip_vacuum: scope.skip_vacuum,
        skip_analyze: scope.skip_analyze,
        skip_db_properties: scope.skip_db_properties,
        fail_fast: work.fail_fast,
        when_full: args.room.when_full(),
        stall_timeout: work.hangs.stall_timeout(),
        lock_timeout: work.hangs.lock_timeout(),
        restart: state.restart,
        resume: state.resume,
        not_consistent: state.not_consistent,
        despite_failures: false,
        snapshot: snapshot_to_use(&state, given)?,
        follow: None,
    })
}

/// `--not-consistent` asks for a new snapshot when the old one is gone, so it cannot go with one that is named.
fn snapshot_to_use(state: &StateArgs, given: &Given) -> Result<Option<String>> {
    let Some(snapshot) = &state.snapshot.snapshot else {
        return Ok(None);
    };
    if state.not_consistent {
        if given.is_typed("snapshot") {
            return Err(Error::usage(
                "option --snapshot cannot be used with --not-consistent",
            ));
        }
        // An exported PGCOPYDB_SNAPSHOT outlives the snapshot it names; the option is what the user means now.
        log::info!("PGCOPYDB_SNAPSHOT is not used because of --not-consistent");
        return Ok(None);
    }
    // The id becomes a file name on the server and is quoted by SET TRANSACTION SNAPSHOT; refuse what cannot be one.
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    if snapshot.is_empty() || !snapshot.chars().all(is_id) {
        return Err(Error::usage(format!(
            "\"{snapshot}\" is not the id of a snapshot"
        )));
    }
    Ok(Some(snapshot.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_for_test;

    fn spec(words: &[&str]) -> Result<CloneSpec> {
        let line = ["clone", "-S", "dbname=a", "-T", "dbname=b"];
        let (args, given) = parse_for_test::<CloneArgs>(&[&line, words].concat())?;
        validate(args, &given, Phases::ALL)
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let spec = spec(&[]).unwrap();
        assert_eq!((spec.table_jobs, spec.index_jobs), (4, 4));
        assert_eq!((spec.restore_jobs, spec.vacuum_jobs), (4, 4));
        assert_eq!(spec.large_objects_jobs, 4);
        assert_eq!(spec.split, SplitOptions::default());
        assert_eq!(spec.maintenance_work_mem, "524288kB");
        assert_eq!(spec.dir, None);
        assert!(!spec.resume && !spec.restart && !spec.fail_fast);
    }

    #[test]
    fn jobs_sets_tables_and_indexes_unless_one_is_named() {
        let both = spec(&["--jobs", "8"]).unwrap();
        assert_eq!((both.table_jobs, both.index_jobs), (8, 8));
        assert_eq!((both.restore_jobs, both.vacuum_jobs), (8, 8));
        assert_eq!(both.large_objects_jobs, 4);
        let named = spec(&["--jobs", "8", "-I", "2", "--vacuum-jobs", "1"]).unwrap();
        assert_eq!((named.table_jobs, named.index_jobs), (8, 2));
        assert_eq!((named.restore_jobs, named.vacuum_jobs), (2, 1));
    }

    #[test]
    fn absurd_numbers_are_refused_by_name() {
        for option in ["--table-jobs", "--index-jobs", "--jobs", "--restore-jobs"] {
            for value in ["0", "129", "-3", "four"] {
                let error = spec(&[&format!("{option}={value}")]).unwrap_err();
                assert_eq!(error.exit_code(), 1);
                assert!(error.to_string().contains(option), "{error}");
                assert!(error.to_string().contains(value), "{error}");
            }
        }
    }

    #[test]
    fn sizes_and_parts() {
        let split = spec(&["--split-at", "10 GB", "--split-max-parts", "6"]).unwrap();
        assert_eq!(split.split.larger_than, Some(10 << 30));
        assert_eq!(split.split.max_parts, Some(6));
        let off = spec(&["--split-tables-larger-than", "0"]).unwrap();
        assert_eq!(off.split.larger_than, None);
        assert!(spec(&["--split-at", "lots"]).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            &["--restart", "--resume"][..],
            &["--snapshot", "0001-1", "--not-consistent"],
            &["--snapshot", "x'y"],
            &["--dir", ""],
        ] {
            assert_eq!(spec(words).unwrap_err().exit_code(), 1, "{words:?}");
        }
        assert!(spec(&["--not-consistent"]).is_ok());
    }

    #[test]
    fn every_flag_reaches_the_spec() {
        let spec = spec(&[
            "-cOxX",
            "--no-tablespaces",
            "--skip-blobs",
            "--skip-extensions",
            "--skip-ext-comments",
            "--skip-vacuum",
            "--skip-analyze",
            "--skip-db-properties",
            "--fail-fast",
            "--use-copy-binary",
            "--estimate-table-sizes",
            "--skip-split-by-ctid",
            "--resume",
        ])
        .unwrap();
        assert!(spec.drop_if_exists && spec.no_owner && spec.no_acl && spec.no_comments);
        assert!(spec.no_tablespaces && spec.skip_large_objects && spec.skip_extensions);
        assert!(spec.skip_ext_comments && spec.skip_vacuum && spec.skip_analyze);
        assert!(spec.skip_db_properties && spec.fail_fast && spec.use_copy_binary);
        assert!(spec.split.estimate_sizes && spec.split.skip_ctid && spec.resume);
    }
}
