//! What in a directory is pgcopydb's: asked before a directory is used, and before anything in it is removed. Run by
//! the parent under the directory's lock (the first question, before it). Follows no link and removes no file that it
//! does not know: people give `--dir` the wrong directory.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess, geteuid};

use super::paths::{Paths, TOP_NAMES};
use crate::error::{Context, Error, Result};
use crate::sys::durable::remove_file;

/// How the names of the files below `schema` and `run` end.
const ENDINGS: &[&str] = &[
    "claim",
    "constraint",
    "done",
    "dump",
    "failed",
    "ini",
    "json",
    "list",
    "lock",
    "refused",
    "sql",
    "tmp",
];

/// A directory is ours when it is a directory (a link could lead anywhere), we may write there, nobody but us and root
/// could have prepared it, and it is new or has been a work directory before.
pub(super) fn check(dir: &Path) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::state(format!(
            "cannot use work directory \"{}\": {reason}",
            dir.display()
        ))
        .with_hint("Choose another directory with --dir."))
    };
    let what = || format!("could not inspect work directory \"{}\"", dir.display());
    let metadata = std::fs::symlink_metadata(dir).with_context(what)?;
    if metadata.is_symlink() {
        return refuse("it is a symbolic link".to_string());
    }
    if !metadata.is_dir() {
        return refuse("it is not a directory".to_string());
    }
    // Root may own it: volumes in containers are root's, writable for a group.
    if is_foreign(&metadata) {
        return refuse(format!("it belongs to user id {}", metadata.uid()));
    }
    let access = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    if let Err(errno) = eaccess(dir, access) {
        // The operating system's refusal, as it would be later: not a state of ours.
        return Err(Error::io(
            format!("cannot use work directory \"{}\"", dir.display()),
            errno.into(),
        ));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(what)? {
        let entry = entry.with_context(what)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if TOP_NAMES.contains(&name.as_str())
            && let Some(reason) = planted(dir, &entry.path()).with_context(what)?
        {
            return refuse(reason);
        }
        names.push(name);
    }
    match names.iter().find(|name| !may_be_in_a_new_one(name)) {
        Some(stranger) if !was_used_before(&names) => {
            refuse(format!("\"{stranger}\" in it is not pgcopydb's"))
        }
        _ => Ok(()),
    }
}

/// Nobody else can lead us to another directory on the way to this one, which need not be there yet.
pub(super) fn check_way(dir: &Path) -> Result<()> {
    let what = || {
        format!(
            "could not inspect the way to work directory \"{}\"",
            dir.display()
        )
    };
    match foreign_link(dir).with_context(what)? {
        None => Ok(()),
        Some((link, owner)) => Err(Error::state(format!(
            "cannot use work directory \"{}\": symbolic link \"{}\" on the way to it belongs to user id {owner}",
            dir.display(),
            link.display()
        ))
        .with_hint("Choose another directory with --dir.")),
    }
}

/// Neither ours nor root's, which could do anything anyway.
fn is_foreign(metadata: &Metadata) -> bool {
    metadata.uid() != geteuid().as_raw() && metadata.uid() != 0
}

/// Why something of ours cannot be ours, if so: a link, whoever made it, would have us write elsewhere, and what somebody
/// else owns he can change under us.
fn planted(top: &Path, path: &Path) -> std::io::Result<Option<String>> {
    let metadata = match std::fs::symlink_metadata(path) {
        // A run that is ending, or a follow beside a clone, removes files meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    let name = path.strip_prefix(top).unwrap_or(path).display();
    if metadata.is_symlink() {
        return Ok(Some(format!("\"{name}\" in it is a symbolic link")));
    }
    if is_foreign(&metadata) {
        let owner = metadata.uid();
        return Ok(Some(format!("\"{name}\" in it belongs to user id {owner}")));
    }
    if !metadata.is_dir() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        // The kind comes with the name: no call for each of 100,000 files, which only we could have put here.
        let kind = entry.file_type()?;
        if kind.is_symlink() || kind.is_dir() {
            let reason = planted(top, &entry.path())?;
            if reason.is_some() {
                return Ok(reason);
            }
        }
    }
    Ok(None)
}

/// The kernel gives up after as many.
const MOST_LINKS: usize = 40;

