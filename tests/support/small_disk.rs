//! A file system of its own, of a size that the test sets: how a disk gets full, and free again, in a moment. Takes root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

/// Gone when dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where we may not mount, which is said.
    pub fn mount(path: &Path, options: &str) -> Option<SmallDisk> {
        if !geteuid().is_root() {
            println!("not root: a small disk cannot be mounted, only root's runs test it");
            return None;
        }
        fs::create_dir_all(path).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], path);
        Some(SmallDisk { path: path.into() })
    }

    pub fn change(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], &self.path);
    }

    /// Take the room that is left away, but for this much; somebody may write meanwhile, and then has less.
    pub fn fill(&self, but_for_kilobytes: u64) {
        for _ in 0..20 {
            let found = statvfs(&self.path).unwrap();
            let used = (found.blocks() - found.blocks_free()) * found.fragment_size() / 1024;
            let size = format!("remount,size={}k", used + but_for_kilobytes);
            let mut command = Command::new("mount");
            // Less than what is used by now is refused.
            let done = command.args(["-o", &size]).arg(&self.path).output();
            if done.unwrap().status.success() {
                return;
            }
        }
        panic!("could not fill \"{}\"", self.path.display());
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let status = Command::new("mount").args(arguments).arg(path).status();
    assert!(status.unwrap().success(), "mount {arguments:?}");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a run that hangs must not keep the test from ending.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
