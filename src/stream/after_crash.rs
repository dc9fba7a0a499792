//! What a crash of this machine, such as a power cut, leaves among the files of changes: the kernel writes them in whatever
//! order it likes, so that a file may be there in full whose predecessor is not, and any of them may have holes. Nothing
//! behind the first gap may be believed: whoever read on there would skip changes without a word, and confirm them. It comes
//! again from the slot, which has confirmed what was flushed and nothing else. Scripts are never flushed, and are made
//! again.
//!
//! Runs in the follow parent, before anybody reads or writes the files, and with the lock of a follow.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::segment::{find_tail, flush_directory, json_files, last_position, start_position};
use super::transform_process::script_of;
use crate::error::{Context, Error, Result};
use crate::lsn::Lsn;
use crate::sys::durable::{Sync, remove_file};
use crate::sys::msgq::boot_id;
use crate::workdir::done;

pub const BOOT: &str = "boot.json";

/// Since when everything in the directory was written, or was seen to be whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    boot_id: String,
}

/// What one file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// The position that the file before it ended with; `None` when its first line does not say.
    start: Option<Lsn>,
    /// Its last commit or keepalive before the first hole, and where in the file that ends.
    end: Option<Lsn>,
    length: u64,
    /// There is something behind it: a hole, or a transaction that does not end.
    is_torn: bool,
}

/// Where to stop believing: in the file before `from`, which is kept up to `length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    /// The first file that goes.
    from: usize,
    length: Option<u64>,
    /// The last position that is there.
    position: Option<Lsn>,
}

fn find_gap(files: &[Extent]) -> Option<Gap> {
    let mut position: Option<Lsn> = None;
    for (number, file) in files.iter().enumerate() {
        // What was before the first file the target has. A file without a first line goes on where the one before it ends.
        let is_behind_gap = position
            .zip(file.start)
            .is_some_and(|(position, start)| start > position);
        if is_behind_gap {
            return Some(Gap {
                from: number,
                length: None,
                position,
            });
        }
        position = file.end.or(position);
        if file.is_torn {
            return Some(Gap {
                from: number + 1,
                length: Some(file.length),
                position,
            });
        }
    }
    None
}

/// Make the files of changes what they were before a crash, as far as they are whole. `confirmed` tells what the slot has
/// confirmed, and is asked only if something is to go.
pub fn mend(
    dir: &Path,
    startpos: Lsn,
    confirmed: impl FnOnce() -> Result<Option<Lsn>>,
) -> Result<()> {
    mend_since(dir, startpos, &boot_id(), confirmed)
}

fn mend_since(
    dir: &Path,
    startpos: Lsn,
    boot_id: &str,
    confirmed: impl FnOnce() -> Result<Option<Lsn>>,
) -> Result<()> {
    let path = dir.join(BOOT);
    let boot = Boot {
        boot_id: boot_id.to_owned(),
    };
    let is_same = !boot_id.is_empty() && done::read(&path)?.as_ref() == Some(&boot);
    let mut files = json_files(dir)?;
    let mut extents = Vec::with_capacity(files.len());
    for json in &files {
        let extent = match is_same {
            true => extent_by_ends(json),
            false => extent(json),
        };
        match json.exists() {
            true => extents.push(extent?),
            // "stream prune" has removed it, and all before it, which the target has passed.
            false => extents.clear(),
        }
    }
    files.drain(..files.len() - extents.len());
    if let Some(gap) = find_gap(&extents) {
        drop_behind(dir, &files, gap, startpos, confirmed)?;
    }
    if is_same {
        return Ok(());
    }
    for json in &files {
        remove_file(&script_of(json))?;
    }
    // Or a script that is gone might be back after the next crash, and be believed.
    flush_directory(dir)?;
    done::write(&path, &boot, Sync::Now)
}

/// Every line of the file.
fn extent(json: &Path) -> Result<Extent> {
    let tail = find_tail(json)?;
    let length = std::fs::metadata(json).map_or(tail.length, |data| data.len());
    Ok(Extent {
        start: start_position(json)?,
        end: tail.position,
        length: tail.length,
        is_torn: length > tail.length,
    })
}

/// Its first line and its last, which is enough for what was written since this machine was started: what a process that was
/// killed has written is all there. The end of the newest file may be a transaction that does not end; receive cuts it off.
fn extent_by_ends(json: &Path) -> Result<Extent> {
    Ok(Extent {
        start: start_position(json)?,
        end: last_position(json)?,
        length: 0,
        is_torn: false,
    })
}