/// The first link on the way to a directory that somebody else made, and who: he could lead us somewhere else at the next
/// step. Links of ours and of root are the user's own way to arrange things.
fn foreign_link(dir: &Path) -> std::io::Result<Option<(PathBuf, u32)>> {
    let absolute = std::path::absolute(dir)?;
    // In reverse: the next step is the last.
    let steps = |path: &Path| -> Vec<OsString> {
        let steps = path.components().rev();
        steps
            .filter(|step| !matches!(step, Component::RootDir | Component::CurDir))
            .map(|step| step.as_os_str().to_owned())
            .collect()
    };
    let (mut left, mut way) = (steps(&absolute), PathBuf::from("/"));
    let mut links = 0;
    while let Some(step) = left.pop() {
        if step == ".." {
            way.pop();
            continue;
        }
        way.push(&step);
        let metadata = match std::fs::symlink_metadata(&way) {
            // What is not there is made by us.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        if !metadata.is_symlink() {
            continue;
        }
        if is_foreign(&metadata) {
            return Ok(Some((way, metadata.uid())));
        }
        links += 1;
        if links > MOST_LINKS {
            return Ok(None);
        }
        let target = std::fs::read_link(&way)?;
        way.pop();
        if target.is_absolute() {
            way = PathBuf::from("/");
        }
        left.extend(steps(&target));
    }
    Ok(None)
}

/// A log that is written beside our files is there before them; a volume of its own has lost+found.
fn may_be_in_a_new_one(name: &str) -> bool {
    name == "lost+found" || name.ends_with(".log")
}

/// Our pid files are never removed; those of the original tool are, which leaves these two directories. One of them
/// alone proves nothing: many a project has a "schema".
fn was_used_before(names: &[String]) -> bool {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let is_pid_file = |name: &&str| name.ends_with(".pid") && has(name);
    TOP_NAMES.iter().any(is_pid_file) || has("schema") && has("run")
}