fn drop_behind(
    dir: &Path,
    files: &[PathBuf],
    gap: Gap,
    startpos: Lsn,
    confirmed: impl FnOnce() -> Result<Option<Lsn>>,
) -> Result<()> {
    let position = gap.position.unwrap_or(startpos);
    if let Some(confirmed) = confirmed()?.filter(|confirmed| *confirmed > position) {
        return Err(Error::state(format!(
            "changes are missing in the files in \"{}\": they have a gap after {position}, and the slot has confirmed \
             everything up to {confirmed}",
            dir.display()
        ))
        .with_detail("A crash of this machine has taken what had been flushed, or a file was removed.")
        .with_hint(
            "Bring the files back, or start over: \"pgcopydb stream cleanup\", and a new clone.",
        ));
    }
    let (kept, behind) = files.split_at(gap.from.min(files.len()));
    if !behind.is_empty() {
        log::warn!(
            "the files of changes have a gap after {position}, as after a crash of this machine: {} files behind it are \
             removed, and received again",
            behind.len()
        );
    }
    // From the end, so that whoever is killed meanwhile leaves the gap where it is.
    for json in behind.iter().rev() {
        remove_file(&script_of(json))?;
        remove_file(json)?;
    }
    if let (Some(length), Some(json)) = (gap.length, kept.last()) {
        let what = || format!("could not write file \"{}\"", json.display());
        let file = OpenOptions::new()
            .write(true)
            .open(json)
            .with_context(what)?;
        log::info!("cutting off \"{}\" what is not whole", json.display());
        file.set_len(length)
            .and_then(|()| file.sync_all())
            .with_context(what)?;
        remove_file(&script_of(json))?;
    }
    flush_directory(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn line(action: &str, lsn: u64) -> String {
        match action {
            "C" => format!(
                "{{\"action\":\"B\",\"xid\":7}}\n{{\"action\":\"C\",\"xid\":7,\"lsn\":\"{}\",\"timestamp\":\"2026-11-21 07:36:18+00\"}}\n",
                Lsn(lsn)
            ),
            action => format!("{{\"action\":\"{action}\",\"lsn\":\"{}\"}}\n", Lsn(lsn)),
        }
    }

    struct Files(tempfile::TempDir);

    impl Files {
        /// A file and its script for each text.
        fn new(texts: &[String]) -> Files {
            let dir = tempfile::tempdir().unwrap();
            for (number, text) in texts.iter().enumerate() {
                let json = dir.path().join(format!("{:024X}.json", number + 1));
                std::fs::write(&json, text).unwrap();
                std::fs::write(json.with_extension("sql"), "script").unwrap();
            }
            Files(dir)
        }

        fn mend(&self, boot: &str, confirmed: u64) -> Result<()> {
            mend_since(self.0.path(), Lsn(1), boot, || Ok(Some(Lsn(confirmed))))
        }

        fn texts(&self) -> Vec<String> {
            let files = json_files(self.0.path()).unwrap();
            let read = |json: &PathBuf| std::fs::read_to_string(json).unwrap();
            files.iter().map(read).collect()
        }

        fn scripts(&self) -> usize {
            let files = json_files(self.0.path()).unwrap();
            files.iter().filter(|json| script_of(json).exists()).count()
        }
    }

    fn three() -> Vec<String> {
        vec![
            line("S", 0x10) + &line("C", 0x20) + &line("C", 0x30),
            line("S", 0x30) + &line("K", 0x40),
            line("S", 0x40) + &line("C", 0x50),
        ]
    }

    #[test]
    fn what_is_whole_stays_and_scripts_are_of_one_boot() {
        let files = Files::new(&three());
        files.mend("first", 0x50).unwrap();
        assert_eq!(files.texts(), three());
        assert_eq!(files.scripts(), 0);
        for json in json_files(files.0.path()).unwrap() {
            std::fs::write(script_of(&json), "script").unwrap();
        }
        files.mend("first", 0x50).unwrap();
        assert_eq!(files.scripts(), 3);
        files.mend("second", 0x50).unwrap();
        assert_eq!(files.scripts(), 0);
    }

    /// The second file lost its end, and the third was written in full.
    #[test]
    fn nothing_behind_a_gap_is_believed() {
        let mut texts = three();
        texts[0] = line("S", 0x10) + &line("C", 0x20);
        for boot in ["first", "second"] {
            let files = Files::new(&texts);
            // Also when the gap is found in the boot that is noted.
            let noted = Boot {
                boot_id: "first".into(),
            };
            done::write(&files.0.path().join(BOOT), &noted, Sync::Now).unwrap();
            let error = files.mend(boot, 0x21).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::State);
            assert!(error.to_string().contains("gap after 0/20"), "{error}");
            assert_eq!(files.texts(), texts);
            files.mend(boot, 0x20).unwrap();
            assert_eq!(files.texts(), texts[..1]);
            files.mend(boot, 0x20).unwrap();
            assert_eq!(files.texts(), texts[..1]);
        }
    }

    /// Zeros where the kernel had not written yet, anywhere; the end of the file is there.
    #[test]
    fn a_file_with_a_hole_is_cut_there() {
        let whole = three();
        let first = (line("S", 0x10) + &line("C", 0x20)).len();
        for hole in first..whole[0].len() - 1 {
            let mut texts = whole.clone();
            texts[0].replace_range(
                hole..whole[0].len() - 1,
                &"\0".repeat(whole[0].len() - 1 - hole),
            );
            let files = Files::new(&texts);
            assert!(files.mend("boot", 0x30).is_err(), "{hole}");
            files.mend("boot", 0x20).unwrap();
            assert_eq!(files.texts(), [&whole[0][..first]], "{hole}");
        }
        // A newest file of which nothing was written.
        let mut texts = whole.clone();
        texts[2] = "\0".repeat(50);
        let files = Files::new(&texts);
        files.mend("boot", 0x40).unwrap();
        assert_eq!(files.texts(), [&whole[0], &whole[1], ""]);
    }

    #[test]
    fn a_file_without_a_first_line_goes_on() {
        let extent = |start: Option<u64>, end: Option<u64>| Extent {
            start: start.map(Lsn),
            end: end.map(Lsn),
            length: 9,
            is_torn: false,
        };
        let files = [
            extent(Some(1), Some(2)),
            extent(None, None),
            extent(None, Some(3)),
        ];
        assert_eq!(find_gap(&files), None);
        assert_eq!(
            find_gap(&[extent(None, Some(1)), extent(Some(1), None)]),
            None
        );
        let files = [
            extent(Some(1), Some(2)),
            extent(None, None),
            extent(Some(3), Some(4)),
        ];
        let gap = find_gap(&files).unwrap();
        assert_eq!((gap.from, gap.position), (2, Some(Lsn(2))));
    }
}