/// Remove all that a run made. Everything is looked at before anything is removed, so that a refusal leaves all as it
/// was.
pub(super) fn remove_run(paths: &Paths) -> Result<()> {
    let mut files = vec![paths.schema_json(), paths.summary_json()];
    let mut directories = Vec::new();
    for directory in [
        paths.tables(),
        paths.indexes(),
        paths.vacuum(),
        paths.blobs(),
        paths.failures(),
        paths.run(),
        paths.schema(),
    ] {
        // Children stand before their parent, and are what may be found in it besides files.
        collect(paths, &directory, &directories, &mut files)?;
        directories.push(directory);
    }
    // Roles are no database's: they were written before this run, and another run may still restore them.
    let roles = paths.roles();
    let has_roles = files.contains(&roles);
    files.retain(|file| *file != roles);
    directories.retain(|directory| !has_roles || *directory != paths.schema());
    files.iter().try_for_each(|file| remove_file(file))?;
    for directory in &directories {
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(
                    format!("could not remove directory \"{}\"", directory.display()),
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Add the files of one directory to `files`, or refuse.
fn collect(
    paths: &Paths,
    directory: &Path,
    known_directories: &[PathBuf],
    files: &mut Vec<PathBuf>,
) -> Result<()> {
    let what = || format!("could not read directory \"{}\"", directory.display());
    let entries = match std::fs::symlink_metadata(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(what(), error)),
        Ok(metadata) if !metadata.is_dir() => return Err(stranger(paths, directory)),
        Ok(_) => std::fs::read_dir(directory).with_context(what)?,
    };
    for entry in entries {
        let entry = entry.with_context(what)?;
        let path = entry.path();
        // The entry's own type: a link is neither a file nor a directory here.
        let file_type = entry.file_type().with_context(what)?;
        let has_our_ending = path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| ENDINGS.contains(&ending));
        if file_type.is_file() && has_our_ending {
            files.push(path);
        } else if !(file_type.is_dir() && known_directories.contains(&path)) {
            return Err(stranger(paths, &path));
        }
    }
    Ok(())
}

fn stranger(paths: &Paths, path: &Path) -> Error {
    let name = path.strip_prefix(paths.top()).unwrap_or(path);
    Error::state(format!(
        "cannot start over in work directory \"{}\": \"{}\" in it is not pgcopydb's",
        paths.top().display(),
        name.display()
    ))
    .with_hint("Move it elsewhere, or choose another directory with --dir.")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{check, remove_run};
    use crate::workdir::paths::Paths;
    use crate::workdir::{Service, WorkDir};

    fn refusal(dir: &Path) -> String {
        let error = check(dir).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        error.to_string()
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir(path.join("schema")).unwrap();
        assert!(refusal(path).contains("\"schema\""));
        fs::remove_dir(path.join("schema")).unwrap();
        fs::write(path.join("thesis.tex"), "").unwrap();
        assert!(refusal(path).contains("thesis.tex"));
        let link = path.join("link");
        symlink(path, &link).unwrap();
        assert!(refusal(&link).contains("is a symbolic link"));
        assert!(refusal(&path.join("thesis.tex")).contains("not a directory"));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
            assert!(refusal(path).contains("user id 65534"));
        }
    }

    #[test]
    fn a_work_directory_keeps_company() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("clone.log"), "").unwrap();
        drop(WorkDir::open(dir.path(), Service::Clone).unwrap());
        // It is ours now, and what the user adds is the user's.
        fs::write(dir.path().join("filters.ini"), "").unwrap();
        check(dir.path()).unwrap();
        symlink("/tmp", dir.path().join("run")).unwrap();
        assert!(refusal(dir.path()).contains("\"run\" in it is a symbolic link"));
    }

    #[test]
    fn what_somebody_has_planted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        drop(WorkDir::open(&path, Service::Clone).unwrap());
        fs::create_dir_all(path.join("run/tables")).unwrap();
        check(&path).unwrap();
        symlink("/etc/passwd", path.join("run/tables/1.done")).unwrap();
        assert!(refusal(&path).contains("\"run/tables/1.done\" in it is a symbolic link"));
        fs::remove_file(path.join("run/tables/1.done")).unwrap();
        // A link of ours on the way is the user's own arrangement.
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        super::check_way(&link.join("w/new")).unwrap();
        if nix::unistd::geteuid().is_root() {
            let way = |path: &Path| super::check_way(path).unwrap_err().to_string();
            std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
            assert!(
                way(&link.join("new"))
                    .contains("/link\" on the way to it belongs to user id 65534")
            );
            // Behind a link of ours, too.
            let first = dir.path().join("first");
            symlink("w/../link", &first).unwrap();
            assert!(way(&first.join("w")).contains("belongs to user id 65534"));
            std::os::unix::fs::chown(path.join("run"), Some(65534), None).unwrap();
            assert!(refusal(&path).contains("\"run\" in it belongs to user id 65534"));
        }
    }

    #[test]
    fn removes_a_run_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let workdir = WorkDir::open(dir.path(), Service::Clone).unwrap();
        workdir.prepare_run().unwrap();
        let paths = &workdir.paths;
        for file in [
            paths.schema_json(),
            paths.dump(),
            paths.restored_dump(),
            paths.list("pre"),
            paths.run_spec(),
            paths.refused(),
            paths.refused_post(),
            paths.cut(),
            paths.queues(),
            paths.step_begun("tables"),
            paths.step_done("tables"),
            paths.part_done(1, 2),
            paths.index_failed(3),
            paths.constraints_claim(1),
            paths.constraint_done(3),
            paths.vacuum_done(1),
            paths.blobs_done(1),
            paths.failures().join("1-2-3.json"),
            paths.tables().join("1.done.77.tmp"),
        ] {
            fs::write(file, "").unwrap();
        }
        fs::write(paths.snapshot(), "").unwrap();
        fs::write(dir.path().join("filters.ini"), "").unwrap();
        fs::write(paths.roles(), "").unwrap();
        remove_run(paths).unwrap();
        assert!(paths.roles().exists() && !paths.dump().exists());
        fs::remove_file(paths.roles()).unwrap();
        remove_run(paths).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["filters.ini", "pgcopydb.pid", "snapshot"]);
        remove_run(paths).unwrap();
    }

    #[test]
    fn a_stranger_among_our_files_stops_the_removal() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir_all(paths.tables()).unwrap();
        fs::write(paths.table_done(1), "").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("1.done"), "").unwrap();
        for make in [
            |path: &Path, _: &Path| fs::write(path.join("notes.txt"), ""),
            |path: &Path, elsewhere: &Path| symlink(elsewhere, path.join("more.done")),
            |path: &Path, _: &Path| fs::create_dir(path.join("sub")),
        ] {
            make(&paths.tables(), elsewhere.path()).unwrap();
            let error = remove_run(&paths).unwrap_err().to_string();
            assert!(error.contains("\"run/tables/"), "{error}");
            assert!(paths.table_done(1).exists());
            let _ = fs::remove_file(paths.tables().join("notes.txt"));
            let _ = fs::remove_file(paths.tables().join("more.done"));
        }
        assert!(elsewhere.path().join("1.done").exists());
    }
}
